"""What the workers of all stages over images share: decode ahead, batches of equal grid, what to do without memory."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from simsam_batch import images
from simsam_batch.errors import DevicePoisonedError, ImageError, RunError, SettingsError
from simsam_batch.regions import masks
from simsam_batch.runs.schema import Shard, ShardOutput, Stage
from simsam_batch.settings import FeatureSettings, SpectralSettings
from simsam_batch.spectral.eigen import NOT_FINITE
from simsam_batch.stages.decomposition import Timer
from simsam_batch.workers.models import compute_device, load_backbone

_WAITING_BYTES = 300_000_000
_LARGEST_BATCH = 64
_DECODE_THREADS_BESIDE_A_GPU = 8
_OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)
_ARITHMETIC = (ArithmeticError, np.linalg.LinAlgError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


def image_seed(seed: int, image_id: str) -> int:
    """Seed of one image's random draws: it depends on the run's seed and the image's id alone."""
    digest = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True, slots=True)
class Item:
    """One image of one shard, on its way to be read."""

    shard: Shard
    row: int
    record: dict[str, Any]

    @property
    def is_last(self) -> bool:
        """Whether its shard has no further image."""
        return self.row + 1 == len(self.shard.records)


@dataclass(frozen=True, slots=True)
class Loaded:
    """One image read, decoded and cut to whole patches; where its patches lie, and its truth if it has one.

    ``changed`` says whether the file has another size than the plan holds, None if it holds none.
    ``picture`` is the whole of it as the stage's results want to see it, if they do; see `ImageWorker.picture`.
    """

    image: images.Prepared
    index: masks.UpsampleIndex
    picture: NDArray[np.uint8] | None
    changed: bool | None
    truth: Any
    truth_error: str | None

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels held in memory."""
        return sum(map(_nbytes, (self.image.rgb, self.picture, self.truth)))


def _nbytes(held: Any) -> int:
    """Bytes of an array, or of a list of them; 0 for anything else."""
    if isinstance(held, list):
        return sum(map(_nbytes, held))
    return held.nbytes if isinstance(held, np.ndarray) else 0


class _Found(Protocol):
    """What a batch came to.

    Attributes:
        solver: what solved each image's eigenproblem.
    """

    @property
    def solver(self) -> list[str]: ...


F = TypeVar("F", bound=_Found)


class ImageStage(Stage, Protocol):
    """A stage whose workers look at images."""

    @property
    def options(self) -> FeatureSettings:
        """All settings."""
        ...


_Arrived = tuple[Item, Loaded | Exception]
_Waiting = dict[tuple[int, int], list[tuple[Item, Loaded]]]


@dataclass(slots=True)
class Results:
    """Rows and arrays of one shard while they come in, and the fold's state for each image that adds to it.

    ``pending`` holds what some images still wait for, each call filling in one; they are called in order.
    """

    shard: Shard
    rows: list[dict[str, Any]]
    arrays: list[Mapping[str, NDArray[np.generic]]]
    states: list[dict[str, Any] | None]
    pending: deque[Callable[[], None]] = field(default_factory=deque)

    @classmethod
    def of(cls, shard: Shard) -> Results:
        """Nothing yet of a shard."""
        n = shard.records.num_rows
        return cls(shard, [{} for _ in range(n)], [{} for _ in range(n)], [None] * n)


class ImageWorker(ABC, Generic[F]):
    """Decodes ahead in threads, groups images of equal grid into batches, and computes them with one backbone.

    Attributes:
        settings: of the stage.
        device: what batches are computed on.
        backbone: what describes the patches.
        timer: adds up the time of each step.
        limits: what one image may cost.
        may_wait: results that may be pending while the next batch is computed.
        doing: what it is at, for the message of the watchdog.
    """

    may_wait = 0
    doing = ""

    def __init__(self, stage: ImageStage, beat: Callable[[], None]) -> None:
        self._stage, self.settings, self._beat = stage, stage.options, beat
        torch.set_num_threads(stage.options.threads)
        threadpool_limits(stage.options.threads)
        self.device = torch.device(compute_device(stage.options.device))
        spectral = stage.options if isinstance(stage.options, SpectralSettings) else None
        if spectral is not None and spectral.solver == "arpack" and self.device.type == "cuda":
            raise SettingsError("solver: 'arpack' runs on a CPU only; choose another --solver, or --device cpu")
        self.backbone = load_backbone(stage.options, stage.resolved, str(self.device))
        options = stage.options
        self.limits = images.ImageLimits(options.max_bytes, options.max_pixels, options.decode_seconds)
        self._resize = images.parse_resize(stage.options.resize)
        self._batch_sizes: dict[tuple[int, int], int] = {}
        self.timer = Timer(self.device)
        self._facts = {
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "precision": self.backbone.describe().get("precision", "fp32"),
            "limits": limits_of(stage.options),
        }

    @abstractmethod
    def compute(self, pictures: torch.Tensor, grid: tuple[int, int], seeds: Sequence[int]) -> F:
        """Compute a batch of pictures (B, height, width, 3) uint8 on the device, with one seed for each."""

    @abstractmethod
    def encode(self, item: Item, loaded: Loaded, found: F, i: int, results: Results) -> None:
        """Fill one image's row, arrays and share of the statistics from image ``i`` of a batch, now or when pending."""

    def picture(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """What is kept of a decoded image (H, W, 3) until its result is encoded; in a thread that decodes."""
        del rgb
        return None

    def load_truth(
        self, record: dict[str, Any], image: images.Prepared, index: masks.UpsampleIndex
    ) -> tuple[Any, str | None]:
        """What is compared with the result of an image, and why there is nothing; in a thread that decodes."""
        del record, image, index
        return None, None

    def image_columns(self, loaded: Loaded) -> dict[str, Any]:
        """The columns that say what was read and how it was cut to patches."""
        image = loaded.image
        return {
            "status": "ok",
            "width": image.full_size[1],
            "height": image.full_size[0],
            "orientation": image.orientation,
            "content_sha256": image.content_sha256,
            "changed_since_plan": loaded.changed,
            "grid_h": image.grid[0],
            "grid_w": image.grid[1],
            "patch": self.backbone.patch,
        }

    def run(self, shards: Iterator[Shard]) -> Iterator[ShardOutput]:
        """Outputs of the shards, in order; the next images are decoded while these are computed.

        Raises:
            DevicePoisonedError: the GPU no longer answers this process.
        """
        threads = self.settings.decode_threads or (_DECODE_THREADS_BESIDE_A_GPU if self.device.type == "cuda" else 2)
        # While one batch is computed the next must become ready; at native size few images already hold much memory.
        batch = self.settings.batch_size or (_LARGEST_BATCH if self.device.type == "cuda" else 1)
        ahead = 4 * threads if self._resize.kind == "native" else max(4 * threads, 2 * batch)
        self.timer.take()
        decoded = images.decode_ahead(_items(shards), self._load, threads=threads, max_pending=ahead)
        with closing(decoded), _poison_told(self.device):
            while (arrived := self._wait(decoded)) is not None:
                yield self._run_shard(arrived, decoded)

    def _wait(self, decoded: Iterator[_Arrived]) -> _Arrived | None:
        with self.timer.step("wait"):
            return next(decoded, None)

    def _run_shard(self, first: _Arrived, decoded: Iterator[_Arrived]) -> ShardOutput:
        """The output of the shard that ``first`` opens; nothing beyond its last image is drawn."""
        shard = first[0].shard
        results = Results.of(shard)
        waiting: _Waiting = {}
        arrived: _Arrived | None = first
        for _ in range(len(shard.records)):
            if arrived is None:
                raise RunError(f"shard {shard.number} ended before its last image")
            self._take(*arrived, results, waiting)
            self._beat()
            self.doing = f"waiting for what follows {arrived[0].record['image_id']} in shard {shard.number}"
            arrived = None if arrived[0].is_last else self._wait(decoded)
        for batch in waiting.values():
            self._compute(batch, results)
        self._settle(results, 0)
        return self._output(results)

    def _take(self, item: Item, loaded: Loaded | Exception, results: Results, waiting: _Waiting) -> None:
        """Note a failed image; let a good one wait for others of its grid, and compute what is full or too much.

        When a batch is computed depends on the images alone, never on time, so that a shard's batches are always the
        same.
        """
        if isinstance(loaded, ImageError):
            results.rows[item.row] = failed_row(loaded)
            return
        if isinstance(loaded, Exception):
            raise loaded
        grid = loaded.image.grid
        waiting.setdefault(grid, []).append((item, loaded))
        if len(waiting[grid]) >= self._batch_size(grid):
            self._compute(waiting.pop(grid), results)
        elif sum(one.nbytes for batch in waiting.values() for _, one in batch) > _WAITING_BYTES:
            fullest = max(waiting, key=lambda each: len(waiting[each]))
            self._compute(waiting.pop(fullest), results)

    def _load(self, item: Item) -> Loaded:
        record = item.record
        data = images.fetch(record["uri"], self.limits)
        planned = record.get("size")
        changed = None if planned is None else len(data) != planned
        try:
            return self._loaded(record, data, changed)
        except ImageError as error:
            if not changed:
                raise
            since = f"{error.message}. The file has changed since the plan: {len(data)} bytes, not {planned}"
            raise ImageError(error.kind, since, error.step) from error

    def _loaded(self, record: dict[str, Any], data: bytes, changed: bool | None) -> Loaded:
        decoded = images.decode(data, self.limits)
        prepared = images.prepare_decoded(
            decoded,
            limits=self.limits,
            resize=self._resize,
            patch=self.backbone.patch,
            max_patches=self.settings.max_patches,
        )
        index = masks.upsample_index(prepared.grid, self.backbone.patch, prepared.working_size, prepared.full_size)
        picture = self.picture(decoded.rgb)
        # The truth may be as large as the image; both at once are not needed.
        del decoded
        return Loaded(prepared, index, picture, changed, *self.load_truth(record, prepared, index))

    def _batch_size(self, grid: tuple[int, int]) -> int:
        """Images of a grid computed together; fixed when the grid first comes, and less once memory ran out."""
        if grid not in self._batch_sizes:
            self._batch_sizes[grid] = self.settings.batch_size or self._batch_size_by_memory(grid)
        return self._batch_sizes[grid]

    def _batch_size_by_memory(self, grid: tuple[int, int]) -> int:
        if self.device.type == "cpu":
            return 1
        # Eight matrices of N x N stand at the peak; half of the free memory is left to the backbone and the allocator.
        n = grid[0] * grid[1]
        free = torch.cuda.mem_get_info(self.device)[0]
        free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return max(1, min(_LARGEST_BATCH, free // 2 // (8 * 4 * n * n)))

    def _compute(self, batch: list[tuple[Item, Loaded]], results: Results) -> None:
        """Segment a batch; if memory runs out, in halves; if the arithmetic fails, each image on its own."""
        one = batch[0][0]
        self.doing = f"computing {one.record['image_id']} and {len(batch) - 1} more of shard {one.shard.number}"
        found = self._try(batch)
        if isinstance(found, Exception):
            if len(batch) == 1:
                if not isinstance(found, _ARITHMETIC):
                    raise found
                failure = not_computable(f"{type(found).__name__}: {found}")
                results.rows[batch[0][0].row] = failed_row(failure)
                return
            part = 1
            if isinstance(found, _OUT_OF_MEMORY):
                part = len(batch) // 2
                self._batch_sizes[batch[0][1].image.grid] = part
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            for first in range(0, len(batch), part):
                self._compute(batch[first : first + part], results)
            return
        with self.timer.step("encode"):
            for i, (item, loaded) in enumerate(batch):
                if found.solver[i] == NOT_FINITE:
                    results.rows[item.row] = failed_row(not_computable("the backbone's features are not finite"))
                else:
                    self.encode(item, loaded, found, i, results)
        self._settle(results, self.may_wait)

    def _settle(self, results: Results, may_wait: int) -> None:
        """Fill in what is pending, the oldest first, until at most so many wait."""
        while len(results.pending) > may_wait:
            results.pending.popleft()()
            self._beat()

    def _try(self, batch: list[tuple[Item, Loaded]]) -> F | Exception:
        """What the batch came to, or why it did not; without a traceback, which would keep its memory in use."""
        seeds = [image_seed(self.settings.seed, item.record["image_id"]) for item, _ in batch]
        try:
            pictures = self._upload([loaded.image.rgb for _, loaded in batch])
            return self.compute(pictures, batch[0][1].image.grid, seeds)
        except (*_OUT_OF_MEMORY, *_ARITHMETIC) as error:
            return error.with_traceback(None)

    def _upload(self, pictures: list[NDArray[np.uint8]]) -> torch.Tensor:
        """Stack pictures on the device; a GPU fetches them out of pinned memory while the host goes on."""
        # torch keeps pinned memory for the next batch, and does not hand it out before the copy is done.
        pinned = self.device.type == "cuda"
        stacked = torch.empty((len(pictures), *pictures[0].shape), dtype=torch.uint8, pin_memory=pinned)
        np.stack(pictures, out=stacked.numpy())
        return stacked.to(self.device, non_blocking=True)

    def _output(self, results: Results) -> ShardOutput:
        fold, there = self._stage.fold, [state for state in results.states if state is not None]
        return ShardOutput(
            number=results.shard.number,
            rows=table_of(results.shard.records, results.rows, self._stage.schema),
            attachments=results.arrays,
            # In the order of the rows: the order in which batches came would show in the last bits of sums.
            statistics=reduce(fold.merge, there, fold.zero()),
            seconds=self.timer.take(),
            facts=self._facts,
        )


def _items(shards: Iterator[Shard]) -> Iterator[Item]:
    for shard in shards:
        for row, record in enumerate(shard.records.to_pylist()):
            yield Item(shard, row, record)


@contextmanager
def _poison_told(device: torch.device) -> Iterator[None]:
    """Tell an error after which the device answers nothing more in this process from any other error.

    After some errors of CUDA (an illegal access, a failed assertion on the device, a fault of its memory) every further
    call fails, and the first to fail is seldom the one at fault.
    """
    try:
        yield
    except Exception as error:
        if device.type == "cuda":
            try:
                torch.cuda.synchronize(device)
            except RuntimeError:
                raise DevicePoisonedError(
                    f"{device} is lost to its process: {type(error).__name__}: {error}"
                ) from error
        raise


def limits_of(settings: FeatureSettings) -> dict[str, Any]:
    """The limits in force, for the manifest: in a second try they may be others than those of the run."""
    return {name: getattr(settings, name) for name in settings.limits()}


def table_of(records: pa.Table, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows in a stage's schema: the plan's columns as they are, the others from each row, null where it has none."""
    columns = {name: records.column(name) for name in records.column_names if name in schema.names}
    for column in schema:
        if column.name not in columns:
            columns[column.name] = pa.array([row.get(column.name) for row in rows], column.type)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def not_computable(cause: str) -> ImageError:
    """What is said of an image whose numbers came to nothing."""
    return ImageError("not_computable", cause, "compute")


def finite_or_none(value: torch.Tensor) -> float | None:
    """A float for a column; null where there is no such number."""
    number = value.item()
    return number if math.isfinite(number) else None


def failed_row(error: ImageError) -> dict[str, Any]:
    """The row of an image that failed."""
    return {"status": "failed", "error_type": error.kind, "error": error.message, "failed_step": error.step}
