"""A child process at the end of a pipe, which dies with its parent.

Not `multiprocessing.Process`: that one imports the parent's main module first, which may already load NumPy and so
fix the number of threads, and inside a Ray actor that module is Ray's own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from simsam_batch.engines.fork_server import fork
from simsam_batch.plain_text import log_plainly

Receive = Callable[[], Any]
Send = Callable[[Any], None]
Target = Callable[[Receive, Send], None]

_END_S = 2.0
_KILLED_S = 10.0


@dataclass(frozen=True, slots=True)
class Failure:
    """What a child sends when its target raised: the cause in one line. Nothing follows it."""

    reason: str


class Child:
    """A process of its own that runs ``target(receive, send)``; ``target`` is a picklable callable.

    Forked of a process that has done nothing but import what takes long (`simsam_batch.engines.fork_server`); it
    shares nothing with the parent but the working folder, standard output and standard error.

    Messages are pickled; both ends are this program's own. The child has its own process group and takes no notice of
    SIGTERM and SIGINT: a launcher may send them to every process of a job, and the parent says what is still finished.
    It ends at once when the parent's end of the pipe closes, even by SIGKILL.
    """

    def __init__(self, target: Target, environment: Mapping[str, str]) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._process = fork(theirs, environment)
        self.connection: Connection = ours
        self.send(target)

    def send(self, message: Any) -> None:
        """Send one message. To a child that has died it is lost; `receive` then tells of the death."""
        payload = pickle.dumps(message)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send_bytes(payload)

    def receive(self) -> Any:
        """Wait for one message.

        Raises:
            EOFError: the child has ended.
        """
        try:
            return self.connection.recv()
        except OSError:  # the pipe broke, perhaps in the middle of a message
            raise EOFError from None

    def end(self) -> str:
        """End the child and whatever it started, if they still live; returns how it ended (``killed by SIGSEGV``).

        One that is stuck in the kernel cannot be ended: it is left alone, and ends when its call there returns.
        """
        self.connection.close()
        try:
            code = self._process.wait(_END_S)
        except TimeoutError:
            self.kill()
            try:
                code = self._process.wait(_KILLED_S)
            except TimeoutError:
                self._process.give_up()
                return "stuck in the kernel, SIGKILL notwithstanding"
        if code is None:
            return "the loss of the process that it was forked of"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """Send SIGKILL to the child's process group."""
        self._process.kill()


def serve(descriptor: int) -> None:
    """The child's side: take the target from the pipe and run it. Called in processes that were forked only."""
    log_plainly()
    connection = Connection(descriptor)
    for number in (signal.SIGTERM, signal.SIGINT):
        # a function, and not SIG_IGN, which programs started from here would inherit
        signal.signal(number, lambda *_: None)
    try:
        target: Target = pickle.loads(connection.recv_bytes())  # noqa: S301 - from our own parent, over its pipe
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
        target(inbox.get, connection.send)
    except EOFError:
        os._exit(0)
    except Exception as error:  # noqa: BLE001 - the parent is told, whatever it is
        with contextlib.suppress(OSError):
            connection.send(Failure(f"{type(error).__name__}: {error}"))
        sys.exit(1)


def _listen(connection: Connection, inbox: queue.SimpleQueue[Any]) -> None:
    """Fill the inbox; a closed pipe means that the parent wants us gone or is gone itself, mid-computation or not."""
    try:
        while True:
            inbox.put(pickle.loads(connection.recv_bytes()))  # noqa: S301 - from our own parent, over its pipe
    except (EOFError, OSError):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
