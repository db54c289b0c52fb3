"""The stored features of an image: which rows say where they are, and the arrays that were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from simsam_batch.errors import SettingsError
from simsam_batch.runs.reading import attachments_of
from simsam_batch.runs.schema import IMAGE, File
from simsam_batch.storage import Folder

PLACE = ["image_id", "arrays_path", "arrays_member", "arrays_offset", "arrays_bytes"]
"""Columns that say where the features of an image lie."""


def features_at(out: Folder, place: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, NDArray[Any]]:
    """The features of one image by name, as they are stored, by one range request.

    Args:
        out: the run's folder.
        place: the columns `PLACE` of its row.
        names: of arrays, in this order; None: all.

    Raises:
        SettingsError: a name is none of the image's arrays.
        RunError: the arrays are not there or cannot be read.
        StorageError: the storage did not answer.
    """
    attached = attachments_of(out, place, IMAGE)
    found = {name: array for name, array in attached.items() if not isinstance(array, File)}
    if names is None:
        return found
    if isinstance(names, str):
        raise SettingsError(f"names: {names!r} is one name. To mend it: put it into a list")
    missing = [str(name) for name in names if name not in found]
    if missing:
        raise SettingsError(
            f"names: {place['image_id']!r} of {out.url} has no features {', '.join(missing)}; it has {', '.join(found)}"
        )
    return {name: found[name] for name in names}
