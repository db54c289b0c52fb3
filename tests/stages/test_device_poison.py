"""Errors after which a GPU answers nothing more in its process, told from those that pass; without a GPU."""

from __future__ import annotations

import pytest
import torch

from simsam_batch.errors import DevicePoisonedError
from simsam_batch.workers.images import _poison_told

CUDA = torch.device("cuda")


def synchronize_that_raises(device: torch.device) -> None:
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def test_an_error_after_which_the_device_answers_nothing_is_told_with_its_first_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize_that_raises)
    with pytest.raises(DevicePoisonedError, match="RuntimeError: cuBLAS failed"), _poison_told(CUDA):
        raise RuntimeError("cuBLAS failed")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ValueError("of no device")])
def test_an_error_after_which_the_device_answers_stays_what_it_is(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", asked.append)
    with pytest.raises(type(error)) as caught, _poison_told(CUDA):
        raise error
    assert caught.value is error
    assert asked == [CUDA]


def test_a_worker_without_a_gpu_asks_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize_that_raises)
    with pytest.raises(ValueError, match="of no device"), _poison_told(torch.device("cpu")):
        raise ValueError("of no device")
