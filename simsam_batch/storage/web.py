"""Objects of web servers: read as streams, since no header is believed; a silent host is left alone for a while."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from simsam_batch.storage.failures import HostSilentError

if TYPE_CHECKING:
    from aiohttp import ClientResponse

_CONNECT_S = 10.0
_NEXT_BYTES_S = 30.0
_IN_ALL_S = 300.0
_SILENT_S = 60.0
_LONGEST_PAUSE_S = 600.0
_AT_ONCE = 1 << 18
_GONE = (404, 410)
_PARTIAL = 206
_NO_SUCH_RANGE = 416

_silent_hosts: dict[str, tuple[float, float]] = {}
"""Of each host that did not answer when it was last asked: since when, and until when it is left alone."""


def read(fs: Any, url: str, start: int = 0, end: int | None = None, *, although_silent: bool = False) -> bytes:
    """Bytes ``start`` up to ``end`` of an object, or all of it, by one request.

    The plain bytes are asked for; a body that comes compressed all the same is inflated as it comes. Nothing beyond
    ``end`` is waited for or held. A host that has not answered for a minute is not asked for as long again, so that
    many objects of one that is gone cost little more than one.

    Args:
        fs: fsspec's filesystem for web servers.
        url: of the object.
        start: of what is wanted; a server that knows no ranges sends what comes before too, which is dropped.
        end: of what is wanted; None for all.
        although_silent: ask the host in any case.

    Raises:
        HostSilentError: it was not asked.
        Exception: of aiohttp, or `FileNotFoundError`.
    """
    from fsspec.asyn import sync

    host = _host_of(url)
    if not although_silent and time.monotonic() < _silent_hosts.get(host, (0.0, 0.0))[1]:
        raise HostSilentError(f"{host} does not answer")
    data: bytes = sync(fs.loop, _read, fs, url, start, end)
    return data


def size(fs: Any, url: str) -> int | None:
    """How many bytes an object has, of a server that knows ranges; None for any other, whose word is not enough."""
    from fsspec.asyn import sync

    found: int | None = sync(fs.loop, _size, fs, url)
    return found


async def _read(fs: Any, url: str, start: int, end: int | None) -> bytes:
    wanted = f"bytes={start}-{'' if end is None else end - 1}" if start else None
    async with _answer(fs, url, wanted) as reply:
        first = _first_byte(reply, start) if reply.status == _PARTIAL else 0
        return await _body(reply, start - first, None if end is None else end - start)


async def _size(fs: Any, url: str) -> int | None:
    import aiohttp

    try:
        async with _answer(fs, url, "bytes=0-0") as reply:
            total = reply.headers.get("Content-Range", "").rpartition("/")[2] if reply.status == _PARTIAL else ""
            reply.close()
            return int(total) if total.isdigit() else None
    except aiohttp.ClientResponseError as error:
        if error.status != _NO_SUCH_RANGE:
            raise
        return None


@asynccontextmanager
async def _answer(fs: Any, url: str, wanted: str | None) -> AsyncIterator[ClientResponse]:
    """The answer to a request for an object, or of the range ``wanted`` of it, its body not yet read."""
    import aiohttp

    options = dict(fs.kwargs)
    headers = {**options.pop("headers", {}), "Accept-Encoding": "identity"}
    if wanted is not None:
        headers["Range"] = wanted
    if "timeout" not in fs.client_kwargs:
        options["timeout"] = aiohttp.ClientTimeout(total=_IN_ALL_S, sock_connect=_CONNECT_S, sock_read=_NEXT_BYTES_S)
    session = await fs.set_session()
    host, began = _host_of(url), time.monotonic()
    try:
        reply = await session.get(fs.encode_url(url), headers=headers, auto_decompress=False, **options)
    except (TimeoutError, aiohttp.ClientConnectionError) as error:
        _note_silence(host, began)
        if isinstance(error, TimeoutError):
            raise TimeoutError(f"{host} did not answer in time") from error
        raise
    _silent_hosts.pop(host, None)
    async with reply:
        if reply.status in _GONE:
            raise FileNotFoundError(url)
        reply.raise_for_status()
        yield reply


def _host_of(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _note_silence(host: str, began: float) -> None:
    now = time.monotonic()
    since = _silent_hosts.get(host, (began, 0.0))[0]
    lasted = now - since
    _silent_hosts[host] = since, now + min(lasted, _LONGEST_PAUSE_S) if lasted >= _SILENT_S else 0.0


def _first_byte(reply: ClientResponse, wanted: int) -> int:
    """Where the part of an object begins that a server sent; not behind what is wanted of it."""
    stated = reply.headers.get("Content-Range", "")
    found = re.match(r"bytes (\d+)-", stated)
    if found is None or int(found[1]) > wanted:
        raise OSError(f"the server sent another part of it than was asked for: Content-Range is {stated!r}")
    return int(found[1])


async def _body(reply: ClientResponse, skip: int, most: int | None) -> bytes:
    """What the body holds, inflated, but for what is to be skipped; of what is longer only so many bytes."""
    inflated = _inflater(reply.headers.get("Content-Encoding", "identity"))
    parts, held = [], 0
    async for chunk in reply.content.iter_any():
        for part in inflated(chunk):
            parts.append(part[skip:])
            skip = max(0, skip - len(part))
            held += len(parts[-1])
            if most is not None and held >= most:
                # what is still on its way is not waited for
                reply.close()
                return b"".join(parts)[:most]
    return b"".join(parts)


def _inflater(encoding: str) -> Callable[[bytes], Iterator[bytes]]:
    """What inflates the chunks of a body in their order, in pieces of bounded size."""
    if encoding.strip().lower() in ("", "identity"):
        return lambda chunk: iter((chunk,))
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        raise OSError(f"the server sends it compressed ({encoding}), although the plain bytes were asked for")
    # the window of 15 bits, and 32 for either of the two headers
    stream = zlib.decompressobj(47)

    def inflated(chunk: bytes) -> Iterator[bytes]:
        nonlocal stream
        while chunk:
            if stream.eof:
                stream = zlib.decompressobj(47)
            piece = stream.decompress(chunk, _AT_ONCE)
            yield piece
            chunk = stream.unconsumed_tail or stream.unused_data
        while not stream.eof and (piece := stream.decompress(b"", _AT_ONCE)):
            yield piece

    return inflated
