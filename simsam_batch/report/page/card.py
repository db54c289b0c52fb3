"""The dataset card: fields that people fill in a file beside the page, which is never overwritten."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import yaml

from simsam_batch.errors import SettingsError
from simsam_batch.storage import Folder
from simsam_batch.yaml_text import check_written_out

NAME = "report/card.yaml"

FIELDS = {
    "title": "Title",
    "description": "What the images show",
    "source": "Where they come from",
    "collected": "When and how they were collected",
    "licence": "Licence",
    "licence_url": "Text of the licence",
    "rights": "Rights holders and attribution",
    "people": "People in the images, consent, personal data",
    "selection": "How they were chosen, what is left out",
    "truth": "Where the truth comes from",
    "uses": "What the results are for",
    "limits": "What they are not for, known faults",
    "contact": "Whom to ask",
}
"""Keys of the file with their names on the page, in its order."""

_LONGEST, _LONGEST_CAUSE = 1_000_000, 500


@dataclass(frozen=True, slots=True)
class Card:
    """What the file says.

    Attributes:
        fields: name on the page and the lines of its text, none where nothing was filled in.
        filled: how many have a text.
    """

    fields: list[tuple[str, list[str]]]
    filled: int


def dataset_card(out: Folder) -> Card:
    """The card of a run; its file is made with empty fields if it is not there.

    Further keys of the file are shown under their own names, after the others.

    Raises:
        SettingsError: the file is no YAML of texts; says where.
        StorageError: the storage did not answer.
    """
    blank = files("simsam_batch.report.page").joinpath("card.yaml").read_bytes()
    text = blank if out.create(NAME, blank) else out.read(NAME)
    held = _read(text, f"{out.url}/{NAME}")
    names = FIELDS | {key: key for key in held if key not in FIELDS}
    fields = [(name, held.get(key, "").splitlines()) for key, name in names.items()]
    return Card(fields, sum(bool(lines) for _, lines in fields))


def _read(content: bytes, where: str) -> dict[str, str]:
    mend = "To mend it: write 'field: text' on each line, or delete the file for an empty one"
    try:
        text = content[:_LONGEST].decode("utf-8")
        check_written_out(text, deepest=1)
        held = yaml.safe_load(text)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{where} is not YAML: {' '.join(str(error).split())[:_LONGEST_CAUSE]}. {mend}") from error
    if not isinstance(held, dict):
        raise SettingsError(f"{where} holds no fields. {mend}")
    return {str(key): "" if value is None else str(value).strip() for key, value in held.items()}
