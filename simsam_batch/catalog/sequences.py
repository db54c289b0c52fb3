"""Which images are frames of one video, as far as their names tell."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

from simsam_batch.formats import SUFFIXES

_SUFFIX = re.compile(rf"(?:{'|'.join(map(re.escape, SUFFIXES))})\Z", re.IGNORECASE)
# More digits are a hash or a serial number, and no frame's.
_FRAME = re.compile(r"(.*[^0-9])([0-9]{1,18})", re.DOTALL)

_FEWEST = 5
"""Frames of a sequence: of fewer, gaps may be alike by chance."""

_STRIDE_SHARE = 0.5
_CONSECUTIVE_SHARE = 0.9
"""Of the gaps of a random part of a numbered list most are 1, too, but hardly so many."""

_NUMBERED_ANEW = 4
"""More than a list of its own for each of train, val and test."""


def sequences_of(ids: Sequence[str]) -> list[str | None]:
    """The sequence that each image is a frame of, by its name; None where the names show none.

    A name is sub-folder and stem up to a number at the end of the stem: ``0016E5_`` of ``0016E5_07959.jpg``, ``bear/``
    of ``bear/00010``. Images of one name are a sequence if all of these hold:

    - There is a name: a number alone, as COCO and BSDS have it, is none.
    - There are 5 numbers or more, and they were counted out in steps: more than half of the gaps between neighbours are
      equal and greater than 1 (every 30th frame), or more than nine tenths are 1 (every frame). Numbers that were
      picked from a longer list, as those of VOC and COCO, have gaps of all sizes, of which 1 is the most frequent.
    - They do not begin where a numbered list does, within the first step from 0; or so many names were counted out,
      4 or more, that the numbering must have begun anew for each. ``horse001`` to ``horse327``, or ADE20K's ``train``
      and ``val``, are lists.

    Names cannot tell everything: one to three videos whose frames are counted from 0 look like lists, and pictures of
    one class in a folder of its own, counted from 1, look like videos, as those of a camera do that never lost one. The
    answer is good for a warning, not for a proof.

    >>> sequences_of(["b_0390.png", "b_0420.png", "b_0450.png", "b_0480.png", "b_0510.png", "other_17.png"])
    ['b_', 'b_', 'b_', 'b_', 'b_', None]

    Args:
        ids: of images, with sub-folders and with or without a suffix; all of a set, not a random part.

    Source: this project.
    """
    names: list[str | None] = []
    numbers: dict[str, set[int]] = defaultdict(set)
    for name in ids:
        frame = _FRAME.fullmatch(_SUFFIX.sub("", name))
        names.append(None if frame is None else frame[1])
        if frame is not None:
            numbers[frame[1]].add(int(frame[2]))
    steps = {name: step for name, held in numbers.items() if (step := _step(sorted(held))) is not None}
    anew = len(steps) >= _NUMBERED_ANEW
    sequences = {name for name, step in steps.items() if anew or min(numbers[name]) > step}
    return [name if name in sequences else None for name in names]


def _step(numbers: list[int]) -> int | None:
    """The step in which sorted numbers were counted out; None if they were not."""
    if len(numbers) < _FEWEST:
        return None
    gaps = Counter(later - earlier for earlier, later in pairwise(numbers))
    step, count = min(gaps.items(), key=lambda gap: (-gap[1], gap[0]))
    share = count / (len(numbers) - 1)
    return step if share > (_CONSECUTIVE_SHARE if step == 1 else _STRIDE_SHARE) else None
