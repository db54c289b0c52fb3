"""Fitted probes as they are applied: from features of patches to scores of classes, for every cell of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch.errors import RunError
from simsam_batch.probes.approximate import ApproximateNeighbours, recall
from simsam_batch.probes.naming import distributions, most_pixels, one_to_one, soft_labels
from simsam_batch.probes.neighbours import Nearest, Neighbours, vote
from simsam_batch.probes.ward import cut
from simsam_batch.probes.ward_chunks import chunk_votes
from simsam_batch.regions import codebook
from simsam_batch.runs.committed import CommittedShard, committed_shards
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.schema import Attachment, File
from simsam_batch.stages.probe_fits.cells import CLUSTERED, Cell, Fit, fits_of
from simsam_batch.stages.probe_fits.patches import (
    FeatureSet,
    Held,
    LabelledImage,
    LabelledImages,
    first_of,
    in_blocks,
    quota,
)
from simsam_batch.stages.probe_fits.stage import ProbeFitsStage
from simsam_batch.stages.probe_maps.settings import ProbeMapsSettings
from simsam_batch.stages.subsets.stage import Subsets, holds
from simsam_batch.storage import Folder
from simsam_batch.workers.images import image_seed

Scores = dict[int, Tensor]
"""By the number of a cell (n, C) float32 on the CPU."""

_CENTROIDS = "centroids"
Index = tuple[ApproximateNeighbours, NDArray[np.int64]]
"""Rows of a bank in cells, and their numbers in the whole bank."""

_Part = tuple[LabelledImage, NDArray[np.bool_], NDArray[np.bool_]]
"""An image, which of its patches are in the bank (N,), and in which budgets each is, (S, N)."""

_CELLS, _ROWS_A_CELL = 1024, 40
_CHECKED = 64
"""Patches of each search whose exact neighbours are looked for too."""


@dataclass(frozen=True, slots=True)
class Fits:
    """Which fits are applied.

    Attributes:
        out: folder of the run that made them.
        settings: of that run.
        sets: what probes see.
        cells: of the table.
        classes: C.
    """

    out: Folder
    settings: ProbeMapsSettings
    sets: Sequence[FeatureSet]
    cells: Sequence[Cell]
    classes: int


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


def read_fits(out: Folder, wanted: Set[Fit]) -> tuple[dict[Fit, Mapping[str, Attachment]], dict[Fit, str]]:
    """What some fits of a run found, and why others of them came to nothing.

    Raises:
        RunError: fits are missing or damaged.
    """
    found: dict[Fit, Mapping[str, Attachment]] = {}
    faults: dict[Fit, str] = {}
    for shard, fits in _fits_in(out):
        if wanted.isdisjoint(fits):
            continue
        for (fit, fault), held in zip(fits.items(), shard.attachments(), strict=True):
            if fit in wanted and fault is None:
                found[fit] = held
            elif fit in wanted and fault is not None:
                faults[fit] = fault
    if not found and not faults:
        raise RunError(f"{out.url}: no probe has been fitted. To mend it: run the same command again")
    return found, faults


def faults_of_fits(out: Folder) -> dict[Fit, str | None]:
    """All fits of a run, and of those that came to nothing the reason.

    Raises:
        RunError: fits are missing or damaged.
    """
    return {fit: fault for _, fits in _fits_in(out) for fit, fault in fits.items()}


def _fits_in(out: Folder) -> Iterator[tuple[CommittedShard, dict[Fit, str | None]]]:
    """The committed shards of fits, with the fits of each in their order; what they found is not read."""
    ledger = Ledger(out, ProbeFitsStage.name)
    plan = ledger.plan()
    for shard in committed_shards(out, ledger.manifests()):
        fits: dict[Fit, str | None] = {}
        rows = shard.rows(["status", "error"]).to_pylist()
        for record, row in zip(plan.shard(shard.number).records.to_pylist(), rows, strict=True):
            fits[Fit.of(record)] = None if row["status"] == "ok" else row["error"]
        yield shard, fits
