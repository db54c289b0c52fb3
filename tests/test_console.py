"""What a person sees while a run goes on."""

from __future__ import annotations

import pytest

from simsam_batch.engines.contract import ShardReport
from simsam_batch.telling.console import reporter


def test_one_fact_that_meets_every_shard_is_said_once_with_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    with reporter("text", quiet=False) as report:
        # a full disk: nine shards in five rounds
        for start in range(1, 6):
            for shard in range(9):
                where = f"/out/segment/attempts/{shard:07d}.{start}"
                said = f"cannot write {where}: OSError: [Errno 28] No space left on device"
                report.shard(ShardReport(shard, start, "error", error=said))
        report.shard(ShardReport(4, 6, "error", error="the connection was reset"))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert lines == [
        "shard 0, start 1: cannot write /out/segment/attempts/0000000.1: OSError: [Errno 28] No space left on device",
        "shard 4, start 6: the connection was reset",
        "shard 0, start 1: 44 more starts failed alike",
    ]
