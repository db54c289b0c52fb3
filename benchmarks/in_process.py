"""An engine without processes, for what is measured or tested of the runs themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from simsam_batch.engines.contract import Runner, ShardReport


class InProcess:
    """An engine that runs all shards in the driver itself."""

    def run(self, make_runner: Callable[[], Runner], shards: Sequence[int]) -> Iterator[ShardReport]:
        return make_runner().run(iter(shards))

    def stop(self) -> bool:
        return False

    def close(self) -> None:
        return
