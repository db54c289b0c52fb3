"""Comparison of two runs: answers against a plain join of their rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

import numpy as np
import pandas as pd
import pytest
from result_rows import rows_of
from viewing import Client
from whole import Whole

from simsam_batch.viewer.answers import RefusedError
from simsam_batch.viewer.jobs import MOST_KEPT, Job, Jobs


def _joined(whole_run: Whole) -> pd.DataFrame:
    a, b = (pd.DataFrame(rows_of(out, "segment")) for out in (whole_run.out, whole_run.other))
    both = a.merge(b, on="image_id", suffixes=("_a", "_b"))
    return both.assign(difference=both["iou_b"] - both["iou_a"])


@pytest.mark.parametrize("desc", [0, 1])
def test_the_list_is_a_plain_join_in_order_of_the_difference(
    served: Callable[..., Client], whole_run: Whole, desc: int
) -> None:
    client = served(whole_run.out, whole_run.other)
    found = client.get("api/compare", stage="segment", metric="iou", desc=desc).json()
    expected = _joined(whole_run).sort_values("difference", ascending=not desc)
    assert found["total"] == len(expected)
    np.testing.assert_allclose([row["difference"] for row in found["rows"]], expected["difference"], atol=1e-6)
    by_id = expected.set_index("image_id")
    for row in found["rows"]:
        assert row["a"] == pytest.approx(by_id.loc[row["id"], "iou_a"], abs=1e-6)
        assert row["b"] == pytest.approx(by_id.loc[row["id"], "iou_b"], abs=1e-6)


def test_one_image_has_its_neighbours_of_the_whole_list(served: Callable[..., Client], whole_run: Whole) -> None:
    client = served(whole_run.out, whole_run.other)
    order = {"stage": "segment", "metric": "iou", "sort": "id", "desc": 1}
    rows = [row["row_a"] for row in client.get("api/compare", **order).json()["rows"]]
    for place, row in enumerate(rows):
        one = client.get(f"api/compare/{row}", **order).json()
        assert (one["place"], one["total"]) == (place, len(rows))
        assert one["previous"] == (rows[place - 1] if place else None)
        assert one["next"] == (rows[place + 1] if place + 1 < len(rows) else None)


def test_an_image_that_is_not_in_both_is_not_found(served: Callable[..., Client], whole_run: Whole) -> None:
    client = served(whole_run.out, whole_run.other)
    assert client.get("api/compare/999", stage="segment").status == 404
    assert client.get("api/compare/x", stage="segment").status == 400


def _until(job: Job) -> None:
    deadline = time.monotonic() + 10
    while not job.finished:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_job_that_is_stopped_ends_at_its_next_step_and_the_second_waits_for_it() -> None:
    jobs, begun, go = Jobs("out"), Event(), Event()

    def long(job: Job) -> None:
        begun.set()
        go.wait(10)
        job.step(1)
        job.values["reached"] = True

    first, second = jobs.begin("long", 2, long), jobs.begin("short", 1, lambda job: job.step(1))
    assert begun.wait(10)
    assert not second.finished
    first.stop()
    go.set()
    _until(first)
    _until(second)
    assert first.stopped
    assert first.values == {}
    assert second.done == 1


def test_more_jobs_than_are_kept_are_refused() -> None:
    jobs, go = Jobs("out"), Event()
    for _ in range(MOST_KEPT):
        jobs.begin("wait", 1, lambda _: bool(go.wait(10)) and None)
    with pytest.raises(RefusedError, match="waiting"):
        jobs.begin("wait", 1, lambda _: None)
    go.set()
