"""Write docs/settings.md from the declarations in simsam_batch/config.py: python docs/write_settings.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from simsam_batch.settings import PRESETS, HierarchySettings, SegmentSettings, SemanticSettings, allowed, extra

PAGE = Path(__file__).with_name("settings.md")

HEAD = """# Settings of `simsam segment`, `semantic` and `hierarchy`

Written from `simsam_batch/config.py` by `make docs`; change it there. Every setting is a flag and, by the name in the
first column, a line of a YAML file for `--config`. A flag wins over the file, the file over a `--preset`.
`--print-config` prints what all of it comes down to and stops.

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
    shared = dict(SegmentSettings.model_fields)
    parts = [HEAD, *_groups(shared)]
    every = dict(shared)
    for command, model in (("semantic", SemanticSettings), ("hierarchy", HierarchySettings)):
        fields = model.model_fields
        left_out = ", ".join(f"`{name}`" for name in shared if name not in fields)
        alone = {name: field for name, field in fields.items() if name not in shared or _differs(field, shared[name])}
        parts += [ALONE_HEAD.format(command=command, left_out=left_out), *_groups(alone)]
        every |= alone
    changed = [name for name in every if any(name in preset for preset in PRESETS.values())]
    table = [_row(["setting", *(f"`{name}`" for name in PRESETS)]), _rule(len(PRESETS) + 1)]
    table += [_row([f"`{name}`", *(_value(preset.get(name)) for preset in PRESETS.values())]) for name in changed]
    return "\n".join([*parts, PRESET_HEAD, *table, ""])


def _differs(one: FieldInfo, other: FieldInfo) -> bool:
    return (one.default, one.description) != (other.default, other.description)


def _groups(fields: dict[str, FieldInfo]) -> list[str]:
    """A heading and a table for each group of settings."""
    groups: dict[str, list[str]] = {}
    for name, field in fields.items():
        flag = f"`--{name.replace('_', '-')}`"
        if isinstance(field.default, bool):
            flag += f", `--no-{name.replace('_', '-')}`"
        cells = [f"`{name}`", flag, _value(field.default), allowed(field), extra(field)["kind"], field.description]
        groups.setdefault(extra(field)["group"], []).append(_row(cells))
    parts = []
    for group, rows in groups.items():
        parts.append(f"## {group}\n")
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
