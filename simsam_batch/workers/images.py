"""The worker of stages over images: decoded ahead, in batches of equal grid, with an answer to memory running out."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.errors import DevicePoisonedError, ImageError
from simsam_batch.regions import pixel_index
from simsam_batch.regions.refine import shrink
from simsam_batch.runs.schema import Shard, ShardOutput
from simsam_batch.workers.models import compute_device, load_model
from simsam_batch.workers.pixels import uploaded
from simsam_batch.workers.records import Item, Later, RecordWorker, Results, Row, SettledStage, failed
from simsam_batch.workers.seeds import image_seed

_WAITING_BYTES = 300_000_000
_LARGEST_BATCH = 64
_DECODE_THREADS_BESIDE_A_GPU = 8
_ENCODE_THREADS_BESIDE_A_GPU = 4
OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)
"""What is raised where a device or a machine has no more."""
_ARITHMETIC = (ArithmeticError, np.linalg.LinAlgError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Loaded:
    """One image read, decoded and cut to whole patches; where its patches lie, and its truth if it has one.

    ``changed`` says whether the file has another size than the plan holds, None if it holds none.
    ``picture`` is the whole of it as refinement wants to see it, if it does; see `ImageWorker.kept_side`.
    """

    image: images.Prepared
    index: pixel_index.UpsampleIndex
    picture: NDArray[np.uint8] | None
    changed: bool | None
    truth: Any
    truth_error: str | None

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels held in memory."""
        return sum(map(_nbytes, (self.image.rgb, self.picture, self.truth)))


def _nbytes(held: Any) -> int:
    """Bytes of an array or of what says so itself, or of a list of them; 0 for anything else."""
    return sum(map(_nbytes, held)) if isinstance(held, list) else getattr(held, "nbytes", 0)


_Waiting = dict[tuple[int, int], list[tuple[Item, Loaded]]]


class ImageWorker(RecordWorker[Loaded], Generic[F]):
    """Decodes ahead in threads, groups images of equal grid into batches, and computes them with one backbone.

    Attributes:
        backbone: what describes the patches.
        kept_side: longest side in pixels of the picture of each image that is kept until its result is encoded, for
            refinement to look at; None: none is.
        keeps_whole: whether that picture is made of the whole image, whatever the settings say of decoding.
    """

    role = "backbone"
    kept_side: int | None = None
    keeps_whole: bool = False

    def __init__(self, stage: SettledStage, beat: Callable[[], None]) -> None:
        settings = stage.options
        super().__init__(stage, beat, torch.device(compute_device(settings.device)))
        self.backbone: Any = self.model(self.role)
        self._resize = images.parse_resize(settings.resize)
        self._batch_sizes: dict[tuple[int, int], int] = {}
        self._waiting: _Waiting = {}
        self._encode_threads = settings.encode_threads or (
            _ENCODE_THREADS_BESIDE_A_GPU if self.device.type == "cuda" else 0
        )
        if self._encode_threads:
            self.behind = ThreadPoolExecutor(1, "simsam-put-out")
        self.facts["precision"] = self.backbone.describe().get("precision", "fp32")
        if (loaded := getattr(self.backbone, "loaded", None)) is not None and loaded.network:
            self.facts["checkpoint_part"] = loaded.network

    def model(self, role: str) -> Any:
        """The model of a role on this worker's device, as the driver resolved it."""
        return load_model(role, self.stage.options, self.stage.resolved["models"], str(self.device))

    @abstractmethod
    def compute(self, pictures: torch.Tensor, grid: tuple[int, int], seeds: Sequence[int]) -> F:
        """Compute a batch of pictures (B, height, width, 3) uint8 on the device, with one seed for each."""

    @abstractmethod
    def encode(self, item: Item, loaded: Loaded, found: F, i: int) -> Row | Later:
        """The row of image ``i`` of a batch, or what will give it; beside a GPU in a thread that encodes.

        Nothing is left of the image's pixels, and steps are timed by `Timer.on_host`.

        Raises:
            ImageError: nothing came of this image.
        """

    def cost(self, patches: int) -> int:
        """Bytes of memory that one image of so many patches takes on the device, beside the backbone."""
        # Eight matrices of N x N stand at the peak.
        return 8 * 4 * patches * patches

    def load_truth(
        self, record: dict[str, Any], image: images.Prepared, index: pixel_index.UpsampleIndex
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
            "more_frames": image.more_frames,
            "content_sha256": image.content_sha256,
            "changed_since_plan": loaded.changed,
            "grid_h": image.grid[0],
            "grid_w": image.grid[1],
            "patch": self.backbone.patch,
        }

    def ahead(self) -> tuple[int, int]:
        """How many threads decode, and how many images at most."""
        threads = self.settings.decode_threads or (_DECODE_THREADS_BESIDE_A_GPU if self.device.type == "cuda" else 2)
        # While one batch is computed the next must become ready; at native size few images already hold much memory.
        batch = self.settings.batch_size or (_LARGEST_BATCH if self.device.type == "cuda" else 1)
        return threads, 4 * threads if self._resize.kind == "native" else max(4 * threads, 2 * batch)

    def run(self, shards: Iterator[Shard]) -> Iterator[ShardOutput]:
        """Outputs of the shards, in order; the next images are decoded while these are computed.

        Raises:
            DevicePoisonedError: the GPU no longer answers this process.
        """
        # what an attempt that failed had left
        self._waiting = {}
        with _poison_told(self.device):
            yield from super().run(shards)

    def take(self, item: Item, loaded: Loaded, results: Results) -> None:
        """Let an image wait for others of its grid, and compute what is full or too much.

        When a batch is computed depends on the images alone, never on time, so that a shard's batches are always the
        same.
        """
        grid, waiting = loaded.image.grid, self._waiting
        waiting.setdefault(grid, []).append((item, loaded))
        if len(waiting[grid]) >= self._batch_size(grid):
            self._compute(waiting.pop(grid), results)
        elif sum(one.nbytes for batch in waiting.values() for _, one in batch) > _WAITING_BYTES:
            fullest = max(waiting, key=lambda each: len(waiting[each]))
            self._compute(waiting.pop(fullest), results)

    def finish(self, results: Results) -> None:
        """Compute what still waits for others of its grid."""
        batches, self._waiting = self._waiting, {}
        for batch in batches.values():
            self._compute(batch, results)

    def load(self, item: Item) -> Loaded:
        """Read, decode and cut an image, and read its truth."""
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
        with ExitStack() as in_flight:
            decoded = images.decode(data, self.limits, self.settings.color_profile, in_flight, self._enough)
            prepared = images.prepare_decoded(
                decoded,
                limits=self.limits,
                resize=self._resize,
                patch=self.backbone.patch,
                max_patches=self.settings.max_patches,
                way=self.settings.decode,
            )
            index = pixel_index.upsample_index(
                prepared.grid, self.backbone.patch, prepared.working_size, prepared.full_size
            )
            picture = None if self.kept_side is None else shrink(decoded.rgb, self.kept_side)
            # The truth may be as large as the image; both at once are not needed.
            del decoded
        return Loaded(prepared, index, picture, changed, *self.load_truth(record, prepared, index))

    @property
    def _enough(self) -> images.Enough | None:
        """The size at which images are decoded at least; None: whole."""
        scaled = self.settings.decode == "scaled" and not self.keeps_whole
        return images.enough_for(self._resize, self.kept_side or 0) if scaled else None

    def _batch_size(self, grid: tuple[int, int]) -> int:
        """Images of a grid computed together; fixed when the grid first comes, and less once memory ran out."""
        if grid not in self._batch_sizes:
            self._batch_sizes[grid] = self.settings.batch_size or self._batch_size_by_memory(grid)
        return self._batch_sizes[grid]

    def _batch_size_by_memory(self, grid: tuple[int, int]) -> int:
        if self.device.type == "cpu":
            return 1
        # Half of the free memory is left to the backbone and the allocator, the rest shared by all workers of the GPU.
        free = torch.cuda.mem_get_info(self.device)[0]
        free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        sharing = self.settings.workers_per_gpu
        return max(1, min(_LARGEST_BATCH, free // 2 // sharing // self.cost(grid[0] * grid[1])))

    def _compute(self, batch: list[tuple[Item, Loaded]], results: Results) -> None:
        """Compute a batch; if memory runs out, in halves; if the arithmetic fails, each image on its own."""
        one = batch[0][0]
        self.doing = f"computing {one.record['image_id']} and {len(batch) - 1} more of shard {one.shard.number}"
        found = self._try(batch)
        if isinstance(found, Exception):
            if len(batch) == 1:
                if not isinstance(found, _ARITHMETIC):
                    raise found
                results.put(one.row, failed(not_computable(f"{type(found).__name__}: {found}")))
                return
            part = 1
            if isinstance(found, OUT_OF_MEMORY):
                part = len(batch) // 2
                self._batch_sizes[batch[0][1].image.grid] = part
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            for first in range(0, len(batch), part):
                self._compute(batch[first : first + part], results)
            return
        encoders = self._encoders
        for i, (item, loaded) in enumerate(batch):
            bare = replace(loaded, image=replace(loaded.image, rgb=loaded.image.rgb[:0]))
            if encoders is None:
                results.put(item.row, self._encoded(item, bare, found, i), bare.nbytes)
            else:
                results.put(item.row, encoders.submit(self._encoded_whole, item, bare, found, i).result, bare.nbytes)
        # while one batch is encoded the next is computed
        results.settle(self.may_wait if encoders is None else max(self.may_wait, 2 * len(batch)), self._beat)

    def _encoded(self, item: Item, loaded: Loaded, found: F, i: int) -> Row | Later:
        try:
            with self.timer.on_host("encode"):
                return self.encode(item, loaded, found, i)
        except ImageError as error:
            return failed(error)

    def _encoded_whole(self, item: Item, loaded: Loaded, found: F, i: int) -> Row:
        row = self._encoded(item, loaded, found, i)
        return row if isinstance(row, Row) else row()

    @cached_property
    def _encoders(self) -> ThreadPoolExecutor | None:
        """Threads that encode; None: this one does. Those that wait for what refines keep all of that busy."""
        return ThreadPoolExecutor(max(self._encode_threads, self.may_wait), "simsam-encode") if self.behind else None

    def _try(self, batch: list[tuple[Item, Loaded]]) -> F | Exception:
        """What the batch came to, or why it did not; without a traceback, which would keep its memory in use."""
        seeds = [image_seed(self.settings.seed, item.record["image_id"]) for item, _ in batch]
        try:
            pictures = uploaded([loaded.image.rgb for _, loaded in batch], self.device)
            return self.compute(pictures, batch[0][1].image.grid, seeds)
        except (*OUT_OF_MEMORY, *_ARITHMETIC) as error:
            return error.with_traceback(None)


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


def not_computable(cause: str) -> ImageError:
    """What is said of an image whose numbers came to nothing."""
    return ImageError("not_computable", cause, "compute")


def finite_or_none(value: torch.Tensor) -> float | None:
    """A float for a column; null where there is no such number."""
    number = value.item()
    return number if math.isfinite(number) else None
