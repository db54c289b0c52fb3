"""From what the user named to the images and the pairs of a run."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import TYPE_CHECKING

from simsam_batch.catalog.datasets import PairSet, pair_set
from simsam_batch.catalog.datasets.layout import Home
from simsam_batch.catalog.named import Images, named_paths, told_paths
from simsam_batch.catalog.pair_records import Pair, tables_of
from simsam_batch.catalog.pairs import files, keypoints
from simsam_batch.catalog.pairs.keypoints import Instance, Pairing
from simsam_batch.catalog.read import Catalog, read_catalog, require_no_secrets
from simsam_batch.catalog.tables import parent_of, resolved
from simsam_batch.errors import SettingsError
from simsam_batch.storage import redact

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Pairing", "read_pairs"]


def read_pairs(
    images: Images,
    *,
    pairs: Pairing = "given",
    root: str | None = None,
    truth: str | None = None,
    split: str | None = None,
    keep_columns: Sequence[str] = (),
    limit: int | None = None,
    hidden: bool = False,
    uri_column: str | None = None,
) -> Catalog:
    """The images and the pairs of a run: of a file of pairs, a set by name, key points, or images.

    Args:
        images: a ``.json``, ``.jsonl``, ``.csv`` or ``.parquet`` of pairs; ``NAME:ROOT``; key points of COCO
            (``.json``) or DeepLabCut (``.csv``); or a folder or list of images.
        pairs: how images are paired that come without pairs.
        root: folder that relative paths start from; that of the file if None.
        truth: of a folder or list of images, see `simsam_batch.catalog.read_catalog`.
        hidden: likewise.
        uri_column: of a Parquet table of images, likewise.
        split: of a set by name; None for its usual one.
        keep_columns: further columns of a Parquet file of pairs to pass through.
        limit: keep only so many pairs, from the start; None for all.

    Raises:
        SettingsError: nothing there, no pair in it, a value that is not what it should be, or URLs with credentials.
        StorageError: the storage did not answer.
    """
    notes: list[str] = []
    facts: dict[str, str] = {}
    paths = named_paths(images)
    images = paths[0] if len(paths) == 1 else told_paths(paths)
    suffix = posixpath.splitext(images.rstrip("/"))[1].lower() if len(paths) == 1 else ""
    named = pair_set(images) if len(paths) == 1 else None
    table: pa.Table | None = None
    if named is not None:
        _refuse(
            images, pairs=pairs, root=root, truth=truth, hidden=hidden, keep_columns=keep_columns, uri_column=uri_column
        )
        found, split, top = _of_set(*named, split, notes)
        facts = {"name": named[0].name, "split": split, "published": named[0].published}
        uris = [(pair.source, pair.target) for pair in found]
        ids = [(source.removeprefix(f"{top}/"), target.removeprefix(f"{top}/")) for source, target in uris]
    elif suffix in (".json", ".jsonl", ".csv", ".parquet") and (
        (given := _in_file(images, suffix, pairs, keep_columns, limit)) is not None
    ):
        _refuse(images, split=split, truth=truth, hidden=hidden, uri_column=uri_column)
        found = given
        ids, uris = _resolved(found, root or parent_of(images), images)
    else:
        catalog = read_catalog(
            paths,
            root=root,
            truth=truth,
            split=split,
            keep_columns=keep_columns,
            hidden=hidden,
            uri_column=uri_column,
        )
        notes, table = catalog.notes, catalog.table
        known = dict(zip(table["image_id"].to_pylist(), table["uri"].to_pylist(), strict=True))
        found = keypoints.paired([Instance(name) for name in known], pairs, redact(images), limit)
        ids = [(pair.source, pair.target) for pair in found]
        uris = [(known[source], known[target]) for source, target in ids]
    if not found:
        raise SettingsError(f"{redact(images)} has no pair in it. To mend it: check IMAGES")
    if limit is not None:
        found, ids, uris = found[:limit], ids[:limit], uris[:limit]
    own, of_pairs = tables_of(found, ids, uris, redact(images))
    require_no_secrets(own, images)
    same = sum(source == target for source, target in ids)
    if same:
        notes.append(f"{same} of {len(ids)} pairs match an image with itself")
    without = sum(pair.truth is None for pair in found)
    if 0 < without < len(found):
        notes.append(f"{without} of {len(found)} pairs have no true points: they are matched, and not scored")
    return Catalog(_with_facts(own, table), notes, pairs=of_pairs, pair_set=facts or None)


def _refuse(images: str, **given: object) -> None:
    """Refuse options that mean nothing for what was named.

    Raises:
        SettingsError: naming them.
    """
    idle = [name for name, value in given.items() if value not in (None, False, "given", (), [])]
    if idle:
        raise SettingsError(f"{', '.join(idle)}: no meaning for {redact(images)}. To mend it: leave it out")


def _with_facts(images: pa.Table, listed: pa.Table | None) -> pa.Table:
    """The images with all that was listed of them, where they were."""
    if listed is None:
        return images
    import pyarrow.compute as pc

    return listed.take(pc.index_in(images["image_id"], listed["image_id"]))


def _of_set(dataset: PairSet, root: str, split: str | None, notes: list[str]) -> tuple[list[Pair], str, str]:
    """The pairs of a split, its name, and the folder that all images are in."""
    name = next(iter(dataset.splits)) if split is None else split
    if name not in dataset.splits:
        raise SettingsError(f"split: {name!r} is not one of {' | '.join(dataset.splits)} of {dataset.name}")
    home = Home(dataset, root)
    found = dataset.read(home, name)
    notes += home.notes
    published = dataset.splits[name]
    if published is not None and len(found) != published:
        notes.append(
            f"{dataset.name} split {name!r}: {len(found)} pairs are there and {published} were published; scores are "
            "not comparable with published ones"
        )
    return found, name, home.url


def _in_file(images: str, suffix: str, pairs: Pairing, keep: Sequence[str], limit: int | None) -> list[Pair] | None:
    """The pairs of a file; None for a table of images."""
    if suffix == ".parquet":
        return files.pairs_of_parquet(images, keep) if files.is_pairs_parquet(images) else None
    if keep:
        raise SettingsError(f"keep_columns: {redact(images)} is no Parquet file and has no further columns")
    if suffix == ".jsonl":
        found = files.pairs_of_lines(images)
        _refuse(images, pairs=pairs)
        return found
    if suffix == ".csv":
        text = files.text_of(images)
        if keypoints.is_deeplabcut(text):
            return keypoints.paired(keypoints.instances_of_deeplabcut(text, images), pairs, redact(images), limit)
        _refuse(images, pairs=pairs)
        return files.pairs_of_csv(text, images)
    held = files.parsed(images)
    if keypoints.is_coco(held):
        return keypoints.paired(keypoints.instances_of_coco(held, images), pairs, redact(images), limit)
    _refuse(images, pairs=pairs)
    return files.pairs_of_json(held, images)


def _resolved(pairs: Sequence[Pair], root: str, images: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Ids and absolute URIs of the images of each pair."""
    import pyarrow as pa

    paths = pa.array([path for pair in pairs for path in (pair.source, pair.target)], pa.string())
    ids, uris = (each.to_pylist() for each in resolved(paths, root, images))
    return list(zip(ids[::2], ids[1::2], strict=True)), list(zip(uris[::2], uris[1::2], strict=True))
