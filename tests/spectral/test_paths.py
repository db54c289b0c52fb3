"""Libraries that solve eigenproblems are tried before they are trusted: each is broken on purpose here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from simsam_batch.spectral import eigen, paths
from simsam_batch.spectral.paths import Paths, array_library, first_right, paths_on

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tried() -> Iterator[Callable[[], Paths]]:
    """Tries all libraries anew, on the CPU in the place of a GPU; CuPy is whatever a test puts there."""
    paths._tried.cache_clear()
    yield lambda: paths._tried("cpu", None)
    paths._tried.cache_clear()


@pytest.fixture
def cupy_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy in the place of CuPy, which cannot compute without a GPU."""

    @contextmanager
    def library(name: str, like: torch.Tensor) -> Iterator[Any]:
        with array_library("numpy" if name == "cupy" else name, like) as found:  # type: ignore[arg-type]
            yield found

    monkeypatch.setattr(paths, "array_library", library)


def test_on_a_cpu_nothing_is_tried() -> None:
    assert paths_on(CPU) == Paths("numpy", "numpy")


def test_what_is_right_is_trusted(tried: Callable[[], Paths], cupy_is_there: None) -> None:
    assert tried() == Paths("cupy", "torch")


def test_without_cupy_torch_solves_and_nothing_is_said(
    tried: Callable[[], Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    def library(name: str, like: torch.Tensor) -> Any:
        if name == "cupy":
            raise ModuleNotFoundError("No module named 'cupy'")
        return array_library(name, like)  # type: ignore[arg-type]

    monkeypatch.setattr(paths, "array_library", library)
    assert tried() == Paths("torch", "torch")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raises", "OSError: libnvrtc.so.12: cannot open"),
        ("values", "values off by"),
        ("vectors", "residuals off by"),
        ("nothing", "residuals off by nan"),
    ],
)
@pytest.mark.parametrize("broken", [{"cupy"}, {"cupy", "torch"}])
def test_what_fails_or_is_wrong_is_replaced_by_the_next(
    broken: set[str],
    how: str,
    said: str,
    tried: Callable[[], Paths],
    cupy_is_there: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_block = paths._by_block

    def maybe_broken(library: Any, problem: Any) -> Any:
        nu, u = by_block(library, problem)
        if library not in broken:
            return nu, u
        if how == "raises":
            raise OSError("libnvrtc.so.12: cannot open\nshared object file")
        wrong = {"values": (nu + 0.01, u), "vectors": (nu, u.flip(2)), "nothing": (nu, u * torch.nan)}
        return wrong[how]

    monkeypatch.setattr(paths, "_by_block", maybe_broken)
    found = tried()
    assert found.block == ("torch" if broken == {"cupy"} else "numpy")
    assert len(found.replaced) == len(broken)
    assert all(said in each for each in found.replaced)
    assert found.replaced[0].startswith("block-lanczos by cupy: ")


def test_a_dense_solver_that_is_wrong_is_replaced_by_the_host(
    tried: Callable[[], Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = paths.batched_eigh

    def wrong(a: torch.Tensor, library: Any) -> Any:
        nu, u = exact(a, library)
        return (nu, u) if library == "numpy" else (nu, u.roll(1, 2))

    monkeypatch.setattr(paths, "batched_eigh", wrong)
    found = tried()
    assert found.dense == "numpy"
    assert any(each.startswith("eigh by torch: residuals") for each in found.replaced)


def test_where_nothing_is_right_it_ends() -> None:
    with pytest.raises(RuntimeError, match=r"no way .* torch: it is wrong; numpy: ZeroDivisionError"):
        first_right([("torch", lambda: 1), ("numpy", lambda: 1 // 0)], lambda _: "it is wrong")


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_the_block_solver_is_one_in_every_library(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    rows = torch.from_numpy(rng.standard_normal((3, 200, 10)).astype(np.float32))
    rows = rows / rows.norm(dim=2, keepdim=True)
    w, valid = (rows @ rows.mT).clamp(min=1e-5), torch.ones((3, 200), dtype=torch.bool)
    valid[1, 150:] = False
    expected = eigen.smallest_eigenpairs(w, valid, 6, solver="arpack")
    monkeypatch.setattr(eigen, "paths_on", lambda device: Paths(library, library))
    found = eigen.smallest_eigenpairs(w, valid, 6, solver="block-lanczos")
    assert found.solver == ["block-lanczos"] * 3
    assert bool(found.converged.all())
    torch.testing.assert_close(found.values, expected.values, atol=2e-4, rtol=0)


def test_images_that_converge_later_go_on_by_themselves_in_torch() -> None:
    # a spectrum without gaps beside easy ones: more than one restart, and a smaller batch after it
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((300, 300))).Q
    hard = (q * np.concatenate([[1.0], np.linspace(0.95, -0.9, 299)])) @ q.T
    easy = (q * np.concatenate([[1.0], 0.9 * 0.5 ** np.arange(299)])) @ q.T
    a = np.stack([easy, hard, easy, easy]).astype(np.float32)
    known, inside = np.repeat(q[None, :, 0], 4, 0).astype(np.float32), np.ones((4, 300), np.uint8)
    found = {}
    for library in ("numpy", "torch"):
        with array_library(library, torch.zeros(1)) as (xp, to_array):  # type: ignore[arg-type]
            arrays = [to_array(torch.from_numpy(each)) for each in (a, known, inside)]
            found[library] = paths.block_lanczos.largest_eigenpairs(*arrays, np.full(4, 5), xp=xp, tolerance=1e-4)
    assert found["torch"].restarts > 1
    assert found["torch"].converged.all()
    np.testing.assert_allclose(found["torch"].nu.numpy(), found["numpy"].nu, atol=2e-4)
