"""How truth that holds a class for every pixel is read."""

from __future__ import annotations

from simsam_batch.settings.declare import Component, operation, result


class TrueClasses(Component, title="Scores"):
    """What the ids in the truth mean."""

    class_names: str | None = operation(
        None, "text file with a name for each class of the truth, a line each from id 0"
    )
    ignore_label: int = result(-1, "id in the truth that is not scored; -1: none", ge=-1)
