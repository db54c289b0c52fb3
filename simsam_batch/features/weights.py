"""Weights files: read without running code, and of the networks that a training script saved the one asked for."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import Module

from simsam_batch.errors import SettingsError
from simsam_batch.features.contract import Triple

Part = Literal["auto", "teacher", "student"]
"""Which network of a file: that of a self-distillation by name, or the one that is usually evaluated."""

# Where training scripts put the network inside a checkpoint. The teacher is what DINO and iBOT evaluate, and timm takes
# an average over the training, if there is one, before what was trained last.
_SELF_DISTILLED = ("teacher", "student")
_AVERAGES = ("state_dict_ema", "model_ema")
_NESTS = (*_SELF_DISTILLED, *_AVERAGES, "state_dict", "model")
_PREFIXES = ("module.", "backbone.")
# What torch.compile and torch's own wrappers put around a module, and so into the names of what is in it.
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_MOST_TIMES_ITS_SIZE = 16
_ARCHIVE = b"PK\x03\x04"

_ONLY_IN_IBOT = re.compile(r"masked_embed$|head\.last_layer2\.")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of a weights file under timm's names.

    Attributes:
        path: the file.
        layout: whose key layout it had: ``timm`` (or plain: the same names), ``dino``, ``ibot``.
        tensors: by name, on the CPU, float32.
        part: which of several networks of the file they are, where it is not the usual one or was asked for by name;
            empty otherwise.
        arch: the model the file says it is for; empty if it does not say.
        mean, std: the normalisation recorded in the file, None if it has none.
        network: what the file calls the network, such as ``teacher``; empty if it holds that alone.
        beside: what else of its networks were left in the file.
        prefixes: what was taken off the beginnings of names, and of how many.
    """

    path: Path
    layout: str
    tensors: dict[str, Tensor]
    part: str = ""
    arch: str = ""
    mean: Triple | None = None
    std: Triple | None = None
    network: str = ""
    beside: tuple[str, ...] = ()
    prefixes: tuple[tuple[str, int], ...] = ()


def weights_digest(path: Path) -> str:
    """Sha256 of a file's bytes, as lower-case hex.

    Raises:
        SettingsError: the file cannot be read, or is a directory, pipe or device.
    """
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class _Network:
    """One of the networks of a file: its tensors under the file's names, where they were, and what stood beside."""

    tensors: dict[str, Tensor]
    nests: tuple[str, ...]
    beside: tuple[str, ...]


def read_checkpoint(path: Path, part: Part = "auto") -> Checkpoint:
    """Read a safetensors or torch file, told apart by content; nothing in it is executed.

    Torch files are read with ``weights_only=True``; of Python's classes only `argparse.Namespace` is let through,
    which full DINO and iBOT checkpoints hold; numbers of NumPy are left out unread. Nesting (``teacher``, else
    ``student``, ``state_dict_ema``, ``model_ema``, ``state_dict``, ``model``), prefixes (``module.``, ``backbone.``, at
    the start of a key only) and the wrappers of ``torch.compile`` are taken off.

    Args:
        path: the file.
        part: which network of a file with several; ``auto`` is the first of the names above.

    Raises:
        SettingsError: no such file or none that is one, damaged, holds code or no tensors, takes up far more memory
            than its size, or has not the part asked for.
    """
    path = Path(path)
    with _opened(path) as file:
        start = file.read(9)
    if start[8:9] == b"{":
        content, metadata = _read_safetensors(path)
    else:
        content, metadata = _read_torch(path, is_archive=start.startswith(_ARCHIVE)), {}

    found = _network_of(content, path, part)
    if not found.tensors:
        raise SettingsError(f"the weights file {path} holds no tensors under any known layout (timm, DINO, iBOT)")
    names = {key: _without_prefixes(key) for key in found.tensors}
    prefixes = Counter(key.removesuffix(name) for key, name in names.items() if key != name and key.endswith(name))
    self_distilled = any(nest in _SELF_DISTILLED for nest in found.nests) or any(
        "backbone." in key.removesuffix(name) for key, name in names.items()
    )
    is_ibot = "ibot_loss" in content or any(map(_ONLY_IN_IBOT.search, found.tensors))
    average = next((nest for nest in reversed(found.nests) if nest in _AVERAGES), "")
    return Checkpoint(
        path=path,
        layout="ibot" if is_ibot else "dino" if self_distilled else "timm",
        tensors={names[key]: value for key, value in found.tensors.items()},
        part=average if part == "auto" else part,
        arch=metadata.get("arch", ""),
        mean=_three_numbers(metadata, "mean", path),
        std=_three_numbers(metadata, "std", path),
        network=found.nests[-1] if found.nests else "",
        beside=found.beside,
        prefixes=tuple(sorted(prefixes.items())),
    )


class _Unread:
    """Stands for a number of NumPy, or its type, in a torch file; training scripts put them beside the tensors."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


_LEFT_OUT = [
    (_Unread, name) for name in ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
]


def load_into(network: Module, tensors: Mapping[str, Tensor], weights: str, name: str) -> None:
    """Make tensors those of a network whose own they are, every one.

    Args:
        network: what takes them; its own may be without memory (``meta``).
        tensors: by name.
        weights: the file they are from.
        name: what the network is called.

    Raises:
        SettingsError: some are missing, left over, or of another shape.
    """
    own = network.state_dict()
    missing = [key for key in own if key not in tensors]
    more = [key for key in tensors if key not in own]
    other = [key for key, value in tensors.items() if key in own and own[key].shape != value.shape]
    for what, keys in (("lacks", missing), ("also has", more), ("has another shape of", other)):
        if keys:
            msg = f"the weights file {weights} is not of {name}: it {what} {', '.join(keys[:3])}, {len(keys)} tensors"
            raise SettingsError(msg)
    network.load_state_dict(tensors, assign=True)


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


def _network_of(content: Mapping[str, Any], path: Path, part: Part) -> _Network:
    """The innermost network that ``part`` leads to."""
    wanted = _NESTS if part == "auto" else (part, *(nest for nest in _NESTS if nest not in _SELF_DISTILLED))
    nests, beside = [], []
    for _ in _NESTS:
        there = [nest for nest in _NESTS if isinstance(content.get(nest), Mapping)]
        nest = next((nest for nest in wanted if nest in there), None)
        beside += [other for other in there if other != nest]
        if nest is None:
            break
        nests.append(nest)
        content = content[nest]
    # safetensors knows no nesting: there the same stands in front of the names, as in sharded training checkpoints.
    there = [each for each in _SELF_DISTILLED if any(str(key).startswith(f"{each}.") for key in content)]
    first = next((nest for nest in wanted if nest in there), None)
    beside += [other for other in there if other != first]
    if first is not None:
        start = f"{first}."
        content = {key.removeprefix(start): value for key, value in content.items() if str(key).startswith(start)}
        nests.append(first)
    if part != "auto" and part not in nests:
        raise _without(part, path, nests, beside)
    found = {str(key): value for key, value in content.items() if _holds_numbers(value)}
    # Tensors that show one number many times take little room in a file, until they become float32.
    unpacked = 4 * sum(value.numel() for value in found.values())
    if unpacked > _MOST_TIMES_ITS_SIZE * path.stat().st_size:
        raise _grown(path, unpacked)
    return _Network({key: value.float() for key, value in found.items()}, tuple(nests), tuple(beside))


def _without(part: str, path: Path, nests: list[str], beside: list[str]) -> SettingsError:
    """What is said of a file that has not the network asked for."""
    mend = "leave out --checkpoint-part"
    there = [each for each in _SELF_DISTILLED if each in beside]
    if there:
        return SettingsError(
            f"checkpoint_part: the weights file {path} has no {part}; it has a {' and a '.join(there)}. To mend it: "
            f"give --checkpoint-part {there[0]}, or {mend}"
        )
    held = f" ({', '.join([*nests, *beside])})" if nests or beside else ""
    return SettingsError(
        f"checkpoint_part: the weights file {path} has no {part}: it is not of a teacher and a student, but holds one "
        f"network alone{held}. To mend it: {mend}"
    )


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
