"""What is tried again, how often and for how long; and what never is."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import botocore.exceptions
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from faulty_store import STORE
from s3fs.errors import translate_boto_error

from simsam_batch.errors import StorageError
from simsam_batch.storage import Folder, ObjectNotFound, entries, read_url, retrying, walk
from simsam_batch.storage.retrying import is_transient, retried


def _of_s3(status: int, code: str) -> Exception:
    """What s3fs raises for an answer of S3."""
    answer: Any = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code, "Message": "m"}}
    return translate_boto_error(ClientError(answer, "GetObject"))  # type: ignore[no-any-return]


def _while_handling(outer: Exception, inner: Exception) -> Exception:
    """The outer error as if it was raised while the inner one was being handled."""
    outer.__context__ = inner
    return outer


class _HttpError(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


PASSING = [
    *(OSError(number, "x") for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.EAGAIN)),
    *(_of_s3(*answer) for answer in ((500, "InternalError"), (503, "SlowDown"), (503, "ServiceUnavailable"))),
    *(_of_s3(*answer) for answer in ((429, "TooManyRequests"), (502, "502"), (504, "504"), (400, "RequestTimeout"))),
    *(_HttpError(status) for status in (429, 500, 502, 503, 504)),
    TimeoutError("no reply"),
    ConnectionResetError(104, "reset"),
    ConnectionRefusedError(111, "refused"),
    BrokenPipeError(32, "pipe"),
    EndpointConnectionError(endpoint_url="http://x"),
    botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"),
    botocore.exceptions.ConnectionClosedError(endpoint_url="http://x"),
    botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientPayloadError(),
    socket.gaierror(socket.EAI_AGAIN, "temporary failure in name resolution"),
    # what s3fs leaves of an upload in parts whose last reply was lost
    _while_handling(FileNotFoundError("no such upload"), TimeoutError("no reply")),
]

LASTING = [
    *(OSError(number, "x") for number in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.ENOENT)),
    *(OSError(number, "x") for number in (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EROFS, errno.EINVAL)),
    *(_of_s3(*answer) for answer in ((404, "NoSuchKey"), (404, "NoSuchBucket"), (403, "AccessDenied"))),
    *(_of_s3(*answer) for answer in ((403, "ExpiredToken"), (400, "InvalidBucketName"), (501, "NotImplemented"))),
    # s3fs calls a code that it does not know an input/output error; the status says better
    *(_of_s3(*answer) for answer in ((400, "NewCode"), (403, "QuotaExceeded"), (412, "PreconditionFailed"))),
    *(_HttpError(status) for status in (400, 401, 403, 404, 410, 416)),
    FileNotFoundError("x"),
    PermissionError("x"),
    NoCredentialsError(),
    ImportError("no s3fs"),
    ValueError("bad name"),
    KeyError("x"),
    socket.gaierror(socket.EAI_NONAME, "name or service not known"),
    _while_handling(
        EndpointConnectionError(endpoint_url="http://typo"), socket.gaierror(socket.EAI_NONAME, "name not known")
    ),
    _while_handling(EndpointConnectionError(endpoint_url="https://x"), ssl.SSLCertVerificationError("self-signed")),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_can_pass_by_itself_is_tried_again(error: Exception) -> None:
    assert is_transient(error)
    wrapped = StorageError("cannot read")
    wrapped.__cause__ = error
    assert is_transient(wrapped)


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_no_waiting_mends_is_raised_at_once(error: Exception) -> None:
    assert not is_transient(error)
    calls = []

    def call() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        retried("read x", call)
    assert len(calls) == 1


class _Clock:
    """Time that passes only by sleeping, and by what a call takes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(retrying, "time", clock)
    monkeypatch.setattr(retrying, "PAUSES_S", (0.2, 0.5, 1.0, 2.0, 4.0, 8.0))
    return clock


def _failing(clock: _Clock, seconds: float, times: int = 1000) -> tuple[Callable[[], str], list[float]]:
    """A call that takes so long and fails so often, and when it was made."""
    made: list[float] = []

    def call() -> str:
        made.append(clock.now)
        clock.now += seconds
        if len(made) <= times:
            raise TimeoutError("no reply")
        return "done"

    return call, made


def test_the_pauses_grow_and_end(clock: _Clock) -> None:
    call, made = _failing(clock, 0.0)
    with pytest.raises(TimeoutError, match="no reply"):
        retried("read x", call)
    assert len(made) == 7
    for slept, mean in zip(clock.slept, (0.2, 0.5, 1.0, 2.0, 4.0, 8.0), strict=True):
        assert mean / 2 <= slept <= 1.5 * mean


def test_two_workers_do_not_ask_again_at_the_same_moment(clock: _Clock) -> None:
    pauses = []
    for _ in range(2):
        clock.slept = []
        call, _made = _failing(clock, 0.0, times=3)
        assert retried("read x", call) == "done"
        pauses.append(clock.slept)
    assert [len(slept) for slept in pauses] == [3, 3]
    assert not set(pauses[0]) & set(pauses[1])


def test_no_repeat_begins_after_the_longest_time(clock: _Clock) -> None:
    # each try takes 25 s: at 0 s, at about 25 s and at about 51 s; a fourth would be at 77 s
    call, made = _failing(clock, 25.0)
    with pytest.raises(TimeoutError):
        retried("read x", call)
    assert len(made) == 3
    assert made[-1] <= 60.0


def test_each_repeat_is_told_without_credentials(clock: _Clock, caplog: pytest.LogCaptureFixture) -> None:
    call, _ = _failing(clock, 0.0, times=1)
    with caplog.at_level("WARNING"):
        retried("read s3://me:hidden@bucket/x", call)
    [line] = caplog.messages
    assert line.startswith("read s3://bucket/x: TimeoutError: no reply; again in 0.")


def test_what_is_not_there_is_asked_for_once() -> None:
    STORE.begin({})
    folder = Folder("faulty://nothing/here")
    with pytest.raises(ObjectNotFound):
        folder.read("x")
    assert folder.list() == []
    assert STORE.calls == ["read nothing/here/x", "list nothing/here"]


def test_every_kind_of_call_is_repeated() -> None:
    folder = Folder("faulty://repeated/out")
    folder.create("a/x", b"0123456789")
    acts: list[tuple[Callable[[], Any], Any]] = [
        (lambda: folder.read("a/x"), b"0123456789"),
        (lambda: list(folder.read_many(["a/x"])), [b"0123456789"]),
        (lambda: read_url("faulty://repeated/out/a/x", limit=3), b"0123"),
        (lambda: [info.name for info in folder.list()], ["a/x"]),
        (lambda: [info.name for _, info in walk("faulty://repeated/out")], ["a/x"]),
        (lambda: entries("faulty://repeated/out"), ["a/"]),
        (lambda: folder.open("a/x").read(4), b"0123"),
        (lambda: folder.create("a/x", b"other"), False),
        (lambda: folder.create("a/y", b"mine"), True),
        (lambda: folder.replace("a/y", b"over"), None),
        (lambda: folder.delete(["a/y"]), None),
    ]
    for act, expected in acts:
        STORE.begin({0: "cut", 1: "cut", 2: "cut"})
        assert act() == expected
        # create reads back after each error; the other calls are made again
        assert len(STORE.hit) == 3
    STORE.objects.clear()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_network_disk_that_stutters_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    folder = Folder(str(tmp_path))
    folder.create("a/x", b"0123456789")
    acts: list[tuple[str, Callable[[], Any], Any]] = [
        ("pathlib.Path.open", lambda: folder.read("a/x"), b"0123456789"),
        ("pathlib.Path.stat", lambda: folder.open("a/x").read(4), b"0123"),
        ("os.scandir", lambda: [info.name for info in folder.list()], ["a/x"]),
        ("os.scandir", lambda: [info.name for _, info in walk(str(tmp_path))], ["a/x"]),
        ("os.link", lambda: folder.create("b", b"1"), True),
        ("os.fsync", lambda: folder.create("c", b"1"), True),
        ("pathlib.Path.replace", lambda: folder.replace("d", b"1"), None),
        ("pathlib.Path.unlink", lambda: folder.delete(["b", "c", "d"]), None),
    ]
    for name, act, expected in acts:
        module, _, attribute = name.rpartition(".")
        owner: Any = {"os": os, "pathlib.Path": Path}[module]
        real, left = getattr(owner, attribute), [1, 1]

        def stutter(*args: Any, real: Any = real, left: list[int] = left, **kwargs: Any) -> Any:
            if left:
                left.pop()
                raise OSError(number, os.strerror(number))
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, stutter)
            assert act() == expected
        assert left == []
    assert [info.name for info in folder.list()] == ["a/x"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_a_full_disk_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="free some space"):
        Folder(str(tmp_path)).create("x", b"1")
    assert len(calls) == 1
