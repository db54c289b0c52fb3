"""simsam compare and simsam matrix: runs side by side, over real photographs and over small ones made to be known."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pcsv
import pytest
from PIL import Image
from scipy import stats

from simsam_batch import matrix, operations
from simsam_batch.cli import run
from simsam_batch.results.comparing import CompareOptions
from simsam_batch.storage import Folder
from simsam_batch.telling.compare import latex, markdown
from simsam_batch.telling.console import reporter

SETTINGS = ["--backbone", "descriptors", "--resize", "native", "--k", "3", "--engine", "inline", "--quiet"]
HOSTILE = "a & b_<img src=x onerror=alert(1)>"


def compared(*runs: Path | str, to: Path | str | None = None, **options: Any) -> dict[str, Any]:
    with reporter("text", quiet=True) as report:
        return operations.compare([str(each) for each in runs], CompareOptions(**options), report, to and str(to))


def of_metric(record: dict[str, Any], name: str, run: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in record["metrics"] if each["metric"] == name)["runs"][run]
    return found


def rows_of(out: Path, stage: str = "segment") -> dict[str, dict[str, Any]]:
    import pyarrow.parquet as pq

    return {row["image_id"]: row for row in pq.read_table(out / "results" / stage).to_pylist()}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs over six frames of three videos: ``plain`` with one that is no image, ``other`` with another method."""
    home = tmp_path_factory.mktemp("compared")
    rng = np.random.default_rng(0)
    for video in range(3):
        for frame in range(2):
            pixels = rng.integers(80, 120, (96, 128, 3)).astype(np.uint8)
            truth = np.zeros((96, 128), np.uint8)
            left = 16 * (1 + video)
            pixels[32:64, left : left + 40], truth[30:70, left : left + 44 - 4 * video] = (210, 40, 40), 255
            for folder, values in (("photos", pixels), ("truth", truth)):
                path = home / folder / f"clip{video}-{frame}.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(values).save(path)
    (home / "photos" / "words-0.png").write_text("no picture, of some length. " * 9)
    segment(home, "plain", "--head", "none")
    segment(home, "other", "--preset", "tokencut")
    return home


def segment(home: Path, out: str, *more: str, photos: str = "photos") -> None:
    truth = [] if "--no-truth" in more else ["--truth", str(home / "truth")]
    rest = [each for each in more if each != "--no-truth"]
    code = run(["segment", str(home / photos), str(home / out), *truth, *SETTINGS, "--allow-failed", "1", *rest])
    assert code == 0


def test_means_differences_and_counts_are_those_of_the_rows(home: Path) -> None:
    record = compared(home / "plain", home / "other")
    plain, other = rows_of(home / "plain"), rows_of(home / "other")
    ids = [name for name, row in plain.items() if row["iou"] is not None]
    base, own = (np.array([rows[name]["iou"] for name in ids]) for rows in (plain, other))
    found = of_metric(record, "iou")
    assert of_metric(record, "iou", 0)["mean"] == pytest.approx(base.mean(), abs=1e-12)
    assert found["mean"] == pytest.approx(own.mean(), abs=1e-12)
    assert found["difference"] == pytest.approx((own - base).mean(), abs=1e-12)
    assert (found["wins"], found["losses"], found["ties"]) == (
        int((own > base).sum()),
        int((own < base).sum()),
        int((own == base).sum()),
    )
    theirs = stats.bootstrap((own - base,), np.mean, method="percentile", n_resamples=10_000).confidence_interval
    width = theirs.high - theirs.low
    assert found["difference_ci"] == pytest.approx([theirs.low, theirs.high], abs=0.06 * width)
    assert record["images"] == 6
    assert [each["failed"] for each in record["runs"]] == [1, 1]
    settings = {each["setting"]: each["values"] for each in record["settings"]}
    assert settings["affinity"] == ["cosine", "binary"]
    assert "backbone" not in settings


def test_images_that_differ_most_come_first_with_both_values(home: Path) -> None:
    record = compared(home / "plain", home / "other", differing=3)
    plain, other = rows_of(home / "plain"), rows_of(home / "other")
    expected = sorted(
        ((name, plain[name]["iou"], other[name]["iou"]) for name in plain if plain[name]["iou"] is not None),
        key=lambda each: -abs(each[2] - each[1]),
    )[:3]
    images = record["differing"][0]["images"]
    assert [(each["image_id"], each["base"], each["other"]) for each in images] == expected


def test_frames_of_a_video_are_drawn_together_and_count_once(home: Path) -> None:
    # one frame of two videos, both of the third: over frames (a + b + c1 + c2) / 4, over videos (a + b + (c1 + c2)/2)/3
    for name in ("less", "less-other"):
        shutil.rmtree(home / name, ignore_errors=True)
    photos = home / "some"
    photos.mkdir(exist_ok=True)
    for name in ("clip0-0.png", "clip1-0.png", "clip2-0.png", "clip2-1.png"):
        shutil.copy(home / "photos" / name, photos / name)
    segment(home, "less", "--head", "none", photos="some")
    segment(home, "less-other", "--preset", "tokencut", photos="some")
    record = compared(home / "less", home / "less-other", by=r"^(.*)-\d+")
    iou = {name: row["iou"] for name, row in rows_of(home / "less").items()}
    by_video = (iou["clip0-0.png"] + iou["clip1-0.png"] + (iou["clip2-0.png"] + iou["clip2-1.png"]) / 2) / 3
    assert of_metric(record, "iou", 0)["mean"] == pytest.approx(by_video, abs=1e-12)
    assert (record["groups"], record["images"]) == (3, 4)
    found = of_metric(record, "iou")
    assert found["wins"] + found["losses"] + found["ties"] == 4


def test_groups_may_be_a_column_that_was_kept(home: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = sorted(path.name for path in (home / "photos").glob("clip*"))
    columns = {"uri": [str(home / "photos" / name) for name in names], "image_id": names}
    columns |= {"video": [name[:5] for name in names], "truth_uri": [str(home / "truth" / name) for name in names]}
    pq.write_table(pa.table(columns), home / "list.parquet")
    arguments = ["segment", str(home / "list.parquet"), str(home / "kept"), *SETTINGS, "--head", "none"]
    assert run([*arguments, "--keep-columns", "video"]) == 0
    record = compared(home / "kept", home / "kept", by="video")
    assert record["groups"] == 3
    assert [each["name"] for each in record["runs"]] == ["kept", "kept (2)"]
    same = of_metric(record, "iou")
    assert (same["difference"], same["difference_ci"], same["ties"]) == (0, [0, 0], 6)
    # the image that is none is in the first alone; ids are the same
    mixed = compared(home / "plain", home / "kept")
    assert [each["not_in_all"] for each in mixed["runs"]] == [1, 0]


def test_an_unfinished_run_is_compared_by_what_it_has_committed(home: Path, tmp_path: Path) -> None:
    arguments = ["segment", str(home / "photos"), str(tmp_path / "going"), "--truth", str(home / "truth"), *SETTINGS]
    assert run([*arguments, "--head", "none", "--shard-size", "2", "--allow-failed", "1"]) == 0
    shutil.rmtree(tmp_path / "going" / "results")
    (next((tmp_path / "going" / "segment" / "manifests").glob("0000000.*"))).unlink()
    record = compared(home / "plain", tmp_path / "going")
    assert [each["finished"] for each in record["runs"]] == [True, False]
    assert record["images"] == 4
    assert of_metric(record, "iou")["difference"] == 0


def test_runs_on_object_storage_are_compared_and_written_there(home: Path, out_url: str) -> None:
    for path in (path for path in (home / "other").rglob("*") if path.is_file()):
        Folder(out_url).replace(f"other/{path.relative_to(home / 'other').as_posix()}", path.read_bytes())
    record = compared(home / "plain", f"{out_url}/other", to=f"{out_url}/cmp")
    here = compared(home / "plain", home / "other")
    assert record["metrics"] == here["metrics"]
    written = {info.name for info in Folder(f"{out_url}/cmp").list()}
    assert {"index.html", "table.md", "table.csv", "table.tex", "differences.csv", "settings.csv"} <= written


def test_the_files_say_what_the_record_does(home: Path, tmp_path: Path) -> None:
    record = compared(home / "plain", home / "other", to=tmp_path / "cmp", names=("plain", HOSTILE))
    lines = list(csv.DictReader((tmp_path / "cmp" / "table.csv").open()))
    assert [line["run"] for line in lines] == ["plain", HOSTILE] * 2
    assert float(lines[1]["difference"]) == of_metric(record, "iou")["difference"]
    table = pcsv.read_csv(tmp_path / "cmp" / "differences.csv")
    plain = rows_of(home / "plain")
    assert table["image_id"].to_pylist() == [name for name in plain if plain[name]["iou"] is not None]
    assert table["iou of plain"].to_pylist() == [plain[name]["iou"] for name in table["image_id"].to_pylist()]
    assert json.loads((tmp_path / "cmp" / "comparison.json").read_text())["metrics"] == record["metrics"]
    assert len(list((tmp_path / "cmp" / "pictures").glob("*.jpg"))) == 2 * len(record["differing"][0]["images"])
    page = (tmp_path / "cmp" / "index.html").read_text()
    assert "<img src=x" not in page
    assert "a &amp; b_&lt;img src=x onerror=alert(1)&gt;" in page


def test_names_cannot_break_out_of_markdown_and_latex(home: Path) -> None:
    record = compared(home / "plain", home / "other", names=("plain", HOSTILE + "|%$\\"))
    text = markdown(record)
    assert "<img" not in text.replace(r"\<img", "")
    assert {line.replace(r"\|", "").count("|") for line in text.splitlines() if line.startswith("|")} == {10}
    assert r"a \& b\_<img src=x onerror=alert(1)>|\%\$\textbackslash{}" in latex(record)


@pytest.mark.parametrize("written", ["text", "markdown", "csv", "latex", "json"])
def test_the_command_prints_every_format(home: Path, written: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", str(home / "plain"), str(home / "other"), "--format", written, "--metric", "iou"]) == 0
    printed = capsys.readouterr().out
    found = of_metric(compared(home / "plain", home / "other"), "iou")
    assert "accuracy" not in printed
    if written == "json":
        assert of_metric(json.loads(printed), "iou") == found
    else:
        assert (str(found["mean"]) if written == "csv" else f"{found['difference']:+.4f}") in printed


def test_runs_without_truth_are_refused_with_the_mend_and_scored_by_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segment(home, "unscored", "--head", "none", "--no-truth")
    assert run(["compare", str(home / "plain"), str(home / "unscored")]) == 1
    assert "none of the 7 rows of the stage segment has a score. To mend it: give --truth" in capsys.readouterr().err
    record = compared(home / "plain", home / "unscored", truth=str(home / "truth"))
    found = of_metric(record, "iou")
    assert (found["difference"], found["ties"]) == (0, 6)
    # what compares masks finds what the run found itself, at the size of the image
    own = [row["iou"] for row in rows_of(home / "plain").values() if row["iou"] is not None]
    assert found["mean"] == pytest.approx(np.mean(own), abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{home}/plain"], "it takes two runs at least"),
        (["{home}/plain", "{home}/truth"], "holds no run"),
        (["{home}/plain", "{home}/other", "--stage", "semantic"], "has no stage 'semantic'"),
        (["{home}/plain", "{home}/other", "--metric", "ioo"], "has no score 'ioo'"),
        (["{home}/plain", "{home}/other", "--metric", "uri"], "the column uri of {home}/plain holds no numbers"),
        (["{home}/plain", "{home}/other", "--by", "("], "nor a regular expression"),
        (["{home}/plain", "{home}/other", "--by", "clip1"], "is not found in 4 of 6 values of image_id"),
        (["{home}/plain", "{home}/other", "--name", "a"], "2 runs need as many names"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_clear_words(
    home: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", *(each.format(home=home) for each in arguments)]) == 1
    assert words.format(home=home) in capsys.readouterr().err


def test_runs_over_other_images_are_refused_even_under_the_same_names(home: Path) -> None:
    from simsam_batch.errors import SettingsError

    for folder, suffix in (("renamed", "-x"), ("changed", "")):
        for path in (home / "photos").glob("clip*"):
            (home / folder).mkdir(exist_ok=True)
            with Image.open(path) as picture:
                picture.rotate(180).save(home / folder / f"{path.stem}{suffix}.png")
    segment(home, "renamed-run", "--head", "none", "--no-truth", photos="renamed")
    segment(home, "changed-run", "--head", "none", photos="changed")
    with pytest.raises(SettingsError, match="no image in common"):
        compared(home / "plain", home / "renamed-run", metrics=("confidence",))
    with pytest.raises(SettingsError, match="the files of those with one id are not the same"):
        compared(home / "plain", home / "changed-run")


@pytest.fixture(scope="module")
def labelled(home: Path) -> Path:
    """Two runs ``four`` and ``one`` of label maps over the same pictures, and their truth of class ids."""
    for path in (home / "truth").iterdir():
        values = np.asarray(Image.open(path)) // 255
        (home / "ids").mkdir(exist_ok=True)
        # rows at the top do not count
        Image.fromarray(np.where(np.arange(96)[:, None] < 8, 255, values).astype(np.uint8)).save(
            home / "ids" / path.name
        )
    for name, clusters in (("four", "4"), ("one", "1")):
        arguments = ["semantic", str(home / "some"), str(home / name), "--truth", str(home / "ids")]
        arguments += ["--ignore-label", "255", "--class-names", str(home / "classes.txt"), "--clusters", clusters]
        (home / "classes.txt").write_text("ground\nthing\n")
        more = ["--head", "none", "--region-feature", "patches", "--regions", "4", "--matching", "majority"]
        (home / "some").mkdir(exist_ok=True)
        for picture in ("clip0-0.png", "clip1-0.png", "clip2-0.png", "clip2-1.png"):
            shutil.copy(home / "photos" / picture, home / "some" / picture)
        assert run([*arguments, *more, *SETTINGS]) == 0
    return home


def test_label_maps_have_the_scores_of_their_own_results(labelled: Path, tmp_path: Path) -> None:
    record = compared(labelled / "four", labelled / "one", to=tmp_path / "cmp")
    assert [each["metric"] for each in record["metrics"]] == ["miou_over_classes", "miou", "pixel_accuracy"]
    for run_number, name in enumerate(("four", "one")):
        own = json.loads((labelled / name / "results" / "semantic.json").read_text())["metrics"]
        found = of_metric(record, "miou_over_classes", run_number)
        assert found["mean"] == pytest.approx(own["miou_over_classes"], abs=1e-12)
        # all images have as many pixels that count, so that the mean of shares is the share of all
        accuracy = of_metric(record, "pixel_accuracy", run_number)["mean"]
        assert accuracy == pytest.approx(own["pixel_accuracy"], abs=1e-12)
    apart = of_metric(record, "miou_over_classes")
    assert apart["difference_ci"][0] <= apart["difference"] <= apart["difference_ci"][1]
    assert len(list((tmp_path / "cmp" / "pictures").iterdir())) == 2 * len(record["differing"][0]["images"])
    assert {each["setting"]: each["values"] for each in record["settings"]} == {"clusters": [4, 1]}


def test_label_maps_of_one_group_are_drawn_together(labelled: Path) -> None:
    # however often the only group is drawn, shares of its pixels stay what they are
    record = compared(labelled / "four", labelled / "one", by="clip")
    found = of_metric(record, "miou_over_classes")
    assert record["groups"] == 1
    assert found["ci"] == pytest.approx([found["mean"]] * 2, abs=1e-12)
    apart = of_metric(compared(labelled / "four", labelled / "one"), "miou_over_classes")["ci"]
    assert apart[1] > apart[0]


def test_runs_of_different_commands_are_refused(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", str(labelled / "plain"), str(labelled / "four")]) == 1
    said = capsys.readouterr().err
    assert "runs of different commands" in said
    assert "has semantic of simsam semantic. To mend it: compare runs of one command" in said


def test_trees_are_compared_by_covering_with_pictures(labelled: Path, tmp_path: Path) -> None:
    for name, count in (("fine", "16"), ("coarse", "6")):
        arguments = ["hierarchy", str(labelled / "some"), str(tmp_path / name), "--truth", str(labelled / "truth")]
        arguments += ["--backbone", "descriptors", "--resize", "native", "--engine", "inline", "--quiet"]
        assert run([*arguments, "--tree", "split", "--superpixels", count]) == 0
    record = compared(tmp_path / "fine", tmp_path / "coarse", to=tmp_path / "cmp")
    rows = rows_of(tmp_path / "coarse", "hierarchy").values()
    mean = np.mean([row["nmcovering"] for row in rows])
    assert of_metric(record, "nmcovering")["mean"] == pytest.approx(mean, abs=1e-12)
    assert len(list((tmp_path / "cmp" / "pictures").iterdir())) == 2 * len(record["differing"][0]["images"]) > 0


MATRIX = """
out: {out}
settings: {{backbone: descriptors, resize: native, k: 3, engine: inline, quiet: true, allow-failed: 1}}
methods:
  plain: {{head: none}}
  tokencut: {{preset: tokencut}}
datasets:
  clips: {{images: {home}/photos, truth: {home}/truth, by: '^(.*)-\\d+'}}
  some: {{images: {home}/{some}, truth: {home}/truth}}
"""


def written(home: Path, tmp_path: Path, some: str = "photos") -> Path:
    path = tmp_path / "methods.yaml"
    path.write_text(MATRIX.format(out=tmp_path / "matrix", home=home, some=some))
    return path


def test_a_matrix_runs_all_cells_and_goes_on_without_computing_again(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(home, tmp_path)
    assert run(["matrix", str(file), "--format", "markdown", "--quiet"]) == 0
    first = capsys.readouterr().out
    assert first.count("## ") == 2
    assert first.rstrip("\n") == (tmp_path / "matrix/tables/all.md").read_text().rstrip("\n")
    digest = {path: path.read_bytes() for path in (tmp_path / "matrix").rglob("manifests/*")}
    assert len({path.parent for path in digest}) == 4
    assert run(["matrix", str(file), "--format", "markdown"]) == 0
    again = capsys.readouterr()
    assert again.out == first
    assert "cell 3 of 4: plain on some" in again.err
    assert {path: path.read_bytes() for path in (tmp_path / "matrix").rglob("manifests/*")} == digest
    # the tables are those of simsam compare over the runs
    runs = [tmp_path / "matrix" / "some" / name for name in ("plain", "tokencut")]
    assert (
        compared(*runs)["metrics"]
        == json.loads((tmp_path / "matrix/tables/some/comparison.json").read_text())["metrics"]
    )
    lines = list(csv.DictReader((tmp_path / "matrix/tables/all.csv").open()))
    assert [line["dataset"] for line in lines] == ["clips"] * 4 + ["some"] * 4


def test_a_cell_that_fails_is_said_and_the_others_go_on(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["matrix", str(written(home, tmp_path, some="nowhere")), "--quiet"]) == 1
    said = capsys.readouterr()
    assert "plain on some: " in said.err
    assert "some is not compared" in said.err
    assert "clips" in said.out
    assert (tmp_path / "matrix/tables/clips/index.html").exists()


def test_nothing_takes_the_place_of_the_method_that_the_others_are_compared_with(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(home, tmp_path)
    file.write_text(file.read_text().replace("datasets:", "  third: {k: 4}\ndatasets:"))
    taken = ["segment", str(home / "photos"), str(tmp_path / "matrix/some/plain"), "--backbone", "descriptors"]
    assert run([*taken, "--engine", "inline", "--quiet", "--allow-failed", "1", "--k", "5"]) == 0  # with other settings
    assert run(["matrix", str(file), "--quiet"]) == 1
    assert "some: plain, which the others are compared with, has not run" in capsys.readouterr().err
    assert not (tmp_path / "matrix/tables/some").exists()


def test_more_failures_than_allowed_are_the_exit_code(home: Path, tmp_path: Path) -> None:
    file = written(home, tmp_path)
    file.write_text(file.read_text().replace("allow-failed: 1", "allow-failed: 0"))
    assert run(["matrix", str(file), "--quiet"]) == 3


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("out: ", "outt: ", "unknown key 'outt'"),
        ("preset: tokencut", "preset: tokenkat", "tokencut on clips: preset: 'tokenkat' is not one of"),
        ("plain: {head", "../plain: {head", "methods: '../plain' cannot be the name of a folder here"),
        ("  tokencut: {preset: tokencut}\n", "", "methods needs 2 at least"),
        ("images: ", "pictures: ", "datasets: clips has no images"),
    ],
)
def test_a_matrix_is_checked_before_anything_is_computed(
    home: Path, tmp_path: Path, before: str, after: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(home, tmp_path)
    text = file.read_text().replace(before, after, 1)
    assert text != file.read_text()
    file.write_text(text)
    assert run(["matrix", str(file)]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "matrix").exists()


def test_an_interrupted_matrix_ends_at_once_and_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, done = written(home, tmp_path), []
    real = operations.run

    def interrupted(*arguments: Any) -> Any:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(arguments[2])
        return real(*arguments)

    monkeypatch.setattr(operations, "run", interrupted)
    assert run(["matrix", str(file), "--quiet"]) == 130
    monkeypatch.undo()
    assert run(["matrix", str(file), "--quiet"]) == 0


def test_later_settings_win_however_they_are_written(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    text = written(home, tmp_path).read_text()
    file.write_text(
        text.replace("allow-failed: 1", "allow-failed: 0.5, kappa: 0.3").replace("head: none", "kappa: 0.2")
    )
    cells = matrix.read_matrix(str(file)).cells
    assert [cell.settings.allow_failed for cell in cells] == [0.5] * 4
    assert [cell.settings.model_dump()["kappa"] for cell in cells] == [0.2, 0.3, 0.2, 0.3]


@pytest.mark.slow
def test_real_photographs_are_compared_end_to_end(test_data: Path, tmp_path: Path) -> None:
    horses = test_data / "weizmann_horses"
    for name, more in (("plain", ["--head", "none"]), ("tokencut", ["--preset", "tokencut"])):
        arguments = ["segment", f"{horses}/images", str(tmp_path / name), "--truth", f"{horses}/masks", "--limit", "12"]
        assert run([*arguments, "--backbone", "descriptors", "--engine", "inline", "--quiet", *more]) == 0
    assert run(["compare", str(tmp_path / "plain"), str(tmp_path / "tokencut"), "--to", str(tmp_path / "cmp")]) == 0
    table = pcsv.read_csv(tmp_path / "cmp" / "differences.csv")
    assert table.num_rows == 12
    for name in ("plain", "tokencut"):
        own = json.loads((tmp_path / name / "results" / "segment.json").read_text())["metrics"]
        assert np.mean(table[f"iou of {name}"].to_pylist()) == pytest.approx(own["iou_per_image_mean"], abs=1e-12)
    with Image.open(next((tmp_path / "cmp" / "pictures").glob("*-small-*.jpg"))) as picture:
        # two panels beside each other
        assert picture.width > 1.5 * picture.height
