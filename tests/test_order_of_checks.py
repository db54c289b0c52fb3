"""What is wrong with a command is found in the order of what finding it costs, and nothing is written before."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simsam_batch.cli import run
from simsam_batch.engines import ray as ray_engine
from simsam_batch.errors import RunError, SettingsError
from simsam_batch.stages.registry import COMMANDS
from simsam_batch.workers import models

Tried = Callable[..., str]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(80, 120, (64, 96, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The roles of the models whose weights were looked for; there are none to be had."""
    asked: list[str] = []

    def no_weights(roles: Any, settings: Any, check: Any) -> dict[str, Any]:
        asked.extend(roles)
        raise SettingsError("no weights")

    monkeypatch.setattr(models, "resolve_models", no_weights)
    return asked


@pytest.fixture
def tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tried:
    """What a command that cannot run says."""

    def on(command: str, images: Path, out: Path, *more: str) -> str:
        assert run([command, str(images), str(out), *more]) == 1
        assert not out.exists()
        return capsys.readouterr().err

    return on


NEEDED = {
    "correspond": ["--pairs", "all"],
    "correspond diffusion": ["--pairs", "all", "--weights", "sd"],
    "transfer": ["--exemplars", "0.png"],
}
"""What a command cannot do without."""


ON_IMAGES = [each.name for each in COMMANDS if each.settings().arguments() == ["images", "out"]]


@pytest.mark.parametrize("command", ON_IMAGES)
def test_settings_come_before_images_and_images_before_out_and_weights(
    tried: Tried, tmp_path: Path, pictures: Path, fetched: list[str], command: str
) -> None:
    needed = NEEDED.get(command, [])
    nowhere, blocked = tmp_path / "nowhere", pictures / "0.png" / "out"
    assert "resize: 'big'" in tried(command, nowhere, blocked, *needed, "--resize", "big")
    assert "ray_address: it has no effect" in tried(command, nowhere, blocked, *needed, "--ray-address", "head:6379")
    assert str(nowhere) in tried(command, nowhere, blocked, *needed)
    assert str(pictures / "0.png") in tried(command, pictures, blocked, *needed)
    assert fetched == []
    assert "no weights" in tried(command, pictures, tmp_path / "out", *needed)
    assert len(fetched) > 0


def test_a_place_where_nobody_may_write_is_found_before_the_weights(
    tried: Tried, tmp_path: Path, pictures: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # the suite may run as one who may write anywhere
    monkeypatch.setattr("os.access", lambda path, mode: False)
    text = tried("segment", pictures, tmp_path / "far" / "out")
    assert "PermissionError" in text
    assert fetched == []
    assert not (tmp_path / "far").exists()


def test_a_ray_head_that_does_not_answer_is_said_in_one_line_before_the_weights(
    tried: Tried, tmp_path: Path, pictures: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "_PROBE_S", 1.0)
    ray = ["--engine", "ray", "--ray-address"]
    text = tried("segment", pictures, tmp_path / "out", *ray, "127.0.0.1:1")
    assert "\nsimsam: no Ray answers at 127.0.0.1:1: Connection refused. To mend it: " in text
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        text = tried("segment", pictures, tmp_path / "out", *ray, place)
    assert f"no Ray answers at {place}: what listens there is no Ray (Deadline Exceeded)" in text
    # what is loaded is said before
    assert text.count("\n") == 3
    assert "head has no port" in tried("segment", pictures, tmp_path / "out", *ray, "head")
    assert "where jobs are submitted" in tried("segment", pictures, tmp_path / "out", *ray, "http://127.0.0.1:8265")
    assert fetched == []


@pytest.mark.parametrize(
    ("code", "is_an_answer"), [("OK", True), ("UNAUTHENTICATED", True), ("UNAVAILABLE", False), (None, True)]
)
def test_a_head_answers_even_if_it_asks_for_a_token(code: str | None, is_an_answer: bool) -> None:
    """None stands for a server that does not know the question."""
    from concurrent.futures import ThreadPoolExecutor

    grpc = pytest.importorskip("grpc")

    def reply(request: bytes, context: Any) -> bytes:
        if code != "OK":
            context.abort(getattr(grpc.StatusCode, str(code)), "said so")
        return b""

    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        _, service, method = ray_engine._QUESTION.split("/")
        handler = grpc.unary_unary_rpc_method_handler(reply)
        if code is not None:
            server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        engine = ray_engine.RayEngine(1, address=f"127.0.0.1:{port}")
        if is_an_answer:
            engine.require_answer()
        else:
            with pytest.raises(RunError, match=r"what listens there is no Ray \(said so\)"):
                engine.require_answer()
        server.stop(None).wait()


def test_a_web_server_is_no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    import http.server
    import threading

    monkeypatch.setattr(ray_engine, "_PROBE_S", 1.0)
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        with pytest.raises(RunError, match="what listens there is no Ray"):
            ray_engine.RayEngine(1, address=f"127.0.0.1:{web.server_port}").require_answer()
        web.shutdown()


def test_without_an_address_there_is_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray_engine.RayEngine(1).require_answer()
    ray_engine.RayEngine(1, address="auto").require_answer()


def test_a_run_that_began_with_a_setting_of_no_effect_is_gone_on_with(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["segment", str(pictures), str(tmp_path / "out"), "--backbone", "descriptors", "--engine", "inline"]
    with monkeypatch.context() as patch:
        patch.setattr("simsam_batch.job.check_effects", lambda out, settings: None)
        assert run([*command, "--block", "8", "--quiet"]) == 0
    assert run([*command, "--block", "8", "--quiet"]) == 0
    assert run([command[0], command[1], str(tmp_path / "other"), *command[3:], "--block", "8"]) == 1
    assert "block: it has no effect with backbone 'descriptors'" in capsys.readouterr().err
