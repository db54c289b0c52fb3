"""A transformer's arithmetic is tried before it is trusted; each kind of fault is made on purpose here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from simsam_batch.errors import RunError
from simsam_batch.features import trial
from simsam_batch.features.trial import bf16_trouble, trouble
from simsam_batch.settings import FeatureSettings
from simsam_batch.workers import models

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _tried_anew() -> Iterator[None]:
    bf16_trouble.cache_clear()
    yield
    bf16_trouble.cache_clear()


def test_a_device_that_computes_right_is_trusted() -> None:
    assert bf16_trouble("cpu") is None


def test_small_and_large_differences_are_told_apart() -> None:
    right = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert trouble(lambda: right * 1.0005, right, CPU, "fp32") is None
    assert trouble(lambda: right * 1.002, right, CPU, "fp32") == "fp32 is off by 2.0e-03 of the length"
    assert trouble(lambda: right * 1.01, right, CPU, "bf16") is None
    assert "off by 1.0e-01" in str(trouble(lambda: right * 1.1, right, CPU, "bf16"))
    assert "off by nan" in str(trouble(lambda: right * torch.nan, right, CPU, "bf16"))


def test_a_missing_kernel_is_told_and_fp32_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    computing = trial.arithmetic

    def without_bf16(device: torch.device, precision: str) -> object:
        if precision == "bf16":
            raise RuntimeError("no kernel image is\navailable")
        return computing(device, precision)

    monkeypatch.setattr(trial, "arithmetic", without_bf16)
    assert bf16_trouble("cpu") == "bf16: RuntimeError: no kernel image is available"
    monkeypatch.setattr(trial, "bf16_trouble", lambda device: "bf16 is off")
    for asked in ("auto", "bf16"):
        assert models.precision_of(FeatureSettings(precision=asked), "cuda:0") == "fp32"
    monkeypatch.setattr(trial, "bf16_trouble", lambda device: None)
    assert models.precision_of(FeatureSettings(precision="auto"), "cuda:0") == "bf16"
    assert models.precision_of(FeatureSettings(precision="fp32"), "cuda:0") == "fp32"
    assert models.precision_of(FeatureSettings(precision="bf16"), "cpu") == "bf16"


def test_a_gpu_that_is_wrong_in_fp32_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    telling = trial.trouble
    wrong = {"fp32": "fp32 is off by 1.0e+00 of the length"}
    monkeypatch.setattr(trial, "trouble", lambda *given: wrong.get(given[3], telling(*given)))
    with pytest.raises(RunError, match=r"computes wrong in fp32 .*--device cpu"):
        bf16_trouble("cpu")


def test_the_trial_draws_nothing_from_the_seed_of_others() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    bf16_trouble("cpu")
    assert torch.equal(torch.rand(3), expected)


def test_on_a_cpu_nothing_is_replaced() -> None:
    assert models.replaced_on(CPU) == []
