"""Which images probes are fitted on and which they are scored on, as the settings say; and the order of budgets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.catalog.sequences import sequences_of
from simsam_batch.errors import SettingsError
from simsam_batch.plain_text import counted
from simsam_batch.runs.plan import Plan
from simsam_batch.stages.subsets.settings import SubsetsSettings
from simsam_batch.storage import ObjectNotFound, read_url, redact

Records = NDArray[np.int64]
"""Images by their places in the plan, ascending."""

_SHARE = re.compile(r"0?\.\d+")
_NAMED = 3
_SPLIT = "split"
_HALF = ".5"


@dataclass(frozen=True, slots=True)
class Roles:
    """What images are for.

    Attributes:
        ids: of all images of the plan.
        train, val: places in the plan of those that probes are fitted on, and scored on.
        with_truth: (N,) which images have any.
        settings: by which they were chosen.
    """

    ids: Sequence[str]
    train: Records
    val: Records
    with_truth: NDArray[np.bool_]
    settings: SubsetsSettings

    @property
    def notes(self) -> list[str]:
        """What people should know, one sentence each."""
        ids, train, val, settings = self.ids, self.train, self.val, self.settings
        notes = [f"probes are fitted on {counted(len(train), 'image')} and scored on {counted(len(val), 'image')}"]
        without = {side: each[~self.with_truth[each]] for side, each in (("train", train), ("val", val))}
        told = [f"{len(each)} of {side}" for side, each in without.items() if len(each)]
        if told:
            first = [ids[place] for each in without.values() for place in each[:_NAMED].tolist()]
            named = ", ".join(first[:_NAMED]) + (" and others" if sum(map(len, without.values())) > _NAMED else "")
            notes.append(f"{' and '.join(told)} have no truth ({named}): they are neither fitted on nor scored")
        too_small = [f for f in settings.fractions if f * len(train) < 1 - 1e-9]
        if too_small:
            named = ", ".join(f"{each:g}" for each in too_small)
            many = counted(len(train), "train image")
            notes.append(f"fractions: {named} of {many} is none; one image is taken instead")
        if settings.group is None:
            notes += _sequences_on_both_sides(ids, train, val)
        return notes


def roles_of(plan: Plan, settings: SubsetsSettings) -> Roles:
    """Sort the images of a plan; memory holds their ids and the columns that are asked for.

    Raises:
        SettingsError: no image is left for a side, a column or list that cannot be used, or images or groups on both
            sides that are not allowed there.
    """
    ids, columns = _read(plan)
    groups = _groups(ids, columns, settings.group)
    with_truth = np.array([uri is not None for uri in columns["truth_uri"]])
    if not with_truth.any():
        raise SettingsError(
            "truth: no image has any, and probes are fitted to it. To mend it: give --truth FOLDER of class id images, "
            "a table with a column truth_uri, or a dataset by name that has class ids"
        )
    split = set(columns.get(_SPLIT, ()))
    choices = {"train": settings.train, "val": settings.val}
    if {"train", "val"} <= split:
        choices = {side: choices[side] or f"{_SPLIT}={side}" for side in choices}
    train: Records | None = None
    val: Records | None = None
    if choices["train"] is None and choices["val"] is None:
        choices["train"] = _HALF
    if choices["train"] is not None:
        train = _chosen("train", choices["train"], ids, columns, groups, settings.seed)
    if choices["val"] is not None:
        val = _chosen("val", choices["val"], ids, columns, groups, settings.seed)
    every = np.arange(len(ids))
    if train is None:
        assert val is not None  # noqa: S101  one of them is always chosen
        train = np.setdiff1d(every, val)
    if val is None:
        val = np.setdiff1d(every, train)
    for side, records in (("train", train), ("val", val)):
        if not with_truth[records].any():
            raise SettingsError(
                f"{side}: {_choice(choices[side])} leaves {counted(len(records), 'image')}, none of them with truth. "
                "To mend it: choose others"
            )
    if settings.overlap == "refuse":
        _require_apart(ids, train, val, groups, columns, settings.group)
    return Roles(ids, train, val, with_truth, settings)


def order_of(ids: Sequence[str], seed: int) -> NDArray[np.int64]:
    """The places of some ids in an order drawn by a seed, in which each id's place depends on no other's draw."""
    key = f"subset {seed}".encode()
    draws = [blake2b(name.encode(), digest_size=8, key=key).digest() for name in ids]
    return np.array(sorted(range(len(ids)), key=draws.__getitem__), np.int64)


def rare_first(order: NDArray[np.int64], holds: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The same places, so that every beginning holds as many classes as it can, those of few images first.

    In rounds, each class in turn, from the one that fewest images hold, takes the next image in the order that holds it
    and is not taken yet.

    Args:
        order: (n,) places of images in a drawn order.
        holds: (n, C) which classes the image at each place holds.

    Returns:
        (n,) places; images without any class last.
    """
    images = holds.sum(axis=0)
    classes = [c for c in np.argsort(images, kind="stable").tolist() if images[c]]
    waiting = {c: iter(order[holds[order, c]].tolist()) for c in classes}
    taken = np.zeros(len(order), np.bool_)
    found: list[int] = []
    while waiting:
        for c in list(waiting):
            place = next((place for place in waiting[c] if not taken[place]), None)
            if place is None:
                del waiting[c]
            else:
                taken[place] = True
                found.append(place)
    return np.array([*found, *(place for place in order.tolist() if not taken[place])], np.int64)


def images_of_share(fraction: float, images: int) -> int:
    """How many images a share of some is: rounded down, and one at least."""
    # a share such as .29 of 100 is a little less in binary
    return max(1, int(fraction * images + 1e-9))


def _read(plan: Plan) -> tuple[list[str], dict[str, list[Any]]]:
    """The ids, and the plan's further columns with where the truth is."""
    ids: list[str] = []
    columns: dict[str, list[Any]] = {}
    for number in range(plan.shards):
        records = plan.shard(number).records
        ids += records["image_id"].to_pylist()
        for name in records.column_names:
            if name not in ("image_id", "uri", "size", "etag", "shard"):
                columns.setdefault(name, []).extend(records[name].to_pylist())
    return ids, columns


def _choice(text: str | None) -> str:
    return "all that the other side leaves" if text is None else repr(text)


def _chosen(
    side: str,
    text: str,
    ids: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    groups: NDArray[np.int64],
    seed: int,
) -> Records:
    if _SHARE.fullmatch(text):
        return _share(float(text), groups, ids, seed)
    if text.endswith(".txt"):
        return _listed(side, text, ids)
    name, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(
            f"{side}: {text!r} is not known. To mend it: give COLUMN=VALUE, a list of ids that ends in .txt, or a "
            "share between 0 and 1 such as .5"
        )
    if name not in columns:
        has = ", ".join(sorted(set(columns) - {"truth_uri"})) or "none"
        mend = "keep it by --keep-columns" if name != _SPLIT else "give --split train+val with a dataset by name"
        raise SettingsError(f"{side}: the images have no column {name!r}; they have {has}. To mend it: {mend}")
    found = np.flatnonzero([str(each) == value for each in columns[name]])
    if not len(found):
        there = sorted({str(each) for each in columns[name]})
        shown = ", ".join(there[:_NAMED]) + (" and others" if len(there) > _NAMED else "")
        raise SettingsError(f"{side}: no image has {text}; the column {name} holds {shown}")
    return found


def _share(share: float, groups: NDArray[np.int64], ids: Sequence[str], seed: int) -> Records:
    """Whole groups in a drawn order, until they hold so many of the images."""
    _, first, members = np.unique(groups, return_index=True, return_inverse=True)
    order = order_of([ids[place] for place in first.tolist()], seed)
    sizes = np.bincount(members)[order]
    many = int(np.searchsorted(np.cumsum(sizes), share * len(ids) + 1e-9, side="right"))
    # one group at least on either side, if there are two
    many = min(max(many, 1), max(len(order) - 1, 1))
    return np.flatnonzero(np.isin(members, order[:many]))


def _listed(side: str, url: str, ids: Sequence[str]) -> Records:
    try:
        lines = read_url(url).decode("utf-8").splitlines()
    except (ObjectNotFound, UnicodeDecodeError) as error:
        raise SettingsError(f"{side}: {redact(url)} cannot be read as text: {error}") from error
    wanted = {line.strip() for line in lines if line.strip()}
    # lists that come with datasets name images without their suffix
    by_stem = {name.rpartition(".")[0] or name: name for name in ids}
    known = set(ids)
    named = {name if name in known else by_stem.get(name) for name in wanted}
    missing = sorted(name for name in wanted if name not in known and name not in by_stem)
    if missing or not wanted:
        shown = ", ".join(missing[:_NAMED]) + (" and others" if len(missing) > _NAMED else "")
        what = f"names {counted(len(missing), 'image')} that the run has not: {shown}" if missing else "names no image"
        raise SettingsError(f"{side}: {redact(url)} {what}. To mend it: list ids as in the column image_id, one a line")
    return np.flatnonzero([name in named for name in ids])


def _groups(ids: Sequence[str], columns: Mapping[str, Sequence[Any]], group: str | None) -> NDArray[np.int64]:
    if group is None:
        return np.arange(len(ids))
    if group == "folder":
        values: Sequence[Any] = [name.rpartition("/")[0] for name in ids]
    elif group == "sequence":
        values = sequences_of(ids)
    elif group in columns:
        values = columns[group]
    else:
        has = ", ".join(sorted(set(columns) - {"truth_uri"})) or "none"
        raise SettingsError(
            f"group: the images have no column {group!r}; they have {has}. To mend it: keep it by --keep-columns, or "
            "use folder or sequence"
        )
    # an image without a value is a group of its own
    names = [("own", i) if value is None else ("group", str(value)) for i, value in enumerate(values)]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names], np.int64)


def _require_apart(
    ids: Sequence[str],
    train: Records,
    val: Records,
    groups: NDArray[np.int64],
    columns: Mapping[str, Sequence[Any]],
    group: str | None,
) -> None:
    both = np.intersect1d(train, val)
    if len(both):
        shown = ", ".join(ids[place] for place in both[:_NAMED].tolist())
        raise SettingsError(
            f"train, val: {counted(len(both), 'image')} would stand on both sides ({shown}), so that probes are scored "
            "on what they were fitted on. To mend it: choose others, or allow it by --overlap allow"
        )
    shared = np.intersect1d(groups[train], groups[val])
    if len(shared):
        places = [int(np.flatnonzero(groups == each)[0]) for each in shared[:_NAMED]]
        named = ", ".join(str(columns[group][place]) if group and group in columns else ids[place] for place in places)
        raise SettingsError(
            f"group: {counted(len(shared), 'group')} of {group} would stand on both sides ({named}). To mend it: "
            "choose train and val by whole groups, as a share does, or allow it by --overlap allow"
        )


def _sequences_on_both_sides(ids: Sequence[str], train: Records, val: Records) -> list[str]:
    names = sequences_of(ids)
    fitted = Counter(names[place] for place in train.tolist() if names[place] is not None)
    scored = Counter(names[place] for place in val.tolist() if names[place] is not None)
    both = [name for name in scored if name in fitted]
    if not both:
        return []
    images = sum(scored[name] for name in both)
    named = ", ".join(map(str, both[:_NAMED])) + (" and others" if len(both) > _NAMED else "")
    note = (
        f"{images} of {len(val)} val images are numbered as frames of sequences that train has frames of ({named}): "
        "scores on them tell little of other images. --group sequence keeps sequences whole"
    )
    return [note]
