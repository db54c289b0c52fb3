"""``simsam probe apply`` and probes as modules: other images get what a probe run gave, or would have given, them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import fsspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from probe_runs import CLASSES, HEIGHT, PATCH, VOID, WIDTH, arguments, make_collection
from result_rows import pixels_of, rows_of
from safetensors.torch import load_file, save_file

from simsam_batch import cli, open_run
from simsam_batch.cli import run as simsam
from simsam_batch.errors import ImageError, SettingsError
from simsam_batch.stages.probe_apply.probe_run import ProbeRun
from simsam_batch.storage import Folder

PROBES = ("linear", "knn", "kmeans", "ward")
SETS = ("key-2", "key-5", "key-2+5")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("apply")
    make_collection(home)
    return home


@pytest.fixture(scope="module")
def fitted(home: Path) -> Path:
    """All probes of two blocks, alone and together; a fifth of the labels has too few patches for 30 neighbours."""
    asked = ["--facets", "key", "--blocks", "2,-1", "--combine", "both", "--fractions", ".2,1", "--seeds", "2"]
    out = home / "run"
    assert simsam(arguments(home, out, *asked, "--neighbours", "30", "--allow-failed", "1", "--engine", "inline")) == 0
    return out


@pytest.fixture(scope="module")
def val_list(home: Path, fitted: Path) -> Path:
    """A list of the images that the run scored."""
    names = [row["image_id"] for row in rows_of(fitted, "probe-maps") if row["side"] == "val"]
    assert len(names) == 6
    listed = home / "val.txt"
    listed.write_text("".join(f"{name}\n" for name in names))
    return listed


def apply(home: Path, run: Path | str, out: Path, *more: str, images: Path | None = None) -> int:
    where = str(images or home / "photos")
    return simsam(["probe", "apply", str(run), where, str(out), "--engine", "inline", "--quiet", *more])


def with_truth(home: Path) -> tuple[str, str]:
    return "--truth", str(home / "truth")


def arrays_of(out: Path, row: dict[str, Any]) -> dict[str, NDArray[Any]]:
    with np.load(out / row["arrays_path"]) as file:
        mine = f"{row['arrays_member']}."
        return {name.removeprefix(mine): file[name] for name in file.files if name.startswith(mine)}


def by_id(out: Path, stage: str) -> dict[str, dict[str, Any]]:
    return {row["image_id"].rpartition("/")[2]: row for row in rows_of(out, stage)}


def result_of(out: Path, stage: str = "probe-apply") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results" / f"{stage}.json").read_text())
    return found


def map_of(segments: list[dict[str, Any]]) -> NDArray[np.int64]:
    found = np.zeros((HEIGHT, WIDTH), np.int64)
    for segment in segments:
        found[pixels_of(segment["mask_rle"])] = segment["label"]
    return found


def kept_by_the_run(fitted: Path, probe: str) -> dict[str, list[dict[str, Any]]]:
    """The segments that the run itself kept of a probe, by image."""
    maps = {name: row["maps"] for name, row in by_id(fitted, "probe-maps").items() if row["side"] == "val"}
    return {name: next(each["segments"] for each in found if each["probe"] == probe) for name, found in maps.items()}


def picture_of(home: Path, name: str) -> torch.Tensor:
    with Image.open(home / "photos" / name) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("probe", PROBES)
def test_an_image_gets_the_label_map_that_the_probe_run_gave_it(
    home: Path, fitted: Path, tmp_path: Path, probe: str
) -> None:
    assert apply(home, fitted, tmp_path / "new", "--probe", probe) == 0
    found = by_id(tmp_path / "new", "probe-apply")
    kept = kept_by_the_run(fitted, probe)
    assert len(found) == 12
    assert len(kept) == 6
    for name, segments in kept.items():
        assert found[name]["segments"] == segments
        assert found[name]["labels"] == [each["label"] for each in segments]
        assert found[name]["shown"].startswith(f"{probe} key-2")
    assert any(segments for segments in kept.values())
    assert simsam(["verify", str(tmp_path / "new")]) == 0


@pytest.mark.parametrize(
    ("asked", "cell"),
    [
        (["--probe", "linear", "--features", "key-5", "--fraction", ".2", "--seed-of-fit", "1"], "linear key-5, 0.2"),
        (["--probe", "knn", "--features", "key-2+5"], "knn key-2+5, 1"),
        (["--probe", "kmeans", "--features", "key-5", "--fraction", ".2"], "kmeans key-5 6 clusters, 0.2"),
        (["--probe", "ward", "--features", "key-2+5", "--seed-of-fit", "1"], "ward key-2+5 6 clusters, 1"),
    ],
)
def test_any_cell_of_the_table_can_be_applied(
    home: Path, fitted: Path, val_list: Path, tmp_path: Path, asked: list[str], cell: str
) -> None:
    """Of cells whose maps were not kept the run holds pixels of each class: right, predicted and true."""
    seed = "1" if "--seed-of-fit" in asked else "0"
    name = f"{cell} of train, seed {seed}"
    out = tmp_path / "new"
    assert apply(home, fitted, out, *asked, *with_truth(home), "--root", str(home / "photos"), images=val_list) == 0
    table = {row["cell"]: row for row in rows_of(fitted, "probe-table")}
    number, references = [*table].index(name), [-3, -2, -1]
    there, here = by_id(fitted, "probe-maps"), by_id(out, "probe-apply")
    assert len(here) == 6
    for image, row in here.items():
        counts = arrays_of(fitted, there[image])["counts"]
        assert row["shown"] == name
        assert np.array_equal(arrays_of(out, row)["counts"], counts[[number, *references]])
    metrics = result_of(out)["metrics"]
    assert metrics["images_scored"] == 6
    assert metrics["miou"] == pytest.approx(table[name]["miou"], abs=1e-12)
    assert metrics["pixel_accuracy"] == pytest.approx(table[name]["pixel_accuracy"], abs=1e-12)
    assert [*metrics["iou_by_class"]] == list(CLASSES)
    assert [*metrics["iou_by_class"].values()] == pytest.approx(table[name]["iou_by_class"], abs=1e-12)
    for reference, value in metrics["miou_of_references"].items():
        assert value == pytest.approx(table[reference]["miou"], abs=1e-12)


def test_scores_are_those_of_sklearn(home: Path, fitted: Path, tmp_path: Path) -> None:
    from sklearn.metrics import accuracy_score, jaccard_score

    assert apply(home, fitted, tmp_path / "new", *with_truth(home)) == 0
    predicted, true = [], []
    for name, row in by_id(tmp_path / "new", "probe-apply").items():
        with Image.open(home / "truth" / name) as image:
            ids = np.asarray(image)
        predicted.append(map_of(row["segments"])[ids != VOID])
        true.append(ids[ids != VOID])
    both = np.concatenate(true), np.concatenate(predicted)
    metrics = result_of(tmp_path / "new")["metrics"]
    assert [*metrics["iou_by_class"].values()] == pytest.approx(jaccard_score(*both, average=None), abs=1e-12)
    assert metrics["miou"] == pytest.approx(jaccard_score(*both, average="macro"), abs=1e-12)
    assert metrics["pixel_accuracy"] == pytest.approx(accuracy_score(*both), abs=1e-12)


def test_only_what_the_probe_sees_is_computed(home: Path, fitted: Path, tmp_path: Path) -> None:
    assert apply(home, fitted, tmp_path / "new", "--features", "key-2", "--limit", "2") == 0
    for name in by_id(tmp_path / "new", "features"):
        new, old = (open_run(str(run)).features(name) for run in (tmp_path / "new", fitted))
        assert {*new} == {"key-2", "norm-2"}
        assert np.array_equal(new["key-2"], old["key-2"])


def test_without_truth_there_are_maps_and_no_scores(home: Path, fitted: Path, tmp_path: Path) -> None:
    assert apply(home, fitted, tmp_path / "new", "--limit", "2") == 0
    assert result_of(tmp_path / "new")["metrics"] == {
        "images_scored": 0,
        "truth_errors": 0,
        "classes": list(CLASSES),
    }
    run = open_run(str(tmp_path / "new"))
    assert {name: mask.shape for name, mask in run.masks("probe-apply")} == dict.fromkeys(
        ("a-shape.png", "b-shape.png"), (HEIGHT, WIDTH)
    )


def test_truth_of_an_unknown_class_costs_no_other_image_its_score(home: Path, fitted: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "truth", tmp_path / "truth")
    Image.fromarray(np.full((HEIGHT, WIDTH), 3, np.uint8)).save(tmp_path / "truth" / "b-shape.png")
    assert apply(home, fitted, tmp_path / "new", "--truth", str(tmp_path / "truth"), "--limit", "3") == 0
    rows = by_id(tmp_path / "new", "probe-apply")
    assert [row["truth_error"] is None for row in rows.values()] == [True, False, True]
    assert rows["b-shape.png"]["segments"] == by_id(tmp_path / "new", "probe-apply")["b-shape.png"]["segments"]
    assert rows["b-shape.png"]["labels"]
    metrics = result_of(tmp_path / "new")["metrics"]
    assert (metrics["images_scored"], metrics["truth_errors"]) == (2, 1)


def test_an_image_that_failed_is_labelled_when_it_is_tried_again(home: Path, fitted: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a-shape.png", "b-shape.png"):
        shutil.copy(home / "photos" / name, photos / name)
    good = (photos / "b-shape.png").read_bytes()
    (photos / "b-shape.png").write_text("no picture " * 20)
    out = tmp_path / "new"
    assert apply(home, fitted, out, images=photos) == 3
    assert by_id(out, "probe-apply")["b-shape.png"]["error_type"] == "not_an_image"
    (photos / "b-shape.png").write_bytes(good)
    assert simsam(["retry", str(out), "--engine", "inline", "--quiet"]) == 0
    whole = tmp_path / "whole"
    assert apply(home, fitted, whole, "--limit", "2") == 0
    found, expected = (by_id(each, "probe-apply") for each in (out, whole))
    assert {name: row["segments"] for name, row in found.items()} == {
        name: row["segments"] for name, row in expected.items()
    }


def test_a_run_goes_on_with_the_same_fits_wherever_they_are_and_with_no_others(
    home: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, moved = tmp_path / "new", tmp_path / "moved"
    assert apply(home, fitted, out, "--limit", "2") == 0
    shutil.copytree(fitted, moved)
    assert apply(home, moved, out, "--limit", "2") == 0
    held = result_of(moved, "probe-fits")
    (moved / "results/probe-fits.json").write_text(json.dumps(held | {"first_content_digest": "0" * 64}))
    capsys.readouterr()
    assert apply(home, moved, out, "--limit", "2") == 1
    told = capsys.readouterr().err
    assert "fits.probe-fits: the run in OUT has" in told
    assert f'this command has "{"0" * 64}"' in told
    assert "To mend it: use the same settings, or another OUT" in told


def test_fits_are_read_from_object_storage(home: Path, fitted: Path, tmp_path: Path) -> None:
    there = f"memory://{uuid4().hex}/run"
    fsspec.filesystem("memory").put(str(fitted), there, recursive=True)
    asked = ["--probe", "knn", "--limit", "2"]
    assert apply(home, there, tmp_path / "remote", *asked) == 0
    assert apply(home, fitted, tmp_path / "local", *asked) == 0
    assert result_of(tmp_path / "remote")["content_digest"] == result_of(tmp_path / "local")["content_digest"]


@pytest.mark.slow
def test_several_processes_write_the_same(home: Path, fitted: Path, tmp_path: Path) -> None:
    asked = ["--probe", "knn", "--shard-size", "3", *with_truth(home)]
    digests = []
    for engine, workers in (("inline", "0"), ("local", "2")):
        out = tmp_path / engine
        assert apply(home, fitted, out, *asked, "--engine", engine, "--workers", workers) == 0
        digests.append(result_of(out)["content_digest"])
    assert digests[0] == digests[1]


def test_descriptors_need_no_weights(home: Path, tmp_path: Path) -> None:
    asked = ["--resize", "native", "--ignore-label", str(VOID), "--probes", "linear", "--fractions", "1"]
    asked += ["--backbone", "descriptors", "--iterations", "10", "--engine", "inline", "--quiet"]
    photos, truth, run = home / "photos", home / "truth", tmp_path / "run"
    assert simsam(["probe", str(photos), str(run), "--truth", str(truth), *asked]) == 0
    assert apply(home, run, tmp_path / "new") == 0
    found = by_id(tmp_path / "new", "probe-apply")
    assert {name: found[name]["segments"] for name in kept_by_the_run(run, "linear")} == kept_by_the_run(run, "linear")
    # nobody has named the classes
    assert open_run(str(run)).probe().classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--backbone", "dino_vits16"], "backbone: dino_vits16 is given, and the probe of {run} needs test_vit"),
        (["--blocks", "5"], "blocks: 5 is given, and the probe of {run} needs 2"),
        (["--resize", "64x64"], "resize: 64x64 is given, and the probe of {run} needs native"),
        (["--precision", "bf16"], "precision: bf16 is given, and the probe of {run} needs auto"),
        (["--class-names", "others.txt"], "class_names: others.txt is given"),
        (["--probe", "svm"], "probe: 'svm'"),
        (["--features", "keys-5"], "features: keys-5: {run} has no such linear probe; did you mean 'key-5'?"),
        (["--features", "value-5"], "choose one that it has: key-2, key-5, key-2+5"),
        (
            ["--fraction", ".5"],
            "fraction: 0.5: {run} has no such linear probe. To mend it: choose one that it has: 0.2, 1",
        ),
        (
            ["--seed-of-fit", "1"],
            "seed_of_fit: 1: {run} has no such linear probe. To mend it: choose one that it has: 0",
        ),
        (["--probe", "ward", "--clusters", "0"], "clusters: 3: {run} has no such ward probe"),
        (["--clusters", "6"], "clusters: it has no effect with probe 'linear'"),
        (["--probe", "knn", "--fraction", ".2"], "could not be fitted in {run}: neighbours: 24 labelled patches"),
    ],
)
def test_what_the_run_does_not_have_is_refused_by_name_before_anything_is_written(
    home: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[str], said: str
) -> None:
    assert apply(home, fitted, tmp_path / "new", *asked) == 1
    told = capsys.readouterr().err
    assert said.format(run=fitted) in told
    assert "To mend it: " in told or "it is linear | knn | kmeans | ward" in told
    assert not (tmp_path / "new").exists()


def test_what_the_run_was_begun_with_may_be_said_again(home: Path, fitted: Path, tmp_path: Path) -> None:
    same = ["--backbone", "test_vit", "--facets", "key", "--blocks", "2,-1", "--resize", "native", "--limit", "1"]
    assert apply(home, fitted, tmp_path / "new", *same, "--weights", str(home / "vit.safetensors")) == 0
    record = json.loads((tmp_path / "new/features/stage.json").read_text())
    assert (record["settings"]["blocks"], record["settings"]["resize"]) == ([2], "native")


def test_a_probe_of_a_release_that_did_not_scale_images_is_applied_to_whole_ones(fitted: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(fitted, tmp_path / "run"))
    for place in out.glob("*/stage.json"):
        record = json.loads(place.read_text())
        record["settings"].pop("decode", None)
        place.write_text(json.dumps(record))
    assert ProbeRun(Folder(str(fitted))).settings.decode == "scaled"
    assert ProbeRun(Folder(str(out))).settings.decode == "exact"


@pytest.fixture
def other_weights(home: Path, tmp_path: Path) -> Path:
    tensors = load_file(home / "vit.safetensors")
    tensors["blocks.0.norm1.weight"] = tensors["blocks.0.norm1.weight"] + 1
    save_file(tensors, tmp_path / "other.safetensors")
    return tmp_path / "other.safetensors"


def test_other_weights_are_refused_with_both_named(
    home: Path, fitted: Path, other_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert apply(home, fitted, tmp_path / "new", "--weights", str(other_weights)) == 1
    told = capsys.readouterr().err
    assert f"weights: {other_weights} are not what {fitted} was begun with, {home / 'vit.safetensors'}" in told
    assert "weights_sha256 is '" in told
    assert "To mend it: give --weights with that file" in told
    assert not (tmp_path / "new").exists()
    with pytest.raises(SettingsError, match="weights_sha256"):
        open_run(str(fitted)).probe(weights=str(other_weights))


def test_a_folder_cannot_be_both_runs(home: Path, fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert apply(home, fitted, fitted / ".." / fitted.name) == 1
    told = capsys.readouterr().err
    assert f"OUT: {fitted} is the run whose probe is to be applied" in told
    assert "To mend it: name another folder" in told


def test_a_run_without_fits_is_refused(
    home: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(fitted, tmp_path / "run")
    (tmp_path / "run/results/probe-fits.json").unlink()
    assert apply(home, tmp_path / "run", tmp_path / "new") == 1
    assert f"the stage probe-fits of {tmp_path / 'run'} is not finished" in capsys.readouterr().err
    for stage in ("subsets", "probe-fits", "probe-maps", "probe-table"):
        shutil.rmtree(tmp_path / "run" / stage)
    assert apply(home, tmp_path / "run", tmp_path / "new") == 1
    told = capsys.readouterr().err
    assert f"{tmp_path / 'run'} has no stage subsets, so that nothing is fitted there; it has features" in told
    assert "To mend it: give the OUT of a finished simsam probe" in told
    with pytest.raises(SettingsError, match="nothing is fitted there"):
        open_run(str(tmp_path / "run")).probe("linear")


def test_all_three_places_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert simsam(["probe", "apply", "run", "photos"]) == 1
    assert "simsam probe apply PROBE_RUN IMAGES OUT" in capsys.readouterr().err


def test_a_folder_called_apply_is_named_with_a_dot() -> None:
    context = click.Context(cli.simsam)
    for words, expected in (
        (["probe", "apply", "run", "photos", "out"], ("probe apply", ["run", "photos", "out"])),
        (["probe", "./apply", "out"], ("probe", ["./apply", "out"])),
        (["probe", "photos", "apply"], ("probe", ["photos", "apply"])),
    ):
        name, command, rest = cli.simsam.resolve_command(context, words)
        assert (name, rest) == expected
        assert command is not None
        assert command.name == name


def test_the_printed_settings_are_those_that_can_be_given(
    home: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["probe", "apply", str(fitted), str(home / "photos"), str(tmp_path / "new"), "--engine", "inline"]
    assert simsam([*command, "--limit", "1", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert f"probe_run: {fitted}" in printed
    assert "backbone" not in printed
    assert "ignore_label" not in printed
    (tmp_path / "config.yaml").write_text(printed)
    assert simsam([*command, "--config", str(tmp_path / "config.yaml"), "--quiet"]) == 0
    assert len(rows_of(tmp_path / "new", "probe-apply")) == 1


@pytest.mark.parametrize("probe", PROBES)
def test_a_module_gives_an_image_the_label_map_of_the_run(home: Path, fitted: Path, probe: Any) -> None:
    module = open_run(str(fitted)).probe(probe, device="cpu")
    kept = kept_by_the_run(fitted, probe)
    assert module.classes == CLASSES
    assert module.name.startswith(f"{probe} key-2")
    assert not [*module.parameters()]
    for name, segments in kept.items():
        found = module(picture_of(home, name))
        assert (found.dtype, found.shape) == (torch.int64, (HEIGHT, WIDTH))
        assert np.array_equal(found.numpy(), map_of(segments))


def test_images_of_one_size_go_together(home: Path, fitted: Path) -> None:
    module = open_run(str(fitted)).probe("linear", "key-2+5", fraction=0.2, seed=1, device="cpu")
    pictures = torch.stack([picture_of(home, name) for name in ("a-shape.png", "b-shape.png")])
    together, alone = module.scores(pictures), torch.stack([module.scores(each) for each in pictures])
    assert together.shape == (2, 3, HEIGHT // PATCH, WIDTH // PATCH)
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)
    assert module(pictures).shape == (2, HEIGHT, WIDTH)


def test_scores_of_the_linear_probe_are_products_with_its_weights(home: Path, fitted: Path) -> None:
    run = open_run(str(fitted))
    scores = run.probe("linear", "key-5", device="cpu").scores(picture_of(home, "a-shape.png"))
    row = next(row for row in rows_of(fitted, "probe-fits") if row["fit"] == "linear, 1 draw 0")
    fit = arrays_of(fitted, row)
    patches = run.features("a-shape.png")["key-5"].astype(np.float64)
    expected = patches @ fit["weight.key-5"].T.astype(np.float64) + fit["bias.key-5"]
    np.testing.assert_allclose(scores.permute(1, 2, 0).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_module_says_what_it_cannot_take(home: Path, fitted: Path) -> None:
    module = open_run(str(fitted)).probe("kmeans", device="cpu")
    picture = picture_of(home, "a-shape.png")
    for wrong in (picture.float(), picture.permute(1, 2, 0), picture[None, None], picture[:, :0]):
        with pytest.raises(ValueError, match=r"not uint8 \(3, H, W\) or \(B, 3, H, W\)"):
            module(wrong)
    with pytest.raises(ImageError, match="fewer than 2x2 patches"):
        module(picture[:, :20])
    with pytest.raises(SettingsError, match="a fitted probe stays where it was made"):
        module.to("cpu")
    with pytest.raises(SettingsError, match="choose one that it has: key-2, key-5, key-2\\+5"):
        open_run(str(fitted)).probe("linear", "token-5")
    assert "kmeans key-2 6 clusters, 1 of train, seed 0; 3 classes" in repr(module)


def test_the_sets_of_the_run_are_those_of_these_tests(fitted: Path) -> None:
    assert tuple(dict.fromkeys(row["features"] for row in rows_of(fitted, "probe-table") if row["features"])) == SETS
