"""The benchmarks run: every row, at tiny sizes; and what they conclude from times follows from the times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
BY_THEMSELVES = ("head", "eigen", "pipeline", "memory", "facets")
ASKED_FOR = (
    *("bookkeeping", "correspondence", "hierarchy", "host", "linear-probes", "objects", "probes", "refinement"),
    "stylize",
    "viewer",
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)


def measured(folder: Path, *groups: str) -> dict[str, Any]:
    """What the command writes of some groups at tiny sizes."""
    path = folder / "smoke.json"
    done = run("--smoke", "--json", str(path), "--only", *groups)
    assert done.returncode == 0, done.stderr
    assert "met?" in done.stdout
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert {row["group"] for row in found["rows"]} == {*groups}
    return found


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All that is measured by itself."""
    return measured(tmp_path_factory.mktemp("bench"), *BY_THEMSELVES)


@pytest.fixture(scope="module")
def asked_for(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Groups that have to be asked for."""
    return measured(tmp_path_factory.mktemp("bench"), *ASKED_FOR)


def rows_of(smoke: dict[str, Any], group: str) -> list[dict[str, Any]]:
    return [row for row in smoke["rows"] if row["group"] == group]


def main(*arguments: str) -> int:
    """The command in this process."""
    from benchmarks import __main__ as benchmarks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["benchmarks", *arguments])
        return benchmarks.main()


def test_groups_that_take_minutes_are_measured_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import __main__ as benchmarks

    measured: list[str] = []
    for name in BY_THEMSELVES + tuple(benchmarks.LONG):
        held = benchmarks.GROUPS if name in BY_THEMSELVES else benchmarks.LONG
        monkeypatch.setitem(held, name, lambda setup, name=name: measured.append(name) or [])
    assert main("--smoke") == 0
    assert measured == list(BY_THEMSELVES)


def test_figures_of_some_groups_leave_those_of_all_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import __main__ as benchmarks

    monkeypatch.setattr(benchmarks, "RESULTS", tmp_path)
    for held in (benchmarks.GROUPS, benchmarks.LONG):
        for name in list(held):
            monkeypatch.setitem(held, name, lambda setup: [])
    assert main() == main("--only", "viewer") == main("--only", "probes", "viewer") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"cpu.json", "cpu-viewer.json", "cpu-probes-viewer.json"}


@pytest.mark.soak
def test_the_viewer_is_measured_in_a_browser(tmp_path: Path) -> None:
    done = run("--smoke", "--json", str(tmp_path / "smoke.json"), "--only", "browser")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "smoke.json").read_text(encoding="utf-8"))["rows"]
    if "skipped" in rows[0]["note"]:
        pytest.skip(rows[0]["note"])
    assert len(rows) == 9
    assert all(row["ratio"] > 0 for row in rows)


@pytest.mark.soak
def test_a_viewer_that_is_looked_at_for_long_has_nothing_to_complain_of() -> None:
    from benchmarks import browser

    if browser._browser() is None:
        pytest.skip("no Chromium, or no playwright, on this machine")
    found = browser.look(0.1, images=2_000, pause_s=0.05)
    assert found["screens"] > 20
    assert found["complaints"] == []
    assert all(100 < each < 700 for each in found["memory_mb"])


@pytest.mark.slow
def test_every_group_has_rows_with_a_ratio_in_its_own_spread(smoke: dict[str, Any]) -> None:
    for row in smoke["rows"]:
        assert row["samples"]
        assert 0 <= row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["threads"]


@pytest.mark.soak
def test_bookkeeping_is_measured_when_asked_for(asked_for: dict[str, Any]) -> None:
    rows = {row["what"]: row for row in rows_of(asked_for, "bookkeeping")}
    growth = [row for what, row in rows.items() if what.endswith("time at ten times the images")]
    assert {row["details"]["step"] for row in growth} == {
        *("table", "parquet", "list", "shards", "null", "resume", "status", "publish-null", "publish-scores")
    }
    for row in growth:
        small, large = (row["details"][size]["seconds"] for size in ("small", "large"))
        assert row["ratio"] == pytest.approx(large / small)
        assert row["target"] == "<= 15"
    columns = {
        what.split(",")[0]: row["details"]["large"]["columns"] / 10_000
        for what, row in rows.items()
        if "bytes an image" in what
    }
    # a record's id of 27 bytes, URI of 51, ETag of 32, three offsets of 4, size of 8; truth that is null has an offset;
    # a list has no ETag, no truth (null), and ids that are the whole URI
    assert columns == pytest.approx(
        {
            "planning from Arrow columns": 27 + 51 + 32 + 12 + 8,
            "planning from a Parquet table": 27 + 51 + 32 + 12 + 8 + 4,
            "planning from a .txt list": 51 + 51 + 16 + 8,
        },
        abs=1,
    )


@pytest.mark.soak
def test_trees_are_measured_against_the_published_calls_when_asked_for(asked_for: dict[str, Any]) -> None:
    time, quality, time_of_many, quality_of_many, memory = rows_of(asked_for, "hierarchy")
    seconds = time["details"]
    assert len(time["samples"]) == 2
    for i, ratio in enumerate(time["samples"]):
        assert ratio == pytest.approx(seconds["peer_seconds"][i] / seconds["ours_seconds"][i])
        parts = seconds["superpixels_seconds"][i] + seconds["tree_seconds"][i]
        assert parts == pytest.approx(seconds["ours_seconds"][i])
    assert (time["target"], time_of_many["target"]) == (">= 10", None)
    ours, theirs = quality["details"]["ours"], quality["details"]["peer"]
    # Twelve superpixels of planted regions: most of each region lies in one node.
    assert all(0.4 < value <= 1 for value in [*ours, *theirs])
    assert quality["ratio"] == pytest.approx((sum(theirs) - sum(ours)) / 2)
    assert quality["target"] == quality_of_many["target"] == "<= 0.01"
    assert memory["details"]["ours"]["before"] > 0
    assert memory["details"]["peer"]["above"] >= 0


@pytest.mark.soak
def test_linear_probes_are_measured_beside_one_problem_and_beside_scikit_learn(asked_for: dict[str, Any]) -> None:
    twelve, three, fit = rows_of(asked_for, "linear-probes")
    for row, problems in ((twelve, 12), (three, 3)):
        assert row["details"]["problems"] == problems
        assert len(row["samples"]) == 2
    assert (twelve["target"], three["target"], fit["target"]) == ("<= 2", None, None)
    # Both sides stop near one optimum, or their times would not be comparable.
    assert all(-1e-5 < gap <= 1e-4 for gap in fit["details"]["gaps"].values())


@pytest.mark.soak
def test_probes_and_their_peers_find_the_same_neighbours_and_the_same_tree(asked_for: dict[str, Any]) -> None:
    by_sklearn, by_faiss, budgets, tree, memory = rows_of(asked_for, "probes")
    for row in (by_sklearn, by_faiss):
        if row["samples"]:
            assert row["details"]["same_neighbours"] > 0.99
        else:
            assert row is by_faiss
            assert "not installed" in row["note"]
    assert (by_sklearn["target"], by_faiss["target"], budgets["target"]) == (">= 3", ">= 1", "<= 1.5")
    assert tree["details"]["same_tree"]
    assert memory["ratio"] == pytest.approx(tree["details"]["peer"]["peak"] / tree["details"]["ours"]["peak"])


@pytest.mark.slow
def test_what_is_measured_in_its_own_process_is_that_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.measure import Setup, in_own_process

    found = in_own_process(Setup(torch.device("cpu")), "benchmarks.bookkeeping", "table", tmp_path, 500)
    assert found["seconds"] > 0
    assert len((tmp_path / "images.txt").read_text().splitlines()) == 500
    # the smoke runs of all modules are forks, which read the same words
    texts = [path.read_text() for path in (ROOT / "benchmarks").glob("*.py") if path.name != "measure.py"]
    alone = [text for text in texts if "in_own_process(" in text]
    assert len(alone) == 7
    last = '\n\nif __name__ == "__main__":\n    print(json.dumps(of_words(*sys.argv[1:])))\n'
    assert all(text.endswith(last) for text in alone)


def test_both_sides_of_the_hierarchy_are_scored_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import hierarchy
    from benchmarks.hierarchy_upstream import Node
    from simsam_batch.scores.nodes import TreeNodes

    # Leaves 0 1 2 3, ((0, 1), (2, 3)), on patches of four pixels. Best nodes of the regions 1 to 4 of the first
    # partition: 4/5, 3/4, 1/2 and 1/2, and of region 0 one of IoU 1; the second has the pair 0, 1 alone and the rest.
    leaves = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
    fine = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [0, 0, 3, 4], [0, 0, 3, 4]])
    coarse = np.array([[7, 7, 7, 7], [7, 7, 7, 7], [9, 9, 9, 9], [9, 9, 9, 9]], dtype=np.uint16)
    partitions = [fine.repeat(2, axis=0).repeat(2, axis=1), coarse]
    expected = ((1 + 4 / 5 + 3 / 4 + 1 / 2 + 1 / 2) / 5 + 1) / 2
    tree = TreeNodes(
        *np.array([[-1, 0, 1, 1, 0, 4, 4], [0, 0, 0, 1, 2, 2, 3], [4, 2, 1, 2, 4, 3, 4], [0, 1, 2, 2, 1, 2, 2]])
    )
    assert hierarchy.covering(leaves.ravel(), tree, partitions) == pytest.approx(expected)
    # The same tree as the port has it, over superpixels numbered otherwise: 0 is 2, 1 is 0, 2 is 3 and 3 is 1.
    members = np.array([2, 0, 3, 1])
    pairs = [Node(np.sort(members[at]), children=[Node(members[[i]]) for i in at]) for at in ([0, 1], [2, 3])]
    root = Node(np.arange(4), children=pairs)
    found = hierarchy.nodes_of_theirs(members[leaves].ravel(), root)
    assert found[0].tolist() == leaves.ravel().tolist()
    assert found[1].parent.tolist() == [-1, 0, 1, 1, 0, 4, 4]
    assert hierarchy.covering(*found, partitions) == pytest.approx(expected)


def test_trees_are_compared_on_photographs_that_people_divided(
    test_data: Path, test_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("SIMSAM_TEST_DATA", str(test_data))
    monkeypatch.setenv("SIMSAM_TEST_WEIGHTS", str(test_weights))
    from benchmarks import hierarchy
    from benchmarks.measure import Setup

    made, source = hierarchy.pictures(hierarchy.Size(side=6, superpixels=9, pictures=2), Setup(torch.device("cpu")))
    assert source.startswith("2 photographs of BSDS500 at 96x96")
    for picture in made:
        assert picture.features.shape == (36, 192)
        assert torch.allclose(picture.features.norm(dim=1), torch.ones(36))
        assert all(sorted(partition.shape) == [321, 481] for partition in picture.partitions)
        assert 4 <= len(picture.partitions) <= 9


@pytest.mark.slow
def test_every_solver_meets_the_residual_it_is_compared_at(smoke: dict[str, Any]) -> None:
    rows = [row for row in smoke["rows"] if row["group"] == "eigen" and row["what"].startswith("N = ")]
    assert len(rows) == 5
    for row in rows:
        for side in (row["details"]["ours"], row["details"]["peer"]):
            assert side["residual"] <= 1e-4
            # A residual r bounds the error of a symmetric problem's eigenvalue by r.
            assert side["value_error"] <= 1e-4


@pytest.mark.slow
def test_masks_are_compared_with_those_of_a_dense_solver(smoke: dict[str, Any]) -> None:
    (row,) = (row for row in smoke["rows"] if row["what"].startswith("patches cut as in fp64"))
    assert row["details"] == {"images": 2, "identical": 2}
    assert row["verdict"] == "met"


@pytest.mark.slow
def test_results_state_the_hardware_and_no_place_on_it(smoke: dict[str, Any]) -> None:
    assert smoke["machine"]["torch"] == torch.__version__.split("+")[0]
    assert smoke["machine"]["cores"] >= 1
    assert smoke["machine"]["load_average_at_start"] >= 0
    text = json.dumps(smoke)
    assert str(ROOT) not in text
    assert str(Path.home()) + "/" not in text


def test_a_verdict_says_by_how_much_a_target_was_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.measure import Row

    def row(samples: list[float], target: float | None, *, at_most: bool = False) -> Row:
        return Row("group", "what", "ours", "peer", samples, target=target, at_most=at_most)

    # Medians of 3 and 0.5; 3 is 40 % below 5, 0.5 is 25 % above 0.4.
    assert row([1.0, 3.0, 9.0], 3.0).verdict == "met"
    assert row([1.0, 3.0, 9.0], 5.0).verdict == "missed by 40 %"
    assert row([0.5], 0.5, at_most=True).verdict == "met"
    assert row([0.5], 0.4, at_most=True).verdict == "missed by 25 %"
    assert row([0.5], None).verdict == ""
    assert row([], 1.0).verdict == "skipped"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_cuda_device_the_gpu_benchmark_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    assert main("--device", "cuda", "--smoke") == 2
    assert "no usable CUDA device" in capsys.readouterr().err


@pytest.mark.soak
def test_the_hosts_steps_add_up_to_its_time(asked_for: dict[str, Any]) -> None:
    rows = {row["what"]: row for row in rows_of(asked_for, "host")}
    whole = [row for what, row in rows.items() if what.startswith("processor time")]
    assert whole
    for row in whole:
        steps = row["details"]["milliseconds_by_step"]
        assert {"fetch", "decode", "resize", "encode", "rows", "commit", "else"} <= {*steps}
        assert 0 < row["details"]["device_thread_ms"] < 1e3 * row["ours_seconds"]
    (busy,) = (row for what, row in rows.items() if what.startswith("share of the time"))
    assert 0 < busy["ratio"] <= 1
