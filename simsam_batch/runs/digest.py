"""Content digests: the same for equal values however Arrow or NumPy happen to lay them out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from simsam_batch.runs.schema import Attachment, File

# Columns are hashed in blocks of this many rows, so that a long table is never copied whole. Part of the definition.
BLOCK_ROWS = 65_536


def content_digest(rows: pa.Table, attachments: Iterable[Mapping[str, Attachment]] = ()) -> str:
    """SHA-256 (hex) over the values of all columns and attachments in row order.

    Names, types, dtypes and shapes count, and of files suffix and length.

    Chunking, slicing, padding, schema metadata and byte order do not matter. Null differs from every value, -0.0 from
    0.0, and all NaN are one value.

    Args:
        rows: any table.
        attachments: for each row its arrays and files by name, or nothing at all; each row is asked for once.
    """
    digest = hashlib.sha256()
    header = {"rows": rows.num_rows, "columns": [[field.name, _type_name(field.type)] for field in rows.schema]}
    digest.update(json.dumps(header).encode())
    for column in rows.columns:
        for start in range(0, rows.num_rows, BLOCK_ROWS):
            block = column.slice(start, BLOCK_ROWS)
            for part in _parts(pa.concat_arrays(block.chunks)):
                digest.update(part)
    for number, by_name in enumerate(attachments):
        for name in sorted(by_name):
            attachment = by_name[name]
            if isinstance(attachment, File):
                digest.update(json.dumps([number, name, attachment.suffix, len(attachment.data)]).encode())
                digest.update(attachment.data)
                continue
            array = np.asarray(attachment)
            values = _values(np.ascontiguousarray(array))
            digest.update(json.dumps([number, name, values.dtype.str, list(array.shape)]).encode())
            digest.update(values.data if values.size else b"")
    return digest.hexdigest()


def _values(array: NDArray[Any]) -> NDArray[Any]:
    """The array as little-endian bytes would hold it, with one kind of NaN."""
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype.kind in "fc":
        # half precision by its bits: np.isnan on it is slower than the hash
        halves = array.dtype == np.dtype("<f2")
        missing = (array.view("<u2") & 0x7FFF) > 0x7C00 if halves else np.isnan(array)
        if missing.any():
            array = np.where(missing, array.dtype.type(np.nan), array)
    return np.ascontiguousarray(array)


def _parts(array: pa.Array) -> Iterator[bytes | memoryview]:
    """The bytes that stand for an Arrow array: validity first, then lengths, then the values that are not null."""
    kind = array.type
    yield np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes()
    if isinstance(array, pa.ExtensionArray):
        yield from _parts(array.storage)
    elif pa.types.is_dictionary(kind):
        yield from _parts(array.dictionary_decode())
    elif pa.types.is_struct(kind):
        for child in array.flatten():
            yield from _parts(child)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        valid = array.drop_null()
        yield _lengths(pc.list_value_length(valid))
        yield from _parts(valid.flatten())
    elif _is_text_or_binary(kind):
        wide = array.drop_null().cast(pa.large_binary())
        yield _lengths(pc.binary_length(wide))
        yield _binary_values(wide)
    elif pa.types.is_boolean(kind):
        yield np.packbits(array.drop_null().to_numpy(zero_copy_only=False)).tobytes()
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        yield _values(array.drop_null().to_numpy(zero_copy_only=False)).data
    elif not pa.types.is_null(kind):
        # times, decimals, maps: rare as passed-through columns, and their Python values are canonical
        text = repr(array.to_pylist()).encode()
        yield f"{len(text)}:".encode() + text


def _type_name(kind: pa.DataType) -> str:
    """A type without what Parquet does not keep: how a list's values are called, whether text was a dictionary."""
    if pa.types.is_dictionary(kind):
        return _type_name(kind.value_type)
    if pa.types.is_struct(kind):
        return "struct<" + ", ".join(f"{field.name}: {_type_name(field.type)}" for field in kind) + ">"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_type_name(kind.value_type)}>"
    if pa.types.is_fixed_size_list(kind):
        return f"list<{_type_name(kind.value_type)}>[{kind.list_size}]"
    return str(kind)


def _is_text_or_binary(kind: pa.DataType) -> bool:
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return bool(is_text or is_binary)


def _lengths(lengths: pa.Array) -> bytes:
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype="<i8").tobytes()


def _binary_values(array: pa.Array) -> memoryview | bytes:
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    if len(array) == 0 or offsets[0] == offsets[-1]:
        return b""
    return memoryview(array.buffers()[2])[int(offsets[0]) : int(offsets[-1])]
