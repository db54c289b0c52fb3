"""What one process says while it is at work, as whole objects with numbers: object stores cannot append."""

from __future__ import annotations

import os
import platform
import secrets
import threading
import time
from collections.abc import Callable

from simsam_batch.storage.folder import Folder


class NumberedObjects:
    """Objects ``<folder>/<process>/<number>.jsonl``, written once and never changed. Safe to use from threads.

    Attributes:
        name: ``<folder>/<process>``, which no other process has.

    Args:
        out: the run's folder.
        folder: in it, of all processes.
        take: gives all that is to be written, and no longer holds it; empty if there is nothing.
    """

    def __init__(self, out: Folder, folder: str, take: Callable[[], bytes]) -> None:
        began = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        host = "".join(letter if letter.isalnum() else "-" for letter in platform.node())[:40] or "host"
        self.name = f"{folder}/{began}-{host}-{os.getpid()}-{secrets.token_hex(3)}"
        self._out, self._take = out, take
        self._at_work = threading.Lock()
        self._number = 0
        self.refused = b""
        """The object that the storage has not taken yet."""

    def put(self) -> None:
        """Write what there is, after what was refused before: that keeps its name and its content.

        For it may be there although the reply was lost.

        Raises:
            StorageError: the storage has refused it; it is tried again with the next.
        """
        with self._at_work:
            for _ in range(2 if self.refused else 1):
                self.refused = self.refused or self._take()
                if not self.refused:
                    return
                self._out.replace(f"{self.name}/{self._number:06}.jsonl", self.refused)
                self.refused = b""
                self._number += 1
