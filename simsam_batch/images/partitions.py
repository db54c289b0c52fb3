"""Several partitions of one image, as several people drew them, from NumPy's ``.npz`` or BSDS500's ``.mat``."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.errors import ImageError
from simsam_batch.images.decode import ImageLimits, fetch
from simsam_batch.images.matlab import field_of_cells
from simsam_batch.images.truth import TruthError
from simsam_batch.storage import redact

_MEND = "To mend it: write maps of integers, one for each partition, with numpy.savez_compressed"
_MOST_MEMBERS = 1000
_LONGEST_HEADER = 4096
# All partitions of an image together: 256 bytes for each of its pixels are 128 maps of 16-bit integers.
_BYTES_PER_PIXEL = 256
_MOST_BYTES = 1 << 30
_SMALL = 1 << 16
_MOST_REGIONS = 1 << 14


def load_partitions(uri: str, limits: ImageLimits, size: tuple[int, int]) -> list[NDArray[np.integer[Any]]]:
    """The partitions of one image: maps of numbers that mean nothing but the same region.

    ``.npz`` holds each partition as an array of its own; they come in the order of their names. ``.mat`` is a file of
    BSDS500: a cell array ``groundTruth`` of structures, one for each annotator, whose field ``Segmentation`` is the
    partition (Arbelaez et al., TPAMI 2011). Which of the two a file is, its first bytes say. The maps are upright like
    the image after its EXIF orientation: nothing turns them. Arrays of ``.npz`` are compared with the size
    before they are inflated, ``.mat`` is inflated within a bound, and nothing is unpickled.

    Args:
        uri: of the file.
        limits: as for images; ``max_bytes`` counts for the file as stored.
        size: (height, width) that each map must have: the image's own, after its orientation.

    Returns:
        One map or more of ``size``, each in the smallest integer dtype that its numbers fit.

    Raises:
        TruthError: not found, not readable, without a partition, not of integers, of another size, or of more than
            16,384 regions.
        StorageError: the storage did not answer; the read may be repeated.
    """
    try:
        data = fetch(uri, limits)
        held = list(_members(data, size) if data.startswith(b"PK") else _cells(data, size))
    except ImageError as error:
        raise TruthError("unreadable", f"truth {redact(uri)}: {error}") from error
    except _PartitionError as error:
        raise TruthError(error.kind, f"truth {redact(uri)}: {error}") from error
    if not held:
        raise TruthError("not_labels", f"truth {redact(uri)}: there is no partition in it. {_MEND}")
    return held


class _PartitionError(Exception):
    """What is wrong with a file of partitions, and the kind of `TruthError` that it is."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def _check(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], size: tuple[int, int]) -> None:
    if dtype.kind not in "iu" or len(shape) != 2:
        form = "x".join(map(str, shape)) or "single"
        raise _PartitionError(
            "not_labels", f"{name} is of {form} {dtype.name}, and a partition is a map (H, W) of integers. {_MEND}"
        )
    if shape != size:
        raise _PartitionError(
            "other_size",
            f"{name} is {shape[1]}x{shape[0]} pixels (width x height), its image {size[1]}x{size[0]}. "
            "To mend it: give truth of the image's own size, upright as the image is shown",
        )


def _most_bytes(size: tuple[int, int]) -> int:
    return min(_MOST_BYTES, _BYTES_PER_PIXEL * size[0] * size[1] + _SMALL)


def _members(data: bytes, size: tuple[int, int]) -> Iterator[NDArray[np.integer[Any]]]:
    # Python makes an object of each entry of the directory, and each entry has this mark.
    if data.count(b"PK\x01\x02") > _MOST_MEMBERS:
        raise _PartitionError("unreadable", f"it has more than {_MOST_MEMBERS} arrays in it. {_MEND}")
    left = _most_bytes(size)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
                # NumPy writes no other; of these two alone is so much inflated as is read.
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise _PartitionError("unreadable", f"{entry.filename!r} is not compressed as NumPy does. {_MEND}")
                name = repr(entry.filename.removesuffix(".npy"))
                with archive.open(entry) as member:
                    shape, dtype = _header(member.read(_LONGEST_HEADER))
                _check(name, shape, dtype, size)
                left -= dtype.itemsize * size[0] * size[1]
                if left < 0:
                    raise _PartitionError(
                        "unreadable",
                        f"unpacked it has more than {_most_bytes(size)} bytes. To mend it: write "
                        "fewer partitions, or 16-bit integers",
                    )
                with archive.open(entry) as member:
                    values = np.lib.format.read_array(member, allow_pickle=False)
                    # The checksum is compared where the member ends.
                    member.read(1)
                yield _checked(name, values)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise _PartitionError("unreadable", f"it cannot be read as .npz: {error}. {_MEND}") from error


def _checked(name: str, values: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """The same numbers in as few bytes as they fit, if they can be regions of an image."""
    low, high = (int(end(initial=0)) for end in (values.min, values.max))
    # beside negative numbers, -high - 1 takes the bits that a signed high does
    smallest = np.promote_types(np.min_scalar_type(low), np.min_scalar_type(-high - 1 if low < 0 else high))
    held = np.ascontiguousarray(values, smallest)
    # Where every pixel is a region of its own, each would be compared with every node.
    if held.itemsize > 1 and len(np.unique(held)) > _MOST_REGIONS:
        raise _PartitionError(
            "not_labels", f"{name} has more than {_MOST_REGIONS:,} regions, so that it is no partition. {_MEND}"
        )
    return held


def _header(start: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array, from the first bytes of its file."""
    file = io.BytesIO(start)
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"its format has the version {version}")
        shape, _, dtype = readers[version](file)
    except ValueError as error:
        raise _PartitionError("unreadable", f"a member of it is no .npy array: {error}. {_MEND}") from error
    return shape, dtype


def _cells(data: bytes, size: tuple[int, int]) -> Iterator[NDArray[np.integer[Any]]]:
    try:
        cells = field_of_cells(data, "groundTruth", "Segmentation", _most_bytes(size))
    except ValueError as error:
        raise _PartitionError(
            "unreadable", f"it is neither .npz nor a .mat that can be read: {error}. {_MEND}"
        ) from error
    for number, held in enumerate(cells, 1):
        if held is None:
            raise _PartitionError(
                "not_labels", f"groundTruth{{{number}}} has no field Segmentation, as BSDS500's files have. {_MEND}"
            )
        for values in held:
            _check(f"groundTruth{{{number}}}.Segmentation", values.shape, values.dtype, size)
            yield _checked(f"groundTruth{{{number}}}.Segmentation", values)
