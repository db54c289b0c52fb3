"""One network for a text, fitted to many images: what it makes of any of them then takes one forward pass.

With images I_b and regions M_b, drawn in an order of their own in every pass over the set, it is

    theta* = argmin 1/(K B) sum_k sum_b L(I_b, M_b; theta),    K steps of B images,

with the losses L of a network of one image. Source: this project; Kwon and Ye, CLIPstyler, CVPR 2022, fit a network of
another kind to patches of a data set for each text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from simsam_batch.styling.fitting import ContentNet, Procedure, Region, Seer, Sight, Training

Scene = tuple[Tensor, Region]
"""An image (1, 3, H, W) in 0..1, and what is restyled of it."""


def order(images: int, seed: int, start: int = 0) -> Iterator[int]:
    """Numbers of images without end: pass after pass over all of them, each in an order of its own.

    Args:
        images: how many there are.
        seed: of the orders.
        start: how many to leave out at the beginning.
    """
    number, place = divmod(start, images)
    while True:
        yield from np.random.default_rng([seed, number]).permutation(images)[place:].tolist()
        number, place = number + 1, 0


def procedure_of_run(how: Procedure, steps: int, crops: int) -> Procedure:
    """A procedure for so many steps: the rate is halved after each quarter of them, and none is left out.

    Args:
        how: that of one image.
        steps: K.
        crops: of each image in each step.
    """
    return replace(how, steps=steps, crops=crops, halved_every=-(-steps // 4), patience=0)


class FitOfRun(Training):
    """A network of many images.

    Args:
        images: how many there are to draw from.
        batch: B, those of a step.
        like: a tensor of the device and type that it computes on.
        seer: judges the style.
        content: judges what is kept.
        how: the procedure.
        seed: of the network, and of all that is drawn.

    Attributes:
        drawn: images that have been asked for.
        used: numbers of those that were of use.
    """

    def __init__(
        self, images: int, batch: int, like: Tensor, seer: Seer, content: ContentNet, how: Procedure, seed: int
    ) -> None:
        super().__init__(like, seer, content, how, seed)
        self._images, self._batch = images, batch
        self.drawn, self.used = 0, set[int]()

    def coming(self) -> Iterator[int]:
        """Numbers of the images that are asked for next."""
        return order(self._images, self._seed, self.drawn)

    def update(self, scenes: Iterator[tuple[int, Scene | None]]) -> None:
        """Do one step.

        Args:
            scenes: what `coming` names, each with its number; None where nothing of it can be restyled.

        Raises:
            ValueError: none of all images is of use.
        """
        sights: list[Sight] = []
        for number, scene in scenes:
            self.drawn += 1
            if scene is not None:
                self.used.add(number)
                sights.append(Sight.of(*scene, self._seer, self._content))
            elif self.drawn >= self._images and not self.used:
                raise ValueError(f"nothing can be restyled in any of {self._images} images")
            if len(sights) == self._batch:
                break
        self.train(sights)

    def state(self) -> dict[str, Any]:
        """What it goes on from."""
        return super().state() | {"drawn": self.drawn, "used": sorted(self.used)}

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of one of the same images, regions, procedure and seed."""
        super().go_on(state)
        self.drawn, self.used = state["drawn"], set(state["used"])
