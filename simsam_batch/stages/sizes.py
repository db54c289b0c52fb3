"""How large a run's output will be, judged before its start."""

from __future__ import annotations

from contextlib import suppress

from simsam_batch import images
from simsam_batch.errors import ImageError, UnreadableError
from simsam_batch.runs.plan import Plan
from simsam_batch.settings import NetworkSettings
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
    limits = images.ImageLimits(settings.max_bytes, settings.max_pixels, settings.decode_seconds)
    resize = images.parse_resize(settings.resize)
    patches = []
    uris = [
        plan.shard(n).records.column("uri")[0].as_py() for n in {i * plan.shards // _SAMPLE for i in range(_SAMPLE)}
    ]
    # what is not given at once is not waited for: this is an estimate
    for uri, given in zip(uris, read_ahead(uris, is_given, threads=_SAMPLE, most=_SAMPLE, name="sizes"), strict=True):
        if not given:
            continue
        with suppress(ImageError, UnreadableError):
            size = images.image_size(images.fetch(uri, limits), limits)
            height, width = images.working_size(size, resize)
            patches.append((height // patch) * (width // patch))
    return sum(patches) / len(patches) if patches else None
