"""Counts of a run in Ray's own metrics, which the node of its driver shows to Prometheus.

The driver counts, for it hears of every shard: counters of an actor would be gone when it dies or is replaced. There is
no gauge, because Ray shows one only for as long as it is set again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simsam_batch.engines.contract import ShardReport

METRICS = {
    "simsam_images": "images of committed shards, by outcome: ok or failed",
    "simsam_shards": "reported starts of shards, by outcome: committed, or error, after which it starts again",
    "simsam_shard_seconds": "seconds from start to commit of a committed shard",
    "simsam_shard_starts": "starts that a committed shard took, 1 unless a worker died or an attempt failed",
}
"""Name and meaning of each; Ray puts ``ray_`` before the name, and ``_total`` behind that of a counter."""

_SECONDS = [1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600]
_STARTS = [1, 2, 3, 4, 6, 10]


class RunMetrics:
    """The metrics of one driver; made once it is connected to a cluster.

    Args:
        labels: ``run`` and ``stage``, labels of every series.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        from ray.util.metrics import Counter, Histogram

        self._labels = dict(labels)
        names = tuple(self._labels)

        def made(kind: Any, name: str, *more: Any, by: tuple[str, ...] = names) -> Any:
            return kind(name, METRICS[name], *more, tag_keys=by)

        self._images = made(Counter, "simsam_images", by=(*names, "outcome"))
        self._shards = made(Counter, "simsam_shards", by=(*names, "outcome"))
        self._seconds = made(Histogram, "simsam_shard_seconds", _SECONDS)
        self._starts = made(Histogram, "simsam_shard_starts", _STARTS)

    def add(self, report: ShardReport) -> None:
        """Count one report, unless it is of a shard that another driver committed."""
        if report.status == "committed" and not report.attempt:
            return
        self._shards.inc(1, {**self._labels, "outcome": report.status})
        if report.status == "error":
            return
        for outcome, images in (("ok", report.images - report.failed), ("failed", report.failed)):
            # Ray refuses to add nothing
            if images:
                self._images.inc(images, {**self._labels, "outcome": outcome})
        self._seconds.observe(report.seconds, self._labels)
        self._starts.observe(report.attempt, self._labels)
