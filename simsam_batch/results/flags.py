"""What people have said of single rows while they looked at a run: bad, good or unsure, and why.

They lie beside the results, ``OUT/flags/<session>/<number>.jsonl``, JSON lines in whole objects that never change; or
in a local file of such lines. A reviewer's last word on a row counts; reviewers stand side by side.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

import pyarrow as pa

from simsam_batch.errors import SettingsError
from simsam_batch.results.opening import begun_stages
from simsam_batch.runs.committed import committed_shards
from simsam_batch.runs.digest import content_digest
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.schema import row_fields
from simsam_batch.storage import Folder, ObjectNotFound, absolute_url, read_url, redact

FOLDER = "flags"
"""Below OUT."""
VERDICTS = ("bad", "good", "unsure")
"""What may be said of a row; null takes back what one has said before."""
REASONS = ("nothing there", "background", "part only", "several objects", "border", "wrong side", "other")
"""Why, in the order of the keys 1 to 7."""
TABLE = pa.schema(
    [
        pa.field("time", pa.float64()),
        pa.field("reviewer", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("image_id", pa.string()),
        pa.field("content_digest", pa.string()),
        pa.field("verdict", pa.string()),
        pa.field("reasons", pa.list_(pa.string())),
        pa.field("note", pa.string()),
        pa.field("stale", pa.bool_()),
    ]
)
"""Columns of a table of flags: those of `Flag`, and whether what was judged has been replaced since."""
LONGEST_NOTE = 2000
"""Characters of a note, at most."""
LONGEST_NAME = 100
"""Characters of a reviewer's name, at most."""

_SHARDS_AT_ONCE = 16
_LOOKED_PAST = ("error_type", "error", "failed_step", "uri")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """What one reviewer said of one row, once.

    Attributes:
        time: when, seconds since 1970.
        reviewer: who.
        stage: whose row.
        row: its number.
        image_id: its first column, which of a stage about pairs or nodes is not an image's.
        content_digest: of what was judged, see `judged`; None where that could not be read.
        verdict: one of `VERDICTS`; None takes back.
        reasons: of `REASONS`.
        note: in the reviewer's own words.
    """

    time: float
    reviewer: str
    stage: str
    row: int
    image_id: str
    content_digest: str | None = None
    verdict: str | None = None
    reasons: tuple[str, ...] = ()
    note: str = ""

    def line(self, **more: Any) -> str:
        """It as a JSON line, with what else is to stand in it."""
        return json.dumps(asdict(self) | more) + "\n"


@dataclass
class Flags:
    """Flags as they are read, with the one that counts for each reviewer and row.

    Attributes:
        damaged: lines that say nothing that can be used.
        elsewhere: lines of a local file about other runs.
    """

    damaged: int = 0
    elsewhere: int = 0
    _last: dict[str, dict[int, dict[str, Flag]]] = field(default_factory=dict)

    def add(self, flag: Flag) -> None:
        """Take a flag in; an older one than that of the same reviewer and row changes nothing."""
        of_row = self._last.setdefault(flag.stage, {}).setdefault(flag.row, {})
        earlier = of_row.get(flag.reviewer)
        if earlier is None or earlier.time <= flag.time:
            of_row[flag.reviewer] = flag

    def add_lines(self, body: bytes, run: str | None = None) -> None:
        """Take in JSON lines; those that are damaged, or about another run, are counted.

        Args:
            body: of a file.
            run: lines that name another run are not of this one; None: every line is.
        """
        for line in body.split(b"\n"):
            if not line.strip():
                continue
            try:
                given = json.loads(line)
                if run is not None and given.get("run", run) != run:
                    self.elsewhere += 1
                    continue
                self.add(_flag(given))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                self.damaged += 1

    def stages(self) -> list[str]:
        """The stages of which anything was said."""
        return sorted(self._last)

    def each(self, stage: str | None = None) -> Iterator[Flag]:
        """Of every row and reviewer the flag that counts, unless it was taken back; by stage, row and time."""
        for name in self.stages() if stage is None else [stage]:
            rows = self._last.get(name, {})
            for row in sorted(rows):
                yield from self.of(name, row)

    def of(self, stage: str, row: int) -> list[Flag]:
        """Those of one row, the latest last."""
        found = self._last.get(stage, {}).get(row, {}).values()
        return sorted((flag for flag in found if flag.verdict is not None), key=lambda flag: flag.time)

    def standing(self, stage: str, reviewer: str | None = None) -> dict[int, Flag]:
        """Of every row of a stage the one flag to show: the reviewer's own, else the latest of anybody."""
        found = {}
        for row in self._last.get(stage, {}):
            flags = self.of(stage, row)
            if flags:
                found[row] = next((flag for flag in flags if flag.reviewer == reviewer), flags[-1])
        return found


def check_verdicts(name: str, verdicts: Sequence[str]) -> None:
    """Refuse words that are no verdicts.

    Raises:
        SettingsError: one is none.
    """
    for verdict in verdicts:
        if verdict not in VERDICTS:
            raise SettingsError(f"{name}: {verdict!r} is not allowed; it is {' | '.join(VERDICTS)}")


def new_files(out: Folder, known: Collection[str] = ()) -> Iterator[tuple[str, bytes]]:
    """The files of flags that lie in a run's folder, by name, each with its content.

    Args:
        out: the run's folder.
        known: names of those that are not read again.

    Raises:
        StorageError: the storage did not answer.
    """
    names = [info.name for info in out.list(FOLDER) if info.name.endswith(".jsonl") and info.name not in known]
    return zip(names, out.read_many(names), strict=True)


def read_flags(out: Folder, file: str | None = None) -> Flags:
    """All flags on a run.

    Args:
        out: the run's folder.
        file: a file with further ones, as a path or any fsspec URL; those on other runs are left out.

    Raises:
        SettingsError: there is no such file.
        StorageError: the storage did not answer.
    """
    flags = Flags()
    for _, body in new_files(out):
        flags.add_lines(body)
    if file is not None:
        try:
            flags.add_lines(read_url(absolute_url(file)), out.url)
        except ObjectNotFound as error:
            raise SettingsError(f"flags: there is no file {redact(file)}") from error
    return flags


def judged(
    out: Folder, stage: str, numbers: Iterable[int], plan: Plan, generations: Mapping[int, int]
) -> dict[int, tuple[str, str]]:
    """What a flag on rows is about: of each its id, and a digest of what the stage says of it (SHA-256, hex).

    The digest is over the columns that are the stage's own and the status, not over where the image lies, the words of
    an error, and arrays beside the row; it changes when ``simsam retry`` or another computation replaces a mask by
    another one. Read from the files of the rows' shards, some of which are held at once.

    Args:
        out: the run's folder.
        stage: whose rows.
        numbers: of rows; those of shards that are not committed are left out.
        plan: of the stage's records.
        generations: of every committed shard.

    Raises:
        RunError: a shard is damaged.
        StorageError: the storage did not answer.
    """
    wanted: dict[int, list[tuple[int, int]]] = {}
    for number in sorted(set(numbers)):
        if 0 <= number < plan.records:
            shard, place = plan.place_of(number)
            wanted.setdefault(shard, []).append((number, place))
    shards = [shard for shard in sorted(wanted) if shard in generations]
    ledger, found = Ledger(out, stage), {}
    for start in range(0, len(shards), _SHARDS_AT_ONCE):
        some = shards[start : start + _SHARDS_AT_ONCE]
        manifests = ledger.manifests({shard: generations[shard] for shard in some})
        for shard, committed in zip(some, committed_shards(out, manifests), strict=True):
            table = committed.rows()
            unit = table.schema.names[0]
            ids, own = table.column(unit), table.select(own_columns(table.schema.names, unit))
            for number, place in wanted[shard]:
                found[number] = str(ids[place].as_py()), content_digest(own.slice(place, 1))
    return found


def own_columns(names: Sequence[str], unit: str) -> list[str]:
    """The columns that a digest of a row is over."""
    begins = {each.name for each in row_fields(unit)} - {"status"}
    return [name for name in names if name not in begins and name not in _LOOKED_PAST]


def digests_of(out: Folder, flags: Iterable[Flag]) -> dict[tuple[str, int], str]:
    """The digests of what flags are about as it is now, by stage and row; none of what is not there.

    Raises:
        RunError: a shard is damaged.
        StorageError: the storage did not answer.
    """
    rows: dict[str, list[int]] = {}
    for flag in flags:
        rows.setdefault(flag.stage, []).append(flag.row)
    found = {}
    for stage in sorted(set(rows) & set(begun_stages(out))):
        ledger = Ledger(out, stage)
        about = judged(out, stage, rows[stage], ledger.plan(), ledger.committed())
        found |= {(stage, row): digest for row, (_, digest) in about.items()}
    return found


def as_records(flags: Iterable[Flag], now: Mapping[tuple[str, int], str]) -> list[dict[str, Any]]:
    """Flags as rows of a table, each with ``stale``: what it judged has been replaced since; None where unknown.

    Args:
        flags: in order.
        now: digests of `judged` by stage and row.
    """
    return [asdict(flag) | {"reasons": list(flag.reasons), "stale": is_stale(flag, now)} for flag in flags]


def is_stale(flag: Flag, now: Mapping[tuple[str, int], str]) -> bool | None:
    """Whether what it judged has been replaced since; None where either digest is not known."""
    digest = now.get((flag.stage, flag.row))
    return None if digest is None or flag.content_digest is None else digest != flag.content_digest


def _flag(given: Mapping[str, Any]) -> Flag:
    """A flag of a line, whatever else stands in it.

    Raises:
        ValueError: a value is of another kind.
        KeyError: one is missing.
    """
    time, row, verdict = given["time"], given["row"], given["verdict"]
    texts = [given[name] for name in ("reviewer", "stage", "image_id")] + [given.get("note", "")]
    reasons = given.get("reasons", [])
    if isinstance(time, bool) or not isinstance(time, int | float) or not isfinite(time):
        raise ValueError("time")
    if isinstance(row, bool) or not isinstance(row, int) or row < 0:
        raise ValueError("row")
    if verdict is not None and verdict not in VERDICTS:
        raise ValueError("verdict")
    if not all(isinstance(text, str) for text in texts) or not isinstance(reasons, list):
        raise ValueError("texts")
    digest = given.get("content_digest")
    return Flag(
        time=float(time),
        reviewer=texts[0],
        stage=texts[1],
        row=row,
        image_id=texts[2],
        content_digest=digest if isinstance(digest, str) else None,
        verdict=verdict,
        reasons=tuple(str(reason) for reason in reasons),
        note=texts[3],
    )
