"""What a setting may be, what was given instead and what was probably meant, in words for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from simsam_batch.errors import did_you_mean

_SHOWN = 200
_LISTS: Mapping[Any, str] = {int: "a list of whole numbers", str: "a list of texts"}
_WORDS: Mapping[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def allowed(field: FieldInfo) -> str:
    """What a setting may be."""
    text = _words(field.annotation)
    for limit in field.metadata:
        for name, phrase in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
            if (bound := getattr(limit, name, None)) is not None:
                text += f", {phrase} {bound:g}"
    return text


def _words(annotation: Any) -> str:
    """What a value of a type is."""
    options = [each for each in get_args(annotation) if each is not type(None)]
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, options))
    if get_origin(annotation) is tuple:
        return _LISTS.get(options[0]) or f"a list of {_words(options[0])}"
    if options and options[0] not in _WORDS:
        return _words(options[0])
    return _WORDS.get(options[0] if options else annotation, "text")


def _choices(annotation: Any) -> list[str]:
    """The words that a setting is one of, or a list of; none where it is anything else."""
    if get_origin(annotation) is Literal:
        return [str(each) for each in get_args(annotation)]
    options = [each for each in get_args(annotation) if each is not type(None)]
    return _choices(options[0]) if options else []


def shown(value: object) -> str:
    """A value as it was given, or its beginning."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # numbers of thousands of digits, and lists in lists in lists, have no text
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def explained(fields: Mapping[str, FieldInfo], problem: Any) -> str:
    """One of pydantic's problems with some values: the setting, what was given, what is allowed."""
    if not problem["loc"]:
        return str(problem["ctx"]["error"])
    key = str(problem["loc"][0])
    if key not in fields:
        return f"{shown(key)}: unknown setting{did_you_mean(key, fields)}"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    given = problem["input"]
    guess = did_you_mean(given, _choices(fields[key].annotation)) if isinstance(given, str) else ""
    return f"{key}: {shown(given)} is not allowed; it is {allowed(fields[key])}{guess}"
