"""Neighbours and trees of patches; each side is a process: ``python -m benchmarks.probes SIDE FILE DEVICE SIZE...``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.clustering import CHANNELS, unit_rows
from benchmarks.measure import Row, Setup, cores, in_own_process, peak_memory, start_new_peak, threads
from simsam_batch.probes.neighbours import Neighbours
from simsam_batch.probes.ward import weighted_ward

NEIGHBOURS, CLASSES, BLOCK = 30, 21, 65_536
BUDGETS = (1.0, 0.5, 0.1, 0.01)
_MIB = 2**20
_PEERS = {
    "sklearn": ("scikit-learn NearestNeighbors, brute force by cosine", 3.0),
    "faiss": ("faiss IndexFlatIP on unit rows", 1.0),
}


def rows(setup: Setup) -> Iterator[Row]:
    """Neighbours of many patches in a large bank, and Ward's tree of many micro-clusters."""
    with tempfile.TemporaryDirectory(prefix="simsam-bench-") as folder:
        yield from _neighbours(setup, Path(folder))
        yield from _trees(setup, Path(folder))


def _neighbours(setup: Setup, folder: Path) -> Iterator[Row]:
    size = setup.pick(cpu=(300_000, 10_000), cuda=(300_000, 100_000), smoke=(2_000, 50))
    what = f"{NEIGHBOURS} neighbours of {size[1]} in {size[0]} x {CHANNELS}"
    ours = _measured("neighbours", setup, folder, *size)
    note = (
        "unit rows around 40 centres of unequal size; one run of each, on the CPU for peers; peaks are above rows, "
        "labels and queries. Seconds for all queries, not for an image"
    )
    for name, (peer, target) in _PEERS.items():
        if find_spec(name) is None:
            yield Row(
                "probes", what, "Neighbours", peer, threads=f"{cores()} each", note=f"{name} is not installed here"
            )
            continue
        theirs = _measured(name, setup, folder, *size)
        same = _shared(folder / "neighbours.npy", folder / f"{name}.npy")
        yield Row(
            "probes",
            what,
            f"Neighbours: peak {ours['peak'] / _MIB:.0f} MiB",
            f"{peer}: peak {theirs['peak'] / _MIB:.0f} MiB",
            [theirs["seconds"] / ours["seconds"]],
            ours["seconds"],
            theirs["seconds"],
            threads=f"{cores()} each",
            target=target,
            note=note,
            details={"ours": ours, "peer": theirs, "same_neighbours": same},
        )
    several = _measured("budgets", setup, folder, *size)
    yield Row(
        "probes",
        f"{len(BUDGETS)} label budgets in one pass, by the time of one",
        f"Neighbours, budgets {', '.join(f'{100 * budget:g} %' for budget in BUDGETS)}",
        "Neighbours, all rows alone",
        [several["seconds"] / ours["seconds"]],
        several["seconds"],
        ours["seconds"],
        threads=f"{cores()} each",
        target=1.5,
        at_most=True,
        note=note,
        details={"ours": several, "peer": ours},
    )


def _trees(setup: Setup, folder: Path) -> Iterator[Row]:
    count = setup.pick(cpu=20_000, cuda=20_000, smoke=200)
    ours, theirs = (_measured(side, setup, folder, count) for side in ("ward", "scipy"))
    first, second = (np.load(folder / f"{side}.npy") for side in ("ward", "scipy"))
    same = bool(np.array_equal(first[:, [0, 1, 3]], second[:, [0, 1, 3]]) and np.allclose(first[:, 2], second[:, 2]))
    for what, above, below, target in (
        (f"Ward's tree of {count} x {CHANNELS}", theirs["seconds"], ours["seconds"], 1.0),
        ("peak of memory above the rows, SciPy's by ours", theirs["peak"], max(ours["peak"], 1), None),
    ):
        seconds = (ours["seconds"], theirs["seconds"]) if target else (None, None)
        yield Row(
            "probes",
            what,
            f"weighted_ward: peak {ours['peak'] / _MIB:.0f} MiB",
            f"SciPy linkage, ward: peak {theirs['peak'] / _MIB:.0f} MiB",
            [above / below],
            *seconds,
            threads=f"{cores()} each",
            target=target,
            note="equal weights, so that SciPy can do the same; one run of each, on the CPU. Seconds for the tree",
            details={"ours": ours, "peer": theirs, "same_tree": same},
        )


def _measured(side: str, setup: Setup, folder: Path, *size: int) -> dict[str, float]:
    return in_own_process(setup, "benchmarks.probes", side, folder / f"{side}.npy", setup.device.type, *size)


def _shared(ours: Path, theirs: Path) -> float:
    """The share of our neighbours that the peer has, too."""
    pairs = zip(np.load(ours), np.load(theirs), strict=True)
    return float(np.mean([np.isin(own, other).mean() for own, other in pairs]))


def measure(side: str, path: Path, device: str, count: int, queries: int = 0) -> dict[str, float]:
    """Seconds, the peak above what stood before, and what was found in a file."""
    made = unit_rows(count + queries)
    bank, asked = made[:count], made[count:]
    prepare = {
        "neighbours": lambda: _ours(bank, asked, (1.0,), torch.device(device)),
        "budgets": lambda: _ours(bank, asked, BUDGETS, torch.device(device)),
        "sklearn": lambda: _sklearn(bank, asked),
        "faiss": lambda: _faiss(bank, asked),
        "ward": lambda: lambda: weighted_ward(bank.astype(np.float64), np.ones(count)),
        "scipy": lambda: _scipy(bank),
    }
    action = prepare[side]()
    before = start_new_peak()
    with threads(cores()):
        started = time.perf_counter()
        found = action()
        seconds = time.perf_counter() - started
    peak = peak_memory() - before
    np.save(path, found)
    return {"seconds": seconds, "peak": peak}


def _ours(
    bank: NDArray[np.float32], queries: NDArray[np.float32], budgets: tuple[float, ...], device: torch.device
) -> Callable[[], NDArray[np.int64]]:
    """Indices (Q, k) in the whole bank; a budget is a share of the images, of 196 patches each."""
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, len(bank))])
    images = np.arange(len(bank)) // 196
    drawn = rng.random(images[-1] + 1)
    # A tiny bank has at least k members of every budget all the same.
    first = np.arange(len(bank)) < NEIGHBOURS
    members = torch.from_numpy(np.array([(drawn < budget)[images] | first for budget in budgets]))

    def search() -> NDArray[np.int64]:
        found = Neighbours(torch.from_numpy(queries).to(device), NEIGHBOURS, subsets=len(budgets), classes=CLASSES)
        for start in range(0, len(bank), BLOCK):
            part = slice(start, start + BLOCK)
            block = torch.from_numpy(bank[part]).to(device)
            found.add(block, labels[part].to(device), members[:, part].to(device), first=start)
        indices: NDArray[np.int64] = found.result().indices[0].cpu().numpy()
        return indices

    return search


def _sklearn(bank: NDArray[np.float32], queries: NDArray[np.float32]) -> Callable[[], Any]:
    from sklearn.neighbors import NearestNeighbors

    model = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine", algorithm="brute")
    return lambda: model.fit(bank).kneighbors(queries, return_distance=False)


def _faiss(bank: NDArray[np.float32], queries: NDArray[np.float32]) -> Callable[[], Any]:
    import faiss

    def search() -> Any:
        index = faiss.IndexFlatIP(CHANNELS)
        index.add(bank)
        return index.search(queries, NEIGHBOURS)[1]

    return search


def _scipy(bank: NDArray[np.float32]) -> Callable[[], Any]:
    from scipy.cluster.hierarchy import linkage

    return lambda: linkage(bank.astype(np.float64), "ward")


def of_words(side: str, path: str, device: str, *numbers: str) -> dict[str, float]:
    """`measure` by the words of the command line."""
    return measure(side, Path(path), device, *map(int, numbers))


if __name__ == "__main__":
    print(json.dumps(of_words(*sys.argv[1:])))
