"""Faults that pass by themselves are waited out, for a bounded time; all others are raised at once."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from simsam_batch.storage.failures import is_transient, words_of
from simsam_batch.storage.urls import redact

PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each repeat, so that a call is tried at most seven times; each is drawn from half to one and a half
of it. They come on top of what the package of a store (botocore, s3fs) repeats by itself."""

LONGEST_S = 60.0
"""No repeat begins later than this many seconds after the first try."""

_longest_s = LONGEST_S

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Patience:
    """How often and how long one call may still be repeated.

    Args:
        what: what is done and where, for the log.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._pauses = iter(PAUSES_S)
        self._began = time.monotonic()

    def wait(self, error: Exception) -> bool:
        """Wait before the next repeat; False, at once, if there is to be none."""
        longest = next(self._pauses, None)
        if longest is None:
            return False
        seconds = longest * random.uniform(0.5, 1.5)  # noqa: S311  spreads the repeats of many workers
        if time.monotonic() - self._began + seconds > _longest_s:
            return False
        cause = redact(words_of(error))[:200]
        _log.warning("%s: %s: %s; again in %.1f s", redact(self._what), type(error).__name__, cause, seconds)
        time.sleep(seconds)
        return True


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Meanwhile no call of this process is repeated later than so many seconds after its first try.

    For whoever is waited for by a person: a run that goes on by itself has more time.

    Args:
        seconds: in place of `LONGEST_S`.
    """
    global _longest_s  # noqa: PLW0603  calls are made by threads of all kinds, which share nothing else
    before, _longest_s = _longest_s, seconds
    try:
        yield
    finally:
        _longest_s = before


def retried(what: str, call: Callable[[], T]) -> T:
    """The result of a call that may be repeated, once it succeeds.

    Args:
        what: what is done and where, for the log.
        call: is called again after a fault that `is_transient`.

    Raises:
        Exception: what the last try raised.
    """
    patience = Patience(what)
    while True:
        try:
            return call()
        except Exception as error:
            if not (is_transient(error) and patience.wait(error)):
                raise
