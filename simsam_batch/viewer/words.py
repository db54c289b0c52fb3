"""What the columns of each stage mean, in the words of the documentation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files


def words_of(stage: str) -> Mapping[str, str]:
    """By column its meaning; of a stage that nothing is written about none."""
    return _words().get(stage, {})


@cache
def _words() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((files("simsam_batch.viewer") / "words.json").read_bytes())
    return found
