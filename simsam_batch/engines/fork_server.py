"""A process that has imported what takes seconds, and of which workers are forked, each in a few milliseconds.

It does nothing else: it holds no data, computes nothing, starts no thread and never touches a GPU, so that a fork of it
is as good as a fresh process. What libraries read from the environment as they are imported has to stand before it
starts: there is one server for each set of such variables. All the rest of its environment a process gets as it forks.
Large libraries that some workers need are imported once a process that has them itself asks for a worker.

Not `multiprocessing`'s: that one has one environment for all, and imports the parent's main module.
"""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_IMPORTED = ("torch", "scipy.linalg", "pyarrow.parquet", "PIL.Image")
"""What nearly every worker needs; one that is missing is for the worker to complain of."""

_IF_ASKER_HAS = ("timm", "open_clip")
"""What some workers need, and then the process that asks for them has most often imported too.

Not diffusers, which counts the GPUs as it is imported: CUDA does not work in forks of a process that has done so.
"""

_READ_AT_IMPORT = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "LD_", "MALLOC_", "PYTHON")
_TRIES = 3
_LENGTH = struct.Struct("!Q")
_STATUS = struct.Struct("!q")

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from simsam_batch.engines.fork_server import serve_forks; connection = serve_forks(int(sys.argv[1])); "
    "from simsam_batch.engines.child import serve; serve(connection)"
)
"""All that the server and the processes forked of it run: the first call returns in these alone."""


class Forked:
    """A process that was forked for this one, which is not its parent.

    Args:
        status: tells its number and, later, how it ended.
        server: it was asked for it.
    """

    def __init__(self, status: Connection, server: _Server) -> None:
        self._status, self._server = status, server
        self._pid: int | None = None
        self._code: int | None = None

    def pid(self, timeout: float) -> int:
        """Its number.

        Raises:
            TimeoutError: it has not started after so many seconds.
            EOFError: it never will.
        """
        if self._pid is None:
            self._pid = self._told(timeout)
        return self._pid

    def wait(self, timeout: float) -> int | None:
        """Its exit code, negative for the signal that killed it; None if the server was lost before it ended.

        Raises:
            TimeoutError: it has not ended after so many seconds.
        """
        try:
            self.pid(timeout)
            if self._code is None:
                self._code = os.waitstatus_to_exitcode(self._told(timeout))
        except EOFError:
            return None
        return self._code

    def kill(self) -> None:
        """Send SIGKILL to its process group, if it has started and not ended."""
        with contextlib.suppress(ProcessLookupError, EOFError, TimeoutError):
            if self._code is None:
                os.killpg(self.pid(timeout=0), signal.SIGKILL)

    def give_up(self) -> None:
        """Nothing is heard of it, though it was killed: have the next ones forked of another server."""
        self._server.end()

    def _told(self, timeout: float) -> int:
        try:
            if not self._status.poll(timeout):
                raise TimeoutError
            number: int = _STATUS.unpack(self._status.recv_bytes())[0]
        except TimeoutError:
            raise
        except OSError:
            raise EOFError from None
        return number


@dataclass(frozen=True, slots=True)
class _Server:
    """The way to a server; the process itself where this one has started it."""

    socket: socket.socket
    process: subprocess.Popen[bytes] | None = None

    def end(self) -> None:
        """Ask it for nothing any more, and end it, stopped or not, if it is this process's own."""
        with _lock:
            for key in [key for key, server in _servers.items() if server is self]:
                del _servers[key]
        self.socket.close()
        if self.process is not None:
            self.process.kill()


_servers: dict[tuple[Any, ...], _Server] = {}
_lock = threading.RLock()


def fork(connection: Connection, environment: Mapping[str, str]) -> Forked:
    """Have a process forked that calls `simsam_batch.engines.child.serve` with its end of a pipe.

    Args:
        connection: the pipe's end; closed here.
        environment: variables beside those of this process.
    """
    whole = {**os.environ, **environment}
    path = [folder or str(Path.cwd()) for folder in sys.path]
    imported = [name for name in _IF_ASKER_HAS if name in sys.modules]
    order = json.dumps([whole, path, str(Path.cwd()), imported]).encode()
    status, theirs = multiprocessing.Pipe(duplex=False)
    key = _key(whole, path)
    with connection, theirs, Path(os.devnull).open("wb") as nowhere, _lock:
        streams = [number if _is_open(number) else nowhere.fileno() for number in (1, 2)]
        descriptors = [connection.fileno(), theirs.fileno(), *streams]
        for _ in range(_TRIES):
            if key not in _servers:
                _servers[key] = _start(whole, path)
            server = _servers[key]
            try:
                socket.send_fds(server.socket, [_LENGTH.pack(len(order))], descriptors)
                server.socket.sendall(order)
            except OSError:  # it was lost, and another takes its place
                server.end()
            else:
                break
    return Forked(status, server)


def _key(environment: Mapping[str, str], path: list[str]) -> tuple[Any, ...]:
    return (*sorted(item for item in environment.items() if item[0].startswith(_READ_AT_IMPORT)), *path)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _start(environment: Mapping[str, str], path: list[str]) -> _Server:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
            [sys.executable, "-c", _BOOT, str(theirs.fileno()), json.dumps(path)],
            pass_fds=(theirs.fileno(),),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
    return _Server(ours, process)


# A process forked elsewhere, without an exec, would speak to the servers of its parent, and both at once.
os.register_at_fork(after_in_child=_servers.clear)


def serve_forks(descriptor: int) -> int:
    """The server's side: it ends when whoever started it does, and returns in the processes forked of it alone.

    Returns:
        In the new process: the descriptor of its end of the pipe. Called by the program above only.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        # a function, and not SIG_IGN, which programs started from here would inherit
        signal.signal(number, lambda *_: None)
    _import(_IMPORTED)
    return _Forking(socket.socket(fileno=descriptor)).run()


def _import(names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(Exception):
            import_module(name)
    gc.freeze()


class _Forking:
    """What a server has open: all of it is closed in the processes that are forked of it."""

    def __init__(self, owner: socket.socket) -> None:
        self._owner = owner
        self._woken, waker = socket.socketpair()
        for each in (self._woken, waker):
            each.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        self._waker = waker
        self._selector = selectors.DefaultSelector()
        for each in (owner, self._woken):
            self._selector.register(each, selectors.EVENT_READ)
        self._statuses: dict[int, Connection] = {}

    def run(self) -> int:
        """Fork whenever it is asked for; returns in the new processes alone, with their end of the pipe."""
        while True:
            for key, _ in self._selector.select():
                asking = key.fileobj
                assert isinstance(asking, socket.socket)  # noqa: S101  nothing else is registered
                if asking is self._woken:
                    self._reap()
                    continue
                order = _order(asking)
                if order is not None:
                    connection = self._forked(*order)
                    if connection is not None:
                        return connection
                elif asking is self._owner:
                    os._exit(0)
                else:
                    self._selector.unregister(asking)
                    asking.close()

    def _forked(self, order: bytes, descriptors: list[int]) -> int | None:
        *given, imported = json.loads(order)
        _import(name for name in imported if name not in sys.modules)
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._close()
            return _become(given, descriptors, theirs)
        theirs.close()
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        connection, status, output, errors = descriptors
        for each in (connection, output, errors):
            os.close(each)
        self._statuses[pid] = Connection(status, readable=False)
        self._tell(pid, pid)
        self._selector.register(ours, selectors.EVENT_READ)
        return None

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                self._tell(*found)
                self._statuses.pop(found[0]).close()

    def _tell(self, pid: int, what: int) -> None:
        with contextlib.suppress(OSError):  # nobody wants to know any more
            self._statuses[pid].send_bytes(_STATUS.pack(what))

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for key in [*self._selector.get_map().values()]:
            assert isinstance(key.fileobj, socket.socket)  # noqa: S101  as above
            key.fileobj.close()
        self._selector.close()
        self._waker.close()
        for status in self._statuses.values():
            status.close()


def _order(asking: socket.socket) -> tuple[bytes, list[int]] | None:
    """What is asked for, and the descriptors sent with it; None if nothing will be any more."""
    try:
        header, descriptors, _, _ = socket.recv_fds(asking, _LENGTH.size, 4)
        if len(header) < _LENGTH.size:
            return None
        missing, parts = _LENGTH.unpack(header)[0], []
        while missing:
            parts.append(asking.recv(missing))
            if not parts[-1]:
                return None
            missing -= len(parts[-1])
    except OSError:
        return None
    return b"".join(parts), descriptors


def _become(given: list[Any], descriptors: list[int], server: socket.socket) -> int:
    """In the new process: take on what it was given; returns its end of the pipe."""
    environment, path, folder = given
    connection, status, output, errors = descriptors
    os.setpgid(0, 0)
    for stream, own in ((output, 1), (errors, 2)):
        os.dup2(stream, own)
        os.close(stream)
    os.close(status)
    os.environ.clear()
    os.environ.update(environment)
    with contextlib.suppress(OSError):  # it may be gone, as it may be for the process that asks
        os.chdir(folder)
    sys.path[:] = path
    # its own children are forked of the same server
    _servers[_key(environment, path)] = _Server(server)
    return connection
