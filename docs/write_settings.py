"""Write docs/settings.md from the settings of the commands, as they are declared: python docs/write_settings.py."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from simsam_batch.settings import Settings, allowed, kind_of
from simsam_batch.stages.hierarchy.settings import HierarchySettings
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.stages.semantic.settings import SemanticSettings

PAGE = Path(__file__).with_name("settings.md")

HEAD = """# Settings of `simsam segment`, `semantic` and `hierarchy`

Written from `simsam_batch/settings/` and `simsam_batch/stages/*/settings.py` by `make docs`; change it there. Every
setting is a flag and, by the name in the first column, a line of a YAML file for `--config`. A flag wins over the file,
the file over a `--preset`. `--print-config` prints what all of it comes down to and stops.

There are three kinds:

- **result**: changes the numbers. A run is continued only with equal ones; the differences are listed otherwise.
- **input**: what the run is about, fixed with its plan, as IMAGES is. A run is continued only with equal ones; a
  `shard_size` left at 0 goes with any.
- **operation**: how the work is done. May differ each time. (`weights` and `class_names` are among them because they
  are only places: the digest of the weights and the names found there are kept like result settings.)

Those of `segment` come first, then those that only `semantic` has, then those that only `hierarchy` has.
"""

ALONE_HEAD = """# Settings of `simsam {command}` alone

They come on top of those of `segment`, or stand in their place; it has no {left_out}.
"""

PRESET_HEAD = """# Presets

`--preset NAME` sets what a published method does. A cell is what the preset changes; an empty one is the default.
"""


def settings_page() -> str:
    """The page's text."""
    shared = SegmentSettings.model_fields
    parts = [HEAD, *_sections(SegmentSettings, shared)]
    every = list(shared)
    for command, model in (("semantic", SemanticSettings), ("hierarchy", HierarchySettings)):
        fields = model.model_fields
        left_out = ", ".join(f"`{name}`" for name in shared if name not in fields)
        alone = [name for name, field in fields.items() if name not in shared or _differs(field, shared[name])]
        parts += [ALONE_HEAD.format(command=command, left_out=left_out), *_sections(model, alone)]
        every += [name for name in alone if name not in every]
    presets: dict[str, dict[str, Any]] = {}
    for each in (SegmentSettings, SemanticSettings, HierarchySettings):
        for name, values in each.presets.items():
            presets.setdefault(name, {}).update(values)
    changed = [name for name in every if any(name in preset for preset in presets.values())]
    table = [_row(["setting", *(f"`{name}`" for name in presets)]), _rule(len(presets) + 1)]
    table += [_row([f"`{name}`", *(_value(preset.get(name)) for preset in presets.values())]) for name in changed]
    return "\n".join([*parts, PRESET_HEAD, *table, ""])


def _differs(one: FieldInfo, other: FieldInfo) -> bool:
    return (one.default, one.description) != (other.default, other.description)


def _sections(model: type[Settings], names: Iterable[str]) -> list[str]:
    """A heading and a table for each section of ``--help``."""
    sections: dict[str, list[str]] = {}
    for name in names:
        field = model.model_fields[name]
        flag = f"`--{name.replace('_', '-')}`"
        if isinstance(field.default, bool):
            flag += f", `--no-{name.replace('_', '-')}`"
        cells = [f"`{name}`", flag, _value(field.default), allowed(field), kind_of(field), field.description]
        sections.setdefault(model.section_of(name), []).append(_row(cells))
    parts = []
    for title, rows in sections.items():
        parts.append(f"## {title}\n")
        parts.append("\n".join([_row(["name", "flag", "default", "allowed", "kind", "what it is"]), _rule(6), *rows]))
        parts.append("")
    return parts


def _value(value: Any) -> str:
    if value is None or value == ():
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _row(cells: list[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _rule(columns: int) -> str:
    return "|" + " --- |" * columns


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
