"""The bank in which nearest neighbours of patches are looked for, exactly or about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch.probes.approximate import ApproximateNeighbours, recall
from simsam_batch.probes.naming import soft_labels
from simsam_batch.probes.neighbours import Nearest, Neighbours, vote
from simsam_batch.stages.probe_fits.cells import Cell
from simsam_batch.stages.probe_fits.patches import (
    FeatureSet,
    Held,
    LabelledImage,
    LabelledImages,
    first_of,
    in_blocks,
    quota,
)
from simsam_batch.stages.probe_maps.fits import Fits
from simsam_batch.stages.subsets.stage import Subsets, holds
from simsam_batch.workers.seeds import image_seed

Scores = dict[int, Tensor]
"""By the number of a cell (n, C) float32 on the CPU."""

Index = tuple[ApproximateNeighbours, NDArray[np.int64]]
"""Rows of a bank in cells, and their numbers in the whole bank."""

_Part = tuple[LabelledImage, NDArray[np.bool_], NDArray[np.bool_]]
"""An image, which of its patches are in the bank (N,), and in which budgets each is, (S, N)."""

_CELLS, _ROWS_A_CELL = 1024, 40
_CHECKED = 64
"""Patches of each search whose exact neighbours are looked for too."""


class Bank:
    """The labelled patches of all train images, in which nearest neighbours of others are looked for.

    Args:
        of: which fits; features and labels are those of their run.
        cells: those that search, by their numbers.
        device: where products are computed.

    Attributes:
        found, looked_for: of approximate search, how many of the exact neighbours of some patches it found.
    """

    def __init__(self, of: Fits, cells: Sequence[tuple[int, Cell]], device: torch.device) -> None:
        self._settings, self._classes, self._device = of.settings, of.classes, device
        names = {cell.features for _, cell in cells}
        self._places = [place for place, each in enumerate(of.sets) if each.name in names]
        coarse = of.classes if of.settings.patch_labels == "coarse" else 0
        self._images = LabelledImages(of.out, [of.sets[place] for place in self._places], coarse=coarse)
        self._budgets = list(dict.fromkeys(cell.budget for _, cell in cells))
        self._cells = {(cell.features, cell.budget): i for i, cell in cells}
        subsets = Subsets(of.out)
        self._members = [subsets.of[budget] for budget in self._budgets]
        self._blocks = Held(self._read, lambda block: sum(each.nbytes for each in (*block.features, block.labels)))
        self._quota = quota(of.settings.bank, len(subsets.train))
        self._indexes: list[list[Index]] | None = None
        self.found = self.looked_for = 0

    def scores(self, features: Sequence[NDArray[Any]], beat: Callable[[], None]) -> Scores:
        """Of the patches of some images, one after the other: for each feature set (n, D)."""
        if self._settings.search == "approximate":
            return self._about(features, beat)
        nearest = self._nearest(features, beat)
        votes = (self._votes(each, of_set.similarities, of_set.labels) for each, of_set in nearest)
        return {number: own for of_set in votes for number, own in of_set}

    def _nearest(
        self, features: Sequence[NDArray[Any]], beat: Callable[[], None]
    ) -> Iterator[tuple[FeatureSet, Nearest]]:
        """The exact neighbours of some patches, for each feature set."""
        wanted = [torch.from_numpy(features[place]).to(self._device, torch.float32) for place in self._places]
        k = self._settings.neighbours
        about: dict[str, Any] = {"subsets": len(self._budgets), "classes": self._classes}
        searches = [Neighbours(queries, k, **about, metric=self._settings.similarity) for queries in wanted]
        first = 0
        for block in self._blocks():
            for search, rows in zip(searches, block.features, strict=True):
                search.add(
                    rows.to(self._device, torch.float32),
                    block.labels.to(self._device),
                    block.members.to(self._device),
                    first=first,
                )
            first += len(block.labels)
            beat()
        for each, search in zip(self._images.sets, searches, strict=True):
            yield each, search.result()

    def _votes(self, of: FeatureSet, similarities: Tensor, labels: Tensor) -> Iterator[tuple[int, Tensor]]:
        """By the number of a cell what neighbours (S, n, k) of a feature set vote for."""
        temperature = self._settings.temperature if self._settings.vote == "softmax" else None
        votes = vote(similarities, labels, temperature).cpu()
        for budget, own in zip(self._budgets, votes, strict=True):
            number = self._cells.get((of.name, budget))
            if number is not None:
                yield number, own

    def _about(self, features: Sequence[NDArray[Any]], beat: Callable[[], None]) -> Scores:
        """Scores by about the nearest neighbours; of a few of the patches the exact ones are looked for as well."""
        if self._indexes is None:
            self._indexes = [
                [self._indexed(i, s, beat) for s in range(len(self._budgets))] for i in range(len(self._places))
            ]
        checked = np.linspace(0, len(features[0]) - 1, min(_CHECKED, len(features[0]))).astype(np.int64)
        exact = {each.name: of_set.indices for each, of_set in self._nearest([own[checked] for own in features], beat)}
        scores: Scores = {}
        for place, each, indexes in zip(self._places, self._images.sets, self._indexes, strict=True):
            queries = features[place].astype(np.float32)
            similarities, labels = [], []
            for (index, numbers), right in zip(indexes, exact[each.name].cpu().numpy(), strict=True):
                similarity, found, label = index.search(queries, self._settings.neighbours)
                similarities.append(torch.from_numpy(similarity))
                labels.append(torch.from_numpy(label))
                there = np.where(found[checked] < 0, -1, numbers[found[checked]])
                self.found += round(recall(there, right) * right.size)
                self.looked_for += right.size
                beat()
            scores |= dict(self._votes(each, torch.stack(similarities), torch.stack(labels)))
        return scores

    def _indexed(
        self, place: int, budget: int, beat: Callable[[], None]
    ) -> tuple[ApproximateNeighbours, NDArray[np.int64]]:
        """The rows of a feature set that a budget has, in cells, and their numbers in the whole bank."""
        rows, labels, numbers = [], [], []
        first = 0
        for block in self._blocks():
            inside = block.members[budget]
            rows.append(block.features[place][inside].float().numpy())
            labels.append(block.labels[inside].numpy())
            numbers.append(first + np.flatnonzero(inside.numpy()))
            first += len(block.labels)
            beat()
        held = np.concatenate(rows)
        cells = min(_CELLS, max(1, len(held) // _ROWS_A_CELL))
        sample = held[:: max(1, len(held) // (cells * 4 * _ROWS_A_CELL))]
        probes = min(self._settings.search_cells, cells)
        index = ApproximateNeighbours(sample, cells=cells, probes=probes, seed=self._settings.seed % 2**31)
        index.add(held, np.concatenate(labels))
        return index, np.concatenate(numbers)

    def _read(self) -> Iterator[_BankBlock]:
        for together in in_blocks(map(self._block, self._taken()), lambda block: len(block.labels)):
            yield _joined(together)

    def _block(self, part: _Part) -> _BankBlock:
        image, taken, inside = part
        targets, _ = soft_labels(image.histogram(self._classes), image.void)
        return _BankBlock(
            [torch.from_numpy(each[taken]) for each in image.features],
            torch.from_numpy(targets[taken]),
            torch.from_numpy(inside[:, taken]),
        )

    def _taken(self) -> Iterator[_Part]:
        """The images of the bank.

        In the published bank an image comes twice: with its patches of other classes than 0, and with those that are
        among the first of a budget, so many as the budget has of class 0.
        """
        published = self._settings.background_patches == "published"
        left = np.zeros(len(self._members), np.int64)
        if published:
            for image, inside in self._all():
                left[inside] += int((self._kept(image) & image.background()).sum())
        for image, inside in self._all():
            kept = self._kept(image)
            once: NDArray[np.bool_] = kept & ~image.background() if published else kept
            yield image, once, np.outer(inside, once)
            if left[inside].any():
                first = np.stack([first_of(kept, most) for most in np.where(inside, left, 0).tolist()])
                anywhere: NDArray[np.bool_] = np.logical_or.reduce(first, axis=0)
                yield image, anywhere, first
                left -= first.sum(axis=1)

    def _all(self) -> Iterator[tuple[LabelledImage, NDArray[np.bool_]]]:
        """Images of any budget, and which budgets hold each."""
        for image in self._images.read(np.unique(np.concatenate(self._members))):
            yield image, np.array([holds(members, image.record) for members in self._members])

    def _kept(self, image: LabelledImage) -> NDArray[np.bool_]:
        """Which patches of an image may be in the bank."""
        if not self._quota:
            return image.labelled()
        holding = image.histogram(self._classes) > 0
        return _rare(holding, self._quota, image_seed(self._settings.seed, str(image.record)))


def _rare(holds: NDArray[np.bool_], most: int, seed: int) -> NDArray[np.bool_]:
    """Which of an image's patches are kept, ``most`` of those with a class: such with classes of few patches first.

    A patch goes by the sum over its classes of how many of the image's patches have each, times a number drawn from
    0 to 1; the lowest are kept. That is how Hummingbird (Balazevic et al., NeurIPS 2023) fills its memory.

    Args:
        holds: (N, C) which classes each patch has pixels of.
        most: patches kept.
        seed: of the draw.
    """
    score = (holds * holds.sum(axis=0)).sum(axis=1) * np.random.default_rng(seed).random(len(holds))
    score[~holds.any(axis=1)] = np.inf
    kept = np.zeros(len(holds), np.bool_)
    kept[np.argsort(score, kind="stable")[:most]] = True
    return kept & holds.any(axis=1)


class _BankBlock:
    """Some patches: features by set (n, D), labels (n, C), and which budgets they are in, (S, n) bool."""

    def __init__(self, features: list[Tensor], labels: Tensor, members: Tensor) -> None:
        self.features, self.labels, self.members = features, labels, members


def _joined(blocks: Sequence[_BankBlock]) -> _BankBlock:
    features = [torch.cat(parts) for parts in zip(*(block.features for block in blocks), strict=True)]
    labels = torch.cat([block.labels for block in blocks])
    return _BankBlock(features, labels, torch.cat([block.members for block in blocks], dim=1))
