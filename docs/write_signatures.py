"""Write simsam_batch/__init__.pyi, the types of the package, from the settings: python docs/write_signatures.py."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import simsam_batch
from simsam_batch.calling import functions
from simsam_batch.settings import RunSettings

PAGE = Path(simsam_batch.__file__).with_name("__init__.pyi")

HEAD = '''"""Object masks, eigenvectors and scores from frozen vision transformers over whole image collections.

Written from `simsam_batch/settings/` and `simsam_batch/stages/*/settings.py` by `make docs`; change it there.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Literal

from simsam_batch.results.run import Run as Run
from simsam_batch.results.run import open_run as open_run

__version__: str
__all__: list[str]
'''

_PLACES = ("root", "truth", "label_hierarchy", "class_names")
"""Settings that name a file or folder, beside those that are declared as places."""


def stub() -> str:
    """The file's text."""
    return "\n".join([HEAD, *(_function(name) for name in functions())])


def _function(name: str) -> str:
    model = functions()[name].settings()
    several = {"images": " | Sequence[str | PathLike[str]]"}
    lines = [f"    {each}: str | PathLike[str]{several.get(each, '')}," for each in model.arguments()]
    lines.append("    *,")
    if model.presets:
        lines += _parameter("preset", f"Literal[{', '.join(map(_quoted, model.presets))}] | None", "None")
    lines += _parameter("config", "str | PathLike[str] | None", "None")
    for each in model.given_by_name():
        field = model.model_fields[each]
        lines += _parameter(each, _type(each, field.annotation, model), _value(field.default))
    about = functions()[name].summary
    about += f"\n\n    help(simsam_batch.{name}) says what each setting does, as docs/settings.md."
    return "\n".join([f"def {name}(", *lines, ") -> Run:", f'    """{about}"""', ""])


def _parameter(name: str, kind: str, default: str) -> list[str]:
    return [f"    {name}: {kind} = {default},"]


def _type(name: str, annotation: Any, model: type[RunSettings]) -> str:
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return f"Literal[{', '.join(map(_quoted, parts))}]"
    if get_origin(annotation) is tuple:
        inner = _type(name, parts[0], model)
        return f"{inner} | Sequence[{inner}]"
    if get_origin(annotation) is dict:
        return "Mapping[str, str]"
    if parts:
        return " | ".join(_type(name, each, model) for each in parts)
    if annotation is NoneType:
        return "None"
    if annotation is str and name in (*model.places(), *_PLACES):
        return "str | PathLike[str]"
    return str(annotation.__name__)


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_quoted, value))}{',' if len(value) == 1 else ''})"
    return _quoted(value)


if __name__ == "__main__":
    PAGE.write_text(stub(), encoding="utf-8")
