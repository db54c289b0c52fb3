"""Metrics as people read them: nothing twice, nothing empty, every number with what it is of."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest

from simsam_batch.report.page.scores import scores_of
from simsam_batch.report.page.settings import flat
from simsam_batch.scores.covering import CoveringScores
from simsam_batch.scores.nodes import TreeNodes
from simsam_batch.telling.bar import Bar
from simsam_batch.telling.console import reporter
from simsam_batch.telling.metrics import metric_lines, shown_metrics


def titles(metrics: dict[str, Any]) -> list[str]:
    return [group.title for group in shown_metrics(metrics)]


def covering(parent: list[int]) -> dict[str, Any]:
    """Scores of one image of 2x2 pixels, each a superpixel, a leaf of the tree and a class; some classes are groups."""
    tree = TreeNodes(
        parent=np.array([-1, 0, 0, 0, 0]),
        lo=np.array([0, 0, 1, 2, 3]),
        hi=np.array([4, 1, 2, 3, 4]),
        depth=np.array([0, 1, 1, 1, 1]),
    )
    groups = len(parent) - 4
    names = [*(f"group {i}" for i in range(groups)), *"abcd"]
    scores = CoveringScores(names, parent, {label: groups + label for label in range(4)})
    pixels = np.arange(4).reshape(2, 2)
    return scores.result(scores.merge(scores.zero(), scores.of_image(pixels, pixels, tree)))


def test_labels_without_groups_have_one_covering_and_no_level() -> None:
    metrics = covering([-1, -1, -1, -1])
    assert metrics["nmcovering"] == metrics["nhcovering"] == metrics["nhcovering_distinct"] == 1.0
    assert len(metrics["levels"]) == 1
    names = [metric.name for metric in shown_metrics(metrics)[0].metrics]
    assert "nmcovering" in names
    assert not [name for name in names if name.startswith("nhcovering")]
    assert not [title for title in titles(metrics) if "level" in title]


def test_labels_with_groups_have_all_of_them_and_every_level_says_what_it_is() -> None:
    metrics = covering([-1, -1, 0, 0, 1, 1])
    names = [metric.name for metric in shown_metrics(metrics)[0].metrics]
    assert {"nmcovering", "nhcovering", "nhcovering_distinct"} <= set(names)
    assert [title for title in titles(metrics) if "labels" in title] == [
        "groups of level 1 of the labels, images without foreground included",
        "classes of the labels, images without foreground included",
    ]


def test_repeats_are_one_line_each_with_their_deviation_beside_them() -> None:
    spread = {"iou_per_image_mean": {"mean": 0.5, "std": 0.0123}, "accuracy": {"mean": 0.99, "std": 0.02}}
    metrics = {"iou_per_image_mean": 0.51, "accuracy": 0.98, "repeats": 3, "over_repeats": spread}
    assert metric_lines(metrics) == [
        "  iou_per_image_mean     0.5100",
        "  accuracy               0.9800",
        "  mean and deviation over 3 repeats",
        "    iou_per_image_mean   0.5000 ± 0.0123",
        "    accuracy             0.9900 ± 0.0200",
    ]
    # release 0.1 wrote them so
    old = {"iou_per_image_mean": 0.51, "accuracy": 0.98, "repeats": 3}
    for name, each in spread.items():
        old |= {f"{name}_mean": each["mean"], f"{name}_std": each["std"]}
    assert metric_lines(old) == metric_lines(metrics)
    table = scores_of(metrics).tables[1]
    assert [score.value for score in table.scores] == ["0.5000 ± 0.0123", "0.9900 ± 0.0200"]
    # a bar of 120 pixels for 0 to 1: what deviates is drawn around the mean, within the scale
    assert table.scores[0].bar == (pytest.approx(58.5, abs=0.1), pytest.approx(3.0, abs=0.1), 60.0)
    assert table.scores[1].bar == (pytest.approx(116.4), pytest.approx(3.6), 118.8)


def test_what_has_only_a_number_is_called_what_it_is() -> None:
    metrics = {
        "iou_by_class": {"0": 0.5, "cat": 0.25},
        "nodes_by_label": {"1": 1200},
        "inertia": [10.5, 9.25],
        "nfcovering_by_depth": [0.25, 0.5],
        "class_of_cluster": ["ground", None],
    }
    assert metric_lines(metrics) == [
        "  IoU by class",
        "    class 0              0.5000",
        "    cat                  0.2500",
        "  nodes by label",
        "    label 1              1,200",
        "  inertia",
        "    repeat 0             10.50",
        "    repeat 1             9.2500",
        "  nfcovering by depth",
        "    depth 1              0.2500",
        "    depth 2              0.5000",
        "  class of cluster",
        "    label 0              ground",
        "    label 1              -",
    ]


def test_of_many_classes_the_highest_and_the_lowest_are_shown() -> None:
    metrics = {"iou_by_region": {f"c{i}": (37 * i % 256) / 256 for i in range(256)}}
    lines = metric_lines(metrics)
    assert len(lines) == 42
    values = [float(line.split()[-1]) for line in lines[1:41]]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(255 / 256, abs=1e-4)
    assert values[-1] == 0
    assert lines[-1] == "    and 216 between these, in the results"
    (table,) = scores_of(metrics).tables
    assert table.folded
    assert len(table.scores) == 60
    assert table.title == "IoU by region: the highest and the lowest of 256"


def test_no_table_is_empty_and_none_has_an_empty_column() -> None:
    found = scores_of({"protocol": "covering", "iou_by_class": {}, "miou": None, "images_scored": 3})
    (table,) = found.tables
    assert [score.name for score in table.scores] == ["protocol", "images_scored"]
    assert not table.has_bars
    assert not table.has_intervals
    assert scores_of({}).tables == []


def test_a_long_table_of_what_was_resolved_is_one_line() -> None:
    labels = {str(label): label for label in range(256)}
    lines = flat({"truth": {"kind": "labels", "region_of_label": labels}, "models": {"backbone": {"patch": 16}}})
    assert lines == [("truth.kind", "labels"), ("truth.region_of_label", labels), ("models.backbone.patch", 16)]


def test_nothing_but_what_is_said_comes_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = io.StringIO()
    monkeypatch.setattr(sys, "stderr", heard)
    with Bar() as bar:
        bar.update(bar.add_task("images", total=2), completed=1)
    with reporter("text", quiet=False) as report:
        report.plan("segment", images=1, shards=1, done_shards=0, done_images=0)
        report.note("[bold]a :smile:[/bold]")
        report.finish({"images": 1, "ok": 1, "failed": 0, "images_per_second": None, "metrics": {}}, "out")
    assert heard.getvalue().splitlines() == [
        "segment: 1 image in 1 shard",
        "[bold]a :smile:[/bold]",
        "1 image done, 0 of them failed",
        "results: out",
    ]
