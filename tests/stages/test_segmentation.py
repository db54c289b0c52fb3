"""From settings to the batch of images: what is set reaches the code that it is about."""

from __future__ import annotations

import pytest
import torch

from simsam_batch.features.descriptors import Descriptors
from simsam_batch.stages.decomposition import Timer
from simsam_batch.stages.segment.segmentation import segment_batch
from simsam_batch.stages.segment.settings import SegmentSettings


@pytest.mark.parametrize("head", [{"head": "trained"}, {"head": "upstream-notebook", "center_head": False}])
def test_the_heads_precision_reaches_its_training(head: dict[str, str | bool]) -> None:
    torch.set_num_threads(1)
    images = torch.randint(90, 140, (1, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 32:64, 16:64, 0] = 220
    losses = []
    for precision in ("fp32", "tf32", "bf16"):
        settings = SegmentSettings.model_validate({"k": 3, "head_precision": precision} | head)
        found = segment_batch(images, (6, 6), [1], Descriptors(), settings, Timer(images.device))
        losses.append(found.loss_last.item())
    fp32, tf32, bf16 = losses
    assert tf32 == fp32
    assert bf16 != fp32
    assert bf16 == pytest.approx(fp32, abs=0.02)
