"""The host's work for an image, with the device's replaced by stored results: what a GPU would have to wait for."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import material
from benchmarks.measure import threads
from simsam_batch import images
from simsam_batch.operations import segment
from simsam_batch.runs.ledger import Ledger
from simsam_batch.scores import overlap
from simsam_batch.settings import FeatureSettings
from simsam_batch.stages.segment import stage as segment_stage
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.telling.console import reporter
from simsam_batch.workers import records

GROUP = "host"
DEVICE_S = 0.7e-3
"""What the stand-in for a device takes for an image: about what is expected of a large GPU."""

_MEGAPIXELS = (0.2, 0.35, 2.0, 12.0, 24.0)
_TYPICAL, _PHONE = 0.35, 12.0
_QUALITY = 90
_NOISE = 4.0
_SCALED = "decode" in FeatureSettings.model_fields


class Clock:
    """Adds up the processor time of named steps, in whichever thread they run; of steps within steps, the inner one's.

    Attributes:
        seconds: by step.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock, self._inside = threading.Lock(), threading.local()

    def timed(self, name: str, action: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, counted."""

        def run(*arguments: Any, **named: Any) -> Any:
            stack: list[float] = self._inside.__dict__.setdefault("stack", [])
            stack.append(0.0)
            began = time.thread_time()
            try:
                return action(*arguments, **named)
            finally:
                took = time.thread_time() - began
                inner = stack.pop()
                if stack:
                    stack[-1] += took
                with self._lock:
                    self.seconds[name] += took - inner

        return run


_STEPS: Sequence[tuple[str, Any, str]] = (
    ("fetch", images, "fetch"),
    ("decode", images, "decode"),
    ("resize", images, "prepare_decoded"),
    ("truth", segment_stage.SegmentWorker, "load_truth"),
    ("sums of the truth", overlap, "count_truth"),
    ("encode", segment_stage.SegmentWorker, "encode"),
    ("boundary", segment_stage, "boundary_iou"),
    ("run lengths", segment_stage, "run_lengths"),
    ("rows", records, "table_of"),
    ("commit", Ledger, "commit"),
)


@contextmanager
def measured(device_s: float = 0.0) -> Iterator[dict[str, Any]]:
    """Within it, workers of `segment` take stored results for what a device would compute, and their time is counted.

    Args:
        device_s: what the device takes for an image meanwhile, holding no lock.

    Yields:
        ``steps``: processor seconds by step; ``device_thread``: those of the thread that drives the device; ``busy``:
        from when to when it was busy, for every batch.
    """
    worker = segment_stage.SegmentWorker
    computing, running = worker.compute, worker.run
    clock, found = Clock(), {"device_thread": 0.0, "busy": []}
    found["steps"] = clock.seconds

    def compute(self: Any, pictures: torch.Tensor, grid: tuple[int, int], seeds: Sequence[int]) -> Any:
        began = time.perf_counter()
        stored = _STORED.get((grid, len(seeds)))
        if stored is None:
            stored = _STORED[grid, len(seeds)] = computing(self, pictures, grid, seeds)
            return stored
        time.sleep(device_s * len(seeds))
        found["busy"].append((began, time.perf_counter(), len(seeds)))
        return stored

    def run(self: Any, shards: Any) -> Iterator[Any]:
        began = time.thread_time()
        yield from running(self, shards)
        found["device_thread"] += time.thread_time() - began

    with ExitStack() as undo:
        for name, where, attribute in _STEPS:
            before = getattr(where, attribute)
            undo.callback(setattr, where, attribute, before)
            setattr(where, attribute, clock.timed(name, before))
        for attribute, action in (("compute", compute), ("run", run)):
            undo.callback(setattr, worker, attribute, getattr(worker, attribute))
            setattr(worker, attribute, action)
        # the truth reader has the whole module's
        yield found


_STORED: dict[tuple[tuple[int, int], int], Any] = {}


def write_set(folder: Path, megapixels: float, count: int, kind: str = "jpg") -> None:
    """Photographs of a size in ``images``, with a camera's noise, and masks of them in ``truth``."""
    chosen = material.photographs().files
    rng = np.random.default_rng(0)
    for name in ("images", "truth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        with Image.open(chosen[i * len(chosen) // count]) as opened:
            picture = opened.convert("RGB")
        # one grid for all: what is measured is the host's work, and not how batches fill
        width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
        size = width, round(width * 3 / 4)
        large = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), np.int16)
        noise = rng.normal(0, _NOISE, (*large.shape[:2], 1)).astype(np.int16)
        photograph = Image.fromarray((large + noise).clip(0, 255).astype(np.uint8))
        photograph.save(folder / "images" / f"{i:03}.{kind}", quality=_QUALITY)
        ys, xs = np.mgrid[: size[1], : size[0]]
        disc = ((ys / size[1] - 0.5) ** 2 + (xs / size[0] - 0.5) ** 2) < 0.04 + 0.01 * (i % 5)
        Image.fromarray(disc.astype(np.uint8) * 255).save(folder / "truth" / f"{i:03}.png")


def one_run(folder: Path, out: str, device_s: float = 0.0, **changed: Any) -> dict[str, Any]:
    """What a run of one process took, an image: ``cpu``, ``wall``, ``device_thread`` seconds, ``steps`` by name."""
    given: dict[str, Any] = {"backbone": "descriptors", "engine": "inline", "quiet": True, "batch_size": 8}
    settings = SegmentSettings(**(given | {"truth": str(folder / "truth")} | changed))
    count = len(list((folder / "images").iterdir()))
    with measured(device_s) as found, reporter("text", quiet=True) as report:
        segment(str(folder / "images"), out + "-warm", settings, report)
        found["steps"].clear()
        found["device_thread"], found["busy"][:] = 0.0, []
        began, cpu = time.perf_counter(), time.process_time()
        result = segment(str(folder / "images"), out, settings, report)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    if result is None or result["failed"]:
        raise RuntimeError(f"the run of the benchmark failed on some images: {result}")
    spans = found["busy"]
    busy = sum(end - begin for begin, end, _ in spans) / (spans[-1][1] - spans[0][0]) if spans else 0.0
    steps = {name: seconds / count for name, seconds in found["steps"].items()}
    thread = found["device_thread"] / count
    steps["else"] = cpu / count - sum(steps.values())
    return {"cpu": cpu / count, "wall": wall / count, "device_thread": thread, "busy": busy, "steps": steps}


if __name__ == "__main__":
    # a look: python -m benchmarks.host MEGAPIXELS COUNT
    mp, n = float(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory() as t, threads(1):
        write_set(Path(t) / "set", mp, n)
        r = one_run(
            Path(t) / "set", str(Path(t) / "out"), device_s=DEVICE_S, **eval(sys.argv[3] if len(sys.argv) > 3 else "{}")
        )
    print({k: round(1e3 * v, 2) if k != "busy" else round(v, 3) for k, v in r.items() if k != "steps"})
    print({k: round(1e3 * v, 2) for k, v in r["steps"].items()})
