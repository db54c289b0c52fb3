"""Image records from a text list, or from a table: Parquet, CSV or JSON lines."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from simsam_batch.catalog.embedded import arrow_records, embedded_records, image_column_of
from simsam_batch.catalog.folders import ACCEPTED, ends_in, is_file, listed_files
from simsam_batch.catalog.records import COLUMNS, quoted, records_schema, records_table
from simsam_batch.catalog.resolving import parent_of, resolved, resolved_column
from simsam_batch.catalog.text_tables import read_text_table, uri_column_of
from simsam_batch.errors import SettingsError
from simsam_batch.plain_text import counted
from simsam_batch.storage import Folder, ObjectNotFound, absolute_url, read_url, redact

if TYPE_CHECKING:
    import pyarrow as pa

# so much of a list is parsed at once, and no path or URL is longer
_BLOCK = 16 << 20
_LONGEST_LINE = 1 << 16


def list_records(images: str, root: str | None) -> pa.Table:
    """Image records of a text list: one path or URL a line; blank lines and lines that start with ``#`` are skipped.

    The list is read in blocks and its lines stay in Arrow's columns, so that ten million of them take little more
    memory than their own text.
    """
    import pyarrow as pa

    base = root or parent_of(images)
    ids, uris = [], []
    for block in _blocks_of_lines(images):
        entries = _entries(block, images)
        if len(entries):
            found = resolved(entries, base, images)
            ids.append(found[0])
            uris.append(found[1])
    if not ids:
        raise SettingsError(f"{redact(images)} lists no image: one path or URL a line is expected")
    return records_table({"image_id": pa.chunked_array(ids), "uri": pa.chunked_array(uris)})


def _blocks_of_lines(images: str) -> Iterator[bytes]:
    """A text file in blocks of whole lines, without a byte order mark."""
    try:
        # also says so where a directory or device is in the place of the list
        read_url(images, 0)
        with Folder(parent_of(images)).open(posixpath.basename(absolute_url(images))) as file:
            block = file.read(_BLOCK).removeprefix(b"\xef\xbb\xbf")
            while block:
                whole, _, rest = block.rpartition(b"\n")
                if len(rest) > _LONGEST_LINE:
                    raise SettingsError(
                        f"{redact(images)} is no list: a line of it has more than {_LONGEST_LINE} bytes. "
                        "One path or URL a line is expected"
                    )
                yield whole
                following = file.read(_BLOCK)
                if not following:
                    yield rest
                block = rest + following if following else b""
    except ObjectNotFound as error:
        raise SettingsError(f"IMAGES: {error}. {ACCEPTED['IMAGES']}") from error


def _entries(block: bytes, images: str) -> Any:
    """The lines of a block that name an image."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        text = pa.array([block], pa.binary()).cast(pa.string())
    except pa.ArrowInvalid as error:
        raise SettingsError(f"{redact(images)} is not UTF-8 text. To mend it: save the list as UTF-8") from error
    lines = pc.utf8_trim_whitespace(pc.split_pattern(text, "\n").flatten())
    return lines.filter(pc.and_not(pc.not_equal(lines, ""), pc.starts_with(lines, "#")))


def parquet_records(
    images: str,
    root: str | None,
    keep: Sequence[str],
    notes: list[str],
    *,
    uri_column: str | None = None,
    hidden: bool = False,
) -> pa.Table:
    """Image records of a Parquet file or a folder of them, or of Arrow files, with the columns to keep.

    Of a column whose type differs from file to file it is the widest (Arrow's permissive promotion).
    """
    import pyarrow as pa

    given = is_file(images)
    if given:
        files, start = [absolute_url(images)], parent_of(images)
        names = {files[0]: posixpath.basename(files[0])}
    else:
        wanted = ends_in([".parquet", ".arrow"])
        listing = listed_files("IMAGES", images, wanted, notes, hidden=hidden)
        listing.note_hidden(images, notes, option=True)
        files, start = listing.files["uri"].to_pylist(), images
        names = dict(zip(files, listing.files["name"].to_pylist(), strict=True))
    arrow = [file for file in files if file.lower().endswith(".arrow")]
    files = [file for file in files if file not in set(arrow)]
    if not files and not arrow:
        raise SettingsError(f"{redact(images)} has no Parquet file in it")
    tables = [_read_parquet(file, names[file], root, start, keep, uri_column) for file in files]
    for name in keep if tables else ():
        _check_types(name, {file: table.schema.field(name).type for file, table in zip(files, tables, strict=True)})
    if arrow:
        of_arrow = {file: names[file] for file in arrow}
        # caches lie beside tables
        others: list[str] | None = [] if tables else None
        found = arrow_records(of_arrow, root, keep, uri_column, whole=not given, left_out=others)
        tables += [] if found is None else [found]
        if others:
            notes.append(f"{counted(len(others), 'Arrow file')} without a column of images left out: {quoted(others)}")
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise SettingsError(f"{redact(images)}: the kept columns of its files cannot be joined: {error}") from error
    if not table.num_rows:
        raise SettingsError(f"{redact(images)} has no rows")
    return table


def text_records(images: str, root: str | None, keep: Sequence[str], uri_column: str | None) -> pa.Table:
    """Image records of CSV or JSON lines, with the columns to keep."""
    uri = ""

    def wanted(present: Sequence[str]) -> list[str]:
        nonlocal uri
        uri = uri_column_of(present, uri_column, redact(images))
        return _wanted(present, uri, keep, redact(images))

    table = read_text_table(images, wanted)
    if not table.num_rows:
        raise SettingsError(f"{redact(images)} has no rows")
    return _records_of(table, uri, root or parent_of(images), images, keep)


def _check_types(name: str, types: dict[str, pa.DataType]) -> None:
    """Refuse a column that is of types in two files which no third type holds."""
    import pyarrow as pa

    first, joined = next(iter(types.items()))
    for file, kind in types.items():
        fields = [pa.schema([(name, each)]) for each in (joined, kind)]
        try:
            joined = pa.unify_schemas(fields, promote_options="permissive").field(name).type
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise SettingsError(
                f"keep_columns: {name} is {joined} in {redact(first)} and {kind} in {redact(file)}, and no type holds "
                "both. To mend it: write the column with one type in all files"
            ) from error


def _read_parquet(
    url: str, name: str, root: str | None, start: str, keep: Sequence[str], uri_column: str | None
) -> pa.Table:
    import pyarrow as pa

    from simsam_batch.storage.parquet import ParquetReader

    where = redact(url)
    try:
        with ParquetReader(Folder(parent_of(url)).open(posixpath.basename(url))) as parquet:
            schema = parquet.schema
            held = image_column_of(schema, uri_column, where)
            if held is not None:
                absent = parquet.null_count(f"{held}.bytes")
                columns = _wanted(schema.names, held, keep, where)[1:]
                columns = [*(name for name in columns if name in keep), held if absent else f"{held}.path"]
                return embedded_records(parquet.read(columns), url, name, root or parent_of(url), held, keep)
            # a column of bytes is no column of paths, but what is named is taken, and what is wrong with it said
            texts = [
                field.name for field in schema if pa.types.is_string(field.type) or field.name in ("uri", uri_column)
            ]
            uri = uri_column_of(schema.names if uri_column else texts, uri_column, where)
            table = parquet.read(_wanted(schema.names, uri, keep, where))
        # Parquet does not check that its texts are UTF-8
        table.validate(full=True)
    # names that are not UTF-8 raise no error of Arrow's
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SettingsError(f"{where} is no Parquet file that can be read: {str(error)[:500]}") from error
    return _records_of(table, uri, root or start, url, keep)


def _wanted(present: Sequence[str], uri: str, keep: Sequence[str], where: str) -> list[str]:
    """The columns of a table to read, that of the paths first."""
    absent = [name for name in keep if name not in present]
    if absent:
        raise SettingsError(f"keep_columns: {where} has no {', '.join(absent)}; its columns are {', '.join(present)}")
    own = {*COLUMNS, *keep} - {"uri"}
    wanted = [uri, *(name for name in present if name in own and name != uri)]
    if len(set(wanted)) < len(wanted) or present.count(uri) > 1:
        raise SettingsError(f"{where} has columns of the same name; its columns are {', '.join(present)}")
    return wanted


def _records_of(table: pa.Table, uri: str, root: str, url: str, keep: Sequence[str]) -> pa.Table:
    """The records that a table names, its column ``uri`` being that of the paths."""
    import pyarrow as pa

    where = redact(url)
    columns: dict[str, Any] = {}
    for field in records_schema():
        name = uri if field.name == "uri" else field.name
        if name in table.column_names:
            try:
                columns[field.name] = table[name].cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise SettingsError(f"{where}: column {name} cannot be read as {field.type}: {error}") from error
            if not field.nullable and columns[field.name].null_count:
                raise SettingsError(f"{where}: column {name} is empty in {columns[field.name].null_count} rows")
    has_ids = "image_id" in columns
    ids, columns["uri"] = resolved_column(columns["uri"], root, url, with_ids=not has_ids)
    if not has_ids:
        columns["image_id"] = ids
    if "truth_uri" in columns:
        columns["truth_uri"] = resolved_column(columns["truth_uri"], root, url, with_ids=False)[1]
    return records_table(columns, {name: table[name] for name in keep})
