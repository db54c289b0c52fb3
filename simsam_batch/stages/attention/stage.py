"""The ``attention`` stage: its records are pairs, and its rows those of the stage ``matches``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from simsam_batch.catalog import PAIR_UNIT
from simsam_batch.correspondence.attention import Picked, look_for, pick
from simsam_batch.errors import ImageError, RunError
from simsam_batch.features.precision import arithmetic
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan, ids_of, load_plan
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import ARRAY_FIELDS, Attachment
from simsam_batch.settings import Numbers
from simsam_batch.stages.attention.settings import AttentionSettings, Search
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.embeddings.pictures import HeldLatents, PicturesAhead, Squashed
from simsam_batch.stages.embeddings.settings import Fitting
from simsam_batch.stages.embeddings.stage import (
    EMBEDDING,
    EmbeddingsStage,
    in_parts,
    point_id,
    procedure_of,
    seeds_of,
)
from simsam_batch.stages.matches.given import Given
from simsam_batch.stages.matches.pairs import kinds_of
from simsam_batch.stages.matches.rows import MATCHES_FIELDS, MatchesFold
from simsam_batch.stages.matches.scoring import Compared, state_of_failed
from simsam_batch.workers.models import compute_device, load_model
from simsam_batch.workers.others import Others
from simsam_batch.workers.records import Item, RecordWorker, Results, Row, failed

_MAP_SIDE = 128


@dataclass(frozen=True)
class AttentionStage(CommandStage[AttentionSettings]):
    """Looks for points; ``resolved`` holds ``models`` and ``published``, as for the stage ``matches``."""

    name = "attention"
    components = (Numbers, Fitting, Search)
    fields = MATCHES_FIELDS
    reads = (EmbeddingsStage.name,)
    unit = PAIR_UNIT
    keeps_columns = True

    @cached_property
    def fold(self) -> MatchesFold:
        """Counts hits."""
        return MatchesFold(self.resolved["published"])

    def make_worker(self, beat: Callable[[], None]) -> AttentionWorker:
        """Load the network and be ready for pairs."""
        return AttentionWorker(self, beat)

    def state_of_failed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Its points are wrong."""
        return self.fold.zero() | state_of_failed(row, kinds_of(self.resolved["published"]))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pair.

    Attributes:
        target: its picture.
        source: (width, height) of it, and the digest of its file.
        given: its points.
        embeddings: of each point (R, T, D); None where none could be fitted, with the reason.
    """

    target: Squashed
    source: tuple[tuple[int, int], str]
    given: Given
    embeddings: Sequence[tuple[torch.Tensor | None, str | None]]


class AttentionWorker(RecordWorker[Loaded]):
    """Looks for the points of one pair after the other."""

    def __init__(self, stage: AttentionStage, beat: Callable[[], None]) -> None:
        options = stage.options
        super().__init__(stage, beat, torch.device(compute_device(options.device)))
        pairs: Plan | None = stage.plan
        assert pairs is not None  # noqa: S101  it is where the embeddings are
        run = load_plan(pairs.out)
        if run is None:
            raise RunError(f"{pairs.out.url}: the run's plan has gone. To mend it: restore run.json")
        self._run, self._options = run, options
        # what is read are images, and the plan is of pairs
        self._other_files = Others(run)
        found_at = options.timestep if options.timestep_found < 0 else options.timestep_found
        how = procedure_of(options)
        self._how = replace(how, crops=options.crops, timestep_found=found_at, combine=options.combine)
        self._model = load_model("diffusion", options, stage.resolved["models"], str(self.device))
        self._pictures = PicturesAhead(self.limits, options.side, options.color_profile)
        self._latents = HeldLatents(self._model, self._how, self.device)
        self._rows = StageRows(pairs.out, EmbeddingsStage.name)
        names = (name for block in ids_of(Ledger(pairs.out, EmbeddingsStage.name).plan()) for name in block.to_pylist())
        self._number = {name: number for number, name in enumerate(names)}
        self._kinds = kinds_of(stage.resolved["published"])
        self._at_once = options.starts

    def load(self, item: Item) -> Loaded:
        """Read the target, and what was fitted to the points of the source."""
        record = item.record
        given = Given.of(record)
        target = self._pictures.of(self._uri(record["target_record"]))
        numbers = [self._number[point_id(record["source"], x, y)] for x, y in given.points.tolist()]
        columns = ["status", "error_type", "error", "width", "height", "content_sha256"]
        columns += [field.name for field in ARRAY_FIELDS]
        rows = self._rows.take(numbers, columns).to_pylist()
        embeddings: list[tuple[torch.Tensor | None, str | None]] = []
        for row in rows:
            if row["status"] == "ok":
                embeddings.append((torch.from_numpy(np.asarray(self._rows.arrays(row)[EMBEDDING])), None))
            elif row["error_type"] == "outside":
                embeddings.append((None, "outside"))
            else:
                raise ImageError(row["error_type"], f"{record['source']}: {row['error']}", "fit")
        fine = next((row for row in rows if row["status"] == "ok"), None)
        if fine is not None:
            size, digest = (fine["width"], fine["height"]), fine["content_sha256"]
        else:
            source = self._pictures.of(self._uri(record["source_record"]))
            size, digest = source.size, source.sha256
        return Loaded(target, (size, digest), given, embeddings)

    def _uri(self, record: int) -> str:
        shard, place = self._run.place_of(record)
        return str(self._run.shard(shard).records["uri"][place].as_py())

    def take(self, item: Item, loaded: Loaded, results: Results) -> None:
        """Look for the points of a pair."""
        latents, name = self._latents.of(loaded.target), item.record[PAIR_UNIT]
        picked: list[Picked | None] = []
        try:
            for number, (embedding, _) in enumerate(loaded.embeddings):
                with self.timer.step("look"), arithmetic(self.device, "fp32"):
                    seeds = seeds_of(self._options.seed, name, number, starts=self._how.starts)
                    picked.append(None if embedding is None else self._picked(latents, embedding, seeds))
        except FloatingPointError as error:
            results.put(item.row, failed(ImageError("not_computable", str(error), "look")))
            return
        with self.timer.step("score"):
            results.put(item.row, self._row(item, loaded, picked))

    def _picked(self, latents: object, embedding: torch.Tensor, seeds: Sequence[int]) -> Picked:
        place = {seed: i for i, seed in enumerate(seeds)}

        def some(part: Sequence[int]) -> torch.Tensor:
            own = embedding[[place[seed] for seed in part]]
            return look_for(self._model, latents, own, self._how, part, self._beat)  # type: ignore[arg-type]

        parts, self._at_once = in_parts(some, seeds, self._at_once)
        return pick(torch.cat(parts), self._how)

    def _row(self, item: Item, loaded: Loaded, picked: Sequence[Picked | None]) -> Row:
        (size, digest), target = loaded.source, loaded.target
        square = np.array([(np.nan, np.nan) if each is None else each.point for each in picked]).reshape(-1, 2)
        places = target.from_square(square)
        faults = [fault for _, fault in loaded.embeddings]
        inside = np.array([fault is None for fault in faults], np.bool_)
        compared = Compared(item.record, loaded.given, places, inside, (size, target.size), self._kinds)
        scale = float(np.sqrt(target.size[0] * target.size[1]) / self._how.side)
        columns: dict[str, Any] = {
            "status": "ok",
            "source_size": size,
            "target_size": target.size,
            "source_sha256": digest,
            "target_sha256": target.sha256,
            "identical": digest == target.sha256,
            "points": [
                compared.point(i)
                | {"fault": faults[i]}
                | ({} if one is None else {"similarity": one.peak, "margin": one.margin, "spread": scale * one.spread})
                for i, one in enumerate(picked)
            ],
            **compared.columns(),
        }
        attachments: dict[str, Attachment] = {}
        if self._options.maps != "none" and picked:
            nothing = torch.full((self._how.side, self._how.side), torch.nan)
            maps = [nothing if each is None else torch.from_numpy(each.map) for each in picked]
            large = torch.stack(maps)[:, None]
            small = functional.interpolate(large, (_MAP_SIDE, _MAP_SIDE), mode="bilinear", antialias=True)[:, 0]
            attachments["similarity"] = small.numpy().astype(np.float16)
        state = self.stage.fold.zero() | {"identical": int(columns["identical"])} | compared.counts_of(faults)
        margins = np.array([np.nan if each is None else each.margin for each in picked], np.float32)
        return Row(columns, attachments, state | compared.state(self._options.seed, None, margins))


STAGES = {AttentionStage.name: AttentionStage}
