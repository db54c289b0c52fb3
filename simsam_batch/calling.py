"""The commands that compute as functions of Python: ``simsam_batch.segment`` and its siblings, made from the catalogue.

Each takes the settings of its command by their names, checks them as the command line does, computes with the same
operation, and returns the run, opened.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from simsam_batch import operations
from simsam_batch.errors import SettingsError, did_you_mean
from simsam_batch.results.run import Run
from simsam_batch.settings import RunSettings, allowed, read_yaml, resolve
from simsam_batch.stages.registry import COMMANDS, Command
from simsam_batch.telling.console import reporter

_BESIDE = ("preset", "config")
_NAMES: Mapping[str, str] = {"features": "extract_features"}
"""By the command: ``simsam_batch.features`` is a room of this package."""


def functions() -> dict[str, Command]:
    """The names of the functions, and the command that each of them is."""
    return {_NAMES.get(each.name, each.name.replace(" ", "_")): each for each in COMMANDS}


@cache
def function(name: str) -> Callable[..., Run]:
    """One of the functions.

    Raises:
        KeyError: there is none of this name.
    """
    command = functions()[name]
    model = command.settings()

    def compute(*places: Any, **settings: Any) -> Run:
        return _computed(command, name, places, settings)

    compute.__name__ = compute.__qualname__ = name
    # where it is imported from, so that it can be pickled
    compute.__module__ = "simsam_batch"
    compute.__doc__ = _text(command, model)
    compute.__signature__ = _signature(model)  # type: ignore[attr-defined]
    return compute


def _computed(command: Command, name: str, places: tuple[Any, ...], settings: dict[str, Any]) -> Run:
    """Do what a command does, and open the run."""
    model = command.settings()
    where = model.arguments()
    call = f"simsam_batch.{name}({', '.join(where)}, ...)"
    if len(places) > len(where):
        raise SettingsError(
            f"{name}: only {', '.join(where)} go without a name. To mend it: give settings by their names, {call}"
        )
    twice = [each for each, _ in zip(where, places, strict=False) if each in settings]
    if twice:
        raise SettingsError(f"{name}: {', '.join(twice)} is given twice. To mend it: give it once, {call}")
    given = {each: _plain(value) for each, value in (dict(zip(where, places, strict=False)) | settings).items()}
    known = [*where, *_BESIDE, *model.given_by_name()]
    unknown = [each for each in given if each not in known and each not in model.not_given()]
    if unknown:
        raise SettingsError(
            *(f"{each!r}: unknown setting of {name}{did_you_mean(each, known)}" for each in unknown),
            f"To mend it: give another name or none; help(simsam_batch.{name}) lists all",
        )
    for each in where:
        if not _names_something(given.get(each), several=each == "images"):
            what = "is missing" if each not in given else f"{given[each]!r} is no path or URL"
            raise SettingsError(f"{name}: {each} {what}. To mend it: give it, {call}")
    images, out, config = given.pop("images", None), given.pop("out"), given.pop("config", None)
    if given.get("preset") is None:
        given.pop("preset", None)
    file = None if config is None else read_yaml(config, f"config {config}")
    chosen = resolve(model, given, file, f"config {config}")
    with reporter(chosen.log_format, quiet=chosen.quiet) as report:
        operations.run(command.name, images, out, chosen, report)
    return Run(out)


def _names_something(value: Any, *, several: bool) -> bool:
    """Whether it is a path or URL, or several where there may be several."""
    each = value if several and isinstance(value, list) else [value]
    return bool(each) and all(isinstance(path, str) for path in each)


def _plain(value: Any) -> Any:
    """What settings are made of: paths as text, numbers of NumPy as Python's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    return [_plain(each) for each in value] if isinstance(value, list | tuple | range | np.ndarray) else value


def _signature(model: type[RunSettings]) -> inspect.Signature:
    place, named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    kinds = {"images": str | Sequence[str]}
    parameters = [inspect.Parameter(each, place, annotation=kinds.get(each, str)) for each in model.arguments()]
    beside = [inspect.Parameter(each, named, default=None, annotation=str | None) for each in _beside(model)]
    settings = [
        inspect.Parameter(each, named, default=field.default, annotation=field.annotation)
        for each in model.given_by_name()
        for field in [model.model_fields[each]]
    ]
    return inspect.Signature([*parameters, *beside, *settings], return_annotation=Run)


def _beside(model: type[RunSettings]) -> list[str]:
    return [each for each in _BESIDE if each != "preset" or model.presets]


def _text(command: Command, model: type[RunSettings]) -> str:
    """What ``help`` says of it."""
    about = {
        "images": "a folder, a list, a table, or a dataset by name, as a path or any fsspec URL; or several of them.",
        "out": "folder of the run, likewise; nothing is written outside it. Call it again to go on.",
        "probe_run": "OUT of a finished ``simsam probe``, whose fits are applied.",
        "preset": f"a published method's whole set of settings: {', '.join(model.presets)}.",
        "config": "YAML file of settings. What is given here wins over it, and it over the preset.",
    }
    lines = [f"    {each}: {about[each]}" for each in (*model.arguments(), *_beside(model))]
    for each in model.given_by_name():
        field = model.model_fields[each]
        lines.append(f"    {each}: {field.description} ({allowed(field)})")
    return "\n".join(
        [
            *(
                command.summary,
                "",
                f"It is ``simsam {command.name}`` with the same settings; see ``docs/python.md``.",
                "",
            ),
            *("Args:", *lines, ""),
            *("Returns:", "    The run, opened; images that failed are rows of it that say why.", ""),
            *("Raises:", "    SettingsError: the input or a setting cannot be used, or ``out`` holds another run."),
            "    StorageError: ``images`` cannot be listed or ``out`` cannot be written.",
            "    RunError: workers cannot be kept alive, or shards could not be committed.",
        ]
    )
