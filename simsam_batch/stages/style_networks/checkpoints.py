"""Fits that are not done yet, kept in the run's storage, so that a killed run goes on inside an image."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from simsam_batch.errors import StorageError
from simsam_batch.storage import Folder, ObjectNotFound
from simsam_batch.styling.fitting import Training

FOLDER = "stylize/checkpoints"
_SHARDS_KEPT = 3
"""Of one worker: those that may not be committed yet."""


class Checkpoints:
    """States of fits under names that tell everything that they depend on.

    They are only to save time: what cannot be read is computed again, and what cannot be written is not kept.

    Args:
        out: the run's folder.
        every: updates between two states; 0: none are kept.
    """

    def __init__(self, out: Folder, every: int) -> None:
        self._out, self._every = out, every
        self._shards: deque[tuple[int, list[str]]] = deque()

    def go_on(self, fit: Training, shard: int, name: str) -> None:
        """Let a fit go on from where it has come to, if it has been begun.

        Args:
            fit: the network.
            shard: that it belongs to.
            name: tells everything that it depends on.
        """
        if not self._every:
            return
        self._note(shard, name)
        try:
            data = self._out.read(f"{FOLDER}/{name}.pt")
            state: Mapping[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except (ObjectNotFound, StorageError, RuntimeError, EOFError, ValueError):
            return
        fit.go_on(state)

    def updates(self, fit: Training, update: Callable[[], None], name: str, region: str) -> Iterator[None]:
        """Fit a network to the end; yields after each update.

        Args:
            fit: the network, after `go_on`.
            update: does one.
            name: as there.
            region: what is restyled, for the message.

        Raises:
            FloatingPointError: its loss is not finite.
        """
        while not fit.over:
            update()
            if not np.isfinite(fit.history.total[-1]):
                raise FloatingPointError(f"the loss of {region} is not finite after {fit.step} updates")
            if self._every and (fit.over or fit.step % self._every == 0):
                self._keep(name, fit.state())
            yield

    def _keep(self, name: str, state: Mapping[str, Any]) -> None:
        """Put a state in the place of the one before."""
        target = io.BytesIO()
        torch.save(dict(state), target)
        with suppress(StorageError):
            self._out.replace(f"{FOLDER}/{name}.pt", target.getvalue())

    def _note(self, shard: int, name: str) -> None:
        """Remember whose it is, and delete those of shards that are long committed."""
        if not self._shards or self._shards[-1][0] != shard:
            self._shards.append((shard, []))
        self._shards[-1][1].append(f"{FOLDER}/{name}.pt")
        while len(self._shards) > _SHARDS_KEPT:
            self._out.delete(self._shards.popleft()[1])


def drop(out: Folder) -> None:
    """Delete all of a run whose results are published."""
    out.delete([info.name for info in out.list(FOLDER)])
