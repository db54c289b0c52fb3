"""Faults that pass by themselves are waited out, for a bounded time; all others are raised at once."""

from __future__ import annotations

import errno
import logging
import random
import socket
import time
from collections.abc import Callable
from typing import TypeVar

from simsam_batch.storage.failures import causes, http_status
from simsam_batch.storage.urls import redact

PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each repeat, so that a call is tried at most seven times; each is drawn from half to one and a half
of it. They come on top of what the package of a store (botocore, s3fs) repeats by itself."""

LONGEST_S = 60.0
"""No repeat begins later than this many seconds after the first try."""

TRANSIENT_STATUSES = frozenset({429, 500, 502, 503, 504})
_TRANSIENT_ERRNOS = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EREMOTEIO, socket.EAI_AGAIN),
        *(errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EPIPE, errno.ENETRESET),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    }
)
# By name, since the packages are loaded only where their storage is used: botocore, http.client, aiohttp, azure.
_TRANSIENT_TYPES = frozenset(
    {
        *("HTTPClientError", "ConnectionError", "IncompleteRead", "IncompleteReadError", "ResponseParserError"),
        *("ClientConnectionError", "ClientPayloadError", "Timeout", "ServiceRequestError", "ServiceResponseError"),
    }
)

T = TypeVar("T")
_log = logging.getLogger(__name__)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment.

    Connections that break or time out, HTTP 429, 500, 502, 503 and 504, and the errors by which a network disk says as
    much. Never what is not found, not permitted, misnamed, full or not installed. An HTTP status counts for more than
    the errno that a package makes of it.
    """
    chain = list(causes(error))
    if any(_is_lasting(cause) for cause in chain):
        return False
    statuses = [status for cause in chain if (status := http_status(cause)) is not None]
    if any(isinstance(cause, TimeoutError) for cause in chain) or TRANSIENT_STATUSES.intersection(statuses):
        return True
    return any(
        not _TRANSIENT_TYPES.isdisjoint(cls.__name__ for cls in type(cause).__mro__)
        or (not statuses and isinstance(cause, OSError) and cause.errno in _TRANSIENT_ERRNOS)
        for cause in chain
    )


def _is_lasting(cause: BaseException) -> bool:
    """Faults of a connection that no waiting mends: an unknown host, a certificate that does not hold."""
    unknown_host = isinstance(cause, OSError) and cause.errno == socket.EAI_NONAME
    return unknown_host or type(cause).__name__ == "SSLCertVerificationError"


class Patience:
    """How often and how long one call may still be repeated.

    Args:
        what: what is done and where, for the log.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._pauses = iter(PAUSES_S)
        self._began = time.monotonic()

    def wait(self, error: BaseException) -> bool:
        """Wait before the next repeat; False, at once, if there is to be none."""
        longest = next(self._pauses, None)
        if longest is None:
            return False
        seconds = longest * random.uniform(0.5, 1.5)  # noqa: S311  spreads the repeats of many workers
        if time.monotonic() - self._began + seconds > LONGEST_S:
            return False
        cause = redact(" ".join(str(error).split()))[:200]
        _log.warning("%s: %s: %s; again in %.1f s", redact(self._what), type(error).__name__, cause, seconds)
        time.sleep(seconds)
        return True


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
