"""What rows are filtered, sorted and counted by: their numbers and few words, in memory, a few bytes a row each."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from simsam_batch.errors import SettingsError, did_you_mean
from simsam_batch.runs.reading import StageRows
from simsam_batch.viewer import derived
from simsam_batch.viewer.answers import RefusedError
from simsam_batch.viewer.labels import Labels, rows_with_labels
from simsam_batch.viewer.memory import give_back
from simsam_batch.viewer.session import OpenedStage

Kind = Literal["number", "integer", "boolean", "words"]
Values = NDArray[np.float32] | NDArray[np.float64] | NDArray[np.int16]

MEMORY = 1_000_000_000
"""Bytes that the columns of a stage take at most; beyond it they are read as they are asked for."""

MOST_WORDS = 32_000
"""Different words of a column that is held."""

_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(rf"(\d{{1,9}}(?:\.\d{{1,9}})?) ?({'|'.join(_UNITS)})", re.ASCII | re.IGNORECASE)

_ROWS_AT_ONCE = 65_536
_MOST_ERRORS = 100_000
_EXACT = 2**24
_LEFT_OUT = {"uri", "error", "content_sha256", "arrays_path", "arrays_member", "arrays_offset", "arrays_bytes"}
_LEFT_OUT |= {"source_sha256", "target_sha256"}
_BYTES_OF_ID = 48


def bytes_in(size: str) -> int:
    """The bytes of a size such as ``500MB``, ``1.5GB`` or ``2GiB``.

    Raises:
        SettingsError: it is no size, or none above 0.
    """
    found = _SIZE.fullmatch(size.strip())
    bytes_ = int(float(found[1]) * _UNITS[found[2].lower()]) if found is not None else 0
    if bytes_ < 1:
        raise SettingsError(f"memory: {size[:40]!r} is no size. To mend it: give one such as 500MB or 2GB")
    return bytes_


def columns_of(stage: OpenedStage) -> Columns:
    """The columns of a stage, which a thread begins to read when they are first asked for.

    Args:
        stage: of a run; its option ``memory`` says how many bytes there are, `MEMORY` without.
    """
    memory = int(stage.options.get("memory") or MEMORY)
    held: Columns = stage.once("columns", lambda: Columns(stage.rows, memory))
    return held


def columns_read(stage: OpenedStage) -> tuple[int, int]:
    """Of how many rows the columns are read, and how many there are; none before anybody has asked for them."""
    held: Columns | None = stage.made("columns")
    return 0 if held is None else held.count, len(stage.rows.numbers)


def kinds_of(schema: pa.Schema) -> dict[str, Kind]:
    """The columns that can be held, and what each is; of structs of numbers their fields, as ``cut.score``.

    The numbers that are made of them (`simsam_batch.viewer.derived`) come first.

    Args:
        schema: of the rows, the column that names them first.
    """
    kinds: dict[str, Kind] = dict.fromkeys(derived.derived_of(schema), "number")
    for field in list(schema)[1:]:
        if field.name in _LEFT_OUT:
            continue
        kind = _kind_of(field.type)
        if kind is not None:
            kinds[field.name] = kind
        elif pt.is_struct(field.type):
            inside = {f"{field.name}.{each.name}": _kind_of(each.type) for each in field.type}
            kinds |= {name: kind for name, kind in inside.items() if kind is not None and None not in inside.values()}
    return kinds


def _kind_of(kind: pa.DataType) -> Kind | None:
    if pt.is_boolean(kind):
        return "boolean"
    if pt.is_integer(kind):
        return "integer"
    if pt.is_floating(kind):
        return "number"
    return "words" if pt.is_string(kind) or pt.is_large_string(kind) or pt.is_dictionary(kind) else None


class Columns:
    """The columns of the rows of a stage. Safe to use from many threads.

    They are read in the order of the rows: the first `count` are there, and those behind are without a value.

    Attributes:
        numbers: (R,) int64, the number of each row, ascending.
        kinds: of each column that can be asked for; text of more than `MOST_WORDS` words leaves it.
        unit: the column that names a row.
        at_once: whether all columns are read; else each when it is first asked for.

    Args:
        rows: of the stage.
        memory: bytes that may be held.
    """

    def __init__(self, rows: StageRows, memory: int = MEMORY) -> None:
        self._rows, self._memory = rows, memory
        self.numbers, self.unit = rows.numbers, rows.unit
        self.kinds = kinds_of(rows.schema)
        self._lock, self._labels_lock = threading.RLock(), threading.Lock()
        self._labels: Labels | None = None
        self._held: dict[str, _Column] = {}
        self._ids: list[pa.Array] = []
        self._errors: dict[int, str] = {}
        self._fault: Exception | None = None
        self._read = threading.Event()
        self.count = 0
        self.at_once = len(self.numbers) * (4 * len(self.kinds) + _BYTES_OF_ID) <= memory
        if self.at_once:
            self._begin()
        else:
            self.count = len(self.numbers)
            self._read.set()

    @property
    def complete(self) -> bool:
        """Whether all rows have been read."""
        return self.count == len(self.numbers)

    def wait(self, seconds: float | None = None) -> bool:
        """Whether all rows have been read, after waiting so long for it.

        Raises:
            RunError, StorageError: they could not be read; the next who asks has them read again.
        """
        self._read.wait(seconds)
        self._raise()
        return self.complete

    def column(self, name: str) -> Values:
        """The values of a column, (R,), as far as they are read.

        Numbers are float32, float64 where whole ones exceed 2^24; booleans 1 and 0; NaN is no value. Of text they are
        int16 places in `words`, -1 for none.

        Raises:
            RefusedError: there is no such column.
            RunError, StorageError: it could not be read.
        """
        return self._column(name).values

    def words(self, name: str) -> list[str]:
        """The words that a column of text has, by the places in `column`; there may be more later."""
        return list(self._column(name).words)

    @property
    def status(self) -> NDArray[np.int16]:
        """The column of that name."""
        return self.column("status").astype(np.int16, copy=False)

    @property
    def ids(self) -> pa.ChunkedArray:
        """What names each row, (count,) text."""
        self._raise()
        with self._lock:
            if not self._ids and not self.at_once:
                self._ids = [table.column(0) for _, table in self._rows.batches([self._rows.unit], _ROWS_AT_ONCE)]
            count, held = self.count, list(self._ids)
        chunks = [chunk for each in held for chunk in (each.chunks if isinstance(each, pa.ChunkedArray) else [each])]
        return pa.chunked_array([chunk.cast(pa.string()) for chunk in chunks], pa.string()).slice(0, count)

    @property
    def labels(self) -> Labels | None:
        """Which rows have which label, read when first asked for; None if the stage has no labels."""
        with self._labels_lock:
            if self._labels is None and self._with_labels is not None:
                self._labels = Labels(self._rows, self._with_labels)
            return self._labels

    @property
    def has_labels(self) -> bool:
        """Whether the stage has labels."""
        return self._with_labels is not None

    @cached_property
    def _with_labels(self) -> StageRows | None:
        return rows_with_labels(self._rows)

    def errors(self, places: Sequence[int]) -> list[str | None]:
        """What rows failed of, in the words that were recorded.

        Args:
            places: of rows in `numbers`.
        """
        if self.at_once and len(self._errors) < _MOST_ERRORS:
            return [self._errors.get(place) for place in places]
        found: list[str | None] = self._rows.take(self.numbers[list(places)].tolist(), ["error"])["error"].to_pylist()
        return found

    def places(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows stand in `numbers`; those that are not there are left out."""
        found: NDArray[np.int64] = np.searchsorted(self.numbers, numbers)
        inside = found < len(self.numbers)
        found = found[inside]
        there: NDArray[np.int64] = found[self.numbers[found] == numbers[inside]]
        return there

    def check(self, name: str) -> None:
        """Refuse a name that is none of a column.

        Raises:
            RefusedError: there is no such column.
        """
        if name not in self.kinds and name in kinds_of(self._rows.schema):
            raise RefusedError(400, f"{name} has more than {MOST_WORDS} different words, too many to filter or sort by")
        if name not in self.kinds:
            raise RefusedError(400, f"there is no column {name!r} to filter or sort by{did_you_mean(name, self.kinds)}")

    def _column(self, name: str) -> _Column:
        self._raise()
        self.check(name)
        with self._lock:
            if name not in self._held:
                if self.at_once:
                    self._held[name] = _Column(self.kinds[name], len(self.numbers))
                else:
                    self._read_one(name)
            if not self.at_once:
                # the one asked for last is let go last
                self._held[name] = self._held.pop(name)
            return self._held[name]

    def _read_one(self, name: str) -> None:
        """Read a column, and let go of those that were asked for longest ago, if there are too many."""
        column = _Column(self.kinds[name], len(self.numbers))
        start = 0
        for _, table in self._rows.leaves(paths_of(name, self._rows.schema), _ROWS_AT_ONCE):
            column.put(start, field_of(table, name))
            start += table.num_rows
        if column.overfull:
            self.kinds = {each: kind for each, kind in self.kinds.items() if each != name}
            self.check(name)
        while self._held and column.values.nbytes + sum(c.values.nbytes for c in self._held.values()) > self._memory:
            del self._held[next(iter(self._held))]
        self._held[name] = column

    def _begin(self) -> None:
        self._read.clear()
        self._fault = None
        threading.Thread(target=self._read_all, name="columns", daemon=True).start()

    def _raise(self) -> None:
        with self._lock:
            fault = self._fault
            if fault is not None:
                self._begin()
        if fault is not None:
            raise fault

    def _read_all(self) -> None:
        try:
            columns = {name: _Column(kind, len(self.numbers)) for name, kind in self.kinds.items()}
            with self._lock:
                self.count, self._held, self._ids, self._errors = 0, columns, [], {}
            self._put_all(columns)
            give_back()
        except Exception as fault:  # noqa: BLE001  told to whoever asks next
            with self._lock:
                self._fault = fault
        finally:
            self._read.set()

    def _put_all(self, columns: dict[str, _Column]) -> None:
        start = 0
        paths = (path for name in columns for path in paths_of(name, self._rows.schema))
        for _, table in self._rows.leaves({self._rows.unit, "error", *paths}, _ROWS_AT_ONCE):
            self._put(start, table, columns)
            start += table.num_rows

    def _put(self, start: int, table: pa.Table, columns: dict[str, _Column]) -> None:
        for name, column in list(columns.items()):
            column.put(start, field_of(table, name))
            if column.overfull:
                del columns[name]
                self.kinds = {each: kind for each, kind in self.kinds.items() if each != name}
        if "error" in table.column_names and len(self._errors) < _MOST_ERRORS:
            failed = np.flatnonzero(table["error"].is_valid().to_numpy())
            texts = table["error"].take(failed).to_pylist()
            self._errors |= dict(zip((failed + start).tolist(), texts, strict=True))
        with self._lock:
            self._ids.append(table[self._rows.unit])
            self.count = start + table.num_rows


class _Column:
    """One column as it is read."""

    def __init__(self, kind: Kind, rows: int) -> None:
        self.kind = kind
        self.words: list[str] = []
        self._places: dict[str, int] = {}
        self.values: Values = np.full(rows, -1, np.int16) if kind == "words" else np.full(rows, np.nan, np.float32)

    @property
    def overfull(self) -> bool:
        return len(self.words) > MOST_WORDS

    def put(self, start: int, column: pa.ChunkedArray) -> None:
        """Place the values of some rows."""
        if self.kind == "words":
            self._put_words(start, column)
            return
        if self.kind == "integer" and self.values.dtype == np.float32 and _exceeds(column):
            self.values = self.values.astype(np.float64)
        wide = pa.float64() if self.values.dtype == np.float64 else pa.float32()
        found = column.cast(pa.int8()) if self.kind == "boolean" else column
        values = found.cast(wide, safe=False).to_numpy()
        self.values[start : start + len(values)] = values

    def _put_words(self, start: int, column: pa.ChunkedArray) -> None:
        coded = (
            column.combine_chunks() if pt.is_dictionary(column.type) else column.combine_chunks().dictionary_encode()
        )
        for chunk in coded.chunks if isinstance(coded, pa.ChunkedArray) else [coded]:
            places = []
            for word in chunk.dictionary.to_pylist():
                if word not in self._places:
                    self._places[word] = len(self.words)
                    self.words.append(word)
                places.append(self._places[word])
            if self.overfull:
                return
            codes = chunk.indices.fill_null(len(places)).to_numpy()
            self.values[start : start + len(codes)] = np.array([*places, -1], np.int16)[codes]
            start += len(codes)


def _exceeds(column: pa.ChunkedArray) -> bool:
    if column.type.bit_width < 32:
        return False
    ends = pc.min_max(column).as_py()
    return ends["min"] is not None and max(-ends["min"], ends["max"]) > _EXACT


def paths_of(name: str, schema: pa.Schema) -> list[str]:
    """What is read of the rows of a schema for a name of `kinds_of`, as paths of Parquet."""
    if name in schema.names:
        return [name]
    return derived.paths_of(name, schema) if name in derived.DERIVED else [name.partition(".")[0]]


def field_of(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column, a field of one that is a struct, or a number that is made of them."""
    if name in table.column_names:
        return table[name]
    if name in derived.DERIVED:
        return pa.chunked_array([pa.array(derived.DERIVED[name].make(table), from_pandas=True)])
    outer, _, inner = name.partition(".")
    return pc.struct_field(table[outer], inner)
