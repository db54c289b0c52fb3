"""Runs of one command side by side: their images joined by id, scores compared image by image, settings that differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from simsam_batch.errors import SettingsError
from simsam_batch.plain_text import counted
from simsam_batch.results.image_scores import SET_SCORE, ImageScores, command_name, image_scores, stage_to_compare
from simsam_batch.results.label_maps import recorded_settings
from simsam_batch.runs.schema import SCHEMA_VERSION
from simsam_batch.scores.paired import DRAWS, Mean, bootstrap_mean
from simsam_batch.scores.poisson_bootstrap import BootstrapCounts
from simsam_batch.scores.probing import PREDICTED, TRUE, mean_iou
from simsam_batch.stages.registry import command_of
from simsam_batch.storage import absolute_url, redact

_LONGEST = 200
_FEW_GROUPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """What is compared of runs, and how.

    Attributes:
        stage: whose rows; None: the first of the first run whose images have scores.
        metrics: names of scores or of columns of numbers; none: all scores that the stage has.
        by: name of a column that the runs have kept, or a regular expression that is looked for in each id: images with
            the same value, or the same first group of the match, belong together, as the frames of a video do.
        truth: folder of truth to compare masks or label maps with; None: the scores that the rows have.
        names: of the runs in the table; none: the last part of each URL.
        differing: how many images that differ most are named for each run.
    """

    stage: str | None = None
    metrics: tuple[str, ...] = ()
    by: str | None = None
    truth: str | None = None
    names: tuple[str, ...] = ()
    differing: int = 10


@dataclass(frozen=True, slots=True)
class Joined:
    """Runs whose images have been joined; the first is what others are compared with.

    Attributes:
        names: of the runs.
        runs: their images with scores, as read.
        places: (J,) int64 for each run: which of its rows is of each joined image.
        groups: (J,) int64 the group of each joined image, from 0 on; None: each is by itself.
        group_names: of the groups.
        record: what is said of them as plain JSON values, see `compare_runs`.
    """

    names: Sequence[str]
    runs: Sequence[ImageScores]
    places: Sequence[NDArray[np.int64]]
    groups: NDArray[np.int64] | None
    group_names: Sequence[str]
    record: dict[str, Any]

    def values(self, run: int, metric: str) -> NDArray[np.float64]:
        """(J,) the scores of one run on the joined images."""
        return self.runs[run].values[metric][self.places[run]]

    @property
    def ids(self) -> pa.ChunkedArray:
        """(J,) of the joined images."""
        return self.runs[0].ids.take(pa.array(self.places[0]))

    def table(self) -> pa.Table:
        """All joined images: id, group and every score of every run."""
        columns: dict[str, Any] = {self.runs[0].rows.unit: self.ids}
        if self.groups is not None:
            columns["group"] = pa.array(self.group_names, pa.string()).take(pa.array(self.groups))
        for metric in _shared(self.runs):
            for run, name in enumerate(self.names):
                columns[f"{metric} of {name}"] = pa.array(self.values(run, metric), from_pandas=True)
        return pa.table(columns)


def compare_runs(urls: Sequence[str], options: CompareOptions, note: Callable[[str], None]) -> Joined:
    """Join runs of one command by the ids of their images, and compare their scores image by image with the first's.

    An image counts if all runs have it, of the same content, and with a score. Memory holds a few columns of all rows.

    Args:
        urls: of two runs or more, as paths or any fsspec URL; they may be going on. One may be given twice.
        options: see there.
        note: is told what people should know.

    Returns:
        The runs joined. Their ``record`` has ``command``, ``stage``, ``unit``, ``runs`` (each with its ``name``,
        ``run``, counts of images and why some are left out), ``images`` joined, ``by`` and ``groups``, ``metrics`` (for
        each the images it is over and of each run ``mean``, ``ci``, and but for the first ``difference``,
        ``difference_ci``, ``wins``, ``losses``, ``ties``), ``differing`` (for each other run the images that differ
        most in the first metric) and ``settings`` (those that are not the same, with each run's value).

    Raises:
        SettingsError: fewer than two runs, no run at a URL, runs of different commands, no common image, or none with
            a score; or an option that cannot be.
        RunError: a run is damaged.
        StorageError: the storage did not answer.
    """
    if len(urls) < 2:
        raise SettingsError("compare: it takes two runs at least. To mend it: simsam compare RUN RUN")
    names = _names(urls, options.names)
    stage = stage_to_compare(urls[0], options.stage)
    for url in urls[1:]:
        _check_same_stage(urls[0], url, stage, options.stage)
    kept = () if options.by is None else (options.by,)
    runs = [image_scores(url, stage, options.metrics, kept, options.truth, note) for url in urls]
    for run, url in zip(runs, urls, strict=True):
        if not run.scored.any():
            raise SettingsError(
                f"{redact(absolute_url(url))}: none of the {len(run.number):,} rows of the stage {stage} has a score. "
                "To mend it: give --truth FOLDER, which compares the masks that are there with a truth, as simsam "
                "score does; or begin the run anew with --truth"
            )
    metrics = _shared(runs)
    if not metrics:
        raise SettingsError(
            "the runs have no score in common: one was scored by masks, another by classes. To mend it: give runs "
            "whose truth is of one kind"
        )
    common, places, elsewhere, other_content = common_images(runs)
    if not common:
        raise SettingsError(
            f"the runs have no image in common: the first has such as {runs[0].ids[0].as_py()!r}, another such as "
            f"{runs[-1].ids[0].as_py()!r}"
            + (", and the files of those with one id are not the same" if other_content else "")
            + ". To mend it: give runs over the same images"
        )
    scored = np.logical_and.reduce([run.scored[at] for run, at in zip(runs, places, strict=True)])
    if not scored.any():
        raise SettingsError(
            f"none of the {common:,} images that all runs have has a score in each. To mend it: give --truth FOLDER"
        )
    said = [_said_of(*each) for each in zip(names, urls, runs, places, elsewhere, strict=True)]
    places = [at[scored] for at in places]
    groups, group_names = _groups(runs[0], places[0], options.by)
    if groups is not None and len(group_names) < _FEW_GROUPS:
        few = counted(len(group_names), "group")
        note(f"by: an interval from {few} is narrower than it should be; of one group there is none")
    record = {
        "schema_version": SCHEMA_VERSION,
        "command": command_of(stage).name,
        "stage": stage,
        "unit": runs[0].rows.unit,
        "runs": said,
        "common": common,
        "images": len(places[0]),
        "other_content": other_content,
        "by": options.by,
        "groups": None if groups is None else len(group_names),
        "draws": DRAWS,
        "metrics": [],
        "differing": [],
        "settings": differing_settings(runs),
    }
    joined = Joined(names, runs, places, groups, group_names, record)
    of_set = _set_score(joined) if runs[0].labels is not None else None
    record["metrics"] = [*([of_set] if of_set else []), *(_metric(joined, name) for name in metrics)]
    record["differing"] = [_differing(joined, run, metrics[0], options.differing) for run in range(1, len(runs))]
    return joined


def _shared(runs: Sequence[ImageScores]) -> list[str]:
    """Names of the scores that all runs have."""
    return [name for name in runs[0].values if all(name in run.values for run in runs)]


def _names(urls: Sequence[str], given: Sequence[str]) -> list[str]:
    """What each run is called in the table, no two the same."""
    if given and (len(given) != len(urls) or len(set(given)) < len(given)):
        raise SettingsError(f"name: {len(urls)} runs need as many names, no two the same; there are {len(given)}")
    if given:
        return list(given)
    plain = [redact(absolute_url(url)).rstrip("/") for url in urls]
    for parts in (1, 2, 3):
        names = ["/".join(url.split("/")[-parts:]) for url in plain]
        if len(set(names)) == len(set(plain)):
            break
    else:
        names = plain
    return [
        name if name not in names[:at] else f"{name} ({names[:at].count(name) + 1})" for at, name in enumerate(names)
    ]


def _check_same_stage(first: str, url: str, stage: str, wanted: str | None) -> None:
    own = stage_to_compare(url, None)
    try:
        stage_to_compare(url, stage)
    except SettingsError:
        if wanted is not None:
            raise
        raise SettingsError(
            f"runs of different commands: {redact(absolute_url(first))} has the stage {stage} of "
            f"{command_name(stage)}, {redact(absolute_url(url))} has {own} of {command_name(own)}. To mend it: compare "
            "runs of one command"
        ) from None


def common_images(runs: Sequence[ImageScores]) -> tuple[int, list[NDArray[np.int64]], list[int], int]:
    """The images that all runs have with the same content.

    Returns:
        How many; which row of each run each is, in the order of the first run; how many of each run's are in it and not
        in all; how many have the same id in all and another content in one.
    """
    first = runs[0]
    places = [np.arange(len(first.number))]
    for run in runs[1:]:
        found = pc.index_in(first.ids, value_set=run.ids.combine_chunks())
        places.append(np.asarray(found.fill_null(-1).to_numpy(), dtype=np.int64))
    there = np.logical_and.reduce([each >= 0 for each in places])
    by_id = int(there.sum())
    places = [each[there] for each in places]
    same = np.ones(by_id, dtype=np.bool_)
    for run, at in zip(runs[1:], places[1:], strict=True):
        if first.content is not None and run.content is not None:
            pair = [
                each.content.take(pa.array(where)) for each, where in ((first, places[0]), (run, at)) if each.content
            ]
            # a file that could not be read has no digest
            same &= np.asarray(pc.equal(*pair).fill_null(True).to_numpy(), dtype=np.bool_)
    elsewhere = [len(run.number) - by_id for run in runs]
    return int(same.sum()), [each[same] for each in places], elsewhere, by_id - int(same.sum())


def _said_of(name: str, url: str, run: ImageScores, at: NDArray[np.int64], elsewhere: int) -> dict[str, Any]:
    """What is told of a run: how many images it has, and why some are not compared."""
    ok, scored = run.ok[at], run.scored[at]
    return {
        "name": name,
        "run": redact(absolute_url(url)),
        "finished": run.rows.published,
        "images": len(run.number),
        "not_in_all": elsewhere,
        "failed": int((~ok & ~scored).sum()),
        "without_score": int((ok & ~scored).sum()),
    }


def _groups(run: ImageScores, at: NDArray[np.int64], by: str | None) -> tuple[NDArray[np.int64] | None, Sequence[str]]:
    """The group of each image, and the groups' names in the order in which they come."""
    if by is None:
        return None, ()
    if by in run.kept:
        values = run.kept[by].take(pa.array(at)).cast(pa.string()).fill_null("")
    else:
        values = pa.chunked_array([pa.array(_matches(run.ids.take(pa.array(at)), by, run.rows.unit), pa.string())])
    encoded = values.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    return np.asarray(encoded.indices.to_numpy(), dtype=np.int64), names


def _matches(ids: pa.ChunkedArray, by: str, unit: str) -> list[str]:
    try:
        pattern = re.compile(by)
    except re.error as error:
        raise SettingsError(
            f"by: {by!r} is neither a column that the runs have kept nor a regular expression: {error}. To mend it: "
            r"give one such as '^(.*)-\d+'"
        ) from error
    found, lacking = [], []
    for name in ids.to_pylist():
        match = pattern.search(name)
        if match is None:
            lacking.append(name)
        else:
            found.append((match.group(1) if pattern.groups else match.group()) or "")
    if lacking:
        raise SettingsError(
            f"by: {by!r} is not a column that the runs have kept, and as a regular expression is not found in "
            f"{len(lacking):,} of {len(ids):,} values of {unit}, such as {lacking[0]!r}. To mend it: give one that is "
            "found in all"
        )
    return found


def _metric(joined: Joined, name: str) -> dict[str, Any]:
    values = [joined.values(run, name) for run in range(len(joined.runs))]
    return compared(name, joined.names, values, joined.groups)


def compared(
    metric: str,
    names: Sequence[str],
    scores: Sequence[NDArray[np.float64]],
    groups: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """One line of the table for each run, over the images on which all of them have a score.

    Args:
        metric: its name.
        names: of the runs.
        scores: (J,) of each run on the same images, NaN where it has none.
        groups: (J,) the group of each image; None: each by itself.

    Returns:
        ``metric``, ``images``, and ``runs``: none without an image, else of each ``mean``, ``ci``, and but for the
        first ``difference``, ``difference_ci``, ``wins``, ``losses``, ``ties``.
    """
    values = np.stack(scores)
    held = np.isfinite(values).all(axis=0)
    values = values[:, held]
    groups = None if groups is None else groups[held]
    runs: list[dict[str, Any]] = []
    if values.size:
        for run, own in enumerate(values):
            runs.append(_mean(names[run], bootstrap_mean(own, groups)))
            if run:
                apart = own - values[0]
                runs[-1] |= _difference(bootstrap_mean(apart, groups))
                counts = {"wins": apart > 0, "losses": apart < 0, "ties": apart == 0}
                runs[-1] |= {each: int(np.count_nonzero(which)) for each, which in counts.items()}
    return {"metric": metric, "images": int(held.sum()), "runs": runs}


def _mean(name: str, mean: Mean) -> dict[str, Any]:
    return {"name": name, "mean": mean.value, "ci": [mean.low, mean.high]}


def _difference(mean: Mean) -> dict[str, Any]:
    return {"difference": mean.value, "difference_ci": [mean.low, mean.high]}


def _set_score(joined: Joined) -> dict[str, Any]:
    """The mean IoU over classes of the set, from the confusions of the joined images added up; by group if given.

    The protocol is ``semantic``, see `simsam_batch.scores.semantic`: the mean is over the classes that the truth holds.
    """
    labels = [run.labels for run in joined.runs]
    classes = {each.classes for each in labels if each is not None}
    if len(classes) != 1 or None in labels:
        raise SettingsError(
            "the runs were scored with other classes. To mend it: give --truth FOLDER, the same for all"
        )
    counts = BootstrapCounts(len(labels), len(classes.pop()))
    streams = [each.each(at) for each, at in zip(labels, joined.places, strict=True) if each is not None]
    for several in zip(*streams, strict=True):
        part = several[0][0]
        numbers = np.arange(part.start, part.stop) if joined.groups is None else joined.groups[part]
        counts.add(np.stack([each for _, each in several], axis=1), numbers)
    for sums in (counts.totals, counts.sums):
        # a class that the truth of a set does not hold is none of its mean
        sums[..., PREDICTED, :] *= sums[..., TRUE, :] > 0
    runs = []
    for run, name in enumerate(joined.names):
        low, high = counts.interval(run)
        runs.append(_mean(name, Mean(mean_iou(counts.totals[run]), low, high)))
        if run:
            runs[-1] |= _difference(Mean(*counts.difference(run, 0)))
    return {"metric": SET_SCORE, "images": len(joined.places[0]), "runs": runs}


def _differing(joined: Joined, run: int, metric: str, most: int) -> dict[str, Any]:
    """The images on which a run differs most from the first, the greatest difference first."""
    base, own = joined.values(0, metric), joined.values(run, metric)
    apart = np.abs(np.nan_to_num(own - base))
    order = np.argsort(-apart, kind="stable")[:most]
    order = order[apart[order] > 0]
    ids = joined.ids.take(pa.array(order)).to_pylist()
    images = [
        {
            "image_id": name,
            "place": at,
            "base": float(base[at]),
            "other": float(own[at]),
            "difference": float(own[at] - base[at]),
        }
        for name, at in zip(ids, order.tolist(), strict=True)
    ]
    return {"name": joined.names[run], "metric": metric, "images": images}


def differing_settings(runs: Sequence[ImageScores]) -> list[dict[str, Any]]:
    """Result settings, and what weights they came down to, that are not the same in all runs."""
    found = [_settings(run) for run in runs]
    names = dict.fromkeys(name for each in found for name in each)
    values = {name: [each.get(name) for each in found] for name in names}
    return [
        {"setting": name, "values": several}
        for name, several in values.items()
        if any(each != several[0] for each in several)
    ]


def _settings(run: ImageScores) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for stage in command_of(run.rows.stage).stages:
        found |= recorded_settings(run.rows.out, stage)
        if stage == run.rows.stage:
            break
    for model, facts in (run.rows.resolved.get("models") or {}).items():
        if isinstance(facts, Mapping):
            found |= {f"{model}: {name}": value for name, value in facts.items()}
    return {name: _short(value) for name, value in found.items()}


def _short(value: Any) -> Any:
    """Numbers, booleans and nothing as they are; anything else as text of bounded length."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = redact(str(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}\N{HORIZONTAL ELLIPSIS}"
