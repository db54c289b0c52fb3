"""From settings to loaded models by role: the driver resolves each once, every worker loads the very same weights."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from simsam_batch.errors import RunError, SettingsError
from simsam_batch.settings import FeatureSettings, NetworkSettings
from simsam_batch.storage import ObjectNotFound, read_url, redact

if TYPE_CHECKING:
    import torch

    from simsam_batch.features.contract import Backbone
    from simsam_batch.features.vit import ViTBackbone

DESCRIPTORS = "descriptors"
DIFFUSION = "diffusion"

Loaded = tuple[Any, dict[str, Any]]
"""A model, and what identifies it, the digest of its weights among it, as plain JSON values."""


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


def device_name(device: torch.device) -> str:
    """What a worker computes on, for the facts of its manifests: the GPU's name, or ``cpu``."""
    import torch

    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


def resolve_models(
    roles: Sequence[str], settings: NetworkSettings, check: Callable[[str, Any], None] | None = None
) -> dict[str, Any]:
    """What the models of some roles come down to: name, block, patch, normalisation and the digest of the weights.

    Each is loaded once for it, so that a wrong name, block or file is found before any work is done.

    Args:
        roles: names in `ROLES`.
        settings: of the command.
        check: given each role with its model, while it is loaded, refuses what cannot be right with it.

    Returns:
        Facts by role, without the roles that the settings have no model for.

    Raises:
        SettingsError: an unknown model or block, or weights that do not fit it.
    """
    found: dict[str, Any] = {}
    for role in roles:
        model, found[role] = ROLES[role](settings, "cpu")
        if check is not None:
            check(role, model)
    return {role: facts for role, facts in found.items() if facts}


def load_model(role: str, settings: NetworkSettings, resolved: Mapping[str, Any], device: str) -> Any:
    """The model of a role on ``device``, with exactly the weights that the driver resolved.

    Args:
        role: a name in `ROLES`.
        settings: of the command.
        resolved: what `resolve_models` gave, under the role's name.
        device: torch's name of the device.

    Returns:
        The model; None where the settings have none for this role.

    Raises:
        RunError: the weights have changed since.
    """
    model, found = ROLES[role](settings, device)
    recorded = resolved.get(role, {})
    for key, value in found.items():
        if recorded.get(key) != value:
            raise RunError(
                f"the {role} is not the one this run began with: {key} was {recorded.get(key)!r}, here it is {value!r}"
                ". To mend it: give the weights that the run began with, or use another OUT"
            )
    return model


def _backbone(settings: FeatureSettings, device: str) -> tuple[Backbone, dict[str, Any]]:
    """What describes the patches."""
    if settings.backbone == DESCRIPTORS:
        from simsam_batch.features.descriptors import Descriptors

        weightless = Descriptors()
        return weightless, weightless.describe()
    if settings.backbone == DIFFUSION:
        raise SettingsError(
            "backbone: diffusion describes patches for simsam features, probe, correspond and transfer alone. To mend "
            "it: name a ViT"
        )
    from simsam_batch.features.backbones import load_backbone

    return _network(load_backbone, settings, device, block=settings.block, facet=settings.facet)


def _encoder(settings: Any, device: str) -> tuple[ViTBackbone | None, dict[str, Any]]:
    """The same network uncut, to describe crops by; None where regions are described by their patches."""
    if settings.region_feature == "patches" or settings.backbone == DESCRIPTORS:
        return None, {}
    from simsam_batch.features.backbones import load_backbone

    encoder, found = _network(load_backbone, settings, device, facet="token", whole=True)
    return encoder, {name: found[name] for name in ("name", "weights_sha256")}


def _taps(settings: Any, device: str) -> tuple[Any, dict[str, Any]]:
    """What gives several facets of several blocks at once, of pictures and of their mirror images if asked for."""
    taps, found = _taps_one_way(settings, device)
    if not settings.mirrored:
        return taps, found
    from simsam_batch.features.taps import TappedBothWays

    both = TappedBothWays(taps)
    return both, found | {"channels_of": both.channels_of}


def _taps_one_way(settings: Any, device: str) -> tuple[Any, dict[str, Any]]:
    if settings.backbone == DESCRIPTORS:
        from simsam_batch.features.taps import TappedDescriptors

        weightless = TappedDescriptors(settings.blocks, settings.facets)
        return weightless, weightless.describe()
    if settings.backbone == DIFFUSION:
        return _tapped_diffusion(settings, device)
    from simsam_batch.features.backbones import load_taps

    kept = {name: getattr(settings, name) for name in ("blocks", "facets", "class_token", "registers", "facet_norm")}
    return _network(load_taps, settings, device, **kept)


def _tapped_diffusion(settings: Any, device: str) -> tuple[Any, dict[str, Any]]:
    """What gives features of the UNet of Stable Diffusion, from a local folder."""
    from simsam_batch.features.diffusion import digest_of, load_diffusion, load_prompt
    from simsam_batch.features.diffusion_taps import TappedDiffusion

    folder, dtype = _diffusion_folder(settings), _diffusion_dtype(settings, device)
    asked = {name: getattr(settings, name) for name in ("blocks", "facets", "timestep", "draws")}
    try:
        networks = load_diffusion(folder, dtype=dtype, device=device)
        taps = TappedDiffusion(*networks, load_prompt(folder, settings.prompt), **asked)
        taps.require_fit()
    except ValueError as error:
        raise SettingsError(f"weights: {error}") from error
    found = taps.describe() | {"weights_sha256": digest_of(folder, prompts=True)}
    # as of other networks: driver and workers may compute on different devices
    del found["precision"]
    return taps, found


def _diffusion_folder(settings: NetworkSettings) -> str:
    """Where Stable Diffusion is.

    Raises:
        SettingsError: none is given, or what reads it is not installed.
    """
    if any(find_spec(name) is None for name in ("diffusers", "transformers")):
        raise SettingsError(
            "Stable Diffusion is read by diffusers and transformers, which are not both installed. To mend it: pip "
            "install 'simsam-batch[diffusion]'"
        )
    if settings.weights is None:
        raise SettingsError(
            "weights: none are given. To mend it: name a folder in the layout of diffusers, of Stable Diffusion 1.4, "
            "1.5 or a like one; nothing is fetched"
        )
    return settings.weights


def _diffusion_dtype(settings: NetworkSettings, device: str) -> Any:
    import torch

    return torch.bfloat16 if precision_of(settings, device) == "bf16" else torch.float32


def _diffusion(settings: Any, device: str) -> tuple[Any, dict[str, Any]]:
    """What gives the cross-attention of Stable Diffusion, from a local folder."""
    from simsam_batch.features.diffusion import DiffusionAttention, digest_of, load_diffusion

    folder, dtype = _diffusion_folder(settings), _diffusion_dtype(settings, device)
    try:
        model = DiffusionAttention(*load_diffusion(folder, dtype=dtype, device=device), settings.layers, settings.heads)
    except ValueError as error:
        raise SettingsError(f"weights: {error}") from error
    if settings.side % model.least_side:
        mend = f"To mend it: give a multiple of {model.least_side}"
        raise SettingsError(f"side: {settings.side} pixels do not halve as often as the networks do. {mend}")
    return model, {"width": model.width, "weights_sha256": digest_of(folder)}


def _network(load: Callable[..., Any], settings: NetworkSettings, device: str, **asked: Any) -> Loaded:
    """A network with its weights, by one of the loaders of `simsam_batch.features.backbones`, and its facts."""
    with weights_file(settings.weights) as (path, digest):
        precision = precision_of(settings, device)
        chosen = {"weights": path, "checkpoint_part": settings.checkpoint_part}
        network = load(settings.backbone, **chosen, device=device, precision=precision, **asked)
    found = network.describe() | {"weights_sha256": digest or network.digest()}
    # Driver and workers may compute on different devices; what each used stands in the manifests.
    del found["precision"]
    return network, found


def _clip(settings: Any, device: str) -> tuple[Any, dict[str, Any]]:
    """What judges a style."""
    return _loaded_clip(settings, "clip", device, precision_of(settings, device))


def _score_clip(settings: Any, device: str) -> tuple[Any, dict[str, Any]]:
    """What tells how well a style went, if it is not what judges it; None if it is."""
    if settings.score_clip:
        return _loaded_clip(settings, "score_clip", device)
    if settings.score_clip_weights:
        raise SettingsError("score_clip_weights: of which network? To mend it: give --score-clip NAME")
    return None, {}


def _loaded_clip(
    settings: Any, setting: str, device: str, precision: Literal["fp32", "bf16"] = "fp32"
) -> tuple[Any, dict[str, Any]]:
    """The network that a setting names, with the weights that the one beside it does."""
    from simsam_batch.features.clip import load_clip

    weights = f"{setting}_weights"
    with _given(weights, getattr(settings, weights), "CLIP, in the layout of open_clip") as (path, digest):
        clip = load_clip(getattr(settings, setting), str(path), device, precision=precision)
    return clip, {"name": clip.name, "weights_sha256": digest, "size": clip.size, "gelu": clip.gelu}


def _vgg(settings: Any, device: str) -> tuple[Any, dict[str, Any]]:
    """What sees what an image is of."""
    from simsam_batch.features.vgg import load_vgg

    with _given("vgg_weights", settings.vgg_weights, "VGG-19, as torchvision names them") as (path, digest):
        vgg = load_vgg(str(path), device, precision=precision_of(settings, device))
        return vgg, {"weights_sha256": digest}


@contextmanager
def _given(setting: str, url: str | None, what: str) -> Iterator[tuple[Path | None, str | None]]:
    """A file of weights that must be given, and its digest.

    Raises:
        SettingsError: it is not.
    """
    if url is None:
        flag = "--" + setting.replace("_", "-")
        raise SettingsError(f"{setting}: none are given, and nothing is fetched. To mend it: {flag} FILE, {what}")
    with weights_file(url) as found:
        yield found


ROLES: Mapping[str, Callable[[Any, str], Loaded]] = {
    "backbone": _backbone,
    "encoder": _encoder,
    "taps": _taps,
    "diffusion": _diffusion,
    "clip": _clip,
    "score_clip": _score_clip,
    "vgg": _vgg,
}
"""What loads the model of each role on a device, as the settings say."""


def precision_of(settings: NetworkSettings, device: str) -> Literal["fp32", "bf16"]:
    """Of the forward pass on a device: bf16 only where a GPU has been seen to do it right."""
    on_gpu = device.startswith("cuda")
    asked = ("bf16" if on_gpu else "fp32") if settings.precision == "auto" else settings.precision
    if asked == "fp32" or not on_gpu:
        return asked
    from simsam_batch.features.trial import bf16_trouble

    return "fp32" if bf16_trouble(device) else "bf16"


def replaced_on(device: torch.device) -> list[str]:
    """What a device was seen to do wrong, so that something else takes its place; in words."""
    if device.type != "cuda":
        return []
    from simsam_batch.features.trial import bf16_trouble
    from simsam_batch.spectral.paths import paths_on

    bf16 = bf16_trouble(str(device))
    return [*([bf16] if bf16 else []), *paths_on(device).replaced]


@contextmanager
def weights_file(url: str | None) -> Iterator[tuple[Path | None, str | None]]:
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
