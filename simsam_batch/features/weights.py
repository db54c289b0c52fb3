"""Weights files: read without running code, brought to timm's key names, fitted to a model or refused."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from simsam_batch.errors import SettingsError
from simsam_batch.features.contract import Triple

# Where training scripts put the network inside a checkpoint. The teacher is what DINO and iBOT evaluate.
_NESTS = ("teacher", "student", "state_dict", "model_ema", "model")
_PREFIXES = ("module.", "backbone.")

# Parameters that belong to no block: classifiers, projection heads, final norms, mask tokens of masked-image training.
_NOT_BACKBONE = re.compile(
    r"(head|head_dist|fc|fc_norm|norm|attn_pool|dino_head|ibot_head|ibot_loss|dino_loss)\.|(mask_token|masked_embed)$"
)
_ONLY_IN_IBOT = re.compile(r"masked_embed$|head\.last_layer2\.")
_ONLY_IN_RELEASED_DINOV2_OR_V3 = ("mask_token", "register_tokens", "storage_tokens")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of a weights file under timm's names.

    Attributes:
        path: the file.
        layout: whose key layout it had: ``timm`` (or plain: the same names), ``dino``, ``ibot``.
        tensors: by name, on the CPU, float32.
        arch: the model the file says it is for; empty if it does not say.
        mean, std: the normalisation recorded in the file, None if it has none.
    """

    path: Path
    layout: str
    tensors: dict[str, Tensor]
    arch: str = ""
    mean: Triple | None = None
    std: Triple | None = None


def weights_digest(path: Path) -> str:
    """Sha256 of a file's bytes, as lower-case hex.

    Raises:
        SettingsError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SettingsError(f"the weights file {path} cannot be read: {error.strerror or error}") from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a safetensors or torch file, told apart by content; nothing in it is executed.

    Torch files are read with ``weights_only=True``; of Python's classes only `argparse.Namespace` is let through,
    which full DINO and iBOT checkpoints hold. Nesting (``teacher``, else ``student``, ``state_dict``, ``model``) and
    prefixes (``module.``, ``backbone.``, at the start of a key only) are taken off.

    Raises:
        SettingsError: no such file, damaged, holds code, or holds no tensors.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise SettingsError(f"the weights file {path} cannot be read: {error.strerror or error}") from error
    if start[8:9] == b"{":
        content, metadata = _read_safetensors(path)
    else:
        content, metadata = _read_torch(path), {}

    named, self_distilled = _network_of(content)
    if not named:
        raise SettingsError(f"the weights file {path} holds no tensors under any known layout (timm, DINO, iBOT)")
    names = {key: _without_prefixes(key) for key in named}
    self_distilled |= any("backbone." in key.removesuffix(name) for key, name in names.items())
    is_ibot = "ibot_loss" in content or any(map(_ONLY_IN_IBOT.search, named))
    return Checkpoint(
        path=path,
        layout="ibot" if is_ibot else "dino" if self_distilled else "timm",
        tensors={names[key]: value for key, value in named.items()},
        arch=metadata.get("arch", ""),
        mean=_three_numbers(metadata, "mean", path),
        std=_three_numbers(metadata, "std", path),
    )


def fit_checkpoint(model: Any, name: str, checkpoint: Checkpoint, is_needed: Callable[[str], bool]) -> None:
    """Load a checkpoint into a timm ViT; every needed parameter comes from the file or nothing is loaded.

    A learned position table of another square size is accepted: the model takes over its grid.

    Args:
        model: timm's model, changed in place.
        name: what the user calls it, for messages.
        checkpoint: the file's content.
        is_needed: whether a parameter, by timm's name, takes part in what will be computed.

    Raises:
        SettingsError: needed parameters are missing or have other shapes, or the file holds backbone parameters that
            the model does not know; the message names the first few of each.
    """
    tensors = _to_timm_names(model, checkpoint)
    _adopt_position_grid(model, tensors)
    known = model.state_dict()
    needed = {key: value.shape for key, value in known.items() if is_needed(key)}
    missing = [key for key in needed if key not in tensors]
    misshapen = [
        f"{key} (file {tuple(tensors[key].shape)}, model {tuple(shape)})"
        for key, shape in needed.items()
        if key in tensors and tensors[key].shape != shape
    ]
    unexpected = [key for key in tensors if key not in known and not _NOT_BACKBONE.match(key)]
    if missing or misshapen or unexpected:
        matched = len(needed) - len(missing) - len(misshapen)
        parts = [f"{matched} of the {len(needed)} tensors needed match"]
        for what, keys in (("missing", missing), ("of another shape", misshapen), ("unexpected", unexpected)):
            if keys:
                rest = f", and {len(keys) - 3} more" if len(keys) > 3 else ""
                parts.append(f"{len(keys)} {what}: {', '.join(keys[:3])}{rest}")
        says = f" (it says it is for {checkpoint.arch})" if checkpoint.arch else ""
        raise SettingsError(
            f"the weights file {checkpoint.path}{says} does not fit the backbone {name}: {'; '.join(parts)}. "
            "Give the backbone the file was made for, or another file"
        )
    model.load_state_dict({key: tensors[key] for key in needed}, strict=False)


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise SettingsError(f"the weights file {path} is a damaged safetensors file: {error}") from error


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged pickle stream can end in nearly any exception.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SettingsError(
            f"the weights file {path} is neither safetensors nor a torch file that loads without running code "
            f"(weights_only=True): {reason[:300]}"
        ) from error
    if not isinstance(content, Mapping):
        raise SettingsError(f"the weights file {path} holds a {type(content).__name__}, not a table of named tensors")
    return content


def _network_of(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], bool]:
    """Tensors of the innermost network, and whether a teacher or student held it."""
    self_distilled = False
    for _ in _NESTS:
        nest = next((nest for nest in _NESTS if isinstance(content.get(nest), Mapping)), None)
        if nest is None:
            break
        self_distilled |= nest in {"teacher", "student"}
        content = content[nest]
    # safetensors knows no nesting: there the same stands in front of the names.
    for start in ("teacher.", "student."):
        if inside := {key.removeprefix(start): value for key, value in content.items() if str(key).startswith(start)}:
            content, self_distilled = inside, True
            break
    return {str(key): value.float() for key, value in content.items() if isinstance(value, Tensor)}, self_distilled


def _without_prefixes(key: str) -> str:
    while prefix := next((prefix for prefix in _PREFIXES if key.startswith(prefix)), ""):
        key = key.removeprefix(prefix)
    return key


def _three_numbers(metadata: Mapping[str, str], key: str, path: Path) -> Triple | None:
    """Read ``0.5,0.5,0.5`` or the same as a JSON list."""
    text = metadata.get(key)
    if text is None:
        return None
    try:
        red, green, blue = (float(number) for number in json.loads(f"[{text.strip().strip('[]')}]"))
    except (ValueError, TypeError) as error:
        raise SettingsError(f"the weights file {path} records {key}={text!r}: three numbers were expected") from error
    if not all(map(math.isfinite, (red, green, blue))) or (key == "std" and min(red, green, blue) <= 0):
        raise SettingsError(f"the weights file {path} records {key}={text!r}, by which no image can be normalised")
    return red, green, blue


def _to_timm_names(model: Any, checkpoint: Checkpoint) -> dict[str, Tensor]:
    tensors = dict(checkpoint.tensors)
    if any(key in tensors for key in _ONLY_IN_RELEASED_DINOV2_OR_V3):
        # timm ships the converter of these releases beside each model family.
        convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        if convert is not None:
            tensors = convert(tensors, model)
    if "blocks.0.ls1.gamma" in model.state_dict():
        tensors = {re.sub(r"\.gamma_([12])$", r".ls\1.gamma", key): value for key, value in tensors.items()}
    return tensors


def _adopt_position_grid(model: Any, tensors: Mapping[str, Tensor]) -> None:
    own, given = getattr(model, "pos_embed", None), tensors.get("pos_embed")
    if own is None or given is None or given.ndim != 3 or given.shape[1] == own.shape[1]:
        return
    prefix = 0 if getattr(model, "no_embed_class", False) else model.num_prefix_tokens
    side = math.isqrt(max(given.shape[1] - prefix, 0))
    if side > 0 and side * side + prefix == given.shape[1]:
        patch = model.patch_embed.patch_size[0]
        model.set_input_size(img_size=(side * patch, side * patch))
