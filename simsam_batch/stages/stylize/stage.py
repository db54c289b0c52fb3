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

from simsam_batch import images
from simsam_batch.errors import ImageError, SettingsError
from simsam_batch.features.precision import arithmetic
from simsam_batch.regions.run_lengths import decode
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.schema import Attachment, File, Shard
from simsam_batch.settings import Images, Limits, Numbers
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.regions.stage import RegionsStage
from simsam_batch.stages.segment.stage import SegmentStage
from simsam_batch.stages.semantic.stage import SemanticStage
from simsam_batch.stages.steps import Job, Stages, Steps
from simsam_batch.stages.stylize.checkpoints import Checkpoints, drop
from simsam_batch.stages.stylize.looks import OBJECT, Look, label_of, look_of, pictures_of, read_looks
from simsam_batch.stages.stylize.rows import STYLIZE_FIELDS, StylizeFold, state_of
from simsam_batch.stages.stylize.settings import Style, StylizeSettings
from simsam_batch.styling.composite import Leak, alpha_of, composite, leak
from simsam_batch.styling.crops import windows_of
from simsam_batch.styling.fitting import Fit, Procedure, Region, split_crops, squashed
from simsam_batch.styling.losses import content_inside, directions, text_direction, text_feature
from simsam_batch.styling.network import working_size
from simsam_batch.workers.models import compute_device, load_model
from simsam_batch.workers.records import FAILURE, EarlierStage, Item, RecordWorker, Results, Row, failed
from simsam_batch.workers.seeds import seed_of

_OF_MASKS: dict[str, tuple[str, ...]] = {SegmentStage.name: (*FAILURE, "mask_rle", "degenerate", "content_sha256")}
_OF_LABELS: dict[str, tuple[str, ...]] = {
    SemanticStage.name: (*FAILURE, "segments"),
    RegionsStage.name: (*FAILURE, "content_sha256"),
}
_ENDS = 10


@dataclass(frozen=True)
class StylizeStage(CommandStage[StylizeSettings]):
    """Restyles the object, the background, or both, of every image that has a mask."""

    name = "stylize"
    components = (Images, Limits, Numbers, Style)
    fields = STYLIZE_FIELDS

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # what it rests on goes by what is restyled
        """The stages that the regions are of."""
        return tuple(_columns_of(self.options.looks))

    @cached_property
    def fold(self) -> StylizeFold:
        """Counts regions."""
        return StylizeFold()

    def make_worker(self, beat: Callable[[], None]) -> StylizeWorker:
        """Load the networks and be ready for shards."""
        return StylizeWorker(self, beat)


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image with its regions.

    Attributes:
        pixels: (H, W, 3) uint8.
        masks: (H, W) of each region that some look has words for.
        degenerate: the mask of the object means nothing.
        sha256: of the file.
    """

    pixels: NDArray[np.uint8]
    masks: dict[str, NDArray[np.bool_]]
    degenerate: bool
    sha256: str


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
        self._sources = {
            name: (EarlierStage(stage.plan.out, name), columns) for name, columns in _columns_of(options.looks).items()
        }
        self._words = words_of(self._clip, options)
        self._how = procedure_of(options)
        self._checkpoints = Checkpoints(stage.plan.out, options.checkpoint_steps)
        self._identity = json.dumps([stage.settings, models], sort_keys=True)

    def items(self, shards: Iterator[Shard]) -> Iterator[Item]:
        """The images, each with what the stages of its regions have of it."""

        def beside(there: CommittedShard) -> list[dict[str, Any]]:
            return [self._joined(rows) for rows in zip(*self._rows_beside(there), strict=True)]

        first, _ = next(iter(self._sources.values()))
        return first.items(shards, beside)

    def _rows_beside(self, there: CommittedShard) -> Iterator[list[dict[str, Any]]]:
        """The rows of a shard in each of the stages; shards of one plan have their images in one order."""
        for earlier, columns in self._sources.values():
            rows: list[dict[str, Any]] = earlier.shard(there.number).rows(list(columns)).to_pylist()
            yield rows

    @staticmethod
    def _joined(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What all stages have of one image; of the failure where one has failed."""
        merged: dict[str, Any] = {}
        for row in rows:
            merged |= row
        bad = next((row for row in rows if row["status"] != "ok"), rows[0])
        digests = {row["content_sha256"] for row in rows if row.get("content_sha256")}
        return merged | {name: bad[name] for name in FAILURE} | {"digests": digests}

    def load(self, item: Item) -> Loaded | None:
        """Read an image and its regions; None for one that has failed before."""
        row = item.beside
        if row["status"] != "ok":
            return None
        data = images.fetch(item.record["uri"], self.limits)
        digest = sha256(data).hexdigest()
        if row["digests"] != {digest}:
            raise ImageError("changed", "the image is another file than the one its mask is of", "read")
        decoded = images.decode(data, self.limits, self._options.color_profile)
        names = {name for look in self._words for name in look}
        masks = {name: _mask_of(name, row, decoded.rgb.shape[:2]) for name in names}
        return Loaded(decoded.rgb, masks, bool(row.get("degenerate")), digest)

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
        height, width = loaded.pixels.shape[:2]
        across, down = working_size(width, height, self._options.side)
        image = _as_tensor(loaded.pixels, self.device)
        small = functional.interpolate(image, (down, across), mode="bicubic", antialias=True).clamp(0, 1)
        scene = _Scene(small, {name: _shrunk(mask, (down, across)) for name, mask in loaded.masks.items()}, {})
        made = {
            name: self._picture(item, loaded, scene, words)
            for name, words in zip(pictures_of(self._words), self._words, strict=True)
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
            "leak_mean": _or_none(worst.mean),
            "leak_share": _or_none(worst.share),
            "styles": styles,
        }
        files: dict[str, Attachment] = {name: File(_png(one.pixels), "png") for name, one in made.items()}
        return Row(columns, files, state_of(worst.most, styles))

    def _picture(self, item: Item, loaded: Loaded, scene: _Scene, look: Mapping[str, _Words]) -> _Restyled:
        """One look of an image."""
        reasons = {name: self._why_not(loaded, name, scene.shares[name]) for name in look}
        wanted = [name for name in look if reasons[name] is None]
        shares = [float(loaded.masks[name].mean()) for name in wanted]
        counts = dict(zip(wanted, split_crops(self._how.crops, shares), strict=True))
        height, width = loaded.pixels.shape[:2]
        picture, styled = loaded.pixels, np.zeros((height, width), np.bool_)
        styles: list[dict[str, Any]] = []
        for name, words in look.items():
            about = {"region": name, "text": words.text, "status": "skipped", "skip_reason": reasons[name]}
            if name in counts:
                with self.timer.step("fit"), arithmetic(self.device, "fp32"):
                    key = (name, words.text, counts[name])
                    if key not in scene.fits:
                        scene.fits[key] = self._fitted(
                            scene.small, scene.shares[name], words, counts[name], (item, name)
                        )
                    fit = scene.fits[key]
                with self.timer.step("compose"):
                    large = functional.interpolate(fit.restyled(), (height, width), mode="bicubic", antialias=True)
                    restyled = (large[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
                    alpha = alpha_of(loaded.masks[name], self._options.feather)
                    picture = composite(picture, restyled, alpha)
                    styled |= loaded.masks[name]
                about |= {"status": "styled"} | _figures(fit)
            styles.append(about)
        if wanted:
            with self.timer.step("score"), arithmetic(self.device, "fp32"):
                self._score(styles, loaded.pixels, picture, loaded.masks, look)
        return _Restyled(picture, styles, leak(loaded.pixels, picture, styled))

    def _why_not(self, loaded: Loaded, name: str, small: NDArray[np.bool_]) -> str | None:
        """Why a region is left as it is; None if it is restyled."""
        mask = loaded.masks[name]
        if loaded.degenerate and label_of(name) is None:
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
        look: Mapping[str, _Words],
    ) -> None:
        """What CLIP and VGG see of the picture as it is delivered, beside what they see of the image."""
        both = [_as_tensor(each, self.device) for each in (before, after)]
        with torch.no_grad():
            maps = [self._vgg.maps(squashed(each, self._options.side // 8 * 8)) for each in both]
            for style in styles:
                if style["status"] != "styled":
                    continue
                mask, words = masks[style["region"]], look[style["region"]]
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


def words_of(clip: Any, options: StylizeSettings) -> list[dict[str, _Words]]:
    """The texts of each look, as CLIP sees them.

    Raises:
        SettingsError: one cannot be used, or means what images are already.
    """
    source = text_feature(clip.templates_of(options.source_text))
    found: dict[str, _Words] = {}
    for look in options.looks:
        for region, text in look.items():
            if text in found:
                continue
            feature = text_feature(clip.templates_of(text))
            try:
                found[text] = _Words(text, feature, text_direction(feature, source))
            except ValueError as error:
                raise SettingsError(
                    f"{region}: {text!r} means the same as --source-text {options.source_text!r}. To mend it: say what "
                    "it should become"
                ) from error
    return [{region: found[text] for region, text in look.items()} for look in options.looks]


def _columns_of(looks: Sequence[Look]) -> dict[str, tuple[str, ...]]:
    """The stages that regions are of, and what is read of each."""
    labels = {label_of(region) is not None for look in looks for region in look}
    return (_OF_MASKS if False in labels else {}) | (_OF_LABELS if True in labels else {})


def _mask_of(region: str, row: Mapping[str, Any], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """(H, W) of a region, empty if the image has none of it."""
    label = label_of(region)
    if label is None:
        mask = decode(row["mask_rle"]).astype(bool)
        return mask if region == OBJECT else ~mask
    found = np.zeros(size, np.bool_)
    for segment in row["segments"]:
        if segment["label"] == label:
            found |= decode(segment["mask_rle"]).astype(bool)
    return found


def _png(pixels: NDArray[np.uint8]) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return target.getvalue()


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


def _completed(settings: StylizeSettings, out: str) -> Any:
    """The settings with the looks that flags or a file ask for.

    Raises:
        SettingsError: nothing is to be restyled, or the file cannot be used.
    """
    del out
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
    return settings.model_copy(update={"looks": tuple(looks)})


def _check_words(settings: StylizeSettings, models: Mapping[str, Any]) -> None:
    words_of(load_model("clip", settings, models, "cpu"), settings)


STAGES = {StylizeStage.name: StylizeStage}
STEPS = Steps(_stages, StylizeStage.name, roles=("clip", "vgg"), complete=_completed, check_models=_check_words)
