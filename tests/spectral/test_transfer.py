"""What is uploaded arrives as it was."""

from __future__ import annotations

import pytest
import torch

from simsam_batch.spectral.transfer import upload


def test_on_the_cpu_nothing_is_copied() -> None:
    numbers = torch.arange(6.0).view(2, 3).mT
    assert upload(numbers, torch.device("cpu")) is numbers


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gets_the_same_numbers_also_if_the_source_is_forgotten_at_once() -> None:
    device = torch.device("cuda")
    uploaded = [upload(torch.full((1000, 1000), float(number)), device) for number in range(20)]
    assert all(tensor.is_cuda and (tensor == number).all() for number, tensor in enumerate(uploaded))
