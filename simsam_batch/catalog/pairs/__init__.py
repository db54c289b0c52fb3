"""Pairs of images, with points of the one that are to be found in the other."""

from simsam_batch.catalog.pairs.read import Pairing, read_pairs

__all__ = ["Pairing", "read_pairs"]
