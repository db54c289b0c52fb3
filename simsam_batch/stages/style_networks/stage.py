"""The ``style-networks`` stage: one network for each text and region, fitted to images of the run; of one shard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load, save

from simsam_batch.errors import ImageError, RunError, UnreadableError
from simsam_batch.features.precision import arithmetic
from simsam_batch.images import decode_ahead
from simsam_batch.regions.sampling import hashes_of
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan, ids_of, load_plan, make_plan_of
from simsam_batch.runs.schema import File, Needs
from simsam_batch.settings import Images, Limits, Numbers
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.regions.stage import RegionsStage
from simsam_batch.stages.segment.stage import SegmentStage
from simsam_batch.stages.semantic.stage import SemanticStage
from simsam_batch.stages.style_networks.checkpoints import Checkpoints
from simsam_batch.stages.style_networks.masks import columns_of
from simsam_batch.stages.style_networks.procedure import COMES_TO_NOTHING, figures, procedure_of, why_nothing
from simsam_batch.stages.style_networks.regions import Loaded, RegionReader, at_size, shrunk, why_not
from simsam_batch.stages.style_networks.rows import NETWORK, NETWORK_FIELDS, NetworksFold
from simsam_batch.stages.style_networks.settings import Style, StylizeSettings
from simsam_batch.stages.style_networks.words import Words, words_of
from simsam_batch.storage import Folder
from simsam_batch.styling.crops import windows_of
from simsam_batch.styling.fitting import Region
from simsam_batch.styling.network import StyleNet, working_size
from simsam_batch.styling.run_fitting import FitOfRun, Scene, procedure_of_run
from simsam_batch.workers.models import compute_device, load_model
from simsam_batch.workers.others import Others
from simsam_batch.workers.records import Item, RecordWorker, Results, Row, failed
from simsam_batch.workers.seeds import seed_of


@dataclass(frozen=True)
class StyleNetworksStage(CommandStage[StylizeSettings]):
    """Fits networks; a record of its plan is one of them."""

    name = "style-networks"
    components = (Images, Limits, Numbers, Style)
    fields = NETWORK_FIELDS
    reads = (SegmentStage.name, SemanticStage.name, RegionsStage.name)
    unit = "network"
    needs = Needs(workers=1)

    def __post_init__(self) -> None:
        """Of all that it may rest on, keep what the regions of its looks are of."""
        object.__setattr__(self, "reads", tuple(columns_of(self.options.looks)))

    @classmethod
    def of(cls, options: StylizeSettings, out: Folder, resolved: dict[str, Any]) -> Self:
        """The stage of a run, with a plan of all regions and texts of its looks."""
        wanted = dict.fromkeys((region, text) for look in options.looks for region, text in look.items())
        rows = [{cls.unit: f"{region}: {text}", "of": region, "words": text} for region, text in wanted]
        plan = make_plan_of(out, pa.Table.from_pylist(rows), unit=cls.unit, shard_size=len(rows))
        return cls(options, resolved, plan)

    @cached_property
    def fold(self) -> NetworksFold:
        """Counts networks."""
        return NetworksFold()

    def make_worker(self, beat: Callable[[], None]) -> NetworksWorker:
        """Load what judges, and be ready to fit."""
        return NetworksWorker(self, beat)


class NetworksWorker(RecordWorker[None]):
    """Fits one network after the other."""

    def __init__(self, stage: StyleNetworksStage, beat: Callable[[], None]) -> None:
        options = stage.options
        super().__init__(stage, beat, torch.device(compute_device(options.device)))
        assert stage.plan is not None  # noqa: S101  it is where the images are
        out, models = stage.plan.out, stage.resolved["models"]
        plan = load_plan(out)
        if plan is None:
            raise RunError(f"{out.url} has no plan. To mend it: restore run.json")
        self._options, self._plan, self._others = options, plan, Others(plan)
        self._clip, self._vgg = (load_model(role, options, models, str(self.device)) for role in ("clip", "vgg"))
        self.facts["precision"] = self._clip.precision
        self._words = {words.text: words for look in words_of(self._clip, options) for words in look.values()}
        self._regions = RegionReader(out, options, self.limits)
        self._how = procedure_of_run(procedure_of(options), options.run_steps, options.run_crops)
        self._checkpoints = Checkpoints(out, options.checkpoint_steps)
        self._identity = json.dumps([stage.settings, models, plan.digest, plan.records], sort_keys=True)

    def load(self, item: Item) -> None:
        """Nothing of a network is loaded by itself."""
        del item

    def take(self, item: Item, loaded: None, results: Results) -> None:
        """Fit one network."""
        del loaded
        region, text = item.record["of"], item.record["words"]
        try:
            with self.timer.step("fit"), arithmetic(self.device, "fp32"):
                row = self._fitted(item, region, self._words[text])
        except ValueError as error:
            row = failed(ImageError("not_fittable", str(error), "fit"))
        except COMES_TO_NOTHING as error:
            row = failed(why_nothing(error, self._options, "fit"))
        results.put(item.row, row)

    def _fitted(self, item: Item, region: str, words: Words) -> Row:
        options, images = self._options, self._plan.records
        names = (region, words.text, options.source_text)
        like, networks = torch.zeros(1, device=self.device), (self._clip, self._vgg)
        fit = FitOfRun(images, options.run_batch, like, *networks, self._how, seed_of(options.seed, *names))
        kept = sha256("\0".join(["run", *names, self._identity]).encode()).hexdigest()[:32]
        self._checkpoints.go_on(fit, item.shard.number, kept)
        threads, most = self.ahead()
        with closing(decode_ahead(fit.coming(), self._load_image, threads=threads, max_pending=most)) as arriving:
            scenes = self._scenes(arriving, region, words)
            for _ in self._checkpoints.updates(fit, lambda: fit.update(scenes), kept, region):
                self._beat()
        told = figures(fit)
        columns = {"status": "ok", "region": region, "text": words.text, "images": images}
        columns |= {"images_used": len(fit.used)} | told
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in fit.net.state_dict().items()}
        return Row(columns, {NETWORK: File(save(tensors), "safetensors")}, {"networks": 1, "steps": fit.step})

    def _load_image(self, number: int) -> Loaded | None:
        """An image of the run by its number; None if nothing can be made of it."""
        shard, place = self._plan.place_of(number)
        row = self._regions.rows(shard)[place]
        uri = self._plan.shard(shard).records["uri"][place].as_py()
        try:
            return self._regions.load(uri, row)
        except ImageError:
            return None
        except UnreadableError as error:
            if self._others.are_given("uri", error.uri):
                return None
            raise

    def _scenes(
        self, arriving: Iterator[tuple[int, Loaded | Exception | None]], region: str, words: Words
    ) -> Iterator[tuple[int, Scene | None]]:
        for number, loaded in arriving:
            if isinstance(loaded, Exception):
                raise loaded
            self._beat()
            yield number, None if loaded is None else self._scene(loaded, region, words)

    def _scene(self, loaded: Loaded, region: str, words: Words) -> Scene | None:
        height, width = loaded.pixels.shape[:2]
        across, down = working_size(width, height, self._options.run_side)
        mask = shrunk(loaded.masks[region], (down, across))
        if why_not(loaded, region, mask) is not None:
            return None
        small = at_size(loaded.pixels, (down, across), self.device)
        windows = windows_of(mask, self._how.crop_side(down, across))
        return small, Region(torch.from_numpy(mask), words.direction, windows, self._how.crops)


def networks_of(out: Folder, device: torch.device) -> Mapping[tuple[str, str], StyleNet]:
    """The networks of a run by region and text, without those that could not be fitted.

    Raises:
        RunError: they are missing or damaged.
    """
    found = {}
    for manifest in Ledger(out, StyleNetworksStage.name).manifests():
        shard = CommittedShard(out, manifest)
        rows = shard.rows(["region", "text", "status"]).to_pylist()
        for row, held in zip(rows, shard.attachments(), strict=True):
            if row["status"] != "ok":
                continue
            file = held.get(NETWORK)
            if not isinstance(file, File):
                raise RunError(f"{out.url}: a style network is missing. To mend it: use another OUT")
            net = StyleNet()
            net.load_state_dict(load(file.data))
            found[row["region"], row["text"]] = net.to(device).eval().requires_grad_(False)
    return found


def chosen(plan: Plan, count: int, seed: int) -> list[str]:
    """The ids of some images, which go by the ids and the seed alone, in their order."""
    ids = [name for block in ids_of(plan) for name in block.to_pylist()]
    hashes = hashes_of([str(name).encode() for name in ids], seed % 2**64)
    return sorted(ids[place] for place in np.argsort(hashes, kind="stable")[:count].tolist())


STAGES = {StyleNetworksStage.name: StyleNetworksStage}
