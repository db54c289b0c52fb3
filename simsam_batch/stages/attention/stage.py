"""The ``attention`` stage: its records are pairs, and its rows those of the stage ``matches``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from simsam_batch.catalog import PAIR_UNIT
from simsam_batch.correspondence.attention import CORNERS, CroppedLatents, Picked, Procedure, look_for, pick
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

_MAP_SIDE, _LAYER_SIDE = 128, 64

MAPS, LAYERS = "similarity", "layers"
"""Arrays: of the target (N, 128, 128); of source and target, layer by layer, (N, 2, L, 64, 64)."""


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
        picture: of the source, if maps of it are wanted.
    """

    target: Squashed
    source: tuple[tuple[int, int], str]
    given: Given
    embeddings: Sequence[tuple[torch.Tensor | None, str | None]]
    picture: Squashed | None


@dataclass(slots=True)
class _Maps:
    """What is kept of the attention to each point: of the target, (128, 128), and of both by layer, (2, L, 64, 64)."""

    target: list[torch.Tensor] = field(default_factory=list)
    layers: list[torch.Tensor] = field(default_factory=list)


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
        picture = None
        if fine is None or self._options.maps == "layers":
            picture = self._pictures.of(self._uri(record["source_record"]))
        if fine is not None:
            size, digest = (fine["width"], fine["height"]), fine["content_sha256"]
            if picture is not None and picture.sha256 != digest:
                raise ImageError("changed", f"{record['source']} is not the file that was fitted to any more", "read")
        else:
            assert picture is not None  # noqa: S101  it was read above
            size, digest = picture.size, picture.sha256
        return Loaded(target, (size, digest), given, embeddings, picture)

    def _uri(self, record: int) -> str:
        shard, place = self._run.place_of(record)
        return str(self._run.shard(shard).records["uri"][place].as_py())

    def take(self, item: Item, loaded: Loaded, results: Results) -> None:
        """Look for the points of a pair."""
        picked: list[Picked | None] = []
        maps = _Maps()
        try:
            for number, (embedding, _) in enumerate(loaded.embeddings):
                with self.timer.step("look"), arithmetic(self.device, "fp32"):
                    seeds = seeds_of(self._options.seed, item.record[PAIR_UNIT], number, starts=self._how.starts)
                    picked.append(self._point(loaded, embedding, seeds, maps))
        except FloatingPointError as error:
            results.put(item.row, failed(ImageError("not_computable", str(error), "look")))
            return
        with self.timer.step("score"):
            results.put(item.row, self._row(item, loaded, picked, maps))

    def _point(
        self, loaded: Loaded, embedding: torch.Tensor | None, seeds: Sequence[int], maps: _Maps
    ) -> Picked | None:
        """Look for one point, None for one that was not fitted; what is kept of its maps is put with the others'."""
        by_layer = self._options.maps == "layers"
        found = seen = None
        if embedding is not None:
            found = self._picked(self._latents.of(loaded.target), embedding, seeds, self._how)
            if by_layer and loaded.picture is not None:
                # four corners cover the source, where nothing needs to be found
                corners = replace(self._how, crops=CORNERS)
                seen = self._picked(self._latents.of(loaded.picture), embedding, seeds, corners)
        if self._options.maps != "none":
            maps.target.append(_small(self._nowhere(1) if found is None else found.map[None], _MAP_SIDE)[0])
        if by_layer:
            nowhere = self._nowhere(len(self._options.layers))
            both = [nowhere if each is None else each.layers for each in (seen, found)]
            maps.layers.append(torch.stack([_small(each, _LAYER_SIDE) for each in both]))
        return found

    def _nowhere(self, count: int) -> torch.Tensor:
        return torch.full((count, self._how.side, self._how.side), torch.nan)

    def _picked(self, latents: CroppedLatents, embedding: torch.Tensor, seeds: Sequence[int], how: Procedure) -> Picked:
        place = {seed: i for i, seed in enumerate(seeds)}

        def some(part: Sequence[int]) -> torch.Tensor:
            own = embedding[[place[seed] for seed in part]]
            return look_for(self._model, latents, own, how, part, self._beat)

        parts, self._at_once = in_parts(some, seeds, self._at_once)
        return pick(torch.cat(parts), how)

    def _row(self, item: Item, loaded: Loaded, picked: Sequence[Picked | None], maps: _Maps) -> Row:
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
        kept = {MAPS: maps.target, LAYERS: maps.layers}
        attachments: dict[str, Attachment] = {
            name: torch.stack(each).numpy().astype(np.float16) for name, each in kept.items() if each
        }
        state = self.stage.fold.zero() | {"identical": int(columns["identical"])} | compared.counts_of(faults)
        margins = np.array([np.nan if each is None else each.margin for each in picked], np.float32)
        return Row(columns, attachments, state | compared.state(self._options.seed, None, margins))


def _small(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Maps (B, S, S) at a smaller side, on the host."""
    return functional.interpolate(maps[:, None], (side, side), mode="bilinear", antialias=True)[:, 0].cpu()


STAGES = {AttentionStage.name: AttentionStage}
