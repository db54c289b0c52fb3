"""A PNG without what no pixel needs: chunks of text, profiles or further frames cost themselves, and not the image."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from simsam_batch.images.bounded import Deadline
from simsam_batch.images.unread import not_read

_SIGNATURE_BYTES = 8
_CHECKED_EVERY = 4096
# Pillow takes no text that unpacks to more.
_LONGEST_TEXT = 1 << 20
_LARGEST_PROFILE = 1 << 24
_MOST_TEXTS = 4
# Beside eXIf, what writers put an orientation into.
_ORIENTING = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
_AT_PROPERTY = 0x20


@dataclass(frozen=True, slots=True)
class Essentials:
    """What there is to a PNG beside its remarks.

    Attributes:
        data: a file of the chunks that pixels need, and of those that may say how it is turned.
        more_frames: whether it is animated (APNG), by what it states.
        profile: its ICC profile, if it was asked for and can be unpacked.
    """

    data: bytes
    more_frames: bool
    profile: bytes | None


def essentials(data: bytes, deadline: Deadline, *, with_profile: bool) -> Essentials:
    """Take a PNG apart (PNG, third edition, section 5) as far as its chunks can be followed; the rest stays as it is.

    Raises:
        ImageError: ``timed_out``, or ``unsupported`` for the variant that iOS packs into applications.
    """
    view = memoryview(data)
    head, body = [view[:_SIGNATURE_BYTES]], list[memoryview]()
    frames: int | None = None
    first_is_frame, profile = False, None
    at, count, texts = _SIGNATURE_BYTES, 0, 0
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or not kind.isalpha():
            break
        if not (count := count + 1) % _CHECKED_EVERY:
            deadline.check()
        if kind in (b"IDAT", b"IEND"):
            body.append(view[at:end])
        elif kind == b"CgBI":
            raise not_read("a PNG as iOS packs it into applications (CgBI)")
        elif not kind[0] & _AT_PROPERTY:
            head.append(view[at:end])
        elif kind == b"acTL" and length >= 8:
            (frames,) = struct.unpack_from(">I", data, at + 8)
        elif kind == b"fcTL":
            first_is_frame |= not body
        elif kind == b"iCCP" and with_profile:
            profile = _profile(data[at + 8 : end - 4])
        elif kind == b"eXIf" or (texts < _MOST_TEXTS and _may_orient(kind, view[at + 8 : end - 4])):
            texts += kind != b"eXIf"
            (stated,) = struct.unpack_from(">I", data, end - 4)
            if zlib.crc32(view[at + 4 : end - 4]) == stated:
                head.append(view[at:end])
        # what follows the end is not looked at
        at = len(data) if kind == b"IEND" else end
    body.append(view[at:])
    more = frames is not None and frames + (not first_is_frame) > 1
    return Essentials(b"".join((*head, *body)), more, profile)


def _may_orient(kind: bytes, content: memoryview) -> bool:
    """Whether a chunk is a text that may say how the image is turned, and that Pillow takes."""
    if kind not in (b"tEXt", b"zTXt", b"iTXt"):
        return False
    start = bytes(content[:64])
    key = next((key for key in _ORIENTING if start.startswith(key)), None)
    if key is None:
        return False
    text = bytes(content[len(key) :])
    if kind == b"zTXt" and not text.startswith(b"\0"):
        return False
    packed, text = kind == b"zTXt", text[1:] if kind == b"zTXt" else text
    if kind == b"iTXt":
        packed, text = text[:1] == b"\1", b"".join(text[2:].split(b"\0", 2)[2:])
    return len(text) <= _LONGEST_TEXT and (not packed or _unpacked(text, _LONGEST_TEXT) is not None)


def _profile(content: bytes) -> bytes | None:
    _, _, packed = content.partition(b"\0")
    return _unpacked(packed[1:], _LARGEST_PROFILE) if packed[:1] == b"\0" else None


def _unpacked(packed: bytes, most: int) -> bytes | None:
    """What compressed data hold; None if they are damaged or hold more than may be."""
    inflater = zlib.decompressobj()
    try:
        found = inflater.decompress(packed, most)
    except zlib.error:
        return None
    return None if inflater.unconsumed_tail else found
