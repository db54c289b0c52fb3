"""Write docs/settings.md from the settings of the commands, as they are declared: python docs/write_settings.py."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from simsam_batch.features.names import ALIASES, ARCHITECTURES
from simsam_batch.settings import Settings, allowed, kind_of
from simsam_batch.stages.registry import COMMANDS

PAGE = Path(__file__).with_name("settings.md")

HEAD = """# Settings of {commands}

Written from `simsam_batch/settings/` and `simsam_batch/stages/*/settings.py` by `make docs`; change it there. Every
setting is a flag and, by the name in the first column, a line of a YAML file for `--config`. A flag wins over the file,
the file over a `--preset`. `--print-config` prints what all of it comes down to and stops; `--print-config --changed`
prints only what is no default, which is all that a file needs to hold. A command's `--help` has examples and what is
most used, its `--help-all` everything.

There are three kinds:

- **result**: changes the numbers. A run is continued only with equal ones; the differences are listed otherwise.
- **input**: what the run is about, fixed with its plan, as IMAGES is. A run is continued only with equal ones; a
  `shard_size` left at 0 goes with any.
- **operation**: how the work is done. May differ each time. (`weights` and `class_names` are among them because they
  are only places: the digest of the weights and the names found there are kept like result settings.)

Those of `{first}` come first, then for each other command those that it alone has.
"""

ALONE_HEAD = """# Settings of `simsam {command}` alone

They come on top of those of `{first}`, or stand in their place; it lacks {left_out}.
"""

BACKBONES_HEAD = """# Backbones

`--backbone` takes the name of any plain ViT of timm, with or without its tag, and these. A run records the name in the
first column, so that it goes on under each of the others; `timm/NAME` and `hf-hub:timm/NAME` are `NAME`. Weights are
fetched by timm, or read from `--weights FILE`; those of iBOT are always a file, and prepared as DINO's by that name.
"""

PRESET_HEAD = """# Presets

`--preset NAME` sets what a published method does. A cell is what the preset changes; an empty one is the default.
"""


def settings_page() -> str:
    """The page's text."""
    models = {each.name: each.settings() for each in COMMANDS}
    (first, base), *others = models.items()
    shared = base.model_fields
    commands = _listed([f"`simsam {first}`", *(f"`{name}`" for name, _ in others)])
    parts = [HEAD.format(commands=commands, first=first), *_sections(base, shared)]
    every = list(shared)
    for command, model in others:
        fields = model.model_fields
        given = {name: field for name, field in fields.items() if name not in model.not_given()}
        alone = [name for name, field in given.items() if name not in shared or _differs(field, shared[name])]
        parts.append(ALONE_HEAD.format(command=command, first=first, left_out=_left_out(base, model)))
        parts += _sections(model, alone)
        every += [name for name in alone if name not in every]
    presets: dict[str, dict[str, Any]] = {}
    for model in models.values():
        for name, values in model.presets.items():
            presets.setdefault(name, {}).update(values)
    changed = [name for name in every if any(name in preset for preset in presets.values())]
    table = [_row(["setting", *(f"`{name}`" for name in presets)]), _rule(len(presets) + 1)]
    table += [_row([f"`{name}`", *(_value(preset.get(name)) for preset in presets.values())]) for name in changed]
    return "\n".join([*parts, BACKBONES_HEAD, *_backbones(), "", PRESET_HEAD, *table, ""])


def _backbones() -> list[str]:
    """A table of the names that networks have."""
    known: dict[str, list[str]] = {name: [] for name in ARCHITECTURES}
    for alias, name in ALIASES.items():
        known.setdefault(name, []).append(alias)
    rows = [_row([f"`{name}`", ", ".join(f"`{alias}`" for alias in aliases)]) for name, aliases in known.items()]
    return [_row(["recorded as", "may be called"]), _rule(2), *rows]


def _left_out(base: type[Settings], model: type[Settings]) -> str:
    """What a command lacks of the first one's settings: single ones, and sections of which it has nothing."""
    sections: dict[str, list[str]] = {}
    without = model.not_given()
    for name in base.model_fields:
        sections.setdefault(base.section_of(name), []).append(name)
    missing = {
        title: [name for name in names if name not in model.model_fields or name in without]
        for title, names in sections.items()
    }
    whole = [title for title, names in missing.items() if names == sections[title]]
    single = [f"`{name}`" for title, names in missing.items() if title not in whole for name in names]
    if whole:
        single.append(f"all of {_listed(whole)}")
    return ", ".join(single) or "none of them"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


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
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _row(cells: list[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _rule(columns: int) -> str:
    return "|" + " --- |" * columns


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
