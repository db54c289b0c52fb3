"""The batched block Lanczos method against dense fp64 LAPACK, on matrices made from a spectrum that is known."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simsam_batch.spectral.block_lanczos import GUARDS, STEPS, Found, largest_eigenpairs

Problem = tuple[NDArray[np.float32], NDArray[np.float32]]


pytestmark = pytest.mark.usefixtures("one_thread")


class CountingNumpy:
    """NumPy, that counts the calls the method makes and notes how many images each product with A was for."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.images: list[int] = []
        self.linalg = self._Linalg(self.calls)

    class _Linalg:
        def __init__(self, calls: Counter[str]) -> None:
            self._calls = calls

        def __getattr__(self, name: str) -> Any:
            self._calls[name] += 1
            return getattr(np.linalg, name)

    def matmul(self, left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
        self.calls["matmul"] += 1
        if right.shape[1] == right.shape[2] and right.dtype == np.float32:
            self.images.append(len(right))
        product: NDArray[Any] = np.matmul(left, right)
        return product

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        return getattr(np, name)


def matrix_of(spectrum: NDArray[np.float64], seed: int) -> Problem:
    """A symmetric matrix with eigenvalue 1 for a known vector and ``spectrum`` for random others."""
    size = len(spectrum) + 1
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size))).Q
    a = (q * np.concatenate([[1.0], spectrum])) @ q.T
    return ((a + a.T) / 2).astype(np.float32), q[:, 0].astype(np.float32)


def spectrum_of(kind: str, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """``count`` eigenvalues in [-1, 1] of the kinds that affinities have, and worse."""
    if kind == "spread":
        return rng.uniform(-0.3, 0.95, count)
    if kind == "decaying":
        return 0.95 * 0.8 ** np.arange(count)
    if kind == "clustered":
        return rng.choice([0.9, 0.5, 0.1], count) + 1e-3 * rng.uniform(-1, 1, count)
    if kind == "repeated":
        return rng.choice([1.0, 0.6, 0.0, -0.2], count)
    if kind == "one value":
        return np.full(count, 0.7)
    if kind == "negative":
        return rng.uniform(-1, -0.1, count)
    return np.zeros(count)


KINDS = ["spread", "decaying", "clustered", "repeated", "one value", "negative", "zero"]


def padded(
    problems: list[Problem], seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Matrices of several sizes in one batch, each at scattered places of the largest grid."""
    rng = np.random.default_rng(seed)
    size = max(len(known) for _, known in problems)
    a = np.zeros((len(problems), size, size), np.float32)
    known = np.zeros((len(problems), size), np.float32)
    inside = np.zeros((len(problems), size), bool)
    for image, (matrix, vector) in enumerate(problems):
        at = np.sort(rng.choice(size, len(vector), replace=False))
        a[image][np.ix_(at, at)] = matrix
        known[image, at], inside[image, at] = vector, True
    return a, known, inside


def solve(problems: list[Problem], k: int, *, xp: Any = np, **options: Any) -> tuple[Found, NDArray[np.float32], Any]:
    a, known, inside = padded(problems)
    wanted = np.minimum(k, inside.sum(axis=1) - 1)
    return largest_eigenpairs(a, known, inside, wanted, xp=xp, **{"tolerance": 1e-4} | options), a, wanted


@settings(max_examples=60, deadline=None)
@given(
    graphs=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(3, 200)), min_size=1, max_size=6),
    k=st.integers(1, 17),
    seed=st.integers(0, 1000),
)
def test_pairs_are_those_of_fp64_lapack_and_their_residual_is_true(
    graphs: list[tuple[str, int]], k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    spectra = [spectrum_of(kind, size - 1, rng) for kind, size in graphs]
    problems = [matrix_of(spectrum, seed + i) for i, spectrum in enumerate(spectra)]
    k = min(k, max(size for _, size in graphs) - 1)
    found, a, wanted = solve(problems, k)
    assert found.converged.all()
    _, known, inside = padded(problems)
    for image, spectrum in enumerate(spectra):
        count = wanted[image]
        nu, u = found.nu[image, :count].astype(float), found.u[image, :count].astype(float)
        assert np.abs(nu - np.sort(spectrum)[::-1][:count]).max() < 2e-4
        assert np.abs(u @ u.T - np.eye(count)).max() < 1e-5
        assert np.abs(u @ known[image]).max() < 1e-5
        assert not u[:, ~inside[image]].any()
        residual = np.linalg.norm(u @ a[image].astype(float) - nu[:, None] * u, axis=1).max()
        assert residual == pytest.approx(found.residual[image], abs=3e-6)


def test_all_copies_of_an_eigenvalue_are_found_and_none_of_a_lower_one_instead() -> None:
    # Fourteen copies, as many as are wanted, well above and then hardly above the others.
    for second in (0.3, 0.69):
        spectrum = np.concatenate([np.full(14, 0.7), np.linspace(-0.5, second, 300)])
        found, _, _ = solve([matrix_of(spectrum, 1)], 14)
        assert found.converged.all()
        assert np.abs(found.nu - 0.7).max() < 1e-4


def test_padding_never_takes_the_place_of_a_negative_eigenvalue() -> None:
    # The complete graph of 6 patches without self-loops: 1 once, -1/5 five times. The padding's eigenvalue is 0.
    complete = ((1 - np.eye(6)) / 5).astype(np.float32)
    known = np.full(6, 6**-0.5, np.float32)
    found, _, _ = solve([(complete, known), matrix_of(np.linspace(-0.2, 0.9, 149), 0)], 5)
    assert found.nu[0].tolist() == pytest.approx([-0.2] * 5, abs=1e-6)
    assert found.converged.all()


def mixed_batch() -> list[Problem]:
    """Eight matrices of one size, of which the even ones need no restart and the odd ones several."""
    easy, hard = 0.9 * 0.7 ** np.arange(159), np.linspace(-0.5, 0.9, 159)
    return [matrix_of(hard if image % 2 else easy, image) for image in range(8)]


def test_an_image_gets_the_same_pairs_alone_and_among_others() -> None:
    problems = mixed_batch()
    together, _, _ = solve(problems, 6)
    assert len(set(together.products)) > 1
    for image, problem in enumerate(problems):
        alone, _, _ = solve([problem], 6)
        assert np.abs(alone.nu[0] - together.nu[image]).max() < 1e-6
        assert np.abs(alone.u[0] - together.u[image]).max() < 1e-5
        assert alone.products[0] == together.products[image]


def test_the_number_of_array_calls_does_not_grow_with_the_batch() -> None:
    hard = mixed_batch()[1]
    counts = []
    for batch in (1, 2, 8):
        xp = CountingNumpy()
        found, _, _ = solve([hard] * batch, 6, xp=xp)
        counts.append(xp.calls)
        assert xp.images == [batch] * found.products[0]
    assert counts[0] == counts[1] == counts[2]
    # Each step has one small eigenproblem in either round of orthonormalising, and each restart one more.
    assert counts[0]["eigh"] == 2 * found.products[0] + found.restarts


def test_images_that_are_done_cost_nothing_any_more() -> None:
    xp = CountingNumpy()
    found, _, _ = solve(mixed_batch(), 6, xp=xp)
    assert found.products[::2].tolist() == [STEPS + 1] * 4
    assert (found.products[1::2] > STEPS + 1).all()
    # Never do more than half of the images that a product is for have no use of it.
    in_need = [(found.products > spent).sum() for spent in range(found.products.max())]
    assert in_need[: STEPS + 2] == [8] * (STEPS + 1) + [4]
    assert xp.images[: STEPS + 2] == [8] * (STEPS + 1) + [4]
    assert all(images < 2 * needed for images, needed in zip(xp.images, in_need, strict=True))


def test_an_image_that_runs_out_of_products_says_so_and_costs_no_other() -> None:
    found, _, _ = solve(mixed_batch(), 6, max_products=STEPS + 1)
    assert found.converged.tolist() == [True, False] * 4
    assert (found.residual[1::2] > 1e-4).all()
    assert found.restarts == 1


def test_a_search_space_larger_than_the_whole_space_is_no_harm() -> None:
    spectrum = np.array([0.5, 0.2, -0.9])
    found, _, wanted = solve([matrix_of(spectrum, 3)], 17)
    assert (STEPS + 1) * (wanted[0] + GUARDS) > 4
    assert found.nu[0].tolist() == pytest.approx([0.5, 0.2, -0.9], abs=1e-6)
    assert found.products[0] == STEPS + 1


@pytest.mark.gpu
def test_cupy_gives_the_pairs_that_numpy_gives() -> None:
    cupy = pytest.importorskip("array_api_compat.cupy")
    a, known, inside = padded([matrix_of(np.linspace(-0.5, 0.9, size), size) for size in (150, 299, 80)])
    wanted = np.array([14, 14, 14])
    expected = largest_eigenpairs(a, known, inside, wanted, xp=np, tolerance=1e-4)
    arrays = [cupy.asarray(part) for part in (a, known, inside)]
    found = largest_eigenpairs(*arrays, wanted, xp=cupy, tolerance=1e-4)
    assert found.converged.all()
    assert np.abs(found.nu.get() - expected.nu).max() < 1e-5
    angles = np.linalg.svd(found.u.get() @ expected.u.swapaxes(1, 2), compute_uv=False)
    assert angles.min() > 0.999
