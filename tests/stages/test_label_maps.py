"""Labels of cells as masks of pixels, by hand."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco

from simsam_batch.stages.segments import segments_of


def test_labels_that_agree_in_eight_bits_are_told_apart() -> None:
    # 300 is 44 and 256 is 0 in eight bits. Cells of 2 x 3 pixels, those of the last column 2 x 1.
    labels = np.array([[300, 44, 0], [300, 256, 256]], np.int32)
    index = np.repeat([0, 1], 2), np.array([0, 0, 0, 1, 1, 1, 2])
    found = segments_of(labels, index)
    assert [(each["label"], each["bbox_xyxy"], each["area_fraction"]) for each in found] == [
        (44, (3, 0, 6, 2), 6 / 28),
        (256, (3, 2, 7, 4), 8 / 28),
        (300, (0, 0, 3, 4), 12 / 28),
    ]
    rle = found[2]["mask_rle"]
    mask = coco.decode({"size": rle["size"], "counts": rle["counts"].encode()})
    assert mask.tolist() == 4 * [[1, 1, 1, 0, 0, 0, 0]]
