"""Scores of matches that any tool made: points found in the targets of pairs, compared with their true places."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.catalog import PAIR_UNIT, read_pairs
from simsam_batch.catalog.pairs.files import parsed, text_of
from simsam_batch.errors import ImageError, SettingsError
from simsam_batch.stages.matches.given import Given
from simsam_batch.stages.matches.pairs import kinds_of
from simsam_batch.stages.matches.rows import MatchesFold
from simsam_batch.stages.matches.scoring import Compared, state_of_failed
from simsam_batch.storage import absolute_url, read_ahead, read_url, redact

_THREADS = 4
_LISTED = 5

Size = tuple[int, int]
"""(width, height)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOptions:
    """What matches are compared with.

    Attributes:
        pairs: file of pairs or set by name, as for ``simsam correspond``.
        root: folder that its relative paths start from; that of the file if None.
        split: of a set by name.
    """

    pairs: str
    root: str | None = None
    split: str | None = None


def score_matches(url: str, options: PairOptions, note: Callable[[str], None]) -> dict[str, Any]:
    """Compare points that were found with where they should be.

    Args:
        url: ``.csv`` with a line for each point: ``pair_id``, or ``source`` and ``target``; ``x``, ``y``, empty where
            it was not found; and ``name`` where the pairs name their points, else in their order. Or ``.json``: a list
            of objects with ``pair_id``, or ``source`` and ``target``, and ``found``, a list of [x, y] or null in the
            order of the pair's points. Pixels as there.
        options: what with.
        note: is told of pairs that nothing was found of, and of images that cannot be read: as in a run both count as
            wrong.

    Returns:
        ``kind``, ``predictions``, ``truth``, counts of pairs, ``notes`` and ``metrics`` as of the stage ``matches``.

    Raises:
        SettingsError: a file cannot be read as that, a pair or point is not known, or no image can be read.
        StorageError: the storage did not answer.
    """
    catalog = read_pairs(options.pairs, root=options.root, split=options.split)
    assert catalog.pairs is not None  # noqa: S101  so they are read
    records = catalog.pairs.to_pylist()
    found = _places_of(url, records)
    published = (catalog.pair_set or {}).get("published") or None
    fold, kinds = MatchesFold(published), kinds_of(published)
    uris = catalog.table["uri"].to_pylist()
    sizes, unreadable = _sizes(uris)
    missing = [record[PAIR_UNIT] for record in records if record[PAIR_UNIT] not in found]
    notes = list(catalog.notes)
    if missing:
        shown = ", ".join(map(repr, missing[:_LISTED]))
        notes.append(f"{len(missing)} of {len(records)} pairs have no points found: theirs count as wrong: {shown}")
    if unreadable:
        counted_wrong = "points of their pairs count as wrong"
        notes.append(f"{len(unreadable)} of {len(uris)} images cannot be read: {counted_wrong}: {unreadable[0]}")
    for each in notes:
        note(each)

    def of_pair(record: Mapping[str, Any]) -> dict[str, Any]:
        source, target = sizes[record["source_record"]], sizes[record["target_record"]]
        if source is None or target is None:
            return fold.zero() | state_of_failed(record, kinds)
        given, both = Given.of(record), (source, target)
        places = found.get(record[PAIR_UNIT], np.full_like(given.points, np.nan))
        # as in a run, points outside the source are a fault of the pairs
        counts = np.all((given.points >= -0.5) & (given.points <= np.array(both[0]) - 0.5), axis=1)
        faults = [None if inside else "outside" for inside in counts.tolist()]
        compared = Compared(record, given, places, counts, both, kinds)
        state = compared.state(0, None, np.zeros(len(places), np.float32))
        # nothing is known of how sure they are
        state.pop("margins", None)
        return fold.zero() | compared.counts_of(faults) | state

    metrics = fold.result(reduce(fold.merge, map(of_pair, records), fold.zero()))
    if not metrics["pairs_scored"]:
        mend = "To mend it: give pairs with target_points"
        raise SettingsError(f"pairs: {redact(options.pairs)} has no true points. {mend}")
    return {
        "kind": "pairs",
        "stage": None,
        "predictions": redact(absolute_url(url)),
        "truth": redact(options.pairs),
        "pairs": len(records),
        "pairs_missing": len(missing),
        "notes": notes,
        "metrics": metrics,
    }


def _sizes(uris: Sequence[str]) -> tuple[list[Size | None], list[str]]:
    """The size of each image, None where it cannot be read; and of each that cannot, why."""

    def size_of(uri: str) -> Size | str:
        try:
            height, width = images.image_size(read_url(uri), images.ImageLimits())
        except (ImageError, FileNotFoundError) as error:
            return f"{redact(uri)}: its size cannot be read: {error}"
        return width, height

    read = [*read_ahead(uris, size_of, threads=_THREADS, most=4 * _THREADS, name="simsam-sizes")]
    faults = [each for each in read if isinstance(each, str)]
    if len(faults) == len(read):
        raise SettingsError(f"{faults[0]}; nor can that of any other image. To mend it: give --root")
    return [None if isinstance(each, str) else each for each in read], faults


def _places_of(url: str, records: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """By pair (N, 2) where its points were found, NaN where they were not."""
    named = {record[PAIR_UNIT]: record for record in records}
    by_ends: dict[tuple[str, str], list[str]] = {}
    for name, record in named.items():
        by_ends.setdefault((record["source"], record["target"]), []).append(name)

    def pair_of(line: Mapping[str, Any], where: str) -> str:
        if line.get(PAIR_UNIT):
            if line[PAIR_UNIT] not in named:
                raise SettingsError(f"{where}: there is no pair {line[PAIR_UNIT]!r}. To mend it: take ids of the pairs")
            return str(line[PAIR_UNIT])
        ends = str(line.get("source")), str(line.get("target"))
        there = by_ends.get(ends, [])
        if len(there) != 1:
            many = "no pair" if not there else "more than one pair"
            mend = "To mend it: give its pair_id"
            raise SettingsError(f"{where}: there is {many} of {ends[0]!r} and {ends[1]!r}. {mend}")
        return there[0]

    if url.lower().endswith(".csv"):
        return _of_csv(url, named, pair_of)
    held = parsed(url)
    if not isinstance(held, list):
        raise SettingsError(f"{redact(url)} is no list of matches. To mend it: give CSV, or JSON as described")
    found: dict[str, NDArray[np.float64]] = {}
    for number, each in enumerate(held):
        where = f"{redact(url)}: match {number}"
        if not isinstance(each, dict) or not isinstance(each.get("found"), list):
            raise SettingsError(f"{where} has no list 'found'. To mend it: give pair_id and found")
        name = pair_of(each, where)
        found[name] = _checked([_point(point, where) for point in each["found"]], named[name], where)
    return found


def _of_csv(
    url: str, named: Mapping[str, Mapping[str, Any]], pair_of: Callable[[Mapping[str, Any], str], str]
) -> dict[str, NDArray[np.float64]]:
    where = redact(url)
    reader = csv.DictReader(io.StringIO(text_of(url)))
    columns = reader.fieldnames or []
    if missing := [name for name in ("x", "y") if name not in columns]:
        raise SettingsError(f"{where} has no column {', '.join(missing)}; its columns are {', '.join(columns)}")
    lines: dict[str, list[tuple[str, list[float]]]] = {}
    for line in reader:
        number = f"{where}: line {reader.line_num}"
        both = [line["x"], line["y"]]
        place = _point([each or None for each in both] if any(both) else None, number)
        lines.setdefault(pair_of(line, number), []).append((line.get("name") or line.get("point") or "", place))
    found = {}
    for pair, points in lines.items():
        given = Given.of(named[pair])
        of_name = dict(points)
        if all(given.names) and len(of_name) == len(points) and all(name for name, _ in points):
            if unknown := [name for name in of_name if name not in given.names]:
                has = f"it has {', '.join(map(str, given.names))}"
                raise SettingsError(f"{where}: {pair!r} has no point {unknown[0]!r}; {has}")
            nowhere = [float("nan")] * 2
            found[pair] = np.array([of_name.get(str(name), nowhere) for name in given.names]).reshape(-1, 2)
        else:
            found[pair] = _checked([place for _, place in points], named[pair], where)
    return found


def _checked(places: Sequence[Sequence[float]], record: Mapping[str, Any], where: str) -> NDArray[np.float64]:
    points = len(Given.of(record).points)
    if len(places) != points:
        raise SettingsError(
            f"{where}: {record[PAIR_UNIT]!r} has {points} points, and {len(places)} are given. To mend it: give one "
            "for each, empty where it was not found"
        )
    return np.array(places, np.float64).reshape(-1, 2)


def _point(value: Any, where: str) -> list[float]:
    if value is None:
        return [float("nan")] * 2
    try:
        x, y = (float(each) for each in value)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{where}: {str(value)[:100]} is no x and y") from error
    return [x, y]
