"""Peak memory of one batch; each point is a process: ``python -m benchmarks.memory DEVICE B HEIGHT WIDTH``."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import material, pipeline
from benchmarks.measure import Row, Setup, in_own_process, peak_memory, start_new_peak, threads
from simsam_batch.stages.segment.segmentation import segment_batch
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.workers.timer import Timer

_MIB = 2**20


def rows(setup: Setup) -> Iterator[Row]:
    """Peak against B and N, in matrices of N x N float32 for each image."""
    points = setup.pick(
        cpu=[(1, 18, 25), (1, 30, 30), (4, 30, 30), (1, 40, 40), (1, 60, 60)],
        cuda=[(1, 30, 30), (16, 30, 30), (64, 30, 30), (1, 60, 60), (8, 60, 60)],
        smoke=[(1, 4, 6)],
    )
    for batch, height, width in points:
        found = in_own_process(setup, "benchmarks.memory", setup.device.type, batch, height, width)
        patches = height * width
        matrices = found["above"] / (4 * batch * patches**2)
        yield Row(
            "memory",
            f"B = {batch}, N = {patches}",
            f"peak of segment_batch: {found['above'] / _MIB:.0f} MiB above {found['before'] / _MIB:.0f} MiB",
            f"{batch} matrices of N x N float32: {4 * batch * patches**2 / _MIB:.0f} MiB",
            [matrices],
            threads="1",
            note=f"{'allocated device memory' if setup.cuda else 'resident memory'}; {pipeline.RANDOM}, fp32; "
            "the forward pass has its share of it. Bytes, not times",
            details=found,
        )


def measure(setup: Setup, batch: int, height: int, width: int) -> dict[str, int]:
    """Bytes in use before one batch, and how much higher its peak was."""
    with tempfile.TemporaryDirectory(prefix="simsam-bench-") as folder:
        network = pipeline.backbone(setup, Path(folder))
    files = material.photographs().files
    resize = f"{height * material.PATCH}x{width * material.PATCH}"
    pictures = torch.stack([material.pixels(files[i % len(files)], resize)[0] for i in range(batch)]).to(setup.device)
    settings = SegmentSettings()
    # What libraries set up once, at a size that needs next to nothing.
    small = pictures[:1, : 4 * material.PATCH, : 4 * material.PATCH]
    segment_batch(small, (4, 4), [0], network, settings, Timer(setup.device))
    before = _forget_peak(setup)
    with threads(1):
        segment_batch(pictures, (height, width), range(batch), network, settings, Timer(setup.device))
    return {"before": before, "above": _peak(setup) - before}


def _forget_peak(setup: Setup) -> int:
    """Start a new peak, since loading the network takes more than it leaves; returns where it starts."""
    if not setup.cuda:
        return start_new_peak()
    torch.cuda.reset_peak_memory_stats(setup.device)
    return _peak(setup)


def _peak(setup: Setup) -> int:
    return torch.cuda.max_memory_allocated(setup.device) if setup.cuda else peak_memory()


def of_words(device: str, *numbers: str) -> dict[str, int]:
    """`measure` by the words of the command line."""
    return measure(Setup(torch.device(device)), *map(int, numbers))


if __name__ == "__main__":
    print(json.dumps(of_words(*sys.argv[1:])))
