"""Weights that timm publishes: from the cache without asking anybody, else from a hub that answers, or one message."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from simsam_batch.errors import SettingsError
from simsam_batch.features import published
from simsam_batch.features.backbones import load_backbone

REPOSITORY = "models--timm--test_vit.r160_in1k"


class Hub:
    """Stands in for the hub and counts what it is asked; it has nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 404
        hub = self

        class Answers(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.asked.append(self.path)
                self.send_response(hub.status)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.end_headers()

            do_GET = do_HEAD  # noqa: N815

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub()
    use(monkeypatch, tmp_path / "cache", found.url)
    yield found
    found.server.shutdown()


def use(monkeypatch: pytest.MonkeyPatch, cache: Path, endpoint: str) -> None:
    for name, value in {
        "HF_HUB_CACHE": str(cache),
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)


def cached(cache: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Put a file into a cache as the hub's client does."""
    folder = cache / REPOSITORY / "snapshots" / "0123abc"
    folder.mkdir(parents=True)
    (cache / REPOSITORY / "refs").mkdir()
    (cache / REPOSITORY / "refs" / "main").write_text("0123abc")
    save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors"


def test_what_lies_in_the_cache_is_taken_and_nobody_is_asked(hub: Hub, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        key: 0.1 * torch.randn(value.shape, generator=generator)
        for key, value in timm.create_model("test_vit", pretrained=False).state_dict().items()
    }
    path = cached(tmp_path / "cache", tensors)
    images = torch.randn(1, 3, 160, 160, generator=generator)
    from_cache = load_backbone("test_vit", weights=None)
    assert hub.asked == []
    from_file = load_backbone("test_vit", weights=path)
    assert torch.equal(from_cache(images).descriptors, from_file(images).descriptors)
    assert from_cache.describe()["weights"].startswith("timm: ")


def test_a_damaged_file_in_the_cache_is_named(hub: Hub, tmp_path: Path) -> None:
    path = cached(tmp_path / "cache", {"x": torch.zeros(3)})
    path.write_bytes(b"half a file")
    with pytest.raises(SettingsError, match=r"model\.safetensors cannot be loaded .*delete that file"):
        load_backbone("test_vit", weights=None)


def test_a_hub_that_does_not_answer_is_asked_once_and_the_message_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # nobody listens on port 1
    use(monkeypatch, tmp_path, "http://127.0.0.1:1")
    began = time.monotonic()
    with pytest.raises(SettingsError) as caught:
        load_backbone("test_vit", weights=None)
    assert time.monotonic() - began < 5
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "weights of test_vit could not be fetched",
        "http://127.0.0.1:1/timm/test_vit.r160_in1k/resolve/main/model.safetensors",
        "--weights FILE",
        str(tmp_path),
        "--backbone descriptors",
    ):
        assert part in message


def test_a_hub_that_accepts_and_says_nothing_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        use(monkeypatch, tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(published, "_PATIENCE_S", 0.5)
        began = time.monotonic()
        with pytest.raises(SettingsError, match="could not be fetched"):
            load_backbone("test_vit", weights=None)
        assert time.monotonic() - began < 5


def test_where_nobody_may_be_asked_that_is_the_reason(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SettingsError, match=r"could not be fetched \(HF_HUB_OFFLINE is set\)"):
        load_backbone("test_vit", weights=None)
    assert hub.asked == []


def test_a_hub_that_answers_is_left_to_timm(hub: Hub) -> None:
    with pytest.raises(SettingsError, match="weights of test_vit could not be fetched"):
        load_backbone("test_vit", weights=None)
    assert any(path.endswith("/model.safetensors") for path in hub.asked)


def test_a_hub_or_proxy_that_is_out_of_order_is_not_asked_again_and_again(hub: Hub) -> None:
    hub.status = 503
    began = time.monotonic()
    with pytest.raises(SettingsError, match=r"could not be fetched \(OSError: HTTP 503\)"):
        load_backbone("test_vit", weights=None)
    assert len(hub.asked) == 1
    assert time.monotonic() - began < 5


def test_a_network_that_is_of_no_use_is_said_before_its_weights_are_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, tmp_path, "http://127.0.0.1:1")
    with pytest.raises(SettingsError, match="resnet18 is no plain vision transformer"):
        load_backbone("resnet18", weights=None)
