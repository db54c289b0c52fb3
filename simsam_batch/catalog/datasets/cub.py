"""CUB-200-2011: birds with masks by several people, and an official split of train and test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simsam_batch.catalog.datasets.layout import Dataset, Home, records_of
from simsam_batch.catalog.records import quoted
from simsam_batch.catalog.truth import with_truth
from simsam_batch.storage import entries

if TYPE_CHECKING:
    import pyarrow as pa

_FLAGS = {"test": "0", "train": "1"}


def _read(home: Home, split: str) -> pa.Table:
    """Images of a split, joined by the numbers in the two lists, which need not have the same order."""
    names, flags = dict(home.rows("images.txt", 2)), dict(home.rows("train_test_split.txt", 2))
    if odd := sorted(set(flags.values()) - set(_FLAGS.values())):
        raise home.mismatch(f"train_test_split.txt marks images by 0 and 1, and has {quoted(odd)}")
    if unmarked := [name for number, name in names.items() if number not in flags]:
        raise home.mismatch(f"train_test_split.txt does not know {quoted(unmarked)}")
    wanted = [name for number, name in names.items() if split == "all" or flags[number] == _FLAGS[split]]
    if not wanted:
        raise home.mismatch(f"train_test_split.txt has no image of the split {split!r}")
    table = records_of(home.chosen(home.files("images"), wanted, "images.txt"))
    # The masks are an archive of their own, which unpacks beside the folder of the photographs.
    places = [url for url in (home.url, home.root) if "segmentations/" in entries(url)]
    if not places:
        raise home.mismatch("there is no folder segmentations")
    return with_truth(table, f"{places[0]}/segmentations", f"{home.url}/images", home.notes, note_extra=split == "all")


CUB = Dataset(
    name="cub-200-2011",
    title="CUB-200-2011",
    layout="""\
├── images/*/*.jpg
├── images.txt
├── train_test_split.txt
└── segmentations/*/*.png    (here, or beside the folder CUB_200_2011)""",
    homes=("CUB_200_2011",),
    needs=("images/", "images.txt", "train_test_split.txt"),
    splits={"test": 5794, "train": 5994, "all": 11788},
    read=_read,
    kind="object",
    protocol="dsm-object",
    center_crop=True,
)
"""Wah et al.: The Caltech-UCSD Birds-200-2011 dataset. The crop is that of Deep Spectral Methods' evaluation."""
