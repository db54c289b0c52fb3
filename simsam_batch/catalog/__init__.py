"""What a run is about: a folder, a list, a Parquet table or a dataset by name becomes one Arrow table of records."""

from simsam_batch.catalog.datasets import DATASETS, absolute_input
from simsam_batch.catalog.facts import (
    BOXES_COLUMN,
    SPLIT_COLUMN,
    DatasetFacts,
    TruthKind,
    center_crops,
    facts_of,
    truth_kind,
)
from simsam_batch.catalog.named import Images, named_paths
from simsam_batch.catalog.pair_records import PAIR_UNIT, PAIRS
from simsam_batch.catalog.pairs import Pairing, read_pairs
from simsam_batch.catalog.read import Catalog, read_catalog
from simsam_batch.catalog.swapped import require_right_way_round
from simsam_batch.catalog.written import require_apart
from simsam_batch.formats import SUFFIXES

__all__ = [
    "BOXES_COLUMN",
    "DATASETS",
    "PAIRS",
    "PAIR_UNIT",
    "SPLIT_COLUMN",
    "SUFFIXES",
    "Catalog",
    "DatasetFacts",
    "Images",
    "Pairing",
    "TruthKind",
    "absolute_input",
    "center_crops",
    "facts_of",
    "named_paths",
    "read_catalog",
    "read_pairs",
    "require_apart",
    "require_right_way_round",
    "truth_kind",
]
