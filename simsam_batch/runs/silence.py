"""What a driver says of its own accord: that nothing comes back, and what is in flight; that it was asked to end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from simsam_batch.errors import StorageError
from simsam_batch.runs.ledger import Ledger
from simsam_batch.storage import ObjectNotFound

_LOOK_S = 0.25
_SHARDS_SHOWN = 5


class Silence:
    """Watches, in a thread, for how long no shard came back.

    Args:
        ledger: of the stage; it knows what was started.
        seconds: after so many without a report a note names what is in flight, and again after as many.
        say: takes a note.
    """

    def __init__(self, ledger: Ledger, seconds: float, say: Callable[[str], None]) -> None:
        self._ledger, self._seconds, self._say = ledger, seconds, say
        self._awaited: set[int] = set()
        self._heard = self._noted = time.monotonic()

    def awaits(self, shards: Iterable[int]) -> None:
        """Note which shards are to come back; none while the driver itself is at work."""
        self._awaited = set(shards)
        self._heard = self._noted = time.monotonic()

    def heard(self, shard: int) -> None:
        """Note that one came back."""
        self._awaited.discard(shard)
        self._heard = self._noted = time.monotonic()

    @contextmanager
    def watched(self, asked_to_end: threading.Event, grace_s: float) -> Iterator[None]:
        """Watch while the block runs; say it, too, when an orderly end is asked for."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over, asked_to_end, grace_s), name="silence", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()

    def _watch(self, over: threading.Event, asked_to_end: threading.Event, grace_s: float) -> None:
        told = False
        while not over.wait(_LOOK_S):
            if asked_to_end.is_set() and not told:
                told = True
                self._say(f"asked to end: what is in flight may finish within {grace_s:g} s; once more ends at once")
            now = time.monotonic()
            if self._awaited and now - self._noted > self._seconds:
                self._noted = now
                self._say(f"no shard came back for {now - self._heard:.0f} s; {self._in_flight()}")

    def _in_flight(self) -> str:
        """The awaited shards that were started, with the place and age of the last start of the first few."""
        awaited = set(self._awaited)
        try:
            last: dict[int, int] = {}
            for shard in self._ledger.starts():
                if shard in awaited:
                    last[shard] = last.get(shard, 0) + 1
            shown = [self._start(shard, attempt) for shard, attempt in sorted(last.items())[:_SHARDS_SHOWN]]
        except StorageError as error:
            return f"what is in flight cannot be told: {error}"
        if not shown:
            return f"none of the {len(awaited)} pending shards was started"
        more = f", and {len(last) - len(shown)} more" if len(last) > len(shown) else ""
        return f"in flight: {', '.join(shown)}{more}"

    def _start(self, shard: int, attempt: int) -> str:
        try:
            record = json.loads(self._ledger.out.read(f"{self._ledger.stage}/attempts/{shard:07d}.{attempt}"))
        except ObjectNotFound:
            return f"shard {shard}"
        age = max(0.0, time.time() - record["time"])
        return f"shard {shard} (start {attempt}, process {record['pid']} on {record['host']}, {age:.0f} s ago)"
