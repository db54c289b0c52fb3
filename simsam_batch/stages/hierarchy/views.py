"""The chapter of region trees: how well nodes cover the truth, what trees are like, and the labels of their nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simsam_batch.plain_text import counted
from simsam_batch.report.page.album import Picture
from simsam_batch.report.page.chapters import (
    Chapter,
    Source,
    Titled,
    begun,
    dots,
    leading,
    numbers_of,
    scores_or_so_far,
    show,
)
from simsam_batch.report.page.choice import at_random, by_label, highest, lowest, middle, sample
from simsam_batch.report.page.clusters import MOST_CLUSTERS, Cluster, clusters_of
from simsam_batch.report.page.pictures import draw_tree
from simsam_batch.report.page.plots import MOST_DOTS, histogram, scatter
from simsam_batch.report.page.scalars import Scalars, tables_of
from simsam_batch.runs.reading import StageRows
from simsam_batch.stages.registry import Command

_SCALARS = ["nmcovering", "leaves", "depth"]
_COLUMNS = ["image_id", "uri", "status", "error_type", "error", "width", "height", "content_sha256", "grid_h", "grid_w"]
_COLUMNS += ["patch", "superpixel_map", "leaf_masks", "nodes", "leaves", "depth", "nmcovering"]

_LEGEND = (
    "The photograph, then the image cut at depth 1 to 4, and into all leaves; a region's colour is near that of "
    "the one it is part of. Behind a picture stand all depths and the whole tree."
)


def chapter(source: Source, command: Command, stages: Sequence[str]) -> Chapter:
    """Scores, distributions and pictures of region trees, and the labels of their nodes if these were clustered.

    Raises:
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    made, works = begun(source, command, stages)
    trees = StageRows(source.out, "hierarchy")
    numbers = Scalars(trees, source.plan, _SCALARS)
    covering = numbers["nmcovering"]
    made.scores = scores_or_so_far(source, "hierarchy", "nmcovering", covering)
    made.plots_note = numbers.note
    if np.isfinite(covering).any():
        made.plots.append(histogram("Covering of the truth", "NMCovering", covering, (0.0, 1.0)))
        title = "Do more leaves cover better?"
        plot = scatter(title, "leaves", "NMCovering", numbers["leaves"], covering, dots(len(numbers), MOST_DOTS))
        made.plots += [] if plot is None else [plot]
    if numbers.ok.any():
        made.plots.append(histogram("Leaves of a tree", "leaves", numbers["leaves"]))
        made.plots.append(histogram("Depth of a tree", "depth", numbers["depth"]))

    labels = StageRows(source.out, "labels") if "labels" in works else None
    found: dict[int, tuple[int, list[int]]] = {}
    if labels is not None and len(labels):
        found = by_label(tables_of(labels, source.plan, ["labels"]), source.samples)
        # label 0 stands for nodes of no cluster
        found.pop(0, None)
    shown = dict(list(found.items())[:MOST_CLUSTERS])
    lead = leading(numbers.number[numbers.ok])
    titled = _titled(source, numbers, lead)
    pictures, cut_outs = _drawn(source, trees, labels, {*lead, *numbers_of(titled)}, shown)
    made.legend = _LEGEND
    made.sentence = _sentence(numbers)
    show(made, lead, titled, pictures, wide=True)
    nodes = (source.metrics("labels") or {}).get("nodes_by_label", {})
    for label, (images, chosen) in shown.items():
        how_many = counted(nodes[str(label)], "node") if str(label) in nodes else "Nodes"
        about = f"{how_many} of {counted(images, 'image')}; the largest one of each of a random sample of them."
        held = [cut_outs[number, label] for number in chosen if (number, label) in cut_outs]
        made.clusters.append(Cluster(label, None, None, about, held))
    made.clusters_note = clusters_of(len(found), None)
    return made


def _sentence(numbers: Scalars) -> str:
    """What was made, and how good it is."""
    covering, what = numbers["nmcovering"], f"Region trees of {counted(int(numbers.ok.sum()), 'image')}"
    if numbers.ok.any():
        what += f", with {counted(int(np.nanmedian(numbers['leaves'])), 'leaf', 'leaves')} in the median"
    if np.isfinite(covering).any():
        return f"{what}: their nodes cover the truth to {np.nanmean(covering):.2f} in the mean (NMCovering)."
    return f"{what}; none was compared with a truth." if numbers.ok.any() else f"{what}."


def _titled(source: Source, numbers: Scalars, lead: Sequence[int]) -> Titled:
    count, number, covering = source.samples, numbers.number, numbers["nmcovering"]
    fine, bad = number[numbers.ok], number[numbers["leaves"] == 1]
    scored = counted(int(np.isfinite(covering).sum()), "scored image")
    return {
        "Best": (f"The highest NMCovering of {scored}.", highest(number, covering, count)),
        "Worst": (f"The lowest NMCovering of {scored}, the lowest first.", lowest(number, covering, count)),
        "Not divided": (f"Trees of one node: a sample of {counted(len(bad), 'such image')}.", sample(bad, count)),
        "Median": (f"Around the median NMCovering of {scored}.", middle(number, covering, count)),
        **at_random(fine, count, without=lead),
    }


def _drawn(
    source: Source,
    trees: StageRows,
    labels: StageRows | None,
    pictured: set[int],
    shown: Mapping[int, tuple[int, Sequence[int]]],
) -> tuple[dict[int, Picture], dict[tuple[int, int], Picture]]:
    """Pictures by the number of their row, and regions cut out by number and label."""
    of_row: dict[int, list[int]] = {}
    for label, (_, chosen) in shown.items():
        for number in chosen:
            of_row.setdefault(number, []).append(label)
    wanted = sorted(pictured | of_row.keys())
    labelled = set() if labels is None else set(labels.spread(len(labels)))
    held: dict[int, Any] = {}
    if labels is not None:
        there = [number for number in wanted if number in labelled]
        held = {number: row["labels"] for number, row in source.rows(labels, there, ["labels"])}
    pictures: dict[int, Picture] = {}
    cut_outs: dict[tuple[int, int], Picture] = {}
    for number, row in source.rows(trees, wanted, _COLUMNS):
        row["labels"] = held.get(number)
        drawn = draw_tree(row, trees.settings, of_row.get(number, ()))
        facts = [] if row["nmcovering"] is None else [f"NMCovering {row['nmcovering']:.3f}"]
        facts += [counted(row["leaves"], "leaf", "leaves"), f"depth {row['depth']}"]
        regions = counted(row["leaves"], "region")
        alt = f"{row['image_id']}: the photograph, and its {regions} level by level to depth {row['depth']}"
        pictures[number] = picture = source.picture("hierarchy", number, row, drawn, alt, facts)
        for label, content in drawn.regions.items():
            cut_outs[number, label] = source.cut_out("hierarchy", number, label, content, picture)
    return pictures, cut_outs
