"""What is committed names the beginning of its stage; what names another one is refused, by its name."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_stage import SmallStage, output, small_plan
from trouble import TroubleStage, plan_of

from simsam_batch.engines.inline import InlineEngine
from simsam_batch.errors import SettingsError, StorageError
from simsam_batch.runs.execute import ExecuteOptions, execute
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.publish import publish
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.retry import failed_shards
from simsam_batch.runs.runner import RunnerFactory
from simsam_batch.runs.stage_record import ForeignManifestError, StageLostError
from simsam_batch.runs.status import stage_status
from simsam_batch.runs.verify import verify
from simsam_batch.storage import Folder

VALUES: dict[int, list[float | None]] = {0: [1.0, 2.0], 1: [None, 4.0], 2: [8.0]}
STAGE = SmallStage()
OTHER = SmallStage(settings={"kappa": 12})


def begun(url: str, stage: SmallStage = STAGE) -> tuple[Ledger, Plan]:
    plan = small_plan(Folder(url))
    ledger = Ledger(plan.out, "small")
    ledger.begin(stage, plan)
    return ledger, plan


def commit(ledger: Ledger, plan: Plan, *shards: int) -> None:
    for shard in shards:
        ledger.commit(output(plan, shard, VALUES[shard]), ledger.start(shard), started=0.0)


def empty(out: Folder) -> None:
    out.delete([info.name for info in out.list()])


@pytest.fixture
def mixed(out_url: str) -> Plan:
    """A run of which shard 1 was committed under other settings, by a writer that looked just before it was begun."""
    old, old_plan = begun(f"{out_url}-old", OTHER)
    commit(old, old_plan, 1)
    ledger, plan = begun(out_url)
    commit(ledger, plan, 0, 2)
    for name in ("manifests/0000001.0.json", "data/0000001.1.parquet", "data/0000001.1.npz"):
        plan.out.create(f"small/{name}", old_plan.out.read(f"small/{name}"))
    return plan


REFUSED: dict[str, Callable[[Plan], object]] = {
    "publish": lambda plan: publish(plan.out, plan, SmallStage()),
    "status": lambda plan: stage_status(plan.out, "small"),
    "rows": lambda plan: list(StageRows(plan.out, "small").each()),
    "retry": lambda plan: failed_shards(Ledger(plan.out, "small")),
    "one manifest": lambda plan: Ledger(plan.out, "small").manifest(1, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("reads", REFUSED)
def test_a_manifest_of_another_beginning_is_refused_by_its_name(mixed: Plan, reads: str) -> None:
    name = r"small/manifests/0000001\.0\.json is of another small run .*To mend it: delete it and run the same command"
    with pytest.raises(ForeignManifestError, match=name):
        REFUSED[reads](mixed)


def test_verify_names_it_and_its_mend_makes_the_run_whole(mixed: Plan) -> None:
    [problem] = verify(mixed.out, mixed).problems
    assert (problem.where, problem.what) == (
        "small/manifests/0000001.0.json",
        "it is of another small run than small/stage.json",
    )
    assert problem.mend == (
        "delete small/manifests/0000001.0.json and run the same command again, which computes the shard anew"
    )
    mixed.out.delete([problem.where])
    ledger = Ledger(mixed.out, "small")
    assert ledger.pending(3) == [1]
    commit(ledger, mixed, 1)
    assert publish(mixed.out, mixed, SmallStage())["metrics"]["order"] == [0, 1, 2]
    assert not verify(mixed.out, mixed).damaged


def test_a_manifest_that_names_no_beginning_is_refused(tmp_path: Path) -> None:
    ledger, plan = begun(str(tmp_path))
    commit(ledger, plan, 0)
    path = tmp_path / "small/manifests/0000000.0.json"
    manifest = json.loads(path.read_bytes())
    del manifest["stage_token"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(ForeignManifestError):
        list(Ledger(plan.out, "small").manifests())


def test_manifests_and_starts_name_the_beginning(out_url: str) -> None:
    ledger, plan = begun(out_url)
    commit(ledger, plan, 0)
    token = json.loads(plan.out.read("small/stage.json"))["token"]
    for name in ("manifests/0000000.0.json", "attempts/0000000.1"):
        assert json.loads(plan.out.read(f"small/{name}"))["stage_token"] == token


@pytest.mark.parametrize("anew", [True, False])
def test_nothing_is_started_or_committed_when_the_record_has_gone_or_is_anothers(out_url: str, anew: bool) -> None:
    ledger, plan = begun(out_url)
    attempt, made = ledger.start(1), output(plan, 1, VALUES[1])
    empty(plan.out)
    if anew:
        begun(out_url, OTHER)
    before = [info.name for info in plan.out.list()]
    said = "is not what this command began" if anew else r"stage\.json has gone"
    with pytest.raises(StageLostError, match=said):
        ledger.start(2)
    with pytest.raises(StageLostError, match=said):
        ledger.commit(made, attempt, started=0.0)
    assert [info.name for info in plan.out.list()] == before


def test_a_record_that_changes_while_the_files_are_on_their_way_stops_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, plan = begun(str(tmp_path))
    attempt, made, real = ledger.start(1), output(plan, 1, VALUES[1]), Folder.create

    def create(folder: Folder, name: str, data: bytes | Path) -> bool:
        done = real(folder, name, data)
        if name.endswith(".npz"):
            (tmp_path / "small/stage.json").unlink()
            begun(str(tmp_path), OTHER)
        return done

    monkeypatch.setattr(Folder, "create", create)
    with pytest.raises(StageLostError):
        ledger.commit(made, attempt, started=0.0)
    assert Ledger(plan.out, "small").committed() == {}


def test_a_worker_does_not_take_part_in_a_run_with_other_settings(tmp_path: Path) -> None:
    out, plan = plan_of(tmp_path / "out", ["fine"] * 4, 2)
    Ledger(out, "trouble").begin(TroubleStage(str(tmp_path), settings={"seed": 2}), plan)
    [report] = RunnerFactory(out, plan, TroubleStage(str(tmp_path)))().run(iter([0]))
    assert report is not None
    assert (report.status, report.attempt, report.lost) == ("error", 0, True)
    assert "seed: the run in OUT has 2, this command has 1" in report.error
    assert not any((tmp_path / "out/trouble/attempts").iterdir())


def test_a_driver_whose_run_has_gone_ends_at_once(tmp_path: Path) -> None:
    out, plan = plan_of(tmp_path / "out", ["fine"] * 20, 1)
    reported: list[int] = []

    def remove(report: Any) -> None:
        reported.append(report.shard)
        if len(reported) == 3:
            (tmp_path / "out").rename(tmp_path / "removed")

    with pytest.raises(StageLostError, match="has gone"):
        execute(out, plan, TroubleStage(str(tmp_path)), InlineEngine(), ExecuteOptions(), remove)
    assert len(reported) < 10
    time.sleep(0.5)
    assert not (tmp_path / "out").exists()


def test_publishing_is_refused_to_a_driver_with_other_settings(out_url: str) -> None:
    ledger, plan = begun(out_url)
    commit(ledger, plan, 0, 1, 2)
    with pytest.raises(StageLostError, match="kappa: the run in OUT has 10, this command has 12"):
        publish(plan.out, plan, OTHER)
    assert plan.out.list("results") == []


def test_results_of_another_beginning_are_not_those_of_the_stage(tmp_path: Path) -> None:
    ledger, plan = begun(str(tmp_path), OTHER)
    commit(ledger, plan, 0, 1, 2)
    publish(plan.out, plan, OTHER)
    shutil.rmtree(tmp_path / "small")
    ledger, plan = begun(str(tmp_path))
    commit(ledger, plan, 0)
    rows = StageRows(plan.out, "small")
    assert (rows.published, len(rows), rows.settings["kappa"]) == (False, 2, 10)
    assert not stage_status(plan.out, "small").published
    [problem] = verify(plan.out, plan).problems
    assert (problem.where, problem.what) == ("results/small.json", "it is of another small run than small/stage.json")
    reader = SmallStage(name="reader", reads=("small",))
    with pytest.raises(SettingsError, match=r"which .* has not finished"):
        Ledger(plan.out, "reader").begin(reader, plan)
    commit(ledger, plan, 1, 2)
    publish(plan.out, plan, SmallStage())
    assert not verify(plan.out, plan).damaged


def test_a_stage_is_not_begun_over_manifests_without_a_record(out_url: str) -> None:
    ledger, plan = begun(out_url)
    commit(ledger, plan, 0, 2)
    plan.out.delete(["small/stage.json"])
    said = (
        r"has 2 manifest\(s\) of a small run whose small/stage\.json is missing \(small/manifests/0000000\.0\.json, .*"
    )
    for _ in range(2):
        with pytest.raises(SettingsError, match=said + "To mend it: restore"):
            Ledger(plan.out, "small").begin(SmallStage(), plan)


def test_starts_of_another_beginning_bring_no_shard_into_quarantine(tmp_path: Path) -> None:
    out, plan = plan_of(tmp_path / "out", ["fine"] * 2, 2)
    stage, ledger = TroubleStage(str(tmp_path)), Ledger(out, "trouble")
    ledger.begin(TroubleStage(str(tmp_path), settings={"seed": 2}), plan)
    assert [ledger.start(0) for _ in range(5)] == [1, 2, 3, 4, 5]
    (tmp_path / "out/trouble/stage.json").unlink()
    execute(out, plan, stage, InlineEngine(), ExecuteOptions(), lambda report: None)
    [manifest] = Ledger(out, "trouble").manifests()
    assert (manifest["attempt"], manifest["facts"]) == (6, {})


def test_a_folder_as_it_was_found_makes_none_anew(tmp_path: Path) -> None:
    out = Folder(str(tmp_path / "out"))
    out.make("a/b", "c")
    found = out.as_found()
    assert found.create("a/b/name", b"1")
    found.replace("c/name", b"2")
    shutil.rmtree(tmp_path / "out/a")
    for write in (found.create, found.replace):
        with pytest.raises(
            StorageError, match=r"its folder has gone: it was removed or moved, or its disk is no longer"
        ):
            write("a/b/other", b"3")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(StorageError, match="its folder has gone"):
        found.replace("c/name", b"2")
    assert list(tmp_path.iterdir()) == []
