"""Comparison of two runs: answers against a plain join of their rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pycocotools import mask as coco
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


def _agreements(whole_run: Whole) -> dict[str, float]:
    """By image the IoU of its two masks, of their pixels."""
    a, b = ({row["image_id"]: row["mask_rle"] for row in rows_of(out, "segment")} for out in _runs(whole_run))
    found = {}
    for name in a:
        one, other = (coco.decode({**of[name], "counts": of[name]["counts"].encode()}) > 0 for of in (a, b))
        found[name] = float((one & other).sum() / (one | other).sum())
    return found


def _runs(whole_run: Whole) -> tuple[Path, Path]:
    return whole_run.out, whole_run.other


def _agreement_of_all(client: Client, **filtered: str) -> dict[str, Any]:
    """What the job says when it is done."""
    name = client.post("api/jobs", {"kind": "agreement", "stage": "segment", **filtered}).json()["id"]
    deadline = time.monotonic() + 30
    while not (told := client.get(f"api/jobs/{name}").json())["finished"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert told["error"] is None
    return dict(told)


def test_the_agreement_of_masks_once_found_orders_the_list_until_the_runs_are_opened_anew(
    served: Callable[..., Client], whole_run: Whole
) -> None:
    client, expected = served(*_runs(whole_run)), _agreements(whole_run)
    assert len(set(expected.values())) > 2
    query = {"stage": "segment", "metric": "iou", "sort": "agreement"}
    client.post("api/reopen")
    before = client.get("api/compare", **query).json()
    assert before["agreement"]["known"] == 0
    assert {row["agreement"] for row in before["rows"]} == {None}
    told = _agreement_of_all(client)
    assert told["values"]["mean"] == pytest.approx(np.mean([*expected.values()]))
    for desc in (0, 1):
        found = client.get("api/compare", **query, desc=desc).json()
        assert [row["agreement"] for row in found["rows"]] == pytest.approx(
            sorted(expected.values(), reverse=bool(desc))
        )
        assert all(row["agreement"] == pytest.approx(expected[row["id"]]) for row in found["rows"])
    low, high = sorted(expected.values())[1], max(expected.values())
    inside = client.get("api/compare", **query, agreement=f"{low!r}..{high!r}").json()
    assert {row["id"] for row in inside["rows"]} == {name for name, of in expected.items() if low <= of < high}
    first = client.get(f"api/compare/{found['rows'][-1]['row_a']}", **query).json()
    assert (first["place"], first["previous"]) == (0, None)
    client.post("api/reopen")
    assert client.get("api/compare", **query).json()["agreement"]["known"] == 0


def test_a_job_of_a_filter_looks_at_no_other_image(served: Callable[..., Client], whole_run: Whole) -> None:
    client, expected = served(*_runs(whole_run)), _agreements(whole_run)
    client.post("api/reopen")
    taken = [name for name in expected if "train/" in name]
    assert _agreement_of_all(client, q="id~train/")["total"] == len(taken)
    found = client.get("api/compare", stage="segment", sort="agreement").json()
    assert (found["agreement"]["known"], found["total"]) == (len(taken), len(expected))
    # those that are not known are last
    assert [row["agreement"] is None for row in found["rows"]] == [False] * len(taken) + [True] * len(taken)


def test_every_bar_of_the_differences_holds_the_images_that_its_range_lists(
    served: Callable[..., Client], whole_run: Whole
) -> None:
    client, differences = served(*_runs(whole_run)), _joined(whole_run).set_index("image_id")["difference"]
    query = {"stage": "segment", "metric": "iou"}
    held = client.get("api/compare", **query).json()["histogram"]
    assert sum(held["all"]) == len(differences)
    assert (held["min"], held["max"]) == pytest.approx((differences.min(), differences.max()), abs=1e-6)
    for low, high, count in zip(held["edges"], held["edges"][1:], held["all"], strict=False):
        found = client.get("api/compare", **query, difference=f"{low}..{high}").json()
        inside = differences[(differences >= low - 1e-7) & (differences < high + 1e-7)]
        assert (found["total"], found["histogram"]["all"]) == (count, held["all"])
        assert sum(found["histogram"]["filtered"]) == count
        assert {row["id"] for row in found["rows"]} <= set(inside.index)
    worst = client.get("api/compare", **query, difference=f"..{held['edges'][1]}", sort="id").json()
    assert [row["id"] for row in worst["rows"]] == sorted(differences[differences < held["edges"][1]].index)


@pytest.mark.parametrize("given", ["0.1", "..", "a..b", "0..nan", "1e999..", "0.1..0.2..0.3"])
def test_what_is_no_range_is_refused(served: Callable[..., Client], whole_run: Whole, given: str) -> None:
    answer = served(*_runs(whole_run)).get("api/compare", stage="segment", difference=given)
    assert answer.status == 400
    assert "difference" in answer.json()["error"]


def test_a_number_that_no_image_has_in_both_is_not_offered(served: Callable[..., Client], whole_run: Whole) -> None:
    # these images came from a list of pairs, which states no size of a file to have changed
    rows = pd.DataFrame(rows_of(whole_run.pairs, "features"))
    assert rows["changed_since_plan"].isna().all()
    metrics = served(whole_run.pairs, whole_run.pairs).get("api/compare", stage="features").json()["metrics"]
    assert "changed_since_plan" not in metrics
    assert {"width", "grid_h"} <= {*metrics}
    assert rows[metrics].notna().any().all()


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
