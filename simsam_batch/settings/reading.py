"""From a preset, a YAML file and flags to settings, or to one clear refusal."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from simsam_batch.errors import SettingsError
from simsam_batch.settings.declare import Settings, allowed, presets_of
from simsam_batch.yaml_text import check_written_out

T = TypeVar("T", bound=Settings)

_SHOWN = 200
_DEEPEST = 8


def resolve(
    model: type[T], flags: Mapping[str, Any], file: Mapping[str, Any] | None = None, source: str = "--config"
) -> T:
    """Settings from a preset, a file and flags; flags win over the file, the file over the preset.

    Args:
        model: the settings of a stage.
        flags: values by field name; ``preset`` may be among them.
        file: what a YAML file held, with ``-`` or ``_`` in its keys; ``preset`` may be among them.
        source: name of the file for messages.

    Raises:
        SettingsError: an unknown key or a value that is not allowed; names the key, what was given, what is allowed.
    """
    from_file = {str(key).replace("-", "_"): value for key, value in (file or {}).items()}
    for key in from_file:
        if key not in model.model_fields and key != "preset":
            near = difflib.get_close_matches(key, model.model_fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(model.model_fields)}"
            msg = f"{source}: unknown setting {_shown(key)}{hint}"
            raise SettingsError(msg)
    given = from_file | dict(flags)
    preset = given.pop("preset", None)
    if preset is not None and not (isinstance(preset, str) and preset in presets_of(model)):
        msg = f"preset: {_shown(preset)} is not one of {' | '.join(presets_of(model))}"
        raise SettingsError(msg)
    values = dict(model.presets[preset]) | given if preset is not None else given
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SettingsError(*(_explain(model, problem) for problem in error.errors())) from None


def _explain(model: type[Settings], problem: Any) -> str:
    if not problem["loc"]:
        return str(problem["ctx"]["error"])
    key = str(problem["loc"][0])
    if key not in model.model_fields:
        return f"{key}: unknown setting"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return f"{key}: {_shown(problem['input'])} is not allowed; it is {allowed(model.model_fields[key])}"


def _shown(value: object) -> str:
    """A value as it was given, or its beginning."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # numbers of thousands of digits, and lists in lists in lists, have no text
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping in a YAML settings file.

    Raises:
        SettingsError: the file cannot be read, is not YAML, or holds no mapping.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        check_written_out(text, deepest=_DEEPEST)
        held = yaml.safe_load(text)
    # beside YAML's own errors, the converters of its tags raise nearly any other
    except Exception as error:
        msg = f"--config {path}: cannot be read as YAML: {' '.join(str(error).split())[:500] or type(error).__name__}"
        raise SettingsError(msg) from error
    if held is None:
        return {}
    if not isinstance(held, dict):
        msg = f"--config {path}: expected 'setting: value' lines, found a {type(held).__name__}"
        raise SettingsError(msg)
    return held
