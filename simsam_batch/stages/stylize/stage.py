"""The ``stylize`` stage: a network fitted to each region of each image, and its picture put back into the image."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from simsam_batch.errors import SettingsError
from simsam_batch.features.clip import configuration
from simsam_batch.features.precision import arithmetic
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import FAILURE, Attachment, File, Shard
from simsam_batch.settings import Images, Limits, Numbers
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.regions.stage import RegionsStage
from simsam_batch.stages.segment.stage import SegmentStage
from simsam_batch.stages.semantic.stage import SemanticStage
from simsam_batch.stages.steps import Job, Stages, Steps
from simsam_batch.stages.style_networks.checkpoints import Checkpoints, drop
from simsam_batch.stages.style_networks.looks import OBJECT, look_of, pictures_of, read_looks
from simsam_batch.stages.style_networks.masks import columns_of
from simsam_batch.stages.style_networks.procedure import COMES_TO_NOTHING, figures, procedure_of, why_nothing
from simsam_batch.stages.style_networks.regions import Loaded, RegionReader, at_size, shrunk, why_not
from simsam_batch.stages.style_networks.settings import Style, StylizeSettings
from simsam_batch.stages.style_networks.stage import StyleNetworksStage, chosen, networks_of
from simsam_batch.stages.style_networks.words import Words, WordsOf, words_of
from simsam_batch.stages.stylize.published import BLIND, aim_of, check_looks, driven_by, why_never
from simsam_batch.stages.stylize.rows import EACH, STYLIZE_FIELDS, StylizeFold, state_of
from simsam_batch.stages.stylize.scoring import Scorer, or_none
from simsam_batch.styling.composite import Leak, alpha_of, composite, leak
from simsam_batch.styling.crops import windows_of
from simsam_batch.styling.fitting import Fit, Region, restyled_by, split_crops
from simsam_batch.styling.network import working_size
from simsam_batch.styling.published import PROGRAMS, PublishedFit, enhanced
from simsam_batch.workers.models import compute_device, load_model
from simsam_batch.workers.records import Item, RecordWorker, Results, Row, failed
from simsam_batch.workers.seeds import seed_of

WITHOUT = "no image of the run has any of it that a network could be fitted to"


@dataclass(frozen=True)
class StylizeStage(CommandStage[StylizeSettings]):
    """Restyles the object, the background, or both, of every image that has a mask."""

    name = "stylize"
    components = (Images, Limits, Numbers, Style)
    fields = STYLIZE_FIELDS

    reads = (SegmentStage.name, SemanticStage.name, RegionsStage.name, StyleNetworksStage.name)

    def __post_init__(self) -> None:
        """Of all that it may rest on, keep what the regions of its looks are of, and the networks of the run."""
        networks = (StyleNetworksStage.name,) if self.options.fit == "run" else ()
        object.__setattr__(self, "reads", (*columns_of(self.options.looks), *networks))

    @cached_property
    def fold(self) -> StylizeFold:
        """Counts regions."""
        return StylizeFold()

    def make_worker(self, beat: Callable[[], None]) -> StylizeWorker:
        """Load the networks and be ready for shards."""
        return StylizeWorker(self, beat)


@dataclass(frozen=True, slots=True)
class _Scene:
    """An image as it is worked on.

    Attributes:
        small: (1, 3, h, w) in 0..1.
        shares: (h, w) of each region.
        fits: networks that have been fitted to regions, by region, text and crops.
    """

    small: Tensor
    shares: dict[str, NDArray[np.bool_]]
    fits: dict[tuple[str, str, int], Fit]


@dataclass(frozen=True, slots=True)
class _Restyled:
    """A picture of an image.

    Attributes:
        pixels: (H, W, 3) uint8.
        styles: what became of each region.
        leak: what differs where nothing was restyled.
    """

    pixels: NDArray[np.uint8]
    styles: list[dict[str, Any]]
    leak: Leak


class StylizeWorker(RecordWorker[Loaded | None]):
    """Restyles one image after the other."""

    def __init__(self, stage: StylizeStage, beat: Callable[[], None]) -> None:
        options = stage.options
        super().__init__(stage, beat, torch.device(compute_device(options.device)))
        assert stage.plan is not None  # noqa: S101  it is where the masks are
        self._options = options
        models = stage.resolved["models"]
        self._clip, self._vgg = (load_model(role, options, models, str(self.device)) for role in ("clip", "vgg"))
        self._regions = RegionReader(stage.plan.out, options, self.limits)
        self.facts["precision"] = self._clip.precision
        raw = options.method in PROGRAMS
        self._words = words_of(self._clip, options, raw=raw)
        scoring = load_model("score_clip", options, models, str(self.device)) or self._clip
        scored = words_of(scoring, options) if raw or scoring is not self._clip else self._words
        self._scorer = Scorer(scoring, self._vgg, scored, options.side, self.device)
        self._how = procedure_of(options)
        self._checkpoints = Checkpoints(stage.plan.out, options.checkpoint_steps)
        self._networks = networks_of(stage.plan.out, self.device) if options.fit == "run" else {}
        self._beside = frozenset(stage.resolved.get("beside", ()))
        self._identity = json.dumps([stage.settings, models], sort_keys=True)

    def items(self, shards: Iterator[Shard]) -> Iterator[Item]:
        """The images, each with what the stages of its regions have of it."""
        return self._regions.items(shards)

    def load(self, item: Item) -> Loaded | None:
        """Read an image and its regions; None for one that has failed before."""
        return self._regions.load(item.record["uri"], item.beside)

    def take(self, item: Item, loaded: Loaded | None, results: Results) -> None:
        """Restyle an image."""
        if loaded is None:
            results.put(item.row, Row({name: item.beside[name] for name in FAILURE}))
            return
        try:
            results.put(item.row, self._row(item, loaded))
        except COMES_TO_NOTHING as error:
            results.put(item.row, failed(why_nothing(error, self._options, "stylize")))

    def _row(self, item: Item, loaded: Loaded) -> Row:
        height, width = loaded.pixels.shape[:2]
        across, down = self._size(width, height)
        small = at_size(loaded.pixels, (down, across), self.device)
        scene = _Scene(small, {name: shrunk(mask, (down, across)) for name, mask in loaded.masks.items()}, {})
        looks = dict(zip(pictures_of(self._words), self._words, strict=True))
        made = {name: self._picture(item, loaded, scene, words) for name, words in looks.items()}
        state = state_of(0, [style for one in made.values() for style in one.styles])
        if item.record["image_id"] in self._beside:
            made |= {
                f"{name}{EACH}": self._picture(item, loaded, scene, words, by_run=False)
                for name, words in looks.items()
            }
        styles = [{"picture": name} | style for name, one in made.items() for style in one.styles]
        worst = max((one.leak for one in made.values()), key=lambda leak: leak.most)
        mask = loaded.masks.get(OBJECT)
        columns = {
            "status": "ok",
            "content_sha256": loaded.sha256,
            "width": width,
            "height": height,
            "working_width": across,
            "working_height": down,
            "area_fraction": None if mask is None else float(mask.mean()),
            "leak_max": worst.most,
            "leak_mean": or_none(worst.mean),
            "leak_share": or_none(worst.share),
            "styles": styles,
        }
        files: dict[str, Attachment] = {name: File(_png(one.pixels), "png") for name, one in made.items()}
        return Row(columns, files, state | {"leak_max": worst.most})

    def _picture(
        self, item: Item, loaded: Loaded, scene: _Scene, look: Mapping[str, Words], *, by_run: bool = True
    ) -> _Restyled:
        """One look of an image; by the networks of the run, where there are such, or by its own."""
        if self._options.method in PROGRAMS:
            return self._as_published(item, loaded, scene, look)
        reasons = {name: why_not(loaded, name, scene.shares[name]) for name in look}
        by_run = by_run and self._options.fit == "run"
        if by_run:
            without = {name for name in look if (name, look[name].text) not in self._networks}
            reasons |= {name: WITHOUT for name in look if reasons[name] is None and name in without}
        wanted = [name for name in look if reasons[name] is None]
        shares = [float(loaded.masks[name].mean()) for name in wanted]
        counts = dict(zip(wanted, split_crops(self._how.crops, shares), strict=True))
        height, width = loaded.pixels.shape[:2]
        picture, styled = loaded.pixels, np.zeros((height, width), np.bool_)
        styles: list[dict[str, Any]] = []
        for name, words in look.items():
            about = {"region": name, "text": words.text, "status": "skipped", "skip_reason": reasons[name]}
            about["fit"] = "run" if by_run else "image"
            if name in counts and by_run:
                with self.timer.step("restyle"), arithmetic(self.device, "fp32"):
                    made = restyled_by(self._networks[name, words.text], scene.small)
                about |= {"status": "styled"}
            elif name in counts:
                with self.timer.step("fit"), arithmetic(self.device, "fp32"):
                    key = (name, words.text, counts[name])
                    if key not in scene.fits:
                        scene.fits[key] = self._fitted(
                            scene.small, scene.shares[name], words, counts[name], (item, name)
                        )
                    fit = scene.fits[key]
                made = fit.restyled()
                about |= {"status": "styled"} | figures(fit)
            if name in counts:
                with self.timer.step("compose"):
                    restyled = _pixels(made, (height, width))
                    picture = composite(picture, restyled, alpha_of(loaded.masks[name], self._options.feather))
                    styled |= loaded.masks[name]
            styles.append(about)
        if wanted:
            with self.timer.step("score"), arithmetic(self.device, "fp32"):
                self._scorer.score(styles, loaded.pixels, picture, loaded.masks)
        return _Restyled(picture, styles, leak(loaded.pixels, picture, styled))

    def _size(self, width: int, height: int) -> tuple[int, int]:
        """Of what is worked on: published programs squash images."""
        side = self._options.side
        return working_size(*(side, side) if self._options.method in PROGRAMS else (width, height), side)

    def _as_published(self, item: Item, loaded: Loaded, scene: _Scene, look: WordsOf) -> _Restyled:
        """One look of an image, as a published program has it: one network, and all of the picture changes."""
        method, size = self._options.method, loaded.pixels.shape[:2]
        driven = driven_by(method, look)
        aim = aim_of(method, driven, scene.shares)
        reasons = {} if method == BLIND else {name: why_not(loaded, name, scene.shares[name]) for name in look}
        reason = next(filter(None, reasons.values()), None) or why_never(method, aim, self._how)
        about = {"status": "skipped" if reason else "styled", "skip_reason": reason}
        styles: list[dict[str, Any]] = [
            {"region": name, "text": driven[name].text, "fit": "image"} | about for name in look
        ]
        if reason:
            nothing = np.zeros(size, np.bool_)
            return _Restyled(loaded.pixels, styles, leak(loaded.pixels, loaded.pixels, nothing))
        key = [f"{name}: {words.text}" for name, words in driven.items()]
        with self.timer.step("fit"), arithmetic(self.device, "fp32"):
            names = self._named(item, *key)
            small = (scene.small * 255).round() / 255
            networks = (self._clip, self._vgg)
            seed = seed_of(self._options.seed, *names)
            fit = self._run(PublishedFit(small, aim, *networks, self._how, PROGRAMS[method], seed), item, names)
        with self.timer.step("compose"):
            picture = _pixels(enhanced(fit.restyled()), size)
        styles = [style | figures(fit) for style in styles]
        with self.timer.step("score"), arithmetic(self.device, "fp32"):
            self._scorer.score(styles, loaded.pixels, picture, loaded.masks)
        styled = np.logical_or.reduce([loaded.masks[name] for name in look])
        return _Restyled(picture, styles, leak(loaded.pixels, picture, styled))

    def _fitted(self, image: Tensor, mask: NDArray[np.bool_], words: Words, crops: int, of: tuple[Item, str]) -> Fit:
        side = self._how.crop_side(*image.shape[-2:])
        region = Region(torch.from_numpy(mask), words.direction, windows_of(mask, side), crops)
        item, name = of
        names = self._named(item, name, words.text)
        fit = Fit(image, region, self._clip, self._vgg, self._how, seed_of(self._options.seed, *names))
        return self._run(fit, item, names)

    def _named(self, item: Item, *about: str) -> tuple[str, ...]:
        """What a network is of."""
        return (item.record["image_id"], *about, self._options.source_text)

    def _run(self, fit: Fit, item: Item, names: Sequence[str]) -> Fit:
        """Fit a network to the end, from where it has come to."""
        kept = sha256("\0".join([*names, item.beside["content_sha256"], self._identity]).encode()).hexdigest()[:32]
        self._checkpoints.go_on(fit, item.shard.number, kept)
        for _ in self._checkpoints.updates(fit, fit.update, kept, names[1]):
            self._beat()
        return fit


def _pixels(picture: Tensor, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """(H, W, 3) a picture (1, 3, h, w) in 0..1, at another size."""
    large = functional.interpolate(picture, size, mode="bicubic", antialias=True)
    found: NDArray[np.uint8] = (large[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return found


def _png(pixels: NDArray[np.uint8]) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return target.getvalue()


def _stages(job: Job) -> Stages:
    settings: StylizeSettings = job.settings
    resolved = job.resolved
    if settings.fit == "run":
        fitted = yield StyleNetworksStage.of(settings, job.folder, resolved)
        if fitted["failed"]:
            for _, row in StageRows(job.folder, StyleNetworksStage.name).each(["network", "error"]):
                if row["error"]:
                    job.note(f"{row['network']}: there is no network of it: {row['error']}")
        resolved = resolved | {"beside": chosen(job.plan, settings.beside, settings.seed)}
    yield StylizeStage(settings, resolved, job.plan)
    drop(job.folder)


def _completed(settings: StylizeSettings, out: str) -> Any:
    """The settings with the looks that flags or a file ask for.

    Raises:
        SettingsError: nothing is to be restyled, the method has no place for it, or a file cannot be used.
    """
    del out
    # OUT has a plan already, so that nobody else asks
    if idle := settings.without_effect():
        raise SettingsError(*idle)
    flags = look_of(settings.object, settings.background, settings.label)
    if settings.texts and flags:
        raise SettingsError(
            "texts stands in the place of object, background and label. To mend it: leave one or the other out"
        )
    looks = read_looks(settings.texts) if settings.texts else [flags] if flags else list(settings.looks)
    if not looks:
        raise SettingsError(
            "nothing is to be restyled. To mend it: give --object, --background or --label in words, or --texts"
        )
    check_looks(settings.method, looks, settings.feather)
    networks = {name: configuration(getattr(settings, name)) for name in ("clip", "score_clip")}
    return settings.model_copy(update={"looks": tuple(looks), **networks})


def _check_words(settings: StylizeSettings, role: str, model: Any) -> None:
    if model is not None and role in ("clip", "score_clip"):
        words_of(model, settings)


STAGES = {StylizeStage.name: StylizeStage}
STEPS = Steps(
    _stages, StylizeStage.name, roles=("clip", "score_clip", "vgg"), complete=_completed, check_loaded=_check_words
)
