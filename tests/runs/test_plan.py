from __future__ import annotations

import hashlib
import io
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_stage import catalog, small_plan

from simsam_batch.errors import RunError, SettingsError
from simsam_batch.runs.plan import default_shard_size, load_plan, make_plan
from simsam_batch.storage import Folder


@pytest.mark.parametrize(
    ("images", "size"),
    # a 64th, rounded up, between 8 and 1024
    [(1, 8), (109, 8), (512, 8), (513, 9), (6400, 100), (6401, 101), (65_536, 1024), (10_000_000, 1024)],
)
def test_the_default_shard_is_a_64th_within_bounds(images: int, size: int) -> None:
    assert default_shard_size(images) == size


def test_a_plan_cuts_the_catalog_in_order(out_url: str) -> None:
    plan = small_plan(Folder(out_url), images=5, shard_size=2)
    assert (plan.records, plan.shards, plan.shard_size, plan.source) == (5, 3, 2, {"images": "/data"})
    ids = [plan.shard(number).records["image_id"].to_pylist() for number in range(3)]
    assert ids == [
        ["folder/000000.jpg", "folder/000001.jpg"],
        ["folder/000002.jpg", "folder/000003.jpg"],
        ["folder/000004.jpg"],
    ]
    assert plan.shard(2).records["shard"].to_pylist() == [2]
    assert plan.shard(1).number == 1


def test_a_plan_is_found_again(out_url: str) -> None:
    out = Folder(out_url)
    assert load_plan(out) is None
    plan = small_plan(out)
    assert load_plan(Folder(out_url)) == plan
    assert [info.name for info in out.list()] == [f"plan/{plan.digest}.parquet", "run.json"]


def test_a_plan_travels_small(out_url: str) -> None:
    plan = small_plan(Folder(out_url), images=1000, shard_size=10)
    plan.shard(3)
    packed = pickle.dumps(plan)
    assert len(packed) < 1000
    assert pickle.loads(packed).shard(99).records["image_id"].to_pylist()[-1] == "folder/000999.jpg"


@settings(max_examples=30, deadline=None)
@given(images=st.integers(1, 60), shard_size=st.integers(1, 25), group=st.integers(1, 40))
def test_every_image_is_in_exactly_one_shard_whatever_the_row_groups(images: int, shard_size: int, group: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simsam_batch.runs.plan_table.ROWS_PER_GROUP", group)
        plan = small_plan(Folder(f"memory://plan/{images}-{shard_size}-{group}"), images, shard_size)
    shards = [plan.shard(number).records for number in range(plan.shards)]
    assert all(records.num_rows == shard_size for records in shards[:-1])
    found = pa.concat_tables(shards)
    assert found["image_id"].to_pylist() == catalog(images)["image_id"].to_pylist()
    assert found["shard"].to_pylist() == [row // shard_size for row in range(images)]


class _Counted(io.BytesIO):
    """A file that notes how much is read of it."""

    def __init__(self, data: bytes, read: list[int]) -> None:
        super().__init__(data)
        self._read = read

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._read.append(len(data))
        return data


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of all reads of files that are opened in place."""
    read: list[int] = []
    monkeypatch.setattr(Folder, "open", lambda folder, name: _Counted(folder.read(name), read))
    return read


def test_a_shard_is_read_without_loading_the_plan(bytes_read: list[int]) -> None:
    out = Folder("memory://plan/large")
    etags = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(100_000)]
    plan = make_plan(out, catalog(100_000).append_column("etag", pa.array(etags)), shard_size=1000, source={})
    [whole] = [info.size for info in out.list("plan")]
    assert plan.shard(57).records["image_id"].to_pylist()[0] == "folder/057000.jpg"
    # one of ten row groups, and the footer
    assert sum(bytes_read) < whole / 5
    bytes_read.clear()
    assert plan.shard(58).records["image_id"].to_pylist()[0] == "folder/058000.jpg"
    assert bytes_read == []


def test_a_worker_far_ahead_of_its_commits_reads_each_part_once(bytes_read: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simsam_batch.runs.plan_table.ROWS_PER_GROUP", 10)
        plan = small_plan(Folder("memory://plan/strides"), images=400, shard_size=5)
    plan.shard(0)
    bytes_read.clear()
    # one of eight workers, with two shards in hand when it commits one; every eighth shard is of another row group
    for number in range(16, 80, 8):
        plan.shard(number)
        reads_of_start = len(bytes_read)
        assert reads_of_start > 0
        if number >= 32:
            plan.shard(number - 16)
            assert len(bytes_read) == reads_of_start
        bytes_read.clear()


def test_row_groups_that_were_read_long_ago_are_not_held(bytes_read: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simsam_batch.runs.plan_table.ROWS_PER_GROUP", 10)
        plan = small_plan(Folder("memory://plan/held"), images=100, shard_size=10)
    for number in range(5):
        plan.shard(number)
    bytes_read.clear()
    # of the five groups, one for each shard, the last four are in memory
    for number in (1, 2, 3, 4):
        plan.shard(number)
    assert bytes_read == []
    plan.shard(0)
    assert bytes_read != []


def test_threads_may_ask_for_shards_at_once(out_url: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simsam_batch.runs.plan_table.ROWS_PER_GROUP", 10)
        plan = small_plan(Folder(out_url), images=200, shard_size=5)
    with ThreadPoolExecutor(8) as pool:
        shards = list(pool.map(plan.shard, list(range(40)) * 2))
    assert all(shard.records["shard"].to_pylist() == [shard.number] * 5 for shard in shards)


def test_of_two_drivers_the_first_plan_holds(out_url: str) -> None:
    out = Folder(out_url)
    first = small_plan(out, images=5)
    second = make_plan(out, catalog(9), shard_size=3, source={})
    assert second == first
    assert load_plan(out) == first


def test_drivers_at_the_same_moment_agree(out_url: str) -> None:
    out = Folder(out_url)
    with ThreadPoolExecutor(4) as pool:
        plans = list(pool.map(lambda images: small_plan(out, images), [5, 6, 7, 8]))
    assert len({plan.digest for plan in plans}) == 1
    assert plans[0] == load_plan(out)
    assert plans[0].shard(0).records.num_rows == 2


def test_the_digest_knows_the_content_and_the_boundaries(tmp_path: Path) -> None:
    def digest(name: str, table: pa.Table, size: int) -> str:
        return make_plan(Folder(str(tmp_path / name)), table, shard_size=size, source={}).digest

    five = catalog(5)
    same = digest("a", five, 2)
    assert digest("b", pa.concat_tables([five.slice(0, 1), five.slice(1)]), 2) == same
    others = [digest("c", five, 3), digest("d", catalog(6), 2), digest("e", five.take([1, 0, 2, 3, 4]), 2)]
    assert len({same, *others}) == 4


def test_further_columns_are_kept(tmp_path: Path) -> None:
    table = catalog(3).append_column("label", pa.array(["cat", None, "dog"])).append_column("size", pa.array([1, 2, 3]))
    plan = make_plan(Folder(str(tmp_path)), table, shard_size=2, source={})
    assert plan.shard(0).records["label"].to_pylist() == ["cat", None]
    assert plan.shard(1).records["size"].to_pylist() == [3]
    assert plan.shard(1).records["etag"].to_pylist() == [None]


def test_columns_of_lists_and_structs_are_kept(tmp_path: Path) -> None:
    boxes = [[{"name": "cat", "box": [1, 2, 3, 4]}], [], None]
    table = catalog(3).append_column("boxes", pa.array(boxes))
    plan = make_plan(Folder(str(tmp_path)), table, shard_size=2, source={})
    assert [plan.shard(number).records["boxes"].to_pylist() for number in (0, 1)] == [boxes[:2], boxes[2:]]


def test_a_catalog_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no images"):
        make_plan(Folder(str(tmp_path)), catalog(0), shard_size=None, source={})
    assert load_plan(Folder(str(tmp_path))) is None


def test_an_image_id_that_comes_twice_is_named(tmp_path: Path) -> None:
    table = pa.concat_tables([catalog(25_000), catalog(25_000).slice(7, 1), catalog(25_000).slice(24_999, 1)])
    with pytest.raises(SettingsError, match=r"'folder/000007\.jpg', 'folder/024999\.jpg'\. To mend it"):
        make_plan(Folder(str(tmp_path)), table, shard_size=None, source={})
    with pytest.raises(SettingsError, match="and others"):
        make_plan(Folder(str(tmp_path)), pa.concat_tables([catalog(9), catalog(9)]), shard_size=None, source={})


def test_a_list_that_holds_everything_twice_is_refused_by_a_few_names(tmp_path: Path) -> None:
    twice = pa.concat_tables([catalog(30_000), catalog(30_000)])
    with pytest.raises(SettingsError, match=r"more than one image has ('folder/0\d{5}\.jpg', ){4}.* and others"):
        make_plan(Folder(str(tmp_path)), twice, shard_size=None, source={})


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pa.table({"uri": ["/a"]}), "image_id"),
        (pa.table({"image_id": ["a", "b"], "uri": ["/a", None]}), "uri"),
        (catalog(1).append_column("shard", pa.array([1])), "shard"),
    ],
)
def test_a_catalog_that_cannot_be_planned_is_refused(tmp_path: Path, table: pa.Table, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        make_plan(Folder(str(tmp_path)), table, shard_size=None, source={})


def test_a_shard_size_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="shard_size: 0 given"):
        make_plan(Folder(str(tmp_path)), catalog(3), shard_size=0, source={})


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"schema_version": 1}', b'{"schema_version": null}', b"\xff"])
def test_a_damaged_run_file_is_named(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "run.json").write_bytes(body)
    with pytest.raises(RunError, match=rf"{tmp_path}/run\.json is damaged"):
        load_plan(Folder(str(tmp_path)))


def test_a_run_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    plan = small_plan(Folder(str(tmp_path)))
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["plan"] == plan.digest
    (tmp_path / "run.json").write_text(json.dumps({**run, "schema_version": 99}))
    with pytest.raises(RunError, match="newer release"):
        load_plan(Folder(str(tmp_path)))


def test_a_plan_file_with_other_rows_is_refused(tmp_path: Path) -> None:
    plan = small_plan(Folder(str(tmp_path)))
    pq.write_table(catalog(4), tmp_path / f"plan/{plan.digest}.parquet")
    with pytest.raises(RunError, match=r"holds 4 records, but the plan says 5"):
        plan.shard(0)


def test_a_plan_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    plan = small_plan(Folder(str(tmp_path)))
    (tmp_path / f"plan/{plan.digest}.parquet").write_bytes(b"torn")
    with pytest.raises(RunError, match=f"{plan.digest}.parquet cannot be read"):
        plan.shard(0)


def test_a_shard_outside_the_plan_is_refused(tmp_path: Path) -> None:
    plan = small_plan(Folder(str(tmp_path)))
    for number in (-1, 3):
        with pytest.raises(RunError, match=f"no shard {number}"):
            plan.shard(number)


def test_no_credentials_reach_the_run_file(tmp_path: Path) -> None:
    source = {"images": "s3://KEY:hidden@bucket/x", "nested": {"truth": ["https://h/x?X-Amz-Signature=hidden"]}}
    plan = make_plan(Folder(str(tmp_path)), catalog(3), shard_size=None, source=source)
    assert plan.source["images"] == "s3://bucket/x"
    assert b"hidden" not in (tmp_path / "run.json").read_bytes()
