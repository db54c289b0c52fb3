"""The ``stylize`` stage: a network fitted to each region of each image, and its picture put back into the image."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
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

from simsam_batch import images
from simsam_batch.errors import ImageError, SettingsError
from simsam_batch.features.precision import arithmetic
from simsam_batch.regions.run_lengths import decode
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.schema import File, Shard
from simsam_batch.settings import Images, Limits, Numbers
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.segment.stage import SegmentStage
from simsam_batch.stages.steps import Job, Stages, Steps
from simsam_batch.stages.stylize.checkpoints import Checkpoints, drop
from simsam_batch.stages.stylize.rows import PICTURE, REGIONS, STYLIZE_FIELDS, StylizeFold, state_of
from simsam_batch.stages.stylize.settings import Style, StylizeSettings
from simsam_batch.styling.composite import alpha_of, composite, leak
from simsam_batch.styling.crops import windows_of
from simsam_batch.styling.fitting import Fit, Procedure, Region, split_crops, squashed
from simsam_batch.styling.losses import content_inside, directions, text_direction, text_feature
from simsam_batch.styling.network import working_size
from simsam_batch.workers.models import compute_device, load_model
from simsam_batch.workers.records import FAILURE, EarlierStage, Item, RecordWorker, Results, Row, failed
from simsam_batch.workers.seeds import seed_of

_MASK = (*FAILURE, "mask_rle", "degenerate", "content_sha256")
_ENDS = 10


@dataclass(frozen=True)
class StylizeStage(CommandStage[StylizeSettings]):
    """Restyles the object, the background, or both, of every image that has a mask."""

    name = "stylize"
    components = (Images, Limits, Numbers, Style)
    fields = STYLIZE_FIELDS
    reads = (SegmentStage.name,)

    @cached_property
    def fold(self) -> StylizeFold:
        """Counts regions."""
        return StylizeFold()

    def make_worker(self, beat: Callable[[], None]) -> StylizeWorker:
        """Load the networks and be ready for shards."""
        return StylizeWorker(self, beat)


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image with its mask.

    Attributes:
        pixels: (H, W, 3) uint8.
        mask: (H, W), the object.
        degenerate: it means nothing.
        sha256: of the file.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    degenerate: bool
    sha256: str


@dataclass(frozen=True, slots=True)
class _Words:
    """A text, as CLIP sees it: its feature, and the direction to it."""

    text: str
    feature: Tensor
    direction: Tensor


class StylizeWorker(RecordWorker[Loaded | None]):
    """Restyles one image after the other."""

    def __init__(self, stage: StylizeStage, beat: Callable[[], None]) -> None:
        options = stage.options
        super().__init__(stage, beat, torch.device(compute_device(options.device)))
        assert stage.plan is not None  # noqa: S101  it is where the masks are
        self._options = options
        models = stage.resolved["models"]
        self._clip, self._vgg = (load_model(role, options, models, str(self.device)) for role in ("clip", "vgg"))
        self._masks = EarlierStage(stage.plan.out, SegmentStage.name)
        self._words = words_of(self._clip, options)
        self._how = procedure_of(options)
        self._checkpoints = Checkpoints(stage.plan.out, options.checkpoint_steps)
        self._identity = json.dumps([stage.settings, models], sort_keys=True)

    def items(self, shards: Iterator[Shard]) -> Iterator[Item]:
        """The images, each with what the masks' stage has of it."""

        def beside(there: CommittedShard) -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = there.rows(list(_MASK)).to_pylist()
            return rows

        return self._masks.items(shards, beside)

    def load(self, item: Item) -> Loaded | None:
        """Read an image and its mask; None for one that has failed before."""
        row = item.beside
        if row["status"] != "ok":
            return None
        data = images.fetch(item.record["uri"], self.limits)
        digest = sha256(data).hexdigest()
        if digest != row["content_sha256"]:
            raise ImageError("changed", "the image is another file than the one its mask is of", "read")
        decoded = images.decode(data, self.limits, self._options.color_profile)
        return Loaded(decoded.rgb, decode(row["mask_rle"]).astype(bool), bool(row["degenerate"]), digest)

    def take(self, item: Item, loaded: Loaded | None, results: Results) -> None:
        """Restyle an image."""
        if loaded is None:
            results.put(item.row, Row({name: item.beside[name] for name in FAILURE}))
            return
        try:
            results.put(item.row, self._row(item, loaded))
        except FloatingPointError as error:
            results.put(item.row, failed(ImageError("not_computable", str(error), "stylize")))

    def _row(self, item: Item, loaded: Loaded) -> Row:
        height, width = loaded.mask.shape
        across, down = working_size(width, height, self._options.side)
        image = _as_tensor(loaded.pixels, self.device)
        small = functional.interpolate(image, (down, across), mode="bicubic", antialias=True).clamp(0, 1)
        masks = {"object": loaded.mask, "background": ~loaded.mask}
        shares = {name: _shrunk(mask, (down, across)) for name, mask in masks.items()}
        reasons = {name: self._why_not(loaded, masks[name], shares[name]) for name in self._words}
        wanted = [name for name in self._words if reasons[name] is None]
        counts = dict(zip(wanted, split_crops(self._how.crops, [float(masks[n].mean()) for n in wanted]), strict=True))
        picture, styled = loaded.pixels, np.zeros_like(loaded.mask)
        styles: list[dict[str, Any]] = []
        for name, words in self._words.items():
            about = {"region": name, "text": words.text, "status": "skipped", "skip_reason": reasons[name]}
            if name in counts:
                with self.timer.step("fit"), arithmetic(self.device, "fp32"):
                    fit = self._fitted(small, shares[name], words, counts[name], (item, name))
                with self.timer.step("compose"):
                    large = functional.interpolate(fit.restyled(), (height, width), mode="bicubic", antialias=True)
                    restyled = (large[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
                    picture = composite(picture, restyled, alpha_of(masks[name], self._options.feather))
                    styled |= masks[name]
                about |= {"status": "styled"} | _figures(fit)
            styles.append(about)
        if wanted:
            with self.timer.step("score"), arithmetic(self.device, "fp32"):
                self._score(styles, loaded.pixels, picture, masks)
        found = leak(loaded.pixels, picture, styled)
        columns = {
            "status": "ok",
            "content_sha256": loaded.sha256,
            "width": width,
            "height": height,
            "working_width": across,
            "working_height": down,
            "area_fraction": float(loaded.mask.mean()),
            "leak_max": found.most,
            "leak_mean": _or_none(found.mean),
            "leak_share": _or_none(found.share),
            "styles": styles,
        }
        target = io.BytesIO()
        Image.fromarray(picture).save(target, "PNG")
        return Row(columns, {PICTURE: File(target.getvalue(), "png")}, state_of(found.most, styles))

    def _why_not(self, loaded: Loaded, mask: NDArray[np.bool_], small: NDArray[np.bool_]) -> str | None:
        """Why a region is left as it is; None if it is restyled."""
        if loaded.degenerate:
            return "the mask is degenerate"
        if not mask.any():
            return "nothing of the image is in it"
        if mask.all():
            return "all of the image is in it"
        return None if small.any() else "it is too small to be seen"

    def _fitted(self, image: Tensor, mask: NDArray[np.bool_], words: _Words, crops: int, of: tuple[Item, str]) -> Fit:
        side = self._how.crop_side(*image.shape[-2:])
        region = Region(torch.from_numpy(mask), words.direction, windows_of(mask, side), crops)
        item, name = of
        about = (item.record["image_id"], name, words.text, self._options.source_text)
        fit = Fit(image, region, self._clip, self._vgg, self._how, seed_of(self._options.seed, *about))
        kept = sha256("\0".join([*about, item.beside["content_sha256"], self._identity]).encode()).hexdigest()[:32]
        state = self._checkpoints.found(item.shard.number, kept)
        if state is not None:
            fit.go_on(state)
        while not fit.over:
            fit.update()
            if not np.isfinite(fit.history.total[-1]):
                raise FloatingPointError(f"the loss of {name} is not finite after {fit.step} updates")
            if self._checkpoints.due(fit.step) or fit.over:
                self._checkpoints.keep(kept, fit.state())
            self._beat()
        return fit

    def _score(
        self,
        styles: list[dict[str, Any]],
        before: NDArray[np.uint8],
        after: NDArray[np.uint8],
        masks: Mapping[str, NDArray[np.bool_]],
    ) -> None:
        """What CLIP and VGG see of the picture as it is delivered, beside what they see of the image."""
        both = [_as_tensor(each, self.device) for each in (before, after)]
        with torch.no_grad():
            maps = [self._vgg.maps(squashed(each, self._options.side // 8 * 8)) for each in both]
            for style in styles:
                if style["status"] != "styled":
                    continue
                mask, words = masks[style["region"]], self._words[style["region"]]
                inside = torch.from_numpy(mask).to(both[0])[None, None]
                source, restyled = (self._clip.encode(squashed(each * inside, self._clip.size)) for each in both)
                found = directions(restyled, source, words.direction)
                style["clip_direction"] = float(found.cosines) if bool(found.known) else None
                style["clip_text"], style["clip_text_before"] = (
                    float(each @ words.feature) for each in (restyled[0], source[0])
                )
                for key, share in (("content_inside", inside), ("content_outside", 1 - inside)):
                    terms = [
                        content_inside(b, a, functional.interpolate(share, a.shape[-2:], mode="area")[0, 0])
                        for a, b in zip(*maps, strict=True)
                    ]
                    style[key] = float(torch.stack(terms).sum())


def words_of(clip: Any, options: StylizeSettings) -> dict[str, _Words]:
    """The texts of the regions that have one.

    Raises:
        SettingsError: one cannot be used, or means what images are already.
    """
    given = {name: getattr(options, name) for name in REGIONS if getattr(options, name)}
    source = text_feature(clip.templates_of(options.source_text))
    found = {}
    for name, text in given.items():
        feature = text_feature(clip.templates_of(text))
        try:
            found[name] = _Words(text, feature, text_direction(feature, source))
        except ValueError as error:
            raise SettingsError(
                f"{name}: {text!r} means the same as --source-text {options.source_text!r}. To mend it: say what it "
                "should become"
            ) from error
    return found


def procedure_of(options: StylizeSettings) -> Procedure:
    """The procedure that settings ask for."""
    return Procedure(
        steps=options.steps,
        crops=options.crops,
        crop=options.crop,
        together=options.together,
        patch=options.patch_weight,
        view=options.view_weight,
        content=options.content_weight,
        variation=options.variation_weight,
        threshold=options.threshold,
        learning_rate=options.style_rate,
        patience=options.patience,
    )


def _as_tensor(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    return torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None].float() / 255


def _shrunk(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(h, w) where at least half of a place is in a mask."""
    found = functional.interpolate(torch.from_numpy(mask)[None, None].float(), size, mode="area")
    return (found[0, 0] >= 0.5).numpy()


def _figures(fit: Fit) -> dict[str, Any]:
    seen = fit.history

    def ends(values: list[float]) -> tuple[float, float]:
        return float(np.mean(values[:_ENDS])), float(np.mean(values[-_ENDS:]))

    loss, patch = ends(seen.total), ends(seen.patches)
    return {
        "steps": fit.step,
        "stopped": fit.stopped,
        "loss_first": loss[0],
        "loss_last": loss[1],
        "patch_first": patch[0],
        "patch_last": patch[1],
        "rejected_last": ends(seen.rejected)[1],
    }


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _stages(job: Job) -> Stages:
    yield StylizeStage(job.settings, job.resolved, job.plan)
    drop(job.folder)


def _check_some(settings: StylizeSettings) -> None:
    if not (settings.object or settings.background):
        raise SettingsError("nothing is to be restyled. To mend it: give --object or --background, in words")


def _check_words(settings: StylizeSettings, models: Mapping[str, Any]) -> None:
    words_of(load_model("clip", settings, models, "cpu"), settings)


STAGES = {StylizeStage.name: StylizeStage}
STEPS = Steps(_stages, StylizeStage.name, roles=("clip", "vgg"), check=_check_some, check_models=_check_words)
