"""With a stand-in for the device that takes its time and holds no lock, the host's work is done beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.host import one_run, write_set

DEVICE_S = 0.04
"""Of an image: much more than the host needs for one so small, were it alone on its cores."""


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    write_set(folder, 0.05, 32)
    return folder


@pytest.mark.slow
def test_a_device_is_kept_busy_where_the_host_is_fast_enough(small_set: Path, tmp_path: Path) -> None:
    beside = {"decode_threads": 2, "encode_threads": 2, "batch_size": 4, "shard_size": 16}
    found = one_run(small_set, str(tmp_path / "out"), DEVICE_S, **beside)
    assert found["busy"] > 0.85
    # what is left to the thread that drives it: to hand over
    assert found["device_thread"] < 0.25 * found["cpu"]


@pytest.mark.slow
def test_results_are_those_of_the_real_worker_where_what_is_stored_fits(small_set: Path, tmp_path: Path) -> None:
    # every image is given what the first batch of its grid came to, so that sums differ and counts do not
    found = one_run(small_set, str(tmp_path / "out"))
    assert set(found["steps"]) >= {"fetch", "decode", "resize", "truth", "encode", "run lengths", "commit"}
    assert all(seconds >= 0 for name, seconds in found["steps"].items() if name != "else")
    assert sum(found["steps"].values()) == pytest.approx(found["cpu"])
