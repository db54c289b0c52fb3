"""What a stage found in an image drawn over its photograph, whatever kind of stage it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from simsam_batch.drawing.labels import UNNAMED, painted, palette
from simsam_batch.drawing.overlays import Entry, overlay
from simsam_batch.drawing.text import Color
from simsam_batch.drawing.tree_colors import tree_colors
from simsam_batch.drawing.tree_levels import draw_level, nodes_at
from simsam_batch.results.label_maps import cluster_count, label_map, shown_by, true_class_names
from simsam_batch.results.trees import RegionTree
from simsam_batch.runs.reading import StageRows


def label_colors(rows: StageRows) -> dict[int, Color]:
    """The colour of every label of a stage, the same on all pictures: clusters from 1 on, true classes from 0 on.

    Of a stage that shares no labels among its images there are none.
    """
    if shown_by(rows).classes:
        return dict(enumerate(palette(len(true_class_names(rows.resolved)))))
    return dict(enumerate(palette(cluster_count(rows)), 1))


class Drawing:
    """Draws rows of one stage over their photographs: masks, labels in their colours, or the leaves of trees.

    Args:
        rows: of a stage that shows something, see `simsam_batch.stages.kinds.Shown`.
    """

    def __init__(self, rows: StageRows) -> None:
        self._settings, self._shown = rows.settings, shown_by(rows)
        self._colors = label_colors(rows) if self._shown.kind == "labels" else {}

    def over(self, photo: Image.Image, row: Mapping[str, Any]) -> Image.Image:
        """The photograph with what was found drawn over it.

        Args:
            photo: the whole image, at any size.
            row: from `simsam_batch.results.label_maps.map_rows`, of an image that is ``ok``.
        """
        if self._shown.kind == "objects":
            # the box of one mask tells nothing that its outline does not
            return overlay(photo, Entry({**row, "bbox_xyxy": None}, None))
        if self._shown.kind == "labels":
            # 0 is nothing where labels are clusters, and a class as any other where they are classes
            first = 1 if self._shown.classes else 0
            labels = label_map(row, self._settings, "labels") + np.int32(first)
            colors = {label: self._colors.get(label - first, UNNAMED) for label in np.unique(labels).tolist()}
            return painted(photo, labels, colors)
        tree = RegionTree(row, self._settings)
        owners = tree.owners((photo.height, photo.width))
        return draw_level(photo, owners, np.append(nodes_at(tree, 1), np.int32(-1))[owners], tree_colors(tree.children))
