"""Route of what a stage's rows have: how often each word, label and flag, and how numbers are spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from simsam_batch.viewer.answers import RefusedError, as_json, text
from simsam_batch.viewer.columns import MOST_WORDS, Columns, columns_of, kinds_of
from simsam_batch.viewer.listing import listed, standing
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
        taken = np.zeros(len(columns.numbers), np.bool_)
        taken[listing.places] = True
        found = {name: _facet(session, stage, columns, name, taken, listing.count) for name in names}
        return as_json({"complete": listing.complete, "total": len(listing.places), "facets": found})

    return [("GET", "api/facets", facets)]


def _facet(
    session: Session, stage: OpenedStage, columns: Columns, name: str, taken: NDArray[np.bool_], count: int
) -> dict[str, Any]:
    """One facet of the rows read so far.

    Args:
        session: whose flags are counted.
        stage: whose rows.
        columns: of the stage.
        name: of a column, ``flag`` or ``label``.
        taken: (R,) whether the filter takes each row.
        count: rows read.
    """
    if name == "flag":
        return _of_flags(session, stage, columns, taken, count)
    labels = columns.labels if name == "label" else None
    if labels is not None:
        words = [str(label) for label in labels.labels.tolist()]
        facet = _of_words(words, labels.counts, labels.counts_among(taken))
        return facet | {
            "names": {word: labels.names[int(word)] for word, *_ in facet["values"] if int(word) in labels.names}
        }
    if name not in columns.kinds and name in kinds_of(stage.rows.schema):
        return {"kind": "words", "values": [], "more": MOST_WORDS}
    columns.check(name)
    values, kind = columns.column(name)[:count], columns.kinds[name]
    taken = taken[:count]
    if kind == "words":
        words = columns.words(name)
        counts = [np.bincount(codes + 1, minlength=len(words) + 1) for codes in (values, values[taken])]
        return _of_words(words, counts[0][1:], counts[1][1:]) | {"missing": int(counts[0][0])}
    if kind == "boolean":
        both = [[np.count_nonzero(of == value) for value in (1, 0)] for of in (values, values[taken])]
        facet = _of_words(["true", "false"], np.array(both[0]), np.array(both[1]))
        return facet | {"missing": count - int(sum(both[0]))}
    bins, edges = _held_bins(stage, name, values, whole=kind == "integer")
    last = len(edges) - 1
    both = [np.bincount(of, minlength=last + 1)[: last + 1].tolist() for of in (bins, bins[taken])]
    ends = {"min": None, "max": None} if not last else {"min": edges[0], "max": edges[-1]}
    if kind == "integer" and last:
        ends = {"min": int(np.nanmin(values)), "max": int(np.nanmax(values))}
    return {
        "kind": "number",
        **ends,
        "edges": edges,
        "all": both[0][:last],
        "filtered": both[1][:last],
        "missing": both[0][last],
    }


def _held_bins(
    stage: OpenedStage, name: str, values: NDArray[Any], *, whole: bool
) -> tuple[NDArray[np.uint8], list[float]]:
    """`_bins`, kept with the stage until more rows are read."""
    held: dict[str, tuple[NDArray[np.uint8], list[float]]] = stage.once("bins", dict)
    found = held.get(name)
    if found is None or len(found[0]) != len(values):
        found = held[name] = _bins(values, whole=whole)
    return found


def _of_words(words: Sequence[str], counts: NDArray[Any], filtered: NDArray[Any]) -> dict[str, Any]:
    """The most frequent words first, those that occur as often by name."""
    order = sorted(range(len(words)), key=lambda place: (-counts[place], words[place]))
    values = [[words[place], int(counts[place]), int(filtered[place])] for place in order if counts[place]]
    return {"kind": "words", "values": values[:_MOST_VALUES], "more": max(len(values) - _MOST_VALUES, 0)}


def _of_flags(
    session: Session, stage: OpenedStage, columns: Columns, taken: NDArray[np.bool_], count: int
) -> dict[str, Any]:
    verdicts: dict[str, list[int]] = {verdict: [] for verdict in VERDICTS}
    for row, flag in standing(session, stage).items():
        if flag.verdict in verdicts:
            verdicts[flag.verdict].append(row)
    values, rest, left = [], count, int(np.count_nonzero(taken))
    for verdict, rows in verdicts.items():
        places = columns.places(np.sort(np.array(rows, np.int64)))
        places = places[places < count]
        values.append([verdict, len(places), int(np.count_nonzero(taken[places]))])
        rest, left = rest - values[-1][1], left - values[-1][2]
    return {"kind": "words", "values": [*values, [UNFLAGGED, rest, left]], "more": 0}


def _bins(values: NDArray[Any], *, whole: bool) -> tuple[NDArray[np.uint8], list[float]]:
    """In which bin each value is, one behind the last for none, and the bins' edges; the last holds its upper edge."""
    held = np.isfinite(values)
    if not held.any():
        return np.zeros(len(values), np.uint8), []
    low, high = float(np.min(values, where=held, initial=np.inf)), float(np.max(values, where=held, initial=-np.inf))
    if whole and high - low < BINS:
        # one bin a number
        count, low, high = int(high - low) + 1, low - 0.5, high + 0.5
    else:
        count = BINS
        if high == low:
            low, high = low - 0.5, high + 0.5
    places = np.nan_to_num((values - low) * (count / (high - low)), nan=0.0, posinf=0.0, neginf=0.0)
    bins = np.clip(places, 0, count - 1).astype(np.uint8)
    bins[~held] = count
    return bins, np.linspace(low, high, count + 1).tolist()
