"""Write simsam_batch/viewer/words.json from the tables of columns: python docs/write_column_words.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

DOCS = Path(__file__).parent
WORDS = DOCS.parent / "simsam_batch" / "viewer" / "words.json"
PAGES = ("output.md", "probes.md", "correspond.md")

STAGES = {
    "": ["segment"],
    "clusters": ["clusters", "patch-clusters", "node-clusters"],
    "label maps": ["semantic"],
    "trees": ["hierarchy"],
}
"""Of the tables that are not called by their stage."""

_TABLE = re.compile(r"^\| column(?: of ([\w -]+))? \| type \| meaning \|\n\|[ -|]*\n((?:\|.*\n)+)", re.MULTILINE)
_ROW = re.compile(r"^\| `(\w+)` \| .*? \| (.*) \|$", re.MULTILINE)


def words() -> dict[str, dict[str, str]]:
    """By stage and column its meaning, as plain text."""
    found: dict[str, dict[str, str]] = {}
    # what "as above" says again
    above: dict[str, str] = {}
    for page in PAGES:
        for name, rows in _TABLE.findall((DOCS / page).read_text(encoding="utf-8")):
            of_table, last = {}, ""
            for column, meaning in _ROW.findall(rows):
                text = _plain(meaning)
                if text.startswith("as above"):
                    text = above[column] + text.removeprefix("as above")
                of_table[column] = last = last if text == "likewise" else text
            above |= of_table
            for stage in STAGES.get(name, [name]):
                found[stage] = of_table
    return found


def _plain(text: str) -> str:
    """Markdown without its marks; of a link its words."""
    return re.sub(r"\s*\(\[how well\]\([^)]*\)\)|\[([^]]*)\]\([^)]*\)|`", lambda found: found[1] or "", text)


def written() -> str:
    """The file."""
    return json.dumps(words(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    WORDS.write_text(written(), encoding="utf-8")
