"""From settings to a loaded backbone: the driver resolves it once, every worker loads the very same weights."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from simsam_batch.errors import RunError, SettingsError
from simsam_batch.settings import FeatureSettings
from simsam_batch.storage import ObjectNotFound, read_url, redact

if TYPE_CHECKING:
    from simsam_batch.features.contract import Backbone
    from simsam_batch.features.vit import ViTBackbone

DESCRIPTORS = "descriptors"


def compute_device(device: str) -> str:
    """``cuda`` or ``cpu``: the device that ``auto`` comes down to on this machine.

    Raises:
        SettingsError: ``cuda`` is asked for and there is none.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        msg = "device: 'cuda' was asked for and this machine has no usable CUDA device; use --device cpu or auto"
        raise SettingsError(msg)
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def resolve_backbone(settings: FeatureSettings) -> dict[str, Any]:
    """What the backbone settings come down to: name, block, patch, normalisation and the digest of the weights.

    The backbone is loaded once for it, so that a wrong name, block or file is found before any work is done.

    Raises:
        SettingsError: an unknown backbone or block, or weights that do not fit it.
    """
    return _load(settings, "cpu")[1]


def load_backbone(settings: FeatureSettings, resolved: dict[str, Any], device: str) -> Backbone:
    """The backbone on ``device``, with exactly the weights that the driver resolved.

    Raises:
        RunError: the weights have changed since.
    """
    backbone, found = _load(settings, device)
    for key, value in found.items():
        if resolved.get(key) != value:
            was = resolved.get(key)
            msg = f"the backbone is not the one this run began with: {key} was {was!r}, here it is {value!r}"
            raise RunError(msg)
    return backbone


def _load(settings: FeatureSettings, device: str) -> tuple[Backbone, dict[str, Any]]:
    if settings.backbone == DESCRIPTORS:
        from simsam_batch.features.descriptors import Descriptors

        weightless = Descriptors()
        return weightless, weightless.describe()
    from simsam_batch.features import backbones

    with _weights_file(settings.weights) as (path, digest):
        backbone = backbones.load_backbone(
            settings.backbone,
            weights=path,
            block=settings.block,
            facet=settings.facet,
            device=device,
            precision=_precision(settings, device),
        )
    found = backbone.describe() | {"weights_sha256": digest or backbone.digest()}
    # Driver and workers may compute on different devices; what each used stands in the manifests.
    del found["precision"]
    return backbone, found


def load_encoder(settings: FeatureSettings, resolved: dict[str, Any], device: str) -> ViTBackbone | None:
    """The same network uncut, to describe crops by; None of descriptors, which know no crops.

    Raises:
        RunError: the weights have changed since the driver resolved them.
    """
    if settings.backbone == DESCRIPTORS:
        return None
    from simsam_batch.features import backbones

    with _weights_file(settings.weights) as (path, digest):
        encoder = backbones.load_backbone(
            settings.backbone,
            weights=path,
            facet="token",
            device=device,
            precision=_precision(settings, device),
            whole=True,
        )
    if digest is not None and digest != resolved.get("weights_sha256"):
        msg = f"the weights are not those this run began with: {resolved.get('weights_sha256')}, here {digest}"
        raise RunError(msg)
    return encoder


def _precision(settings: FeatureSettings, device: str) -> Literal["fp32", "bf16"]:
    if settings.precision == "auto":
        return "bf16" if device.startswith("cuda") else "fp32"
    return settings.precision


@contextmanager
def _weights_file(url: str | None) -> Iterator[tuple[Path | None, str | None]]:
    """A local file of the weights at ``url`` and its sha256; a remote one is copied for as long as it is read."""
    if url is None:
        yield None, None
        return
    if "://" not in url:
        from simsam_batch.features.weights import weights_digest

        data = Path(url)
        yield data, weights_digest(data)
        return
    try:
        content = read_url(url)
    except ObjectNotFound as error:
        msg = f"weights: there is nothing at {redact(url)}"
        raise SettingsError(msg) from error
    with tempfile.NamedTemporaryFile(prefix="simsam-weights-") as copy:
        copy.write(content)
        copy.flush()
        yield Path(copy.name), hashlib.sha256(content).hexdigest()
