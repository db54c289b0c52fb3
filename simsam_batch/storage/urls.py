"""URLs and local paths: what kind one is, its absolute form, and what may be shown of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from simsam_batch.errors import SettingsError, StorageError

WEB = ("http", "https")
"""Protocols of web servers."""

_BUCKETS = ("s3", "s3a", "gs", "gcs")
"""Of stores whose URLs are a bucket and a key: every letter of a key is part of a name."""

_FILE_URL = re.compile(r"(?i)(?:file|local)://(?:localhost(?=/))?|file:(?=/(?!/))")


def protocol_of(url: str) -> str:
    """``file`` for local paths and ``file://`` URLs, else what stands before ``://``, in lower case.

    Raises:
        StorageError: a chained URL.
    """
    if re.match(r"[A-Za-z0-9+.-]+::", url) and "://" in url:
        raise StorageError(f"{redact(url)}: chained URLs (with '::') cannot be used. Give the plain URL of the storage")
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    return "file" if found is None or found[1].lower() == "local" else found[1].lower()


def absolute_url(path_or_url: str) -> str:
    """The URL as given, without a trailing slash, or the absolute path of a local path or ``file://`` URL.

    Raises:
        SettingsError: it is empty, as an unset variable of a shell is, or holds a null character.
    """
    if not path_or_url.strip() or "\0" in path_or_url:
        what = "it holds a null character" if "\0" in path_or_url else "it is empty"
        raise SettingsError(
            f"{path_or_url!r} is no path or URL: {what}. To mend it: name a file, a folder or a URL; a dot is the "
            "working folder"
        )
    if protocol_of(path_or_url) != "file":
        return path_or_url.rstrip("/") if not path_or_url.endswith("://") else path_or_url
    return str(Path(os.path.abspath(local_path(path_or_url))))  # noqa: PTH100  keeps symbolic links


def is_same_place(one: str, other: str) -> bool:
    """Whether two URLs or paths name one folder or file, by whatever names of the local disk."""
    return _real(one) == _real(other)


def _real(url: str) -> str:
    place = absolute_url(url)
    return os.path.realpath(place) if protocol_of(place) == "file" else place


def local_path(path_or_url: str) -> str:
    """The path that a ``file://`` URL stands for, ``%20`` and the like decoded (RFC 8089); any other path as it is."""
    prefix = _FILE_URL.match(path_or_url)
    return path_or_url if prefix is None else unquote(path_or_url[prefix.end() :])


def is_bucket(url: str) -> bool:
    """Whether a URL names a bucket as a whole."""
    return protocol_of(url) in _BUCKETS and re.fullmatch(r"[^/]*//[^/]*/*", url) is not None


def carries_secret(url: str) -> bool:
    """Whether a URL has a user name or password, or a secret query parameter where its protocol has a query at all."""
    return (_without_user(url) if protocol_of(url) in _BUCKETS else redact(url)) != url


def redact(text: str) -> str:
    """Remove user names and passwords, and the values of secret query parameters, from every URL in a text."""
    # all repetitions are bounded, so that no text takes longer than its length
    words = "key|secret|token|signature|credential|password|passwd|passphrase|pwd|sig|auth|jwt|bearer"
    parameter = rf"([?&;#][^?=&;#\s'\"]{{0,40}}(?:{words})[^?=&;#\s'\"]{{0,40}}=)[^&;#\s'\"]*"
    return re.sub(parameter, r"\1***", _without_user(text), flags=re.IGNORECASE)


def _without_user(text: str) -> str:
    return re.sub(r"([A-Za-z][A-Za-z0-9+.-]{0,30}://)[^/\s'\"]{1,2000}@", r"\1", text)
