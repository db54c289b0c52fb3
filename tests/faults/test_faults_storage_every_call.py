"""Every storage call of a small run fails once in every way; then the same command is run again."""

from __future__ import annotations

import itertools
import random
import uuid
from collections.abc import Mapping

import pytest
from faulty_store import LASTING, STORE, TRANSIENT
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import check_complete, run_once

from simsam_batch.errors import RunError, StorageError
from simsam_batch.runs.verify import verify
from simsam_batch.storage import Folder, retrying


def _fresh() -> Folder:
    return Folder(f"faulty://{uuid.uuid4().hex}/out")


def _undisturbed() -> tuple[str, int]:
    """The content digest of a run without faults, and how many storage calls it made."""
    out = _fresh()
    STORE.begin({})
    result = run_once(out)
    calls = len(STORE.calls)
    check_complete(out, result)
    return result["content_digest"], calls


def _disturbed(faults: Mapping[int, str], digest: str) -> tuple[bool, int]:
    """Run with faults, then again without, and compare; returns whether the first run came through, and faults met."""
    out = _fresh()
    STORE.begin(faults)
    cause = ""
    try:
        assert run_once(out)["content_digest"] == digest
    except (StorageError, RunError) as error:
        cause = str(error)
    assert cause == "" or "To mend it" in cause or "run the same command again" in cause
    met = len(STORE.hit)
    STORE.begin({})
    result = run_once(out)
    assert result["content_digest"] == digest
    report = verify(out, check_complete(out, result))
    assert report.problems == []
    # what lost attempts left is known as such, and nothing reads it
    assert all(orphan.name.startswith("checksum/data/") for orphan in report.orphans)
    STORE.objects.clear()
    return cause == "", met


_QUICK = [("lost", 0), ("torn", 0), ("denied", 0), ("refused", 6), ("lost", 6)]
_ALL = itertools.product([*TRANSIENT, *LASTING], [0, 6])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "repeats"),
    [*_QUICK, *(pytest.param(*case, marks=pytest.mark.soak) for case in _ALL if case not in _QUICK)],
)
def test_a_fault_at_any_call_costs_nothing(kind: str, repeats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "PAUSES_S", (0.0,) * repeats)
    digest, calls = _undisturbed()
    assert calls > 40
    outcomes = [_disturbed({index: kind}, digest) for index in range(calls)]
    # threads may save a call now and then: the last indices are not always reached
    assert sum(met for _, met in outcomes) >= calls - 5
    if kind in TRANSIENT and repeats:
        assert all(came_through for came_through, _ in outcomes)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(faults=st.dictionaries(st.integers(0, 120), st.sampled_from([*TRANSIENT, *LASTING]), max_size=40))
def test_any_faults_at_any_calls_cost_nothing(faults: dict[int, str]) -> None:
    digest, _ = _undisturbed()
    _disturbed(faults, digest)


@pytest.mark.parametrize("repeats", [0, 6])
def test_a_store_that_fails_every_third_call_loses_nothing(repeats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "PAUSES_S", (0.0,) * repeats)
    digest, _ = _undisturbed()
    for start in range(3):
        _disturbed(dict.fromkeys(range(start, 1000, 3), "lost"), digest)


@pytest.mark.soak
def test_random_faults_for_long_cost_nothing() -> None:
    digest, _ = _undisturbed()
    for seed in range(2000):
        draw = random.Random(seed)
        rate = draw.choice([0.02, 0.1, 0.3])
        kinds = [*TRANSIENT, *LASTING]
        _disturbed({call: draw.choice(kinds) for call in range(400) if draw.random() < rate}, digest)
