"""Outlines of masks as closed polygons, exact to the pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def outline(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """One polygon around all pixels of a mask, its parts and holes included.

    Its corners are corners of pixels, so that it encloses exactly the pixels of the mask by the even-odd rule, that of
    COCO's and OpenCV's rasterisers: a point is inside that an odd number of edges lie to the right of. Parts and
    holes other than the boundary of most corners are joined to that by a line there and back, which encloses nothing.

    Args:
        mask: (H, W).

    Returns:
        (n, 2) corners, x and y in pixels from the image's left and top edge; none of an empty mask.
    """
    rings = sorted(_rings(mask), key=len, reverse=True)
    if len(rings) < 2:
        return rings[0] if rings else np.zeros((0, 2), np.int64)
    from scipy.spatial import KDTree

    main, *others = rings
    nearest = KDTree(main)
    at: dict[int, list[NDArray[np.int64]]] = {}
    for ring in others:
        distances, places = (np.asarray(each) for each in nearest.query(ring))
        first = int(distances.argmin())
        # around the ring, back to where it was reached, and back to the main one
        way = [*np.roll(ring, -first, axis=0), ring[first], main[places[first]]]
        at.setdefault(int(places[first]), []).append(np.array(way))
    parts: list[NDArray[np.int64]] = []
    begun = 0
    for place in sorted(at):
        parts += [main[begun : place + 1], *at[place]]
        begun = place + 1
    return np.concatenate([*parts, main[begun:]])


def outer_rings(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """A polygon around each part of a mask, its holes filled; each part in a hole has one too.

    Corners are corners of pixels, as those of `outline`.

    Args:
        mask: (H, W).

    Returns:
        Of each part (n, 2) corners, x and y in pixels from the image's left and top edge; the largest number of corners
        first.
    """
    found = []
    for ring in _rings(mask):
        # below and to the right of its first corner is the ring's inside, which in a hole is no pixel of the mask
        x, y = ring[np.lexsort((ring[:, 0], ring[:, 1]))[0]]
        if mask[y, x]:
            found.append(ring)
    return sorted(found, key=len, reverse=True)


def _rings(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Closed boundaries as their corners, (n, 2) of x and y; edges lie along rows and columns in turn."""
    padded = np.pad(mask, 1).astype(np.int8)
    around = np.stack([padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]])
    count = around.sum(axis=0)
    # Where two pixels meet by a corner alone, two boundaries do: such a corner is there twice.
    touching = (count == 2) & (around[0] == around[3])
    y, x = np.nonzero((count % 2 == 1) | touching)
    corners = np.repeat(np.stack([x, y], axis=1).astype(np.int64), 1 + touching[y, x], axis=0)
    if not len(corners):
        return []
    across, down = np.empty(len(corners), np.int64), np.empty(len(corners), np.int64)
    for partner, keys in ((across, (corners[:, 0], corners[:, 1])), (down, (corners[:, 1], corners[:, 0]))):
        order = np.lexsort(keys)
        # along a line, boundaries begin and end in turn
        partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
    rings, left = [], np.ones(len(corners), dtype=np.bool_)
    for start in range(len(corners)):
        ring, each = [], start
        while left[each]:
            other = across[each]
            left[each] = left[other] = False
            ring += [each, other]
            each = down[other]
        if ring:
            rings.append(corners[ring])
    return rings
