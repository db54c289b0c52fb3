"""Features read back: one image by one range request, wherever it is; and a run as a data set of torch."""

from __future__ import annotations

import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from result_rows import rows_of
from safetensors.torch import save_file
from torch.utils.data import DataLoader

import simsam_batch
from simsam_batch.cli import run as simsam
from simsam_batch.errors import RunError, SettingsError
from simsam_batch.results.torch_dataset import FeatureDataset
from simsam_batch.storage import Folder, filesystems

SIZES = [(320, 384), (384, 320), (320, 320), (320, 384), (384, 384), (320, 320)]
NAMES = [f"{number}.png" for number in range(len(SIZES))]
WORDS = "4.png"
OK = [name for name in NAMES if name != WORDS]
ARRAYS = ["class-key-5", "class-token-5", "key-5", "norm-5", "token-5"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `simsam features` in three shards; the image `WORDS` failed."""
    home = tmp_path_factory.mktemp("reading")
    (home / "photos").mkdir()
    for number, (name, size) in enumerate(zip(NAMES, SIZES, strict=True)):
        pixels = np.random.default_rng(number).integers(0, 255, (*size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(home / "photos" / name)
    (home / "photos" / WORDS).write_text("no picture " * 20)
    model = timm.create_model("test_vit", pretrained=False, num_classes=0)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, home / "vit.safetensors")
    command = ["features", str(home / "photos"), str(home / "out"), "--resize", "native", "--shard-size", "2"]
    command += ["--backbone", "test_vit", "--weights", str(home / "vit.safetensors"), "--dtype", "fp32"]
    command += ["--facets", "token,key", "--class-token", "--engine", "inline", "--quiet", "--allow-failed", "1"]
    assert simsam(command) == 0
    return home / "out"


@pytest.fixture
def half(out: Path, tmp_path: Path) -> Path:
    """The run before its second shard, images 2 and 3, was committed."""
    copy = Path(shutil.copytree(out, tmp_path / "half"))
    shutil.rmtree(copy / "results")
    (copy / "features/manifests/0000001.0.json").unlink()
    return copy


def by_numpy(out: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """The arrays of every image that did not fail, read by numpy alone."""
    found = {}
    for row in rows_of(out, "features"):
        if row["status"] == "ok":
            with np.load(out / row["arrays_path"]) as file:
                mine = f"{row['arrays_member']}."
                found[row["image_id"]] = {n.removeprefix(mine): file[n] for n in file.files if n.startswith(mine)}
    return found


def test_the_features_of_an_image_are_those_that_are_stored(out: Path) -> None:
    run = simsam_batch.open_run(str(out))
    stored = by_numpy(out)
    assert [*stored] == OK
    for image_id, expected in stored.items():
        found = run.features(image_id)
        assert sorted(found) == ARRAYS
        for name, array in expected.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            assert np.array_equal(found[name], array)
    assert run.features("0.png")["key-5"].shape == (20, 24, 64)
    assert run.features("0.png")["class-key-5"].shape == (64,)


def test_some_by_name_in_the_order_asked_for(out: Path) -> None:
    run = simsam_batch.open_run(str(out))
    assert [*run.features("0.png", ["token-5", "class-key-5"])] == ["token-5", "class-key-5"]
    assert run.features("0.png", []) == {}
    with pytest.raises(SettingsError, match=rf"'0\.png' of .* has no features key-9; it has {', '.join(ARRAYS)}"):
        run.features("0.png", ["key-5", "key-9"])
    with pytest.raises(SettingsError, match="'key-5' is one name"):
        run.features("0.png", "key-5")


def test_the_stage_is_looked_for_once(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = simsam_batch.open_run(str(out))
    run.features("0.png")
    monkeypatch.setattr(simsam_batch.Run, "stages", property(lambda _: pytest.fail("the storage is asked again")))
    assert sorted(run.features("1.png")) == ARRAYS


def test_what_is_not_there_is_named_with_the_mend(out: Path, half: Path, tmp_path: Path) -> None:
    run = simsam_batch.open_run(str(out))
    with pytest.raises(RunError, match=rf"'{re.escape(WORDS)}' failed, so that it has no features \(not_an_image: "):
        run.features(WORDS)
    with pytest.raises(
        SettingsError, match=r"has no image 'x\.png'; did you mean '\d\.png'\? To mend it: .* such as '0\.png'"
    ):
        run.features("x.png")
    with pytest.raises(SettingsError, match="has no masks yet"):
        run.masks()
    masks = tmp_path / "masks"
    command = ["segment", str(out.parent / "photos"), str(masks), "--backbone", "descriptors", "--head", "none"]
    assert simsam([*command, "--limit", "1", "--engine", "inline", "--quiet"]) == 0
    other = simsam_batch.open_run(str(masks))
    for call in (lambda: other.features("0.png"), other.as_torch_dataset):
        with pytest.raises(
            SettingsError, match=r"has no features\. To mend it: simsam features IMAGES OUT computes some"
        ):
            call()
    (archive,) = {row["arrays_path"] for row in rows_of(out, "features")[:1]}
    copy = Path(shutil.copytree(out, tmp_path / "cut"))
    (copy / archive).write_bytes((out / archive).read_bytes()[:100_000])
    with pytest.raises(RunError, match=r"the arrays of '0\.png' cannot be read: .* To mend it: restore the file"):
        simsam_batch.open_run(str(copy)).features("0.png")


def test_a_run_going_on_gives_what_is_committed(half: Path, out: Path) -> None:
    run = simsam_batch.open_run(str(half))
    expected = by_numpy(out)
    assert np.array_equal(run.features("5.png")["key-5"], expected["5.png"]["key-5"])
    with pytest.raises(RunError, match="no row 2 of features: it has 4 rows, those of the shards that are committed"):
        run.features("2.png")
    data = run.as_torch_dataset()
    assert [item["image_id"] for item in data] == ["0.png", "1.png", "5.png"]
    for manifest in half.glob("features/manifests/*"):
        manifest.unlink()
    with pytest.raises(RunError, match=r"no image has features yet\. To mend it: run the command"):
        simsam_batch.open_run(str(half)).as_torch_dataset()


def test_an_item_is_the_arrays_of_an_image_as_tensors(out: Path) -> None:
    data = simsam_batch.open_run(str(out)).as_torch_dataset()
    expected = by_numpy(out)
    assert isinstance(data, FeatureDataset)
    assert len(data) == len(OK)
    for number, image_id in enumerate(OK):
        item = data[number]
        assert item.pop("image_id") == image_id
        assert {name: tensor.dtype for name, tensor in item.items()} == dict.fromkeys(ARRAYS, torch.float32)
        for name, tensor in item.items():
            assert np.array_equal(tensor.numpy(), expected[image_id][name])
    assert data[-1]["image_id"] == OK[-1]
    assert data[np.int64(2)]["image_id"] == OK[2]
    for beyond in (len(OK), -len(OK) - 1):
        with pytest.raises(IndexError, match="the data set has 5"):
            data[beyond]


def _mean_key(item: dict[str, Any]) -> tuple[str, torch.Tensor]:
    return item["image_id"], item["key-5"].mean(dim=(0, 1))


def test_names_and_a_transform_make_the_item(out: Path) -> None:
    run = simsam_batch.open_run(str(out))
    assert [*run.as_torch_dataset(["norm-5"])[0]] == ["image_id", "norm-5"]
    with pytest.raises(SettingsError, match="has no features value-5; it has"):
        run.as_torch_dataset(["value-5"])
    # one vector an image is what torch stacks, whatever the sizes of the images
    batches = [*DataLoader(run.as_torch_dataset(["key-5"], transform=_mean_key), batch_size=5)]
    ((image_ids, means),) = batches
    assert [*image_ids] == OK
    np.testing.assert_allclose(means[3], by_numpy(out)[OK[3]]["key-5"].mean(axis=(0, 1)), atol=1e-5)


def test_a_data_set_holds_names_and_places_alone(out: Path) -> None:
    data = simsam_batch.open_run(str(out)).as_torch_dataset()
    assert data.places.column_names == ["image_id", "arrays_path", "arrays_member", "arrays_offset", "arrays_bytes"]
    assert data.places.nbytes < 100 * len(data)
    sent = pickle.dumps(data)
    # what does not grow with the run is its URL, and names of types
    assert len(sent) < 5_000
    assert torch.equal(pickle.loads(sent)[1]["key-5"], data[1]["key-5"])


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_loader_read_every_image_once(out: Path, start: str) -> None:
    data = simsam_batch.open_run(str(out)).as_torch_dataset(["key-5"])
    loader = DataLoader(
        data,
        batch_size=None,
        shuffle=True,
        num_workers=2,
        multiprocessing_context=start,
        generator=torch.Generator().manual_seed(1),
    )
    expected = by_numpy(out)
    found = {item["image_id"]: item["key-5"] for item in loader}
    assert [*found] != OK
    assert sorted(found) == OK
    for image_id, tensor in found.items():
        assert np.array_equal(tensor.numpy(), expected[image_id]["key-5"])


@pytest.mark.slow
def test_reading_arrays_takes_no_torch(out: Path) -> None:
    code = f"import simsam_batch, sys; run = simsam_batch.open_run({str(out)!r}); run.features('0.png')\n"
    code += "print('torch' in sys.modules); run.as_torch_dataset(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@contextmanager
def bytes_read(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sizes of all answers that hold data of objects."""
    fs, _ = filesystems.filesystem(url)
    sizes: list[int] = []
    ours = fs.cat_file

    def counted(*arguments: Any, **more: Any) -> bytes:
        data: bytes = ours(*arguments, **more)
        sizes.append(len(data))
        return data

    with monkeypatch.context() as patch:
        patch.setattr(fs, "cat_file", counted)
        patch.setattr(fs, "open", None)
        yield sizes


@pytest.fixture
def on_s3(out: Path, s3_url: str) -> str:
    there = Folder(s3_url)
    for path in out.rglob("*"):
        if path.is_file():
            there.replace(path.relative_to(out).as_posix(), path.read_bytes())
    return s3_url


def test_an_image_on_s3_costs_its_own_bytes(on_s3: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = [row for row in rows_of(out, "features") if row["image_id"] == "3.png"]
    assert row["arrays_bytes"] > 240_000
    run = simsam_batch.open_run(on_s3)
    with bytes_read(on_s3, monkeypatch) as sizes:
        found = run.features("3.png")
    assert sorted(found) == ARRAYS
    # the table of ids, the row and the arrays
    assert row["arrays_bytes"] <= sum(sizes) < 2 * row["arrays_bytes"], sizes
    assert sizes.count(row["arrays_bytes"]) == 1
    data = run.as_torch_dataset()
    with bytes_read(on_s3, monkeypatch) as sizes:
        assert data[3]["image_id"] == "3.png"
    assert sizes == [row["arrays_bytes"]]


def test_a_loader_reads_from_s3_too(on_s3: str, out: Path) -> None:
    data = simsam_batch.open_run(on_s3).as_torch_dataset(["key-5"])
    expected = by_numpy(out)
    for item in DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork"):
        assert np.array_equal(item["key-5"].numpy(), expected[item["image_id"]]["key-5"])


def test_eigenvectors_too_take_one_request(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["segment", str(out.parent / "photos"), str(tmp_path / "out"), "--backbone", "descriptors", "--k", "3"]
    assert simsam([*command, "--head", "none", "--limit", "1", "--engine", "inline", "--quiet"]) == 0
    run = simsam_batch.open_run(str(tmp_path / "out"))
    asked: list[tuple[str, int]] = []
    ours = Folder.read_range

    def told(folder: Folder, name: str, start: int, size: int) -> bytes:
        asked.append((name, size))
        return ours(folder, name, start, size)

    monkeypatch.setattr(Folder, "read_range", told)
    (row,) = rows_of(tmp_path / "out", "segment")
    assert run.eigenvectors("0.png")[1].shape[0] == 3
    assert asked == [(row["arrays_path"], row["arrays_bytes"])]
