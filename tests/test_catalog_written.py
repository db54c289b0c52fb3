"""What this program wrote among images is no image: it is left out of a listing and said, on every storage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_jobs import photograph

from simsam_batch import cli, operations
from simsam_batch.catalog import read_catalog
from simsam_batch.errors import SettingsError
from simsam_batch.storage import Folder

PLAIN = ["--backbone", "descriptors", "--resize", "native", "--head", "none", "--engine", "inline"]
IDS = [f"{number}.png" for number in range(3)]


def with_photographs(url: str) -> Folder:
    folder = Folder(url)
    for number, name in enumerate(IDS):
        folder.replace(name, photograph(number, 48))
    return folder


def ids_of(out: str) -> list[str]:
    folder = Folder(out)
    (part,) = [info.name for info in folder.list("results/segment")]
    with folder.open(part) as file:
        ids: list[str] = pq.read_table(file)["image_id"].to_pylist()
    return ids


@pytest.mark.slow
@pytest.mark.parametrize("out_url", ["local", "s3"], indirect=True)
def test_an_out_inside_of_images_is_no_image_of_later_runs(out_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    images = with_photographs(out_url)
    first, second = f"{out_url}/deep/out", f"{out_url}-second"
    assert cli.run(["segment", out_url, first, *PLAIN]) == 0
    operations.report(first)
    operations.export(first, f"{out_url}/masks", format="png")
    assert [info.name for info in images.list("deep/out/report/pictures")], "there are JPEGs to be taken for images"
    capfd.readouterr()

    assert cli.run(["segment", out_url, second, *PLAIN]) == 0
    said = capfd.readouterr().err
    assert ids_of(second) == IDS
    assert "a run or an export is there: 'deep/out', 'masks'" in said
    assert "not in the catalog" not in said, "its other files are not counted either"

    assert cli.run(["segment", out_url, first, *PLAIN, "--check-input"]) == 0
    assert "new, not part of this run" not in capfd.readouterr().err


def test_a_run_is_told_by_its_own_files_and_not_by_a_name_that_others_use(tmp_path: Path) -> None:
    with_photographs(str(tmp_path / "batch"))
    (tmp_path / "batch/run.json").write_text("{}")
    (tmp_path / "batch/export.json").write_text("{}")
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "a.parquet").write_bytes(b"")
    catalog = read_catalog(str(tmp_path))
    assert catalog.table["image_id"].to_pylist() == [f"batch/{name}" for name in IDS]
    assert catalog.notes == [f"3 files of {tmp_path} not in the catalog: .json 2, .parquet 1"]


def test_a_folder_beside_one_that_holds_a_run_keeps_its_images(tmp_path: Path) -> None:
    with_photographs(str(tmp_path / "out2"))
    made(tmp_path / "out")
    assert read_catalog(str(tmp_path)).table["image_id"].to_pylist() == [f"out2/{name}" for name in IDS]


def made(out: Path, source: str = "/photos") -> Path:
    """What tells a run, and an image in it."""
    (out / "plan").mkdir(parents=True)
    (out / "plan" / f"{'0' * 64}.parquet").write_bytes(b"")
    (out / "run.json").write_text(json.dumps({"schema_version": 2, "source": {"images": source}}))
    (out / "report/pictures").mkdir(parents=True)
    (out / "report/pictures/a.jpg").write_bytes(photograph(1))
    return out


def test_tables_and_truth_are_not_those_of_a_run_in_their_folder(tmp_path: Path) -> None:
    images = tmp_path / "images"
    with_photographs(str(images))
    tables = tmp_path / "tables"
    tables.mkdir()
    pq.write_table(read_catalog(str(images)).table.select(["image_id", "uri"]), tables / "images.parquet")
    for folder in (images, tables):
        made(folder / "out")
    of_tables = read_catalog(str(tables))
    assert of_tables.table["image_id"].to_pylist() == IDS
    assert of_tables.notes == [f"left out of {tables}, for a run or an export is there: 'out'"]
    truth = tmp_path / "truth"
    shutil.copytree(images, truth)
    with_truth = read_catalog(str(images), truth=str(truth))
    assert [note for note in with_truth.notes if "left out" in note] == [
        f"left out of {folder}, for a run or an export is there: 'out'" for folder in (images, truth)
    ]
    assert not [note for note in with_truth.notes if "belong to no image" in note]


def test_one_folder_for_images_and_out_is_refused_before_anything_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = with_photographs(str(tmp_path / "photos"))
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    for out in ("photos", "photos/", "photos/../photos", "link"):
        assert cli.run(["segment", str(tmp_path / "photos"), f"{tmp_path}/{out}", *PLAIN]) == cli.EXIT_COULD_NOT_RUN
        assert "is IMAGES itself" in capfd.readouterr().err
    assert [info.name for info in images.list()] == IDS


@pytest.mark.parametrize("out_url", ["local", "s3"], indirect=True)
def test_images_that_are_a_run_are_refused_with_what_was_meant(out_url: str) -> None:
    with_photographs(f"{out_url}/photos")
    assert cli.run(["segment", f"{out_url}/photos", f"{out_url}/out", *PLAIN]) == 0
    about = f"is the OUT of a run about {Folder(out_url).url}/photos. To mend it: to go on with that run"
    with pytest.raises(SettingsError, match="IMAGES: ") as refused:
        read_catalog(f"{out_url}/out")
    assert about in str(refused.value)
    with pytest.raises(SettingsError, match="To mend it: simsam export writes masks of a run as files"):
        read_catalog(f"{out_url}/photos", truth=f"{out_url}/out")
