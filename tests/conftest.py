"""What several test modules need: real photographs and real weights, where the machine has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _folder_from(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names the folder of real test files")
    folder = Path(value).resolve()
    if not folder.is_dir():
        pytest.skip(f"{variable}={value} is not a folder")
    return folder


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder with real photographs and their truth (``weizmann_horses/`` and others)."""
    return _folder_from("SIMSAM_TEST_DATA")


@pytest.fixture(scope="session")
def test_weights() -> Path:
    """Folder with the real pretrained ViT-Ti/16."""
    return _folder_from("SIMSAM_TEST_WEIGHTS")
