"""``simsam retry``, ``status`` and ``verify`` on real runs: failed images done, good ones kept, damage found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from simsam_batch import operations
from simsam_batch.cli import run
from simsam_batch.errors import SettingsError
from simsam_batch.telling.status import duration

PLAIN = ["--backbone", "descriptors", "--resize", "native", "--head", "none", "--k", "5", "--shard-size", "3"]
INLINE = ["--engine", "inline"]
REGIONS = ["--region-feature", "patches", "--regions", "3", "--clusters", "2", "--shift", "zero"]
TOO_LARGE = "7.png"
TRUNCATED = "2.png"


def picture(seed: int, side: int = 96) -> Image.Image:
    """A red square on grey noise."""
    pixels = np.random.default_rng(seed).integers(90, 140, (side, side, 3)).astype(np.uint8)
    pixels[16:64, 16 : 48 + 4 * (seed % 4)] = (200, 40, 40)
    return Image.fromarray(pixels)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eight pictures in three shards: one larger than the limit of the first run, one cut off."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(8):
        picture(i, 160 if f"{i}.png" == TOO_LARGE else 96).save(folder / f"{i}.png")
    whole = (folder / TRUNCATED).read_bytes()
    (folder / TRUNCATED).write_bytes(whole[: len(whole) // 2])
    return folder


def mend(pictures: Path) -> None:
    picture(2).save(pictures / TRUNCATED)


def result_of(out: Path, stage: str = "segment") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results" / f"{stage}.json").read_text())
    return found


def rows_of(out: Path, stage: str = "segment") -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in pq.read_table(out / "results" / stage).to_pylist()}


@pytest.mark.slow
def test_a_retry_under_other_limits_ends_where_a_run_under_them_would_have(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(["segment", str(pictures), str(out), *PLAIN, *INLINE, "--max-pixels", "10000"]) == 3
    before = result_of(out)
    assert (before["ok"], before["errors_by_type"]) == (6, {"too_large": 1, "truncated": 1})
    manifests = {path.name: path.read_bytes() for path in (out / "segment/manifests").iterdir()}
    mend(pictures)
    # The truncated one is whole again; the other one is still too large.
    assert run(["retry", str(out), *INLINE]) == 3
    assert result_of(out)["errors_by_type"] == {"too_large": 1}
    assert run(["retry", str(out), "--workers", "2", "--max-pixels", "30000"]) == 0
    result = result_of(out)
    assert (result["ok"], result["failed"]) == (8, 0)
    for name, body in manifests.items():
        assert (out / "segment/manifests" / name).read_bytes() == body
    second = json.loads((out / "segment/manifests/0000002.1.json").read_text())
    # 7.png stands in the third shard, which had a second try in each call: the first changed nothing there.
    third = json.loads((out / "segment/manifests/0000002.2.json").read_text())
    assert second["facts"]["limits"]["max_pixels"] == 10_000
    assert third["facts"]["limits"]["max_pixels"] == 30_000
    calm = tmp_path / "calm"
    assert run(["segment", str(pictures), str(calm), *PLAIN, *INLINE, "--max-pixels", "30000"]) == 0
    left_out = {"changed_since_plan", "arrays_path"}
    tried, calm_rows = (
        [{k: v for k, v in row.items() if k not in left_out} for row in rows_of(o).values()] for o in (out, calm)
    )
    assert tried == calm_rows
    assert [name for name, row in rows_of(out).items() if row["changed_since_plan"]] == [TRUNCATED]
    assert result["settings"]["max_pixels"] == 10_000, "the record of the run does not change"
    # The command that began the run finds everything done, and says the same.
    assert run(["segment", str(pictures), str(out), *PLAIN, *INLINE, "--max-pixels", "10000"]) == 0
    assert result_of(out)["content_digest"] == result["content_digest"]


@pytest.mark.slow
def test_regions_and_label_maps_of_failed_images_are_made_with_the_clusters_there_are(
    pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["semantic", str(pictures), str(out), *PLAIN, *INLINE, *REGIONS]
    assert run(command) == 3
    fitted = result_of(out, "clusters")["content_digest"]
    before = rows_of(out, "semantic")
    assert before[TRUNCATED]["status"] == "failed"
    mend(pictures)
    assert run(["retry", str(out), *INLINE]) == 0
    after = rows_of(out, "semantic")
    assert after[TRUNCATED]["status"] == "ok"
    assert after[TRUNCATED]["labels"]
    same = ("labels", "segments", "status")
    others = [name for name in before if name != TRUNCATED]
    assert [[after[n][key] for key in same] for n in others] == [[before[n][key] for key in same] for n in others]
    assert result_of(out, "clusters")["content_digest"] == fitted
    assert len(list((out / "clusters/manifests").iterdir())) == 1, "the fit is not tried again"
    assert result_of(out, "regions")["failed"] == 0
    assert run(command) == 0


@pytest.mark.slow
@pytest.mark.parametrize("engine", [pytest.param("ray", marks=pytest.mark.soak), "torchrun"])
def test_every_engine_tries_all_stages_again(pictures: Path, tmp_path: Path, engine: str) -> None:
    out = tmp_path / "out"
    assert run(["semantic", str(pictures), str(out), *PLAIN, *INLINE, *REGIONS]) == 3
    mend(pictures)
    if engine == "ray":
        assert run(["retry", str(out), "--engine", "ray", "--workers", "1"]) == 0
    else:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        done = subprocess.run(
            [*launch, "-m", "simsam_batch", "retry", str(out)], capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
    assert [result_of(out, stage)["failed"] for stage in ("regions", "semantic")] == [0, 0]


def test_a_second_try_in_a_run_that_is_not_finished_is_kept_for_when_it_is(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["segment", str(pictures), str(out), *PLAIN, *INLINE]
    assert run(command) == 3
    # As if the run had been killed before its last shard.
    (out / "segment/manifests/0000002.0.json").unlink()
    (out / "results/segment.json").unlink()
    mend(pictures)
    capsys.readouterr()
    assert run(["retry", str(out), *INLINE]) == 0
    assert "1 shards have not been done yet" in capsys.readouterr().err
    assert not (out / "results/segment.json").exists()
    assert run(command) == 0
    assert (result_of(out)["ok"], result_of(out)["failed"]) == (8, 0)


def test_settings_of_one_stage_do_not_stop_another_and_wrong_ones_are_named(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    trees = ["hierarchy", str(pictures), str(out), "--backbone", "descriptors", "--resize", "native"]
    assert run([*trees, "--superpixels", "8", "--shard-size", "3", *INLINE]) == 3
    mend(pictures)
    # hierarchy knows no refinement, which retry offers for the other stages
    assert run(["retry", str(out), *INLINE, "--refine-processes", "1"]) == 0
    assert result_of(out, "hierarchy")["failed"] == 0
    capsys.readouterr()
    assert run(["retry", str(out), "--log-format", "xml"]) == 1
    assert "log_format: 'xml' is not allowed; it is text | json" in capsys.readouterr().err


def test_what_cannot_be_changed_is_refused_by_name(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(["segment", str(pictures), str(out), *PLAIN, *INLINE]) == 3
    from simsam_batch.telling.console import reporter

    with reporter("text", quiet=True) as report, pytest.raises(SettingsError, match="kappa: cannot be changed"):
        operations.retry(str(out), {"kappa": 0.5}, report)


def test_without_a_run_all_of_them_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "retry", "verify"):
        assert run([command, str(tmp_path / "nowhere")]) == 1
        assert "holds no run: it has no run.json" in capsys.readouterr().err


def test_a_run_without_failures_has_nothing_to_retry(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mend(pictures)
    out = tmp_path / "out"
    assert run(["segment", str(pictures), str(out), *PLAIN, *INLINE]) == 0
    capsys.readouterr()
    assert run(["retry", str(out), *INLINE]) == 0
    assert "segment: no image has failed" in capsys.readouterr().err
    assert len(list((out / "segment/manifests").iterdir())) == 3


def test_status_tells_what_is_done_pending_and_failed(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(["segment", str(pictures), str(out), *PLAIN, *INLINE]) == 3
    # As if the run had been killed over its last shard, and before it was published.
    (out / "segment/manifests/0000002.0.json").unlink()
    (out / "results/segment.json").unlink()
    capsys.readouterr()
    assert run(["status", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["shards"]) == (8, 3)
    (stage,) = found["stages"]
    assert (stage["stage"], stage["done_shards"], stage["pending_shards"], stage["done_images"]) == ("segment", 2, 1, 6)
    assert (stage["started_shards"], stage["most_starts"], stage["published"]) == (1, 1, False)
    assert (stage["failed"], stage["errors_by_type"]) == (1, {"truncated": 1})
    assert 0 <= stage["seconds_since_commit"] < 600
    assert run(["status", str(out)]) == 0
    text = capsys.readouterr().out
    assert "2 of 3 shards, 6 of 8 images (75 %)" in text
    assert "1 shard begun and not committed" in text
    assert "1 image failed: truncated 1; simsam retry tries them again" in text
    assert run(["status", str(out), "--quick", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][0]["failed"] is None


def test_status_works_on_object_storage(pictures: Path, s3_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["segment", str(pictures), f"{s3_url}/out", *PLAIN, *INLINE]) == 3
    capsys.readouterr()
    assert run(["status", f"{s3_url}/out"]) == 0
    text = capsys.readouterr().out
    assert "3 of 3 shards, 8 of 8 images (100 %)" in text
    assert "published in results/segment.json" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (120, "2 min"), (5400, "1 h 30 min"), (200_000, "2 d 7 h")],
)
def test_times_are_told_in_few_words(seconds: float, text: str) -> None:
    # 200 000 s are 55.6 hours: two days and seven hours and a half.
    assert duration(seconds) == text


def test_verify_tells_a_whole_run_from_a_damaged_one_and_clears_away_what_nothing_reads(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(["segment", str(pictures), str(out), *PLAIN, *INLINE]) == 3
    capsys.readouterr()
    assert run(["verify", str(out)]) == 0
    assert "all that is committed is as it was" in capsys.readouterr().out
    orphan = out / "segment/data/0000000.7.parquet"
    orphan.write_bytes(b"of an attempt that came to nothing")
    assert run(["verify", str(out), "--delete-orphans"]) == 0
    assert orphan.exists(), "it may be of a shard that is being committed"
    assert run(["verify", str(out), "--delete-orphans", "--orphan-hours", "0"]) == 0
    assert not orphan.exists()
    (rows,) = (out / "segment/data").glob("0000001.*.parquet")
    rows.write_bytes(rows.read_bytes()[:-1] + b"x")
    capsys.readouterr()
    assert run(["verify", str(out), "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["damaged"]
    assert found["problems"][0]["where"] == f"segment/data/{rows.name}"
