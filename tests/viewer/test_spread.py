"""Histograms whose edges are short: against plain counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simsam_batch.viewer.spread import MOST_BINS, Range, spread

_NUMBERS = st.floats(-1e6, 1e6).map(lambda value: value if abs(value) > 1e-6 else 0.0)


@settings(deadline=None)
@given(st.lists(st.one_of(_NUMBERS, st.integers(-50, 50).map(float), st.just(float("nan"))), max_size=60))
def test_every_bin_holds_what_its_range_does(values: list[float]) -> None:
    taken = [place % 2 == 0 for place in range(len(values))]
    found = spread(np.array(values, np.float64), np.array(taken, np.bool_))
    held = [(value, of) for value, of in zip(values, taken, strict=True) if value == value]
    assert found["missing"] == len(values) - len(held)
    assert len(found["all"]) <= MOST_BINS
    assert sum(found["all"]) == len(held)
    for at, count in enumerate(found["all"]):
        low, high = found["edges"][at : at + 2]
        assert count == sum(low <= value < high for value, _ in held)
        assert found["filtered"][at] == sum(low <= value < high and of for value, of in held)
        assert Range(low, high).holds(np.array(values)).sum() == count


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ([-0.115, 0.092], ["-0.12", "-0.11", "-0.1"]),
        ([0.0, 0.5, 1.0], ["0.0", "0.05", "0.1"]),
        ([-3.0, 4.0], ["-3.0", "-2.0", "-1.0"]),
        ([0.0, 0.0], ["0.0", "1.0"]),
        ([1e-12, 3e-12], ["1e-12", "1.1e-12", "1.2e-12"]),
    ],
)
def test_edges_are_short_decimals(values: list[float], edges: list[str]) -> None:
    found = spread(np.array(values), np.ones(len(values), np.bool_))["edges"].tolist()
    assert [str(edge) for edge in found][: len(edges)] == edges
