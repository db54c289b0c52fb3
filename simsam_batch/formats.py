"""Kinds of picture files: what they are called, how their names end, how they begin, and the mend of those not read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec

_CONVERT = "save it as PNG or JPEG, or leave it out"


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file.

    Attributes:
        name: as people call it.
        suffixes: of its files, in lower case, with the dot.
        begins: what the first bytes of its files match.
        mend: what to do about a file of it; None where such files are read.
    """

    name: str
    suffixes: tuple[str, ...]
    begins: re.Pattern[bytes]
    mend: str | None = None


def _begins(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


# ISO base media files (ISO/IEC 14496-12) list their brands in their first box, the major one first.
_BRANDS = rb"....ftyp(?:.{4}){0,15}?"

JPEG = Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), _begins(rb"\xff\xd8\xff"))
PNG = Format("PNG", (".png", ".apng"), _begins(rb"\x89PNG\r\n\x1a\n"))
WEBP = Format("WebP", (".webp",), _begins(rb"RIFF....WEBP"))
TIFF = Format("TIFF", (".tif", ".tiff"), _begins(rb"II\x2a\0|MM\0\x2a|II\x2b\0|MM\0\x2b"))
BMP = Format("BMP", (".bmp",), _begins(rb"BM"))
GIF = Format("GIF", (".gif",), _begins(rb"GIF8[79]a"))
JPEG_2000 = Format(
    "JPEG 2000",
    (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    _begins(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
)
AVIF = Format("AVIF", (".avif",), _begins(_BRANDS + rb"avi[fs]"))
HEIC = Format("HEIC", (".heic", ".heif", ".hif"), _begins(_BRANDS + rb"(?:he[iv][cxms]|mif1|msf1)"))
CAMERA_RAW = Format(
    "camera raw",
    (
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw"),
        *(".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
    ),
    _begins(rb"II\x2a\0.{4}CR|IIU\0|IIR[OS]|MMOR|FUJIFILMCCD-RAW|....ftypcrx |FOVb|\0MRM"),
    "develop it to JPEG or TIFF by a raw converter, or leave it out",
)
VIDEO = Format(
    "video",
    (
        *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".webm"),
        ".wmv",
    ),
    _begins(rb"....(?:ftyp|moov|mdat|wide)|RIFF....AVI |\x1a\x45\xdf\xa3|\0\0\x01[\xba\xb3]|\x30\x26\xb2\x75|FLV\x01"),
    "write frames of it as images, such as by ffmpeg, or leave it out",
)

KINDS = (
    *(JPEG, PNG, WEBP, CAMERA_RAW, TIFF, BMP, GIF, JPEG_2000, AVIF, HEIC, VIDEO),
    Format("JPEG XL", (".jxl",), _begins(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"), _CONVERT),
    Format("Photoshop", (".psd", ".psb"), _begins(rb"8BPS"), _CONVERT),
    Format("JPEG XR", (), _begins(rb"II\xbc[\0\x01]"), _CONVERT),
    Format("OpenEXR", (), _begins(rb"\x76\x2f\x31\x01"), _CONVERT),
    Format("DICOM", (), _begins(rb".{128}DICM"), _CONVERT),
    Format("a Windows icon", (), _begins(rb"\0\0[\x01\x02]\0[^\0]"), _CONVERT),
    Format("an Apple icon", (), _begins(rb"icns"), _CONVERT),
)
"""All kinds; what begins like two of them is the first."""

READ = tuple(kind for kind in KINDS if kind.mend is None)

SUFFIXES = tuple(suffix for kind in READ for suffix in kind.suffixes)
"""Files that count as images, in any case."""


def kind_of(data: bytes) -> Format | None:
    """The kind of a file by its first bytes; None for one that is no picture as far as is known here."""
    return next((kind for kind in KINDS if kind.begins.match(data)), None)


def kind_by_name(name: str) -> Format | None:
    """The kind of a file by how its name ends, in any case."""
    lower = name.lower()
    return next((kind for kind in KINDS if kind.suffixes and lower.endswith(kind.suffixes)), None)


def mend_of(kind: Format) -> str | None:
    """What to do about a file of a kind that is not read, or not by what is installed here; None for all others."""
    if kind is HEIC and find_spec("pillow_heif") is None:
        return "pip install 'simsam-batch[heic]', " + _CONVERT
    if kind is AVIF:
        from PIL import features

        if not features.check("avif"):
            return "install a wheel of Pillow, which reads it, " + _CONVERT
    return kind.mend
