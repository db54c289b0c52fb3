"""What a storage raises, told in one line with the URL, the cause and the mend."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from simsam_batch.errors import SimsamError, StorageError
from simsam_batch.storage.urls import protocol_of, redact

_ABSENT_ERRNOS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}

ONE_DRIVER_ALONE = "use --single-driver if nothing but one command at a time writes to this OUT"
"""The mend for a store that cannot decide among racing writers."""


class ObjectNotFound(StorageError):  # noqa: N818  the name says what happened, as FileNotFoundError does for files
    """No object has this name (nothing there, or a directory): a fault of the name and not of the storage."""


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


@contextmanager
def reported(action: str, url: str) -> Iterator[None]:
    """Turn whatever the storage raises into a `StorageError` that says what could not be done, where and why."""
    try:
        yield
    except SimsamError:
        raise
    except Exception as error:
        raise _as_storage_error(error, action, url) from error


def _as_storage_error(error: Exception, action: str, url: str) -> StorageError:
    cause = " ".join(str(error).split())
    # the cause may quote the path without the protocol, by which a URL would be known
    user = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://([^/\s@]+@)", url)
    cause = cause.replace(user[1], "") if user else cause
    # a URL that is cut before its "@" would no longer be known for one with a password
    cause = redact(cause)[:500] or "no message"
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in url)
    text = redact(
        f"cannot {action} {shown}: {type(error).__name__}: {cause}. To mend it: {_mend(error, protocol_of(url))}"
    )
    absent = isinstance(error, OSError) and (isinstance(error, FileNotFoundError) or error.errno in _ABSENT_ERRNOS)
    return ObjectNotFound(text) if absent and action == "read" else StorageError(text)


def _mend(error: BaseException, protocol: str) -> str:
    if isinstance(error, ImportError):
        return (
            "install simsam-batch[s3]" if protocol in ("s3", "s3a") else "install the package that fsspec names for it"
        )
    if "credential" in type(error).__name__.lower():
        return "set the credentials in the environment (AWS_ACCESS_KEY_ID, ...) or in a profile"
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a file is where a folder is needed: choose another place"
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
        return "check that the permissions or credentials allow it"
    if isinstance(error, FileNotFoundError):
        return "check the name; a bucket has to be made beforehand"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space and run the same command again"
    if any(http_status(cause) == 501 for cause in causes(error)):
        return f"this store knows no conditional create: {ONE_DRIVER_ALONE}"
    return "check the storage and run the same command again"
