"""Fits that are not done yet, kept in the run's storage, so that a killed run goes on inside an image."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch

from simsam_batch.errors import StorageError
from simsam_batch.storage import Folder, ObjectNotFound

FOLDER = "stylize/checkpoints"
_SHARDS_KEPT = 3
"""Of one worker: those that may not be committed yet."""


class Checkpoints:
    """States of fits under names that tell everything that they depend on.

    They are only to save time: what cannot be read is computed again, and what cannot be written is not kept.

    Args:
        out: the run's folder.
        every: updates between two states; 0: none are kept.
    """

    def __init__(self, out: Folder, every: int) -> None:
        self._out, self._every = out, every
        self._shards: deque[tuple[int, list[str]]] = deque()

    def found(self, shard: int, name: str) -> Mapping[str, Any] | None:
        """The last state of a fit; None if there is none."""
        if not self._every:
            return None
        self._note(shard, name)
        try:
            data = self._out.read(f"{FOLDER}/{name}.pt")
            state: Mapping[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except (ObjectNotFound, StorageError, RuntimeError, EOFError, ValueError):
            return None
        return state

    def due(self, step: int) -> bool:
        """Whether the state after so many updates is to be kept."""
        return bool(self._every) and step % self._every == 0

    def keep(self, name: str, state: Mapping[str, Any]) -> None:
        """Put a state in the place of the one before."""
        target = io.BytesIO()
        torch.save(dict(state), target)
        with suppress(StorageError):
            self._out.replace(f"{FOLDER}/{name}.pt", target.getvalue())

    def _note(self, shard: int, name: str) -> None:
        """Remember whose it is, and delete those of shards that are long committed."""
        if not self._shards or self._shards[-1][0] != shard:
            self._shards.append((shard, []))
        self._shards[-1][1].append(f"{FOLDER}/{name}.pt")
        while len(self._shards) > _SHARDS_KEPT:
            self._out.delete(self._shards.popleft()[1])


def drop(out: Folder) -> None:
    """Delete all of a run whose results are published."""
    out.delete([info.name for info in out.list(FOLDER)])
