"""Web servers that send too much, in another form, or nothing at all, and what each kind of answer means."""

from __future__ import annotations

import gzip
import threading
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest
from web_server import WebServer, body, endless, loop, silent

from simsam_batch.catalog import read_catalog
from simsam_batch.errors import StorageError
from simsam_batch.storage import Folder, ObjectNotFound, ObjectRefused, is_given, read_url, web

MB = 1_000_000


def test_a_body_without_a_length_is_read_up_to_the_limit_and_no_further(server: WebServer) -> None:
    url = server.put("/endless.png", endless)
    assert len(read_url(url, limit=3 * MB)) == 3 * MB + 1
    time.sleep(0.2)
    sent = server.sent
    time.sleep(0.2)
    # what the buffers of both sockets hold, and nothing more once the reader has gone
    assert server.sent == sent < 30 * MB


def test_a_length_that_is_stated_wrongly_does_not_raise_the_limit(server: WebServer) -> None:
    url = server.put("/a.png", body(bytes(5 * MB)))
    assert len(read_url(url, limit=MB)) == MB + 1


def test_the_plain_bytes_are_asked_for(server: WebServer) -> None:
    read_url(server.put("/a.png", b"123"), limit=10)
    assert server.headers["Accept-Encoding"] == "identity"


def zeros_packed(megabytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([*(packer.compress(bytes(MB)) for _ in range(megabytes)), packer.flush()])


def test_what_unpacks_to_hundreds_of_megabytes_is_unpacked_up_to_the_limit(server: WebServer) -> None:
    url = server.put("/bomb.png", body(zeros_packed(300), Content_Encoding="gzip"))
    read_url(server.put("/first.png", b"123"), limit=MB)
    tracemalloc.start()
    assert read_url(url, limit=MB) == bytes(MB + 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # the packed body is 0.3 MB, held by the server in the same process; 1 MB in pieces, and joined
    assert peak < 8 * MB


@pytest.mark.parametrize("limit", [None, MB])
@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"0123456789" * 70_000)),
        ("GZIP", gzip.compress(b"0123456789" * 30_000) + gzip.compress(b"0123456789" * 40_000)),
        ("deflate", zlib.compress(b"0123456789" * 70_000)),
        ("identity", b"0123456789" * 70_000),
    ],
)
def test_what_comes_packed_all_the_same_is_unpacked(
    server: WebServer, encoding: str, packed: bytes, limit: int | None
) -> None:
    url = server.put("/a.png", body(packed, Content_Encoding=encoding))
    assert read_url(url, limit=limit) == b"0123456789" * 70_000


@pytest.mark.parametrize("content", [body(b"x", Content_Encoding="br"), body(b"no gzip", Content_Encoding="gzip")])
def test_what_cannot_be_unpacked_is_refused_and_not_taken_for_the_image(server: WebServer, content: object) -> None:
    with pytest.raises(ObjectRefused, match="cannot read"):
        read_url(server.put("/a.png", content))  # type: ignore[arg-type]


def test_a_range_is_right_of_a_server_that_knows_none(server: WebServer) -> None:
    content = bytes(range(256)) * 1000
    server.put("/a.npz", content)
    assert Folder(server.url).read_range("a.npz", 100_000, 500) == content[100_000:100_500]
    with Folder(server.url).open("a.npz") as file:
        file.seek(200_000)
        assert file.read() == content[200_000:]


def test_another_range_than_the_one_asked_for_is_an_error(server: WebServer) -> None:
    server.put("/a.npz", body(b"0123456789", code=206, Content_Range="bytes 500-509/1000"))
    with pytest.raises(StorageError, match="another part of it than was asked for"):
        Folder(server.url).read_range("a.npz", 100, 10)


def test_a_list_is_read_whole_whatever_length_is_stated(server: WebServer) -> None:
    lines = "".join(f"{server.url}/{number}.png\n" for number in range(5000)).encode()

    def answer(to: object) -> None:
        # no length at all
        to.send_response(200)  # type: ignore[attr-defined]
        to.end_headers()  # type: ignore[attr-defined]
        to.wfile.write(lines)  # type: ignore[attr-defined]

    assert read_catalog(server.put("/list.txt", answer)).table.num_rows == 5000


@pytest.mark.slow
@pytest.mark.parametrize("code", [400, 401, 402, 403, 405, 406, 409, 411, 413, 414, 416, 418, 422, 423, 451, 501, 505])
def test_an_answer_about_one_object_is_believed_at_once(server: WebServer, code: int) -> None:
    url = server.put("/a.png", code)
    with pytest.raises(ObjectRefused, match=rf"cannot read {url}: .*{code}.*To mend it: check"):
        read_url(url, limit=10)
    assert server.asked == ["/a.png"]


@pytest.mark.parametrize("code", [404, 410])
def test_what_is_not_there_or_no_longer_there_is_not_found(server: WebServer, code: int) -> None:
    url = server.put("/a.png", code)
    with pytest.raises(ObjectNotFound, match="check the URL"):
        read_url(url, limit=10)
    with pytest.raises(ObjectNotFound):
        Folder(server.url).open("a.png")
    assert server.asked == ["/a.png", "/a.png"]


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504])
def test_no_answer_about_the_object_is_asked_for_again(server: WebServer, code: int) -> None:
    url = server.put("/a.png", code)
    with pytest.raises(StorageError, match=r"see whether the storage answers, and try again") as caught:
        read_url(url, limit=10)
    assert type(caught.value) is StorageError
    assert server.asked == ["/a.png"] * 7


def test_a_redirection_in_circles_is_an_answer(server: WebServer) -> None:
    with pytest.raises(ObjectRefused, match="TooManyRedirects"):
        read_url(server.put("/a.png", loop))


@pytest.mark.parametrize("url", ["http://[bad/a.png", "http:///a.png", "http://h:port/a.png", "s3:///a.png"])
def test_a_url_that_cannot_be_one_is_refused_with_the_mend(url: str) -> None:
    with pytest.raises(ObjectRefused, match="To mend it: check that the URL is written as URLs are"):
        read_url(url, limit=10)


def test_a_host_that_never_answers_is_left_alone_after_a_while(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_NEXT_BYTES_S", 0.2)
    monkeypatch.setattr(web, "_SILENT_S", 0.5)
    urls = [server.put(f"/{number}.png", silent) for number in range(50)]
    began = time.monotonic()
    for url in urls:
        with pytest.raises(StorageError, match=r"did not answer in time|does not answer") as caught:
            read_url(url, limit=10)
        assert type(caught.value) is StorageError
    # each asked for seven times would take 50 * 7 * 0.2 s = 70 s
    assert time.monotonic() - began < 10
    assert len(server.asked) < 50
    good = server.put("/good.png", b"123")
    assert is_given(good)
    assert read_url(good, limit=10) == b"123"


def test_one_silent_object_does_not_silence_its_host(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_NEXT_BYTES_S", 0.2)
    monkeypatch.setattr(web, "_SILENT_S", 0.5)
    bad, good = server.put("/bad.png", silent), server.put("/good.png", b"123")
    over = threading.Event()

    def read_others() -> None:
        while not over.wait(0.05):
            read_url(good)

    thread = threading.Thread(target=read_others)
    thread.start()
    with pytest.raises(StorageError, match="did not answer in time"):
        read_url(bad)
    over.set()
    thread.join()
    assert server.asked.count("/bad.png") == 7
    assert read_url(good) == b"123"


def test_the_mend_fits_what_went_wrong(tmp_path: Path) -> None:
    def mend(url: str) -> str:
        with pytest.raises(StorageError) as caught:
            read_url(url)
        return str(caught.value).partition("To mend it: ")[2]

    assert mend(str(tmp_path / "gone.png")) == "check the path"
    assert mend("nosuch://place/a.png") == "check how the URL begins: no storage is known by nosuch://"
    # in the registry of names that never resolve (RFC 6761)
    assert mend("http://nothing.invalid/a.png").startswith(("check the name of the host", "see whether the storage"))
