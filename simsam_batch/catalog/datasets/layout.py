"""What a dataset declares, and how its folder is found, listed and read."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simsam_batch.catalog.facts import BOXES_COLUMN, DatasetFacts, TruthKind
from simsam_batch.catalog.folders import ends_in, listed_files
from simsam_batch.catalog.records import quoted, records_table, repeated_values
from simsam_batch.catalog.truth import with_truth
from simsam_batch.errors import SettingsError, StorageError
from simsam_batch.formats import SUFFIXES
from simsam_batch.storage import Folder, ObjectNotFound, absolute_url, entries, redact

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the folder of a dataset by name is found.

    Attributes:
        name: what stands before the colon in ``NAME:ROOT``; lower case.
        title: as its authors call it.
        layout: the tree below ROOT, for messages.
        homes: folders below ROOT that unpacking may have made, looked in after ROOT itself.
        needs: files and folders (with a slash) that must lie in the home.
        or_needs: what must lie there instead where the dataset is in circulation in a second layout.
        mend: how other layouts are given.
    """

    name: str
    title: str
    layout: str
    homes: tuple[str, ...]
    needs: tuple[str, ...]
    or_needs: tuple[str, ...] = ()
    mend: str = (
        "give the folder as unpacked; other layouts go as a folder with --truth, or as Parquet with columns uri and "
        "truth_uri"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(Layout):
    """One dataset by name, and how its truth is meant.

    Attributes:
        splits: published number of images of each split, None where releases differ; the first is the default.
        read: the image records of a split. Told what a person should know by `Home.notes`.
        kind: see `DatasetFacts`, like all that follow.
        classes: the names, or what gives them when they are asked for.
    """

    splits: Mapping[str, int | None]
    read: Callable[[Home, str], pa.Table]
    kind: TruthKind
    protocol: str
    classes: tuple[str, ...] | Callable[[], tuple[str, ...]] = ()
    ignore_label: int | None = None
    center_crop: bool = False
    label_hierarchy: str | None = None

    def facts(self, split: str) -> DatasetFacts:
        """What later stages need to know."""
        return DatasetFacts(
            self.name,
            split,
            self.kind,
            self.protocol,
            self.classes() if callable(self.classes) else self.classes,
            self.ignore_label,
            self.center_crop,
            self.label_hierarchy,
        )


class Home:
    """The folder of a dataset that was found below ROOT.

    Attributes:
        dataset: what was looked for.
        root: ROOT as given, made absolute.
        url: of the folder that has all the dataset needs.
        notes: for people, one sentence each.

    Raises:
        SettingsError: no folder has it all; says what was looked for and found, and shows the layout.
        StorageError: the storage did not answer.
    """

    def __init__(self, dataset: Layout, root: str) -> None:
        self.dataset, self.root = dataset, absolute_url(root)
        self.notes: list[str] = []
        candidates = [self.root, *(f"{self.root.rstrip('/')}/{home}" for home in dataset.homes)]
        found = {url: _entries(url) for url in candidates}
        layouts = [needs for needs in (dataset.needs, dataset.or_needs) if needs]
        lacking = {
            url: min(([name for name in needs if name not in found[url]] for needs in layouts), key=len)
            for url in candidates
        }
        self.url = min(candidates, key=lambda url: len(lacking[url]))
        if lacking[self.url]:
            if not found[self.root]:
                raise self.mismatch(f"{redact(self.root)} is empty or not there")
            places = " and ".join(redact(url) for url in candidates if found[url])
            raise self.mismatch(
                f"looked for {' or '.join(map(', '.join, layouts))} in {places}; "
                f"{redact(self.url)} lacks {', '.join(lacking[self.url])} and has {_shown(found[self.url])}"
            )
        self.entries = found[self.url]

    def mismatch(self, reason: str) -> SettingsError:
        """The error for a ROOT that is not as expected, with the layout as a tree."""
        return SettingsError(
            f"{self.dataset.name}: {redact(self.root)} has not the layout of {self.dataset.title}: {reason}. Expected:",
            "ROOT",
            *self.dataset.layout.split("\n"),
            f"To mend it: {self.dataset.mend}",
        )

    def files(self, folder: str, suffixes: Sequence[str] = SUFFIXES) -> pa.Table:
        """Files of a folder of the home (``name``, ``uri``, ``size``, ``etag``), sorted by name; at least one."""
        try:
            found = listed_files("IMAGES", f"{self.url}/{folder}", ends_in(suffixes), self.notes).files
        except SettingsError as error:
            raise self.mismatch(f"{folder}/ cannot be listed: {error.__cause__ or error}") from error
        if not found.num_rows:
            raise self.mismatch(f"no file of {folder}/ ends in {' '.join(suffixes)}")
        return found

    def paired(
        self, images: str, truth: str, *, suffixes: Sequence[str] = SUFFIXES, image_suffixes: Sequence[str] = SUFFIXES
    ) -> pa.Table:
        """The image records of one folder of the home with the truth that has their names in another.

        Args:
            images: the folder of photographs.
            truth: the folder of truth.
            suffixes: of files that are truth, see `with_truth`.
            image_suffixes: the same of photographs.
        """
        self.files(truth, suffixes)
        return with_truth(
            records_of(self.files(images, image_suffixes)),
            f"{self.url}/{truth}",
            f"{self.url}/{images}",
            self.notes,
            suffixes=suffixes,
            image_suffixes=image_suffixes,
        )

    def rows(self, name: str, columns: int) -> list[list[str]]:
        """The lines of a text file, each cut into so many columns at blanks (the last keeps its own)."""
        try:
            text = Folder(self.url).read(name).decode("utf-8-sig")
        except ObjectNotFound as error:
            raise self.mismatch(f"there is no file {name}") from error
        except UnicodeDecodeError as error:
            raise self.mismatch(f"{name} is not UTF-8 text") from error
        split = [line.split(None, columns - 1) for line in text.splitlines() if line.strip()]
        short = next((n for n, words in enumerate(split) if len(words) < columns), None)
        if short is not None:
            raise self.mismatch(f"{name} has {quoted(split[short])} where {columns} columns are expected")
        if not split:
            raise self.mismatch(f"{name} has no line in it")
        return [[*words[:-1], words[-1].strip()] for words in split]

    def chosen(self, files: pa.Table, names: Iterable[str], source: str) -> pa.Table:
        """The files that a list of the dataset names, in the order of the list.

        What is listed and not there is noted and left out.

        Args:
            files: from `files`, all of one folder.
            names: with or without suffix, as in the list.
            source: name of the list, for messages.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        listed = pa.array(names, pa.string())
        if twice := repeated_values(listed):
            raise self.mismatch(f"{source} lists {quoted(twice)} more than once")
        wanted = _stems(listed)
        if twice := repeated_values(_stems(files["name"]).filter(pc.is_in(_stems(files["name"]), wanted))):
            raise self.mismatch(f"more than one image file is there for {quoted(twice)}")
        position = pc.index_in(wanted, _stems(files["name"]))
        absent = listed.filter(pc.is_null(position))
        if len(absent) == len(listed):
            raise self.mismatch(
                f"none of the {len(listed)} images that {source} lists is there: {quoted(absent[:5], len(absent))}"
            )
        if len(absent):
            self.notes.append(
                f"{len(absent)} of {len(listed)} images that {source} lists are not there and are left out: "
                f"{quoted(absent[:5], len(absent))}"
            )
        return files.take(position.drop_null())


def _entries(url: str) -> list[str]:
    try:
        return entries(url)
    except StorageError as error:
        raise SettingsError(f"IMAGES: {error}") from error


def _shown(names: list[str]) -> str:
    if not names:
        return "nothing"
    visible = [name for name in names if not name.startswith(".")]
    more = f" and {len(visible) - _SHOWN} more" if len(visible) > _SHOWN else ""
    return ", ".join(visible[:_SHOWN]) + more


def _stems(names: Any) -> Any:
    import pyarrow.compute as pc

    suffix = "|".join(f"[.]{suffix[1:]}" for suffix in (*SUFFIXES, ".xml"))
    return pc.replace_substring_regex(names, f"(?i)({suffix})$", "")


def records_of(files: pa.Table) -> pa.Table:
    """Image records of listed files; the id is the path below the dataset's folder of images."""
    return records_table({"image_id": files["name"], "uri": files["uri"], "size": files["size"], "etag": files["etag"]})


def with_boxes(table: pa.Table, boxes: Mapping[str, list[list[float]]], notes: list[str]) -> pa.Table:
    """The records with `BOXES_COLUMN` filled by file stem; images without an annotation are noted."""
    import pyarrow as pa

    stems = _stems(table["image_id"]).to_pylist()
    column = [boxes.get(posixpath.basename(stem)) for stem in stems]
    without = [name for name, held in zip(table["image_id"].to_pylist(), column, strict=True) if held is None]
    if without:
        notes.append(f"{len(without)} of {table.num_rows} images have no annotation: {quoted(without)}")
    empty = sum(held == [] for held in column)
    if empty:
        notes.append(f"{empty} of {table.num_rows} images have an annotation without any object that counts")
    return table.append_column(BOXES_COLUMN, pa.array(column, pa.list_(pa.list_(pa.float64()))))
