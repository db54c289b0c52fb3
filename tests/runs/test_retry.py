"""A second try of failed images: what was good stays as it is, and what has become good joins it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from trouble import SumFold, TroubleStage, plan_of, value_of

from simsam_batch.engines.local import LocalEngine
from simsam_batch.errors import RunError
from simsam_batch.runs.execute import ExecuteOptions, ExecuteSummary, execute
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.publish import publish
from simsam_batch.runs.retry import failed_images, failed_shards, with_second_try
from simsam_batch.runs.schema import ShardOutput

QUICK = ExecuteOptions(starts_before_quarantine=2, stall_seconds=60, image_seconds=30, pause_seconds=0.01)
URIS = ["fine", "badonce", "fine", "fine", "fine", "fine", "bad", "badonce", "fine"]
"""Three shards of three; the first and the last have failed images, and one image stays bad."""


def first_run(folder: Path, uris: list[str] = URIS) -> tuple[Plan, TroubleStage, dict[str, Any]]:
    out, plan = plan_of(folder / "out", uris, 3)
    stage = TroubleStage(str(folder))
    execute(out, plan, stage, LocalEngine(1), QUICK, lambda _: None)
    return plan, stage, publish(out, plan, stage)


def second_try(plan: Plan, stage: TroubleStage) -> tuple[ExecuteSummary, dict[str, Any]]:
    again, _ = failed_shards(Ledger(plan.out, stage.name))
    summary = execute(plan.out, plan, stage, LocalEngine(1), QUICK, lambda _: None, again=again)
    return summary, publish(plan.out, plan, stage)


def rows_of(plan: Plan) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(f"{plan.out.url}/results/trouble").to_pylist()
    return rows


def test_only_failed_images_are_tried_again_and_the_results_are_those_of_a_run_without_the_trouble(
    tmp_path: Path,
) -> None:
    plan, stage, first = first_run(tmp_path / "a")
    assert (first["ok"], first["failed"]) == (6, 3)
    summary, result = second_try(plan, stage)
    assert (summary.shards, summary.images, summary.failed) == (2, 3, 1)
    assert (result["ok"], result["failed"], result["errors_by_type"]) == (8, 1, {"truncated": 1})
    # image-001 and image-007 were begun twice, the bad one each time; what was fine, not again.
    assert [stage.count(f"image-{n:03d}") - 1 for n in (1, 7)] == [2, 2]
    _, _, calm = first_run(tmp_path / "b", ["fine" if uri == "badonce" else uri for uri in URIS])
    assert result["metrics"]["ok"] == calm["metrics"]["ok"] == 8
    assert result["metrics"]["sum"] == pytest.approx(sum(value_of(f"image-{n:03d}") for n in range(9) if n != 6))
    rows = rows_of(plan)
    assert [row["image_id"] for row in rows] == [f"image-{n:03d}" for n in range(9)]
    assert [row["status"] for row in rows] == ["ok"] * 6 + ["failed"] + ["ok"] * 2
    for row in rows:
        if row["status"] == "ok":
            with np.load(f"{plan.out.url}/{row['arrays_path']}", allow_pickle=False) as arrays:
                vector = arrays[f"{row['arrays_member']}.vector"]
            assert vector.tolist() == pytest.approx([value_of(row["image_id"])] * 3, rel=1e-6)
    assert result["first_content_digest"] == first["content_digest"]


def test_the_first_generation_stays_and_another_try_makes_the_next(tmp_path: Path) -> None:
    plan, stage, _ = first_run(tmp_path)
    folder = tmp_path / "out/trouble/manifests"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    second_try(plan, stage)
    second_try(plan, stage)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before
    assert sorted(path.name for path in folder.iterdir() if path.name not in before) == [
        "0000000.1.json",
        "0000002.1.json",
        "0000002.2.json",
    ]
    last = json.loads((folder / "0000002.2.json").read_text())
    assert (last["ok"], last["failed"], last["facts"]["images_tried_again"]) == (2, 1, 1)
    assert len(last["earlier"]) == 2
    # what read the first generation goes on: it is known by that one's digest however often images are tried again
    first = json.loads(before["0000002.0.json"])
    assert last["content_digest"] != first["content_digest"] == last["first_content_digest"]
    # half a second for the first try of the shard and for each of the two others
    assert last["seconds"]["compute"] == 1.5
    assert failed_shards(Ledger(plan.out, stage.name)) == ({2: 2}, 1)


@pytest.mark.slow
def test_starts_of_the_first_run_do_not_send_a_second_try_into_quarantine(tmp_path: Path) -> None:
    """The shard took three starts to commit: with two allowed, the third was in quarantine. The next begins anew."""
    plan, stage, first = first_run(tmp_path, ["storage:1", "badonce", "fine", "killonce", "badonce", "fine"])
    assert first["failed"] >= 1
    built = len(stage.events("built"))
    _, result = second_try(plan, stage)
    assert result["failed"] == 0
    assert len(stage.events("built")) == built + 1


def test_a_second_try_by_a_racing_driver_is_taken_once(tmp_path: Path) -> None:
    plan, stage, _ = first_run(tmp_path)
    again, _ = failed_shards(Ledger(plan.out, stage.name))
    for _ in range(2):
        execute(plan.out, plan, stage, LocalEngine(1), QUICK, lambda _: None, again=again)
    names = sorted(path.name for path in (tmp_path / "out/trouble/manifests").iterdir())
    assert names == ["0000000.0.json", "0000000.1.json", "0000001.0.json", "0000002.0.json", "0000002.1.json"]
    assert publish(plan.out, plan, stage)["ok"] == 8


def test_the_time_of_a_second_try_is_added_step_by_step(tmp_path: Path) -> None:
    plan, stage, _ = first_run(tmp_path)
    ledger = Ledger(plan.out, stage.name)
    manifest = ledger.manifest(0, 0)
    assert manifest["seconds"] == {"compute": 0.5}
    (output,) = stage.make_worker(lambda: None).run(iter([failed_images(ledger, plan, manifest)]))
    again = dataclasses.replace(output, seconds={"compute": 0.25, "decode": 2.0})
    assert with_second_try(ledger, SumFold(), manifest, again).seconds == {"compute": 0.75, "decode": 2.0}


def test_an_output_of_other_images_or_damaged_rows_are_refused(tmp_path: Path) -> None:
    plan, stage, _ = first_run(tmp_path)
    ledger = Ledger(plan.out, stage.name)
    manifest = ledger.manifest(2, 0)
    failed = failed_images(ledger, plan, manifest)
    assert failed.records["image_id"].to_pylist() == ["image-006", "image-007"]
    (output,) = stage.make_worker(lambda: None).run(iter([failed]))
    fewer = ShardOutput(2, output.rows.slice(1), output.attachments[1:], output.statistics)
    with pytest.raises(RunError, match="second try of shard 2 is not of the images that failed"):
        with_second_try(ledger, SumFold(), manifest, fewer)
    (file,) = (tmp_path / "out/trouble/data").glob("0000002.*.parquet")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RunError, match="is not what was committed"):
        with_second_try(ledger, SumFold(), manifest, output)
