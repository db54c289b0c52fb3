"""From a preset, a YAML file and flags to settings, or to one clear refusal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from simsam_batch.errors import SettingsError, did_you_mean
from simsam_batch.settings.declare import Settings, presets_of
from simsam_batch.settings.words import shown
from simsam_batch.yaml_text import check_written_out

T = TypeVar("T", bound=Settings)

_DEEPEST = 8
_LARGEST_FILE = 1 << 20


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
    given = _by_name(model, file or {}, source) | dict(flags)
    preset = given.pop("preset", None)
    if preset is not None and not (isinstance(preset, str) and preset in presets_of(model)):
        guess = did_you_mean(preset, presets_of(model)) if isinstance(preset, str) else ""
        msg = f"preset: {shown(preset)} is not one of {' | '.join(presets_of(model))}{guess}"
        raise SettingsError(msg)
    return model(**(dict(model.presets[preset]) | given if preset is not None else given))


def _by_name(model: type[Settings], file: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The values of a file by field name."""
    found: dict[str, Any] = {}
    for key, value in file.items():
        name = str(key).replace("-", "_")
        if name not in model.model_fields and name != "preset":
            guess = did_you_mean(name, model.model_fields)
            known = guess or f"; known are {', '.join(model.model_fields)}"
            raise SettingsError(f"{source}: unknown setting {shown(name)}{known}")
        if name in found:
            raise SettingsError(f"{source}: {name} is there twice, as '-' and '_' are the same; keep one of the two")
        found[name] = value
    return found


def read_yaml(path: str, source: str | None = None) -> dict[str, Any]:
    """The mapping in a YAML settings file.

    Args:
        path: of the file.
        source: its name for messages; None: as it is given to ``--config``.

    Raises:
        SettingsError: the file cannot be read, is not YAML, holds a key twice, or holds no mapping.
    """
    import yaml

    source = f"--config {path}" if source is None else source
    try:
        # a device has no end
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise ValueError(f"it has more than {_LARGEST_FILE} bytes")
        text = content.decode("utf-8-sig")
        check_written_out(text, deepest=_DEEPEST)
        held = yaml.safe_load(text)
    # beside YAML's own errors, the converters of its tags raise nearly any other
    except Exception as error:
        msg = f"{source}: cannot be read as YAML: {' '.join(str(error).split())[:500] or type(error).__name__}"
        raise SettingsError(msg) from error
    if held is None:
        return {}
    if not isinstance(held, dict):
        msg = f"{source}: expected 'setting: value' lines, found a {type(held).__name__}"
        raise SettingsError(msg)
    return held
