"""How a command says what its stages are: a generator that is sent the result of each before it makes the next."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from simsam_batch.runs.plan import Plan
from simsam_batch.stages.base import CommandStage
from simsam_batch.storage import Folder


class Job(Protocol):
    """A run that is ready for its stages, as a command sees it."""

    @property
    def folder(self) -> Folder:
        """OUT."""
        ...

    @property
    def plan(self) -> Plan:
        """Of the images."""
        ...

    @property
    def settings(self) -> Any:
        """Of the command."""
        ...

    @property
    def resolved(self) -> dict[str, Any]:
        """What the models came down to."""
        ...

    def note(self, text: str) -> None:
        """Tell something worth knowing."""
        ...


Stages = Generator[CommandStage[Any], Mapping[str, Any], None]
"""Yields a stage, and is sent what ``results/<stage>.json`` of it holds."""


def _nothing(settings: Any, models: Mapping[str, Any] | None = None) -> None:
    del settings, models


def _nothing_loaded(settings: Any, role: str, model: Any) -> None:
    del settings, role, model


def _none(settings: Any) -> Sequence[str]:
    del settings
    return ()


def _as_given(settings: Any, out: str) -> Any:
    del out
    return settings


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a command.

    Attributes:
        stages: makes them, one after the other.
        result: name of the stage whose result is that of the command.
        roles: models that its workers need, by their roles (`simsam_batch.workers.models`).
        complete: given the settings as they were given, and OUT, makes those of the run; refuses what cannot be right
            by a `simsam_batch.errors.SettingsError`. It is asked once, before anything else.
        check: given the settings, refuses what cannot be right by a `simsam_batch.errors.SettingsError`, before
            anything is listed, fetched or written.
        check_loaded: the same, given too a role and its model, while that is loaded.
        check_models: the same, given too what the models came down to by role; before anything is written.
        idle: given the settings, the names of stages of the command that it will not begin.
        before_first: called before any work of a stage that has none done yet.
    """

    stages: Callable[[Job], Stages]
    result: str
    roles: Sequence[str] = ("backbone",)
    complete: Callable[[Any, str], Any] = _as_given
    check: Callable[[Any], None] = _nothing
    check_loaded: Callable[[Any, str, Any], None] = _nothing_loaded
    check_models: Callable[[Any, Mapping[str, Any]], None] = _nothing
    idle: Callable[[Any], Sequence[str]] = _none
    before_first: Callable[[Job, CommandStage[Any]], None] | None = None
