"""Eigenpairs against dense fp64 LAPACK on the problem as Deep Spectral Methods states it, (D - W) v = mu D v."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import eigh, subspace_angles
from torch import Tensor

from simsam_batch.spectral import eigen, solvers
from simsam_batch.spectral.eigen import EigenResult, Solver, apply_sign_rule, smallest_eigenpairs
from simsam_batch.spectral.laplacian import degrees, normalized_affinity

FLOOR = 1e-5
Array = NDArray[np.float64]


pytestmark = pytest.mark.usefixtures("one_thread")


def clustered_affinity(patches: int, *, clusters: int = 4, seed: int = 0) -> Tensor:
    """Clipped cosines of noisy copies of a few directions, with the floor that a real run has."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, 16))
    shares = rng.dirichlet(np.full(clusters, 3.0))
    features = centres[rng.choice(clusters, patches, p=shares)] + 0.7 * rng.standard_normal((patches, 16))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return torch.from_numpy(np.maximum(features @ features.T - 1 / 3, FLOOR).astype(np.float32))[None]


def everywhere(w: Tensor) -> Tensor:
    return torch.ones(w.shape[:2], dtype=torch.bool, device=w.device)


def reference(w: Tensor) -> tuple[Array, Array, Array]:
    """All pairs of (D - W) v = mu D v in fp64, and the degrees."""
    full = w.double().numpy()
    degree = full.sum(axis=1)
    values, vectors = eigh(np.diag(degree) - full, np.diag(degree))
    return values, vectors.T, degree


def true_residual(w: Tensor, result: EigenResult, image: int, inside: Tensor) -> float:
    """The largest ||A u - nu u|| over an image's pairs, in fp64 from the returned fp32 numbers."""
    graph = w[image][inside][:, inside].double()
    degree = degrees(graph)
    a = normalized_affinity(graph, degree)
    nu = 1 - result.values[image].double()
    kept = ~nu.isnan()
    u = result.vectors[image][:, inside].double()[kept] * degree.sqrt()
    u = u / u.norm(dim=1, keepdim=True)
    return float((u @ a - nu[kept, None] * u).norm(dim=1).max())


@pytest.mark.parametrize("solver", ["auto", "block-lanczos", "arpack", "lobpcg", "eigh"])
@pytest.mark.parametrize("patches", [200, 900])
def test_pairs_equal_those_of_the_published_problem_in_fp64(solver: Solver, patches: int) -> None:
    w, k = clustered_affinity(patches), 15
    values, vectors, degree = reference(w[0])
    result = smallest_eigenpairs(w, everywhere(w), k, solver=solver)
    assert result.solver == ["arpack" if solver == "auto" else solver]
    assert bool(result.converged.all())
    assert np.abs(result.values[0].numpy() - values[:k]).max() < 1e-5

    gaps = np.diff(values[: k + 1])
    cuts = [k for k in range(2, k + 1) if gaps[k - 1] > 0.01]
    assert cuts, "the graph was meant to have clusters"
    scale = np.sqrt(degree)
    for cut in cuts:
        angles = subspace_angles((vectors[:cut] * scale).T, (result.vectors[0, :cut].double().numpy() * scale).T)
        assert angles.max() < 0.01

    assert gaps[1] > 1e-3
    ours = apply_sign_rule(result.vectors)[0, 1] > 0
    theirs = apply_sign_rule(torch.from_numpy(vectors)[None])[0, 1] > 0
    assert torch.equal(ours, theirs)


def test_the_first_vector_is_constant_and_positive_and_all_are_d_orthonormal() -> None:
    w = clustered_affinity(150)
    result = smallest_eigenpairs(w, everywhere(w), 6)
    first = result.vectors[0, 0]
    assert first.min() == first.max() > 0
    assert result.values[0, 0] == 0
    v = result.vectors[0].double()
    gram = (v * w[0].double().sum(dim=1)) @ v.T
    assert torch.allclose(gram, torch.eye(6, dtype=torch.float64), atol=1e-5)


def test_patches_left_out_do_not_change_the_others() -> None:
    w = clustered_affinity(160)
    valid = everywhere(w)
    valid[0, [3, 50, 51, 159]] = False
    keep = valid[0].nonzero().squeeze(1)
    alone = w[:, keep][:, :, keep]
    # What stands in the rows and columns of patches left out is not read.
    w[0, ~valid[0]] = 0.9
    w[0, :, ~valid[0]] = 0.9
    result = smallest_eigenpairs(w, valid, 5)
    expected = smallest_eigenpairs(alone, everywhere(alone), 5)
    # Products over more zeros round otherwise, and the sign of a vector is arbitrary.
    assert torch.allclose(result.values, expected.values, atol=1e-5)
    vectors = result.vectors[:, :, keep]
    signs = (vectors * expected.vectors).sum(dim=2, keepdim=True).sign()
    assert torch.allclose(signs * vectors, expected.vectors, atol=1e-5)
    assert not result.vectors[:, :, ~valid[0]].any()


def test_a_left_right_gradient_gives_a_left_right_fiedler_vector() -> None:
    height, width = 6, 10
    angle = torch.linspace(0, 1.2, width).repeat(height)
    features = torch.stack([angle.cos(), angle.sin()], dim=1)
    w = (features @ features.T)[None]
    fiedler = smallest_eigenpairs(w, everywhere(w), 3).vectors[0, 1].reshape(height, width)
    assert torch.allclose(fiedler, fiedler[:1].expand(height, width), atol=1e-4)
    steps = fiedler[0].diff()
    assert bool((steps > 0).all() or (steps < 0).all())


def test_two_separate_parts_are_told_apart_by_the_second_vector() -> None:
    # Two complete graphs of 2 and 3 patches with self-loops: mu = 0, 0, then 1. D = 2 and 3, the constant vector is
    # 1/sqrt(4 + 9); the second is (a, a, b, b, b), D-orthogonal to it: 4 a + 9 b = 0 and 4 a^2 + 9 b^2 = 1.
    w = torch.block_diag(torch.ones(2, 2), torch.ones(3, 3))[None]
    result = smallest_eigenpairs(w, everywhere(w), 3)
    assert result.values[0].tolist() == pytest.approx([0, 0, 1], abs=1e-6)
    a = (9 / 52) ** 0.5
    second = result.vectors[0, 1] * result.vectors[0, 1, 0].sign()
    assert second.tolist() == pytest.approx([a, a, -4 * a / 9, -4 * a / 9, -4 * a / 9], abs=1e-5)
    assert result.vectors[0, 0].tolist() == pytest.approx([13**-0.5] * 5, abs=1e-6)


@pytest.mark.parametrize("solver", ["block-lanczos", "arpack", "lobpcg"])
@pytest.mark.parametrize("seed", range(3))
def test_every_copy_of_a_multiple_eigenvalue_is_found(solver: Solver, seed: int) -> None:
    # Ten parts without any edge between them: mu = 0 ten times, once with the constant vector.
    part = torch.arange(120) % 10
    w = (clustered_affinity(120, clusters=1, seed=seed)[0] * (part[:, None] == part))[None]
    result = smallest_eigenpairs(w, everywhere(w), 15, solver=solver)
    expected, _, _ = reference(w[0])
    assert (expected[:10] < 1e-9).all()
    assert np.abs(result.values[0].numpy() - expected[:15]).max() < 1e-4


@pytest.mark.parametrize("left_out", [0, 7])
def test_pairs_that_lack_a_copy_are_turned_down(left_out: int) -> None:
    # Three separate parts: nu = 1 three times, once of them with the constant vector.
    part = torch.arange(90) % 3
    w = clustered_affinity(90, clusters=1)[0] * (part[:, None] == part)
    graph = solvers.normalized_graph(w.numpy(), np.arange(90) >= left_out)
    assert graph is not None
    complete = solvers.solve_densely(graph, 6)
    assert complete.nu[:2].tolist() == pytest.approx([1, 1], abs=1e-6)
    assert complete.nu[2] < 0.6
    found_all = solvers.checked_pairs(graph, complete.u[:, :5], 1e-4, iterations=0)
    assert found_all is not None
    assert found_all.residual < 1e-5
    assert found_all.nu == pytest.approx(complete.nu[:5], abs=1e-6)
    assert solvers.checked_pairs(graph, complete.u[:, [0, 2, 3, 4, 5]], 1e-4, iterations=0) is None


def test_the_operator_equals_the_matrix_that_it_stands_for() -> None:
    w = clustered_affinity(40)[0].numpy()
    inside = np.arange(40) % 7 > 0
    graph = solvers.normalized_graph(w, inside)
    assert graph is not None
    kept = w[np.ix_(inside, inside)].astype(np.float64)
    degree = kept.sum(axis=1)
    constant = np.sqrt(degree / degree.sum())
    a = kept / np.sqrt(np.outer(degree, degree)) - 2 * np.outer(constant, constant)
    x = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    assert (graph @ x)[inside] == pytest.approx(a @ x[inside], abs=1e-5)
    assert (graph @ x[:, 0])[inside] == pytest.approx(a @ x[inside, 0], abs=1e-5)
    assert not (graph @ x)[~inside].any()
    assert graph.matrix(np.float64) == pytest.approx(a, abs=1e-6)


@pytest.mark.parametrize("solver", ["block-lanczos", "lobpcg"])
def test_a_solver_that_misses_the_tolerance_is_replaced_and_named(solver: Solver) -> None:
    w = clustered_affinity(300)
    result = smallest_eigenpairs(w, everywhere(w), 15, solver=solver, max_iterations=1, tolerance=3e-6)
    assert result.solver == [f"eigh (after {solver})"]
    assert bool(result.converged[0])
    values, _, _ = reference(w[0])
    assert np.abs(result.values[0].numpy() - values[:15]).max() < 1e-5


def test_an_unreachable_tolerance_is_reported_as_not_converged() -> None:
    w = clustered_affinity(200)
    result = smallest_eigenpairs(w, everywhere(w), 5, tolerance=1e-12)
    assert not result.converged.any()
    assert result.residual[0] > 1e-12


def test_equal_affinities_are_solved_densely_and_have_no_gap() -> None:
    # D^-1/2 W D^-1/2 = 11^T / n: nu = 1 once, then 0.
    w = torch.full((1, 150, 150), 0.6)
    result = smallest_eigenpairs(w, everywhere(w), 4)
    assert result.solver[0] in ("arpack", "eigh (after arpack)")
    assert result.values[0].tolist() == pytest.approx([0, 1, 1, 1], abs=1e-6)
    assert bool(result.converged[0])
    assert not result.vectors.isnan().any()


def test_more_pairs_than_patches_are_padded() -> None:
    # One image of 3 patches, one of 1, one of none, in a batch with K = 5.
    w = torch.full((3, 3, 3), 0.5)
    valid = torch.tensor([[True] * 3, [False, True, False], [False] * 3])
    result = smallest_eigenpairs(w, valid, 5)
    assert result.values.isnan().tolist() == [[False] * 3 + [True] * 2, [False] + [True] * 4, [True] * 5]
    assert not result.vectors.isnan().any()
    assert not result.vectors[0, 3:].any()
    # A single patch: D = 1/2, so v = sqrt(2).
    assert result.vectors[1, 0].tolist() == pytest.approx([0, 2**0.5, 0])
    assert result.solver[2] == "none (no patches)"
    assert result.converged.tolist() == [True, True, False]


def test_an_image_that_is_not_finite_does_not_cost_its_neighbours() -> None:
    w = clustered_affinity(140).repeat(2, 1, 1)
    expected = smallest_eigenpairs(w[1:], everywhere(w[1:]), 4)
    w[0, [5, 7], [7, 5]] = torch.nan
    result = smallest_eigenpairs(w, everywhere(w), 4)
    assert result.solver[0] == "none (not finite)"
    assert not result.vectors[0].any()
    assert torch.equal(result.vectors[1], expected.vectors[0])


def graph_of(kind: str, patches: int, rng: np.random.Generator) -> Tensor:
    if kind == "constant":
        return torch.full((patches, patches), 0.4)
    if kind == "no edges":
        return torch.zeros((patches, patches))
    if kind == "self-loops only":
        return torch.eye(patches)
    if kind == "clustered":
        return clustered_affinity(patches, seed=int(rng.integers(100)))[0]
    if kind == "ring":
        one_way = torch.eye(patches).roll(1, 0)
        return one_way + one_way.T
    part = torch.from_numpy(rng.integers(0, 4, patches))
    return clustered_affinity(patches, clusters=1, seed=int(rng.integers(100)))[0] * (part[:, None] == part)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["constant", "no edges", "self-loops only", "clustered", "ring", "disconnected"]),
    solver=st.sampled_from(["auto", "block-lanczos", "arpack", "lobpcg", "eigh"]),
    patches=st.integers(1, 150),
    k=st.integers(1, 18),
    left_out=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_any_graph_is_solved_and_its_residual_is_true(
    kind: str, solver: Solver, patches: int, k: int, left_out: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    w = graph_of(kind, patches, rng)[None]
    valid = torch.from_numpy(rng.random((1, patches)) >= left_out)
    inside = valid[0]
    result = smallest_eigenpairs(w, valid, k, solver=solver)
    found = min(k, int(inside.sum()))
    assert result.values.shape == (1, k)
    assert result.values[0].isnan().tolist() == [False] * found + [True] * (k - found)
    assert not result.vectors.isnan().any()
    assert not result.vectors[0, :, ~inside].any()
    if found == 0:
        return
    assert bool(result.converged[0])
    assert true_residual(w, result, 0, inside) == pytest.approx(float(result.residual[0]), abs=1e-5)

    graph = w[0][inside][:, inside].double()
    degree = degrees(graph)
    laplacian = torch.eye(len(graph), dtype=torch.float64) - normalized_affinity(graph, degree)
    expected = torch.linalg.eigvalsh(laplacian)[:found]
    values = result.values[0, :found].double()
    if kind == "ring":
        # Double eigenvalues, densely spaced: one copy may be missed for the next value, never a wrong value given.
        everything = torch.linalg.eigvalsh(laplacian)
        assert bool(((values[:, None] - everything).abs().amin(dim=1) < 1e-4).all())
        assert bool((values > expected - 1e-4).all())
    else:
        assert torch.allclose(values, expected, atol=1e-4)
    assert bool((values.diff() >= -1e-6).all())
    v = result.vectors[0, :found][:, inside].double()
    assert torch.allclose((v * degree) @ v.T, torch.eye(found, dtype=torch.float64), atol=1e-4)


@pytest.mark.parametrize("method", ["eigh", "block-lanczos"])
def test_a_batch_solved_together_agrees_with_its_images_solved_singly(method: Literal["eigh", "block-lanczos"]) -> None:
    # What CUDA does with the batch runs on the CPU just as well.
    k, patches = 8, 70
    w = torch.cat([clustered_affinity(patches, seed=seed) for seed in range(6)])
    w[1] = 0.0
    w[3, 0, 0] = torch.nan
    valid = torch.ones((6, patches), dtype=torch.bool)
    valid[0, 5:30] = False
    # Without self-loops four patches have negative nu, below the zeros that patches left out would give.
    valid[2, 4:] = False
    w[2].fill_diagonal_(0)
    valid[4] = False
    # What stands in the rows and columns of patches left out is not read.
    w[0, 7, 8] = torch.nan
    w[5, 9] = torch.inf
    valid[5, 9] = False
    result, unsolved = eigen._solve_batch(w, valid, valid.sum(1).tolist(), k, method, 1e-4, 200, clean=False)
    assert unsolved == []
    assert result.solver == [method, method, method, "none (not finite)", "none (no patches)", method]
    assert result.converged.tolist() == [True, True, True, False, False, True]
    assert not result.vectors[[3, 4]].any()
    assert result.residual[[3, 4]].isnan().all()
    for image in (0, 1, 2, 5):
        inside = valid[image]
        graph = w[image][inside][:, inside]
        expected = smallest_eigenpairs(graph[None], everywhere(graph[None]), k, solver="eigh")
        assert torch.allclose(result.values[image], expected.values[0], atol=1e-5, equal_nan=True)
        assert not result.vectors[image][:, ~inside].any()
        found = min(k, len(graph))
        v = result.vectors[image, :found][:, inside].double()
        assert torch.allclose((v * degrees(graph.double())) @ v.T, torch.eye(found, dtype=torch.float64), atol=1e-5)
        assert true_residual(w, result, image, inside) == pytest.approx(float(result.residual[image]), abs=3e-6)


def test_only_the_images_that_missed_the_tolerance_are_solved_again() -> None:
    w = torch.stack([torch.full((150, 150), 0.6), clustered_affinity(150, seed=1)[0]])
    # Equal affinities leave nothing to iterate for; the other graph needs more than one restart.
    result = smallest_eigenpairs(w, everywhere(w), 4, solver="block-lanczos", max_iterations=1, tolerance=2e-6)
    assert result.solver == ["block-lanczos", "eigh (after block-lanczos)"]
    assert bool(result.converged.all())


@pytest.mark.parametrize(
    ("solver", "patches", "others", "cuda", "expected"),
    [
        ("auto", 900, 14, False, None),
        ("auto", 900, 14, True, "block-lanczos"),
        ("auto", eigen.CUDA_DENSE_UP_TO, 14, True, "eigh"),
        ("auto", 900, 0, True, "eigh"),  # the constant pair alone
        ("auto", 900, 200, True, "eigh"),  # seven blocks of 202 would exceed the whole space
        ("lobpcg", 900, 14, True, None),
        ("eigh", 900, 14, True, "eigh"),
        ("eigh", 900, 14, False, None),
        ("block-lanczos", 113, 14, False, "block-lanczos"),  # seven blocks of 16 are 112
        ("block-lanczos", 112, 14, False, None),
        ("block-lanczos", 112, 14, True, "eigh"),
    ],
)
def test_what_is_solved_together_and_how(
    solver: Solver, patches: int, others: int, cuda: bool, expected: str | None
) -> None:
    assert eigen._batched_method(solver, patches, others, cuda=cuda) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"w": torch.full((1, 4, 4), -0.1)}, "must not be negative"),
        ({"valid": torch.ones((1, 3), dtype=torch.bool)}, "are not"),
        ({"solver": "magma"}, "solver is 'magma'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"w": torch.ones((1, 4, 4)), "valid": torch.ones((1, 4), dtype=torch.bool), "k": 2}
    with pytest.raises(ValueError, match=message):
        smallest_eigenpairs(**(good | arguments))  # type: ignore[arg-type]


def test_the_sign_rule_makes_the_smaller_side_positive_by_hand() -> None:
    vectors = torch.tensor(
        [
            [
                [1.0, 1, 1, -1],  # 3/4 positive: negated
                [1.0, 1, -1, -1],  # exactly half: left alone
                [1.0, -1, -1, -1],  # 1/4: left alone
                [1.0, 1, 1, 1],  # all: left alone
                [1.0, 1, 1, 0],  # 3/4, zero is not positive: negated
                [-1.0, -1, -1, -1],  # none: left alone
            ]
        ]
    )
    flipped = [row[0] for row in (apply_sign_rule(vectors) != vectors).any(dim=2, keepdim=True)[0].tolist()]
    assert flipped == [True, False, False, False, True, False]
    assert torch.equal(apply_sign_rule(vectors).abs(), vectors.abs())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("solver", ["auto", "block-lanczos", "lobpcg", "eigh"])
@pytest.mark.parametrize("patches", [200, 1600])
def test_cuda_agrees_with_the_cpu(solver: Solver, patches: int) -> None:
    if solver in ("block-lanczos", "lobpcg") or (solver == "auto" and patches > eigen.CUDA_DENSE_UP_TO):
        pytest.importorskip("cupy")
    w = torch.cat([clustered_affinity(patches, seed=seed) for seed in range(2)])
    valid = everywhere(w)
    valid[0, :7] = False
    expected = smallest_eigenpairs(w, valid, 10)
    result = smallest_eigenpairs(w.cuda(), valid.cuda(), 10, solver=solver)
    assert result.vectors.is_cuda
    assert bool(result.converged.all())
    assert torch.allclose(result.values.cpu(), expected.values, atol=1e-5)
    gap = expected.values[:, 2] - expected.values[:, 1]
    assert bool((gap > 1e-3).all())
    cosine = torch.nn.functional.cosine_similarity(result.vectors[:, 1].cpu(), expected.vectors[:, 1]).abs()
    assert bool((cosine > 0.999).all())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_arpack_is_refused_on_cuda() -> None:
    w = torch.ones((1, 4, 4), device="cuda")
    with pytest.raises(ValueError, match="CPU only"):
        smallest_eigenpairs(w, everywhere(w), 2, solver="arpack")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensors_reach_cupy_without_a_copy_and_on_the_stream_of_torch() -> None:
    cupy = pytest.importorskip("cupy")
    tensor = torch.ones((2, 3), device="cuda")
    for stream in (torch.cuda.default_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream), eigen._array_library(tensor) as (library, to_array):
            assert library is cupy
            assert to_array(tensor).data.ptr == tensor.data_ptr()
            assert cupy.cuda.get_current_stream().ptr == stream.cuda_stream
