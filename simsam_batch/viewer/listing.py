"""The rows that a filter takes in some order, kept for a while: a page, its neighbours and its counts share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.viewer.answers import RefusedError
from simsam_batch.viewer.columns import columns_of
from simsam_batch.viewer.flagged import standing
from simsam_batch.viewer.kept import Kept
from simsam_batch.viewer.order import Keys, around, keys_of, some_of
from simsam_batch.viewer.query import QueryError, matching, parsed
from simsam_batch.viewer.session import OpenedStage, Session

_KEPT = 8
_PATIENCE_S = 0.25
"""So long columns are waited for, which is enough for all of a small run."""


@dataclass(frozen=True)
class Listing:
    """The rows that a filter takes, in an order.

    Attributes:
        places: of the rows among those of `Columns.numbers`, ascending.
        keys: what they are ordered by; None: by their places.
        count: how many rows had been read.
        complete: whether those are all.
    """

    places: NDArray[np.int32]
    keys: Keys | None
    count: int
    complete: bool

    def page(self, offset: int, limit: int) -> NDArray[np.int32]:
        """The places that come from one place of the order on, at most so many."""
        if self.keys is None:
            return self.places[offset : offset + limit]
        return self.places[some_of(self.keys, offset, limit)]

    def around(self, place: int) -> tuple[int, int | None, int | None] | None:
        """Where in the order a row stands, and the places of those before and behind it; None if it is not taken."""
        at = int(np.searchsorted(self.places, place))
        if at == len(self.places) or self.places[at] != place:
            return None
        keys = self.keys if self.keys is not None else np.arange(len(self.places), dtype=np.uint32)
        stands, before, after = around(keys, at)
        ends = (None if each is None else int(self.places[each]) for each in (before, after))
        return stands, *ends  # type: ignore[return-value]


def listed(session: Session, stage: OpenedStage, q: str, sort: str = "", *, desc: bool = False) -> Listing:
    """The rows of a stage that a filter takes, in an order.

    Args:
        session: whose flags are looked at, if the filter does.
        stage: whose rows.
        q: the filter.
        sort: a column, ``random``, or empty for the order of the plan.
        desc: greater values first.

    Raises:
        RefusedError: the filter cannot be read, with ``at``; or there is no such column.
        RunError, StorageError: the rows cannot be read.
    """
    columns = columns_of(stage)
    columns.wait(_PATIENCE_S)
    count, complete = columns.count, columns.complete
    try:
        asks = any(term.name == "flag" for term in parsed(q))
        flags, version = standing(session, stage) if asks else ({}, 0)
        filtered = ("taken", q, count, version)
        places = kept(stage, filtered, lambda: np.flatnonzero(matching(q, columns, flags)[:count]).astype(np.int32))
    except QueryError as error:
        raise RefusedError(400, error.message, at=error.at) from error
    keys = kept(stage, (*filtered, sort, desc), lambda: keys_of(columns, places, sort, desc=desc))
    return Listing(places, keys, count, complete)


def kept(stage: OpenedStage, key: Any, make: Any) -> Any:
    """What is made under a key, which the stage keeps while no more than `_KEPT` others were asked for since."""
    held: Kept[Any] = stage.once("listings", lambda: Kept(_KEPT))
    return held.get(key, make)
