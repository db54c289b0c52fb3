"""What the rows of a stage can show, in the words that the reading API, exports and the report share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["objects", "labels", "trees"]
"""Object masks; labels that the whole collection shares; region trees."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the rows of one stage show.

    Columns would not tell: those that a run keeps of its input may have the names of another stage's.

    Attributes:
        kind: of what there is to see.
        facts: columns that go with an image as they are, wherever it is handed on.
        eigenvectors: whether the stage keeps eigenvectors among its arrays.
        beside: columns of other stages of the run that belong to a row, by the stage; it may not be there.
        clusters: the stage whose fit the labels come from.
        classes: whether labels are true classes, named under ``truth`` in what the stage was resolved to.
    """

    kind: Kind
    facts: Sequence[str] = ()
    eigenvectors: bool = False
    beside: Mapping[str, Sequence[str]] = field(default_factory=dict)
    clusters: str | None = None
    classes: bool = False
