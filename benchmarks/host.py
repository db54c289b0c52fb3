"""The host's work for an image, with the device's replaced by stored results: what a GPU would have to wait for."""

from __future__ import annotations

import io
import os
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import material
from benchmarks.measure import Row, Setup, cores, ratios, threads
from simsam_batch import images, operations
from simsam_batch.runs.ledger import Ledger
from simsam_batch.scores import overlap
from simsam_batch.settings import FeatureSettings
from simsam_batch.stages.segment import stage as segment_stage
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.storage import Folder
from simsam_batch.telling.console import reporter
from simsam_batch.workers import records

GROUP = "host"
DEVICE_S = 0.7e-3
"""What the stand-in for a device takes for an image: about what is expected of a large GPU."""

_MEGAPIXELS = (0.2, 0.35, 2.0, 12.0, 24.0)
TYPICAL, _PHONE = 0.35, 12.0
_QUALITY = 90
_NOISE = 4.0
_SCALED = "decode" in FeatureSettings.model_fields
_ENCODERS = "encode_threads" in FeatureSettings.model_fields


class Clock:
    """Adds up the processor time of named steps, in whichever thread they run; of steps within steps, the inner one's.

    Attributes:
        seconds: by step.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock, self._inside = threading.Lock(), threading.local()

    def timed(self, name: str, action: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, counted."""

        def run(*arguments: Any, **named: Any) -> Any:
            stack: list[float] = self._inside.__dict__.setdefault("stack", [])
            stack.append(0.0)
            began = time.thread_time()
            try:
                return action(*arguments, **named)
            finally:
                took = time.thread_time() - began
                inner = stack.pop()
                if stack:
                    stack[-1] += took
                with self._lock:
                    self.seconds[name] += took - inner

        return run


_STEPS: Sequence[tuple[str, Any, str]] = (
    ("fetch", images, "fetch"),
    ("decode", images, "decode"),
    ("resize", images, "prepare_decoded"),
    ("truth", segment_stage.SegmentWorker, "load_truth"),
    ("sums of the truth", overlap, "count_truth"),
    ("encode", segment_stage.SegmentWorker, "encode"),
    ("boundary", segment_stage, "boundary_iou"),
    ("run lengths", segment_stage, "run_lengths"),
    ("rows", records, "table_of"),
    ("commit", Ledger, "commit"),
)


@contextmanager
def measured(device_s: float = 0.0) -> Iterator[dict[str, Any]]:
    """Within it, workers of `segment` take stored results for what a device would compute, and their time is counted.

    Args:
        device_s: what the device takes for an image meanwhile, holding no lock.

    Yields:
        ``steps``: processor seconds by step; ``device_thread``: those of the thread that drives the device; ``busy``:
        from when to when it was busy, for every batch.
    """
    worker = segment_stage.SegmentWorker
    computing, running = worker.compute, worker.run
    clock, found = Clock(), {"device_thread": 0.0, "busy": []}
    found["steps"] = clock.seconds

    def compute(self: Any, pictures: torch.Tensor, grid: tuple[int, int], seeds: Sequence[int]) -> Any:
        began = time.perf_counter()
        stored = _STORED.get((grid, len(seeds)))
        if stored is None:
            stored = _STORED[grid, len(seeds)] = computing(self, pictures, grid, seeds)
            return stored
        time.sleep(device_s * len(seeds))
        found["busy"].append((began, time.perf_counter(), len(seeds)))
        return stored

    def run(self: Any, shards: Any) -> Iterator[Any]:
        began = time.thread_time()
        yield from running(self, shards)
        found["device_thread"] += time.thread_time() - began

    with ExitStack() as undo:
        for name, where, attribute in _STEPS:
            before = getattr(where, attribute)
            undo.callback(setattr, where, attribute, before)
            setattr(where, attribute, clock.timed(name, before))
        for attribute, action in (("compute", compute), ("run", run)):
            undo.callback(setattr, worker, attribute, getattr(worker, attribute))
            setattr(worker, attribute, action)
        yield found


_STORED: dict[tuple[tuple[int, int], int], Any] = {}


def write_set(folder: Path, megapixels: float, count: int, kind: str = "jpg") -> None:
    """Photographs of a size in ``images``, with a camera's noise, and masks of them in ``truth``."""
    chosen = material.photographs().files
    rng = np.random.default_rng(0)
    for name in ("images", "truth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        with Image.open(chosen[i * len(chosen) // count]) as opened:
            picture = opened.convert("RGB")
        # one grid for all: what is measured is the host's work, and not how batches fill
        width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
        size = width, round(width * 3 / 4)
        large = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), np.int16)
        noise = rng.normal(0, _NOISE, (*large.shape[:2], 1)).astype(np.int16)
        photograph = Image.fromarray((large + noise).clip(0, 255).astype(np.uint8))
        photograph.save(folder / "images" / f"{i:03}.{kind}", quality=_QUALITY)
        ys, xs = np.mgrid[: size[1], : size[0]]
        disc = ((ys / size[1] - 0.5) ** 2 + (xs / size[0] - 0.5) ** 2) < 0.04 + 0.01 * (i % 5)
        Image.fromarray(disc.astype(np.uint8) * 255).save(folder / "truth" / f"{i:03}.png")


def one_run(folder: Path, out: str, device_s: float = 0.0, at: str | None = None, **changed: Any) -> dict[str, Any]:
    """What a run of one process took, an image: ``cpu``, ``wall``, ``device_thread`` seconds, ``steps`` by name.

    Args:
        folder: of the set.
        out: of the run.
        device_s: see `measured`.
        at: URL of a copy of the folder that is read instead.
        changed: settings.
    """
    source = at or str(folder)
    given: dict[str, Any] = {
        "backbone": "descriptors",
        "engine": "inline",
        "quiet": True,
        "batch_size": 8,
        "shard_size": 64,
        "refine": "none",
    }
    settings = SegmentSettings(**(given | {"truth": f"{source}/truth"} | changed))
    count = len(list((folder / "images").iterdir()))
    with measured(device_s) as found, reporter("text", quiet=True) as report:
        operations.run("segment", f"{source}/images", out + "-warm", settings, report)
        found["steps"].clear()
        found["device_thread"], found["busy"][:] = 0.0, []
        began, cpu = time.perf_counter(), time.process_time()
        result = operations.run("segment", f"{source}/images", out, settings, report)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    if result is None or result["failed"]:
        raise RuntimeError(f"the run of the benchmark failed on some images: {result}")
    spans = found["busy"]
    computing = spans[-1][1] - spans[0][0] if len(spans) > 1 else wall
    busy = sum(end - begin for begin, end, _ in spans) / computing
    steps = {name: seconds / count for name, seconds in found["steps"].items()}
    thread = found["device_thread"] / count
    steps["else"] = cpu / count - sum(steps.values())
    each = sum(images for _, _, images in spans) or count
    return {
        "cpu": cpu / count,
        "wall": wall / count,
        "wall_computing": computing / each,
        "device_thread": thread,
        "busy": busy,
        "steps": steps,
    }


def rows(setup: Setup) -> Iterator[Row]:
    """The host's processor time by size, format and setting; decoding beside peers; how busy a device is kept."""
    count, rounds = setup.pick(cpu=128, cuda=256, smoke=2), setup.pick(cpu=3, cuda=5, smoke=1)
    sizes = (0.02,) if setup.smoke else _MEGAPIXELS
    with tempfile.TemporaryDirectory(prefix="simsam-bench-") as name, threads(1):
        folder = Path(name)
        for megapixels in sizes:
            of = folder / f"{megapixels}"
            few = count if megapixels <= TYPICAL else max(2, count // (4 if megapixels < _PHONE else 10))
            write_set(of, megapixels, few)
            yield _whole(of, megapixels, rounds, {}, "with truth", 1.5 if megapixels == TYPICAL else None)
            if megapixels in (TYPICAL, _PHONE):
                yield _whole(of, megapixels, rounds, {"truth": None}, "without truth")
            yield from _decoding(of, megapixels, rounds)
        of = folder / f"{sizes[0] if setup.smoke else TYPICAL}"
        if not setup.smoke:
            for word, said in (("guided", "a guided filter"), ("crf", "a CRF")):
                changed = {"refine": word, "refine_processes": 1}
                yield _whole(of, TYPICAL, rounds, changed, f"with truth, refined by {said}")
            for kind in ("png", "webp"):
                write_set(folder / kind, TYPICAL, count, kind)
                yield _whole(folder / kind, TYPICAL, rounds, {}, f"with truth, {kind.upper()}")
            yield _on_s3(of, rounds)
        yield from _kept_busy(of, rounds)


def time_of(megapixels: float, what: str) -> str:
    """What a row is of that has the host's time for an image."""
    return f"processor time of the host an image, {megapixels:g} megapixels, {what}"


def _whole(
    of: Path,
    megapixels: float,
    rounds: int,
    changed: dict[str, Any],
    what: str,
    target: float | None = None,
) -> Row:
    """All of the host's work for an image, from file to committed shard."""
    runs, peers = [], []
    for i in range(rounds):
        runs.append(one_run(of, f"{of}-out-{what.replace(' ', '-')}-{i}", **changed))
        peers.append(_processor_s(_PEERS["Pillow"], _files(of)))
    ours = [each["cpu"] for each in runs]
    middle = sorted(runs, key=lambda each: each["cpu"])[len(runs) // 2]
    milliseconds = {name: round(1e3 * seconds, 3) for name, seconds in middle["steps"].items()}
    thread = 1e3 * middle["device_thread"]
    return Row(
        GROUP,
        time_of(megapixels, what),
        "simsam segment, its device replaced by stored results",
        "Pillow: decode and resize, nothing else",
        ratios(ours, peers),
        statistics.median(ours),
        statistics.median(peers),
        threads="one process",
        target=target,
        at_most=True,
        note=f"of this {thread:.2f} ms on the thread that drives the device; quality {_QUALITY}, 4:3, to 384x512",
        details={"milliseconds_by_step": milliseconds, "device_thread_ms": thread},
    )


def _on_s3(of: Path, rounds: int) -> Row:
    """The same with images, truth and results on an S3 server, which is named in the environment."""
    what = time_of(TYPICAL, "with truth, all on S3")
    given = os.environ.get("SIMSAM_TEST_S3_URL")
    if not given:
        note = "skipped: SIMSAM_TEST_S3_URL names no folder on an S3 server"
        return Row(GROUP, what, "images, truth and results on S3", "on the local disk", note=note)
    url = f"{given.rstrip('/')}/host-{os.getpid()}"
    for file in (*(of / "images").iterdir(), *(of / "truth").iterdir()):
        Folder(url).replace(f"{file.parent.name}/{file.name}", file.read_bytes())
    there, here = [], []
    for i in range(rounds):
        there.append(one_run(of, f"{url}/out-{i}", at=url))
        here.append(one_run(of, f"{of}-here-{i}"))
    ours, peers = ([each["cpu"] for each in runs] for runs in (there, here))
    return Row(
        GROUP,
        what,
        "images, truth and results on S3",
        "on the local disk",
        ratios(ours, peers),
        statistics.median(ours),
        statistics.median(peers),
        threads="one process",
        details={"milliseconds_by_step": {name: 1e3 * s for name, s in there[-1]["steps"].items()}},
    )


def _decoding(of: Path, megapixels: float, rounds: int) -> Iterator[Row]:
    """From a file's bytes to the pixels of the patch grid, beside every peer that is installed."""
    files = _files(of)
    resize, limits = images.parse_resize(SegmentSettings().resize), images.ImageLimits()
    ways: dict[str, bool] = {"exact": False} | ({"scaled": True} if _SCALED else {})
    for way, scaled in ways.items():
        enough = {"enough": images.enough_for(resize)} if scaled else {}

        def ours(data: bytes, enough: dict[str, Any] = enough) -> Any:
            decoded = images.decode(data, limits, **enough)
            way = {"way": "scaled"} if enough else {}
            return images.prepare_decoded(decoded, limits=limits, resize=resize, patch=material.PATCH, **way)

        peers = {name: peer for name, peer in _PEERS.items() if (name in _REDUCING) == scaled and _is_there(name)}
        found: dict[str, list[float]] = {"ours": [], **{name: [] for name in peers}}
        for _ in range(rounds):
            for name, action in ({"ours": ours} | peers).items():
                found[name].append(_processor_s(action, files))
        fastest = min(peers, key=lambda name: statistics.median(found[name]))
        yield Row(
            GROUP,
            f"from a JPEG's bytes to pixels of patches, {megapixels:g} megapixels, {way}",
            f"simsam_batch.images, {way}",
            fastest,
            ratios(found["ours"], found[fastest]),
            statistics.median(found["ours"]),
            statistics.median(found[fastest]),
            threads="1 thread",
            target=1.3 if scaled and megapixels == _PHONE else None,
            at_most=True,
            note="the peer is the fastest that is installed; ours hashes the file as well",
            details={"milliseconds": {name: round(1e3 * statistics.median(of), 2) for name, of in found.items()}},
        )


def _kept_busy(of: Path, rounds: int) -> Iterator[Row]:
    """How busy one process keeps a device that takes `DEVICE_S` an image, and how that grows with decoding threads."""
    beside = {"batch_size": 8, **({"encode_threads": 2} if _ENCODERS else {})}
    by_threads: dict[int, list[float]] = {1: [], 2: [], 4: [], 8: []}
    shares, runs = [], []
    for i in range(rounds):
        for count, of_count in by_threads.items():
            run = one_run(of, f"{of}-busy-{count}-{i}", DEVICE_S, decode_threads=count, **beside)
            of_count.append(run["wall_computing"])
        runs.append(run)
        shares.append(run["busy"])
    middle = runs[len(runs) // 2]
    cpu, thread = 1e3 * middle["cpu"], 1e3 * middle["device_thread"]
    yield Row(
        GROUP,
        f"share of the time in which a device is busy that takes {1e3 * DEVICE_S:g} ms an image",
        "one process with 8 decoding threads",
        "all of the time between its first batch and its last",
        shares,
        threads=f"{cores()} cores",
        target=0.9,
        note=f"an image takes {cpu:.1f} ms of processor time: {cpu / 1e3 / DEVICE_S:.0f} cores would be needed; "
        f"{thread:.2f} ms of it on the device's thread",
        details={"cpu_ms": cpu, "device_thread_ms": thread, "cores_needed": cpu / 1e3 / DEVICE_S},
    )
    one = by_threads[1]
    for count, of_count in by_threads.items():
        if count > 1:
            yield Row(
                GROUP,
                f"images/s of one process with {count} decoding threads",
                f"{count} threads",
                "1 thread",
                ratios(one, of_count),
                statistics.median(of_count),
                statistics.median(one),
                threads=f"{cores()} cores",
            )


def _files(of: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((of / "images").iterdir())]


def _processor_s(action: Callable[[bytes], Any], files: Sequence[bytes]) -> float:
    """Processor seconds an image, of this process."""
    action(files[0])
    began = time.process_time()
    for data in files:
        action(data)
    return (time.process_time() - began) / len(files)


_SIZE = (512, 384)


def _pillow(data: bytes) -> Any:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB").resize(_SIZE, Image.Resampling.BICUBIC))


def _pillow_draft(data: bytes) -> Any:
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", _SIZE)
        return np.asarray(image.convert("RGB").resize(_SIZE, Image.Resampling.BICUBIC))


def _torchvision(data: bytes) -> Any:
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2.functional import resize

    decoded = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    return resize(decoded, [_SIZE[1], _SIZE[0]], antialias=True)


def _opencv(data: bytes) -> Any:
    import cv2

    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(cv2.resize(decoded, _SIZE, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)


def _opencv_reduced(data: bytes) -> Any:
    import cv2

    with Image.open(io.BytesIO(data)) as image:
        scale = min(image.width // _SIZE[0], image.height // _SIZE[1])
    flag = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
    chosen = next((flag[by] for by in flag if by <= scale), cv2.IMREAD_COLOR)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), chosen)
    return cv2.cvtColor(cv2.resize(decoded, _SIZE, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)


def _simplejpeg(data: bytes) -> Any:
    import simplejpeg

    return Image.fromarray(simplejpeg.decode_jpeg(data)).resize(_SIZE, Image.Resampling.BICUBIC)


def _simplejpeg_reduced(data: bytes) -> Any:
    import simplejpeg

    decoded = simplejpeg.decode_jpeg(data, min_width=_SIZE[0], min_height=_SIZE[1])
    return Image.fromarray(decoded).resize(_SIZE, Image.Resampling.BICUBIC)


_PEERS: dict[str, Callable[[bytes], Any]] = {
    "Pillow": _pillow,
    "Pillow, draft": _pillow_draft,
    "torchvision": _torchvision,
    "OpenCV": _opencv,
    "OpenCV, reduced": _opencv_reduced,
    "simplejpeg": _simplejpeg,
    "simplejpeg, reduced": _simplejpeg_reduced,
}
_REDUCING = ("Pillow, draft", "OpenCV, reduced", "simplejpeg, reduced")
_MODULES = {"OpenCV": "cv2", "simplejpeg": "simplejpeg", "torchvision": "torchvision"}


def _is_there(peer: str) -> bool:
    return find_spec(_MODULES.get(peer.partition(",")[0], "PIL")) is not None
