"""The ``probe-fits`` stage: probes fitted to the stored features of subsets; a record of its plan is one fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from simsam_batch.errors import ImageError
from simsam_batch.probes.kmeans import assign_counts, polish
from simsam_batch.probes.linear import Block, LinearProbe, fit_linear
from simsam_batch.probes.naming import soft_labels
from simsam_batch.probes.steps import IBOT_LEGACY, Steps, fit_by_steps
from simsam_batch.probes.ward import weighted_ward
from simsam_batch.probes.ward_chunks import ward_of_chunks
from simsam_batch.regions import codebook
from simsam_batch.regions.sampling import RowSample
from simsam_batch.runs.plan import make_plan_of
from simsam_batch.runs.schema import Attachment, File
from simsam_batch.settings import Numbers
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.patch_labels.stage import PatchLabelsStage
from simsam_batch.stages.probe_fits.cells import Fit, cells_of, clusters_of, fits_of
from simsam_batch.stages.probe_fits.patches import (
    FeatureSet,
    Held,
    LabelledImage,
    LabelledImages,
    feature_sets,
    in_blocks,
    quota,
    taken_patches,
)
from simsam_batch.stages.probe_fits.rows import PROBE_FITS_FIELDS, ProbeFitsFold
from simsam_batch.stages.probe_fits.settings import ProbeFitsSettings, Probes
from simsam_batch.stages.subsets.selection import images_of_share
from simsam_batch.stages.subsets.stage import Subsets, SubsetsStage, holds
from simsam_batch.storage import Folder
from simsam_batch.workers.models import compute_device
from simsam_batch.workers.records import Item, RecordWorker, Results, Row, failed

_MOST_PATCHES = 1 << 20
"""Patches of an image are numbered below this in the ids of a sample."""


@dataclass(frozen=True)
class ProbeFitsStage(CommandStage[ProbeFitsSettings]):
    """Fits probes; ``resolved`` holds ``classes``, how many there are, and ``channels_of`` the stored features."""

    name = "probe-fits"
    components = (Numbers, Probes)
    fields = PROBE_FITS_FIELDS
    reads = (FeaturesStage.name, PatchLabelsStage.name, SubsetsStage.name)
    unit = "fit"

    @classmethod
    def of(cls, options: ProbeFitsSettings, out: Folder, resolved: dict[str, Any]) -> Self:
        """The stage of a run, with a plan of all that the settings ask for."""
        sets = feature_sets(resolved["channels_of"], options.combine)
        fits = fits_of(cells_of(options, [each.name for each in sets], int(resolved["classes"])))
        records = pa.Table.from_pylist([{cls.unit: fit.name, **fit.columns} for fit in fits])
        plan = make_plan_of(out, records, unit=cls.unit, shard_size=1)
        return cls(options, resolved, plan)

    @cached_property
    def fold(self) -> ProbeFitsFold:
        """Counts fits."""
        return ProbeFitsFold()

    def make_worker(self, beat: Callable[[], None]) -> ProbeFitsWorker:
        """Be ready to fit."""
        return ProbeFitsWorker(self, beat)


Fitted = tuple[dict[str, Any], dict[str, Attachment]]
"""Columns of a row, and what goes beside it."""


class ProbeFitsWorker(RecordWorker[None]):
    """Fits one probe after the other."""

    def __init__(self, stage: ProbeFitsStage, beat: Callable[[], None]) -> None:
        # the limit on threads reaches only libraries that are loaded
        import_module("sklearn.cluster")
        super().__init__(stage, beat, torch.device(compute_device(stage.options.device)))
        assert stage.plan is not None  # noqa: S101  it is where the features are
        self._out, self._options, self._classes = stage.plan.out, stage.options, int(stage.resolved["classes"])
        self._sets = feature_sets(stage.resolved["channels_of"], stage.options.combine)
        self._subsets = Subsets(self._out)
        self._coarse = self._classes if stage.options.patch_labels == "coarse" else 0

    def load(self, item: Item) -> None:
        """Nothing of a fit is loaded by itself."""
        del item

    def take(self, item: Item, loaded: None, results: Results) -> None:
        """Make one fit."""
        del loaded
        fit = Fit.of(item.record)
        try:
            with self.timer.step(fit.probe):
                columns, attachments = self._fitted(fit)
        except ValueError as error:
            results.put(item.row, failed(ImageError("not_fittable", str(error), "fit")))
            return
        fraction = None if fit.budget is None else fit.budget.fraction
        own = {"probe": fit.probe, "features": fit.features or None, "fraction": fraction, "seed": fit.seed}
        state = {"fits": 1, "not_converged": int(columns.get("converged") is False)}
        results.put(item.row, Row({"status": "ok", **own, **columns, "device": self.device.type}, attachments, state))

    def _fitted(self, fit: Fit) -> Fitted:
        if fit.budget is not None:
            records = self._subsets.of[fit.budget]
            return self._linear(records, fit.seed) if fit.probe == "linear" else self._bank(records)
        chosen = next(each for each in self._sets if each.name == fit.features)
        if fit.probe == "kmeans":
            return self._kmeans(chosen, fit.seed)
        if self._options.ward_chunks is not None:
            return self._ward_of_chunks(chosen, fit.seed)
        return self._ward(chosen, fit.seed)

    def _linear(self, records: NDArray[np.int64], seed: int) -> Fitted:
        images = LabelledImages(self._out, self._sets, coarse=self._coarse)
        published = self._options.background_patches == "published"
        blocks = _Blocks(images, records, self._classes, self.device, published=published)
        held = Held(blocks, lambda block: sum(each.nbytes for each in block.features))
        probes = self._linear_probes(held, seed)
        attachments: dict[str, Attachment] = {}
        for each, probe in zip(self._sets, probes, strict=True):
            attachments |= {f"weight.{each.name}": probe.weight.numpy(), f"bias.{each.name}": probe.bias.numpy()}
        columns = {
            "images": len(records),
            "patches": blocks.rows,
            "iterations": max(probe.iterations for probe in probes),
            # steps do not tell
            "converged": all(probe.converged for probe in probes) if self._options.solver == "lbfgs" else None,
            "objective": float(np.mean([probe.objective for probe in probes])),
        }
        return columns, attachments

    def _linear_probes(self, blocks: Callable[[], Iterable[Block]], seed: int) -> list[LinearProbe]:
        options = self._options
        if options.solver == "lbfgs":
            found = fit_linear(blocks, self._classes, [options.l2], iterations=options.iterations, beat=self._beat)
            return [of_set[0] for of_set in found]
        how = IBOT_LEGACY if options.solver == "sgd" else Steps(solver=options.solver)
        warm_up = min(how.warm_up_epochs, options.epochs)
        how = replace(how, epochs=options.epochs, warm_up_epochs=warm_up, learning_rate=options.learning_rate)
        return fit_by_steps(blocks, self._classes, how, seed=(options.seed + seed) % 2**63, beat=self._beat)

    def _bank(self, records: NDArray[np.int64]) -> Fitted:
        """Nothing is fitted; whether there are enough patches to search in is found out."""
        images = LabelledImages(self._out, self._sets[:1]).read(records)
        most = quota(self._options.bank, len(self._subsets.train)) or _MOST_PATCHES
        patches = sum(min(len(np.unique(image.labels[:, 0])), most) for image in images)
        neighbours = self._options.neighbours
        if patches < neighbours:
            raise ValueError(f"neighbours: {patches} labelled patches are fewer than {neighbours} neighbours")
        return {"images": len(records), "patches": patches}, {}

    def _kmeans(self, chosen: FeatureSet, seed: int) -> Fitted:
        rows, patches = self._sample(chosen)
        books = {
            many: codebook.fit(
                rows,
                many,
                (self._options.seed + seed) % 2**32,
                start=self._options.cluster_start,
                device=self.device,
            )
            for many in clusters_of(self._options, self._classes)
        }
        if len(rows) < patches and self._options.cluster_passes:
            books = {many: self._polished(chosen, book) for many, book in books.items()}
        counts = self._named(chosen, books, seed)
        attachments: dict[str, Attachment] = {}
        for many, book in books.items():
            attachments |= {f"codebook.{many}": File(book.to_bytes(), "npz"), f"counts.{many}": counts[many]}
        columns = {
            "images": len(self._subsets.train),
            "patches": patches,
            "iterations": max(book.iterations for book in books.values()),
            "converged": all(book.converged for book in books.values()),
            "objective": sum(book.inertia for book in books.values()) / len(books),
        }
        return columns, attachments

    def _ward(self, chosen: FeatureSet, seed: int) -> Fitted:
        rows, patches = self._sample(chosen)
        many = min(self._options.micro_clusters, len(rows))
        most = max(clusters_of(self._options, self._classes))
        if many < most:
            raise ValueError(f"micro_clusters: {many} micro-clusters do not make {most} clusters")
        book = codebook.fit(rows, many, (self._options.seed + seed) % 2**32, restarts=1, device=self.device)
        self._beat()
        used = book.sizes > 0
        linkage = weighted_ward(book.centers[used].astype(np.float64), book.sizes[used].astype(np.float64))
        counts = self._named(chosen, {many: book}, seed)
        attachments: dict[str, Attachment] = {"codebook": File(book.to_bytes(), "npz"), "counts": counts[many]}
        columns = {
            "images": len(self._subsets.train),
            "patches": patches,
            "iterations": book.iterations,
            "converged": book.converged,
            "objective": book.inertia,
        }
        return columns, attachments | {"linkage": linkage}

    def _ward_of_chunks(self, chosen: FeatureSet, seed: int) -> Fitted:
        """Nothing is drawn: all train patches are held, in their order.

        By ``head`` the labels are those of the first patches of every chunk, as published: of the first images they
        would all be in the first chunks, and the others would vote for what has no label.
        """
        assert self._options.ward_chunks is not None  # noqa: S101  only then
        chunks, clusters = self._options.ward_chunks
        members = self._labelled_for(seed)
        features: list[NDArray[np.float32]] = []
        counts: list[NDArray[np.int64]] = []
        inside: list[NDArray[np.bool_]] = []
        for image in LabelledImages(self._out, [chosen], coarse=self._coarse).read(self._subsets.train):
            features.append(image.features[0].astype(np.float32))
            counts.append(image.histogram(self._classes))
            own = np.array([holds(each, image.record) for each in members])
            inside.append(np.broadcast_to(own, (image.patches, len(own))))
            self._beat()
        rows, pixels, belongs = np.concatenate(features), np.concatenate(counts), np.concatenate(inside)
        centroids: list[NDArray[np.float32]] = []
        found: list[NDArray[np.int64]] = []
        first = 0
        for means, cluster in ward_of_chunks(rows, chunks, clusters):
            part = slice(first, first + len(cluster))
            first = part.stop
            centroids.append(means)
            named = np.zeros((len(members), clusters, self._classes), np.int64)
            for number, fraction in enumerate(self._options.fractions):
                labelled = belongs[part, number]
                if self._options.subset == "head":
                    labelled = np.arange(len(cluster)) < images_of_share(fraction, len(cluster))
                np.add.at(named[number], cluster[labelled], pixels[part][labelled])
            found.append(named)
            self._beat()
        columns = {"images": len(self._subsets.train), "patches": len(rows)}
        return columns, {"centroids": np.stack(centroids), "counts": np.concatenate(found, axis=1)}

    def _sample(self, chosen: FeatureSet) -> tuple[NDArray[np.float32], int]:
        """Features (n, D) of a sample of the patches of all train images, and how many patches there are.

        The same for every seed of a fit, since what the fits differ by should be their own chance.
        """
        records = self._subsets.train
        sample = RowSample(self._options.seed % 2**64, self._options.cluster_sample)
        for image in LabelledImages(self._out, [chosen]).read(records):
            sample.add(image.record * _MOST_PATCHES + np.arange(image.patches), image.features[0].astype(np.float32))
            self._beat()
        return sample.rows()[1], sample.seen

    def _polished(self, chosen: FeatureSet, book: codebook.Codebook) -> codebook.Codebook:
        def rows() -> Iterator[NDArray[np.float32]]:
            for image in LabelledImages(self._out, [chosen]).read(self._subsets.train):
                yield image.features[0].astype(np.float32)

        return polish(rows, book, self._options.cluster_passes, beat=self._beat)

    def _named(
        self, chosen: FeatureSet, books: Mapping[int, codebook.Codebook], seed: int
    ) -> dict[int, NDArray[np.int64]]:
        """For each codebook (F, k, C) the pixels of each class in each cluster, for each fraction of the labels."""
        members = self._labelled_for(seed)
        counts = {many: np.zeros((len(members), many, self._classes), np.int64) for many in books}
        images = LabelledImages(self._out, [chosen], coarse=self._coarse)
        for image in images.read(np.unique(np.concatenate(members))):
            own = [i for i, each in enumerate(members) if holds(each, image.record)]
            for many, book in books.items():
                table = assign_counts(image.features[0].astype(np.float32), image.histogram(self._classes), book)
                for i in own:
                    counts[many][i] += table
            self._beat()
        return counts

    def _labelled_for(self, seed: int) -> list[NDArray[np.int64]]:
        """For each fraction the images whose labels name clusters."""
        by_draw = {(budget.fraction, budget.draw): records for budget, records in self._subsets.of.items()}
        return [by_draw.get((fraction, seed), by_draw[fraction, 0]) for fraction in self._options.fractions]


class _Blocks:
    """Training patches in blocks, read by a call.

    Attributes:
        rows: patches of the last call.
    """

    def __init__(
        self,
        images: LabelledImages,
        records: NDArray[np.int64],
        classes: int,
        device: torch.device,
        *,
        published: bool,
    ) -> None:
        self._images, self._records, self._classes, self._device = images, records, classes, device
        self._published = published
        self.rows = 0

    def __call__(self) -> Iterator[Block]:
        self.rows = 0
        taken = taken_patches(lambda: self._images.read(self._records), published=self._published)
        for together in in_blocks(taken, lambda part: part[0].patches):
            block = self._block(together)
            self.rows += len(block.weights)
            yield block

    def _block(self, images: Sequence[tuple[LabelledImage, NDArray[np.bool_]]]) -> Block:
        histogram = np.concatenate([image.histogram(self._classes)[taken] for image, taken in images])
        targets, weights = soft_labels(histogram, np.concatenate([image.void[taken] for image, taken in images]))
        features = [
            torch.from_numpy(np.concatenate([image.features[i][taken] for image, taken in images])).to(self._device)
            for i in range(len(self._images.sets))
        ]
        on_device = (torch.from_numpy(each).to(self._device) for each in (targets, weights))
        return Block(features, *on_device)


STAGES = {ProbeFitsStage.name: ProbeFitsStage}
