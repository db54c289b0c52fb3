"""The case lists: ``file://`` URLs are the paths that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from simsam_batch.cli import run

SETTINGS = ["--backbone", "descriptors", "--resize", "native", "--head", "none", "--k", "4"]


def test_images_have_the_ids_and_the_truth_of_plain_paths(cases: Path, tmp_path: Path) -> None:
    folder, found = cases / "lists", {}
    plain = tmp_path / "plain.txt"
    plain.write_text("".join(f"{folder / 'pictures' / f'{number}.png'}\n" for number in range(2)))
    for name, images in (("urls", folder / "list.txt"), ("paths", plain)):
        places = ["--root", str(folder / "pictures"), "--truth", str(folder / "masks")]
        assert run(["segment", str(images), str(tmp_path / name), *places, *SETTINGS, "--engine", "inline"]) == 0
        rows: list[dict[str, Any]] = pq.read_table(tmp_path / name / "results" / "segment").to_pylist()
        found[name] = [(row["image_id"], row["uri"], row["iou"] is not None, row["truth_error"]) for row in rows]
    assert [row[0] for row in found["urls"]] == ["0.png", "1.png"]
    assert all(scored and error is None for _, _, scored, error in found["urls"])
    assert found["urls"] == found["paths"]
