"""What a run is about: a folder, a list or a Parquet table becomes one Arrow table of image records."""

from simsam_batch.catalog.folders import SUFFIXES
from simsam_batch.catalog.read import Catalog, read_catalog

__all__ = ["SUFFIXES", "Catalog", "read_catalog"]
