"""A stage whose images say by their uri what is to happen to whoever computes them. Importable by every worker process.

``fine``, ``bad`` (an image's own fault), ``badonce`` (the first time only), ``storage:K`` (K reads fail first),
``raise``, ``steps:N`` (N steps of 1.2 s, each told, and how far the shard is), ``kill`` (SIGKILL), ``exit``,
``segfault``, ``sleep:SECONDS``, ``killonce`` (SIGKILL the first time only), ``meet:K`` (waits until K processes have
built their worker), ``poison`` (the device is lost), ``poisononce``, ``stoponce`` (SIGSTOP the first time only),
``stoprank:N`` (SIGSTOP on rank N of torchrun, once in all; on others a fifth of a second), ``hold`` (keeps the
interpreter's lock for 1000 s).
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simsam_batch.errors import DevicePoisonedError, ImageError, StorageError
from simsam_batch.runs.plan import Plan, make_plan
from simsam_batch.runs.schema import ROW_FIELDS, Needs, Shard, ShardOutput
from simsam_batch.storage import Folder

SCHEMA = pa.schema([*ROW_FIELDS, pa.field("value", pa.float64())])


def value_of(image_id: str) -> float:
    """What the stage computes for an image that is fine."""
    return float(np.random.default_rng(zlib.crc32(image_id.encode())).standard_normal())


class SumFold:
    """Count and sum of the values of images that are fine."""

    def zero(self) -> dict[str, Any]:
        return {"ok": 0, "sum": 0.0}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        return {"ok": a["ok"] + b["ok"], "sum": a["sum"] + b["sum"]}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        return dict(s)


@dataclass(frozen=True)
class TroubleStage:
    """Attributes: folder: where events and counts are kept. unbuildable: how building the worker fails, if it does."""

    folder: str
    unbuildable: str = ""
    pause: float = 0.0
    name: str = "trouble"
    unit: str = "image_id"
    reads: tuple[str, ...] = ()
    needs: Needs = field(default_factory=Needs)
    schema: pa.Schema = SCHEMA
    settings: dict[str, Any] = field(default_factory=lambda: {"seed": 1})
    unrecorded: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    fold: SumFold = field(default_factory=SumFold)

    def make_worker(self, beat: Callable[[], None]) -> TroubleWorker:
        self.note("built", 0)
        if self.unbuildable == "raise":
            raise ValueError("no such weights")
        if self.unbuildable == "exit":
            os._exit(9)
        return TroubleWorker(self, beat)

    def state_of_failed(self, row: Mapping[str, Any]) -> None:
        return None

    def note(self, event: str, number: int) -> None:
        line = f"{event} {number} {os.getpid()} {time.time()} {os.environ.get('OMP_NUM_THREADS')}\n"
        descriptor = os.open(Path(self.folder) / "events", os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, line.encode())
        os.close(descriptor)

    def events(self, event: str) -> list[list[str]]:
        """Number, process, time and threads of every event of a kind."""
        path = Path(self.folder) / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[1:] for line in lines if line.split()[0] == event]

    def count(self, image_id: str) -> int:
        """How often an image was begun, this time included."""
        path = Path(self.folder) / f"count.{zlib.crc32(image_id.encode())}"
        with path.open("ab") as file:
            file.write(b".")
        return path.stat().st_size


class TroubleWorker:
    """Draws the next shard before it computes the current one."""

    doing = ""
    reached: tuple[int, int] | None = None

    def __init__(self, stage: TroubleStage, beat: Callable[[], None]) -> None:
        self._stage, self._beat = stage, beat

    def run(self, shards: Iterator[Shard]) -> Iterator[ShardOutput]:
        following = self._next(shards)
        while following is not None:
            current, following = following, self._next(shards)
            time.sleep(self._stage.pause)
            output = self._compute(current)
            self._stage.note("computed", current.number)
            yield output

    def _next(self, shards: Iterator[Shard]) -> Shard | None:
        shard = next(shards, None)
        if shard is not None:
            self._stage.note("drawn", shard.number)
        return shard

    def _compute(self, shard: Shard) -> ShardOutput:
        rows: list[dict[str, Any]] = []
        arrays: list[dict[str, Any]] = []
        fold = self._stage.fold
        statistics = fold.zero()
        for record in shard.records.to_pylist():
            if record["uri"].startswith("steps"):
                self.reached = shard.number, len(rows)
            self._beat()
            self.doing = f"computing {record['image_id']}"
            row: dict[str, Any] = {"image_id": record["image_id"], "uri": record["uri"], "status": "ok"}
            try:
                self._meet(record["image_id"], record["uri"])
            except ImageError as error:
                row.update(status="failed", error_type=error.kind, error=str(error), failed_step=error.step)
                arrays.append({})
            else:
                row["value"] = value_of(record["image_id"])
                arrays.append({"vector": np.full(3, row["value"], dtype=np.float32)})
                statistics = fold.merge(statistics, {"ok": 1, "sum": row["value"]})
            rows.append(row)
        return ShardOutput(shard.number, pa.Table.from_pylist(rows, SCHEMA), arrays, statistics, {"compute": 0.5})

    def _meet(self, image_id: str, uri: str) -> None:
        what, _, argument = uri.partition(":")
        if what == "bad" or (what == "badonce" and self._stage.count(image_id) == 1):
            raise ImageError("truncated", "the file ends early", "decode")
        if what == "storage" and self._stage.count(image_id) <= int(argument):
            raise StorageError(f"{uri}: the connection was reset")
        if what == "steps":
            for _ in range(int(argument)):
                time.sleep(1.2)
                self._beat()
        if what == "raise":
            raise ZeroDivisionError("a defect that this image lays bare")
        if what == "sleep":
            time.sleep(float(argument))
        while what == "meet" and len({pid for _, pid, _, _ in self._stage.events("built")}) < int(argument):
            time.sleep(0.05)
        if what == "poison" or (what == "poisononce" and self._stage.count(image_id) == 1):
            raise DevicePoisonedError("CUDA error: an illegal memory access was encountered")
        if what == "stoponce" and self._stage.count(image_id) == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        if what == "stoprank":
            time.sleep(0.2)
            if os.environ["RANK"] == argument and self._stage.count(what) == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
        if what == "hold":
            # unlike CDLL this does not let go of the interpreter's lock
            ctypes.PyDLL(None).sleep(1000)
        if what == "exit":
            os._exit(3)
        if what == "segfault":
            ctypes.string_at(0)
        if what == "kill" or (what == "killonce" and self._stage.count(image_id) == 1):
            os.kill(os.getpid(), signal.SIGKILL)


def plan_of(out: Path, uris: list[str], shard_size: int) -> tuple[Folder, Plan]:
    """A run's folder and plan with one image for each uri, named by its position."""
    folder = Folder(str(out))
    ids = [f"image-{number:03d}" for number in range(len(uris))]
    catalog = pa.table({"image_id": ids, "uri": uris})
    return folder, make_plan(folder, catalog, shard_size=shard_size, source={"kind": "test"})
