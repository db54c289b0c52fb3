"""``simsam view --live``: cosines of any patch and matches of any point, against the run and a computation apart."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from result_rows import rows_of
from viewing import Client, Opener, write_photographs

from simsam_batch.cli import run as simsam
from simsam_batch.results.run import open_run


def asked(client: Client, path: str, body: dict[str, Any]) -> Any:
    """The answer, once the features are ready."""
    for _ in range(60):
        answer = client.post(path, body)
        if answer.status != 202:
            return answer
        time.sleep(0.2)
    raise AssertionError("the features never became ready")


def readers() -> int:
    """How many readers of stored features this process holds."""
    from simsam_batch.stages.matches.described import DescribedImages

    gc.collect()
    return sum(isinstance(each, DescribedImages) for each in gc.get_objects())


@pytest.fixture
def live(served: Callable[..., Client], whole_run: Any) -> Client:
    return served(whole_run.pairs, live=True, device="cpu")


def test_a_live_match_of_a_stored_point_gives_the_stored_place(live: Client, whole_run: Any) -> None:
    for number, row in enumerate(rows_of(whole_run.pairs, "matches")):
        for point in row["points"]:
            body = {"pair": number, "stage": "matches", "x": point["source_x"], "y": point["source_y"]}
            found = asked(live, "api/live/match", body).json()
            assert (found["x"], found["y"]) == pytest.approx((point["x"], point["y"]), abs=1e-3)
            assert found["similarity"] == pytest.approx(point["similarity"], abs=1e-5)
            assert found["mutual"] == point["mutual"]
            assert len(found["map"]) == np.prod(found["grid"])


def test_cosines_are_those_of_the_stored_features(live: Client, whole_run: Any) -> None:
    answer = asked(live, "api/live/affinity", {"row": 1, "patch": 7})
    image = rows_of(whole_run.pairs, "features")[1]["image_id"]
    # each stored array is brought to unit length first, then all of them side by side
    stored = open_run(str(whole_run.pairs)).features(image)
    assert answer.status == 200
    parts = [each.astype(np.float64) for each in stored.values() if each.ndim == 3]
    units = np.concatenate([each / np.linalg.norm(each, axis=-1, keepdims=True) for each in parts], axis=-1)
    units /= np.linalg.norm(units, axis=-1, keepdims=True)
    expected = units @ units.reshape(-1, units.shape[-1])[7]
    found = np.frombuffer(answer.body, "<f2").reshape(expected.shape)
    assert found == pytest.approx(expected, abs=2e-3)


def test_cosines_of_a_run_without_stored_features_come_from_its_own_network(
    served: Callable[..., Client], whole_run: Any
) -> None:
    client = served(whole_run.out, live=True, device="cpu")
    about = client.get("api/run").json()["live"]
    assert (about["features"], about["stages"]) == ("computed", ["segment"])
    answer = asked(client, "api/live/affinity", {"row": 0, "patch": 3, "stage": "segment"})
    assert answer.status == 200
    # the same pictures' stored features were made of the same pixels
    image = rows_of(whole_run.out, "segment")[0]["image_id"]
    arrays = open_run(str(whole_run.pairs)).features(image).values()
    (stored,) = (each for each in arrays if each.ndim == 3)
    units = stored.astype(np.float64)
    units /= np.linalg.norm(units, axis=-1, keepdims=True)
    expected = units @ units.reshape(-1, units.shape[-1])[3]
    assert np.frombuffer(answer.body, "<f2").reshape(expected.shape) == pytest.approx(expected, abs=4e-3)


def test_the_second_run_is_asked_for_itself(served: Callable[..., Client], whole_run: Any) -> None:
    client = served(whole_run.out, whole_run.pairs, live=True, device="cpu")
    about = client.get("api/run").json()
    assert (about["live"]["stages"], about["other"]["live"]["stages"]) == (["segment"], ["features"])
    cosines = []
    for run, stage in (("a", "segment"), ("b", "features")):
        row = client.get("api/find", stage=stage, run=run, id="train/1.png").json()["row"]
        answer = asked(client, "api/live/affinity", {"row": row, "patch": 3, "run": run})
        cosines.append(np.frombuffer(answer.body, "<f2"))
    # of the same picture, computed and stored
    assert cosines[0] == pytest.approx(cosines[1], abs=4e-3)


def test_a_point_of_one_image_is_found_at_its_place_in_the_same_image(live: Client) -> None:
    body = {"row": 2, "other": 2, "x": 71.5, "y": 39.5}
    found = asked(live, "api/live/match", body).json()
    assert found["similarity"] == pytest.approx(1, abs=1e-2)
    assert found["mutual"] is True


def test_what_is_off_is_refused_with_what_to_do(served: Callable[..., Client], whole_run: Any) -> None:
    client = served(whole_run.pairs)
    assert client.get("api/run").json()["live"]["on"] is False
    answer = client.post("api/live/match", {"pair": 0, "x": 1, "y": 1})
    assert (answer.status, "--live" in answer.json()["error"]) == (409, True)


@pytest.mark.parametrize("stage", ["features", "segment"])
def test_a_row_that_a_retry_has_replaced_is_asked_as_it_is_now(
    stage: str, served: Callable[..., Client], tmp_path: Path
) -> None:
    write_photographs(tmp_path, ["a.png", "b.png"])
    good = (tmp_path / "photos" / "b.png").read_bytes()
    (tmp_path / "photos" / "b.png").write_text("no image at all")
    make = [stage, str(tmp_path / "photos"), str(tmp_path / "out"), "--backbone", "descriptors", "--resize", "native"]
    make += ["--engine", "inline", "--quiet", "--allow-failed", "1"]
    assert simsam(make) == 0
    client, held = served(tmp_path / "out", live=True, device="cpu"), readers()
    body = {"row": 0, "patch": 3, "stage": stage}
    before = asked(client, "api/live/affinity", body)
    assert asked(client, "api/live/affinity", body | {"row": 1}).status == 409
    (tmp_path / "photos" / "b.png").write_bytes(good)
    assert simsam(["retry", str(tmp_path / "out"), "--engine", "inline", "--quiet"]) == 0
    assert asked(client, "api/live/affinity", body | {"row": 1}).status == 409
    client.post("api/reopen")
    replaced = asked(client, "api/live/affinity", body | {"row": 1})
    assert (before.status, replaced.status) == (200, 200)
    assert np.frombuffer(replaced.body, "<f2")[3] == pytest.approx(1, abs=2e-3)
    assert asked(client, "api/live/affinity", body).body == before.body
    # what was loaded for the run as it was before is let go
    assert readers() - held <= {"features": 1, "segment": 0}[stage]


@pytest.mark.parametrize(
    ("body", "status"),
    [({"pair": 0, "x": 1e6, "y": 3}, 400), ({"pair": 0, "x": "a", "y": 3}, 400), ({"pair": 99, "x": 3, "y": 3}, 404)],
)
def test_points_that_are_nowhere_are_refused(live: Client, body: dict[str, Any], status: int) -> None:
    assert asked(live, "api/live/match", body).status == status


def test_a_device_that_is_not_there_is_refused(whole_run: Any, capsys: Any) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert simsam(["view", str(whole_run.pairs), "--live", "--device", "cuda"]) != 0
    assert "CUDA" in capsys.readouterr().err
    assert simsam(["view", str(whole_run.pairs), "--weights", "x"]) != 0
    assert "--live" in capsys.readouterr().err


def test_a_point_is_asked_by_mouse_and_by_keys(live: Client, opened: Opener) -> None:
    page, faults = opened(live, "pairs/0")
    page.locator(".drawing image.source").click(position={"x": 20, "y": 20})
    page.get_by_text("is found at").first.wait_for()
    page.locator(".drawing .heat").wait_for()
    before = page.locator("p[role=status]", has_text="is found at").first.inner_text()
    page.locator(".live").focus()
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    with page.expect_response("**/api/live/match") as told:
        page.keyboard.press("Enter")
    found = told.value.json()
    page.wait_for_function(
        "before => ![...document.querySelectorAll('p')].some(p => p.innerText === before)", arg=before
    )
    assert f"similarity {found['similarity']:.2f}"[:14] in page.locator("main").inner_text()
    assert faults == []
