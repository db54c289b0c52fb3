"""The last lines of a command that computes: what was made, how good or how sure it is, and what comes next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from simsam_batch.catalog.folders import is_file
from simsam_batch.plain_text import counted
from simsam_batch.report.exports.formats import CHOICES, FORMATS, RECORD
from simsam_batch.runs.reading import StageRows
from simsam_batch.stages.registry import shown
from simsam_batch.storage import Folder, absolute_url

if TYPE_CHECKING:
    import pyarrow as pa

_MADE = {"objects": "object mask", "labels": "label map", "trees": "region tree"}
_BY = {
    "none": "as coarse as patches; --refine follows edges, in another OUT",
    "guided": "their edges by a guided filter",
    "crf": "their edges by a dense CRF",
    "crf-upstream": "their edges by a dense CRF",
}
_TO_LOOK_AT = {
    "cutout": "objects without what is around them",
    "overlay": "drawn over the photographs",
    "csv": "a line for each point",
    "pictures": "a picture for each image",
}
"""Formats of an export that people would look at first, in this order, and in words."""

_SCORES = {
    "iou_per_image_mean": "mean IoU",
    "miou": "mIoU",
    "nmcovering": "NMCovering",
    "pck_0.1_per_point": "PCK at 0.1, per point",
    "pck_0.1": "PCK at 0.1",
}


def closing_lines(out: str, result: Mapping[str, Any]) -> list[str]:
    """What people read when a command has come to its end.

    Args:
        out: the run's folder, as it was given.
        result: what the results of the command's main stage hold (`simsam_batch.runs.publish.publish`).

    Returns:
        Lines; every command in them can be typed as it is.

    Raises:
        StorageError: the published rows cannot be read.
    """
    stage, where = str(result["stage"]), shlex.quote(out)
    how = _how_good(stage, out, result)
    opened = f"import simsam_batch; run = simsam_batch.open_run({out!r}); run"
    return [
        *_made(stage, out, result),
        *how,
        *_next(stage, out, where, result, sure=bool(how)),
        f"in a notebook: {opened}  # then run.scores, or run.show(id) of an image",
    ]


def _made(stage: str, out: str, result: Mapping[str, Any]) -> list[str]:
    what = shown(stage)
    if what is None:
        return []
    made, by = counted(int(result["ok"]), _MADE[what.kind]), _BY.get(str(result["settings"].get("refine")), "")
    if result["settings"].get("objects"):
        import pyarrow.compute as pc

        parts = StageRows(Folder(absolute_url(out)), stage).leaves(["status", "objects.list.element.score"])
        found = sum(pc.sum(pc.list_value_length(each["objects"])).as_py() or 0 for each in _good(parts))
        made = f"{counted(found, 'object')} in {counted(int(result['ok']), 'image')}"
    return [f"made: {made}{', ' + by if by else ''}"]


def _good(parts: Iterable[tuple[int, pa.Table]]) -> Iterator[pa.Table]:
    """Of rows with their status those that are ``ok``."""
    import pyarrow.compute as pc

    return (each.filter(pc.equal(each["status"], "ok")) for _, each in parts)


def _how_good(stage: str, out: str, result: Mapping[str, Any]) -> list[str]:
    """The score, or where there is no truth how sure the run itself is."""
    metrics = result["metrics"]
    for name, words in _SCORES.items():
        if isinstance(metrics.get(name), float):
            low, high = metrics.get(f"{name}_ci") or (None, None)
            interval = "" if low is None else f", 95 % interval {low:.2f} to {high:.2f}"
            return [f"how good: {words} {metrics[name]:.2f}{interval}"]
    rows = StageRows(Folder(absolute_url(out)), stage)
    if "confidence" not in rows.schema.names:
        return []
    good = _good(rows.batches(["status", "confidence"]))
    values = np.concatenate([np.asarray(each["confidence"].drop_null()) for each in good])
    if not len(values):
        return []
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return [f"how sure: confidence {middle:.2f} of 1 (median), of half of them {low:.2f} to {high:.2f}"]


def _next(stage: str, out: str, where: str, result: Mapping[str, Any], *, sure: bool) -> list[str]:
    worst = ", the worst or the least sure first if you like" if sure else ""
    commands = [
        (f"simsam view {where}", f"look at them in a browser{worst}"),
        (f"simsam report {where}", "a page with pictures, scores and times"),
    ]
    chosen = next((name for name in _TO_LOOK_AT if FORMATS[name].fits(stage)), None)
    if chosen is not None:
        to = shlex.quote(_folder_for(chosen if "://" in out else f"{out.rstrip('/')}-{chosen}", result))
        commands.append((f"simsam export {where} --format {chosen} --to {to}", _TO_LOOK_AT[chosen]))
    if failed := int(result["failed"]):
        commands.append((f"simsam retry {where}", f"try the {counted(failed, 'failed one')} again"))
    wide = max(len(command) for command, _ in commands)
    return ["next:", *(f"  {command:{wide}}  # {words}" for command, words in commands)]


def _is_plain(record: bytes, content_digest: str) -> bool:
    """Whether an export is of these results, and was asked for without options, as it would be once more."""
    try:
        held = json.loads(record)
        return held["content_digest"] == content_digest and all(held.get(name) is None for name in CHOICES)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _folder_for(name: str, result: Mapping[str, Any]) -> str:
    """A folder that an export may go to: of this name, or numbered where one of other content is.

    A run that has grown may have been exported before, to the folder that was named then.
    """

    def may_go(path: str) -> bool:
        if is_file(path):
            return False
        folder = Folder(absolute_url(path))
        there = folder.entries()
        return not there or (RECORD in there and _is_plain(folder.read(RECORD), str(result["content_digest"])))

    return next(filter(may_go, (name, *(f"{name}-{number}" for number in range(2, 1000)))), name)
