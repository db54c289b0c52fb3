"""What a person sees while a run goes on."""

from __future__ import annotations

import os
import pty
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from simsam_batch.engines.contract import Progress, ShardReport
from simsam_batch.telling.console import Text, reporter


def test_one_fact_that_meets_every_shard_is_said_once_with_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    with reporter("text", quiet=False) as report:
        # a full disk: nine shards in five rounds
        for start in range(1, 6):
            for shard in range(9):
                where = f"/out/segment/attempts/{shard:07d}.{start}"
                said = f"cannot write {where}: OSError: [Errno 28] No space left on device"
                report.shard(ShardReport(shard, start, "error", error=said))
        report.shard(ShardReport(4, 6, "error", error="the connection was reset"))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert lines == [
        "shard 0, start 1: cannot write /out/segment/attempts/0000000.1: OSError: [Errno 28] No space left on device",
        "shard 4, start 6: the connection was reset",
        "shard 0, start 1: 44 more starts failed alike",
    ]


SHARDS, IMAGES = 5, 8


@given(
    st.integers(0, 2),
    st.lists(st.tuples(st.integers(0, SHARDS - 1), st.integers(0, IMAGES), st.sampled_from(["far", "error", "done"]))),
)
def test_the_bar_never_goes_back_nor_over_whatever_becomes_of_shards(
    before: int, events: list[tuple[int, int, str]]
) -> None:
    text, committed, shown = Text(quiet=True), set[int](), 0
    text.plan("segment", images=SHARDS * IMAGES, shards=SHARDS, done_shards=before, done_images=before * IMAGES)
    (task,) = text._bar.tasks
    for shard, done, what in events:
        if what == "far":
            # of a start that came late, or of a shard that another one has committed, too
            text.progress(Progress(shard, done))
        elif what == "error":
            text.shard(ShardReport(shard, 1, "error", error="lost"))
        elif shard not in committed and len(committed) < SHARDS - before:
            committed.add(shard)
            text.shard(ShardReport(shard, 1, "committed", images=IMAGES))
        assert shown <= task.completed <= SHARDS * IMAGES
        shown = int(task.completed)
        assert shown >= (before + len(committed)) * IMAGES
    assert task.total == SHARDS * IMAGES
    text.plan("semantic", images=SHARDS * IMAGES, shards=SHARDS, done_shards=0, done_images=0)
    assert (task.completed, task.finished) == (0, False), "the next stage begins anew"
    text.close()


def test_what_is_to_be_done_is_said_again_where_it_is_far_above(capsys: pytest.CaptureFixture[str]) -> None:
    hint = "2 images new. To have them: add --extend"
    for lines, times in ((2, 1), (10, 2)):
        text = Text(quiet=False)
        text.note(hint, to_do=True)
        for number in range(lines):
            text.note(f"line {number}")
        text.close()
        said = capsys.readouterr().err.splitlines()
        assert (said.count(hint), len(said)) == (times, lines + times)
        assert (said[-1] == hint) == (times == 2)


def in_a_terminal(arguments: list[str]) -> list[str]:
    """What stands in the lines of a terminal, one after the other, while the command runs."""
    process, terminal = pty.fork()
    if not process:
        os.environ.update(TERM="xterm", COLUMNS="120")
        os.execv(sys.executable, [sys.executable, "-m", "simsam_batch", *arguments])
    written = b""
    while True:
        try:
            written += os.read(terminal, 4096)
        # Linux says so that the other end is closed
        except OSError:
            break
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, written.decode()
    os.close(terminal)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode()).replace("\r", "\n").split("\n")


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_in_a_terminal_the_bar_moves_inside_of_a_shard_and_what_is_loaded_is_said(tmp_path: Path, engine: str) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(24):
        pixels = np.random.default_rng(number).integers(80, 120, (384, 512, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    command = ["segment", str(photos), str(tmp_path / "out"), "--backbone", "descriptors", "--engine", engine]
    lines = in_a_terminal([*command, "--shard-size", "24", "--workers", "1"])
    text = "\n".join(lines)
    places = [text.index(words) for words in ("loading packages", "listing images", "loading descriptors", "0/24")]
    assert places == sorted(places)
    reached = [int(found) for found in re.findall(r"segment .* (\d+)/24 done", text)]
    assert reached == sorted(reached)
    assert any(0 < each < 24 for each in reached)
    assert "24 images done, 0 of them failed" in text


def test_a_log_says_once_what_is_loaded_and_a_program_is_told_nothing_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for log_format, quiet in (("text", False), ("text", True), ("json", False)):
        with reporter(log_format, quiet=quiet) as report:  # type: ignore[arg-type]
            report.doing("loading dinov2-base")
            report.progress(Progress(0, 3))
        said = capsys.readouterr().err
        assert said == ("loading dinov2-base\n" if (log_format, quiet) == ("text", False) else "")
