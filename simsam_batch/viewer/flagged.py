"""The flags that lists, filters and counts ask for, of whichever run a stage is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simsam_batch.viewer.session import OpenedStage, Session


def standing(session: Session, stage: OpenedStage) -> tuple[Mapping[int, Any], int]:
    """The flag to show of each flagged row of a stage, and a number that is another one when a flag was added.

    Raises:
        StorageError: the storage did not answer.
    """
    flags = _flags(session, stage)
    if flags is None:
        return {}, 0
    found: Mapping[int, Any] = flags.standing(stage)
    return found, int(flags.version)


def told(session: Session, stage: OpenedStage, rows: Sequence[int]) -> Mapping[int, Any]:
    """The flags of some rows as the page has them; raises like `standing`."""
    flags = _flags(session, stage)
    found: Mapping[int, Any] = {} if flags is None else flags.told(stage, rows)
    return found


def _flags(session: Session, stage: OpenedStage) -> Any:
    try:
        from simsam_batch.viewer.flags import flags_of
    except ImportError:
        return None
    return flags_of(session, "a" if stage.out.url == session.run("a").out.url else "b")
