"""A comparison of runs as files: the table in three formats, all differences, and a page with pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv

from simsam_batch import __version__
from simsam_batch.plain_text import counted
from simsam_batch.report.page.album import Album, Gallery, Picture
from simsam_batch.report.page.comparison_pictures import can_draw, row_to_draw, side_by_side
from simsam_batch.report.page.template import render
from simsam_batch.results.comparing import Joined
from simsam_batch.results.opening import existing_plan
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.records import to_json
from simsam_batch.stages.registry import shown
from simsam_batch.storage import Folder
from simsam_batch.telling.compare import about, cells, latex, markdown, note, table_csv

_LEGEND = {
    "objects": "The masks are blue, their boxes white, the outline of the truth yellow.",
    "labels": "Clusters have the colours of the classes that they were matched to; the truth stands last.",
    "trees": "The photograph, then the image cut at the first depths and into all leaves.",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: its cells as text, and which of them are bold."""

    cells: Sequence[str]
    bold: Sequence[bool]


def write_comparison(joined: Joined, to: Folder) -> list[str]:
    """Write the files of a comparison over those of an earlier one.

    ``table.md``, ``table.csv``, ``table.tex``, ``comparison.json``, ``settings.csv``, ``differences.csv`` (all images
    with the scores of all runs) and ``index.html`` with its ``pictures/``; the page runs no script, and shows the
    images that differ most, drawn from the images themselves.

    Args:
        joined: from `simsam_batch.results.comparing.compare_runs`.
        to: the folder.

    Returns:
        Names of the files, the page first.

    Raises:
        RunError: a run is damaged.
        StorageError: the storage did not answer.
    """
    record = joined.record
    galleries = _galleries(joined, Album(to, ""))
    names = [run["name"] for run in record["runs"]]
    settings = [(each["setting"], [_text(value) for value in each["values"]]) for each in record["settings"]]
    columns = {"setting": pa.array([name for name, _ in settings], pa.string())}
    for place, name in enumerate(names):
        columns[f"{place + 1}: {name}"] = pa.array([values[place] for _, values in settings], pa.string())
    files = {
        "table.md": markdown(record).encode("utf-8", "replace"),
        "table.csv": table_csv(record).encode("utf-8", "replace"),
        "table.tex": latex(record).encode("utf-8", "replace"),
        "comparison.json": to_json(record, "comparison.json"),
        "settings.csv": _csv(pa.table(columns)),
        "differences.csv": _csv(joined.table()),
    }
    head, *lines = cells(record, bold=lambda text: f"{_MARK}{text}")
    page = render(
        "comparison.html",
        names=names,
        about=about(record),
        note=note(record),
        head=head,
        lines=[
            Line([cell.removeprefix(_MARK) for cell in row], [cell.startswith(_MARK) for cell in row]) for row in lines
        ],
        settings=settings,
        galleries=galleries,
        legend=_LEGEND.get(_kind(joined), ""),
        drawn=can_draw(joined.runs[0]),
        version=__version__,
    )
    for name, content in files.items():
        to.replace(name, content)
    # the page comes last: one that is there has all that it leads to
    to.replace("index.html", page.encode("utf-8", "replace"))
    return ["index.html", *files]


_MARK = "\0"
"""What begins a cell that is bold; no cell holds it itself."""


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


def _csv(table: pa.Table) -> bytes:
    target = io.BytesIO()
    pcsv.write_csv(table, target)
    return target.getvalue()


def _kind(joined: Joined) -> str:
    what = shown(joined.runs[0].rows.stage)
    return "" if what is None else what.kind


def _galleries(joined: Joined, album: Album) -> list[Gallery]:
    """For each run but the first the images on which it differs most from that one."""
    if not can_draw(joined.runs[0]):
        return []
    plan = existing_plan(joined.runs[0].rows.out)
    base = joined.names[0]
    galleries = []
    for run, entry in enumerate(joined.record["differing"], 1):
        if entry["images"]:
            pictures = [_picture(joined, album, plan, run, image, entry["metric"]) for image in entry["images"]]
            title = f"{joined.names[run]} against {base}"
            told = f"Where {entry['metric']} differs most: {counted(len(pictures), 'image')}, the greatest first."
            galleries.append(Gallery(title, told, pictures, wide=True))
    return galleries


def _picture(joined: Joined, album: Album, plan: Plan, run: int, image: dict[str, Any], metric: str) -> Picture:
    at = image["place"]
    named = []
    for which, score in ((0, image["base"]), (run, image["other"])):
        scored = joined.runs[which]
        caption = f"{joined.names[which]}: {metric} {score:.3f}"
        named.append((caption, scored, row_to_draw(scored, int(joined.places[which][at]))))
    first = joined.runs[0]
    number = int(first.number[joined.places[0][at]])
    uri = first.truth.get(image["image_id"])
    if uri is None:
        shard, place = plan.place_of(number)
        uri = plan.shard(shard).records["truth_uri"][place].as_py()
    drawn = side_by_side(named, uri)
    small, large = (
        album.add(f"{number:07d}-{run}-{size}", content)
        for size, content in (("small", drawn.small), ("large", drawn.large))
    )
    facts = [f"{image['base']:.3f} to {image['other']:.3f}", f"{image['difference']:+.3f}"]
    alt = f"{image['image_id']}: {'; '.join(caption for caption, *_ in named)}"
    return Picture(image["image_id"], small, large, drawn.size, alt, facts, drawn.fault)
