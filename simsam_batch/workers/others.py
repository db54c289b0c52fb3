"""Whether a file or its storage is at fault: other files of the run are asked for."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import zip_longest

from simsam_batch.runs.plan import Plan
from simsam_batch.storage import is_given

_ASKED_FOR = 64
_AT_ONCE = 8
_SHARDS = 8
_ENOUGH_S = 5.0
_WAIT_AFTER = 2.0


class Others:
    """Asks for other files than the one that the storage does not give. Any thread may ask.

    Records spread over the plan are tried, others each time, until one is given; that one is then the first to be asked
    for.
    If the answers take long they are few. After a sample of which none is given nothing is asked for a while that grows
    with how long it took, so that a storage that is away is not waited for again and again.

    Args:
        plan: of the run's images; without one nothing is known of others.
    """

    def __init__(self, plan: Plan | None) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        self._good: dict[str, str] = {}
        self._none_until: dict[str, float] = {}

    def are_given(self, column: str, but: str) -> bool:
        """Whether the storage gives another file of a column of the plan (``uri``, ``truth_uri``) now.

        Raises:
            StorageError: the plan cannot be read.
        """
        with self._lock:
            good = self._good.get(column)
            if good not in (None, but) and is_given(str(good)):
                return True
            began = time.monotonic()
            if began < self._none_until.get(column, 0.0):
                return False
            found = _first_given(self._sample(column, but), began + _ENOUGH_S)
            if found is None:
                now = time.monotonic()
                self._none_until[column] = now + _WAIT_AFTER * (now - began)
                return False
            self._good[column] = found
            return True

    def _sample(self, column: str, but: str) -> list[str]:
        """Some values of a column, spread over the plan and, where it has several, over its hosts or buckets."""
        if self._plan is None:
            return []
        shards = self._plan.shards
        first = random.randrange(shards)  # noqa: S311  who looks again looks elsewhere
        numbers = dict.fromkeys((first + i * shards // _SHARDS) % shards for i in range(_SHARDS))
        columns = [self._plan.shard(number).records[column] for number in numbers]
        each = _ASKED_FOR // len(columns)
        by_place: dict[str, dict[str, None]] = {}
        for i in range(each):
            for values in columns:
                uri = values[i * len(values) // each].as_py()
                if uri is not None and uri != but:
                    by_place.setdefault(_place_of(uri), {})[uri] = None
        turns = zip_longest(*by_place.values())
        return [uri for turn in turns for uri in turn if uri is not None]


def _first_given(uris: Sequence[str], until: float) -> str | None:
    """The first of some files that the storage gives, asked for a few at a time until a time has come."""
    pool = ThreadPoolExecutor(_AT_ONCE, "simsam-others")
    try:
        asked = {pool.submit(is_given, uri): uri for uri in uris}
        for answered in as_completed(asked):
            if answered.result():
                return asked[answered]
            if time.monotonic() > until:
                return None
        return None
    finally:
        # those that are silent are not waited for
        pool.shutdown(wait=False, cancel_futures=True)


def _place_of(uri: str) -> str:
    """Protocol and host or bucket of a URL; nothing of a path."""
    return "/".join(uri.split("/", 3)[:3]) if "://" in uri else ""
