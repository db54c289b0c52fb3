from __future__ import annotations

import http.server
import itertools
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from simsam_batch.errors import StorageError
from simsam_batch.storage import Folder, ObjectInfo, ObjectNotFound, absolute_url, read_url, redact, walk
from simsam_batch.storage.filesystems import filesystem

WRITERS = 8
ODD_NAMES = [
    "with space.jpg",
    "ünï/çødé ☃.png",
    "percent%20.jpg",
    "hash#q?.png",
    "new\nline",
    "a;b=c&d+e.png",
    "[a]*.png",
]
ODD_NAMES += ["a?token=b.png", "a?versionId=b.png", "a?versionId=b/c.png", "percent%2B%.png", "a=b@c:d.png"]


def _race(writers: list[Callable[[], bool]]) -> list[bool]:
    """Run the writers at once, each in a thread that waits for all the others."""
    together = threading.Barrier(len(writers))

    def run(writer: Callable[[], bool]) -> bool:
        together.wait(timeout=20)
        return writer()

    with ThreadPoolExecutor(len(writers)) as pool:
        return list(pool.map(run, writers))


def _remember(barrier: Any) -> None:
    globals()["_all_processes"] = barrier


def _create_in_process(url: str, name: str, data: bytes) -> bool:
    folder = Folder(url)
    folder.list()
    globals()["_all_processes"].wait(timeout=30)
    return folder.create(name, data)


def _lose_replies(monkeypatch: pytest.MonkeyPatch, folder: Folder, carry_out: bool) -> None:
    """Make writing fail with an error, after the write was done or without it."""
    if folder.url.startswith("/"):
        real_link = os.link

        def link(source: Any, target: Any) -> None:
            if carry_out:
                real_link(source, target)
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("os.link", link)
        return
    store, _ = filesystem(folder.url)
    real_pipe = store.pipe_file

    def pipe_file(*args: Any, **kwargs: Any) -> None:
        if carry_out:
            real_pipe(*args, **kwargs)
        raise TimeoutError("the connection was cut")

    monkeypatch.setattr(store, "pipe_file", pipe_file)


class TestEveryStorage:
    """What local disk, memory and S3 all have to do; the same tests run against each."""

    def test_a_folder_that_does_not_exist_is_empty(self, out_url: str) -> None:
        assert Folder(out_url).list() == []
        assert Folder(out_url).list("manifests") == []

    def test_what_is_created_is_read_back(self, out_url: str) -> None:
        folder = Folder(out_url)
        assert folder.create("a/b/c.bin", b"\0\xff hello")
        assert folder.read("a/b/c.bin") == b"\0\xff hello"

    @pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 8_388_608, 12_000_001])
    def test_sizes_from_nothing_to_megabytes_survive(self, out_url: str, size: int) -> None:
        folder, data = Folder(out_url), os.urandom(size)
        assert folder.create("large.bin", data)
        assert folder.read("large.bin") == data
        assert folder.list() == [ObjectInfo("large.bin", size, folder.list()[0].etag, folder.list()[0].modified)]
        with folder.open("large.bin") as file:
            assert file.read() == data

    def test_another_writers_object_is_never_overwritten(self, out_url: str) -> None:
        folder = Folder(out_url)
        assert folder.create("run.json", b"first")
        assert not folder.create("run.json", b"other")
        assert folder.read("run.json") == b"first"

    def test_creating_our_own_object_again_says_it_is_ours(self, out_url: str) -> None:
        folder = Folder(out_url)
        assert folder.create("run.json", b"token 1")
        assert folder.create("run.json", b"token 1")

    def test_an_empty_object_also_refuses_a_second_writer(self, out_url: str) -> None:
        folder = Folder(out_url)
        assert folder.create("empty", b"")
        assert not folder.create("empty", b"x")
        assert folder.read("empty") == b""

    def test_of_racing_threads_exactly_one_wins(self, out_url: str) -> None:
        folder = Folder(out_url)
        for round_number in range(5):
            name = f"manifests/{round_number:07d}.0.json"
            bodies = [f"writer {writer}".encode() * 1000 for writer in range(WRITERS)]
            won = _race([partial(folder.create, name, body) for body in bodies])
            assert sum(won) == 1
            assert folder.read(name) == bodies[won.index(True)]

    def test_a_write_whose_reply_was_lost_is_ours(self, out_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = Folder(out_url)
        with monkeypatch.context() as patch:
            _lose_replies(patch, folder, carry_out=True)
            assert folder.create("manifest.json", b"token 1")
        assert folder.read("manifest.json") == b"token 1"

    def test_an_error_over_anothers_object_is_a_refusal(self, out_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = Folder(out_url)
        folder.create("manifest.json", b"token 1")
        with monkeypatch.context() as patch:
            _lose_replies(patch, folder, carry_out=False)
            assert not folder.create("manifest.json", b"token 2")

    def test_an_error_with_nothing_written_is_an_error(self, out_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = Folder(out_url)
        with monkeypatch.context() as patch:
            _lose_replies(patch, folder, carry_out=False)
            with pytest.raises(StorageError, match=r"cannot write .*manifest\.json") as caught:
                folder.create("manifest.json", b"token 1")
        assert not isinstance(caught.value, ObjectNotFound)
        assert folder.list() == []

    def test_replace_overwrites(self, out_url: str) -> None:
        folder = Folder(out_url)
        folder.replace("results/segment.json", b"long first content")
        folder.replace("results/segment.json", b"second")
        assert folder.read("results/segment.json") == b"second"

    def test_what_is_deleted_is_gone_and_nothing_else(self, out_url: str) -> None:
        folder = Folder(out_url)
        for name in ("a/1", "a/10", "a/2", "b"):
            folder.create(name, b"x")
        folder.delete(["a/1", "b", "a/never-there"])
        assert [info.name for info in folder.list()] == ["a/10", "a/2"]
        folder.delete([])
        folder.delete(iter(["a/10", "a/2"]))
        assert folder.list() == []
        assert folder.create("a/1", b"again")

    def test_a_store_that_honours_conditional_create_passes_the_probe(self, out_url: str) -> None:
        folder = Folder(out_url)
        folder.check_create()
        [probe] = folder.list()
        assert probe.name == "conditional-create.json"
        kept = folder.read(probe.name)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: Folder(out_url).check_create(), range(8)))
        assert folder.read(probe.name) == kept

    def test_a_single_driver_looks_and_then_writes(self, out_url: str) -> None:
        folder = pickle.loads(pickle.dumps(Folder(out_url, single_driver=True)))
        assert folder.single_driver
        folder.check_create()
        assert folder.list() == []
        assert folder.create("run.json", b"token 1")
        assert folder.create("run.json", b"token 1")
        assert not folder.create("run.json", b"token 2")
        assert folder.read("run.json") == b"token 1"

    def test_the_entries_of_a_folder_are_files_and_folders(self, out_url: str) -> None:
        folder = Folder(out_url)
        assert folder.entries() == []
        for name in ("run.json", "plan/a", "small/data/b"):
            folder.create(name, b"")
        assert folder.entries() == ["plan/", "run.json", "small/"]

    def test_a_listing_shows_every_object_at_once_by_name(self, out_url: str) -> None:
        folder = Folder(out_url)
        assert folder.list() == []
        for name in ("b/2", "b/10", "a", "b.c", "b/x/y"):
            folder.create(name, name.encode())
        assert [(info.name, info.size) for info in folder.list()] == [
            ("a", 1),
            ("b.c", 3),
            ("b/10", 4),
            ("b/2", 3),
            ("b/x/y", 5),
        ]
        assert [info.name for info in folder.list("b")] == ["b/10", "b/2", "b/x/y"]
        assert [info.name for info in folder.list("b/")] == ["b/10", "b/2", "b/x/y"]
        folder.create("b/3", b"")
        assert "b/3" in [info.name for info in folder.list("b")]

    def test_a_listing_longer_than_a_page_is_complete(self, out_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = Folder(out_url)
        names = [f"m/{number:07d}" for number in range(23)]
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda name: folder.create(name, b"x"), names))
        if folder.url.startswith("s3"):
            store, _ = filesystem(folder.url)
            real, pages = store.call_s3, itertools.count(1)
            monkeypatch.setattr(
                store, "call_s3", lambda *args, **kwargs: (next(pages), real(*args, MaxKeys=10, **kwargs))[1]
            )
            assert [info.name for info in folder.list("m")] == names
            # 10 + 10 + 3 keys
            assert next(pages) == 4
        assert [info.name for info in folder.list("m")] == names

    def test_the_etag_changes_with_the_content(self, out_url: str) -> None:
        folder = Folder(out_url)
        folder.replace("x", b"1")
        before = folder.list()[0]
        folder.replace("x", b"22")
        after = folder.list()[0]
        assert after.modified is not None
        assert '"' not in (after.etag or "")
        assert before.etag != after.etag or folder.url.startswith("memory")

    def test_a_missing_object_is_named(self, out_url: str) -> None:
        with pytest.raises(ObjectNotFound, match=r"out/no/such|prefix/no/such|/no/such"):
            Folder(out_url).read("no/such")
        with pytest.raises(ObjectNotFound, match="no/such"):
            Folder(out_url).open("no/such").read()
        with pytest.raises(ObjectNotFound, match="no/such"):
            read_url(Folder(out_url).url + "/no/such", limit=10)

    def test_many_are_read_in_order(self, out_url: str) -> None:
        folder = Folder(out_url)
        names = [f"m/{number}" for number in range(40)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: folder.create(name, name.encode()), names))
        assert list(folder.read_many(reversed(names))) == [name.encode() for name in reversed(names)]
        assert list(folder.read_many([])) == []

    def test_one_missing_of_many_is_an_error(self, out_url: str) -> None:
        folder = Folder(out_url)
        folder.create("a", b"1")
        with pytest.raises(ObjectNotFound):
            list(folder.read_many(["a", "b", "a"]))

    def test_ranges_are_read_from_an_open_file(self, out_url: str) -> None:
        folder, data = Folder(out_url), bytes(range(256)) * 1000
        folder.create("plan.parquet", data)
        with folder.open("plan.parquet") as file:
            assert file.seek(-10, os.SEEK_END) == 255_990
            assert file.read() == data[-10:]
            file.seek(70_000)
            assert file.read(100_000) == data[70_000:170_000]
            assert file.tell() == 170_000
            assert file.seek(300_000) == 300_000
            assert file.read(10) == b""

    def test_a_range_of_an_object_is_read_by_itself(self, out_url: str) -> None:
        folder, data = Folder(out_url), bytes(range(256)) * 10
        folder.create("a/b.npz", data)
        assert folder.read_range("a/b.npz", 0, 3) == data[:3]
        assert folder.read_range("a/b.npz", 1000, 500) == data[1000:1500]
        assert folder.read_range("a/b.npz", 2550, 500) == data[2550:]
        with pytest.raises(ObjectNotFound):
            folder.read_range("a/missing.npz", 0, 3)

    def test_an_object_is_created_from_a_local_file(self, out_url: str, tmp_path: Path) -> None:
        folder, source, other = Folder(out_url), tmp_path / "source", tmp_path / "other"
        source.write_bytes(bytes(range(256)) * 10_000)
        assert folder.create("large", source)
        assert folder.read("large") == source.read_bytes()
        # as after a lost reply
        assert folder.create("large", source)
        for differing in (source.read_bytes()[:-1], source.read_bytes() + b"1", source.read_bytes()[:-1] + b"?"):
            other.write_bytes(differing)
            assert not folder.create("large", other)
        assert folder.read("large") == source.read_bytes()

    @pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", "a//b", "./a", "a/", "a\0b", "a\\..\\b"])
    def test_names_that_could_leave_the_folder_are_refused(self, out_url: str, name: str) -> None:
        folder = Folder(out_url)
        for act in (
            folder.read,
            folder.open,
            lambda n: folder.create(n, b""),
            lambda n: folder.replace(n, b""),
            lambda n: folder.delete([n]),
        ):
            with pytest.raises(StorageError, match="is not a name inside"):
                act(name)

    def test_a_folder_travels_to_another_process(self, out_url: str) -> None:
        folder = pickle.loads(pickle.dumps(Folder(out_url)))
        assert folder == Folder(out_url)
        assert folder.create("x", b"1")

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_names_are_names_like_any_other(self, out_url: str, name: str) -> None:
        folder = Folder(out_url)
        if "\n" in name and out_url.startswith("s3://bucket-"):
            pytest.skip("moto's router knows no key with a newline")
        assert folder.create(name, b"1")
        assert [info.name for info in folder.list()] == [name]
        assert folder.read(name) == b"1"
        [(uri, info)] = walk(folder.url)
        assert info.name == name
        assert read_url(uri) == b"1"

    def test_walking_gives_uris_that_can_be_read(self, out_url: str) -> None:
        folder = Folder(out_url)
        for name in ("a.jpg", "d/b.jpg", "d/e/c.png"):
            folder.create(name, name.encode())
        found = dict(walk(out_url))
        assert sorted(info.name for info in found.values()) == ["a.jpg", "d/b.jpg", "d/e/c.png"]
        assert all(read_url(uri) == info.name.encode() for uri, info in found.items())
        assert [info.size for info in found.values() if info.name == "d/b.jpg"] == [7]

    def test_walking_nothing_is_an_error_that_names_it(self, out_url: str) -> None:
        with pytest.raises(StorageError, match=r"cannot list .*typo"):
            list(walk(Folder(out_url).url + "/typo"))

    @pytest.mark.parametrize(
        ("size", "limit", "read"), [(0, 5, 0), (4, 5, 4), (5, 5, 5), (6, 5, 6), (1000, 5, 6), (3, 0, 1)]
    )
    def test_a_limit_bounds_what_is_read(self, out_url: str, size: int, limit: int, read: int) -> None:
        folder, data = Folder(out_url), os.urandom(size)
        folder.create("image.jpg", data)
        assert read_url(folder.url + "/image.jpg", limit=limit) == data[:read]
        assert read_url(folder.url + "/image.jpg") == data

    def test_many_threads_share_the_storage(self, out_url: str) -> None:
        folder = Folder(out_url)
        for number in range(10):
            folder.create(str(number), str(number).encode() * 100)
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda number: read_url(f"{folder.url}/{number % 10}", limit=1000), range(200)))
        assert found == [str(number % 10).encode() * 100 for number in range(200)]


def test_a_file_in_many_parts_replaces_nothing_on_s3(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of 5 MB, the smallest that S3 takes; the last request decides."""
    import s3fs.core

    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda size, chunksize=None: 5 << 20)
    folder, source, other = Folder(s3_url), tmp_path / "source", tmp_path / "other"
    source.write_bytes(os.urandom(11 << 20))
    other.write_bytes(os.urandom(11 << 20))
    assert folder.create("large", source)
    assert not folder.create("large", other)
    assert folder.create("large", source)
    assert folder.read("large") == source.read_bytes()


def test_of_racing_processes_exactly_one_wins(tmp_path: Path, s3_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    bodies = [b"process 0", b"process 1"]
    with context.Pool(len(bodies), _remember, [context.Barrier(len(bodies))]) as pool:
        for url, round_number in itertools.product([str(tmp_path / "out"), s3_url], range(5)):
            name = f"manifests/{round_number:07d}.0.json"
            won = pool.starmap(_create_in_process, [(url, name, body) for body in bodies], chunksize=1)
            assert sum(won) == 1
            assert Folder(url).read(name) == bodies[won.index(True)]


def test_a_forked_child_makes_its_own_connections(s3_url: str) -> None:
    folder = Folder(s3_url)
    folder.create("a", b"1")
    child = multiprocessing.get_context("fork").Process(target=folder.create, args=("b", b"from the child"))
    child.start()
    child.join(timeout=30)
    assert child.exitcode == 0
    assert folder.read("b") == b"from the child"


def test_a_put_repeated_after_a_lost_reply_is_ours(s3_url: str, request: pytest.FixtureRequest) -> None:
    if os.environ.get("SIMSAM_TEST_S3_URL"):
        pytest.skip("the fault is injected into the moto server")
    server = request.getfixturevalue("moto_server")
    server.lose_the_reply_to_writing("0000001.0.json")
    # the client repeats the PUT by itself and is told that the object exists: its own
    assert Folder(s3_url).create("manifests/0000001.0.json", b"token 1")
    assert not Folder(s3_url).create("manifests/0000001.0.json", b"token 2")


def test_a_crash_before_the_link_leaves_nothing_to_see(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom simsam_batch.storage import Folder\n"
        "os.link = lambda *_: os._exit(9)\nFolder(sys.argv[1]).create('m/1.json', b'half')"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == 9
    assert Folder(str(tmp_path)).list() == []
    [left] = (tmp_path / "m").iterdir()
    assert left.name.startswith(".")
    assert Folder(str(tmp_path)).create("m/1.json", b"whole")


def test_no_temporary_file_stays_behind(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.create("a", b"1")
    folder.create("a", b"2")
    folder.replace("a", b"3")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [1, 95])
def test_a_disk_without_hard_links_is_refused_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def link(source: Any, target: Any) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("os.link", link)
    with pytest.raises(StorageError, match=r"no hard links.*To mend it.*--single-driver"):
        Folder(str(tmp_path)).create("a", b"1")
    alone = Folder(str(tmp_path), single_driver=True)
    assert alone.create("a", b"1")
    assert not alone.create("a", b"2")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"1")]


def test_a_place_that_cannot_be_written_is_a_clear_error() -> None:
    # nobody, root included, makes files in /proc
    with pytest.raises(StorageError, match=r"cannot write /proc/simsam-out/run\.json.*To mend it"):
        Folder("/proc/simsam-out").create("run.json", b"1")


def test_a_file_in_the_way_of_the_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match="a file is where a folder is needed"):
        Folder(str(tmp_path / "out")).create("run.json", b"1")
    assert Folder(str(tmp_path / "out")).list("x") == []


def test_a_missing_bucket_is_an_error_and_not_a_missing_image_when_writing(s3_url: str) -> None:
    with pytest.raises(StorageError, match="a bucket has to be made beforehand") as caught:
        Folder("s3://no-such-bucket-of-ours/x").create("run.json", b"1")
    assert not isinstance(caught.value, ObjectNotFound)


def test_a_store_without_conditional_create_is_refused(tmp_path: Path) -> None:
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    # asks whether the name exists and then overwrites, as every filesystem without a pipe_file of its own
    class Careless(LocalFileSystem):  # type: ignore[misc]
        protocol = "careless"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(path).removeprefix("careless://")

    fsspec.register_implementation("careless", Careless, clobber=True)
    with pytest.raises(StorageError, match=r"Careless has no conditional create.*To mend it.*--single-driver"):
        Folder(f"careless://{tmp_path}").create("run.json", b"1")
    with pytest.raises(StorageError, match="has no conditional create"):
        Folder(f"careless://{tmp_path}").check_create()
    assert list(tmp_path.iterdir()) == []
    alone = Folder(f"careless://{tmp_path}", single_driver=True)
    alone.check_create()
    assert alone.create("run.json", b"1")
    assert not alone.create("run.json", b"2")


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    images, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    images.mkdir()
    elsewhere.mkdir()
    (elsewhere / "a.jpg").write_bytes(b"1")
    (images / "linked").symlink_to(elsewhere)
    (images / "back").symlink_to(tmp_path)
    (images / "gone.jpg").symlink_to(tmp_path / "missing")
    found = {info.name: uri for uri, info in walk(str(images))}
    assert found == {
        "linked/a.jpg": f"{images}/linked/a.jpg",
        "back/elsewhere/a.jpg": f"{images}/back/elsewhere/a.jpg",
        "gone.jpg": f"{images}/gone.jpg",
    }
    with pytest.raises(ObjectNotFound):
        read_url(found["gone.jpg"])


@pytest.mark.parametrize("name", ["", "sub", "a.jpg/x", "n" * 300, "pipe", "zero\0byte"])
def test_what_is_no_file_is_not_found_and_does_not_hang(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"1")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ObjectNotFound):
        read_url(f"{tmp_path}/{name}")


def test_a_listing_refuses_names_that_no_table_can_hold(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.jpg"))).write_bytes(b"1")
    with pytest.raises(StorageError, match="is not UTF-8"):
        list(walk(str(tmp_path)))


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_url("out/") == f"{tmp_path}/out"
    assert absolute_url("file:///data/x") == "/data/x"
    assert absolute_url("s3://bucket/images/") == "s3://bucket/images"
    assert Folder("out").url == f"{tmp_path}/out"


def test_a_file_url_is_the_local_path(tmp_path: Path) -> None:
    Folder(f"file://{tmp_path}/out").create("a", b"1")
    assert (tmp_path / "out" / "a").read_bytes() == b"1"
    assert read_url(f"file://{tmp_path}/out/a") == b"1"


@pytest.mark.parametrize("limit", [None, 10])
def test_an_outage_is_never_taken_for_a_missing_image(limit: int | None) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        # bound and not listening: the connection is refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/image.jpg"
        with pytest.raises(StorageError, match=r"cannot read http://127\.0\.0\.1.*To mend it") as caught:
            read_url(url, limit=limit)
    assert not isinstance(caught.value, ObjectNotFound)


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), TimeoutError(), PermissionError("denied"), ValueError()]
)
@pytest.mark.parametrize("limit", [None, 10])
def test_an_error_of_the_store_is_never_taken_for_a_missing_image(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, error: Exception, limit: int | None
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    store, _ = filesystem(s3_url)
    monkeypatch.setattr(store, "cat_file", fail)
    with pytest.raises(StorageError) as caught:
        read_url(f"{s3_url}/not-there.jpg", limit=limit)
    assert not isinstance(caught.value, ObjectNotFound)


def test_web_servers_can_be_read(tmp_path: Path) -> None:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            return

    (tmp_path / "a.jpg").write_bytes(b"0123456789")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert read_url(f"{url}/a.jpg") == b"0123456789"
        # this server knows no ranges and sends everything
        assert read_url(f"{url}/a.jpg", limit=3) == b"0123"
        assert read_url(f"{url}/empty.jpg", limit=3) == b""
        with pytest.raises(ObjectNotFound):
            read_url(f"{url}/b.jpg", limit=3)
        server.shutdown()


def test_a_refused_conflict_is_tried_again(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(s3_url)
    store, _ = filesystem(s3_url)
    real, conflicts = store.pipe_file, iter([True, True, False])

    def pipe_file(*args: Any, **kwargs: Any) -> None:
        if next(conflicts):
            cause = ClientError({"ResponseMetadata": {"HTTPStatusCode": 409}, "Error": {}}, "PutObject")
            raise OSError(5, "ConditionalRequestConflict") from cause
        real(*args, **kwargs)

    monkeypatch.setattr(store, "pipe_file", pipe_file)
    assert folder.create("run.json", b"1")
    assert list(conflicts) == []


@pytest.mark.parametrize("url", ["nosuch://x/y", "simplecache::s3://b/k"])
def test_a_protocol_that_cannot_be_used_is_a_storage_error(url: str) -> None:
    with pytest.raises(StorageError, match=r"To mend it|Give the plain URL"):
        read_url(url)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec.registry  # noqa: F401

    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(StorageError, match=r"install simsam-batch\[s3\]"):
        read_url("s3://bucket/key")
    monkeypatch.setitem(sys.modules, "fsspec.implementations.http", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "https", raising=False)
    with pytest.raises(StorageError, match=r"install simsam-batch\[web\]"):
        read_url("https://host/key")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://AKIA:s3cr3t@bucket/key failed", "s3://bucket/key failed"),
        ("https://user@host/x", "https://host/x"),
        (
            "https://h/x.jpg?X-Amz-Credential=AKIA%2F1&X-Amz-Signature=ab12&width=3",
            "https://h/x.jpg?X-Amz-Credential=***&X-Amz-Signature=***&width=3",
        ),
        ("az://c/x?sig=abc%3D", "az://c/x?sig=***"),
        ("nothing to hide at me@example.org", "nothing to hide at me@example.org"),
        ("s3://bucket/folder/name@2x.png", "s3://bucket/folder/name@2x.png"),
    ],
)
def test_secrets_are_taken_out_of_urls(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_a_version_is_read_where_no_key_is_called_so(s3_url: str) -> None:
    folder = Folder(s3_url)
    store, path = filesystem(s3_url)
    store.call_s3("put_bucket_versioning", Bucket=path.split("/")[0], VersioningConfiguration={"Status": "Enabled"})
    folder.replace("a.png", b"first")
    listed = store.call_s3("list_object_versions", Bucket=path.split("/")[0])
    (version,) = [each["VersionId"] for each in listed["Versions"]]
    folder.replace("a.png", b"second")
    assert read_url(f"{s3_url}/a.png?versionId={version}", limit=10) == b"first"
    folder.replace(f"a.png?versionId={version}", b"a key of its own")
    assert read_url(f"{s3_url}/a.png?versionId={version}", limit=100) == b"a key of its own"
    assert folder.read("a.png") == b"second"


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "gs://bucket"])
def test_a_bucket_is_no_object(url: str) -> None:
    with pytest.raises(ObjectNotFound, match=f"cannot read {url}: it names a bucket, and no object in it"):
        read_url(url, limit=10)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///data/x", "/data/x"),
        ("FILE:///data/x%20y%2Bz+.png", "/data/x y+z+.png"),
        ("file://localhost/data/x", "/data/x"),
        ("file:/data/x", "/data/x"),
        ("local:///data/x", "/data/x"),
        ("file:///data/100%.png", "/data/100%.png"),
        ("/data/x%20y.png", "/data/x%20y.png"),
        ("/data/file:/x", "/data/file:/x"),
    ],
)
def test_a_file_url_is_decoded_and_a_path_is_not(url: str, path: str) -> None:
    assert absolute_url(url) == path


def test_messages_and_displayed_urls_hold_no_credentials() -> None:
    folder = Folder("memory://user:hidden@place/out")
    assert folder.url == "memory://place/out"
    assert "hidden" not in repr(folder)
    with pytest.raises(ObjectNotFound) as caught:
        folder.read("x")
    assert "hidden" not in str(caught.value)


class _NumberedError(OSError):
    def __str__(self) -> str:
        return "101"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(101), "OSError: Network is unreachable (errno 101). To mend it: see whether the storage answers"),
        (_NumberedError(101, "x"), "Network is unreachable (errno 101)"),
        (TimeoutError(), "TimeoutError: no answer in time. To mend it: see whether the storage answers"),
        (OSError(28, "No space left on device"), "free some space and run the same command again"),
        (PermissionError(13, "Permission denied"), "check that the permissions or credentials allow it"),
    ],
)
def test_an_error_that_says_little_is_put_into_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("pathlib.Path.open", fail)
    (tmp_path / "a").touch()
    with pytest.raises(StorageError) as caught:
        read_url(str(tmp_path / "a"))
    assert words in str(caught.value)
