"""The same runs on a real Ray: one machine, and two nodes of which one is lost."""

from __future__ import annotations

import faulthandler
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families
from trouble import TroubleStage, plan_of

from simsam_batch.engines.contract import Progress, ShardReport, Task
from simsam_batch.engines.local import LocalEngine
from simsam_batch.engines.ray import RayEngine
from simsam_batch.engines.ray_metrics import METRICS
from simsam_batch.errors import RunError
from simsam_batch.runs.execute import ExecuteOptions, ExecuteSummary, execute
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.publish import publish
from simsam_batch.runs.runner import RunnerFactory

pytest.importorskip("ray")

OPERATIONS = Path(__file__).parent.parent.parent / "docs" / "operations.md"
STORE_BYTES = 100 * 1024**2


@pytest.fixture(autouse=True)
def _a_hang_fails() -> Iterator[None]:
    faulthandler.dump_traceback_later(150, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def importable_by_workers() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    patch.delenv("RAY_ADDRESS", raising=False)
    # Ray collects metrics every ten seconds otherwise
    patch.setenv("RAY_metrics_report_interval_ms", "1000")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def own_ray(importable_by_workers: None) -> Iterator[RayEngine]:
    engine = RayEngine(workers=2, threads=1)
    # whichever test is the first finds its cluster
    engine._connect()
    yield engine
    engine.close()


def run(
    tmp_path: Path,
    uris: list[str],
    engine: Any,
    starts: int = 3,
    task: Task = Task(),
    stall_seconds: float = 60,
    **stage: Any,
) -> tuple[ExecuteSummary, list[ShardReport]]:
    out, plan = plan_of(tmp_path / "out", uris, 2)
    work = TroubleStage(str(tmp_path), **stage)
    reports: list[ShardReport] = []
    options = ExecuteOptions(starts, stall_seconds=stall_seconds)
    summary = execute(out, plan, work, engine, options, reports.append, task=task)
    publish(out, plan, work)
    return summary, reports


def digests(tmp_path: Path) -> list[str]:
    out, _ = plan_of(tmp_path / "out", ["unused"], 2)
    return [manifest["content_digest"] for manifest in Ledger(out, "trouble").manifests()]


def failed(tmp_path: Path) -> list[tuple[str, str]]:
    rows = pa.concat_tables([pq.read_table(path) for path in (tmp_path / "out/results/trouble").glob("*.parquet")])
    return [(row["image_id"], row["error_type"]) for row in rows.to_pylist() if row["status"] == "failed"]


@pytest.mark.slow
@pytest.mark.filterwarnings("error::DeprecationWarning:simsam_batch.engines.ray")
def test_ray_and_local_give_the_same_content(tmp_path: Path, own_ray: RayEngine) -> None:
    uris = ["fine", "bad", *["fine"] * 10]
    (tmp_path / "ray").mkdir()
    (tmp_path / "local").mkdir()
    summary, reports = run(tmp_path / "ray", uris, own_ray)
    run(tmp_path / "local", uris, LocalEngine(1))
    assert (summary.images, summary.failed) == (12, 1)
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")
    committed = [report for report in reports if report.status == "committed"]
    assert sorted(report.shard for report in committed) == list(range(6))
    assert [report.failures for report in committed if report.shard == 0] == [(("image-001", "the file ends early"),)]


@pytest.mark.slow
def test_how_far_a_shard_is_comes_to_the_driver(tmp_path: Path, own_ray: RayEngine) -> None:
    heard: list[Progress] = []
    run(tmp_path, ["fine", "steps:4"], own_ray, task=Task(on_progress=heard.append), stall_seconds=6)
    assert Progress(0, 1) in heard


@pytest.mark.slow
def test_two_shards_are_in_flight_in_an_actor_and_threads_are_as_asked(tmp_path: Path, own_ray: RayEngine) -> None:
    run(tmp_path, ["meet:2", *["fine"] * 23], own_ray, pause=0.3)
    stage = TroubleStage(str(tmp_path))
    computed = {number: float(when) for number, _, when, _ in stage.events("computed")}
    by_process: dict[str, list[tuple[str, float]]] = {}
    for number, pid, when, threads in stage.events("drawn"):
        assert threads == "1"
        by_process.setdefault(pid, []).append((number, float(when)))
    ahead = [when < computed[before] for drawn in by_process.values() for (before, _), (_, when) in pairwise(drawn)]
    assert len(by_process) == 2
    # a shard is drawn late only where a report has just been on its way
    assert sum(ahead) >= 0.7 * len(ahead)


@pytest.mark.slow
def test_an_image_that_kills_its_actor_costs_only_itself(tmp_path: Path, own_ray: RayEngine) -> None:
    uris = ["fine"] * 12
    uris[4] = "kill"
    summary, reports = run(tmp_path, uris, own_ray)
    assert failed(tmp_path) == [("image-004", "worker_died")]
    assert (summary.rounds, summary.failed) == (1, 1)
    assert {report.shard: report.attempt for report in reports}[2] == 4


def scraped(labels: dict[str, str]) -> dict[str, float]:
    """Value of every series with these labels, by name and outcome or bucket, as Prometheus reads them."""
    import ray

    found = {}
    for node in ray.nodes():
        with urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10) as reply:
            for family in text_string_to_metric_families(reply.read().decode()):
                for sample in family.samples:
                    if labels.items() <= sample.labels.items():
                        kind = sample.labels.get("outcome", "") + sample.labels.get("le", "")
                        found[f"{sample.name} {kind}".strip()] = sample.value
    return found


@pytest.mark.slow
def test_prometheus_can_read_what_a_run_did(tmp_path: Path, own_ray: RayEngine) -> None:
    task = Task(run=str(tmp_path), stage="trouble")
    (tmp_path / "other").mkdir()
    run(tmp_path / "other", ["fine"] * 4, LocalEngine(1))
    out, plan = plan_of(tmp_path / "other/out", ["fine"] * 4, 2)
    factory = RunnerFactory(out, plan, TroubleStage(str(tmp_path / "other")))
    found = list(own_ray.run(factory, [0, 1], task))
    # not counted below: another driver's work
    assert [(report.status, report.attempt, report.images) for report in found] == [("committed", 0, 2)] * 2
    # the shard of a storage error starts again in the next round
    _, reports = run(tmp_path, ["fine", "bad", *["fine"] * 7, "storage:1"], own_ray, task=task)
    assert [report.status for report in reports].count("error") == 1
    expected = {
        "ray_simsam_images_total ok": 9.0,
        "ray_simsam_images_total failed": 1.0,
        "ray_simsam_shards_total committed": 5.0,
        "ray_simsam_shards_total error": 1.0,
        "ray_simsam_shard_starts_bucket 1.0": 4.0,
        "ray_simsam_shard_starts_bucket 2.0": 5.0,
        "ray_simsam_shard_starts_count": 5.0,
        # each far below twenty seconds; Ray estimates the sum from the buckets
        "ray_simsam_shard_seconds_bucket 20.0": 5.0,
        "ray_simsam_shard_seconds_count": 5.0,
    }
    deadline = time.monotonic() + 30
    while differing := expected.items() - (found := scraped({"run": task.run, "stage": task.stage})).items():
        assert time.monotonic() < deadline, (differing, found)
        time.sleep(1)
    shown = {re.sub("_(total|bucket|sum|count)$", "", name.split()[0]) for name in found}
    assert shown == {f"ray_{name}" for name in METRICS}
    described = re.findall(r"^\| `(ray_\w+?)(?:_total)?` \|", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE)
    assert shown == set(described)


@pytest.mark.slow
def test_a_worker_that_cannot_be_built_becomes_reports_and_not_the_end_of_the_dataset(
    tmp_path: Path, own_ray: RayEngine
) -> None:
    with pytest.raises(RunError, match="no such weights"):
        run(tmp_path, ["fine"] * 4, own_ray, starts=0, unbuildable="raise")


@pytest.mark.slow
def test_an_actor_that_ends_itself_after_so_many_shards_loses_none(tmp_path: Path, own_ray: RayEngine) -> None:
    summary, reports = run(tmp_path, ["fine"] * 24, RayEngine(1, recycle_after=4), pause=0.05)
    assert sorted((report.shard, report.attempt) for report in reports) == [(number, 1) for number in range(12)]
    assert summary.rounds == 1
    computed = [pid for _, pid, _, _ in TroubleStage(str(tmp_path)).events("computed")]
    assert [computed.count(pid) for pid in dict.fromkeys(computed)] == [4, 4, 4]


@pytest.mark.slow
def test_an_actor_that_lost_its_device_says_so_and_a_fresh_one_goes_on(tmp_path: Path, own_ray: RayEngine) -> None:
    uris = ["fine"] * 12
    uris[4] = "poisononce"
    summary, reports = run(tmp_path, uris, own_ray)
    assert (summary.images, summary.failed) == (12, 0)
    (error,) = [report for report in reports if report.status == "error"]
    assert (error.shard, "illegal memory access" in error.error) == (2, True)


@pytest.mark.slow
def test_more_than_the_cluster_has_is_an_error_and_not_a_wait(own_ray: RayEngine) -> None:
    greedy = RayEngine(workers=1, threads=64)
    with pytest.raises(RunError, match=r"need 64 CPU each.*room for 0"):
        next(greedy.run(TroubleStage, [0]))


@pytest.mark.slow
def test_a_run_survives_the_loss_of_a_node(tmp_path: Path, importable_by_workers: None) -> None:
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    seen_dead_soon = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 3,
    }
    head = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": seen_dead_soon})
    try:
        lost = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        cluster.wait_for_nodes()
        engine = RayEngine(workers=2, address=cluster.address)
        engine.require_answer()
        out, plan = plan_of(tmp_path / "out", ["meet:2", *["fine"] * 19], 1)
        stage = TroubleStage(str(tmp_path), pause=0.3)
        reports: list[ShardReport] = []

        def lose_a_node(report: ShardReport) -> None:
            reports.append(report)
            if len(reports) == 6:
                threading.Thread(target=cluster.remove_node, args=(lost,), kwargs={"allow_graceful": False}).start()

        execute(out, plan, stage, engine, ExecuteOptions(), lose_a_node)
        engine.close()
    finally:
        cluster.shutdown()
    assert sorted(report.shard for report in reports) == list(range(20))
    assert all(report.status == "committed" for report in reports)
    # two actors, and one in place of the lost one
    assert len({pid for _, pid, _, _ in stage.events("built")}) == 3
    assert Ledger(out, "trouble").pending(plan.shards) == []
