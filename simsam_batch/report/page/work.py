"""What the manifests of a stage say together: failures, time, versions, and the confusion of label maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.results.confusions import add_confusion

NAMED = 5
"""Failed images that are named of each cause."""

BINS = 60
"""Of the working time, in each of which images a second are counted."""


@dataclass(slots=True)
class Work:
    """The work that was committed for a stage; grows with shards, by a few numbers each.

    Attributes:
        images, failed: committed.
        errors: failed images by cause.
        named: of each cause the first `NAMED` images with what is said of them.
        seconds: of work by step, over all workers.
        versions: of each package, as many as workers had.
        hosts: shards by kind of machine and device.
        spans: start and end of every commit in unix time, with its images.
        confusion: predicted id by true class in pixels, columns by class id; of label maps alone.
    """

    images: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, set[str]] = field(default_factory=dict)
    hosts: Counter[str] = field(default_factory=Counter)
    spans: list[tuple[float, float, int]] = field(default_factory=list)
    confusion: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    def add(self, manifest: Mapping[str, Any], unit: str) -> None:
        """Count one shard; ``unit`` is what its records are called by."""
        for name in ("images", "failed"):
            setattr(self, name, getattr(self, name) + manifest[name])
        self.errors.update(manifest["errors_by_type"])
        for failure in manifest.get("failures", ()):
            of_its_kind = self.named.setdefault(failure["error_type"] or "unknown", [])
            if len(of_its_kind) < NAMED:
                of_its_kind.append((failure[unit], failure["error"] or ""))
        for step, seconds in manifest["seconds"].items():
            self.seconds[step] = self.seconds.get(step, 0.0) + seconds
        for package, version in manifest["versions"].items():
            self.versions.setdefault(package, set()).add(version)
        host, facts = manifest.get("host", {}), manifest.get("facts", {})
        computed = ", ".join(str(facts[name]) for name in ("device", "precision") if name in facts)
        self.hosts[f"{host.get('kind', 'not stated')}{': ' if computed else ''}{computed}"] += 1
        # the first generation computed all images of the shard, a later one only those that had failed
        started, committed = [*manifest.get("earlier", ()), [manifest["started"], manifest["committed"]]][0]
        self.spans.append((started, committed, manifest["images"]))
        add_confusion(self.confusion, manifest["statistics"])


def work_of(manifests: Iterable[Mapping[str, Any]], unit: str) -> Work:
    """All manifests of a stage, read one after the other; ``unit`` is that of its plan."""
    work = Work()
    for manifest in manifests:
        work.add(manifest, unit)
    return work


def pace(spans: Iterable[tuple[float, float, int]]) -> tuple[float, NDArray[np.float64]]:
    """Images a second over the time during which some shard was being worked on; pauses are left out.

    A shard's images count evenly from its start to its commit.

    Args:
        spans: start, end and images of shards.

    Returns:
        The working time in seconds, and (`BINS`,) images a second in equal parts of it. Nothing was worked on: (0, 0).

    >>> seconds, rates = pace([(0.0, 10.0, 100), (1000.0, 1010.0, 50)])
    >>> seconds, rates[[0, -1]].round(6).tolist()
    (20.0, [10.0, 5.0])
    """
    held = sorted(span for span in spans if span[1] > span[0])
    if not held:
        return 0.0, np.zeros(BINS)
    starts, ends, images = (np.array(column, dtype=np.float64) for column in zip(*held, strict=True))
    # the edges of what is worked on without a pause, and the working time at each
    furthest = np.maximum.accumulate(ends)
    begins = np.flatnonzero(np.concatenate([[True], starts[1:] > furthest[:-1]]))
    finishes = np.concatenate([begins[1:] - 1, [len(held) - 1]])
    edges = np.stack([starts[begins], furthest[finishes]], axis=1).ravel()
    working = np.concatenate([[0.0], np.cumsum(np.diff(edges) * (np.arange(len(edges) - 1) % 2 == 0))])
    total = float(working[-1])
    bounds = np.linspace(0, total, BINS + 1)
    begun, ended = np.interp(starts, edges, working), np.interp(ends, edges, working)
    done = np.zeros(BINS + 1)
    for start, end, count in zip(begun.tolist(), ended.tolist(), images.tolist(), strict=True):
        done += count * np.clip((bounds - start) / (end - start), 0, 1)
    return total, np.diff(done) / (total / BINS)
