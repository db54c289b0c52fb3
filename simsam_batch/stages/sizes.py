"""How large images and a run's output will be, judged before its start."""

from __future__ import annotations

from functools import lru_cache

from simsam_batch import images
from simsam_batch.errors import ImageError, SettingsError, UnreadableError
from simsam_batch.runs.plan import Plan
from simsam_batch.settings import NetworkSettings, RunSettings
from simsam_batch.storage import is_given, read_ahead

_SAMPLE = 8


def mean_patches(plan: Plan, settings: NetworkSettings, patch: int) -> float | None:
    """About how many patches an image has, by the sizes of up to eight images spread over the plan.

    Args:
        plan: of images.
        settings: of the command.
        patch: side of a patch in pixels.

    Returns:
        None if no image of the sample can be read.
    """
    resize = images.parse_resize(settings.resize)
    sizes = [seen for seen in _sampled(plan, _limits(settings)) if not isinstance(seen, str)]
    grids = [_grid(images.working_size(size, resize), patch) for size in sizes]
    return sum(rows * columns for rows, columns in grids) / len(grids) if grids else None


def check_grid(settings: RunSettings, patch: int) -> None:
    """Refuse a resize under which every image would be over a limit.

    Args:
        settings: with the resize and the limits.
        patch: side of a patch in pixels.

    Raises:
        SettingsError: naming the resize, the limit and the flags.
    """
    resize = images.parse_resize(settings.resize)
    # Of images of one size for the shorter side, the square one is the smallest.
    smallest = images.working_size((1, 1), resize)
    if resize.kind != "native" and (fault := _over_a_limit(smallest, settings, patch)):
        least = "" if resize.kind == "exact" else "at least "
        raise SettingsError(
            f"resize: {resize} makes every image {least}{fault}, so that all would fail. To mend it: choose a smaller "
            "--resize, or raise that limit"
        )


def too_large_note(plan: Plan, settings: RunSettings, patch: int) -> str | None:
    """What is worth saying before the start: how many of a sample of images would fail for being too large.

    Args:
        plan: of images.
        settings: with the resize and the limits.
        patch: side of a patch in pixels.

    Returns:
        None if none would.
    """
    resize = images.parse_resize(settings.resize)
    seen = _sampled(plan, _limits(settings))
    faults = [
        each if isinstance(each, str) else _over_a_limit(images.working_size(each, resize), settings, patch)
        for each in seen
    ]
    over = [fault for fault in faults if fault]
    if not over:
        return None
    capped = f"A smaller --resize than {resize} caps their size"
    if resize.kind == "native":
        capped = "--resize native, the published rule of the presets, keeps their size; --resize short:384 caps it"
    return (
        f"{len(over)} of {len(seen)} images looked at will fail as too_large; one has {over[0]}. {capped}. A higher "
        "limit takes them as they are, and memory that grows with the square of the patches"
    )


def _over_a_limit(size: tuple[int, int], settings: RunSettings, patch: int) -> str:
    """How an image of a working size (height, width) is over a limit; empty if it is not."""
    height, width = size
    rows, columns = _grid(size, patch)
    if height * width > settings.max_pixels:
        return f"{width}x{height} pixels, more than --max-pixels {settings.max_pixels}"
    if rows * columns > settings.max_patches:
        return f"{width}x{height} pixels in {rows}x{columns} patches, more than --max-patches {settings.max_patches}"
    return ""


def _grid(size: tuple[int, int], patch: int) -> tuple[int, int]:
    return size[0] // patch, size[1] // patch


def _limits(settings: RunSettings) -> images.ImageLimits:
    return images.ImageLimits(settings.max_bytes, settings.max_pixels, settings.decode_seconds)


@lru_cache(maxsize=1)
def _sampled(plan: Plan, limits: images.ImageLimits) -> tuple[tuple[int, int] | str, ...]:
    """Of up to eight images spread over the plan the size (height, width), or how the file itself is over a limit.

    What cannot be read tells neither, and is left to those who work on it.
    """
    seen: list[tuple[int, int] | str] = []
    uris: list[str] = []
    for number in sorted({i * plan.shards // _SAMPLE for i in range(_SAMPLE)}):
        # small plans have fewer shards than images are looked at
        uris += plan.shard(number).records.column("uri").slice(0, -(-_SAMPLE // plan.shards)).to_pylist()
    # what is not given at once is not waited for: this is an estimate
    for uri, given in zip(uris, read_ahead(uris, is_given, threads=_SAMPLE, most=_SAMPLE, name="sizes"), strict=True):
        if not given:
            continue
        try:
            seen.append(images.image_size(images.fetch(uri, limits), limits))
        except ImageError as error:
            if error.kind == "too_large":
                seen.append(error.message.partition(". To mend it")[0])
        except UnreadableError:
            continue
    return tuple(seen)
