"""The ``embeddings`` stage: its records are the points of all sources, each once however many pairs ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeVar

import numpy as np
import pyarrow as pa
import torch

from simsam_batch.correspondence.attention import Fitted, Procedure, fit
from simsam_batch.errors import ImageError, SettingsError
from simsam_batch.features.precision import arithmetic
from simsam_batch.runs.plan import Plan, make_plan_of
from simsam_batch.settings import Numbers
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.embeddings.pictures import HeldLatents, PicturesAhead, Squashed
from simsam_batch.stages.embeddings.rows import EMBEDDINGS_FIELDS, TENTH, EmbeddingsFold
from simsam_batch.stages.embeddings.settings import EmbeddingsSettings, Fitting
from simsam_batch.stages.matches.given import Given
from simsam_batch.storage import Folder
from simsam_batch.workers.models import compute_device, load_model
from simsam_batch.workers.records import Item, RecordWorker, Results, Row, failed
from simsam_batch.workers.seeds import seed_of

T = TypeVar("T")

POINT_UNIT = "point_id"
EMBEDDING = "embedding"
"""The array beside a row."""

_SHARD_POINTS = 4
"""A point takes a GPU half a minute: of what is killed no more than a few are lost."""


def point_id(source: str, x: float, y: float) -> str:
    """What a point is called, the same whichever pair asks for it."""
    return f"{source}@{x:.2f},{y:.2f}"


@dataclass(frozen=True)
class EmbeddingsStage(CommandStage[EmbeddingsSettings]):
    """Fits embeddings; ``resolved`` holds ``models``."""

    name = "embeddings"
    components = (Numbers, Fitting)
    fields = EMBEDDINGS_FIELDS
    unit = POINT_UNIT

    @classmethod
    def of(cls, options: EmbeddingsSettings, out: Folder, resolved: dict[str, Any], run: Plan, pairs: Plan) -> Self:
        """The stage of a run, with a plan of the points of all its sources.

        Args:
            options: all settings.
            out: the run's folder.
            resolved: with the facts of the model.
            run: the plan of the images.
            pairs: that of the pairs.
        """
        table = pa.Table.from_pylist([*_points_of(run, pairs)], _POINTS)
        if not table.num_rows:
            raise SettingsError(
                "no pair has points of its source, and embeddings are fitted to points. To mend it: give pairs with "
                "source_points, or let simsam correspond choose some"
            )
        shard_size = min(options.shard_size or _SHARD_POINTS, _SHARD_POINTS)
        return cls(options, resolved, make_plan_of(out, table, unit=cls.unit, shard_size=shard_size))

    @cached_property
    def fold(self) -> EmbeddingsFold:
        """Counts points."""
        return EmbeddingsFold()

    def make_worker(self, beat: Callable[[], None]) -> EmbeddingsWorker:
        """Load the network and be ready for points."""
        return EmbeddingsWorker(self, beat)


_POINTS = pa.schema(
    [
        (POINT_UNIT, pa.string()),
        ("uri", pa.string()),
        ("source", pa.string()),
        ("x", pa.float64()),
        ("y", pa.float64()),
    ]
)


def _points_of(run: Plan, pairs: Plan) -> Iterator[dict[str, Any]]:
    """Every point of every source, once; those of one image after each other, since pairs come so."""
    seen: set[str] = set()
    for number in range(pairs.shards):
        for record in pairs.shard(number).records.to_pylist():
            shard, place = run.place_of(record["source_record"])
            uri = run.shard(shard).records["uri"][place].as_py()
            for x, y in Given.of(record).points.tolist():
                name = point_id(record["source"], x, y)
                if name not in seen:
                    seen.add(name)
                    yield {POINT_UNIT: name, "uri": uri, "source": record["source"], "x": x, "y": y}


def procedure_of(options: EmbeddingsSettings) -> Procedure:
    """How embeddings are fitted, as the settings say."""
    return Procedure(
        side=options.side,
        starts=options.starts,
        steps=options.steps,
        learning_rate=options.learning_rate,
        crop=options.crop,
        sigma=options.sigma,
        timestep=options.timestep,
        noise=options.noise,
        first_pixel=0.0 if options.gaussian == "published" else 0.5,
    )


def seeds_of(*what: object, starts: int) -> list[int]:
    """One for each start of what is named."""
    return [seed_of(*what, start) for start in range(starts)]


class EmbeddingsWorker(RecordWorker[Squashed]):
    """Fits one point after the other, all its starts at once."""

    def __init__(self, stage: EmbeddingsStage, beat: Callable[[], None]) -> None:
        options = stage.options
        super().__init__(stage, beat, torch.device(compute_device(options.device)))
        self._options, self._how = options, procedure_of(options)
        self._model = load_model("diffusion", options, stage.resolved["models"], str(self.device))
        self._pictures = PicturesAhead(self.limits, options.side, options.color_profile)
        self._latents = HeldLatents(self._model, self._how, self.device)
        self._at_once = options.starts

    def load(self, item: Item) -> Squashed:
        """Read the image of a point."""
        return self._pictures.of(item.record["uri"])

    def take(self, item: Item, loaded: Squashed, results: Results) -> None:
        """Fit an embedding to a point."""
        record, how = item.record, self._how
        point = np.array([[record["x"], record["y"]]])
        if not loaded.holds(point)[0]:
            said = f"({record['x']:g}, {record['y']:g}) is not in the image of {loaded.size[0]} x {loaded.size[1]}"
            results.put(item.row, failed(ImageError("outside", said, "fit")))
            return
        x, y = loaded.to_square(point)[0].tolist()
        place = f"{record['x']:.2f},{record['y']:.2f}"
        seeds = seeds_of(self._options.seed, loaded.sha256, place, starts=how.starts)
        try:
            with self.timer.step("fit"), arithmetic(self.device, "fp32"):
                fitted = self._fitted(loaded, (x, y), seeds)
        except FloatingPointError as error:
            results.put(item.row, failed(ImageError("not_computable", str(error), "fit")))
            return
        results.put(item.row, self._row(record, loaded, fitted))

    def _fitted(self, picture: Squashed, point: tuple[float, float], seeds: Sequence[int]) -> Fitted:
        latents = self._latents.of(picture)

        def some(part: Sequence[int]) -> Fitted:
            return fit(self._model, latents, point, self._how, part, self._beat)

        parts, self._at_once = in_parts(some, seeds, self._at_once)
        embeddings = torch.cat([part.embeddings for part in parts])
        losses, nothing = (np.concatenate([getattr(p, name) for p in parts], axis=1) for name in ("losses", "nothing"))
        return Fitted(embeddings, losses, nothing)

    def _row(self, record: dict[str, Any], picture: Squashed, fitted: Fitted) -> Row:
        ratios = fitted.losses / fitted.nothing
        first, last = ratios[:TENTH].mean(axis=0), ratios[-TENTH:].mean(axis=0)
        collapsed = int(fitted.collapsed().sum())
        columns = {
            "status": "ok",
            "source": record["source"],
            "x": record["x"],
            "y": record["y"],
            "width": picture.size[0],
            "height": picture.size[1],
            "content_sha256": picture.sha256,
            "loss_first": first.tolist(),
            "loss_last": last.tolist(),
            "collapsed": collapsed,
        }
        arrays = {EMBEDDING: fitted.embeddings.numpy(), "losses": fitted.losses.astype(np.float32)}
        state = {"points": 1, "starts": len(first), "collapsed": collapsed}
        return Row(columns, arrays, state | {"loss_first": float(first.sum()), "loss_last": float(last.sum())})


def in_parts(some: Callable[[Sequence[int]], T], seeds: Sequence[int], at_once: int) -> tuple[list[T], int]:
    """What comes of all starts, so many at once; in halves if memory runs out.

    Returns:
        That of each part, and how many went at once in the end.

    Raises:
        torch.OutOfMemoryError: a single start is too much.
    """
    while True:
        try:
            return [some(seeds[first : first + at_once]) for first in range(0, len(seeds), at_once)], at_once
        except torch.OutOfMemoryError:
            if at_once == 1:
                raise
            at_once = -(-at_once // 2)
            torch.cuda.empty_cache()


STAGES = {EmbeddingsStage.name: EmbeddingsStage}
