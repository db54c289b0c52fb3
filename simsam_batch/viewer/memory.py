"""What the C library does with memory that is free: a server that runs for days gives it back."""

from __future__ import annotations

import ctypes
from typing import Any

import pyarrow as pa

# malloc.h of glibc
_MMAP_THRESHOLD, _ARENAS_AT_MOST = -3, -8
_LARGE = 2**20


def keep_together() -> None:
    """Have threads share two arenas, and large arrays be mappings of their own, which go back when they are free.

    Called before there are threads. By itself glibc gives every thread an arena, and lets arrays of up to 32 MB stay in
    them: after an hour of use the server held twice of what it needed. Elsewhere nothing is done.
    """
    _call("mallopt", _ARENAS_AT_MOST, 2)
    _call("mallopt", _MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Give memory back that it took to read the columns of a run: some 100 MB of a million rows."""
    pa.default_memory_pool().release_unused()
    _call("malloc_trim", 0)


def _call(name: str, *values: int) -> None:
    function: Any = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*values)
