"""The server's process: where it listens, the lines that say how to reach it, and its end."""

from __future__ import annotations

import getpass
import os
import platform
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import uvicorn

from simsam_batch.errors import SettingsError
from simsam_batch.viewer.app import application
from simsam_batch.viewer.flags import close_flags, flags_of
from simsam_batch.viewer.gate import Gate
from simsam_batch.viewer.memory import keep_together
from simsam_batch.viewer.session import Session

PORT = 8765
"""Where it listens if that is free."""

_PORTS_TRIED = 50
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where the server listens, and who may call it.

    Attributes:
        host: address; one that others reach needs a certificate.
        port: None: `PORT`, or the next that is free.
        certificate, key: files for TLS.
        allowed: further names under which browsers may call it, such as that of a proxy.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    certificate: str | None = None
    key: str | None = None
    allowed: Sequence[str] = ()

    def check(self) -> None:
        """Refuse what would show a run to a network in the clear, before anything is read.

        Raises:
            SettingsError: another address than the loopback without TLS, or half of what TLS needs.
        """
        if (self.certificate is None) != (self.key is None):
            raise SettingsError("certificate and key go together. To mend it: give both --certificate and --key")
        for name, given in (("certificate", self.certificate), ("key", self.key)):
            if given is not None and not Path(given).is_file():
                raise SettingsError(f"{name}: there is no file {given}")
        if self.host not in _LOOPBACK and self.certificate is None:
            raise SettingsError(
                f"host: {self.host} can be reached by others, who would read the link's token on its way. To mend it: "
                "leave --host out and come through ssh -L, as the start line says; or give --certificate and --key"
            )


def serve(
    session: Session, listening: Listening, say: Callable[[str], None], *, until_stdin_closes: bool = False
) -> None:
    """Answer until Ctrl-C or SIGTERM; then the flags that are left are written.

    Args:
        session: what is looked at.
        listening: where.
        say: is told line by line how the page is reached.
        until_stdin_closes: end also when standard input ends.

    Raises:
        SettingsError: the address cannot be had, or the certificate cannot be read.
    """
    listening.check()
    keep_together()
    # pyarrow loads pandas with the first array it makes of numbers: rather now than while the first page is waited for
    pa.array([0])
    secure = listening.certificate is not None
    hosts = [*listening.allowed, *([] if listening.host in _LOOPBACK else [listening.host])]
    gate = Gate(application(session), hosts, secure=secure)
    with _socket(listening) as bound:
        port = bound.getsockname()[1]
        config = uvicorn.Config(
            gate,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=3,
            ssl_certfile=listening.certificate,
            ssl_keyfile=listening.key,
        )
        try:
            config.load()
        except OSError as error:
            raise SettingsError(f"certificate, key: they cannot be used: {error}") from error
        flags = flags_of(session)
        for line in start_lines(listening, port, gate.token):
            say(line)
        if flags.why or (isinstance(flags.where, str) and session.options.get("flags")):
            say(f"Flags: {'; '.join(filter(None, [flags.why, flags.where and f'they go to {flags.where}']))}")
        try:
            server = uvicorn.Server(config)
            if until_stdin_closes:
                threading.Thread(target=_end_with_stdin, args=(server,), name="stdin", daemon=True).start()
            server.run([bound])
        finally:
            for line in close_flags(session):
                say(line)


def _end_with_stdin(server: uvicorn.Server) -> None:
    # unbuffered: a thread that waits in a buffered reader stops the interpreter from ending
    while os.read(0, 4096):
        pass
    server.should_exit = True


def start_lines(listening: Listening, port: int, token: str) -> list[str]:
    """How the page is reached: the link, and from another machine the way to it.

    Args:
        listening: where the server listens.
        port: of it.
        token: for the link.
    """
    scheme = "https" if listening.certificate is not None else "http"
    host = f"[{listening.host}]" if ":" in listening.host else listening.host
    lines = [f"Open {scheme}://{host}:{port}/open?token={token}"]
    if listening.host in _LOOPBACK:
        user = _user()
        lines.append(
            f"From another machine first: ssh -N -L {port}:{host}:{port} {user}{platform.node() or 'THIS-MACHINE'}"
        )
    return [*lines, "Ctrl-C ends it. Whoever has the link sees the run."]


def _user() -> str:
    try:
        return f"{getpass.getuser()}@"
    except (OSError, KeyError):
        return ""


@contextmanager
def _socket(listening: Listening) -> Iterator[socket.socket]:
    ports = [listening.port] if listening.port is not None else [*range(PORT, PORT + _PORTS_TRIED), 0]
    fault: OSError | None = None
    for port in ports:
        try:
            family = socket.AF_INET6 if ":" in listening.host else socket.AF_INET
            # named, for asyncio sends small answers at once (TCP_NODELAY) on sockets of this protocol alone: of others
            # each answer in two parts waits 40 ms for the browser to say that it has the first
            bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            if os.name == "posix":
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((listening.host, port))
            bound.listen(128)
        except OSError as error:
            fault = error
            bound.close()
            continue
        with bound:
            yield bound
        return
    raise SettingsError(
        f"host, port: {listening.host}:{listening.port or PORT} cannot be listened at: {fault}. To mend it: give "
        "another --port, or leave it out"
    )
