"""A split of a dataset by its name, or several of them in one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from simsam_batch.catalog.datasets.layout import Dataset, Home
from simsam_batch.catalog.facts import SPLIT_COLUMN
from simsam_batch.catalog.records import quoted
from simsam_batch.errors import SettingsError

if TYPE_CHECKING:
    import pyarrow as pa

_AND = "+"


def read_dataset(dataset: Dataset, root: str, split: str | None) -> tuple[pa.Table, list[str], str]:
    """The image records of a split with their truth, what a person should know, and the split's name.

    Several splits are written ``train+val``. Their records follow each other in that order, and `SPLIT_COLUMN` says of
    each which it is of; for a single split there is no such column. Each is compared with its own published number.

    Raises:
        SettingsError: no such split, one that is given twice, splits that share an image or the name of one, or ROOT
            has not the dataset's layout, which the message shows.
        StorageError: the storage did not answer.
    """
    split = next(iter(dataset.splits)) if split is None else split
    names = split.split(_AND)
    for name in names:
        if name not in dataset.splits:
            which = repr(name) if len(names) == 1 else f"{name!r} of {split!r}"
            joined = "" if len(dataset.splits) == 1 else f"; several are joined by {_AND}"
            raise SettingsError(f"split: {which} is not one of {' | '.join(dataset.splits)} of {dataset.name}{joined}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise SettingsError(f"split: {split!r} names {', '.join(twice)} more than once. To mend it: give each once")
    home = Home(dataset, root)
    tables = [_read_one(dataset, home, name, alone=len(names) == 1) for name in names]
    return tables[0] if len(names) == 1 else _joined(dataset, names, tables), home.notes, split


def _read_one(dataset: Dataset, home: Home, split: str, *, alone: bool) -> pa.Table:
    """One split, compared with its published number; among others, its notes say that they are of it."""
    before = len(home.notes)
    table = dataset.read(home, split)
    told = f"{dataset.name} split {split!r}: "
    if not alone:
        home.notes[before:] = [told + note for note in home.notes[before:]]
    published = dataset.splits[split]
    if published is not None and table.num_rows != published:
        home.notes.append(
            f"{told}{table.num_rows} images are there and {published} were published; "
            "scores are not comparable with published ones"
        )
    return table


def _joined(dataset: Dataset, names: Sequence[str], tables: Sequence[pa.Table]) -> pa.Table:
    """The records of several splits, one after the other, with the name of the split in `SPLIT_COLUMN`."""
    import pyarrow as pa

    for (one, first), (other, second) in combinations(zip(names, tables, strict=True), 2):
        _require_apart(dataset, (one, other), first, second)
    labelled = [
        table.append_column(SPLIT_COLUMN, pa.array([name] * table.num_rows, pa.string()))
        for name, table in zip(names, tables, strict=True)
    ]
    return pa.concat_tables(labelled)


def _require_apart(dataset: Dataset, names: tuple[str, str], first: pa.Table, second: pa.Table) -> None:
    """Refuse what would be fitted on and scored at once, and ids that would mean two images."""
    import pyarrow.compute as pc

    said = f"split: {_AND.join(names)} of {dataset.name}"
    mend = f"To mend it: join splits that share none, or give one of {' | '.join(names)}"
    for column, reason in (("uri", "are in both"), ("image_id", "are called the same in both, and are two files")):
        shared = second.filter(pc.is_in(second[column], first[column]))["image_id"].to_pylist()
        if shared:
            raise SettingsError(f"{said}: {len(shared)} images {reason}: {quoted(shared)}. {mend}")
