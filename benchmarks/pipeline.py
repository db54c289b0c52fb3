"""Whole batches and whole runs: what the steps after the network cost, mixed sizes, `segment` end to end."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import material, upstream
from benchmarks.measure import Row, Setup, alternate, cores, ratios, seconds_of, threads
from simsam_batch import operations
from simsam_batch.features.backbones import load_backbone
from simsam_batch.features.vit import ViTBackbone
from simsam_batch.runs.schema import PLAN_FIELDS, Shard
from simsam_batch.stages.segment.segmentation import segment_batch
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.stages.segment.stage import SegmentStage, truth_of
from simsam_batch.telling.console import reporter
from simsam_batch.workers.models import resolve_models
from simsam_batch.workers.timer import Timer

AFTER_FORWARD = ("head", "affinity", "eigen", "masks")
RANDOM = "ViT-S/16 with random weights"


def backbone(setup: Setup, folder: Path, precision: Any = "fp32") -> ViTBackbone:
    """ViT-S/16 with random weights on the device."""
    file = material.write_random_weights(folder)
    return load_backbone(material.VIT_SMALL, weights=file, device=str(setup.device), precision=precision)


def rows(setup: Setup) -> Iterator[Row]:
    """One row for the steps after the forward pass, one for mixed sizes, three for whole runs."""
    with tempfile.TemporaryDirectory(prefix="simsam-bench-") as name:
        folder = Path(name)
        yield from _after_forward(setup, folder)
        yield _mixed_sizes(setup, folder)
        yield from _end_to_end(setup, folder)


def _settings(setup: Setup, folder: Path, **changed: Any) -> SegmentSettings:
    """The defaults, but for the weights and, to try things out, the size."""
    file = str(material.write_random_weights(folder))
    small: dict[str, Any] = {"resize": "short:64", "workers": 1, "engine": "inline"} if setup.smoke else {}
    device: dict[str, Any] = {"device": setup.device.type, "backbone": material.VIT_SMALL, "weights": file}
    return SegmentSettings(**(device | small | changed))


def _pictures(count: int, resize: str) -> tuple[Tensor, tuple[int, int]]:
    files = material.photographs().files
    loaded = [material.pixels(files[i % len(files)], resize) for i in range(count)]
    return torch.stack([picture for picture, _ in loaded]), loaded[0][1]


def _after_forward(setup: Setup, folder: Path) -> Iterator[Row]:
    batch, rounds = setup.pick(cpu=(1, 6), cuda=(64, 5), smoke=(1, 1))
    resize = "96x96" if setup.smoke else "480x480"
    for precision in ("fp32", "bf16") if setup.cuda else ("fp32",):
        network = backbone(setup, folder, precision)
        settings = SegmentSettings()
        found: list[dict[str, float]] = []
        with threads(settings.threads):
            for i in range(-1, rounds):
                files = material.photographs().files
                loaded = [material.pixels(files[(i * batch + j) % len(files)], resize) for j in range(batch)]
                pictures = torch.stack([picture for picture, _ in loaded]).to(setup.device)
                timer = Timer(setup.device)
                segment_batch(pictures, loaded[0][1], range(batch), network, settings, timer)
                if i >= 0:
                    found.append({step: s / batch for step, s in timer.seconds.items()})
        after = [sum(each.get(step, 0.0) for step in AFTER_FORWARD) for each in found]
        forward = [each["forward"] for each in found]
        total = sum(sum(each.values()) for each in found)
        shares = {step: sum(each.get(step, 0.0) for each in found) / total for step in found[0]}
        words = ", ".join(f"{step} {share:.0%}" for step, share in shares.items())
        yield Row(
            "pipeline",
            f"after the forward pass over the forward pass, {resize}, batch of {batch}",
            "head + affinity + eigen + masks",
            f"{precision} forward pass",
            ratios(after, forward),
            statistics.median(after),
            statistics.median(forward),
            threads=f"{settings.threads} each",
            target=1.0 if not setup.cuda else None,
            at_most=True,
            note=f"{RANDOM}, up to the keys of its last block. Shares: {words}",
            details={"shares": shares},
        )
        if setup.cuda:
            milliseconds = [1e3 * s for s in after]
            yield Row(
                "pipeline",
                f"milliseconds an image after the {precision} forward pass, {resize}, batch of {batch}",
                "head + affinity + eigen + masks",
                "one millisecond",
                milliseconds,
                statistics.median(after),
                1e-3,
                target=1.2,
                at_most=True,
                note=RANDOM,
            )


def _worker_run(settings: SegmentSettings, files: list[Path]) -> Callable[[], None]:
    """What runs one shard of photographs through a worker that has its backbone already."""
    stage = SegmentStage(settings, {"models": resolve_models(["backbone"], settings), "truth": truth_of({})})
    worker = stage.make_worker(lambda: None)
    records = [{"image_id": file.name, "uri": str(file)} for file in files]
    table = pa.Table.from_pylist(records, pa.schema(PLAN_FIELDS))

    def run() -> None:
        for output in worker.run(iter([Shard(0, table)])):
            failed = [row for row in output.rows.to_pylist() if row["status"] != "ok"]
            if failed:
                raise RuntimeError(f"a benchmark's image failed: {failed[0]['error']}")

    return run


def _mixed_sizes(setup: Setup, folder: Path) -> Row:
    count, rounds = setup.pick(cpu=(8, 3), cuda=(109, 3), smoke=(2, 1))
    every = material.photographs().files
    files = every[:: max(1, len(every) // count)][:count]
    mixed = _settings(setup, folder, resize="short:64" if setup.smoke else "short:384")
    grids = [material.pixels(file, mixed.resize)[1] for file in files]
    height = min(min(grid) for grid in grids)
    width = round(statistics.mean(h * w for h, w in grids) / height)
    equal = _settings(setup, folder, resize=f"{height * material.PATCH}x{width * material.PATCH}")
    with threads(mixed.threads):
        actions = {"mixed": _worker_run(mixed, files), "equal": _worker_run(equal, files)}
        found = alternate(actions, setup, rounds=rounds, warm=setup.cuda)
    return Row(
        "pipeline",
        "images/s on mixed sizes over images/s on equal sizes of the same mean area",
        f"{len(set(grids))} grids, {statistics.mean(h * w for h, w in grids):.0f} patches on average",
        f"one grid of {height}x{width} = {height * width} patches",
        ratios(found["equal"], found["mixed"]),
        statistics.median(found["mixed"]) / len(files),
        statistics.median(found["equal"]) / len(files),
        threads=f"{mixed.threads} each, and those that decode ahead",
        target=0.7,
        note=f"{len(files)} images ({material.photographs().source}) at {mixed.resize}, one worker; {RANDOM}",
    )


@contextmanager
def _folder_of(files: list[Path]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="simsam-bench-") as name:
        for file in files:
            shutil.copy(file, name)
        yield Path(name)


def _upstream_image(setup: Setup, network: ViTBackbone, file: Path, resize: str) -> float:
    """Seconds for one image from file to mask with upstream's settings; one epoch of the head stands for all.

    Every step counts with the faster of one thread and all cores: tiny products gain nothing from a second thread, and
    lose much where other work has the second core.
    """

    def fastest(step: Callable[[], None]) -> float:
        found = []
        for count in {1, cores()}:
            with threads(count):
                found.append(seconds_of(step, setup))
        return min(found)

    def describe() -> None:
        picture, _ = material.pixels(file, resize)
        with torch.inference_mode():
            described = network(material.normalized(picture[None].to(setup.device), network)).descriptors[0]
        state["features"] = functional.normalize(described.clone(), dim=-1)

    def train() -> None:
        # The cost does not depend on what the second view shows.
        features = state["features"]
        state["head"].train(features, features.roll(1, 0), epochs=1)

    def solve() -> None:
        w = upstream.affinity(state["features"], state["head"](state["features"]))
        _, vectors = upstream.eigenpairs(w, SegmentSettings().k)
        state["mask"] = vectors[:, 1] > 0

    state: dict[str, Any] = {"head": upstream.Head(network.channels, setup.device)}
    return fastest(describe) + upstream.EPOCHS * fastest(train) + fastest(solve)


def _end_to_end(setup: Setup, folder: Path) -> Iterator[Row]:
    count, by_loop, in_forward, rounds = setup.pick(cpu=(32, 2, 4, 2), cuda=(109, 4, 64, 2), smoke=(2, 1, 2, 1))
    files = material.photographs().files[:count]
    settings = _settings(setup, folder, quiet=True)
    resize = "64x96" if setup.smoke else "384x528"
    network = backbone(setup, folder)
    forward_input = material.normalized(_pictures(in_forward, resize)[0].to(setup.device), network)
    workers = 1 if setup.cuda or setup.smoke else max(1, cores() // settings.threads)
    walls, busy, loops, forwards, waits = [], [], [], [], []
    with _folder_of(files) as images:
        for i in range(rounds):
            with reporter("text", quiet=True) as report:
                started = time.perf_counter()
                result = operations.run("segment", str(images), str(folder / f"run-{i}"), settings, report)
                walls.append((time.perf_counter() - started) / len(files))
            if result is None or result["failed"]:
                raise RuntimeError(f"the run of the benchmark failed on some images: {result}")
            busy.append(result["seconds"] / len(files))
            steps = result["seconds_by_step"]
            waits.append(steps.get("wait", 0.0) / sum(steps.values()))
            mine = [files[(i * by_loop + j) % len(files)] for j in range(by_loop)]
            loops.append(statistics.mean(_upstream_image(setup, network, f, settings.resize) for f in mine))
            with threads(cores()), torch.inference_mode():
                network(forward_input[:1])
                forwards.append(seconds_of(lambda: network(forward_input), setup) / in_forward)
    source = f"{len(files)} images ({material.photographs().source}) at {settings.resize}, {RANDOM}"
    used = f"{workers} workers of {settings.threads}; peer 1 or {cores()}, the faster"
    per_image, alone = statistics.median(walls), statistics.median(busy)
    yield Row(
        "pipeline",
        "`segment` end to end, processes' start and all files included",
        f"simsam segment, {workers} workers",
        "one image at a time: fp32 forward, 2-patch autograd head, eigsh(sigma=0)",
        ratios(loops, walls),
        per_image,
        statistics.median(loops),
        threads=used,
        target=100.0 if setup.cuda else 5.0,
        note=f"{source}; {by_loop} images a round by the loop, 1 of its {upstream.EPOCHS} epochs measured and scaled; "
        f"the loop's start and its second view are not counted. Without the start ours takes {alone:.2f} s an image",
        details={"ours_seconds_without_start": alone, "ratio_without_start": statistics.median(ratios(loops, busy))},
    )
    yield Row(
        "pipeline",
        "images/s of `segment` over images/s of the forward pass alone",
        f"simsam segment, {workers} workers",
        f"fp32 forward pass alone, batch of {in_forward}, {resize}",
        ratios(forwards, walls),
        per_image,
        statistics.median(forwards),
        threads=used,
        note=source,
        details={"ratio_without_start": statistics.median(ratios(forwards, busy))},
    )
    yield Row(
        "pipeline",
        "share of the workers' time in which the device waits for images",
        "wait",
        "all steps",
        waits,
        threads=f"{workers} workers of {settings.threads}",
        target=0.1,
        at_most=True,
        note=f"{source}; the first image of each worker counts as waiting",
        details={"seconds_by_step": steps},
    )
