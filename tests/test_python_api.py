"""``import simsam_batch``: a run read lazily, wherever it is and however far, and the snippets of docs/python.md."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from result_rows import pixels_of, rows_of

import simsam_batch
from simsam_batch.cli import run as simsam
from simsam_batch.errors import RunError, SettingsError
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

NAMES = ["0.png", "1.png", "2.png", "3 words.png", "4.png"]
WORDS = 3
OK = [name for number, name in enumerate(NAMES) if number != WORDS]

COMMON = ["--backbone", "descriptors", "--resize", "native", "--shard-size", "2", "--engine", "inline", "--quiet"]
COMMANDS = {
    "segment": ["--head", "none", "--k", "4"],
    "semantic": ["--head", "none", "--regions", "2", "--clusters", "2"],
    "hierarchy": [
        "--superpixels",
        "6",
        "--tree",
        "split",
        "--max-ncut",
        "0",
        "--max-perturbation",
        "0",
        "--clusters",
        "2",
    ],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``photos``, one of which is a text, and a run of each command over them."""
    home = tmp_path_factory.mktemp("home")
    (home / "photos").mkdir()
    for number, name in enumerate(NAMES):
        pixels = np.random.default_rng(number).integers(80, 120, (64, 96, 3)).astype(np.uint8)
        pixels[16:48, 16 : 48 + 16 * (number % 2)] = (210, 40, 40)
        Image.fromarray(pixels).save(home / "photos" / name)
    (home / "photos" / NAMES[WORDS]).write_text("no picture " * 20)
    for command, more in COMMANDS.items():
        assert simsam([command, str(home / "photos"), str(home / command), *COMMON, *more]) == 3
    return home


@pytest.fixture
def half(home: Path, tmp_path: Path) -> Path:
    """The run of `simsam segment` before its second shard, rows 2 and 3, was committed."""
    out = Path(shutil.copytree(home / "segment", tmp_path / "half"))
    shutil.rmtree(out / "results")
    (out / "segment/manifests/0000001.0.json").unlink()
    return out


def imported_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after some code."""
    told = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.slow
def test_the_package_imports_nothing_that_is_not_asked_for(home: Path) -> None:
    heavy = {"torch", "pyarrow", "numpy", "fsspec", "pydantic", "click", "PIL", "scipy"}
    assert not heavy & imported_after("import simsam_batch; simsam_batch.__version__; dir(simsam_batch)")
    # reading rows and eigenvectors needs no torch either
    reading = f"import simsam_batch; run = simsam_batch.open_run({str(home / 'segment')!r}); run.eigenvectors('0.png')"
    assert not {"torch", "timm", "scipy"} & imported_after(reading)


def test_the_package_says_what_it_has() -> None:
    assert {"Run", "open_run", "__version__"} <= {*dir(simsam_batch)}
    assert simsam_batch.open_run.__module__ == "simsam_batch.results.run"
    with pytest.raises(AttributeError, match="'simsam_batch' has no attribute 'open_ran'"):
        simsam_batch.open_ran  # type: ignore[attr-defined]  # noqa: B018


def test_everything_public_is_described() -> None:
    """What ruff's pydocstyle rules ask for, and of every argument a word."""
    public: list[Any] = [simsam_batch.open_run, simsam_batch.Run]
    public += [each for name, each in vars(simsam_batch.Run).items() if not name.startswith("_")]
    for each in public:
        text = inspect.getdoc(each)
        assert text, each
        if callable(each) and not isinstance(each, type) and "Args:" in text:
            for name in inspect.signature(each).parameters:
                assert name == "self" or f"{name}:" in text, f"{each.__qualname__} says nothing of {name}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_stage_has_its_rows_and_its_result(home: Path, command: str) -> None:
    run = simsam_batch.open_run(str(home / command))
    stages = {
        "segment": ["segment"],
        "semantic": ["regions", "clusters", "semantic"],
        "hierarchy": ["hierarchy", "node-clusters", "labels"],
    }
    assert run.stages == stages[command]
    assert len(run) == run.images == len(NAMES)
    for stage in run.stages:
        held = rows_of(home / command, stage)
        assert isinstance(run.rows(stage), StageRows)
        assert [row for _, row in run.rows(stage).each()] == held
        assert run.result(stage) == json.loads((home / command / f"results/{stage}.json").read_text())
        assert run.reader(stage).read_all().to_pylist() == held
        number, name = (0, "0") if stage.endswith("clusters") else (4, "4.png")
        assert run.row(name, stage) == held[number]
    assert repr(run) == f"Run({str(home / command)!r})"


def test_masks_are_those_of_the_rows(home: Path) -> None:
    run = simsam_batch.open_run(str(home / "segment"))
    rows = {row["image_id"]: row for row in rows_of(home / "segment", "segment")}
    found = dict(run.masks())
    assert [*found] == OK
    for image_id, mask in found.items():
        assert mask.dtype == np.bool_
        assert (mask == pixels_of(rows[image_id]["mask_rle"])).all()
        assert (run.mask(image_id) == mask).all()
    assert sum(mask.sum() for mask in found.values()) > 0


def test_masks_of_label_maps_are_labels(home: Path) -> None:
    run = simsam_batch.open_run(str(home / "semantic"))
    rows = {row["image_id"]: row for row in rows_of(home / "semantic", "semantic")}
    found = dict(run.masks())
    assert [*found] == OK
    for image_id, mask in found.items():
        assert (mask.dtype, mask.shape) == (np.int32, (64, 96))
        expected = np.zeros(mask.shape, int)
        for segment in rows[image_id]["segments"]:
            expected[pixels_of(segment["mask_rle"])] = segment["label"]
        assert (mask == expected).all()
        assert (run.mask(image_id, "semantic") == mask).all()


def test_masks_of_trees_are_leaves(home: Path) -> None:
    run = simsam_batch.open_run(str(home / "hierarchy"))
    rows = {row["image_id"]: row for row in rows_of(home / "hierarchy", "hierarchy")}
    for image_id, mask in run.masks("hierarchy"):
        row = rows[image_id]
        superpixels = np.array(row["superpixel_map"]).reshape(row["grid_h"], row["grid_w"])
        pixels = np.kron(superpixels, np.ones((row["patch"], row["patch"]), int))
        parents = {node["parent"] for node in row["nodes"]}
        for number, node in enumerate(row["nodes"]):
            if number not in parents:
                assert (mask[(pixels >= node["lo"]) & (pixels < node["hi"])] == number + 1).all()
        assert (run.mask(image_id) == mask).all()


def test_eigenvectors_are_those_that_were_stored(home: Path) -> None:
    run = simsam_batch.open_run(str(home / "segment"))
    for row in rows_of(home / "segment", "segment"):
        if row["status"] == "ok":
            values, vectors = run.eigenvectors(row["image_id"])
            with np.load(home / "segment" / row["arrays_path"]) as arrays:
                stored = arrays[f"{row['arrays_member']}.eigenvectors"]
            assert (values.dtype, vectors.dtype) == (np.float32, np.float32)
            assert values.tolist() == row["eigenvalues"]
            assert vectors.shape == (4, row["grid_h"], row["grid_w"])
            assert (vectors.reshape(4, -1) == stored.astype(np.float32)).all()
            (again,) = [pair for image_id, *pair in run.all_eigenvectors() if image_id == row["image_id"]]
            assert (again[0] == values).all()
            assert (again[1] == vectors).all()
            # the mask was cut from one of them
            mask = pixels_of(row["mask_rle"])[8::16, 8::16]
            cut = row["cut"]["sign"] * vectors[row["cut"]["vector"]]
            assert mask.any()
            assert cut[mask].min() > cut.mean() > cut[~mask].mean()


def test_ids_are_found_in_any_order_and_more_than_once(home: Path) -> None:
    run = simsam_batch.open_run(str(home / "segment"))
    assert run.numbers(["4.png", "0.png", "3 words.png", "4.png"]) == [4, 0, 3, 4]
    assert run.numbers([]) == []
    assert run.row("3 words.png", "segment", ["error_type", "image_id"]) == {
        "image_id": "3 words.png",
        "error_type": "not_an_image",
    }


def test_ids_are_found_beyond_one_row_group_of_the_plan(tmp_path: Path) -> None:
    import pyarrow as pa

    from simsam_batch.runs.plan import make_plan, row_numbers

    names = [f"{(number * 7919) % 25_000:05d}.jpg" for number in range(25_000)]
    catalog = pa.table({"image_id": names, "uri": names})
    plan = make_plan(Folder(str(tmp_path / "out")), catalog, shard_size=100, source={})
    wanted = [24_999, 0, 9_999, 10_000, 20_001]
    assert row_numbers(plan, [names[number] for number in wanted]) == wanted
    with pytest.raises(SettingsError, match=r"no image '25000\.jpg', 'x'\. To mend it: .*such as '00000\.jpg'"):
        row_numbers(plan, ["x", names[5], "25000.jpg"])


def test_the_reader_gives_the_columns_asked_for_in_their_order(home: Path) -> None:
    run = simsam_batch.open_run(str(home / "segment"))
    reader = run.reader("segment", ["status", "image_id"], batch_rows=2)
    assert reader.schema.names == ["status", "image_id"]
    batches = [*reader]
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [name for batch in batches for name in batch["image_id"].to_pylist()] == NAMES


def test_a_run_in_progress_shows_what_is_committed(half: Path, home: Path) -> None:
    run = simsam_batch.open_run(str(half))
    whole = simsam_batch.open_run(str(home / "segment"))
    assert run.images == len(NAMES)
    assert not run.rows("segment").published
    assert [image_id for image_id, _ in run.masks()] == ["0.png", "1.png", "4.png"]
    assert (run.eigenvectors("4.png")[1] == whole.eigenvectors("4.png")[1]).all()
    assert (run.mask("1.png") == whole.mask("1.png")).all()
    assert run.row("4.png", "segment") == whole.row("4.png", "segment")
    with pytest.raises(RunError, match="no row 2 of segment: it has 3 rows, those of the shards that are committed"):
        run.mask("2.png")
    with pytest.raises(RunError, match=r"the stage segment is not finished.* To mend it: run the command"):
        run.result("segment")


def test_a_run_on_object_storage_reads_like_one_on_disk(home: Path, s3_url: str) -> None:
    there, here = Folder(s3_url), home / "segment"
    for path in here.rglob("*"):
        if path.is_file():
            there.replace(path.relative_to(here).as_posix(), path.read_bytes())
    run, local = simsam_batch.open_run(s3_url), simsam_batch.open_run(str(here))
    assert run.result("segment") == local.result("segment")
    for (image_id, mask), (expected_id, expected) in zip(run.masks(), local.masks(), strict=True):
        assert image_id == expected_id
        assert (mask == expected).all()
    for found, expected in zip(run.eigenvectors("4.png"), local.eigenvectors("4.png"), strict=True):
        assert (found == expected).all()


def test_what_is_not_there_is_named_with_the_mend(home: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no run"):
        simsam_batch.open_run(str(tmp_path))
    run = simsam_batch.open_run(str(home / "segment"))
    for call in (run.rows, run.result, run.reader, run.masks):
        with pytest.raises(SettingsError, match=r"has no stage '\.\./etc'; it has segment"):
            call("../etc")
    with pytest.raises(SettingsError, match=r"has no colour; it has image_id, uri"):
        run.reader("segment", ["colour"])
    with pytest.raises(
        SettingsError, match=r"has no image '5\.png'; did you mean '.\.png'\? To mend it: .* such as '0"
    ):
        run.eigenvectors("5.png")
    for wrong, meant in (("4", "4.png"), ("photos/4.png", "4.png"), ("3 wrods.png", "3 words.png")):
        with pytest.raises(SettingsError, match=rf"has no image '{wrong}'; did you mean '{meant}'\?"):
            run.row(wrong)
    with pytest.raises(SettingsError, match=r"has no image 'zebra\.jpeg'\. To mend it"):
        run.row("zebra.jpeg")
    with pytest.raises(SettingsError, match=r"'0\.png' is one id"):
        run.numbers("0.png")
    with pytest.raises(SettingsError, match="an id is no text"):
        run.numbers(["0.png", 7])  # type: ignore[list-item]
    with pytest.raises(SettingsError, match="an id is no text"):
        run.numbers(["\ud800"])
    for call, what in ((run.eigenvectors, "eigenvectors"), (run.mask, "mask")):
        with pytest.raises(RunError, match=rf"'3 words\.png' failed, so that it has no {what} \(not_an_image: "):
            call("3 words.png")
    labels = simsam_batch.open_run(str(home / "semantic"))
    with pytest.raises(SettingsError, match=r"regions of .* has no masks"):
        labels.masks("regions")
    with pytest.raises(
        SettingsError, match=r"has no stage with eigenvectors\. To mend it: open the OUT of the command"
    ):
        labels.eigenvectors("0.png")
    with pytest.raises(SettingsError, match="has no stage 'segment'; it has regions, clusters, semantic"):
        labels.rows("segment")


def test_a_row_is_of_the_stage_that_shows_something(home: Path) -> None:
    for command, stage in {"segment": "segment", "semantic": "semantic", "hierarchy": "hierarchy"}.items():
        run = simsam_batch.open_run(home / command)
        assert run.row("0.png") == run.row("0.png", stage)
        table = run.to_arrow()
        assert table.to_pylist() == rows_of(home / command, stage)
    frame = run.to_pandas(["status", "image_id"], stage="labels")
    assert [*frame.columns] == ["status", "image_id"]
    assert frame["image_id"].to_list() == NAMES
    with pytest.raises(SettingsError, match="has no colour; it has image_id"):
        run.to_pandas(["colour"])


def test_a_picture_shows_what_was_found(home: Path) -> None:
    run = simsam_batch.open_run(home / "segment")
    assert run.layers == ["mask", "photograph", "eigenvectors"]
    photo = np.asarray(Image.open(home / "photos/1.png"))
    assert (np.asarray(run.show("1.png", "photograph")) == photo).all()
    shown = np.asarray(run.show("1.png")).astype(int)
    mask = run.mask("1.png")
    grey = shown.max(axis=2) - shown.min(axis=2) < 12
    # but for the outline, of a few pixels
    inside, outside = (
        np.asarray(Image.fromarray(each).convert("L").filter(ImageFilter.MinFilter(11))) > 0 for each in (mask, ~mask)
    )
    assert inside.any()
    assert not grey[inside].any()
    assert grey[outside].all()
    assert run.show("1.png", side=48).size == (48, 32)
    # three abreast with gaps, of the three that there are beside the constant one
    assert run.show("1.png", "eigenvectors", side=132).size == (132, 27)
    for command, layers in {
        "semantic": ["labels", "photograph"],
        "hierarchy": ["regions", "photograph", "tree"],
    }.items():
        other = simsam_batch.open_run(home / command)
        assert other.layers == layers
        found, size = other.show("1.png"), (96, 64)
        assert (found.size, found.mode) == (size, "RGB")
        assert (
            found.tobytes() == other.show("1.png", layers[0]).tobytes() != other.show("1.png", "photograph").tobytes()
        )
    assert other.show("1.png", "tree").width > 640


def test_a_picture_of_what_is_not_there_is_an_error_or_says_so(home: Path, tmp_path: Path) -> None:
    run = simsam_batch.open_run(home / "segment")
    with pytest.raises(SettingsError, match=r"has no layer 'maks'; did you mean 'mask'\?"):
        run.show("0.png", "maks")
    with pytest.raises(SettingsError, match="has no layer 'labels'; it has mask, photograph, eigenvectors"):
        run.show("0.png", "labels")
    with pytest.raises(SettingsError, match=r"stage regions of .* has no layer 'labels'; it has photograph"):
        simsam_batch.open_run(home / "semantic").show("0.png", "labels", stage="regions")
    with pytest.raises(SettingsError, match="side: 0 is no number of pixels"):
        run.show("0.png", side=0)
    with pytest.raises(SettingsError, match=r"has no image '5\.png'"):
        run.show("5.png")
    with pytest.raises(RunError, match=r"'3 words\.png' failed, so that there is nothing to show \(not_an_image: "):
        run.show("3 words.png")
    shutil.copytree(home / "photos", tmp_path / "photos")
    arguments = [*COMMON, *COMMANDS["segment"], "--limit", "1"]
    assert simsam(["segment", str(tmp_path / "photos"), str(tmp_path / "out"), *arguments]) == 0
    (tmp_path / "photos/0.png").unlink()
    gone = simsam_batch.open_run(tmp_path / "out").show("0.png", "photograph")
    assert gone.size == (96, 64)
    assert max(gone.getcolors() or [])[1] == (236, 238, 240)


def test_scores_are_the_published_numbers(tmp_path: Path) -> None:
    for folder in ("photos", "truth"):
        (tmp_path / folder).mkdir()
    pixels = np.full((64, 96, 3), 90, np.uint8)
    pixels[16:48, 16:64] = (210, 40, 40)
    for number in range(8):
        Image.fromarray(pixels + np.uint8(number)).save(tmp_path / f"photos/<b>{number}&.png")
        Image.fromarray((pixels[..., 0] > 100).astype(np.uint8) * 255).save(tmp_path / f"truth/<b>{number}&.png")
    arguments = [*COMMON, *COMMANDS["segment"], "--truth", str(tmp_path / "truth")]
    assert simsam(["segment", str(tmp_path / "photos"), str(tmp_path / "out"), *arguments]) == 0
    run = simsam_batch.open_run(tmp_path / "out")
    metrics = json.loads((tmp_path / "out/results/segment.json").read_text())["metrics"]
    assert run.scores["segment"]["iou_per_image_mean"] == metrics["iou_per_image_mean"] > 0
    assert all(type(value) in (int, float) for value in run.scores["segment"].values())
    # as a notebook shows it
    page = run._repr_html_()
    assert f"iou_per_image_mean {metrics['iou_per_image_mean']:.4g}" in page
    assert "done: 8 images, 0 of them failed" in page
    assert page.count('<img src="data:image/jpeg;base64,') == 6
    assert "&lt;b&gt;0&amp;.png" in page
    assert "<b>" not in page
    assert len(page) < 200_000


def test_a_run_in_progress_is_shown_as_far_as_it_is(half: Path, home: Path) -> None:
    run = simsam_batch.open_run(half)
    assert run.scores == {}
    page = run._repr_html_()
    assert "3 of 5 images done" in page
    assert page.count("<figure") == 3
    whole = simsam_batch.open_run(home / "segment")._repr_html_()
    assert "1 of them failed" in whole
    assert whole.count("<img ") == 4
    assert "no picture<figcaption>3 words.png" in whole
    shutil.rmtree(half / "segment")
    assert "<th" in simsam_batch.open_run(half)._repr_html_()


def test_a_run_without_eigenvectors_says_so(home: Path, tmp_path: Path) -> None:
    arguments = [*COMMON, *COMMANDS["segment"], "--eigenvectors", "none", "--limit", "1"]
    assert simsam(["segment", str(home / "photos"), str(tmp_path / "out"), *arguments]) == 0
    with pytest.raises(SettingsError, match=r"computed with --eigenvectors none\. To mend it"):
        simsam_batch.open_run(str(tmp_path / "out")).eigenvectors("0.png")
    assert simsam_batch.open_run(tmp_path / "out").layers == ["mask", "photograph"]


def test_the_quickstart_is_short() -> None:
    assert len(SNIPPETS[0].splitlines()) <= 30


@pytest.mark.slow
def test_the_snippets_of_the_page_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    shutil.copytree(home / "segment", tmp_path / "out")
    (tmp_path / "photos").mkdir()
    shutil.copy(home / "photos" / NAMES[0], tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    for snippet in SNIPPETS:
        exec(compile(snippet, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "['segment'] 5 {" in printed
    assert "3 3 words.png" in printed
    # the planted object is the half that is found, in both images
    assert names["halves"].reshape(2, 6, 8)[:, :2].all()
    assert not names["halves"].reshape(2, 6, 8)[:, 2:].any()
    assert names["vectors"].shape == (4, 4, 6)
    assert names["some"]["image_id"].to_pylist() == ["2.png", "0.png"]
    assert names["table"]["image_id"].to_pylist() == ["2.png", "0.png"]
    assert len(names["frame"]) == len(NAMES)
    assert names["again"].result("segment")["ok"] == 1
    assert Image.open(tmp_path / "shown.png").size == (96, 64)
    assert (names["tokens"].shape, names["tokens"].dtype) == ((4, 6, 15), np.float16)
    assert re.search(r"^0\.png torch\.Size\(\[4, 6, 15\]\)$", printed, re.MULTILINE)
    assert names["means"].shape == (1, 15)
    assert "torch.Size([24, 15])" in printed
    assert (tmp_path / "masks/masks/0.png").exists()
