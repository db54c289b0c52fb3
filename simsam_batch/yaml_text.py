"""What is asked of a YAML text before it is read: a few lines of it can stand for more than any memory holds."""

from __future__ import annotations

import yaml


def check_written_out(text: str, *, deepest: int) -> None:
    """Refuse aliases, of which a few lines refer to each other for billions of values, and deep nesting.

    Nothing is built: only the parser's events are looked at.

    Args:
        text: of a YAML file.
        deepest: levels of lists and mappings that are read, the outermost one counted.

    Raises:
        yaml.YAMLError: there are aliases or more levels, or the text is not YAML.
    """
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > deepest:
            raise yaml.YAMLError(f"aliases (*name) and more than {deepest} levels are not read; write each value out")
