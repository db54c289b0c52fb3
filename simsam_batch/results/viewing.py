"""A run looked at from a notebook: ``simsam view`` as a process of its own, which ends with the one that started it."""

from __future__ import annotations

import html
import logging
import subprocess  # of this package's own command alone
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from simsam_batch.errors import SettingsError
from simsam_batch.storage import redact

_PATIENCE_S = 20.0
_MOST_OF_A_MESSAGE = 10_000

_log = logging.getLogger(__name__)
# a viewer goes on although nobody has kept what started it
_open: set[View] = set()


class View:
    """A viewer that is open; a notebook shows its link.

    Args:
        url: of the run's folder.
        other: of a second run; None: none.
        options: of ``simsam view``; those that are None are left out.

    Attributes:
        url: the link, with its token: whoever has it sees the run.

    Raises:
        SettingsError: it could not start.
    """

    def __init__(self, url: str, other: str | None, options: Mapping[str, Any]) -> None:
        command = [sys.executable, "-m", "simsam_batch", "view", "--until-stdin-closes", *_as_words(options), "--", url]
        self._shown = f"{redact(url)}{'' if other is None else f' beside {redact(other)}'}"
        with tempfile.TemporaryFile() as errors:
            # in a session of its own: what interrupts a cell of a notebook does not end it
            self._process = subprocess.Popen(  # noqa: S603  words, and no shell
                command if other is None else [*command, other],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
            try:
                self.url = self._link(errors)
            except BaseException:
                self.close()
                raise
        _open.add(self)

    def __repr__(self) -> str:
        return f"View({self._shown}, {self.url if self.is_open else 'closed'})"

    def _repr_html_(self) -> str:
        if not self.is_open:
            return f"<p>{html.escape(self._shown)}: closed</p>"
        link = html.escape(self.url)
        return f'<p><a href="{link}" target="_blank" rel="noopener noreferrer">{html.escape(self._shown)}</a></p>'

    @property
    def is_open(self) -> bool:
        """Whether it answers still."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it; flags are written before."""
        _open.discard(self)
        process = self._process
        if process.stdin is not None and not process.stdin.closed:
            # it may have gone already
            with suppress(BrokenPipeError):
                process.stdin.close()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None and not process.stdout.closed:
            for line in process.stdout:
                if "could not be written" in line:
                    _log.warning("%s", line.strip())
            process.stdout.close()

    def _link(self, errors: IO[bytes]) -> str:
        assert self._process.stdout is not None  # noqa: S101  it is a pipe
        for line in self._process.stdout:
            if line.startswith("Open "):
                return line.removeprefix("Open ").strip()
        self._process.wait()
        errors.seek(0)
        said = errors.read(_MOST_OF_A_MESSAGE).decode("utf-8", "replace").strip()
        raise SettingsError(said.removeprefix("simsam: ") or "simsam view ended before it had begun")


def _as_words(options: Mapping[str, Any]) -> list[str]:
    words = []
    for name, given in options.items():
        option = f"--{name.replace('_', '-')}"
        if given is True:
            words.append(option)
        elif isinstance(given, list | tuple):
            words += [f"{option}={each}" for each in given]
        elif given is not None and given is not False:
            words.append(f"{option}={given}")
    return words
