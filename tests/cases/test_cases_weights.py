"""Checkpoints as training scripts leave them, through the real command: all give the features of the plain file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import simsam_batch
from simsam_batch.cli import run

NAMES = ["plain", "trained-by-timm", "compiled", "compiled-and-parallel", "numpy-scalar"]


def features_by(cases: Path, out: Path, name: str) -> dict[str, NDArray[np.float32]]:
    """The keys of every picture, from a network with the weights of a case."""
    command = ["features", str(cases / "lists" / "pictures"), str(out), "--resize", "native", "--dtype", "fp32"]
    command += ["--backbone", "test_vit", "--weights", str(cases / "weights" / f"{name}.pth")]
    assert run([*command, "--engine", "inline", "--quiet"]) == 0
    opened = simsam_batch.open_run(str(out))
    return {f"{number}.png": opened.features(f"{number}.png", ["key-5"])["key-5"] for number in range(2)}


@pytest.fixture(scope="module")
def plain(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.float32]]:
    return features_by(cases, tmp_path_factory.mktemp("plain") / "out", "plain")


def test_no_case_is_left_out(cases: Path) -> None:
    assert {path.stem for path in (cases / "weights").iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES[1:])
def test_features_are_those_of_the_plain_file_to_the_last_bit(
    cases: Path, tmp_path: Path, plain: dict[str, NDArray[np.float32]], name: str
) -> None:
    found = features_by(cases, tmp_path / "out", name)
    assert all((found[image] == plain[image]).all() for image in plain)
    assert np.ptp(plain["0.png"]) > 0
