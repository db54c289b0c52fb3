"""ADE20K as the scene parsing challenge of 2016 published it: maps of 150 classes and of what is none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simsam_batch.catalog.datasets.layout import Dataset, Home

if TYPE_CHECKING:
    import pyarrow as pa

# Of the synonyms of objectInfo150.txt the first; ids count from 1, ten to a line.
_NAMES = """\
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass,
cabinet, sidewalk, person, earth, door, table, mountain, plant, curtain, chair,
car, water, painting, sofa, shelf, house, sea, mirror, rug, field,
armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion,
base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace,
refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway,
river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel,
bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television,
airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet,
poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool,
stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball,
food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher,
screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan,
pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag"""

CLASSES = ("other objects", *(name.strip() for name in _NAMES.split(",")))
_FOLDERS = {"val": "validation", "train": "training"}


def _read(home: Home, split: str) -> pa.Table:
    return home.paired(f"images/{_FOLDERS[split]}", f"annotations/{_FOLDERS[split]}")


ADE20K = Dataset(
    name="ade20k",
    title="ADE20K of the scene parsing challenge",
    layout="""\
├── images/{training,validation}/*.jpg
└── annotations/{training,validation}/*.png    (ids 1 to 150, 0 for what is none of them)""",
    homes=("ADEChallengeData2016", "ade/ADEChallengeData2016"),
    needs=("images/", "annotations/"),
    splits={"val": 2000, "train": 20210},
    read=_read,
    kind="semantic",
    protocol="semantic",
    classes=CLASSES,
    ignore_label=0,
)
"""Zhou, Zhao, Puig, Fidler, Barriuso, Torralba: Scene parsing through ADE20K dataset, CVPR 2017."""
