"""A run with everything that is awkward, and the real server over a run with a client that has its cookie."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from numpy.typing import NDArray
from PIL import Image

from simsam_batch.cli import run
from simsam_batch.viewer.server import Listening, serve
from simsam_batch.viewer.session import Session

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = [
    "<img src=x onerror=alert(1)>.png",
    "' onfocus=alert(3) autofocus '.png",
    "a" * 120 + ".png",
    "Größe 10 %/日本語 ☃.png",
    "train/with space.png",
    "train/plain.png",
    "train/=1+1.png",
    "val/a&b?c#d.png",
    "val/plain2.png",
    "val/two\tparts.png",
    "val/z.png",
]
"""Of the images that can be read; `BROKEN` comes among them."""

BROKEN = '"><script>alert(2)<.png'
"""The image that fails."""


Opener = Callable[..., "tuple[Page, list[str]]"]
"""Opens an address of a served run in a browser: the page, complete, and what the browser complains of."""


@dataclass(frozen=True)
class Small:
    """A published run of ``segment``.

    Attributes:
        out: its folder.
        photos: folder of its images.
        names: of its images, in the order of its plan.
        failed: row of the image that failed.
    """

    out: Path
    photos: Path
    names: list[str]
    failed: int


@dataclass(frozen=True)
class Answer:
    """What the server has answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Client:
    """One who opened the link: every request has the cookie, and what changes something comes from the page itself.

    Attributes:
        link: as printed, with the token.
        session: what the server shows; None of one in a process of its own.
    """

    link: str
    session: Session | None
    cookie: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        """Of the page, with a slash at its end."""
        return self.link.partition("open?")[0]

    def at(self, address: str) -> str:
        """The link to one screen, without the first one being shown before it, whose pictures a browser keeps."""
        return f"{self.link}#/{address}"

    def open(self) -> None:
        """Follow the link, for the cookie."""
        opened = self.ask("GET", self.link.removeprefix(self.base))
        assert opened.status == 303
        self.cookie = opened.headers["set-cookie"].partition(";")[0]

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The answer to any request at all; ``headers`` are all that it has but for its host and length."""
        connection = HTTPConnection(urlsplit(self.base).netloc, timeout=60)
        try:
            connection.request(method, f"/{path}", body, dict(headers or {}))
            reply: HTTPResponse = connection.getresponse()
            return Answer(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def get(self, path: str, **query: Any) -> Answer:
        """A GET as the page sends it; ``query`` is added to what the path has."""
        path, _, given = path.partition("?")
        words = urlencode([*parse_qsl(given), *query.items()])
        return self.ask("GET", f"{path}?{words}" if words else path, headers={"Cookie": self.cookie})

    def post(self, path: str, value: Any = None) -> Answer:
        """A POST of JSON as the page sends it."""
        headers = {"Cookie": self.cookie, "Origin": self.base.rstrip("/"), "Content-Type": "application/json"}
        return self.ask("POST", path, json.dumps(value if value is not None else {}).encode(), headers)

    def delete(self, path: str) -> Answer:
        """A DELETE as the page sends it."""
        return self.ask("DELETE", path, headers={"Cookie": self.cookie, "Origin": self.base.rstrip("/")})


@contextmanager
def serving(url: str | Path, other: str | Path | None = None, **options: Any) -> Iterator[Client]:
    """The server of ``simsam view`` on a free port of this machine, in a thread, and a client that has opened it."""
    started: list[uvicorn.Server] = []

    class Kept(uvicorn.Server):
        def __init__(self, config: uvicorn.Config) -> None:
            super().__init__(config)
            started.append(self)

    session = Session(str(url), None if other is None else str(other), options)
    lines: Queue[str] = Queue()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simsam_batch.viewer.server.uvicorn.Server", Kept)
        thread = threading.Thread(target=serve, args=(session, Listening(port=0), lines.put), daemon=True)
        thread.start()
        said = [lines.get(timeout=30) for _ in range(3)]
        client = Client(said[0].removeprefix("Open "), session, lines=said)
        client.open()
    yield client
    started[0].should_exit = True
    thread.join(timeout=30)


def settle(page: Page) -> None:
    """Wait until the screen is complete and nothing has come for a while; the address follows a little later."""
    page.wait_for_function("""() => {
      const calm = document.querySelector('h1') && !document.querySelector('[aria-busy=true]')
      window.calmFor = calm ? (window.calmFor ?? 0) + 1 : 0
      if (window.calmFor > 15) window.calmFor = 0
      else return false
      return true }""")


def loaded(client: Client, stage: str = "segment") -> Client:
    """A client whose server has read the columns of a stage."""
    deadline = time.monotonic() + 60
    while not client.get("api/rows", stage=stage, sort="status").json()["complete"]:
        assert time.monotonic() < deadline
    return client


def photograph(seed: int, height: int = 128, width: int = 192) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A grey ground with a red rectangle, other for every seed, and the mask of the rectangle."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(150, 190, (height, width, 3)).astype(np.uint8)
    top, left = rng.integers(16, height // 2), rng.integers(16, width // 2)
    truth = np.zeros((height, width), np.uint8)
    truth[top : top + height // 3, left : left + width // 3] = 255
    pixels[truth > 0] = (200, 40, 30)
    return pixels, truth


def write_photographs(root: Path, names: list[str]) -> None:
    """Photographs below ``photos`` and their masks below ``truth``."""
    for seed, name in enumerate(names):
        for folder, content in zip(("photos", "truth"), photograph(seed), strict=True):
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(path)


def make_small_run(root: Path, *more: str) -> Small:
    """Twelve images in three shards, see `Small`; ``more`` are further arguments of the command."""
    write_photographs(root, NAMES)
    broken = root / "photos" / BROKEN
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_text("no image at all, of some length. " * 9)
    names = [*NAMES[:4], BROKEN, *NAMES[4:]]
    count = len(names)
    table = {
        "image_id": names,
        "uri": [str(root / "photos" / name) for name in names],
        "camera": [("left", "right", None)[i % 3] for i in range(count)],
        "year": pa.array([2000 + i % 5 for i in range(count)], pa.int64()),
        "weight": pa.array([None if i == 2 else i / 8 for i in range(count)], pa.float64()),
        "indoors": [i % 2 == 0 for i in range(count)],
    }
    pq.write_table(pa.table(table), root / "images.parquet")
    arguments = ["segment", str(root / "images.parquet"), str(root / "out"), "--truth", str(root / "truth")]
    for name in ("camera", "year", "weight", "indoors"):
        arguments += ["--keep-columns", name]
    arguments += ["--backbone", "descriptors", "--resize", "native", "--engine", "inline", "--quiet"]
    assert run([*arguments, "--shard-size", "5", "--allow-failed", "1", *more]) == 0
    return Small(root / "out", root / "photos", names, names.index(BROKEN))


def left_unfinished(small: Small, out: Path, without: int) -> Path:
    """A copy of a run as if it went on: without its results, and with one shard that is not committed."""
    shutil.copytree(small.out, out)
    shutil.rmtree(out / "results")
    for manifest in (out / "segment" / "manifests").glob(f"{without:07d}.*"):
        manifest.unlink()
    return out
