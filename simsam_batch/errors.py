"""The one family of exceptions: every message says what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST_WORD = 100


class SimsamError(Exception):
    """Anything this project raises on purpose; of a message of several lines, each is an argument of its own."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))

    @property
    def lines(self) -> tuple[str, ...]:
        """The message by its lines: a line break inside of one is part of what it quotes."""
        has_one = type(self).__str__ is not SimsamError.__str__
        return (str(self),) if has_one else tuple(map(str, self.args))


class SettingsError(SimsamError):
    """A setting, file or combination that cannot run; found before any work is done."""


class StorageError(SimsamError):
    """A read, listing or write that the storage did not carry out; the attempt may be repeated."""


class UnreadableError(StorageError):
    """The storage does not give a file that an image needs; whether the file is at fault, other images tell.

    Attributes:
        uri: of the file.
        refused: no waiting mends it.
    """

    def __init__(self, message: str, uri: str, refused: bool) -> None:
        super().__init__(message, uri, refused)
        self.message = message
        self.uri = uri
        self.refused = refused

    def __str__(self) -> str:
        return self.message


class RunError(SimsamError):
    """A run that cannot start or go on: another run in the same place, workers that die, shards that never commit."""


class DevicePoisonedError(SimsamError):
    """The device refuses this process from now on, as CUDA does after an illegal access; only a fresh one can go on."""


class ImageError(SimsamError):
    """A fault of one image itself. It becomes that image's ``failed`` row and costs no other image.

    Attributes:
        kind: short stable name of the cause, the row's ``error_type`` (``not_an_image``, ``truncated``, ...).
        step: where it was found, the row's ``failed_step`` (``read``, ``decode``, ``resize``, ``solve``, ...).
    """

    def __init__(self, kind: str, message: str, step: str) -> None:
        super().__init__(kind, message, step)
        self.kind = kind
        self.message = message
        self.step = step

    def __str__(self) -> str:
        return self.message


def did_you_mean(given: str, known: Iterable[str], form: str = "{!r}") -> str:
    """The part of a message that guesses what was meant: ``; did you mean 'epochs'?``, or nothing if nothing is near.

    Args:
        given: what was given, in any case.
        known: what there is.
        form: how the guess is written.
    """
    import difflib

    if len(given) > _LONGEST_WORD:
        return ""
    words = {word.lower(): word for word in known}
    near = difflib.get_close_matches(given.lower(), words, n=1)
    return f"; did you mean {form.format(words[near[0]])}?" if near else ""
