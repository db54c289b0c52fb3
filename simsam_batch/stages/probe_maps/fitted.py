"""Fitted probes as they are applied: from features of patches to scores of classes, for every cell of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch.probes.naming import distributions, most_pixels, one_to_one
from simsam_batch.probes.ward import cut
from simsam_batch.probes.ward_chunks import chunk_votes
from simsam_batch.regions import codebook
from simsam_batch.runs.schema import Attachment, File
from simsam_batch.stages.probe_fits.cells import CLUSTERED, Cell, fits_of
from simsam_batch.stages.probe_maps.bank import Bank, Scores
from simsam_batch.stages.probe_maps.fits import Fits, read_fits

_CENTROIDS = "centroids"


class FittedProbes:
    """What the fits of a run came to.

    Args:
        of: which fits.
        device: where products are computed.

    Attributes:
        faults: by the number of a cell why its fit came to nothing.

    Raises:
        RunError: fits, or of nearest neighbours features and labels, are missing or damaged.
    """

    def __init__(self, of: Fits, device: torch.device) -> None:
        self._classes, self._device, self._settings = of.classes, device, of.settings
        fits, faults = read_fits(of.out, set(fits_of(of.cells)))
        self.faults = {i: faults[fit] for i, cell in enumerate(of.cells) if (fit := cell.fit) in faults}
        usable = [(i, cell, fits[cell.fit]) for i, cell in enumerate(of.cells) if i not in self.faults]
        self._by_set: list[list[Callable[[NDArray[Any]], Scores]]] = []
        for each in of.sets:
            mine = [(i, cell, held) for i, cell, held in usable if cell.features == each.name]
            self._by_set.append([*self._linear(mine), *self._clustered(mine), *self._voting(mine)])
        searching = [(i, cell) for i, cell, _ in usable if cell.probe == "knn"]
        self._bank = Bank(of, searching, device) if searching else None

    def scores(self, features: Sequence[NDArray[Any]]) -> Scores:
        """Of the patches of an image, for all cells but those that search in the bank.

        Args:
            features: for each feature set (N, D).
        """
        found: Scores = {}
        for own, probes in zip(features, self._by_set, strict=True):
            for probe in probes:
                found |= probe(own)
        return found

    def recall(self) -> tuple[int, int]:
        """Of approximate search so far, how many exact neighbours were found of how many."""
        return (0, 0) if self._bank is None else (self._bank.found, self._bank.looked_for)

    def search(self, batch: Sequence[Sequence[NDArray[Any]]], beat: Callable[[], None]) -> list[Scores]:
        """Of the patches of each of some images, for the cells that search in the bank; it is gone through once.

        Args:
            batch: for each image and feature set (N, D).
            beat: is told of progress.
        """
        scores: list[Scores] = [{} for _ in batch]
        if self._bank is not None and batch:
            together = [np.concatenate(parts) for parts in zip(*batch, strict=True)]
            ends = np.cumsum([len(features[0]) for features in batch])
            for number, found in self._bank.scores(together, beat).items():
                for own, start, end in zip(scores, [0, *ends[:-1]], ends, strict=True):
                    own[number] = found[start:end]
        return scores

    def _linear(self, cells: Sequence[tuple[int, Cell, Mapping[str, Attachment]]]) -> Iterator[Any]:
        mine = [(i, cell, held) for i, cell, held in cells if cell.probe == "linear"]
        if not mine:
            return
        name = mine[0][1].features
        # a product of its own for each: the last bits depend on no other cell
        probes = [
            (i, self._on_device(held[f"weight.{name}"]), self._on_device(held[f"bias.{name}"])) for i, _, held in mine
        ]

        def logits(features: NDArray[Any]) -> Scores:
            rows = self._on_device(np.ascontiguousarray(features)).to(torch.float32)
            return {i: torch.addmm(bias, rows, weight.T).cpu() for i, weight, bias in probes}

        yield logits

    def _on_device(self, array: Any) -> Tensor:
        return torch.from_numpy(np.asarray(array)).to(self._device)

    def _clustered(self, cells: Sequence[tuple[int, Cell, Mapping[str, Attachment]]]) -> Iterator[Any]:
        by_book: dict[bytes, tuple[codebook.Codebook, list[tuple[int, Tensor]]]] = {}
        for i, cell, held in cells:
            if cell.probe not in CLUSTERED or _CENTROIDS in held:
                continue
            place = self._settings.fractions.index(cell.budget.fraction)
            end = f".{cell.clusters}" if cell.probe == "kmeans" else ""
            file = held[f"codebook{end}"]
            assert isinstance(file, File)  # noqa: S101  so it was committed
            if file.data not in by_book:
                by_book[file.data] = codebook.Codebook.from_bytes(file.data), []
            book, named = by_book[file.data]
            counts = np.asarray(held[f"counts{end}"])[place]
            named.append((i, self._named(counts, book, held, cell)))
        for book, named in by_book.values():

            def names_of_nearest(
                features: NDArray[Any],
                book: codebook.Codebook = book,
                named: Sequence[tuple[int, Tensor]] = tuple(named),
            ) -> Scores:
                clusters = torch.from_numpy(codebook.assign(features.astype(np.float32), book) - 1).to(torch.int64)
                return {i: names[clusters] for i, names in named}

            yield names_of_nearest

    def _voting(self, cells: Sequence[tuple[int, Cell, Mapping[str, Attachment]]]) -> Iterator[Any]:
        """Ward's clusters of chunks, which each give a patch a class."""
        by_seed: dict[int, list[tuple[int, Cell, Mapping[str, Attachment]]]] = {}
        for i, cell, held in cells:
            if _CENTROIDS in held:
                by_seed.setdefault(cell.seed, []).append((i, cell, held))
        for mine in by_seed.values():
            centroids = np.asarray(mine[0][2][_CENTROIDS])
            names = []
            for _, cell, held in mine:
                counts = np.asarray(held["counts"])[self._settings.fractions.index(cell.budget.fraction)]
                names.append(self._classes_of(counts).reshape(centroids.shape[:2]))

            def votes(
                features: NDArray[Any],
                centroids: NDArray[np.float32] = centroids,
                names: Sequence[NDArray[np.int64]] = tuple(names),
                numbers: Sequence[int] = tuple(i for i, _, _ in mine),
            ) -> Scores:
                found = chunk_votes(features, centroids, names, self._classes)
                return {i: torch.from_numpy(own) for i, own in zip(numbers, found, strict=True)}

            yield votes

    def _classes_of(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """(k,) the class of most pixels of each cluster, as the settings say for one without any."""
        unlabelled: Literal["overall", "first"]
        unlabelled = "first" if self._settings.unlabelled_clusters == "background" else "overall"
        return most_pixels(counts, unlabelled=unlabelled)

    def _named(
        self, counts: NDArray[np.int64], book: codebook.Codebook, held: Mapping[str, Attachment], cell: Cell
    ) -> Tensor:
        """(k, C) what the clusters of a codebook stand for."""
        part_of = np.arange(len(counts))
        if cell.probe == "ward":
            # micro-clusters without a row of the sample are in no tree; they are never the nearest
            used = book.sizes > 0
            part_of = np.zeros(len(counts), np.int64)
            part_of[used] = cut(np.asarray(held["linkage"]), cell.clusters)
            merged = np.zeros((cell.clusters, self._classes), np.int64)
            np.add.at(merged, part_of, counts)
            counts = merged
        if self._settings.cluster_names == "distribution":
            named = distributions(counts)
        else:
            one_each = self._settings.cluster_names == "one-to-one"
            chosen = one_to_one(counts) if one_each else self._classes_of(counts)
            named = np.zeros((len(counts), self._classes), np.float32)
            named[np.flatnonzero(chosen >= 0), chosen[chosen >= 0]] = 1
        return torch.from_numpy(np.ascontiguousarray(named[part_of], np.float32))
