"""Rows in fixed point: whole numbers whose dot products Python's own integers confirm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from simsam_batch.probes.fixed_point import in_fixed_point, rough_error


def drawn(rows: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(width)
    return torch.randn(rows, width, generator=generator) * 10.0 ** torch.randint(-9, 9, (rows, 1), generator=generator)


@pytest.mark.parametrize("width", [1, 3, 192, 1024, 5000])
def test_dot_products_are_those_of_whole_numbers(width: int) -> None:
    features = torch.cat([drawn(6, width), torch.ones(1, width), torch.full((1, width), 0.99999994)])
    rows = in_fixed_point(features, "cosine", "row")
    whole = [[int(value) for value in row] for row in rows.whole.tolist()]
    assert torch.equal(torch.tensor(whole).float(), rows.whole)
    assert all(sum(value * value for value in row) <= 2**52 for row in whole)
    expected = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in whole] for one in whole]
    assert (rows.whole.double() @ rows.whole.double().T).tolist() == expected


@pytest.mark.parametrize("metric", ["cosine", "inner"])
def test_similarities_are_those_of_the_features(metric: str) -> None:
    features = drawn(8, 192)
    rows = in_fixed_point(features, metric, "row")  # type: ignore[arg-type]
    similarities = rows.whole.double() @ rows.whole.double().T * rows.scale[:, None] * rows.scale
    lengths = features.double().norm(dim=1)
    cosines = features.double() @ features.double().T / lengths[:, None] / lengths
    unit = lengths if metric == "inner" else torch.ones_like(lengths)
    assert torch.allclose(similarities / unit[:, None] / unit, cosines, rtol=0, atol=1e-6)
    assert torch.allclose(rows.rough.double() / unit[:, None], features / lengths[:, None], rtol=0, atol=1e-6)
    assert torch.allclose(rows.length, unit, rtol=1e-6)


def test_a_row_depends_on_itself_alone() -> None:
    features = drawn(3000, 192)
    together = in_fixed_point(features, "cosine", "row")
    for i in (0, 1500, 2999):
        alone = in_fixed_point(features[i : i + 1], "cosine", "row")
        assert torch.equal(alone.whole[0], together.whole[i])
        assert alone.scale[0] == together.scale[i]


def test_rough_products_are_as_near_as_they_are_said_to_be() -> None:
    rows = in_fixed_point(drawn(400, 768), "cosine", "row")
    exact = rows.whole.double() @ rows.whole.double().T * rows.scale[:, None] * rows.scale
    error = (rows.rough @ rows.rough.T - exact).abs().amax(dim=1)
    assert (error > 0).any()
    assert (error < rough_error(rows)).all()
    # A bound that hides nothing: 768 roundings and a few.
    assert (rough_error(rows) < 800 * 2.0**-24).all()


def test_what_is_no_row_is_named() -> None:
    features = drawn(5000, 192)
    features[4321, 7] = -math.inf
    with pytest.raises(ValueError, match="query 5321 is not finite"):
        in_fixed_point(features, "cosine", "query", 1000)
    with pytest.raises(ValueError, match="a matrix with rows is needed"):
        in_fixed_point(features[:0], "cosine", "row")
