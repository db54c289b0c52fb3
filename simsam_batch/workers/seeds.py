"""Seeds of what is drawn for one image, pair, point or region: they depend on its name alone."""

from __future__ import annotations

from hashlib import sha256


def image_seed(seed: int, image_id: str) -> int:
    """Seed of one image's random draws: it depends on the run's seed and the image's id alone."""
    return _first_63_bits(f"{seed}:{image_id}")


def seed_of(*what: object) -> int:
    """Seed of what is named in so many parts; not of shards, order, retries or what is computed beside it."""
    return _first_63_bits("\0".join(map(str, what)))


def _first_63_bits(named: str) -> int:
    return int.from_bytes(sha256(named.encode()).digest()[:8], "big") >> 1
