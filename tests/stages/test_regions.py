"""The regions stage on real files: what a region, its box and its feature are, by hand and by timm alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.ops import roi_align

from simsam_batch.features.descriptors import Descriptors
from simsam_batch.runs.schema import Shard, ShardOutput
from simsam_batch.settings import resolve
from simsam_batch.stages.regions.stage import RegionsStage
from simsam_batch.stages.semantic.settings import SemanticSettings
from simsam_batch.workers.models import resolve_models

VIT = "vit_tiny_patch16_224"
PLAIN = {"backbone": "descriptors", "resize": "native", "device": "cpu", "head": "none", "shift": "zero", "k": 5}
PLAIN |= {"region_source": "eigenvectors", "regions": 15, "background": True}


def picture(seed: int = 0, size: tuple[int, int] = (240, 240)) -> np.ndarray:
    """A red, a green and a blue square of 6x6 patches on grey noise."""
    pixels = np.random.default_rng(seed).integers(90, 140, (*size, 3)).astype(np.uint8)
    for (top, left), colour in zip(
        [(16, 16), (16, 128), (128, 16)], [(200, 40, 40), (40, 170, 60), (50, 60, 200)], strict=True
    ):
        pixels[top : top + 96, left : left + 96] = colour
    return pixels


def save(folder: Path, name: str, pixels: np.ndarray) -> str:
    path = folder / name
    Image.fromarray(pixels).save(path)
    return str(path)


def worker_of(**settings: Any) -> Any:
    chosen = resolve(SemanticSettings, PLAIN | settings)
    return RegionsStage(chosen, {"models": resolve_models(["backbone", "encoder"], chosen)}).make_worker(lambda: None)


def shard_of(uris: Iterable[str]) -> Shard:
    uris = list(uris)
    return Shard(0, pa.table({"image_id": [Path(uri).name for uri in uris], "uri": uris}))


def run(worker: Any, *uris: str) -> ShardOutput:
    (output,) = worker.run(iter([shard_of(uris)]))
    assert isinstance(output, ShardOutput)
    return output


def rows_of(worker: Any, *uris: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run(worker, *uris).rows.to_pylist()
    return rows


def region_map(row: dict[str, Any]) -> np.ndarray:
    return np.array(row["region_map"]).reshape(row["grid_h"], row["grid_w"])


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A ViT-Ti/16 with random weights in a file, and timm's own model with the same."""
    torch.manual_seed(0)
    model = timm.create_model(VIT, num_classes=0, dynamic_img_size=True)
    # as initialised, all tokens come out nearly alike; larger weights make boxes tell
    for name, parameter in model.named_parameters():
        if name.endswith("weight") and parameter.ndim == 2:
            parameter.data.mul_(3)
    file = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(dict(model.state_dict()), file)
    settings = {"backbone": VIT, "weights": str(file), "outlier_ratio": 0.0, "regions": 4}
    return {"settings": settings, "model": model.eval()}


def by_timm(model: Any, crop: torch.Tensor, pooling: str) -> np.ndarray:
    """The vector of one crop (3, h, w) in [0, 1], after timm's final norm."""
    with torch.no_grad():
        tokens = model.forward_features((crop[None] - 0.5) / 0.5)[0]
    return np.asarray(tokens[0] if pooling == "class-token" else tokens[1:].mean(0))


def unit_pixels(uri: str) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(uri))).permute(2, 0, 1).float() / 255


def eroded(mask: np.ndarray) -> np.ndarray:
    """A patch stays if its neighbours above, below, left and right are in too; outside of the grid counts as in."""
    p = np.pad(mask, 1, constant_values=True)
    return p[1:-1, 1:-1] & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]


def dilated(mask: np.ndarray) -> np.ndarray:
    p = np.pad(mask, 1)
    return p[1:-1, 1:-1] | p[:-2, 1:-1] | p[2:, 1:-1] | p[1:-1, :-2] | p[1:-1, 2:]


def test_a_region_is_where_its_shape_is_and_the_background_is_0(tmp_path: Path) -> None:
    (row,) = rows_of(worker_of(regions=4), save(tmp_path, "a.png", picture()))
    plane = region_map(row)
    assert (row["status"], row["region_count"], row["degenerate"]) == ("ok", 3, False)
    assert plane.shape == (15, 15)
    assert (plane[0] == 0).all()
    assert (plane[:, 14] == 0).all()
    # the middles of the three squares are of three regions
    assert sorted(plane[[4, 4, 11], [4, 11, 4]]) == [1, 2, 3]
    for top, left in ((1, 1), (1, 8), (8, 1)):
        inside = plane[top + 1 : top + 5, left + 1 : left + 5]
        assert (inside == inside[0, 0]).all()
    assert [each["region"] for each in row["regions"]] == [1, 2, 3]
    assert [each["patches"] for each in row["regions"]] == [(plane == n).sum() for n in (1, 2, 3)]


@pytest.mark.parametrize(("erode", "dilate"), [(0, 0), (2, 3), (9, 1)])
def test_boxes_follow_from_the_regions_by_hand(tmp_path: Path, erode: int, dilate: int) -> None:
    """At 250 pixels the last patch of 15 also stands for the 10 pixels that are left over."""
    uri = save(tmp_path, "a.png", picture(size=(250, 250)))
    (row,) = rows_of(worker_of(regions=4, erode=erode, dilate=dilate), uri)
    plane = region_map(row)
    assert plane.shape == (15, 15)
    for region in row["regions"]:
        mask = plane == region["region"]
        for _ in range(erode):
            if not eroded(mask).any():
                break
            mask = eroded(mask)
        for _ in range(dilate):
            mask = dilated(mask)
        ys, xs = np.nonzero(mask)
        right, bottom = (250 if end == 14 else 16 * (end + 1) for end in (xs.max(), ys.max()))
        assert region["bbox_xyxy"] == [16 * xs.min(), 16 * ys.min(), right, bottom]


def test_the_feature_by_patches_is_the_mean_of_their_unit_descriptors(tmp_path: Path) -> None:
    uri = save(tmp_path, "a.png", picture())
    (row,) = rows_of(worker_of(regions=4, region_feature="patches"), uri)
    rows = Descriptors()(unit_pixels(uri)[None]).descriptors[0].double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for region in row["regions"]:
        members = rows[np.array(row["region_map"]) == region["region"]]
        assert region["feature"] == pytest.approx(members.mean(0), abs=1e-6)


def test_a_backbone_without_tokens_describes_regions_by_their_patches(tmp_path: Path) -> None:
    uri = save(tmp_path, "a.png", picture())
    by_crops = rows_of(worker_of(regions=4, region_feature="class-token"), uri)
    assert by_crops == rows_of(worker_of(regions=4, region_feature="patches"), uri)


def test_an_image_comes_out_the_same_alone_and_among_others(tmp_path: Path) -> None:
    uris = [save(tmp_path, f"{i}.png", picture(i)) for i in range(3)]
    together = rows_of(worker_of(batch_size=3), *uris)
    worker = worker_of(batch_size=1)
    for row, uri in zip(together, uris, strict=True):
        (alone,) = rows_of(worker, uri)
        assert alone["region_map"] == row["region_map"]
        for ours, others in zip(alone["regions"], row["regions"], strict=True):
            assert ours["bbox_xyxy"] == others["bbox_xyxy"]
            assert ours["feature"] == pytest.approx(others["feature"], abs=1e-5)


@pytest.mark.parametrize("settings", [{}, {"region_source": "features"}, {"region_source": "smoothed"}, {"regions": 3}])
def test_an_image_of_one_colour_has_no_region(tmp_path: Path, settings: dict[str, Any]) -> None:
    """H24: upstream stacks an empty list there and stops."""
    flat = save(tmp_path, "flat.png", np.full((96, 128, 3), 77, np.uint8))
    output = run(worker_of(**settings), save(tmp_path, "a.png", picture()), flat)
    _, row = output.rows.to_pylist()
    assert (row["status"], row["region_count"], row["regions"]) == ("ok", 0, [])
    assert row["region_map"] == [0] * 48
    assert row["degenerate"]
    assert output.statistics["images_without_regions"] == 1
    assert output.statistics["degenerate"] == 1


def test_without_a_background_every_patch_is_of_a_described_region(tmp_path: Path) -> None:
    uris = [save(tmp_path, "a.png", picture()), save(tmp_path, "flat.png", np.full((96, 128, 3), 77, np.uint8))]
    several, one = rows_of(worker_of(regions=4, background=False, region_feature="patches"), *uris)
    assert [each["region"] for each in several["regions"]] == [0, 1, 2, 3]
    assert sum(each["patches"] for each in several["regions"]) == 225
    assert [(each["region"], each["bbox_xyxy"]) for each in one["regions"]] == [(0, [0, 0, 128, 96])]


def test_split_regions_are_connected_and_no_two_of_a_kind_touch(tmp_path: Path) -> None:
    from scipy.ndimage import label

    pixels = picture()
    pixels[128:224, 128:224] = (200, 40, 40)  # a second red square
    (whole,) = rows_of(worker_of(regions=4), save(tmp_path, "a.png", pixels))
    (row,) = rows_of(worker_of(regions=4, split_regions=True), save(tmp_path, "a.png", pixels))
    assert row["region_count"] > whole["region_count"] == 3
    for region in row["regions"]:
        mask = region_map(row) == region["region"]
        assert label(mask)[1] == 1
        assert len(np.unique(region_map(whole)[mask])) == 1


def test_a_bad_image_does_not_cost_its_neighbours(tmp_path: Path) -> None:
    good = save(tmp_path, "good.jpg", picture())
    (tmp_path / "half.jpg").write_bytes(Path(good).read_bytes()[:900])
    rows = rows_of(worker_of(regions=4), good, str(tmp_path / "half.jpg"), str(tmp_path / "gone.png"), good)
    assert [(row["status"], row["error_type"]) for row in rows] == [
        ("ok", None),
        ("failed", "truncated"),
        ("failed", "not_found"),
        ("ok", None),
    ]
    assert rows[1]["regions"] is None
    assert rows[1]["region_count"] is None
    assert rows[0]["region_map"] == rows[3]["region_map"]


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["class-token", "mean-token"])
def test_the_feature_by_crops_is_timms_own_of_the_resized_box(
    tmp_path: Path, vit: dict[str, Any], pooling: str
) -> None:
    uri = save(tmp_path, "a.png", picture())
    worker = worker_of(**vit["settings"], region_feature=pooling, crop_size=64)
    (row,) = rows_of(worker, uri)
    assert row["regions"]
    for region in row["regions"]:
        box = torch.tensor([region["bbox_xyxy"]], dtype=torch.float32)
        crop = roi_align(unit_pixels(uri)[None], [box], (64, 64), aligned=True)[0]
        assert region["feature"] == pytest.approx(by_timm(vit["model"], crop, pooling), abs=2e-4)


@pytest.mark.slow
def test_native_crops_are_the_boxes_own_pixels_down_to_one_patch(tmp_path: Path, vit: dict[str, Any]) -> None:
    """H36: upstream describes one crop at a time, and fails on those narrower than a patch."""
    uri = save(tmp_path, "a.png", picture(size=(112, 144)))
    settings = {"region_feature": "class-token", "crop_size": 0, "split_regions": True, "erode": 0, "dilate": 0}
    (row,) = rows_of(worker_of(**vit["settings"] | settings), uri)
    sizes = set()
    pixels = unit_pixels(uri)
    for region in row["regions"]:
        left, top, right, bottom = region["bbox_xyxy"]
        sizes.add((bottom - top, right - left))
        expected = by_timm(vit["model"], pixels[:, top:bottom, left:right], "class-token")
        assert region["feature"] == pytest.approx(expected, abs=2e-4)
    assert (16, 16) in sizes
    assert len(sizes) > 3


def test_the_order_of_boxes_does_not_matter(vit: dict[str, Any]) -> None:
    """Boxes of equal size go through the network together; each vector comes back to its own box."""
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    boxes = [
        [image, left, top, right, bottom]
        for image in range(2)
        for left, top, right, bottom in [(0, 0, 16, 16), (16, 0, 64, 32), (0, 0, 96, 64), (80, 48, 96, 64)]
    ]
    rectangles = torch.tensor(boxes, dtype=torch.float32)
    worker = worker_of(**vit["settings"], region_feature="class-token", crop_size=0)
    forwards = worker._describe(pixels, rectangles)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    assert worker._describe(pixels, rectangles[order]).numpy() == pytest.approx(forwards[order].numpy(), abs=1e-5)
    # and the vectors are not all the same
    assert torch.pdist(forwards).min() > 1e-2


def test_images_without_a_region_need_no_crops(tmp_path: Path, vit: dict[str, Any]) -> None:
    """Alone in their batch, with a network for the crops: that is where upstream stops."""
    flat = [save(tmp_path, f"{i}.png", np.full((96, 128, 3), 77 + i, np.uint8)) for i in range(2)]
    rows = rows_of(worker_of(**vit["settings"], region_feature="class-token", batch_size=2), *flat)
    assert [(row["status"], row["region_count"], row["regions"]) for row in rows] == 2 * [("ok", 0, [])]


def test_crops_of_one_size_go_through_the_network_together(
    tmp_path: Path, vit: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = worker_of(**vit["settings"], region_feature="class-token", crop_size=64, batch_size=2)
    pooled, seen = worker._encoder.pooled, []

    def counted(crops: torch.Tensor, pooling: str) -> torch.Tensor:
        seen.append(len(crops))
        return pooled(crops, pooling)

    monkeypatch.setattr(worker._encoder, "pooled", counted)
    rows = rows_of(worker, *(save(tmp_path, f"{i}.png", picture(i)) for i in range(2)))
    assert seen == [sum(row["region_count"] for row in rows)]
    assert seen[0] > 2


def test_crops_are_cut_by_the_patches_of_the_graph_and_not_by_those_of_the_network(
    tmp_path: Path, vit: dict[str, Any]
) -> None:
    uri = save(tmp_path, "a.png", picture())
    worker = worker_of(**vit["settings"], region_feature="class-token", crop_size=64)
    worker.backbone = Descriptors(8)
    (row,) = rows_of(worker, uri)
    assert (row["grid_h"], row["grid_w"], row["patch"]) == (30, 30, 8)
    assert row["regions"]
    for region in row["regions"]:
        box = torch.tensor([region["bbox_xyxy"]], dtype=torch.float32)
        crop = roi_align(unit_pixels(uri)[None], [box], (64, 64), aligned=True)[0]
        assert region["feature"] == pytest.approx(by_timm(vit["model"], crop, "class-token"), abs=2e-4)
