"""Clusters of a whole set's region features; each side is a process: ``python -m benchmarks.clustering SIDE ROWS``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import Row, Setup, cores, in_own_process, peak_memory, start_new_peak, threads
from simsam_batch.regions import codebook

CHANNELS, CLUSTERS, GROUPS = 192, 20, 40
_MIB = 2**20


def rows(setup: Setup) -> Iterator[Row]:
    """The fit and the assignment against scikit-learn's `KMeans`, on as many rows as a fit takes at most."""
    count = setup.pick(cpu=1_000_000, cuda=1_000_000, smoke=2_000)
    ours, theirs = (
        in_own_process(setup, "benchmarks.clustering", name, count, setup.device.type) for name in ("ours", "sklearn")
    )
    note = (
        f"{count} x {CHANNELS} unit rows drawn around {GROUPS} centres of unequal size; one run of each; inertia ours "
        f"{ours['inertia']:.0f}, scikit-learn's {theirs['inertia']:.0f}; our fit has 10 starts"
    )
    for what, name in (("fit", "fit_seconds"), ("assignment", "assign_seconds")):
        yield Row(
            "clustering",
            f"{what}, {count} x {CHANNELS}, {CLUSTERS} clusters",
            f"codebook: peak {ours['peak'] / _MIB:.0f} MiB above the rows",
            f"scikit-learn KMeans, n_init 1: peak {theirs['peak'] / _MIB:.0f} MiB above the rows",
            [theirs[name] / ours[name]],
            ours[name],
            theirs[name],
            threads=f"{cores()} each",
            note=f"{note}. Seconds for all rows, not for an image",
            details={"ours": ours, "peer": theirs},
        )
    yield Row(
        "clustering",
        "inertia, ours by scikit-learn's",
        "codebook",
        "scikit-learn KMeans, n_init 1",
        [ours["inertia"] / theirs["inertia"]],
        threads=f"{cores()} each",
        target=1.01,
        at_most=True,
        note="sums of squared distances to the nearest centre, recomputed in fp64 on both sides",
    )


def unit_rows(count: int) -> NDArray[np.float32]:
    """Rows (count, CHANNELS) around centres of Zipf-like sizes, made in blocks so that nothing else takes memory."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((GROUPS, CHANNELS), dtype=np.float32)
    share = 1 / np.arange(1, GROUPS + 1)
    made = np.empty((count, CHANNELS), dtype=np.float32)
    for start in range(0, count, 50_000):
        part = made[start : start + 50_000]
        part[:] = centres[rng.choice(GROUPS, len(part), p=share / share.sum())]
        part += 0.7 * rng.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return made


def measure(side: str, count: int, device: str) -> dict[str, float]:
    """Seconds of fit and assignment, the peak above the rows, and the inertia."""
    held = unit_rows(count)
    before = start_new_peak()
    with threads(cores()):
        if side == "ours":
            fit_seconds, book = _timed(lambda: codebook.fit(held, CLUSTERS, 0, device=torch.device(device)))
            assign_seconds, labels = _timed(lambda: codebook.assign(held, book) - 1)
        else:
            from sklearn.cluster import KMeans

            fit_seconds, model = _timed(lambda: KMeans(CLUSTERS, n_init=1, random_state=0).fit(held))
            assign_seconds, labels = _timed(lambda: model.predict(held))
    peak = peak_memory() - before
    return {
        "fit_seconds": fit_seconds,
        "assign_seconds": assign_seconds,
        "peak": peak,
        "inertia": _inertia(held, labels),
    }


def _timed(action: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def _inertia(held: NDArray[np.float32], labels: NDArray[Any]) -> float:
    """Squared distances to the means of the clusters; the same for both sides, whatever they call their centres."""
    total = 0.0
    for label in np.unique(labels):
        part = held[labels == label].astype(np.float64)
        total += float(np.square(part - part.mean(axis=0)).sum())
    return total


def of_words(side: str, count: str, device: str) -> dict[str, float]:
    """`measure` by the words of the command line."""
    return measure(side, int(count), device)


if __name__ == "__main__":
    print(json.dumps(of_words(*sys.argv[1:])))
