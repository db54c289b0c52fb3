"""Attachments of a shard that is worked on: the same in memory and on disk."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from simsam_batch.runs.schema import Attachment, File
from simsam_batch.workers import spool
from simsam_batch.workers.spool import Spool

ROWS: list[Mapping[str, Attachment]] = [
    {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array(7.5)},
    {},
    {"half": np.linspace(0, 1, 5).astype(np.float16), "picture": File(b"\x89PNG", "png")},
    {"turned": np.arange(6).reshape(2, 3).T, "empty": np.zeros((0, 3), np.int8)},
]


def filled(most: int, monkeypatch: pytest.MonkeyPatch) -> Spool:
    """All rows, put in another order than theirs."""
    monkeypatch.setattr(spool, "MOST_BYTES", most)
    held = Spool(len(ROWS))
    for row in (2, 0, 3):
        held.put(row, ROWS[row])
    return held


def same(found: Mapping[str, Attachment], expected: Mapping[str, Attachment]) -> None:
    assert [*found] == [*expected]
    for name, value in expected.items():
        other: Any = found[name]
        if isinstance(value, File):
            assert other == value
        else:
            assert (other.dtype, other.shape) == (value.dtype, value.shape)
            assert np.array_equal(other, value)


@pytest.mark.parametrize("most", [1_000_000, 40, 0], ids=["in memory", "the first row in memory", "on disk"])
def test_rows_come_back_as_they_were_put(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    held = filled(most, monkeypatch)
    assert len(held) == 4
    for row in (3, 0, 2, 1, 3, -1):
        same(held[row], ROWS[row])
    for found, expected in zip(held, ROWS, strict=True):
        same(found, expected)
    assert len(held[1:3]) == 2
    same(held[1:3][1], ROWS[2])


def test_what_goes_to_disk_is_what_is_over_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    # row 2 has 10 and 4 bytes, row 0 then 48 and 8, row 3 then 48
    assert filled(118, monkeypatch)._file is None
    on_disk = filled(70, monkeypatch)._file
    assert on_disk is not None
    assert on_disk.seek(0, 2) == 48
    everything = filled(0, monkeypatch)._file
    assert everything is not None
    assert everything.seek(0, 2) == 118


@pytest.mark.parametrize("most", [1_000_000, 0], ids=["in memory", "on disk"])
def test_another_process_is_sent_a_plain_list(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = pickle.loads(pickle.dumps(filled(most, monkeypatch)))
    assert type(sent) is list
    for found, expected in zip(sent, ROWS, strict=True):
        same(found, expected)


def test_another_spool_does_not_share_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = filled(0, monkeypatch), filled(0, monkeypatch)
    other.put(1, {"more": np.ones(3)})
    assert dict(one[1]) == {}
    same(one[0], ROWS[0])
    same(other[1], {"more": np.ones(3)})
