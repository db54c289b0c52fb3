"""A store in memory, ``faulty://``, that fails at chosen calls in chosen ways; it decides itself who creates."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

TRANSIENT = ("refused", "lost", "torn", "cut", "slow")
"""Kinds of faults that pass by themselves. ``refused``: 503, nothing done. ``lost``: done, but no reply comes.
``torn``: half of a write that replaces becomes visible, half of a read arrives; then the connection is reset. ``cut``:
an input/output error before anything is done. ``slow``: done, after a while."""

LASTING = ("denied",)
"""Kinds that no repeat mends. ``denied``: no permission."""


class RefusedError(Exception):
    """What a client raises for HTTP 503."""

    status = 503


class Store:
    """The objects, and which call is to fail how. All calls of all threads are counted together, from 0."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.calls: list[str] = []
        self.faults: Mapping[int, str] = {}
        self.hit: list[tuple[int, str]] = []

    def begin(self, faults: Mapping[int, str]) -> None:
        """Count calls from 0 again, with these faults ahead."""
        with self.lock:
            self.faults, self.calls, self.hit = faults, [], []

    def next_fault(self, call: str) -> str:
        with self.lock:
            index = len(self.calls)
            self.calls.append(call)
            kind = self.faults.get(index, "")
            if kind:
                self.hit.append((index, kind))
            return kind


STORE = Store()


class FaultyFileSystem(AbstractFileSystem):  # type: ignore[misc]
    protocol = "faulty"

    def _fail_before(self, call: str) -> str:
        kind = STORE.next_fault(call)
        if kind == "refused":
            raise RefusedError("please reduce your request rate")
        if kind == "cut":
            raise OSError(5, "Input/output error")
        if kind == "denied":
            raise PermissionError(13, "access denied")
        if kind == "slow":
            time.sleep(0.02)
        return kind

    def _fail_after(self, kind: str) -> None:
        if kind == "lost":
            raise TimeoutError("no reply came")
        if kind == "torn":
            raise ConnectionResetError(104, "connection reset by peer")

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        kind = self._fail_before(f"{mode} {path}")
        with STORE.lock:
            if mode == "create" and path in STORE.objects:
                raise FileExistsError(path)
            if mode == "create" and kind == "torn":
                # a conditional write becomes visible whole or not at all
                raise ConnectionResetError(104, "connection reset by peer")
            written = value[: len(value) // 2] if kind == "torn" else value
            STORE.objects[path] = (bytes(written), time.time())
        self._fail_after(kind)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        kind = self._fail_before(f"read {path}")
        with STORE.lock:
            if path not in STORE.objects:
                raise FileNotFoundError(path)
            body = STORE.objects[path][0]
        self._fail_after(kind)
        return body[start:end]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        kind = self._fail_before(f"info {path}")
        with STORE.lock:
            if path not in STORE.objects:
                raise FileNotFoundError(path)
            body, written = STORE.objects[path]
        self._fail_after(kind)
        return {"name": path, "size": len(body), "type": "file", "mtime": written}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        kind = self._fail_before(f"list {path}")
        below = path.rstrip("/") + "/"
        with STORE.lock:
            found = {name: held for name, held in STORE.objects.items() if name.startswith(below)}
        self._fail_after(kind)
        if not found:
            raise FileNotFoundError(path)
        entries: dict[str, dict[str, Any]] = {}
        for name, (body, written) in found.items():
            head, slash, _ = name[len(below) :].partition("/")
            kind_of = "directory" if slash else "file"
            entries[head] = {"name": below + head, "size": len(body), "type": kind_of, "mtime": written}
        return [entries[name] for name in sorted(entries)]

    def rm_file(self, path: str) -> None:
        kind = self._fail_before(f"delete {path}")
        with STORE.lock:
            STORE.objects.pop(path, None)
        self._fail_after(kind)


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
