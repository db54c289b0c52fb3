"""Damaged files of a run are read as they are, or named in one message."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mutated_images import damaged

from simsam_batch.errors import RunError, SimsamError
from simsam_batch.runs.committed import committed_shards, files_of
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import _reader, load_plan, make_plan
from simsam_batch.runs.records import from_json
from simsam_batch.runs.schema import SCHEMA_VERSION
from simsam_batch.storage import Folder

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
RUN = {"plan": "ab", "images": 5, "shards": 3, "shard_size": 2, "source": {"images": "/data"}}
MANIFEST: dict[str, Any] = {
    "shard": 0,
    "generation": 0,
    "attempt": 1,
    "content_digest": "ab",
    "images": 2,
    "ok": 2,
    "failed": 0,
    "errors_by_type": {},
    "statistics": {},
    "seconds": {},
    "versions": {},
    "started": 1.0,
    "committed": 2.0,
    "files": [{"name": "small/data/0000000.1.parquet", "size": 1, "sha256": "ab"}],
}


def memory_folder() -> Folder:
    return Folder(f"memory://{uuid.uuid4().hex}/out")


def outcome(read: Callable[[], Any]) -> str:
    """``read`` for a result, else the message; anything but the project's own errors comes through."""
    try:
        read()
    except SimsamError as error:
        message = str(error)
        assert 0 < len(message) < 10_000
        return message
    return "read"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40) | anything.map(lambda value: json.dumps(value).encode()))
@example(b'{"schema_version": Infinity}')
@example(b'{"schema_version": ' + b"9" * 5000 + b"}")
@example(b"[" * 100_000)
@example(b"\xff\xfe{\0}\0")
def test_every_body_is_a_record_or_a_message(body: bytes) -> None:
    assert outcome(lambda: from_json(body, "OUT/run.json", "plan", "images"))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*RUN, "schema_version"]), anything, max_size=2))
@example({"shards": 10**15})
@example({"images": -1})
@example({"plan": "../../elsewhere"})
def test_a_plan_with_other_values_is_refused_or_consistent(changes: dict[str, Any]) -> None:
    out = memory_folder()
    out.replace("run.json", json.dumps({"schema_version": SCHEMA_VERSION, **RUN, **changes}).encode())
    try:
        plan = load_plan(out)
    except RunError:
        plan = None
    if plan is not None:
        # or a driver would make a list of shards that no image is in
        assert 0 < plan.shards <= plan.records <= plan.shards * plan.shard_size
        assert outcome(lambda: plan.shard(0)) != "read"


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*MANIFEST, "schema_version"]), anything, max_size=2))
@example({"files": [{}]})
@example({"files": [{"name": "../../x.parquet", "size": 1, "sha256": "ab"}]})
@example({"files": "abc"})
def test_a_manifest_with_other_values_is_refused_or_can_be_followed(changes: dict[str, Any]) -> None:
    out = memory_folder()
    body = json.dumps({"schema_version": SCHEMA_VERSION, **MANIFEST, **changes}).encode()
    out.replace("small/manifests/0000000.0.json", body)
    ledger = Ledger(out, "small")
    outcome(lambda: files_of(ledger.manifest(0, 0)))
    # the file it names is not there, so it never comes to rows
    assert outcome(lambda: [shard.rows() for shard in committed_shards(out, ledger.manifests())]) != "read"


def test_a_damaged_plan_is_read_or_named(tmp_path: Path) -> None:
    out = Folder(str(tmp_path))
    table = pa.table({"image_id": [f"{n}.jpg" for n in range(9)], "uri": [f"/data/{n}.jpg" for n in range(9)]})
    plan = make_plan(out, table, shard_size=4, source={})
    name = f"plan/{plan.digest}.parquet"
    whole = out.read(name)
    refused = 0
    for case in range(300):
        out.replace(name, damaged([whole], Random(f"plan {case}")))
        _reader.cache_clear()
        refused += outcome(lambda: [plan.shard(number).records.to_pylist() for number in range(3)]) != "read"
    assert 30 < refused < 300


@pytest.mark.parametrize("key", sorted(MANIFEST))
def test_no_key_of_a_manifest_may_be_of_another_kind(key: str) -> None:
    body = json.dumps({"schema_version": SCHEMA_VERSION, **MANIFEST, key: None}).encode()
    with pytest.raises(RunError, match=f"something else in the place of {key}"):
        from_json(body, "OUT/manifest", *MANIFEST)
