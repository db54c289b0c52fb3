"""Pairs matched by the attention of Stable Diffusion, by a tiny network of the real classes: map, place and picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viewing import Client

from simsam_batch.cli import run

pytest.importorskip("diffusers")
sys.path.append(str(Path(__file__).parent.parent / "correspondence"))

from result_rows import rows_of
from test_layers import array
from tiny_diffusion import SIDE, blocks, save


@pytest.mark.slow
def test_the_attention_to_a_point_is_highest_where_the_point_was_found(
    served: Callable[..., Client], tmp_path: Path
) -> None:
    pixels = (blocks(0) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    # twice as wide: the map is of the square that the network has seen
    Image.fromarray(pixels).resize((2 * SIDE, SIDE), Image.Resampling.NEAREST).save(tmp_path / "c.png")
    save(tmp_path / "sd")
    points = [[43.0, 83.0], [90.0, 30.0]]
    (tmp_path / "pairs.json").write_text(json.dumps([{"source": "a.png", "target": "c.png", "source_points": points}]))
    arguments = ["correspond", "diffusion", str(tmp_path / "pairs.json"), str(tmp_path / "out"), "--side", str(SIDE)]
    arguments += ["--root", str(tmp_path), "--weights", str(tmp_path / "sd"), "--threads", "1", "--maps", "layers"]
    quick = ["--starts", "2", "--steps", "3", "--crops", "5", "--learning-rate", ".05", "--engine", "inline", "--quiet"]
    assert run([*arguments, *quick]) == 0
    client = served(tmp_path / "out")
    pair = client.get("api/pairs/0", stage="attention").json()
    assert pair["maps"]
    width, height = pair["target_size"]
    for number, point in enumerate(pair["points"]):
        answer = client.get(f"layers/pairs/0/{number}", stage="attention")
        assert answer.headers["x-cover"] == "1,1"
        values = array(answer).astype(np.float64)
        y, x = np.unravel_index(np.nanargmax(values), values.shape)
        down, across = values.shape
        assert abs((x + 0.5) / across * width - point["x"]) < 2 * width / across
        assert abs((y + 0.5) / down * height - point["y"]) < 2 * height / down
    layers = array(client.get("layers/pairs/0/0/layers", stage="attention"))
    assert layers.shape == (2, len(pair["layers"]), 64, 64)
    row = rows_of(tmp_path / "out", "attention")[0]
    with np.load(tmp_path / "out" / row["arrays_path"]) as file:
        assert np.array_equal(layers, file[f"{row['arrays_member']}.layers"][0])
    assert client.get("layers/pairs/0/7/layers", stage="attention").status == 404
    assert client.get("pairs/0/target.jpg", stage="attention", side=256).status == 200
