"""URLs and local paths: what kind one is, its absolute form, and what may be shown of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from simsam_batch.errors import StorageError


def protocol_of(url: str) -> str:
    """``file`` for local paths and ``file://`` URLs, else what stands before ``://``, in lower case.

    Raises:
        StorageError: a chained URL.
    """
    if re.match(r"[A-Za-z0-9+.-]+::", url) and "://" in url:
        raise StorageError(f"{redact(url)}: chained URLs (with '::') cannot be used. Give the plain URL of the storage")
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    return "file" if found is None or found[1] == "local" else found[1].lower()


def absolute_url(path_or_url: str) -> str:
    """The URL as given, without a trailing slash, or the absolute path of a local path or ``file://`` URL."""
    if protocol_of(path_or_url) != "file":
        return path_or_url.rstrip("/") if not path_or_url.endswith("://") else path_or_url
    return str(Path(os.path.abspath(re.sub(r"^(file|local)://", "", path_or_url))))  # noqa: PTH100  keeps symbolic links


def redact(text: str) -> str:
    """Remove user names and passwords, and the values of secret query parameters, from every URL in a text."""
    # all repetitions are bounded, so that no text takes longer than its length
    text = re.sub(r"([A-Za-z][A-Za-z0-9+.-]{0,30}://)[^/\s'\"]{1,2000}@", r"\1", text)
    words = "key|secret|token|signature|credential|password|passwd|passphrase|pwd|sig|auth|jwt|bearer"
    parameter = rf"([?&;#][^?=&;#\s'\"]{{0,40}}(?:{words})[^?=&;#\s'\"]{{0,40}}=)[^&;#\s'\"]*"
    return re.sub(parameter, r"\1***", text, flags=re.IGNORECASE)
