"""What a dataset by name knows of its truth; recorded with the plan, read by every later stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

TruthKind = Literal["object", "semantic", "boxes", "partitions"]
"""What truth is: object masks, maps of class ids, boxes, or several partitions of each image."""

BOXES_COLUMN = "truth_boxes"
"""Column of a catalog with the boxes of each image: a list of xmin, ymin, xmax, ymax in pixels, max exclusive; null
where there is no annotation, empty where it has no object."""

SPLIT_COLUMN = "split"
"""Column of a catalog that names the split of each image, where several splits of a dataset were asked for."""


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """The dataset a run is about, and how its truth is meant.

    Attributes:
        name: of the dataset, as in ``NAME:ROOT``.
        split: the part of it, or parts as they were asked for: ``train+val``.
        kind: what the truth is: object masks, maps of class ids, partitions (all at ``truth_uri``), or boxes
            (`BOXES_COLUMN`).
        protocol: name of the evaluation that figures on this set are published with.
        classes: names of the class ids 0, 1, ... of a semantic truth.
        ignore_label: id in a semantic truth that is not scored.
        center_crop: whether the protocol scores only the central square, whose side is the image's shorter one.
        label_hierarchy: name of the hierarchy of the class ids of a semantic truth, if there is one.
    """

    name: str
    split: str
    kind: TruthKind
    protocol: str
    classes: tuple[str, ...] = ()
    ignore_label: int | None = None
    center_crop: bool = False
    label_hierarchy: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The facts as plain JSON values."""
        return asdict(self) | {"classes": list(self.classes)}

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Self:
        """The facts that `to_json` wrote, now or when others were known."""
        known = {field.name: held[field.name] for field in fields(cls) if field.name in held}
        return cls(**known | {"classes": tuple(held["classes"])})


def facts_of(source: Mapping[str, Any]) -> DatasetFacts | None:
    """The dataset that a plan's ``source`` names; None for a folder, a list or a table."""
    held = source.get("dataset")
    return None if held is None else DatasetFacts.from_json(held)


def truth_kind(source: Mapping[str, Any]) -> TruthKind | None:
    """What the truth of a plan's ``source`` is: as its dataset says, else as ``truth_kind`` does.

    None is for image files, of which nobody has said yet whether they are masks or class ids, or for no truth.
    """
    facts = facts_of(source)
    return source.get("truth_kind") if facts is None else facts.kind


def center_crops(source: Mapping[str, Any]) -> bool:
    """Whether scores are to see the central square alone: as ``truth_crop`` says, else the dataset's protocol."""
    choice, facts = source.get("truth_crop", "auto"), facts_of(source)
    return choice == "center" or (choice == "auto" and facts is not None and facts.center_crop)
