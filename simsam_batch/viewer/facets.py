"""Route of what a stage's rows have: how often each word, label and flag, and how numbers are spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from simsam_batch.viewer.answers import RefusedError, as_json, text
from simsam_batch.viewer.columns import MOST_WORDS, Columns, columns_of, kinds_of
from simsam_batch.viewer.flagged import standing
from simsam_batch.viewer.listing import listed
from simsam_batch.viewer.query import UNFLAGGED, VERDICTS
from simsam_batch.viewer.rows import stage_of
from simsam_batch.viewer.session import OpenedStage, Session

BINS = 32
"""Of a histogram."""

_MOST_VALUES = 50
_MOST_NAMES = 60


def routes(session: Session) -> list[tuple[str, str, Any]]:
    """``api/facets``."""

    def facets(request: Request) -> Response:
        stage = stage_of(session, request)
        names = [name for name in text(request, "names").split(",") if name]
        if len(names) > _MOST_NAMES:
            raise RefusedError(400, f"names: give at most {_MOST_NAMES}")
        listing = listed(session, stage, text(request, "q"))
        columns = columns_of(stage)
        found = {name: _facet(session, stage, columns, name, listing.places, listing.count) for name in names}
        return as_json({"complete": listing.complete, "total": len(listing.places), "facets": found})

    return [("GET", "api/facets", facets)]


def _facet(
    session: Session, stage: OpenedStage, columns: Columns, name: str, places: NDArray[np.int32], count: int
) -> dict[str, Any]:
    """One facet of the rows read so far.

    Args:
        session: whose flags are counted.
        stage: whose rows.
        columns: of the stage.
        name: of a column, ``flag`` or ``label``.
        places: of the rows that the filter takes.
        count: rows read.
    """
    if name == "flag":
        return _of_flags(session, stage, columns, places, count)
    labels = columns.labels if name == "label" else None
    if labels is not None:
        words = [str(label) for label in labels.labels.tolist()]
        facet = _of_words(words, labels.counts, labels.counts_among(_taken(columns, places)))
        return facet | {
            "names": {word: labels.names[int(word)] for word, *_ in facet["values"] if int(word) in labels.names}
        }
    if name not in columns.kinds and name in kinds_of(stage.rows.schema):
        return {"kind": "words", "values": [], "more": MOST_WORDS}
    columns.check(name)
    binned = _held_bins(stage, columns, name, count)
    filtered = np.bincount(binned.bins[places], minlength=len(binned.all))
    if binned.words is not None:
        return _of_words(binned.words, binned.all, filtered) | {"missing": int(binned.all[-1])}
    return {
        "kind": "number",
        "min": binned.ends[0],
        "max": binned.ends[1],
        "edges": binned.edges,
        "all": binned.all[:-1].tolist(),
        "filtered": filtered[:-1].tolist(),
        "missing": int(binned.all[-1]),
    }


@dataclass(frozen=True)
class _Binned:
    """The rows read so far by the values of one column.

    Attributes:
        bins: (count,) in which bin each is, or which word it has; one behind the last for none.
        all: how many are in each, those with none at the end.
        words: of text and of yes or no.
        edges: of the bins of numbers; the last bin holds its upper one.
        ends: the smallest and the greatest number.
    """

    bins: NDArray[np.uint8] | NDArray[np.uint16]
    all: NDArray[np.int64]
    words: list[str] | None = None
    edges: Sequence[float] = ()
    ends: tuple[float | None, float | None] = (None, None)


def _held_bins(stage: OpenedStage, columns: Columns, name: str, count: int) -> _Binned:
    """A column by its values, kept with the stage until more rows are read."""
    held: dict[str, _Binned] = stage.once("bins", dict)
    found = held.get(name)
    if found is None or len(found.bins) != count:
        values = columns.column(name)[:count]
        if columns.kinds[name] == "words":
            words = columns.words(name)
            bins: Any = np.where(values < 0, len(words), values).astype(np.uint8 if len(words) < 256 else np.uint16)
            found = _Binned(bins, np.bincount(bins, minlength=len(words) + 1), words)
        elif columns.kinds[name] == "boolean":
            bins = np.where(values == 1, 0, np.where(values == 0, 1, 2)).astype(np.uint8)
            found = _Binned(bins, np.bincount(bins, minlength=3), ["true", "false"])
        else:
            found = _of_numbers(values, whole=columns.kinds[name] == "integer")
        held[name] = found
    return found


def _taken(columns: Columns, places: NDArray[np.int32]) -> NDArray[np.bool_]:
    taken = np.zeros(len(columns.numbers), np.bool_)
    taken[places] = True
    return taken


def _of_words(words: Sequence[str], counts: NDArray[Any], filtered: NDArray[Any]) -> dict[str, Any]:
    """The most frequent words first, those that occur as often by name."""
    found = zip(words, counts[: len(words)].tolist(), filtered[: len(words)].tolist(), strict=True)
    values = sorted((list(each) for each in found if each[1]), key=lambda each: (-each[1], each[0]))
    return {"kind": "words", "values": values[:_MOST_VALUES], "more": max(len(values) - _MOST_VALUES, 0)}


def _of_flags(
    session: Session, stage: OpenedStage, columns: Columns, taken_places: NDArray[np.int32], count: int
) -> dict[str, Any]:
    taken = _taken(columns, taken_places)
    verdicts: dict[str, list[int]] = {verdict: [] for verdict in VERDICTS}
    for row, flag in standing(session, stage)[0].items():
        if flag.verdict in verdicts:
            verdicts[flag.verdict].append(row)
    values: list[list[Any]] = []
    rest, left = count, len(taken_places)
    for verdict, rows in verdicts.items():
        places = columns.places(np.sort(np.array(rows, np.int64)))
        places = places[places < count]
        said, of_those = len(places), int(np.count_nonzero(taken[places]))
        values.append([verdict, said, of_those])
        rest, left = rest - said, left - of_those
    return {"kind": "words", "values": [*values, [UNFLAGGED, rest, left]], "more": 0}


def _of_numbers(values: NDArray[Any], *, whole: bool) -> _Binned:
    held = np.isfinite(values)
    if not held.any():
        return _Binned(np.zeros(len(values), np.uint8), np.array([len(values)]))
    low, high = float(np.min(values, where=held, initial=np.inf)), float(np.max(values, where=held, initial=-np.inf))
    ends = (int(low), int(high)) if whole else (low, high)
    count = BINS
    if whole and high - low < BINS:
        # one bin a number
        count, low, high = int(high - low) + 1, low - 0.5, high + 0.5
    elif high == low:
        low, high = low - 0.5, high + 0.5
    with np.errstate(over="ignore", invalid="ignore"):
        places = np.where(held, (values - low) * (count / (high - low)), 0)
    bins = np.clip(places, 0, count - 1).astype(np.uint8)
    bins[~held] = count
    edges = np.linspace(low, high, count + 1).tolist()
    return _Binned(bins, np.bincount(bins, minlength=count + 1), None, edges, ends)
