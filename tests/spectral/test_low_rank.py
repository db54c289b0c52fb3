"""Eigenpairs from factors against dense fp64 LAPACK on the explicit matrix, (D - W) v = mu D v."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import eigh, subspace_angles
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from simsam_batch.spectral.eigen import EigenResult, smallest_eigenpairs
from simsam_batch.spectral.low_rank import minmax_map, smallest_eigenpairs_of_low_rank

Array = NDArray[np.float64]


pytestmark = pytest.mark.usefixtures("one_thread")


def unit_rows(patches: int, channels: int, *, seed: int = 0, noise: float = 0.7, common: float = 0.0) -> Tensor:
    """Noisy copies of five directions, (1, N, C); with a ``common`` direction all cosines become positive."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((5, channels))[rng.integers(0, 5, patches)]
    rows = rows + noise * rng.standard_normal((patches, channels))
    rows[:, 0] += common
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return torch.from_numpy(rows.astype(np.float32))[None]


def everywhere(features: Tensor) -> Tensor:
    return torch.ones(features.shape[:2], dtype=torch.bool)


def solve(features: Tensor, k: int, valid: Tensor | None = None) -> EigenResult:
    valid = everywhere(features) if valid is None else valid
    return smallest_eigenpairs_of_low_rank(features, valid, *minmax_map(features, valid), k)


def explicit(features: Tensor) -> Array:
    """(c - min) / (max - min) in fp64, for one image."""
    cosine = features.double().numpy() @ features.double().numpy().T
    return np.asarray((cosine - cosine.min()) / (cosine.max() - cosine.min()))


def dense(w: Array) -> tuple[Array, Array, Array]:
    degree = w.sum(axis=1)
    values, vectors = eigh(np.diag(degree) - w, np.diag(degree))
    return values, vectors, degree


@pytest.mark.parametrize(
    ("patches", "channels", "common"),
    [(40, 6, 0.0), (40, 6, 9.0), (200, 16, 0.0), (200, 16, 9.0), (300, 64, 0.0), (300, 64, 30.0)],
)
def test_pairs_equal_those_of_the_explicit_matrix(patches: int, channels: int, common: float) -> None:
    features = unit_rows(patches, channels, common=common)
    _, offset = minmax_map(features, everywhere(features))
    assert bool(offset < 0) == bool(common)
    # With a negative offset one of the C + 1 eigenvalues of W is negative, and the null space comes before it.
    k = channels + 1 - bool(common)
    values, vectors, degree = dense(explicit(features[0]))
    result = solve(features, k)

    assert result.solver == ["low-rank"]
    assert bool(result.converged.all())
    assert result.residual.max() < 1e-9
    assert np.abs(result.values[0].numpy() - values[:k]).max() < 1e-5
    root = np.sqrt(degree)[:, None]
    ours = result.vectors[0].double().numpy().T * root
    assert np.abs(ours.T @ ours - np.eye(k)).max() < 1e-5
    # The explicit matrix takes the minimum in fp64, ours in fp32: vectors differ by that over the gap.
    wide = [cut for cut in range(1, k + 1) if values[cut] - values[cut - 1] > 0.01]
    assert len(wide) >= 3
    for cut in wide:
        assert subspace_angles(vectors[:, :cut] * root, ours[:, :cut]).max() < 1e-5


def test_the_residual_is_that_of_the_explicit_matrix() -> None:
    features = unit_rows(120, 12)
    result = solve(features, 13)
    w = explicit(features[0])
    degree = w.sum(axis=1)
    u = result.vectors[0].double().numpy() * np.sqrt(degree)
    left = u @ (w / np.sqrt(np.outer(degree, degree))) - (1 - result.values[0].double().numpy()[:, None]) * u
    assert np.linalg.norm(left, axis=1).max() < 1e-6


def test_the_first_vector_is_constant_and_positive() -> None:
    result = solve(unit_rows(50, 6), 4)
    first = result.vectors[0, 0]
    assert first.min() == first.max() > 0
    assert result.values[0, 0] == 0


def test_one_pair_is_the_constant_vector() -> None:
    features = unit_rows(50, 6)
    result = solve(features, 1)
    total = explicit(features[0]).sum()
    # v^T D v = 1 for v = c 1 gives c = 1 / sqrt(sum of all affinities).
    assert result.values.tolist() == [[0.0]]
    assert torch.allclose(result.vectors, torch.full((1, 1, 50), float(total) ** -0.5), rtol=1e-5)
    assert bool(result.converged.all())


def test_the_dense_solver_of_the_package_agrees() -> None:
    features = torch.cat([unit_rows(150, 10, seed=1), unit_rows(150, 10, seed=2, common=3.0)])
    w = torch.stack([torch.from_numpy(explicit(image)).float().clamp(min=0) for image in features])
    w = (w + w.mT) / 2
    theirs = smallest_eigenpairs(w, everywhere(features), 8, solver="eigh")
    ours = solve(features, 8)
    assert torch.allclose(ours.values, theirs.values, atol=1e-5)


@pytest.mark.parametrize("filler", [0.0, 7.0, float("nan"), float("inf")])
def test_patches_left_out_are_not_read_and_get_zero(filler: float) -> None:
    features = unit_rows(80, 8)
    valid = everywhere(features)
    valid[0, [0, 5, 79]] = False
    alone = solve(features[:, valid[0]], 6)
    features[0, ~valid[0]] = filler
    result = solve(features, 6, valid)
    assert torch.allclose(result.values, alone.values, atol=1e-6)
    assert (result.vectors[0][:, ~valid[0]] == 0).all()
    ours, theirs = result.vectors[0][:, valid[0]].double().numpy().T, alone.vectors[0].double().numpy().T
    assert np.abs(np.abs(np.sum(ours * theirs, axis=0)) / np.sum(theirs**2, axis=0) - 1).max() < 1e-5


def test_an_image_gets_the_same_alone_and_in_a_batch() -> None:
    images = [unit_rows(90, 12, seed=seed, common=common) for seed, common in [(1, 0.0), (2, 9.0), (3, 0.0)]]
    together = solve(torch.cat(images), 9)
    for number, image in enumerate(images):
        alone = solve(image, 9)
        assert torch.allclose(together.values[number], alone.values[0], atol=1e-6)
        signs = (together.vectors[number] * alone.vectors[0]).sum(dim=1, keepdim=True).sign()
        assert torch.allclose(together.vectors[number] * signs, alone.vectors[0], atol=1e-5)


def test_an_image_that_is_not_finite_does_not_cost_its_neighbours() -> None:
    good = unit_rows(60, 8)
    bad = good.clone()
    bad[0, 7, 3] = torch.nan
    alone, result = solve(good, 5), solve(torch.cat([good, bad, good]), 5)
    assert result.solver == ["low-rank", "none (not finite)", "low-rank"]
    assert result.converged.tolist() == [True, False, True]
    assert result.values[1].isnan().all()
    assert result.residual[1].isnan()
    assert (result.vectors[1] == 0).all()
    for image in (0, 2):
        assert torch.allclose(result.values[image], alone.values[0], atol=1e-6)


def test_repeated_features_leave_the_null_space_out() -> None:
    # Three orthonormal directions, 20 + 10 + 10 patches; cosines 0 and 1, so W is three separate complete graphs:
    # mu = 0 three times, and 1 for the other 37.
    features = torch.eye(8)[torch.tensor([0] * 20 + [3] * 10 + [5] * 10)][None]
    result = solve(features, 9)
    assert torch.allclose(result.values[0, :3], torch.zeros(3), atol=1e-6)
    assert result.values[0, 3:].isnan().all()
    assert (result.vectors[0, 3:] == 0).all()
    assert bool(result.converged.all())
    # All three vectors are constant on every graph, whatever rotation was returned.
    for part in (slice(0, 20), slice(20, 30), slice(30, 40)):
        piece = result.vectors[0, :3, part]
        assert (piece.amax(dim=1) - piece.amin(dim=1)).max() < 1e-6


def test_equal_features_everywhere_give_the_constant_pair_alone() -> None:
    features = torch.full((1, 30, 4), 0.5)
    scale, offset = minmax_map(features, everywhere(features))
    assert (scale.item(), offset.item()) == (0, 1)
    result = solve(features, 5)
    assert result.values[0, 0] == 0
    assert result.values[0, 1:].isnan().all()
    # 30 patches of degree 30: v = 1 / sqrt(900).
    assert torch.allclose(result.vectors[0, 0], torch.full((30,), 1 / 30))
    assert bool(result.converged.all())


def test_fewer_patches_than_channels_give_all_pairs_also_beyond_one() -> None:
    # Cosines 1, 0.8 and 0.6 between three patches: W has offset -0.6 / 0.4 and eigenvalues of both signs.
    rows = np.linalg.cholesky(np.array([[1, 0.8, 0.6], [0.8, 1, 0.8], [0.6, 0.8, 1]]))
    features = torch.from_numpy(np.pad(rows, ((0, 0), (0, 5))).astype(np.float32))[None]
    # By hand: W = [[1, .5, 0], [.5, 1, .5], [0, .5, 1]], d = (1.5, 2, 1.5). (1, 0, -1): W v = v, so mu = 1 - 1 / 1.5.
    # The trace of D^-1 W is 2 / 1.5 + 1 / 2 = 11/6 = 1 + 2/3 + nu, so the last mu = 1 - 1/6.
    result = solve(features, 6)
    assert np.allclose(result.values[0, :3].numpy(), [0, 1 / 3, 5 / 6], atol=1e-5)
    assert result.values[0, 3:].isnan().all()


def test_a_complete_set_of_pairs_may_go_beyond_one() -> None:
    # W = [[.2, 1], [1, .2]] between two patches: (1, -1) has W v = -0.8 v and d = 1.2, so mu = 1 + 2/3.
    features = torch.eye(2)[None]
    scale, offset = torch.tensor([-0.8]), torch.tensor([1.0])
    result = smallest_eigenpairs_of_low_rank(features, everywhere(features), scale, offset, 2)
    assert np.allclose(result.values[0].numpy(), [0, 5 / 3], atol=1e-6)
    # With a third patch like the first, W gets a null space, which comes before: mu = 0, 1, 1 + x.
    features = torch.eye(2)[torch.tensor([0, 1, 0])][None]
    result = smallest_eigenpairs_of_low_rank(features, everywhere(features), scale, offset, 3)
    assert result.values[0, 0] == 0
    assert result.values[0, 1:].isnan().all()


@pytest.mark.parametrize("offset", [-0.9, 0.0])
def test_negative_affinities_that_show_are_named_and_cost_no_neighbour(offset: float) -> None:
    # Two opposite camps, 3 against 2: cosines of -1 across, so degrees 3 - 2 and 2 - 3, or all smaller still.
    camps = torch.tensor([[1.0, 0], [1, 0], [1, 0], [-1, 0], [-1, 0]])[None]
    friends = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1], [0, 1]])[None]
    result = smallest_eigenpairs_of_low_rank(
        torch.cat([camps, friends]), torch.ones((2, 5), dtype=torch.bool), torch.ones(2), torch.tensor([offset, 0.1]), 2
    )
    assert result.solver == ["none (negative affinity)", "low-rank"]
    assert result.values[0].isnan().all()
    assert result.converged.tolist() == [False, True]


def test_an_eigenvalue_below_zero_gives_negative_affinities_away() -> None:
    # Two patches attract each other by 1.25, the camps repel by 0.75: all degrees are 2.5 - 1.5 = 1, but
    # (1, 1, -1, -1) has W v = 4 v, so mu = -3.
    camps = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])[None]
    result = smallest_eigenpairs_of_low_rank(camps, everywhere(camps), torch.ones(1), torch.tensor([0.25]), 2)
    assert result.solver == ["none (negative affinity)"]


def test_patches_without_edges_have_no_part_in_the_constant_vector() -> None:
    # Plain cosine between two equal patches and one zero row: degrees 2, 2 and none.
    features = torch.tensor([[[1.0, 0], [1, 0], [0, 0]]])
    result = smallest_eigenpairs_of_low_rank(features, everywhere(features), torch.ones(1), torch.zeros(1), 2)
    assert torch.allclose(result.vectors[0, 0], torch.tensor([0.5, 0.5, 0]))
    assert result.values[0, 0] == 0
    assert result.values[0, 1].isnan()


def test_images_without_patches_and_empty_batches_have_no_pairs() -> None:
    features = torch.cat([unit_rows(20, 4), unit_rows(20, 4)])
    valid = everywhere(features)
    valid[1] = False
    result = solve(features, 3, valid)
    assert result.solver == ["low-rank", "none (no patches)"]
    assert result.values[1].isnan().all()
    assert result.converged.tolist() == [True, False]
    assert solve(features[:0], 3).values.shape == (0, 3)
    assert solve(features[:, :0], 3).vectors.shape == (2, 3, 0)


@pytest.mark.parametrize(
    ("k", "message"), [(0, "k is 0"), (6, "from 1 to 5 eigenpairs")], ids=["none", "more than the rank"]
)
def test_a_number_of_pairs_that_cannot_be_is_refused(k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(unit_rows(20, 4), k)


def test_shapes_that_do_not_fit_are_refused() -> None:
    features = unit_rows(20, 4)
    with pytest.raises(ValueError, match="not \\(B, N, C\\) and \\(B, N\\)"):
        minmax_map(features, everywhere(features)[:, 1:])
    with pytest.raises(ValueError, match="not one number per image"):
        smallest_eigenpairs_of_low_rank(features, everywhere(features), torch.ones(()), torch.ones(1), 2)


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_the_map_sends_the_least_cosine_to_zero_and_the_largest_to_one(block: int) -> None:
    features = torch.cat([unit_rows(65, 5, seed=seed, common=seed * 3.0) for seed in range(3)])
    valid = torch.from_numpy(np.random.default_rng(0).random((3, 65)) < 0.8)
    scale, offset = minmax_map(features, valid, block=block)
    for image in range(3):
        rows = features[image][valid[image]].double()
        w = scale[image] * rows @ rows.T + offset[image]
        assert abs(float(w.min())) < 1e-6
        assert abs(float(w.max()) - 1) < 1e-6


@settings(max_examples=25, deadline=None)
@given(
    patches=st.integers(1, 30),
    channels=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
    common=st.sampled_from([0.0, 6.0]),
    left_out=st.integers(0, 4),
)
def test_whatever_is_returned_solves_the_explicit_problem(
    patches: int, channels: int, seed: int, common: float, left_out: int
) -> None:
    features = unit_rows(patches, channels, seed=seed, common=common)
    valid = everywhere(features)
    valid[0, : min(left_out, patches - 1)] = False
    scale, offset = minmax_map(features, valid)
    result = smallest_eigenpairs_of_low_rank(features, valid, scale, offset, channels + 1)
    rows = features[0][valid[0]].double()
    w = (scale * rows @ rows.T + offset).numpy()
    degree = w.sum(axis=1)
    root = np.sqrt(degree)
    # At next to no contrast rounding leaves a negative affinity, which counts as none.
    expected = (1 - np.linalg.eigvalsh(w / np.outer(root, root))[::-1]).clip(min=0)

    found = ~result.values[0].isnan()
    count = int(found.sum())
    assert found[:count].all()
    assert 1 <= count <= len(rows)
    assert np.abs(result.values[0, :count].numpy() - expected[:count]).max() < 1e-5
    # What is missing is the null space, or was not there.
    assert np.abs(expected[count : channels + 1] - 1).max(initial=0) < 1e-5
    u = result.vectors[0, :count][:, valid[0]].double().numpy() * root
    assert np.abs(u @ u.T - np.eye(count)).max() < 1e-4
    assert result.residual[0] < 1e-6


class LargestTensor(TorchDispatchMode):
    """Remember the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        for item in returned if isinstance(returned, tuple | list) else [returned]:
            if isinstance(item, Tensor):
                self.elements = max(self.elements, item.numel())
        return returned


@pytest.mark.parametrize("common", [0.0, 9.0])
def test_no_tensor_holds_all_pairs_of_patches(common: float) -> None:
    patches, channels, block = 1000, 8, 64
    features = unit_rows(patches, channels, common=common)
    with LargestTensor() as seen:
        scale, offset = minmax_map(features, everywhere(features), block=block)
    assert patches * channels <= seen.elements <= patches * block
    with LargestTensor() as seen:
        smallest_eigenpairs_of_low_rank(features, everywhere(features), scale, offset, channels + 1)
    assert patches * channels <= seen.elements <= patches * (channels + 1)
