"""Rows made in threads of their own are the rows of the worker's own thread, whatever comes between."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simsam_batch.cli import run
from simsam_batch.errors import ImageError
from simsam_batch.runs.schema import Shard
from simsam_batch.settings import resolve
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.stages.segment.stage import SegmentStage, SegmentWorker, truth_of
from simsam_batch.workers import records
from simsam_batch.workers.models import resolve_models

SMALL = ["--backbone", "descriptors", "--resize", "native", "--engine", "inline", "--quiet", "--batch-size", "3"]
SIZES = [(96, 128), (128, 96), (96, 128), (160, 208), (96, 128), (128, 96), (96, 128), (20, 20)]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of three sizes with truth; the last is too small for a graph."""
    root = tmp_path_factory.mktemp("encode")
    for name in ("photos", "truth"):
        (root / name).mkdir()
    for i, (height, width) in enumerate(SIZES):
        pixels = np.random.default_rng(i).integers(60, 150, (height, width, 3)).astype(np.uint8)
        truth = np.zeros((height, width), np.uint8)
        part = np.s_[height // 4 : height // 2, width // 4 : width // 2 + 4 * i]
        pixels[part], truth[part] = (210, 40, 30), 255
        Image.fromarray(pixels).save(root / "photos" / f"{i}.png")
        Image.fromarray(truth).save(root / "truth" / f"{i}.png")
    return root


@pytest.mark.parametrize(
    "command",
    [
        ["segment", "--regions", "3"],
        ["segment", "--refine", "crf", "--refine-processes", "2"],
        ["segment", "--refine", "crf"],
        ["features"],
        ["hierarchy", "--superpixels", "8", "--refine", "crf", "--refine-processes", "1"],
    ],
    ids=" ".join,
)
def test_results_are_the_same_in_threads(command: list[str], photographs: Path, tmp_path: Path) -> None:
    name, *flags = command
    if "--refine" in flags:
        pytest.importorskip("pydensecrf")
    if name == "segment":
        flags += ["--truth", str(photographs / "truth")]
    results = []
    for threads in ("0", "3"):
        out = tmp_path / threads
        given = [name, str(photographs / "photos"), str(out), *flags, *SMALL, "--encode-threads", threads]
        assert run([*given, "--allow-failed", "1", "--shard-size", "5"]) == 0
        found = json.loads((out / "results" / f"{name}.json").read_text())
        results.append((found["content_digest"], found["metrics"], found["failed"]))
    assert results[0] == results[1]
    assert results[0][2] == 1


def worker_of(**settings: Any) -> SegmentWorker:
    given = {"backbone": "descriptors", "resize": "native", "device": "cpu", "encode_threads": 2, "batch_size": 2}
    chosen = resolve(SegmentSettings, given | settings)
    resolved = {"models": resolve_models(["backbone"], chosen), "truth": truth_of({})}
    return SegmentStage(chosen, resolved).make_worker(lambda: None)


def shard_of(photographs: Path, count: int = 7) -> Shard:
    names = [f"{i}.png" for i in range(count)]
    uris = [str(photographs / "photos" / name) for name in names]
    columns = {"image_id": names, "uri": uris, "truth_uri": [None] * count}
    return Shard(0, records.pa.table(columns, records.pa.schema([(name, records.pa.string()) for name in columns])))


def test_rows_are_made_elsewhere_and_hold_no_pixels(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = SegmentWorker.encode
    seen = []

    def encode(self: Any, item: Any, loaded: Any, found: Any, i: int) -> Any:
        seen.append((threading.current_thread().name, loaded.image.rgb.size))
        return encoding(self, item, loaded, found, i)

    monkeypatch.setattr(SegmentWorker, "encode", encode)
    (output,) = worker_of().run(iter([shard_of(photographs)]))
    assert output.rows["status"].to_pylist() == ["ok"] * 7
    assert len(seen) == 7
    assert all(name.startswith("simsam-encode") and not pixels for name, pixels in seen)
    assert output.seconds["encode"] > 0


def test_what_a_row_cannot_be_made_of_fails_alone(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = SegmentWorker.encode

    def encode(self: Any, item: Any, *others: Any) -> Any:
        if item.record["image_id"] == "3.png":
            raise ImageError("not_computable", "nothing came of it", "compute")
        return encoding(self, item, *others)

    monkeypatch.setattr(SegmentWorker, "encode", encode)
    (output,) = worker_of().run(iter([shard_of(photographs)]))
    assert [row["error"] for row in output.rows.to_pylist()] == [None, None, None, "nothing came of it", *[None] * 3]


def test_a_fault_of_the_program_fails_the_shard_and_the_next_one_goes_on(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding = SegmentWorker.encode
    faulty = True

    def encode(self: Any, item: Any, *others: Any) -> Any:
        if faulty and item.record["image_id"] == "4.png":
            raise ZeroDivisionError("a defect")
        return encoding(self, item, *others)

    monkeypatch.setattr(SegmentWorker, "encode", encode)
    worker = worker_of()
    with pytest.raises(ZeroDivisionError, match="a defect"):
        list(worker.run(iter([shard_of(photographs)])))
    faulty = False
    (output,) = worker.run(iter([shard_of(photographs)]))
    assert output.rows["status"].to_pylist() == ["ok"] * 7


def test_the_next_shard_is_computed_while_the_last_one_is_put_out(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computing, encoding = SegmentWorker.compute, SegmentWorker.encode
    computed_twice = threading.Event()
    batches = []

    def compute(self: Any, *arguments: Any) -> Any:
        batches.append(arguments)
        if len(batches) == 2:
            computed_twice.set()
        return computing(self, *arguments)

    def encode(self: Any, *arguments: Any) -> Any:
        assert computed_twice.wait(60), "the device waited until a shard was put out"
        return encoding(self, *arguments)

    monkeypatch.setattr(SegmentWorker, "compute", compute)
    monkeypatch.setattr(SegmentWorker, "encode", encode)
    one = shard_of(photographs, 1)
    outputs = list(worker_of().run(iter([one, Shard(1, one.records), Shard(2, one.records)])))
    assert [(output.number, output.rows["status"].to_pylist()) for output in outputs] == [
        (number, ["ok"]) for number in range(3)
    ]


@pytest.mark.parametrize("step", ["compute", "encode"])
def test_an_error_is_of_the_shard_that_it_came_of(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = getattr(SegmentWorker, step)
    seen = []

    def fails_at_the_second(self: Any, *arguments: Any) -> Any:
        seen.append(arguments)
        if len(seen) == 2:
            raise KeyError("a defect")
        return before(self, *arguments)

    monkeypatch.setattr(SegmentWorker, step, fails_at_the_second)
    one = shard_of(photographs, 1)
    outputs = worker_of(encode_threads=1).run(iter([Shard(number, one.records) for number in range(4)]))
    assert next(outputs).number == 0
    with pytest.raises(KeyError, match="a defect"):
        next(outputs)
