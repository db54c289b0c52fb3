"""Orders of many rows, found without sorting all of them, against pandas, which sorts all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simsam_batch.viewer.columns import Columns
from simsam_batch.viewer.order import around, keys_of, some_of

ROWS = 20_000


@dataclass
class Held:
    """One column in memory, as `Columns` has it."""

    values: Any
    unit: str = "image_id"

    def __post_init__(self) -> None:
        self.numbers, self.kinds = np.arange(len(self.values)), {"value": "number"}

    def column(self, name: str) -> Any:
        assert name == "value"
        return self.values


def random_values(kind: str) -> Any:
    rng = np.random.default_rng(0)
    if kind == "few":
        values = rng.integers(-3, 3, ROWS).astype(np.float32)
    elif kind == "exact":
        values = rng.integers(-(2**40), 2**40, ROWS).astype(np.float64)
    else:
        values = rng.normal(size=ROWS).astype(np.float32)
        values[::97], values[1::97], values[2::97], values[3::97] = np.inf, -np.inf, 0.0, -0.0
    values[5::50] = np.nan
    return values


@pytest.mark.parametrize("kind", ["few", "many", "exact"])
@pytest.mark.parametrize("desc", [False, True])
def test_any_page_of_any_order_is_that_of_all_rows_sorted(kind: str, desc: bool) -> None:
    values = random_values(kind)
    places = np.flatnonzero(np.arange(ROWS) % 3).astype(np.int32)
    keys = keys_of(cast("Columns", Held(values)), places, "value", desc=desc)
    assert keys is not None
    series = pd.Series(values[places])
    order = series.sort_values(ascending=not desc, kind="stable", na_position="last").index.to_numpy()

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, len(places) + 100), st.integers(1, 200))
    def pages(offset: int, limit: int) -> None:
        assert some_of(keys, offset, limit).tolist() == order[offset : offset + limit].tolist()

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, len(places) - 1))
    def neighbours(place: int) -> None:
        before = int(order[place - 1]) if place else None
        after = int(order[place + 1]) if place + 1 < len(order) else None
        assert around(keys, int(order[place])) == (place, before, after)

    pages()
    neighbours()
