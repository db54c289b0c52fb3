"""Rows of tables that hold whole files, as Hugging Face's image datasets do: Arrow streams on disk, and Parquet."""

from __future__ import annotations

import os
import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from simsam_batch.errors import StorageError
from simsam_batch.storage.failures import ObjectNotFound, UnusableMember
from simsam_batch.storage.urls import absolute_url, protocol_of, redact

if TYPE_CHECKING:
    import pyarrow as pa

_ROW = re.compile(r"(?i)(.*?\.(?:arrow|parquet))#(.+)/(\d+)", re.DOTALL)
_TABLES_HELD = 16
_GROUPS_HELD = 2
"""Row groups of Parquet, each read whole: a worker's threads are at one, or at the end of one and the next."""

_tables: OrderedDict[tuple[str, str], _Blocks] = OrderedDict()
_lock = threading.Lock()


def _new_lock() -> None:
    # a forked child may inherit it locked by a thread that it does not have
    global _lock  # noqa: PLW0603  a lock is replaced in no other way
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)


def split_row(uri: str) -> tuple[str, str, int] | None:
    """File, column and number of the row of ``file.arrow#image/12``, likewise of ``.parquet``; None for other URLs."""
    found = _ROW.fullmatch(uri)
    return None if found is None else (found[1], found[2], int(found[3]))


def is_image_column(kind: pa.DataType) -> bool:
    """Whether the values of a column are files: a struct of ``bytes`` and ``path``."""
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return False
    types = {field.name: field.type for field in kind}
    held = types.get("bytes")
    return set(types) == {"bytes", "path"} and (pa.types.is_binary(held) or pa.types.is_large_binary(held))


def arrow_batches(url: str) -> list[pa.RecordBatch]:
    """The batches of a local Arrow stream or file, mapped into memory.

    Raises:
        StorageError: it is not on a local disk.
        OSError, pa.ArrowException: it cannot be read.
    """
    import pyarrow as pa

    if protocol_of(url) != "file":
        raise StorageError(
            redact(
                f"cannot read {url}: of Arrow files in object storage no row is read alone. To mend it: copy the "
                "dataset to a local disk, or write it there as Parquet (to_parquet)"
            )
        )
    mapped = pa.memory_map(absolute_url(url))
    try:
        return list(pa.ipc.open_stream(mapped))
    except pa.ArrowInvalid:
        mapped.seek(0)
        found = pa.ipc.open_file(mapped)
        return [found.get_batch(number) for number in range(found.num_record_batches)]


class _Blocks:
    """The column of a table, in blocks that are read when they are wanted."""

    def __init__(self, rows: list[int], block: Callable[[int], Any], held: int) -> None:
        self._ends, self._block, self._held = list(accumulate(rows)), block, held
        self._blocks: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def value(self, row: int) -> bytes | None:
        """The file in a row; None where there is none. IndexError if there is no such row."""
        number = bisect_right(self._ends, row)
        if number == len(self._ends):
            raise IndexError(row)
        with self._lock:
            if number not in self._blocks:
                self._blocks[number] = self._block(number)
                while len(self._blocks) > self._held:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(number)
            column = self._blocks[number]
        value: bytes | None = column[row - (self._ends[number - 1] if number else 0)].as_py()
        return value


def read_row(url: str, column: str, row: int, open_file: Callable[[str], BinaryIO]) -> bytes:
    """The file in a row of a table.

    Args:
        url: of the table.
        column: whose values are files (`is_image_column`).
        row: from 0.
        open_file: opens the file of a URL, seekable.

    Raises:
        ObjectNotFound: no such file, column or row.
        UnusableMember: the table cannot be read, or nothing is in the row.
        StorageError: the storage did not answer.
    """
    import pyarrow as pa

    shown = f"cannot read {url}#{column}/{row}"
    try:
        found = _blocks(url, column, open_file).value(row)
    except (KeyError, IndexError) as error:
        raise ObjectNotFound(redact(f"{shown}: the table has no such column or row")) from error
    except FileNotFoundError as error:
        raise ObjectNotFound(redact(f"{shown}: the table is not there")) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        mend = "To mend it: copy the table again"
        raise UnusableMember(f"{shown}: the table is damaged: {str(error)[:300]}. {mend}", "undecodable") from error
    if found is None:
        raise UnusableMember(f"{shown}: the row has no bytes. To mend it: leave it out", "undecodable")
    return found


def _blocks(url: str, column: str, open_file: Callable[[str], BinaryIO]) -> _Blocks:
    key = absolute_url(url), column
    with _lock:
        if key not in _tables:
            made = _of_arrow if url.lower().endswith(".arrow") else partial(_of_parquet, open_file=open_file)
            _tables[key] = made(url, column)
            while len(_tables) > _TABLES_HELD:
                _tables.popitem(last=False)
        _tables.move_to_end(key)
        return _tables[key]


def _of_arrow(url: str, column: str) -> _Blocks:
    import pyarrow.compute as pc

    Path(absolute_url(url)).stat()
    batches = arrow_batches(url)
    bytes_of = [pc.struct_field(batch.column(column), "bytes") for batch in batches]
    return _Blocks([len(held) for held in bytes_of], bytes_of.__getitem__, len(bytes_of))


def _of_parquet(url: str, column: str, *, open_file: Callable[[str], BinaryIO]) -> _Blocks:
    import pyarrow.compute as pc

    from simsam_batch.storage.parquet import ParquetReader

    with ParquetReader(open_file(url)) as parquet:
        metadata = parquet.metadata
        if column not in parquet.schema.names:
            raise KeyError(column)

    def block(number: int) -> Any:
        with ParquetReader(open_file(url), metadata) as parquet:
            table = parquet.read_row_group(number, [f"{column}.bytes"])
        return pc.struct_field(table[column], "bytes")

    return _Blocks([metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)], block, _GROUPS_HELD)
