"""How often object storage is asked: each request there costs some 50 ms."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import pytest
from s3_server import S3Server
from viewing import Client, Small, serving

from simsam_batch.storage import Folder

DELAY_S = 0.05


class Asked:
    """The requests to a server since `clear`, each answered after `DELAY_S`."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, method: str, path: str) -> str:
        self.seen.append(f"{method} {path}")
        time.sleep(DELAY_S)
        return ""

    def clear(self) -> None:
        self.seen.clear()


def upload(folder: Path, url: str) -> None:
    out = Folder(url)
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        out.create(path.relative_to(folder).as_posix(), path.read_bytes())


@pytest.fixture
def asked(moto_server: S3Server) -> Iterator[Asked]:
    """What is asked of the store."""
    found = Asked()
    moto_server.fault = found
    yield found
    moto_server.heal()


@pytest.fixture
def far(moto_server: S3Server, s3_url: str, small_run: Small) -> str:
    """A published run in a bucket."""
    moto_server.heal()
    upload(small_run.out, s3_url)
    return s3_url


def timed(asked: Asked, action: Callable[[], object]) -> tuple[list[str], float]:
    """The requests of an action, and its seconds."""
    asked.clear()
    began = time.monotonic()
    action()
    return list(asked.seen), time.monotonic() - began


def test_the_first_page_and_an_image_ask_a_far_store_seldom(far: str, asked: Asked) -> None:
    clients: list[Client] = []

    def first_page() -> None:
        client = clients[0]
        assert client.get("api/run").status == 200
        assert len(client.get("api/rows", stage="segment", columns="iou").json()["rows"]) == 12

    asked.clear()
    with serving(far) as client:
        clients.append(client)
        opening = list(asked.seen)
        page, seconds = timed(asked, first_page)
        # the columns are read meanwhile
        assert client.get("api/rows", stage="segment", sort="status").status == 200
        while not client.get("api/rows", stage="segment", sort="status").json()["complete"]:
            time.sleep(0.05)
        image, image_s = timed(asked, lambda: client.get("api/images/0", stage="segment"))
        asked.clear()
        assert client.get("layers/segment/0/eigenvectors").status == 200
        vectors = list(asked.seen)
    told = " | ".join([*opening, f"page {seconds:.2f} s", *page, f"image {image_s:.2f} s", *image, *vectors])
    assert len(opening) + len(page) <= 17, told
    assert seconds + len(opening) * DELAY_S <= 3, told
    assert len(image) <= 3, told
    assert len(image) + len(vectors) <= 4, told


def test_no_answer_on_a_kept_connection_waits_for_the_browser_to_say_that_it_has_half_of_it(small_run: Small) -> None:
    # where TCP holds back the second part of an answer, each takes the 40 ms after which the other end speaks up
    with serving(small_run.out) as client:
        connection = HTTPConnection(urlsplit(client.base).netloc, timeout=60)
        taken = []
        for _ in range(30):
            began = time.monotonic()
            connection.request("GET", "/main.js", headers={"Cookie": client.cookie})
            assert connection.getresponse().read()
            taken.append(time.monotonic() - began)
        connection.close()
    assert median(taken) < 0.03
