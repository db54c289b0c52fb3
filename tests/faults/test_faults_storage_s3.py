"""Faults of an S3 server, as the real client meets them: refused, lost and broken answers, and a careless store."""

from __future__ import annotations

import itertools
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from small_run import check_complete, run_once

from simsam_batch.errors import StorageError
from simsam_batch.runs.verify import verify
from simsam_batch.storage import Folder, ObjectNotFound

KINDS = ("refuse", "lose", "drop", "halve")


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    if os.environ.get("SIMSAM_TEST_S3_URL"):
        pytest.skip("the faults are injected into the moto server")
    server = request.getfixturevalue("moto_server")
    yield server
    server.heal()


@pytest.fixture
def quick_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new client, whose own pauses between its own repeats are not slept through."""
    import botocore.retryhandler

    from simsam_batch.storage import filesystems

    monkeypatch.setattr(botocore.retryhandler, "delay_exponential", lambda *_, **__: 0.01)
    monkeypatch.setattr(filesystems, "_filesystems", {})


def _fails_from(first: int, last: int, kind: str) -> tuple[Callable[[str, str], str], list[str]]:
    """A fault at the requests counted first to last, and the list of those that met it."""
    counter, met = itertools.count(), []

    def fault(method: str, path: str) -> str:
        if first <= next(counter) <= last:
            met.append(f"{method} {path}")
            return kind
        return ""

    return fault, met


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_broken_answer_is_not_noticed(server: Any, s3_url: str, kind: str, quick_client: None) -> None:
    folder = Folder(s3_url)
    folder.create("there", b"0123456789" * 1000)
    acts: list[tuple[Callable[[], Any], Any]] = [
        (lambda: folder.read("there"), b"0123456789" * 1000),
        (lambda: [info.name for info in folder.list()], ["there"]),
        (lambda: folder.open("there").read(5), b"01234"),
        (lambda: folder.create("new", b"mine"), True),
        (lambda: folder.create("there", b"other"), False),
        (lambda: folder.replace("over", b"whole"), None),
        (lambda: folder.read("over"), b"whole"),
        (lambda: folder.delete(["over", "new"]), None),
        (lambda: [info.name for info in folder.list()], ["there"]),
    ]
    for act, expected in acts:
        server.fault, met = _fails_from(0, 0, kind)
        assert act() == expected
        assert len(met) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refuse", pytest.param("drop", marks=pytest.mark.soak)])
def test_a_server_that_stays_down_is_an_error_in_the_end(
    server: Any, s3_url: str, kind: str, quick_client: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simsam_batch.storage.retrying.PAUSES_S", (0.0,))
    folder = Folder(s3_url)
    folder.create("there", b"1")
    server.fault, _ = _fails_from(0, 10**6, kind)
    with pytest.raises(StorageError, match=r"cannot read .*/there.*To mend it") as caught:
        folder.read("there")
    assert not isinstance(caught.value, ObjectNotFound)


def _requests_of_a_run(server: Any, url: str) -> tuple[str, int]:
    server.fault, met = _fails_from(0, 10**6, "")
    return run_once(Folder(url))["content_digest"], len(met)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_answer_anywhere_in_a_run_costs_nothing(
    server: Any, s3_url: str, kind: str, quick_client: None
) -> None:
    digest, requests = _requests_of_a_run(server, f"{s3_url}/undisturbed")
    # a sample; the soak takes every request with every kind
    for index in range(8 * KINDS.index(kind) + 3, requests, 24):
        _disturb_at(server, f"{s3_url}/{kind}-{index}", index, kind, digest)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_every_request_of_a_run_breaks_in_every_way(server: Any, s3_url: str, kind: str, quick_client: None) -> None:
    digest, requests = _requests_of_a_run(server, f"{s3_url}/undisturbed")
    for index in range(requests):
        _disturb_at(server, f"{s3_url}/{kind}-{index}", index, kind, digest)


def _disturb_at(server: Any, url: str, index: int, kind: str, digest: str) -> None:
    out = Folder(url)
    server.fault, _ = _fails_from(index, index, kind)
    assert run_once(out)["content_digest"] == digest
    server.heal()
    result = run_once(out)
    assert result["content_digest"] == digest
    report = verify(out, check_complete(out, result))
    assert (report.problems, report.orphans) == ([], [])


def test_a_store_that_ignores_the_condition_is_found_out(server: Any, s3_url: str) -> None:
    Folder(s3_url).check_create()
    server.ignores_conditions = True
    with pytest.raises(StorageError, match=r"ignores If-None-Match.*To mend it.*--single-driver"):
        Folder(f"{s3_url}/other").check_create()
    # also where an earlier run has left the object of the probe
    with pytest.raises(StorageError, match="ignores If-None-Match"):
        Folder(s3_url).check_create()


def test_a_store_that_ignores_the_condition_serves_a_single_driver(server: Any, s3_url: str) -> None:
    server.ignores_conditions = True
    out = Folder(s3_url, single_driver=True)
    result = run_once(out)
    assert run_once(out)["content_digest"] == result["content_digest"]
    check_complete(out, result)
    assert "conditional-create.json" not in [info.name for info in out.list()]
    assert not pickle.loads(pickle.dumps(out)).create("run.json", b"another run")


def test_a_store_that_does_not_know_the_condition_is_refused_with_the_mend(server: Any, s3_url: str) -> None:
    real = server._app

    def old_store(request: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if "HTTP_IF_NONE_MATCH" not in request:
            return real(request, start_response)
        request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
        body = b"<Error><Code>NotImplemented</Code><Message>A header you provided</Message></Error>"
        start_response("501 Not Implemented", [("Content-Length", str(len(body)))])
        return [body]

    server._app = old_store
    try:
        with pytest.raises(StorageError, match=r"knows no conditional create: use --single-driver"):
            Folder(s3_url).check_create()
        assert Folder(s3_url, single_driver=True).create("run.json", b"1")
    finally:
        server._app = real


def test_objects_are_deleted_by_few_requests(server: Any, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simsam_batch.storage.filesystems._DELETED_AT_ONCE", 10)
    folder = Folder(s3_url)
    names = [f"data/{number:04d}" for number in range(21)]
    for name in (*names, "kept"):
        folder.replace(name, b"")
    server.fault, met = _fails_from(0, 10**6, "")
    folder.delete([*names, "data/never-there"])
    # 10 + 10 + 2 names
    assert len(met) == 3
    server.heal()
    assert [info.name for info in folder.list()] == ["kept"]


def test_a_deletion_that_is_refused_is_an_error(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from simsam_batch.storage.filesystems import filesystem

    store, _ = filesystem(s3_url)
    refused = {"Errors": [{"Key": "x", "Code": "AccessDenied", "Message": "Access Denied"}]}
    monkeypatch.setattr(store, "call_s3", lambda *_, **__: refused)
    with pytest.raises(StorageError, match=r"cannot delete 1 of 2 objects.*AccessDenied.*To mend it"):
        Folder(s3_url).delete(["x", "y"])
