"""What a storage raises: whether it can pass by itself, and one line with the URL, the cause and the mend."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from simsam_batch.errors import SimsamError, StorageError
from simsam_batch.storage.urls import WEB, protocol_of, redact

TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_ABSENT_ERRNOS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
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

ONE_DRIVER_ALONE = "use --single-driver if nothing but one command at a time writes to this OUT"
"""The mend for a store that cannot decide among racing writers."""


class ObjectNotFound(StorageError):  # noqa: N818  the name says what happened, as FileNotFoundError does for files
    """No object has this name (nothing there, or a directory): a fault of the name and not of the storage."""


class ObjectRefused(StorageError):  # noqa: N818  likewise
    """This object is not given out, and no waiting mends it: no permission, a URL that cannot be one, HTTP 451."""


class UnusableMember(ObjectNotFound):
    """An archive has a member of this name that cannot be had: damaged, encrypted, or packed as is not read.

    Attributes:
        kind: ``undecodable`` or ``unsupported``.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(redact(message))
        self.kind = kind


class HostSilentError(Exception):
    """A host has not answered for so long that it is not asked at the moment."""


def http_status(error: BaseException) -> int | None:
    """The HTTP status in an error of botocore, aiohttp, requests, gcsfs or azure; None if there is none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = next((s for s in (getattr(error, key, None) for key in ("status", "status_code", "code")) if s), None)
    return int(status) if str(status).isdigit() and 400 <= int(status) < 600 else None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it was raised from or while."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment.

    Connections that break or time out, HTTP 408, 425, 429, 500, 502, 503 and 504, and the errors by which a network
    disk says as much. Never what is not found, not permitted, misnamed, full or not installed. An HTTP status counts
    for more than the errno that a package makes of it.
    """
    chain = list(causes(error))
    if any(_is_unknown_host(cause) or _is_bad_certificate(cause) for cause in chain):
        return False
    statuses = _statuses(error)
    if any(isinstance(cause, TimeoutError) for cause in chain) or TRANSIENT_STATUSES.intersection(statuses):
        return True
    return any(
        not _TRANSIENT_TYPES.isdisjoint(cls.__name__ for cls in type(cause).__mro__)
        or (not statuses and isinstance(cause, OSError) and cause.errno in _TRANSIENT_ERRNOS)
        for cause in chain
    )


def _statuses(error: BaseException) -> set[int]:
    return {status for cause in causes(error) if (status := http_status(cause)) is not None}


def _is_unknown_host(cause: BaseException) -> bool:
    return isinstance(cause, OSError) and cause.errno == socket.EAI_NONAME


def _is_bad_certificate(cause: BaseException) -> bool:
    return type(cause).__name__ == "SSLCertVerificationError"


def _is_answer(error: Exception) -> bool:
    """Whether the storage has said what there is to say, so that it would say the same again."""
    return not (is_transient(error) or isinstance(error, HostSilentError))


def _is_absent(error: Exception) -> bool:
    return isinstance(error, OSError) and (isinstance(error, FileNotFoundError) or error.errno in _ABSENT_ERRNOS)


@contextmanager
def reported(action: str, url: str) -> Iterator[None]:
    """Turn whatever the storage raises into a `StorageError` that says what could not be done, where and why.

    After ``read`` as the action it says of which kind: `ObjectNotFound`, `ObjectRefused`, or neither where no answer
    came.
    """
    try:
        yield
    except SimsamError:
        raise
    except Exception as error:
        kind: type[StorageError] = StorageError
        if action == "read" and _is_absent(error):
            kind = ObjectNotFound
        elif action == "read" and _is_answer(error):
            kind = ObjectRefused
        raise kind(_told(error, action, url)) from error


def _told(error: Exception, action: str, url: str) -> str:
    cause = words_of(error)
    # the cause may quote the path without the protocol, by which a URL would be known
    user = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://([^/\s@]+@)", url)
    cause = cause.replace(user[1], "") if user else cause
    # a URL that is cut before its "@" would no longer be known for one with a password
    cause = redact(cause)[:500]
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in url)
    mend = _mend(error, protocol_of(url), action)
    return redact(f"cannot {action} {shown}: {type(error).__name__}: {cause}. To mend it: {mend}")


def words_of(error: Exception) -> str:
    """The words of the first error in the chain that has any; a number alone is an errno."""
    for cause in causes(error):
        text = " ".join(str(cause).split())
        if isinstance(cause, OSError) and text.isdigit():
            return f"{os.strerror(int(text))} (errno {text})"
        if text:
            return text.removesuffix(".")
    return "no answer in time" if isinstance(error, TimeoutError) else "no message"


def _mend(error: Exception, protocol: str, action: str) -> str:
    """What fits the kind of error; not one that passes by itself is told to be tried again."""
    chain, statuses = list(causes(error)), _statuses(error)
    if isinstance(error, ImportError):
        needed = {"s3": "simsam-batch[s3]", "s3a": "simsam-batch[s3]"} | dict.fromkeys(WEB, "simsam-batch[web]")
        return f"install {needed.get(protocol, 'the package that fsspec names for it')}"
    if any("credential" in type(cause).__name__.lower() for cause in chain):
        return "set the credentials in the environment (AWS_ACCESS_KEY_ID, ...) or in a profile"
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a file is where a folder is needed: choose another place"
    numbers = {cause.errno for cause in chain if isinstance(cause, OSError)}
    if isinstance(error, PermissionError) or numbers & {errno.EROFS} or statuses & {401, 403}:
        return "check that the permissions or credentials allow it"
    if isinstance(error, FileNotFoundError):
        return _mend_of_absent(protocol, action)
    if numbers & {errno.ENOSPC, errno.EDQUOT}:
        return "free some space and run the same command again"
    if 501 in statuses and action == "write":
        return f"this store knows no conditional create: {ONE_DRIVER_ALONE}"
    if any(_is_unknown_host(cause) for cause in chain):
        return "check the name of the host, and whether this machine has a network"
    if any(_is_bad_certificate(cause) for cause in chain):
        return "check the server's certificate, and those that this machine trusts"
    if not _is_known(protocol):
        return f"check how the URL begins: no storage is known by {protocol}://"
    if isinstance(error, ValueError) or type(error).__name__ == "ParamValidationError":
        return "check that the URL is written as URLs are"
    if protocol in WEB and _is_answer(error):
        return "check the URL, and whether its server gives it to others"
    return "see whether the storage answers, and try again"


def _mend_of_absent(protocol: str, action: str) -> str:
    if protocol == "file":
        return "check the path"
    if protocol in WEB:
        return "check the URL"
    return "check the name; a bucket has to be made beforehand" if action == "write" else "check the name"


def _is_known(protocol: str) -> bool:
    from fsspec.registry import known_implementations, registry

    return protocol in registry or protocol in known_implementations
