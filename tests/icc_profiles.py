"""ICC profiles of displays, made by hand (ICC.1:2010)."""

from __future__ import annotations

import struct

import numpy as np

D65, D50 = (0.3127, 0.3290), (0.9642, 1.0, 0.8249)
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
ADOBE_GAMMA = 563 / 256
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def xyz(xy: tuple[float, float]) -> np.ndarray:
    return np.array([xy[0] / xy[1], 1, (1 - xy[0] - xy[1]) / xy[1]])


def to_xyz(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Linear RGB to XYZ with white at D65, (3, 3): columns are the primaries, scaled so that they add up to white."""
    columns = np.stack([xyz(each) for each in primaries], axis=1)
    return columns * np.linalg.solve(columns, xyz(D65))


def adapted(matrix: np.ndarray) -> np.ndarray:
    """The same with white at D50, as profiles have it (ICC.1, annex E)."""
    scale = (BRADFORD @ D50) / (BRADFORD @ xyz(D65))
    return np.linalg.inv(BRADFORD) @ np.diag(scale) @ BRADFORD @ matrix


def fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


SRGB_CURVE = b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
ADOBE_CURVE = b"curv\0\0\0\0\0\0\0\1" + struct.pack(">H", 563) + b"\0\0"


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of a display (ICC.1:2010): header, tag table and tags."""
    about = {
        b"desc": b"mluc\0\0\0\0" + struct.pack(">LL2s2sLL", 1, 12, b"en", b"US", 8, 28) + "test".encode("utf-16-be"),
        b"cprt": b"mluc\0\0\0\0" + struct.pack(">LL2s2sLL", 1, 12, b"en", b"US", 8, 28) + "none".encode("utf-16-be"),
        b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50),
    }
    table, body = b"", b""
    start = 128 + 4 + 12 * (len(tags) + len(about))
    for name, content in (about | tags).items():
        table += name + struct.pack(">LL", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">L4sL4s4s4s", start + len(body), b"\0\0\0\0", 0x04200000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + fixed(*D50)
    return head.ljust(128, b"\0") + struct.pack(">L", len(tags) + len(about)) + table + body


def of_primaries(primaries: tuple[tuple[float, float], ...], curve: bytes) -> bytes:
    columns = adapted(to_xyz(primaries)).T
    tags = {
        name + b"XYZ": b"XYZ \0\0\0\0" + fixed(*column)
        for name, column in zip((b"r", b"g", b"b"), columns, strict=True)
    }
    return profile(b"RGB ", tags | {name + b"TRC": curve for name in (b"r", b"g", b"b")})


P3 = of_primaries(DISPLAY_P3, SRGB_CURVE)
ADOBE = of_primaries(ADOBE_RGB, ADOBE_CURVE)
