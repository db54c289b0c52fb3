"""What is asked of a YAML text before it is read: a few lines of it can stand for more than any memory holds."""

from __future__ import annotations

import yaml

_SHOWN = 60


def check_written_out(text: str, *, deepest: int) -> None:
    """Refuse what readers of YAML make something else of than stands there, or far more.

    That is aliases, of which a few lines refer to each other for billions of values; deep nesting; and a key that a
    mapping has twice, of which a reader keeps the last one without a word. Nothing is built: only the parser's events
    are looked at.

    Args:
        text: of a YAML file.
        deepest: levels of lists and mappings that are read, the outermost one counted.

    Raises:
        yaml.YAMLError: the text has one of these, or is not YAML.
    """
    inside: list[_Mapping | None] = []
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.NodeEvent) and inside and (mapping := inside[-1]) is not None:
            mapping.take(event)
        if isinstance(event, yaml.MappingStartEvent):
            inside.append(_Mapping())
        elif isinstance(event, yaml.SequenceStartEvent):
            inside.append(None)
        elif isinstance(event, yaml.CollectionEndEvent):
            inside.pop()
        if isinstance(event, yaml.AliasEvent) or len(inside) > deepest:
            raise yaml.YAMLError(f"aliases (*name) and more than {deepest} levels are not read; write each value out")


class _Mapping:
    """The keys of a mapping, as they come in turn with its values."""

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._is_key = True

    def take(self, event: yaml.NodeEvent) -> None:
        """Take note of a key or a value."""
        if self._is_key and isinstance(event, yaml.ScalarEvent):
            key = event.value
            if key in self._keys:
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise yaml.YAMLError(f"line {line}: {key[:_SHOWN]!r} is there twice; keep one of the two")
            self._keys.add(key)
        self._is_key = not self._is_key
