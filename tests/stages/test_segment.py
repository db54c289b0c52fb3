"""The segment stage on real files: one row for every image, the same whatever stands beside it."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.linalg
import torch
from PIL import Image
from pycocotools import mask as coco

from simsam_batch.features.contract import Features
from simsam_batch.features.descriptors import Descriptors
from simsam_batch.runs.schema import Shard, ShardOutput
from simsam_batch.scores.bits import packed
from simsam_batch.scores.boundary import boundary_iou
from simsam_batch.settings import presets_of, resolve
from simsam_batch.stages.segment.rows import SegmentFold
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.stages.segment.stage import SegmentStage, truth_of
from simsam_batch.workers.models import resolve_models
from simsam_batch.workers.seeds import image_seed

DISC = (slice(40, 104), slice(64, 128))


def picture(seed: int = 0, size: tuple[int, int] = (160, 208)) -> np.ndarray:
    """A red square on green noise."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    pixels[..., 1] = rng.integers(90, 140, size)
    pixels[DISC] = (200, 30, 30)
    return pixels


def save(folder: Path, name: str, pixels: np.ndarray) -> str:
    path = folder / name
    Image.fromarray(pixels).save(path)
    return str(path)


def worker_of(**settings: Any) -> Any:
    plain = {"backbone": "descriptors", "resize": "native", "device": "cpu", "refine": "none"}
    chosen = resolve(SegmentSettings, plain | settings)
    return SegmentStage(chosen, {"models": resolve_models(["backbone"], chosen), "truth": truth_of({})}).make_worker(
        lambda: None
    )


def shard_of(uris: Iterable[str], number: int = 0, truth: Iterable[str | None] | None = None) -> Shard:
    uris = list(uris)
    return Shard(
        number,
        pa.table(
            {
                "image_id": pa.array([Path(uri).name for uri in uris]),
                "uri": pa.array(uris),
                "truth_uri": pa.array(list(truth) if truth else [None] * len(uris), pa.string()),
            }
        ),
    )


def run(worker: Any, *shards: Shard) -> list[ShardOutput]:
    return list(worker.run(iter(shards)))


def mask_of(row: dict[str, Any]) -> np.ndarray:
    rle = row["mask_rle"]
    return coco.decode({"size": rle["size"], "counts": rle["counts"].encode()}).astype(bool)


def test_the_object_is_found_and_described(tmp_path: Path) -> None:
    truth = np.zeros((160, 208), dtype=np.uint8)
    truth[DISC] = 255
    shard = shard_of([save(tmp_path, "a.png", picture())], truth=[save(tmp_path, "truth.png", truth)])
    (output,) = run(worker_of(), shard)
    (row,) = output.rows.to_pylist()
    mask = mask_of(row)
    assert row["status"] == "ok"
    assert (row["width"], row["height"], row["grid_h"], row["grid_w"], row["patch"]) == (208, 160, 10, 13, 16)
    assert mask.shape == (160, 208)
    intersection, union = (mask & (truth > 0)).sum(), (mask | (truth > 0)).sum()
    assert row["iou"] == pytest.approx(intersection / union)
    assert row["iou"] > 0.6
    assert row["accuracy"] == pytest.approx((mask == (truth > 0)).mean())
    assert row["boundary_iou"] == boundary_iou(packed(mask), packed(truth > 0))
    assert 0 < row["boundary_iou"] < row["iou"]
    assert row["area_fraction"] == pytest.approx(mask.mean())
    ys, xs = np.nonzero(mask)
    assert row["bbox_xyxy"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert row["eigenvalues"] == sorted(row["eigenvalues"])
    assert row["eigenvalues"][0] == pytest.approx(0, abs=1e-5)
    assert output.attachments[0]["eigenvectors"].shape == (15, 130)
    assert output.attachments[0]["eigenvectors"].dtype == np.float16
    assert output.statistics["scores"]["images_scored"] == 1


@pytest.mark.parametrize("background", [True, False])
def test_regions_cover_the_image_without_overlap(tmp_path: Path, background: bool) -> None:
    shard = shard_of([save(tmp_path, "a.png", picture())])
    (output,) = run(worker_of(regions=3, background=background), shard)
    (row,) = output.rows.to_pylist()
    assert [region["label"] for region in row["regions"]] == ([1, 2] if background else [1, 2, 3])
    stack = np.stack([mask_of(region) for region in row["regions"]])
    assert stack.sum(axis=0).max() == 1
    assert bool(stack.any(axis=0).all()) is not background
    for region, mask in zip(row["regions"], stack, strict=True):
        assert region["area_fraction"] == pytest.approx(mask.mean())
        ys, xs = np.nonzero(mask)
        assert region["bbox_xyxy"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    inside, corner = (stack[:, y, x].argmax() if stack[:, y, x].any() else -1 for y, x in ((72, 96), (5, 200)))
    assert inside != corner


def test_an_image_of_one_colour_has_no_regions(tmp_path: Path) -> None:
    flat = save(tmp_path, "flat.png", np.full((160, 208, 3), 90, np.uint8))
    (output,) = run(worker_of(regions=3), shard_of([flat]))
    assert output.rows.to_pylist()[0]["regions"] == []
    (without,) = run(worker_of(), shard_of([flat]))
    assert without.rows.to_pylist()[0]["regions"] is None


def test_repeats_report_mean_and_deviation_over_heads_with_other_seeds(tmp_path: Path) -> None:
    truth = np.zeros((160, 208), dtype=np.uint8)
    truth[DISC] = 255
    shard = shard_of([save(tmp_path, "a.png", picture())], truth=[save(tmp_path, "truth.png", truth)])
    worker = worker_of(repeats=3, kappa=2.0)
    (output,) = run(worker, shard)
    fold = SegmentFold(3)
    metrics = fold.result(output.statistics)
    states = [output.statistics["scores"], *output.statistics["others"]]
    ious = [state["iou_sum"] for state in states]
    assert metrics["repeats"] == 3
    assert metrics["iou_per_image_mean"] == ious[0]
    spread = metrics["over_repeats"]["iou_per_image_mean"]
    assert spread["mean"] == pytest.approx(np.mean(ious))
    assert spread["std"] == pytest.approx(np.std(ious, ddof=1))
    (alone,) = run(worker_of(kappa=2.0), shard)
    assert alone.statistics["scores"]["iou_sum"] == ious[0]
    assert "repeats" not in SegmentFold().result(alone.statistics)


def test_a_bad_image_does_not_cost_its_neighbours(tmp_path: Path) -> None:
    good = save(tmp_path, "good.jpg", picture())
    truncated = tmp_path / "truncated.jpg"
    truncated.write_bytes(Path(good).read_bytes()[:900])
    text = tmp_path / "text.jpg"
    text.write_text("these are words")
    dot = save(tmp_path, "dot.png", picture()[:1, :1])
    rgba = save(tmp_path, "rgba.png", np.dstack([picture(), np.full((160, 208), 200, np.uint8)]))
    missing = str(tmp_path / "missing.png")
    uris = [good, str(truncated), str(text), dot, rgba, missing]
    (output,) = run(worker_of(), shard_of(uris))
    rows = output.rows.to_pylist()
    assert [row["image_id"] for row in rows] == [Path(uri).name for uri in uris]
    assert [row["status"] for row in rows] == ["ok", "failed", "failed", "failed", "ok", "failed"]
    assert [row["error_type"] for row in rows][1:4] == ["truncated", "not_an_image", "too_small"]
    assert rows[5]["error_type"] == "not_found"
    assert all(row["error"] and row["failed_step"] and row["mask_rle"] is None for row in rows if row["error_type"])
    assert [len(arrays) for arrays in output.attachments] == [2, 0, 0, 0, 2, 0]


def test_an_image_comes_out_the_same_alone_and_among_others(tmp_path: Path) -> None:
    uris = [save(tmp_path, f"{i}.png", picture(i)) for i in range(3)]
    (together,) = run(worker_of(batch_size=3), shard_of(uris))
    alone = run(worker_of(batch_size=1), *(shard_of([uri], i) for i, uri in enumerate(uris)))
    for i, output in enumerate(alone):
        (row,), other = output.rows.to_pylist(), together.rows.to_pylist()[i]
        assert row["mask_rle"] == other["mask_rle"]
        assert row["eigenvalues"] == pytest.approx(other["eigenvalues"], abs=1e-5)
        assert row["head_collapse"] == pytest.approx(other["head_collapse"], abs=1e-4)


def test_an_image_is_computed_to_the_same_bits_in_any_company(tmp_path: Path) -> None:
    uris = [save(tmp_path, f"{i}.png", picture(i)) for i in range(3)]
    worker = worker_of(eigenvectors="fp32")
    (forward,) = run(worker, shard_of(uris))
    (backward,) = run(worker, shard_of(uris[::-1]))
    assert forward.rows.to_pylist() == backward.rows.to_pylist()[::-1]
    for a, b in zip(forward.attachments, backward.attachments[::-1], strict=True):
        assert a["eigenvectors"].tobytes() == b["eigenvectors"].tobytes()


def test_shards_of_mixed_sizes_come_out_whole_and_in_order(tmp_path: Path) -> None:
    sizes = [(160, 208), (208, 160), (160, 208), (192, 192), (208, 160)]
    uris = [save(tmp_path, f"{i}.png", picture(i, size)) for i, size in enumerate(sizes)]
    outputs = run(worker_of(batch_size=2, k=5), shard_of(uris[:3], 0), shard_of(uris[3:], 1))
    assert [output.number for output in outputs] == [0, 1]
    rows = [row for output in outputs for row in output.rows.to_pylist()]
    assert [(row["height"], row["width"]) for row in rows] == sizes
    assert all(row["status"] == "ok" for row in rows)


def test_a_one_colour_image_has_an_empty_mask_and_no_confidence(tmp_path: Path) -> None:
    (output,) = run(worker_of(), shard_of([save(tmp_path, "grey.png", np.full((96, 96, 3), 90, np.uint8))]))
    (row,) = output.rows.to_pylist()
    assert row["status"] == "ok"
    assert not mask_of(row).any()
    assert row["bbox_xyxy"] is None
    assert row["confidence"] == 0
    assert row["degenerate"]


@pytest.mark.parametrize("k", [2, 15])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_one_colour_image_is_empty_under_a_network_too(
    tmp_path: Path, test_weights: Path, suffix: str, k: int
) -> None:
    weights = str(test_weights / "vit_tiny_patch16_224.supervised.safetensors")
    worker = worker_of(backbone="vit_tiny_patch16_224", weights=weights, block=8, k=k)
    uri = save(tmp_path, f"grey.{suffix}", np.full((96, 96, 3), 90, np.uint8))
    (output,) = run(worker, shard_of([uri]))
    (row,) = output.rows.to_pylist()
    assert (row["status"], row["degenerate"], row["confidence"], row["area_fraction"]) == ("ok", True, 0, 0)


def test_confidence_and_gap_do_not_depend_on_how_many_pairs_are_kept(tmp_path: Path) -> None:
    shard = shard_of([save(tmp_path, "a.png", picture())])
    few, many = (run(worker_of(k=k, solver="eigh"), shard)[0].rows.to_pylist()[0] for k in (2, 9))
    assert len(few["eigenvalues"]) == 2
    assert few["mask_rle"] == many["mask_rle"]
    assert few["confidence"] == pytest.approx(many["confidence"], abs=1e-4)
    assert few["spectral_gap"] == pytest.approx(many["spectral_gap"], abs=1e-5)
    assert many["spectral_gap"] == pytest.approx(many["eigenvalues"][2] - many["eigenvalues"][1], abs=1e-6)


def test_features_that_are_not_finite_fail_their_image_and_no_other(tmp_path: Path) -> None:
    uris = [save(tmp_path, f"{i}.png", picture(i)) for i in range(3)]
    truth = save(tmp_path, "truth.png", np.full((160, 208), 255, np.uint8))
    worker = worker_of(batch_size=3)
    backbone = worker.backbone

    class Broken:
        """The same backbone with one value of the second image's features spoilt, as a bad checkpoint does."""

        def __getattr__(self, name: str) -> Any:
            return getattr(backbone, name)

        def __call__(self, pictures: torch.Tensor) -> Any:
            features = backbone(pictures)
            features.descriptors[1, 7, 2] = torch.nan
            return features

    worker.backbone = Broken()
    (output,) = run(worker, shard_of(uris, truth=[truth] * 3))
    rows = output.rows.to_pylist()
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert rows[1]["error_type"] == "not_computable"
    assert output.statistics["scores"]["images_scored"] == 2


def test_waiting_images_are_computed_when_they_hold_too_many_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simsam_batch.workers import images as image_worker

    monkeypatch.setattr(image_worker, "_WAITING_BYTES", 330_000)
    sizes = [(160, 208), (208, 160), (160, 208), (192, 192), (160, 208), (208, 160)]
    uris = [save(tmp_path, f"{i}.png", picture(i, size)) for i, size in enumerate(sizes)]
    worker = worker_of(batch_size=16, k=5)
    batches: list[int] = []
    compute = worker._compute

    def counted(batch: list[Any], results: Any) -> None:
        batches.append(len(batch))
        compute(batch, results)

    worker._compute = counted
    (output,) = run(worker, shard_of(uris))
    assert output.rows.column("status").to_pylist() == ["ok"] * 6
    # 33,280 pixels an image, 36,864 the square one: the fourth goes over the limit, and so does the last.
    assert batches == [2, 2, 1, 1]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_a_batch_too_large_for_the_memory_is_halved_and_the_size_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    from simsam_batch.stages.segment import stage as segment_worker

    tried: list[int] = []
    compute = segment_worker.segment_batch

    def with_room_for_three(pictures: torch.Tensor, *rest: Any) -> Any:
        tried.append(len(pictures))
        if len(pictures) > 3:
            raise error("no memory for so many")
        return compute(pictures, *rest)

    monkeypatch.setattr(segment_worker, "segment_batch", with_room_for_three)
    shard = shard_of([save(tmp_path, f"{i}.png", picture(i)) for i in range(8)])
    worker = worker_of(batch_size=8, k=5)
    (output,) = run(worker, shard)
    assert output.rows.column("status").to_pylist() == ["ok"] * 8
    assert tried == [8, 4, 2, 2, 4, 2, 2]
    tried.clear()
    run(worker, shard)
    assert tried == [2, 2, 2, 2]


def test_it_is_stored_which_patches_were_left_out_of_the_graph(tmp_path: Path) -> None:
    class Spiked(Descriptors):
        def __call__(self, images: torch.Tensor) -> Features:
            features = super().__call__(images)
            features.norms[:, [7, 60]] = 500.0
            return features

    worker = worker_of(island_share=0.0)
    worker.backbone = Spiked()
    (output,) = run(worker, shard_of([save(tmp_path, "a.png", picture())]))
    ((row,), (arrays,)) = output.rows.to_pylist(), output.attachments
    assert (arrays["outside"].shape, arrays["outside"].dtype) == ((10 * 13,), np.bool_)
    assert np.flatnonzero(arrays["outside"]).tolist() == [7, 60]
    assert (row["outlier_tokens"], row["island_patches"]) == (2, 0)
    (without,) = run(worker_of(eigenvectors="none"), shard_of([save(tmp_path, "a.png", picture())]))
    assert without.attachments[0] == {}


def test_an_image_too_large_for_the_memory_fails_the_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simsam_batch.stages.segment import stage as segment_worker

    def without_room(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no memory at all")

    monkeypatch.setattr(segment_worker, "segment_batch", without_room)
    with pytest.raises(torch.OutOfMemoryError):
        run(worker_of(), shard_of([save(tmp_path, "a.png", picture())]))


def test_truth_of_another_size_is_said_in_the_row_and_scores_nothing(tmp_path: Path) -> None:
    truth = save(tmp_path, "truth.png", np.zeros((160, 207), np.uint8))
    (output,) = run(worker_of(), shard_of([save(tmp_path, "a.png", picture())], truth=[truth]))
    (row,) = output.rows.to_pylist()
    assert row["status"] == "ok"
    assert row["iou"] is None
    assert "160" in row["truth_error"]
    assert "207" in row["truth_error"]
    assert output.statistics["truth_errors"] == 1
    assert output.statistics["scores"]["images_scored"] == 0


def test_more_eigenpairs_than_the_graph_has_are_cut_to_what_there_is(tmp_path: Path) -> None:
    uri = save(tmp_path, "a.png", picture(size=(160, 208))[:48, 48:112])
    (output,) = run(worker_of(k=40, island_share=0.0), shard_of([uri]))
    (row,) = output.rows.to_pylist()
    assert row["status"] == "ok"
    assert len(row["eigenvalues"]) == 3 * 4
    assert output.attachments[0]["eigenvectors"].shape == (12, 12)


def test_the_size_of_patches_is_the_backbones_and_never_guessed(tmp_path: Path) -> None:
    """Their number does not tell: 20 x 26 patches of 8 pixels are as many as 10 x 13 of 16 on a grid twice as fine."""
    worker = worker_of(head="none", cut="fixed")
    worker.backbone = Descriptors(8)
    ((row,),) = (output.rows.to_pylist() for output in run(worker, shard_of([save(tmp_path, "a.png", picture())])))
    assert (row["grid_h"], row["grid_w"], row["patch"]) == (20, 26, 8)
    mask = mask_of(row)
    assert mask.shape == (160, 208)
    # The square is 8 x 8 patches, of which a median of 3 x 3 takes the four in the corners.
    truth = np.zeros((160, 208), bool)
    truth[DISC] = True
    assert (mask & truth).sum() / (mask | truth).sum() >= 60 / 64
    assert row["bbox_xyxy"] == [64, 40, 128, 104]


def test_each_image_of_a_batch_is_scored_with_its_own_maps(tmp_path: Path) -> None:
    uris, truths = [], []
    for i in range(2):
        truth = np.zeros((160, 208), np.uint8)
        truth[DISC] = 255
        # The second image has its object at the other side.
        uris.append(save(tmp_path, f"{i}.png", picture(i)[:, :: 1 - 2 * i]))
        truths.append(save(tmp_path, f"truth {i}.png", truth[:, :: 1 - 2 * i]))
    (together,) = run(worker_of(head="none", batch_size=2), shard_of(uris, truth=truths))
    singly = worker_of(head="none", batch_size=1)
    shards = (shard_of([uri], i, [truth]) for i, (uri, truth) in enumerate(zip(uris, truths, strict=True)))
    alone = [output.statistics["scores"] for output in run(singly, *shards)]
    scores = together.statistics["scores"]
    for name in ("intersection", "union", "correct", "pixels", "soft_maps"):
        assert scores[name] == alone[0][name] + alone[1][name]
    for name in ("precision_sum", "recall_sum"):
        assert scores[name] == pytest.approx(np.add(alone[0][name], alone[1][name]), abs=0.02)


def test_a_grid_over_the_limit_is_a_failed_image(tmp_path: Path) -> None:
    (output,) = run(worker_of(max_patches=100), shard_of([save(tmp_path, "a.png", picture())]))
    (row,) = output.rows.to_pylist()
    assert row["status"] == "failed"
    assert "10x13 patches" in row["error"]


@pytest.mark.parametrize("preset", presets_of(SegmentSettings))
def test_every_preset_runs(tmp_path: Path, preset: str) -> None:
    (output,) = run(worker_of(preset=preset, resize="native", epochs=1), shard_of([save(tmp_path, "a.png", picture())]))
    assert output.rows.column("status").to_pylist() == ["ok"]


@pytest.mark.parametrize("color", ["knn", "random-walk"])
def test_a_colour_term_changes_the_graph(tmp_path: Path, color: str) -> None:
    shard = shard_of([save(tmp_path, "a.png", picture())])
    (plain,) = run(worker_of(head="none"), shard)
    (tinted,) = run(worker_of(head="none", color=color, color_weight=1.0), shard)
    assert tinted.rows["eigenvalues"].to_pylist() != plain.rows["eigenvalues"].to_pylist()


def test_the_seed_of_an_image_depends_on_its_id_and_the_run_alone() -> None:
    # sha256("7:a.png") begins with these eight bytes; the lowest bit goes, so that the seed fits 63 bits.
    import hashlib

    expected = int(hashlib.sha256(b"7:a.png").hexdigest()[:16], 16) // 2
    assert image_seed(7, "a.png") == expected
    assert image_seed(8, "a.png") != expected
    assert 0 <= expected < 2**63


def dsm_reference(features: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Deep Spectral Methods' eigenproblem (D - W) v = mu D v, dense and in fp64."""
    rows = features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    w = np.maximum(rows @ rows.T, 0)
    w /= w.max()
    d = np.diag(w.sum(1))
    values, vectors = scipy.linalg.eigh(d - w, d, subset_by_index=(0, k - 1))
    return values, vectors.T


def sine_of_largest_angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sin(scipy.linalg.subspace_angles(a.T.astype(np.float64), b.T).max()))


def test_without_a_head_a_real_image_gives_what_deep_spectral_methods_computes(
    test_data: Path, test_weights: Path
) -> None:
    torch.set_num_threads(1)
    uri = min((test_data / "weizmann_horses" / "images").glob("*"))
    weights = test_weights / "vit_tiny_patch16_224.supervised.safetensors"
    worker = worker_of(
        preset="dsm",
        backbone="vit_tiny_patch16_224",
        weights=str(weights),
        resize="short:384",
        k=6,
        eigenvectors="fp32",
    )
    (output,) = run(worker, shard_of([str(uri)]))
    (row,) = output.rows.to_pylist()

    import timm
    from safetensors.torch import load_file

    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=1000, dynamic_img_size=True)
    model.load_state_dict(load_file(weights))
    model.eval()
    held: list[torch.Tensor] = []
    model.blocks[-1].attn.qkv.register_forward_hook(lambda _m, _i, out: held.append(out.detach()))
    rgb = Image.open(io.BytesIO(uri.read_bytes())).convert("RGB")
    scale = 384 / min(rgb.size)
    resized = rgb.resize((round(rgb.width * scale), round(rgb.height * scale)), Image.Resampling.BICUBIC)
    rows, columns = resized.height // 16, resized.width // 16
    pixels = np.asarray(resized, dtype=np.float32)[: rows * 16, : columns * 16] / 255
    with torch.no_grad():
        model(torch.from_numpy((pixels - 0.5) / 0.5).permute(2, 0, 1)[None])
    keys = held[0][0, 1:, 192:384].numpy()
    values, vectors = dsm_reference(keys, 6)

    assert (row["grid_h"], row["grid_w"]) == (rows, columns)
    np.testing.assert_allclose(row["eigenvalues"], values, atol=1e-5)
    gaps = np.diff(values)
    cut = int(np.argmax(gaps[1:])) + 2
    ours = output.attachments[0]["eigenvectors"]
    assert sine_of_largest_angle(ours[:cut], vectors[:cut]) < 1e-2
    expected = vectors[1] > 0 if (vectors[1] > 0).mean() <= 0.5 else vectors[1] < 0
    patches = ours[1] > 0
    assert np.array_equal(patches, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_finds_the_same_masks_as_the_cpu(tmp_path: Path) -> None:
    shard = shard_of([save(tmp_path, f"{i}.png", picture(i)) for i in range(4)])
    (cpu,) = run(worker_of(), shard)
    (gpu,) = run(worker_of(device="cuda"), shard)
    for ours, theirs in zip(cpu.rows.to_pylist(), gpu.rows.to_pylist(), strict=True):
        same = mask_of(ours) == mask_of(theirs)
        assert same.mean() > 0.99
        assert ours["eigenvalues"] == pytest.approx(theirs["eigenvalues"], abs=1e-3)
