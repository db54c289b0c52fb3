"""``python -m benchmarks.scale``: how a run goes on many GPUs, simulated from measured parts, for docs/scale.md.

Every worker is simulated shard by shard: it holds two at a time, as the engines give them out, so that one is drawn or
committed while the other is computed. Times at the object store are drawn from a lognormal distribution, workers are
lost at random and come back, and what a lost one held starts again. All else is arithmetic on measured figures. No GPU
has been measured: the time of the device for an image is an assumption, and stands in every result.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import host

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run is made of.

    Attributes:
        device_s: what the device takes for an image in a full batch. Assumed.
        launch_s: what a batch adds however many images it has, where launching kernels is not hidden. Assumed.
        batch: images of a full batch.
        grids: sizes of patch grids in a shard; each leaves one batch that is not full.
        host_s: processor seconds an image, of all threads. Measured by the group ``host``.
        cores: of the host for each GPU.
        request_s: median time of a request to the object store, and what its logarithm varies by.
        upload: bytes an image, and bytes a second of one upload.
        requests: one after another before a shard is computed, and after. Counted in the code of the ledger.
        lost_s: mean time until a worker is lost; infinity for machines that stay.
        noticed_s: until the loss of a worker is noticed, and until another has taken its place.
    """

    device_s: float = 0.7e-3
    launch_s: float = 5e-3
    batch: int = 64
    grids: int = 4
    host_s: float = 8e-3
    cores: int = 16
    request_s: tuple[float, float] = (0.03, 0.6)
    upload: tuple[float, float] = (30e3, 80e6)
    requests: tuple[int, int] = (3, 6)
    lost_s: float = math.inf
    noticed_s: tuple[float, float] = (10.0, 120.0)

    @property
    def image_s(self) -> float:
        """Of one worker, whichever is slower of its device and its cores."""
        return max(self.device_s, self.host_s / self.cores)

    def shard_s(self, images: int) -> float:
        """What a shard takes to be computed: its images, and a launch for every batch, full or not."""
        return images * self.image_s + self.launch_s * (images / self.batch + self.grids / 2)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a simulated run.

    Attributes:
        seconds: until the last shard was committed.
        images_a_second: over all of it.
        idle: share of the devices' time in which they computed nothing that was committed.
        lost_shards: computed or half computed, and lost.
        tail: share of the time after the first worker had nothing more to do.
    """

    seconds: float
    images_a_second: float
    idle: float
    lost_shards: int
    tail: float


def simulated(parts: Parts, workers: int, images: int, shard: int, seed: int = 0) -> Outcome:
    """Run so many images on so many workers."""
    rng = np.random.default_rng(seed)
    shards = math.ceil(images / shard)
    compute = parts.shard_s(shard)
    median, sigma = parts.request_s
    before, after = parts.requests
    upload = shard * parts.upload[0] / parts.upload[1]
    drawn: Iterator[float] = _numbers(
        lambda n: median * np.exp(sigma * rng.standard_normal((n, before + after))).sum(axis=1)
    )
    losses = _numbers(lambda n: rng.exponential(parts.lost_s, n)) if math.isfinite(parts.lost_s) else None
    queue = [(0.0, number) for number in range(workers)]
    dies = [next(losses) if losses else math.inf for _ in range(workers)]
    heapq.heapify(queue)
    left, lost, ended, first_idle = shards, 0, 0.0, None
    back: list[float] = []  # when shards of lost workers can be drawn again
    while queue:
        now, worker = heapq.heappop(queue)
        if not left:
            if not back:
                first_idle = now if first_idle is None else first_idle
                ended = max(ended, now)
                continue
            if back[0] > now:
                heapq.heappush(queue, (back[0], worker))
                continue
            heapq.heappop(back)
        else:
            left -= 1
        # two shards are held at a time, and a commit may not take longer than what it is beside
        waits = next(drawn) + upload
        period = max(compute, waits * after / (before + after) + upload, (compute + waits) / 2)
        if now + period < dies[worker]:
            heapq.heappush(queue, (now + period, worker))
            continue
        lost += 1
        noticed, again = parts.noticed_s
        heapq.heappush(back, dies[worker] + noticed)
        heapq.heappush(queue, (dies[worker] + again, worker))
        dies[worker] += again + next(losses) if losses else math.inf
    useful = shards * shard * parts.device_s
    idle = 1 - useful / (workers * ended)
    return Outcome(ended, images / ended, idle, lost, 1 - (first_idle or ended) / ended)


def _numbers(draw: Any) -> Iterator[float]:
    while True:
        yield from draw(100_000).tolist()


@dataclass(frozen=True, slots=True)
class Books:
    """What the driver and the store have to do, by measured rates of the group ``bookkeeping``."""

    plan_s: float
    plan_bytes: float
    publish_s: float
    list_s: float
    objects: float
    requests_a_second: float


def books(images: float, shard: int, images_a_second: float) -> Books:
    """Of a run of so many images; times are those of one core of the machine that was measured."""
    measured = {row["what"]: row for row in json.loads((RESULTS / "cpu-bookkeeping.json").read_text())["rows"]}
    planning = measured["planning from a Parquet table, time at ten times the images"]["details"]["large"]
    publishing = measured["publishing object scores, time at ten times the images"]["details"]["large"]
    ten_million = 1e7
    shards = images / shard
    return Books(
        plan_s=planning["seconds"] * images / ten_million,
        plan_bytes=(planning["peak"] + planning["columns"]) * images / ten_million,
        publish_s=publishing["seconds"] * images / ten_million,
        # a thousand names to a request, and each takes three times a median one
        list_s=math.ceil(shards / 1000) * 0.1,
        objects=4 * shards,
        requests_a_second=images_a_second * (1 + 9 / shard),
    )


SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)


def study(parts: Parts) -> dict[str, Any]:
    """All that docs/scale.md shows."""
    spot = replace(parts, lost_s=3600.0)
    by_size = {
        name: {size: asdict(simulated(each, 32, 100_000_000, size)) for size in SIZES}
        for name, each in (("machines that stay", parts), ("each lost once an hour", spot))
    }
    by_workers = {count: asdict(simulated(parts, count, 2_000_000 * count, 1024)) for count in (1, 8, 64, 512)}
    of_set = {
        f"{images:.0e}": asdict(simulated(parts, 512, int(images), 4096))
        | asdict(books(images, 4096, 512 / parts.image_s))
        for images in (1e8, 1e9)
    }
    by_cores = {cores: 1 / replace(parts, cores=cores).image_s for cores in (2, 4, 8, 16, 32)}
    return {
        "parts": {name: value if value != math.inf else None for name, value in asdict(parts).items()},
        "by_shard_size": by_size,
        "by_workers": by_workers,
        "of_a_set": of_set,
        "images_a_second_by_cores": by_cores,
    }


def plots(found: dict[str, Any], folder: Path) -> None:
    """Two pictures for docs/scale.md."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "scale", "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    for name, of in found["by_shard_size"].items():
        axes.plot([*of], [100 * each["idle"] for each in of.values()], marker="o", label=name)
    axes.set(xscale="log", xlabel="images in a shard", ylabel="idle time of the devices, %", ylim=(0, 100))
    axes.set_xticks(SIZES, [str(size) for size in SIZES], minor=False)
    axes.legend(frameon=False)
    axes.minorticks_off()
    _save(figure, folder / "scale_shards.svg")
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    of = found["images_a_second_by_cores"]
    axes.plot([*of], [*of.values()], marker="o", label="one GPU with so many cores")
    axes.axhline(1 / found["parts"]["device_s"], color="grey", linestyle=":", label="what the GPU is assumed to do")
    axes.set(xscale="log", xlabel="cores of the host for each GPU", ylabel="images a second", ylim=(0, None))
    axes.set_xticks([*of], [str(cores) for cores in of], minor=False)
    axes.legend(frameon=False)
    axes.minorticks_off()
    _save(figure, folder / "scale_cores.svg")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def _of_host() -> tuple[float, dict[str, Any]]:
    """Processor seconds an image, of typical photographs with truth, and the machine that they were measured on."""
    measured = json.loads((RESULTS / "cpu-host.json").read_text())
    what = host.time_of(host.TYPICAL, "with truth")
    typical = next(row for row in measured["rows"] if row["what"] == what)
    return float(typical["ours_seconds"]), measured["machine"]


def main(words: Sequence[str] | None = None) -> None:
    """Simulate, and write the figures and the plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--json", type=Path, default=RESULTS / "scale.json")
    parser.add_argument("--plots", type=Path, default=DOCS)
    given = parser.parse_args(words)
    host_s, machine = _of_host()
    found = {"machine": machine} | study(Parts(host_s=host_s))
    given.json.write_text(json.dumps(found, indent=1) + "\n")
    plots(found, given.plots)


if __name__ == "__main__":
    main()
