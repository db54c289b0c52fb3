"""The choice of an object among cuts, on grids and descriptors made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import normalize

from simsam_batch.regions.candidates import (
    CELLS,
    LEVELS,
    PARTS,
    Candidates,
    border_share,
    candidates,
    explained_variance,
    objects_of,
    overlaps,
    pick,
)

GRID = (8, 10)
VALUES = torch.tensor([[0.0, 0.1, 0.3, 0.5]])


def mask_of(*rows: str) -> Tensor:
    return torch.tensor([[cell == "#" for row in rows for cell in row]])


OBJECT = torch.zeros(1, *GRID, dtype=torch.bool)
OBJECT[0, 2:5, 3:6] = True
OBJECT = OBJECT.flatten(1)


def scene(*shown: Tensor, noise: float = 0.05) -> tuple[Tensor, Tensor]:
    """Eigenvectors (1, 4, N) that show one mask each, in noise, and descriptors that tell the first one apart."""
    generator = torch.Generator().manual_seed(0)
    v = noise * torch.randn(1, 4, GRID[0] * GRID[1], generator=generator)
    v[0, 0] = 1.0
    for number, mask in enumerate(shown, start=1):
        v[0, number] += mask[0].to(torch.float32)
    rows = 0.3 * torch.randn(1, GRID[0] * GRID[1], 6, generator=generator)
    rows[..., 0] += torch.where(shown[0], 1.0, -1.0)
    return v, normalize(rows, dim=2)


def found_in(vectors: Tensor, rows: Tensor, values: Tensor = VALUES, valid: Tensor | None = None) -> Candidates:
    valid = torch.ones(rows.shape[:2], dtype=torch.bool) if valid is None else valid
    return candidates(vectors, values, rows, valid, GRID)


def best(found: Candidates) -> Tensor:
    return pick(found, 1)[0][:, 0]


def taken(found: Candidates) -> Tensor:
    index = best(found)
    return found.masks[torch.arange(len(index)), index]


def test_the_part_that_divides_the_features_is_taken_from_among_all_cuts() -> None:
    other = torch.zeros_like(OBJECT)
    other[0, 75:79] = True  # on the border, as bright in the eigenvector
    vectors, rows = scene(OBJECT)
    vectors[0, 1] += other[0].to(torch.float32)
    found = found_in(vectors, rows)
    assert torch.equal(taken(found), OBJECT)
    cut = found.cuts[int(best(found))]
    assert (cut.vector, cut.sign) == (1, 1)
    assert cut.part > 0


def test_the_sign_of_an_eigenvector_does_not_matter() -> None:
    vectors, rows = scene(OBJECT)
    flipped = vectors.clone()
    flipped[:, 1:] *= -1
    assert torch.equal(taken(found_in(flipped, rows)), OBJECT)
    assert torch.equal(taken(found_in(vectors, rows)), OBJECT)


def test_an_object_that_a_later_eigenvector_shows_is_found_there() -> None:
    stripe = torch.zeros(1, *GRID, dtype=torch.bool)
    stripe[:, :, 0] = True
    vectors, rows = scene(stripe.flatten(1), OBJECT)
    _, rows = scene(OBJECT)
    found = found_in(vectors, rows)
    assert torch.equal(taken(found), OBJECT)
    assert found.cuts[int(best(found))].vector == 2


def test_an_eigenvector_that_the_graph_lacks_offers_nothing() -> None:
    vectors, rows = scene(OBJECT, OBJECT)
    found = found_in(vectors, rows, torch.tensor([[0.0, 0.1, torch.nan, torch.nan]]))
    late = torch.tensor([cut.vector > 1 for cut in found.cuts])
    assert (found.score[:, late] == -torch.inf).all()
    assert (found.score[:, ~late] > -torch.inf).any()
    assert len(found.cuts) == 3 * 2 * len(LEVELS) * (1 + PARTS)


def test_what_is_picked_are_different_objects_the_best_first() -> None:
    second = torch.zeros(1, *GRID, dtype=torch.bool)
    second[0, 5:7, 7:9] = True
    vectors, rows = scene(OBJECT, second.flatten(1))
    found = found_in(vectors, rows)
    places, scores = pick(found, 3)
    three = found.masks[0, places[0]]
    assert torch.equal(three[0], OBJECT[0])
    for i in range(3):
        assert (overlaps(three[None], three[None, i])[0] >= 0.5).tolist() == [i == j for j in range(3)]
    assert scores[0].tolist() == sorted(scores[0].tolist(), reverse=True)


def test_an_image_without_a_candidate_has_no_object() -> None:
    vectors, rows = scene(OBJECT)
    valid = torch.ones(1, rows.shape[1], dtype=torch.bool)
    found = found_in(vectors, rows).without(torch.tensor([True]))
    places, scores = pick(found, 2)
    assert scores.tolist() == [[-torch.inf, -torch.inf]]
    drawn = objects_of(found, places[:, 0], vectors, rows, valid, GRID)
    assert not drawn.wide.any()
    assert drawn.share.tolist() == [0.0]
    assert not drawn.mask.any()
    assert drawn.confidence.tolist() == [0.0]
    assert drawn.soft.isfinite().all()


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (2, 2), (1, 9)])
def test_grids_of_next_to_nothing_come_to_something_finite(grid: tuple[int, int]) -> None:
    patches = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(2, min(3, patches), patches, generator=generator)
    rows = normalize(torch.randn(2, patches, 5, generator=generator), dim=2)
    values = torch.linspace(0, 1, vectors.shape[1]).expand(2, -1)
    valid = torch.ones(2, patches, dtype=torch.bool)
    if vectors.shape[1] < 2:
        return
    found = candidates(vectors, values, rows, valid, grid)
    drawn = objects_of(found, best(found), vectors, rows, valid, grid)
    assert drawn.confidence.isfinite().all()
    assert drawn.soft.isfinite().all()


def test_explained_variance_is_that_of_k_means() -> None:
    """By an independent implementation: 1 less the inertia of these clusters over that of a single one."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(40, 5))
    rows[:15] += 2
    mask = np.arange(40) < 15
    centers = np.stack([rows[~mask].mean(0), rows[mask].mean(0)])
    fitted = KMeans(2, init=centers, n_init=1, max_iter=1).fit(rows)
    inertia = sum(((rows[side] - rows[side].mean(0)) ** 2).sum() for side in (mask, ~mask))
    assert fitted.inertia_ <= inertia + 1e-9
    expected = 1 - inertia / ((rows - rows.mean(0)) ** 2).sum()
    given_rows = torch.from_numpy(rows)[None].to(torch.float32)
    valid = torch.ones(1, 40, dtype=torch.bool)
    share = explained_variance(torch.from_numpy(mask)[None, None], given_rows, valid)
    assert share.item() == pytest.approx(expected, rel=1e-5)


def test_patches_that_do_not_count_explain_nothing() -> None:
    rows = torch.tensor([[[1.0], [1.0], [-1.0], [-1.0], [50.0]]])
    valid = torch.tensor([[True, True, True, True, False]])
    masks = torch.tensor([[[True, True, False, False, False], [True, True, False, False, True]]])
    assert explained_variance(masks, rows, valid).tolist() == [[1.0, 1.0]]


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_a_mask_and_its_complement_explain_the_same(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = normalize(torch.randn(2, 30, 4, generator=generator), dim=2)
    valid = torch.rand(2, 30, generator=generator) > 0.2
    masks = torch.rand(2, 5, 30, generator=generator) > 0.5
    torch.testing.assert_close(
        explained_variance(masks, rows, valid), explained_variance(~masks, rows, valid), rtol=1e-4, atol=1e-6
    )


def test_one_sided_masks_and_equal_descriptors_explain_nothing() -> None:
    rows = torch.ones(1, 4, 2)
    masks = torch.tensor([[[True] * 4, [False] * 4, [True, False, False, False]]])
    assert explained_variance(masks, rows, torch.ones(1, 4, dtype=torch.bool)).tolist() == [[0.0, 0.0, 0.0]]


def test_a_corner_counts_twice_on_the_border() -> None:
    share = border_share(mask_of("#...", "....", "..#.").unsqueeze(1), (3, 4))
    # 3 of the 14 places along the four edges.
    assert share.item() == pytest.approx(3 / 14)
    assert border_share(torch.ones(1, 1, 12, dtype=torch.bool), (3, 4)).item() == 1.0


def test_overlaps_are_ious() -> None:
    masks = torch.tensor([[[True, True, False, False], [False] * 4]])
    one = torch.tensor([[False, True, True, False]])
    torch.testing.assert_close(overlaps(masks, one), torch.tensor([[1 / 3, 0.0]]))
    assert overlaps(masks, torch.zeros(1, 4, dtype=torch.bool)).tolist() == [[0.0, 0.0]]


def test_a_mask_is_drawn_between_patches_and_stays_near_its_candidate() -> None:
    far = torch.zeros(1, *GRID, dtype=torch.bool)
    far[0, 6:, 8:] = True
    vectors, rows = scene(OBJECT)
    vectors[0, 1] += far.flatten(1)[0].to(torch.float32)
    valid = torch.ones(1, rows.shape[1], dtype=torch.bool)
    found = found_in(vectors, rows)
    drawn = objects_of(found, best(found), vectors, rows, valid, GRID)
    assert drawn.mask.shape == (1, CELLS * GRID[0], CELLS * GRID[1])
    assert not drawn.mask[0, CELLS * 5 :].any()  # the far part, as bright in the eigenvector, is not of it
    inside = drawn.mask[0, CELLS * 3 : CELLS * 4, CELLS * 4 : CELLS * 5]
    assert inside.all()
    # The corner of the square is rounded off, within one patch.
    corner = drawn.mask[0, CELLS * 2 : CELLS * 3, CELLS * 3 : CELLS * 4]
    assert not corner[0, 0]
    assert corner[-1, -1]
    assert 0 <= drawn.soft.min() <= drawn.soft.max() <= 1
    assert drawn.soft.reshape(-1)[drawn.mask.reshape(-1)].min() > drawn.soft[~drawn.mask].mean()


def test_confidence_is_near_one_where_all_agree_and_lower_where_the_features_say_otherwise() -> None:
    vectors, rows = scene(OBJECT, noise=0.01)
    valid = torch.ones(1, rows.shape[1], dtype=torch.bool)
    found = found_in(vectors, rows)
    index = best(found)
    sure = objects_of(found, index, vectors, rows, valid, GRID).confidence.item()
    assert sure > 0.75
    shuffled = rows[:, torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(3))]
    assert objects_of(found, index, vectors, shuffled, valid, GRID).confidence.item() < 0.5 * sure


def test_images_of_a_batch_are_cut_as_alone() -> None:
    several = [scene(OBJECT, noise=noise) for noise in (0.01, 0.1, 0.3)]
    vectors, rows = (torch.cat(each) for each in zip(*several, strict=True))
    together = found_in(vectors, rows, VALUES.expand(3, -1))
    for i, (own, of_it) in enumerate(several):
        alone = found_in(own, of_it)
        assert torch.equal(together.masks[i], alone.masks[0])
        torch.testing.assert_close(together.score[i], alone.score[0])
