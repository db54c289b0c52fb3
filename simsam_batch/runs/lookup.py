"""The numbers of rows whose image ids are known, from the plan's column of ids alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simsam_batch.errors import SettingsError
from simsam_batch.runs.plan import Plan, image_ids_of

_NAMED = 5


def row_numbers(plan: Plan, image_ids: Sequence[str]) -> list[int]:
    """Where images stand in a plan, from 0: the numbers by which `simsam_batch.runs.reading` knows their rows.

    One pass over the ids of the plan, which ends with the last one that was looked for; memory holds a row group.

    Args:
        plan: of the run.
        image_ids: in any order; an id may come more than once.

    Raises:
        SettingsError: the run has no such image, or an id is no text.
        RunError: the plan cannot be read.
        StorageError: the storage did not answer.
    """
    try:
        wanted = sorted(set(image_ids))
        values = pa.array(wanted, pa.string())
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise SettingsError(f"image_ids: an id is no text: {error}. To mend it: give ids as in the column") from error
    numbers = np.full(len(wanted), -1, dtype=np.int64)
    first, start = "", 0
    for ids in image_ids_of(plan):
        if not (numbers < 0).any():
            break
        first = first or ids[0].as_py()
        places = pc.index_in(ids, values)
        found = np.flatnonzero(places.is_valid().to_numpy(zero_copy_only=False))
        numbers[places.drop_null().to_numpy()] = start + found
        start += len(ids)
    missing = [wanted[place] for place in np.flatnonzero(numbers < 0)]
    if missing:
        named = ", ".join(map(repr, missing[:_NAMED])) + (" and others" if len(missing) > _NAMED else "")
        raise SettingsError(
            f"image_id: {plan.out.url} has no image {named}. To mend it: give ids as in the column image_id, such as "
            f"{first!r}"
        )
    of = dict(zip(wanted, numbers.tolist(), strict=True))
    return [of[image_id] for image_id in image_ids]
