"""From the forward pass to the rows: how much a GPU is given to do, and how often the host waits for it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from pretend_gpu import CountedNumPy, OnDevice, PretendGpu

from simsam_batch.features.contract import Features
from simsam_batch.features.descriptors import Descriptors
from simsam_batch.settings import resolve
from simsam_batch.spectral import eigen, laplacian
from simsam_batch.spectral.paths import Paths
from simsam_batch.stages.segment.segmentation import Segmented, segment_batch
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.workers.timer import Timer

GRID, EPOCHS = (10, 13), 2
WAITS = 9
"""What the docstring of `segment_batch` says of a batch of any size."""

MORE_KERNELS = 4
"""torch copies a few tensors that need no copy where the batch axis has length one."""


class Forward(Descriptors):
    """Makes one patch an outlier, and ends with a fresh count: only what follows the forward pass counts."""

    def __init__(self, gpu: PretendGpu | None = None) -> None:
        super().__init__()
        self.gpu = gpu

    def __call__(self, images: torch.Tensor) -> Features:
        features = super().__call__(images)
        features.norms[:, 5] = 50.0
        if self.gpu is not None:
            self.gpu.clear()
        return features


def picture(seed: int = 0) -> np.ndarray:
    """A red square on green noise."""
    pixels = np.zeros((160, 208, 3), dtype=np.uint8)
    pixels[..., 1] = np.random.default_rng(seed).integers(90, 140, (160, 208))
    pixels[40:104, 64:128] = (200, 30, 30)
    return pixels


def settings_of(solver: str, **others: Any) -> SegmentSettings:
    given = {"backbone": "descriptors", "epochs": EPOCHS, "solver": solver, "head_precision": "fp32"}
    return resolve(SegmentSettings, given | others)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PretendGpu:
    """A pretended GPU, with NumPy in the place of CuPy."""
    gpu = PretendGpu()

    @contextmanager
    def numpy_for_cupy(_: str, like: torch.Tensor) -> Iterator[tuple[Any, Any]]:
        yield CountedNumPy(gpu), lambda tensor: gpu.counted("from_dlpack", tensor.held.numpy())

    def back(array: np.ndarray) -> torch.Tensor:
        return gpu.put(torch.from_numpy(np.array(array.view(np.ndarray))))

    monkeypatch.setattr(eigen, "array_library", numpy_for_cupy)
    monkeypatch.setattr(eigen, "paths_on", lambda device: Paths("cupy", "torch"))
    monkeypatch.setattr("torch.utils.dlpack.from_dlpack", back)
    monkeypatch.setattr(torch.cuda, "current_stream", gpu.current_stream)
    torch.set_num_threads(1)
    return gpu


def segmented(gpu: PretendGpu, batch: int, settings: SegmentSettings) -> Segmented:
    """``batch`` copies of one image, so that nothing which depends on the data differs between batches."""
    images = torch.from_numpy(np.stack([picture()] * batch))
    with gpu:
        return segment_batch(gpu.put(images), GRID, [7] * batch, Forward(gpu), settings, Timer(torch.device("cpu")))


@pytest.mark.parametrize("solver", ["eigh", "block-lanczos"])
def test_the_pretended_gpu_finds_what_the_cpu_finds(gpu: PretendGpu, solver: str) -> None:
    found = segmented(gpu, 2, settings_of(solver))
    images = torch.from_numpy(np.stack([picture()] * 2))
    timer = Timer(torch.device("cpu"))
    expected = segment_batch(images, GRID, [7, 7], Forward(), settings_of("arpack"), timer)
    assert found.solver == [solver] * 2
    assert not any(isinstance(getattr(found, name), OnDevice) for name in Segmented.__slots__)
    assert torch.equal(found.masks, expected.masks)
    assert found.masks.any()
    assert torch.allclose(found.values, expected.values, atol=1e-4)
    assert found.outliers.tolist() == [1, 1]


@pytest.mark.parametrize("solver", ["eigh", "block-lanczos"])
def test_eight_images_need_no_more_kernels_and_waits_than_one(gpu: PretendGpu, solver: str) -> None:
    counts = []
    for batch in (1, 8):
        segmented(gpu, batch, settings_of(solver))
        counts.append((gpu.kernels.copy(), gpu.waits.copy(), gpu.draws.copy()))
    (kernels, waits, draws), (of_eight, waits_of_eight, draws_of_eight) = counts
    assert sum((of_eight - kernels).values()) <= MORE_KERNELS, of_eight - kernels
    assert waits_of_eight == waits
    # An affine; matrix and bias of two layers; one permutation an epoch: on the host, from the image's own generator.
    assert draws == {"rand": 1, "uniform_": 4, "randperm": EPOCHS}
    assert draws_of_eight == {name: 8 * count for name, count in draws.items()}


@pytest.mark.parametrize("solver", ["eigh", "block-lanczos"])
@pytest.mark.parametrize("batch", [1, 8])
def test_the_host_waits_as_often_as_the_docstring_says(gpu: PretendGpu, solver: str, batch: int) -> None:
    segmented(gpu, batch, settings_of(solver))
    assert gpu.waits.total() <= WAITS, gpu.waits
    assert gpu.waits["synchronize"] == 1
    assert f"at most {WAITS} times" in " ".join(str(segment_batch.__doc__).split())


@pytest.mark.parametrize("length", [20, 130])
def test_long_chains_of_patches_cost_no_more_waits(gpu: PretendGpu, length: int) -> None:
    w = torch.zeros((2, 130, 130))
    w[:, range(length - 1), range(1, length)] = 1.0
    with gpu:
        found = laplacian.components(gpu.put(w + w.mT), gpu.put(torch.ones((2, 130), dtype=torch.bool)), above=0.5)
    assert gpu.waits.total() == 1, gpu.waits
    # The chain is one component, every other patch is its own.
    assert found[1].held.tolist() == [1 + 130 - length] * 2


@pytest.mark.parametrize("rings", [0, 1, 9])
def test_rings_of_left_out_patches_cost_no_more_waits(gpu: PretendGpu, rings: int) -> None:
    valid = torch.zeros((2, 100), dtype=torch.bool)
    valid[:, : 100 - 10 * rings] = True
    with gpu:
        filled = laplacian.fill_left_out(gpu.put(torch.ones((2, 3, 100))), gpu.put(valid), (10, 10))
    assert gpu.waits.total() == 1, gpu.waits
    assert (filled.held == 1).all()


def test_steps_on_a_gpu_are_timed_by_events_and_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, waited = itertools.count(), list[int]()

    class Event:
        """An event that happens a second after the one before."""

        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "the stream of cuda"
            self.at = next(clock)

        def synchronize(self) -> None:
            waited.append(self.at)

        def elapsed_time(self, end: Event) -> float:
            assert end.at in waited
            return 1000.0 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    timer = Timer(torch.device("cuda"))
    with timer.step("head"), timer.step("affinity"):
        pass
    with timer.step("head"):
        pass
    assert not waited
    assert not timer.seconds
    # The outer step lasts from 0 to 3, the one inside from 1 to 2, the last from 4 to 5.
    assert timer.take() == {"head": 3.0 + 1.0, "affinity": 1.0}
    assert timer.take() == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("batch", [1, 8])
def test_a_gpu_waits_as_often_as_the_docstring_says(batch: int) -> None:
    images = torch.from_numpy(np.stack([picture()] * batch)).cuda()
    timer, settings = Timer(images.device), settings_of("eigh")

    class Strict(Forward):
        """After the forward pass, torch warns of every call that waits."""

        def __call__(self, images: torch.Tensor) -> Features:
            features = super().__call__(images)
            torch.cuda.set_sync_debug_mode("warn")
            return features

    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        try:
            found = segment_batch(images, GRID, [7] * batch, Strict(), settings, timer)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert 0 < sum("synchroniz" in str(each.message) for each in waits) <= WAITS
    assert found.masks.is_pinned()
    expected = segment_batch(images.cpu(), GRID, [7] * batch, Forward(), settings, Timer(torch.device("cpu")))
    assert torch.equal(found.masks, expected.masks)
    assert timer.seconds.keys() >= {"forward", "head", "affinity", "eigen", "masks"}
