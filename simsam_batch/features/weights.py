"""Weights files: read without running code, brought to timm's key names, fitted to a model or refused."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from simsam_batch.errors import SettingsError
from simsam_batch.features.contract import Triple

# Where training scripts put the network inside a checkpoint. The teacher is what DINO and iBOT evaluate, and timm takes
# an average over the training, if there is one, before what was trained last.
_AVERAGES = ("state_dict_ema", "model_ema")
_NESTS = ("teacher", "student", *_AVERAGES, "state_dict", "model")
_PREFIXES = ("module.", "backbone.")
# What torch.compile and torch's own wrappers put around a module, and so into the names of what is in it.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_MOST_TIMES_ITS_SIZE = 16
_ARCHIVE = b"PK\x03\x04"

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
        part: which of several networks of the file they are, where it is not the usual one; empty otherwise.
        arch: the model the file says it is for; empty if it does not say.
        mean, std: the normalisation recorded in the file, None if it has none.
    """

    path: Path
    layout: str
    tensors: dict[str, Tensor]
    part: str = ""
    arch: str = ""
    mean: Triple | None = None
    std: Triple | None = None


def weights_digest(path: Path) -> str:
    """Sha256 of a file's bytes, as lower-case hex.

    Raises:
        SettingsError: the file cannot be read, or is a directory, pipe or device.
    """
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a safetensors or torch file, told apart by content; nothing in it is executed.

    Torch files are read with ``weights_only=True``; of Python's classes only `argparse.Namespace` is let through,
    which full DINO and iBOT checkpoints hold; numbers of NumPy are left out unread. Nesting (``teacher``, else
    ``student``, ``state_dict_ema``, ``model_ema``, ``state_dict``, ``model``), prefixes (``module.``, ``backbone.``, at
    the start of a key only) and the wrappers of ``torch.compile`` are taken off.

    Raises:
        SettingsError: no such file or none that is one, damaged, holds code or no tensors, or takes up far more memory
            than its size.
    """
    path = Path(path)
    with _opened(path) as file:
        start = file.read(9)
    if start[8:9] == b"{":
        content, metadata = _read_safetensors(path)
    else:
        content, metadata = _read_torch(path, is_archive=start.startswith(_ARCHIVE)), {}

    named, self_distilled, part = _network_of(content, path)
    if not named:
        raise SettingsError(f"the weights file {path} holds no tensors under any known layout (timm, DINO, iBOT)")
    names = {key: _without_prefixes(key) for key in named}
    self_distilled |= any("backbone." in key.removesuffix(name) for key, name in names.items())
    is_ibot = "ibot_loss" in content or any(map(_ONLY_IN_IBOT.search, named))
    return Checkpoint(
        path=path,
        layout="ibot" if is_ibot else "dino" if self_distilled else "timm",
        tensors={names[key]: value for key, value in named.items()},
        part=part,
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


class _Unread:
    """Stands for a number of NumPy, or its type, in a torch file; training scripts put them beside the tensors."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


_LEFT_OUT = [
    (_Unread, name) for name in ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
]


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """A file opened for reading, if it is one: a pipe would be waited for, and some devices have no end."""
    try:
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "directory" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device or socket"
            raise SettingsError(
                f"the weights file {path} is a {kind}. To mend it: give a regular file; it is read more than once"
            )
        with Path(path).open("rb") as file:
            yield file
    except OSError as error:
        raise SettingsError(f"the weights file {path} cannot be read: {error.strerror or error}") from error


def _check_unpacked(path: Path) -> None:
    """Refuse an archive that was compressed, by whatever program, to a small part of what it holds."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _MOST_TIMES_ITS_SIZE * path.stat().st_size:
        raise _grown(path, unpacked)


def _grown(path: Path, unpacked: int) -> SettingsError:
    size = path.stat().st_size
    return SettingsError(
        f"the weights file {path} has {size:,} bytes and would take up {unpacked:,} when it is read, more than "
        f"{_MOST_TIMES_ITS_SIZE} times as many. To mend it: save its tensors again by torch.save or safetensors, which "
        "do not compress them"
    )


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise SettingsError(f"the weights file {path} is a damaged safetensors file: {error}") from error


def _read_torch(path: Path, *, is_archive: bool) -> Mapping[str, Any]:
    try:
        # Files of releases of torch before 1.6 are none, and not compressed.
        if is_archive:
            _check_unpacked(path)
        with torch.serialization.safe_globals([argparse.Namespace, *_LEFT_OUT]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except SettingsError:
        raise
    # A damaged pickle stream can end in nearly any exception.
    except Exception as error:
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise SettingsError(
                f"the weights file {path} holds an object of {found[1]} beside its tensors, and reading that could run "
                "code: a torch file is read without running code (weights_only=True). To mend it: where the file was "
                "made, load it and save its tensors alone, such as torch.save(checkpoint['model'], FILE)"
            ) from error
        told = str(error).partition("WeightsUnpickler error:")[2] or str(error)
        reason = next((line.strip() for line in told.splitlines() if line.strip()), type(error).__name__)
        raise SettingsError(
            f"the weights file {path} is neither safetensors nor a torch file that loads without running code "
            f"(weights_only=True): {reason[:300]}"
        ) from error
    if not isinstance(content, Mapping):
        raise SettingsError(f"the weights file {path} holds a {type(content).__name__}, not a table of named tensors")
    return content


def _network_of(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Tensor], bool, str]:
    """Tensors of the innermost network, whether a teacher or student held it, and which average it is, if it is one."""
    self_distilled, part = False, ""
    for _ in _NESTS:
        nest = next((nest for nest in _NESTS if isinstance(content.get(nest), Mapping)), None)
        if nest is None:
            break
        self_distilled |= nest in {"teacher", "student"}
        part = nest if nest in _AVERAGES else part
        content = content[nest]
    # safetensors knows no nesting: there the same stands in front of the names.
    for start in ("teacher.", "student."):
        if inside := {key.removeprefix(start): value for key, value in content.items() if str(key).startswith(start)}:
            content, self_distilled = inside, True
            break
    found = {str(key): value for key, value in content.items() if _holds_numbers(value)}
    # Tensors that show one number many times take little room in a file, until they become float32.
    unpacked = 4 * sum(value.numel() for value in found.values())
    if unpacked > _MOST_TIMES_ITS_SIZE * path.stat().st_size:
        raise _grown(path, unpacked)
    return {key: value.float() for key, value in found.items()}, self_distilled, part


def _holds_numbers(value: Any) -> bool:
    """Whether a value is a tensor with a number at every place: not a sparse, quantised or empty shell of one."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_complex())
    )


def _without_prefixes(key: str) -> str:
    key = _WRAPPERS.sub("", key)
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
