"""What a JPEG 2000 asks of its decoder, by its headers: a few bytes may state millions of parts."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from simsam_batch.images.bounded import Deadline
from simsam_batch.images.unread import not_read, too_large

_CODESTREAM = b"\xff\x4f\xff\x51"
_COD, _COC, _SOT, _SOD = 0xFF52, 0xFF53, 0xFF90, 0xFF93
_FEW_COMPONENTS = 257
# The decoder takes some 200 bytes for each block, and a microsecond or so for each packet.
_MOST_BLOCKS = 2_000_000
_MOST_PACKETS = 2_000_000
_MOST_TILES = 65_535


@dataclass(frozen=True, slots=True)
class _Size:
    """Of an image and its tiles, in pixels, and how many tiles and components there are."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    tiles: int
    components: int


def check_jpeg_2000(data: bytes, max_pixels: int, deadline: Deadline) -> None:
    """Look into the headers of a codestream (ISO/IEC 15444-1, annex A) before a decoder makes room for what they state.

    The file around it, which Pillow goes by, may state another size. What cannot be followed is left to the decoder.

    Raises:
        ImageError: ``too_large``, ``timed_out``, or ``unsupported`` for more tiles, blocks or packets than a camera or
            scanner writes.
    """
    start = data.find(_CODESTREAM)
    try:
        size = _size(data, start + 4)
        if size is None:
            return
        if size.width * size.height > max_pixels:
            raise too_large(size.width, size.height, max_pixels)
        blocks = packets = size.tiles * size.components
        for tiles, style in _styles(data, start + 2, size, deadline):
            more_blocks, more_packets = _parts(size, *style)
            blocks, packets = blocks + tiles * more_blocks, packets + tiles * more_packets
            if blocks > _MOST_BLOCKS or packets > _MOST_PACKETS:
                break
    except (struct.error, IndexError):
        return
    if size.tiles > _MOST_TILES or blocks > _MOST_BLOCKS or packets > _MOST_PACKETS:
        raise not_read(f"a JPEG 2000 of {size.tiles} tiles, and more than {max(blocks, packets)} blocks or packets,")


def _size(data: bytes, at: int) -> _Size | None:
    """What the segment SIZ says (A.5.1); None if it makes no sense."""
    x, y, x0, y0, w, h, tile_x0, tile_y0, components = struct.unpack_from(">8LH", data, at + 4)
    if at < 4 or x <= x0 or y <= y0 or not w or not h:
        return None
    tiles = -((tile_x0 - x) // w) * -((tile_y0 - y) // h)
    return _Size(x - x0, y - y0, min(w, x - x0), min(h, y - y0), tiles, components)


def _styles(data: bytes, at: int, size: _Size, deadline: Deadline) -> Iterator[tuple[int, tuple[int, int, bytes]]]:
    """Each coding style in the headers: for how many tiles it is meant, layers, components, and its parameters."""
    tiles, tile_part, layers = size.tiles, (0, 0), 1
    while True:
        deadline.check()
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == _SOT:
            (part_bytes,) = struct.unpack_from(">L", data, at + 6)
            tiles, tile_part = 1, (at, part_bytes)
        elif marker == _SOD:
            begin, part_bytes = tile_part
            if part_bytes < at + 2 - begin:
                return
            at = begin + part_bytes
            continue
        elif marker == _COD:
            (layers,) = struct.unpack_from(">H", data, at + 6)
            yield tiles, (layers, size.components, data[at + 4 : at + 5] + data[at + 9 : at + 2 + length])
        elif marker == _COC:
            wide = 1 if size.components < _FEW_COMPONENTS else 2
            yield tiles, (layers, 1, data[at + 4 + wide : at + 2 + length])
        at += 2 + length


def _parts(size: _Size, layers: int, components: int, style: bytes) -> tuple[int, int]:
    """Blocks and packets of a tile: ``style`` is a byte of flags, levels, block sizes, two more, precincts (A.6.1)."""
    levels, block_width, block_height = style[1], 2 ** (style[2] + 2), 2 ** (style[3] + 2)
    blocks = precincts = 0
    for level in range(levels + 1):
        width, height = size.tile_width >> (levels - level), size.tile_height >> (levels - level)
        across = down = 15
        if style[0] & 1:
            across, down = style[6 + level] & 15, style[6 + level] >> 4
        here = -(-max(width, 1) // 2**across) * -(-max(height, 1) // 2**down)
        precincts += here
        blocks += max(here, -(-width // min(block_width, 2**across)) * -(-height // min(block_height, 2**down)))
    return components * blocks, components * precincts * layers
