"""Runs of release 0.1.0 are read, told of and verified; none is gone on with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from small_stage import SmallStage, output, small_plan
from version_1_run import as_version_1

from simsam_batch.errors import RunError, SettingsError
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan, load_plan
from simsam_batch.runs.publish import publish
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.status import stage_status
from simsam_batch.runs.verify import verify
from simsam_batch.storage import Folder

VALUES: dict[int, list[float | None]] = {0: [1.0, 2.0], 1: [None, 4.0], 2: [8.0]}


def old_run(url: str, *, finished: bool = True, resolved: object = None) -> Plan:
    plan = small_plan(Folder(url), images=5, shard_size=2)
    ledger = Ledger(plan.out, "small")
    ledger.begin(SmallStage(), plan)
    for number in (0, 1, 2) if finished else (0, 2):
        ledger.commit(output(plan, number, VALUES[number]), ledger.start(number), started=0.0)
    if finished:
        publish(plan.out, plan, SmallStage())
    as_version_1(Path(url), "small", resolved)  # type: ignore[arg-type]
    return plan


@pytest.mark.parametrize("finished", [True, False])
def test_its_rows_and_arrays_are_read(tmp_path: Path, finished: bool) -> None:
    plan = old_run(str(tmp_path), finished=finished)
    assert load_plan(Folder(str(tmp_path))) == plan
    rows = StageRows(Folder(str(tmp_path)), "small")
    assert (rows.published, rows.plan) == (finished, plan.digest)
    found = dict(rows.each())
    expected = {0: 1.0, 1: 2.0, 2: None, 3: 4.0, 4: 8.0} if finished else {0: 1.0, 1: 2.0, 4: 8.0}
    assert {number: row["value"] for number, row in found.items()} == expected
    for row in found.values():
        arrays = rows.arrays(row)
        assert row["value"] is None or (arrays["eigenvectors"] == row["value"]).all()
        assert bool(arrays) == (row["value"] is not None)


@pytest.mark.parametrize("finished", [True, False])
def test_it_is_told_of_and_verified(tmp_path: Path, finished: bool) -> None:
    plan = old_run(str(tmp_path), finished=finished)
    status = stage_status(plan.out, "small")
    assert (status.shards, status.done_shards, status.published) == (3, 3 if finished else 2, finished)
    report = verify(plan.out, plan)
    assert (report.problems, report.orphans, report.foreign) == ([], [], [])
    path = tmp_path / "small/data/0000000.1.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert [problem.where for problem in verify(plan.out, plan).problems] == ["small/data/0000000.1.npz"]


def test_it_is_not_gone_on_with_and_nothing_is_written(tmp_path: Path) -> None:
    plan = old_run(str(tmp_path), finished=False)
    before = [info.name for info in plan.out.list()]
    for stage in (SmallStage(), SmallStage(name="another")):
        with pytest.raises(SettingsError) as refused:
            Ledger(plan.out, stage.name).begin(stage, plan)
        assert str(refused.value) == (
            f"{tmp_path} was begun by simsam-batch 0.1.0, whose runs this release reads and does not go on with. "
            "To mend it: finish it with that release (pip install 'simsam-batch==0.1.0'), or use another OUT"
        )
    assert [info.name for info in plan.out.list()] == before


def test_a_record_that_names_another_plan_is_damage(tmp_path: Path) -> None:
    plan = old_run(str(tmp_path))
    record = json.loads((tmp_path / "small/stage.json").read_bytes())
    (tmp_path / "small/stage.json").write_text(json.dumps(record | {"plan": "0" * 64}))
    with pytest.raises(RunError, match=r"names another plan than run\.json"):
        Ledger(plan.out, "small").record()
    [problem] = verify(plan.out, plan).problems
    assert problem.where == "small/stage.json"


@pytest.mark.parametrize("single", [True, False])
def test_the_codebooks_that_a_stage_names_are_verified_with_it(tmp_path: Path, single: bool) -> None:
    good = b"a codebook"
    sha256 = hashlib.sha256(good).hexdigest()
    named, orphan = f"clusters/codebook.0.{sha256[:16]}.npz", f"clusters/codebook.0.{'0' * 16}.npz"
    plan = old_run(
        str(tmp_path), resolved={"codebook": [named, sha256]} if single else {"codebooks": [[named, sha256]]}
    )
    plan.out.create(named, good)
    plan.out.create("clusters/clusters.json", b"{}")
    plan.out.create(orphan, b"of a driver that died")
    plan.out.create("clusters/notes.txt", b"mine")
    report = verify(plan.out, plan)
    assert (report.problems, [found.name for found in report.orphans]) == ([], [orphan])
    assert report.foreign == ["clusters/notes.txt"]
    plan.out.replace(named, b"A codebook")
    what = "its bytes are not those that were committed (sha256 differs)"
    assert [(problem.where, problem.what) for problem in verify(plan.out, plan, ["small"]).problems] == [(named, what)]
    plan.out.delete([named])
    assert [(problem.where, problem.what) for problem in verify(plan.out, plan).problems] == [(named, "it is missing")]
    assert not verify(plan.out, plan, ["other"]).damaged
