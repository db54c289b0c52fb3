"""The JSON files of a run, as people and programs read them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from simsam_batch.runs.records import to_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def test_lists_of_numbers_stand_on_one_line_and_text_is_left_alone() -> None:
    text = "[\n 1,\n 2\n]"
    written = to_json({"curve": [0.5, -1e-09, 3], "rows": [[1, 2], [3, 4]], "empty": [], "text": text}, "x").decode()
    assert ' "curve": [0.5,-1e-09,3]' in written
    assert "[1,2]" in written
    assert json.loads(written)["text"] == text


@given(record=st.dictionaries(st.text(max_size=4), values, max_size=4))
def test_what_is_written_reads_back(record: dict[str, Any]) -> None:
    assert json.loads(to_json(record, "x")) == json.loads(json.dumps(record))


def test_keys_stay_in_the_order_they_have() -> None:
    # As text, 10 would come before 2.
    record = {"z": {"0": 1, "2": 1, "10": 1}, "a": 0}
    read = json.loads(to_json(record, "x"))
    assert [list(read), list(read["z"])] == [["z", "a"], ["0", "2", "10"]]
