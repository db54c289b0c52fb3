"""Which library solves eigenproblems on a device: each is tried on a small known problem before it is trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch.spectral import block_lanczos

Library = Literal["cupy", "torch", "numpy"]

_PATCHES, _PAIRS, _IMAGES = 160, 4, 2
_TOLERANCE, _OFF = 1e-4, 1e-3


@dataclass(frozen=True, slots=True)
class Paths:
    """What eigenproblems on a device are solved with.

    Attributes:
        block: library of the block solver; ``numpy`` copies graphs to the host.
        dense: ``torch``, or ``numpy`` for LAPACK on the host, of batched dense solutions.
        replaced: what was not trusted, and why, in words.
    """

    block: Library
    dense: Library
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Problem:
    """Graphs (B, N, N) whose largest eigenvalues besides the known one are known too."""

    a: Tensor
    known: Tensor
    nu: NDArray[np.float64]


def paths_on(device: torch.device) -> Paths:
    """What can be trusted on a device; each is tried once in a process.

    CuPy comes before torch, and the host last: it is always right, and slow. On a CPU there is nothing to try.
    """
    return _tried(device.type, device.index) if device.type == "cuda" else Paths("numpy", "numpy")


@cache
def _tried(kind: str, index: int | None) -> Paths:
    device = torch.device(kind, index) if index is not None else torch.device(kind)
    problem = _problem(device)
    block, replaced = first_right(
        [
            ("cupy", lambda: _by_block("cupy", problem)),
            ("torch", lambda: _by_block("torch", problem)),
            ("numpy", lambda: _by_block("numpy", problem)),
        ],
        lambda found: _trouble(problem, *found),
    )
    dense, also = first_right(
        [("torch", lambda: _densely(problem, "torch")), ("numpy", lambda: _densely(problem, "numpy"))],
        lambda found: _trouble(problem, *found),
    )
    of_block = [f"block-lanczos by {each}" for each in replaced]
    return Paths(block, dense, (*of_block, *(f"eigh by {each}" for each in also)))


def first_right(
    ways: Sequence[tuple[Library, Callable[[], Any]]], trouble: Callable[[Any], str | None]
) -> tuple[Library, list[str]]:
    """The first of several ways whose result is right, and what is the matter with those before it.

    Args:
        ways: each by its name; an error counts as a wrong result, a library that is not installed as no way at all.
        trouble: what is wrong with a result; None if it is right.

    Raises:
        RuntimeError: none is right.
    """
    wrong: list[str] = []
    for name, solve in ways:
        try:
            why = trouble(solve())
        except ModuleNotFoundError:
            continue
        except Exception as error:  # noqa: BLE001  whatever a library of another version may raise
            why = f"{type(error).__name__}: {error}"
        if why is None:
            return name, wrong
        wrong.append(f"{name}: {' '.join(why.split())[:300]}")
    raise RuntimeError("no way to solve eigenproblems is right here: " + "; ".join(wrong))


@contextmanager
def array_library(library: Library, like: Tensor) -> Iterator[tuple[Any, Callable[[Tensor], Any]]]:
    """A namespace of the array API, and what turns a tensor into its array.

    CuPy works on the stream that torch is using, on the memory that the tensors have.

    Args:
        library: which.
        like: a tensor of the device.

    Raises:
        ImportError: it is not installed, or not for this machine.
    """
    if library == "numpy":
        import array_api_compat.numpy as np_api

        yield np_api, lambda tensor: tensor.cpu().numpy()
    elif library == "torch":
        import array_api_compat.torch as torch_api

        yield torch_api, lambda tensor: tensor
    else:
        import array_api_compat.cupy as cupy_api
        import cupy

        stream = torch.cuda.current_stream(like.device)
        with cupy.cuda.Device(like.device.index), cupy.cuda.ExternalStream(stream.cuda_stream, like.device.index):
            yield cupy_api, cupy.from_dlpack


def _problem(device: torch.device) -> _Problem:
    """Graphs of planted groups, the same on every call, solved on the host in fp64."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((_IMAGES, _PAIRS + 2, 12))
    rows = centres[:, rng.integers(_PAIRS + 2, size=_PATCHES)] + rng.standard_normal((_IMAGES, _PATCHES, 12)) / 2
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    w = np.clip(rows @ rows.swapaxes(1, 2), 1e-5, None)
    root = np.sqrt(w.sum(axis=2))
    a = w / root[:, :, None] / root[:, None, :]
    known = root / np.linalg.norm(root, axis=1, keepdims=True)
    nu = np.linalg.eigvalsh(a)[:, ::-1][:, 1 : 1 + _PAIRS]
    on_device, constant = (torch.from_numpy(each.astype(np.float32)).to(device) for each in (a, known))
    return _Problem(on_device, constant, nu)


def _by_block(library: Library, problem: _Problem) -> tuple[Any, Any]:
    from torch.utils.dlpack import from_dlpack

    with array_library(library, problem.a) as (xp, to_array):
        inside = torch.ones(problem.a.shape[:2], dtype=torch.uint8, device=problem.a.device)
        a, known, within = (to_array(each) for each in (problem.a, problem.known, inside))
        wanted = np.full(_IMAGES, _PAIRS)
        found = block_lanczos.largest_eigenpairs(a, known, within, wanted, xp=xp, tolerance=_TOLERANCE)
        return from_dlpack(found.nu), from_dlpack(found.u)


def _densely(problem: _Problem, library: Library) -> tuple[Tensor, Tensor]:
    a = problem.a - 3 * problem.known[:, :, None] * problem.known[:, None, :]
    nu, u = batched_eigh(a, library)
    return nu.flip(1)[:, :_PAIRS], u.flip(2)[:, :, :_PAIRS].mT


def batched_eigh(a: Tensor, library: Library) -> tuple[Tensor, Tensor]:
    """Eigenvalues (B, N), ascending, and vectors (B, N, N) in columns, where the matrices are.

    Args:
        a: (B, N, N), symmetric.
        library: ``numpy``: on the host, whatever the matrices' device.
    """
    if library == "torch":
        nu, u = torch.linalg.eigh(a)
        return nu, u
    nu, u = torch.linalg.eigh(a.cpu())
    return nu.to(a.device), u.to(a.device)


def _trouble(problem: _Problem, nu: Any, u: Any) -> str | None:
    """What is wrong with pairs (B, k) and (B, k, N): off the exact values, no eigenvectors, or not orthonormal."""
    a, nu, u = (each.cpu().double().numpy() for each in (problem.a, torch.as_tensor(nu), torch.as_tensor(u)))
    if nu.shape != problem.nu.shape or u.shape != (*nu.shape, _PATCHES):
        return f"values {nu.shape} and vectors {u.shape}"
    off = {
        "values": np.abs(nu - problem.nu).max(),
        "residuals": np.linalg.norm(u @ a - nu[:, :, None] * u, axis=2).max(),
        "vectors' products": np.abs(u @ u.swapaxes(1, 2) - np.eye(_PAIRS)).max(),
    }
    wrong = [f"{name} off by {by:.1e}" for name, by in off.items() if not by < _OFF]
    return ", ".join(wrong) or None
