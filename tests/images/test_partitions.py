"""Several partitions of one image: what is read, and what is refused before it takes memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import loadmat, savemat

from simsam_batch.images import ImageLimits, TruthError, load_partitions
from simsam_batch.images.matlab import field_of_cells
from simsam_batch.storage import Folder

LIMITS = ImageLimits()
SIZE = (3, 4)
FINE = np.arange(12, dtype=np.uint16).reshape(SIZE)
COARSE = np.array([[1, 1, 2, 2]] * 3, np.uint8)


def npz(path: Path, **arrays: Any) -> str:
    np.savez_compressed(path, **arrays)
    return str(path)


def mat(path: Path, *partitions: Any, compress: bool = True, field: str = "Segmentation") -> str:
    """A file as BSDS500 has them: a cell array (1, n) of structures with two fields."""
    cells = np.empty((1, len(partitions)), object)
    for i, values in enumerate(partitions):
        cells[0, i] = {field: values, "Boundaries": np.zeros(SIZE, np.uint8)}
    savemat(path, {"groundTruth": cells}, do_compression=compress)
    return str(path)


def refused(uri: str, limits: ImageLimits = LIMITS, size: tuple[int, int] = SIZE) -> TruthError:
    with pytest.raises(TruthError) as error:
        load_partitions(uri, limits, size)
    assert Path(uri).name in str(error.value)
    return error.value


class TestWhatIsRead:
    def test_npz_gives_its_arrays_in_the_order_of_their_names(self, tmp_path: Path) -> None:
        found = load_partitions(npz(tmp_path / "a.npz", b=FINE, a=COARSE), LIMITS, SIZE)
        np.testing.assert_array_equal(found, [COARSE, FINE])

    @pytest.mark.parametrize("compress", [True, False])
    def test_mat_gives_the_segmentations_of_all_annotators_in_order(self, tmp_path: Path, compress: bool) -> None:
        found = load_partitions(mat(tmp_path / "a.mat", FINE, COARSE, compress=compress), LIMITS, SIZE)
        np.testing.assert_array_equal(found, [FINE, COARSE])

    def test_columns_first_and_big_endian_maps_are_the_same_numbers(self, tmp_path: Path) -> None:
        (found,) = load_partitions(npz(tmp_path / "a.npz", a=np.asfortranarray(FINE, ">u2")), LIMITS, SIZE)
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, FINE)

    @pytest.mark.parametrize(
        ("low", "high", "dtype"),
        [
            (0, 255, np.uint8),
            (0, 256, np.uint16),
            (-1, 127, np.int8),
            (-1, 128, np.int16),
            (-1, 40_000, np.int32),
            (0, 2**63, np.uint64),
        ],
    )
    def test_maps_are_held_in_as_few_bytes_as_they_fit(
        self, tmp_path: Path, low: int, high: int, dtype: type[np.integer[Any]]
    ) -> None:
        values = np.full(SIZE, high, np.uint64 if low == 0 else np.int64)
        values[0, 0] = low
        (found,) = load_partitions(npz(tmp_path / "a.npz", a=values), LIMITS, SIZE)
        np.testing.assert_array_equal(found, values)
        assert found.dtype == dtype

    def test_a_big_endian_mat_is_read(self, tmp_path: Path) -> None:
        # by hand: a cell (1, 1) of a structure (1, 1) with the field Segmentation, int8 of 3 x 4, columns first
        def element(kind: int, content: bytes) -> bytes:
            return struct.pack(">II", kind, len(content)) + content + b"\0" * (-len(content) % 8)

        def array(which: int, rows: int, columns: int, name: bytes, *rest: bytes) -> bytes:
            header = element(6, struct.pack(">II", which, 0)) + element(5, struct.pack(">ii", rows, columns))
            return element(14, header + element(1, name) + b"".join(rest))

        numbers = array(8, 3, 4, b"", element(1, FINE.astype(np.int8).tobytes(order="F")))
        fields = element(5, struct.pack(">i", 16)) + element(1, b"Segmentation".ljust(16, b"\0"))
        held = array(1, 1, 1, b"groundTruth", array(2, 1, 1, b"", fields, numbers))
        (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + held)
        (found,) = load_partitions(str(tmp_path / "a.mat"), LIMITS, SIZE)
        np.testing.assert_array_equal(found, FINE)

    def test_the_first_bytes_tell_the_format_and_every_storage_serves(self, tmp_path: Path, out_url: str) -> None:
        Folder(out_url).replace("a.mat", Path(npz(tmp_path / "a.npz", a=FINE)).read_bytes())
        np.testing.assert_array_equal(load_partitions(f"{out_url}/a.mat", LIMITS, SIZE), [FINE])

    def test_the_berkeley_set_is_read(self, test_data: Path) -> None:
        images = sorted((test_data / "bsds500" / "images").iterdir())
        assert len(images) == 40
        for path in images:
            with Image.open(path) as image:
                size = (image.height, image.width)
            partitions = test_data / "bsds500" / "partitions" / f"{path.stem}.npz"
            found = load_partitions(str(partitions), LIMITS, size)
            # four people at least drew each image, and nobody left it in one piece
            assert len(found) >= 4
            assert all(values.shape == size and len(np.unique(values)) > 1 for values in found)
            with np.load(partitions, allow_pickle=False) as held:
                np.testing.assert_array_equal(found, [held[name] for name in sorted(held.files)])


class TestWhatIsRefused:
    @pytest.mark.parametrize("write", [npz, mat])
    def test_a_file_without_a_partition(self, tmp_path: Path, write: Callable[[Path], str]) -> None:
        error = refused(write(tmp_path / "a.npz"))
        assert error.kind == "not_labels"
        assert "there is no partition in it" in str(error)
        assert "numpy.savez_compressed" in str(error)

    @pytest.mark.parametrize(
        "values",
        [FINE / 2, FINE > 3, FINE[0], FINE[None], np.array(3), np.full(SIZE, "a")],
        ids=["floats", "booleans", "a row", "a stack", "a number", "text"],
    )
    def test_what_is_no_map_of_integers(self, tmp_path: Path, values: Any) -> None:
        error = refused(npz(tmp_path / "a.npz", a=FINE, b=values))
        assert error.kind == "not_labels"
        assert "'b' is of" in str(error)

    def test_floats_in_a_mat(self, tmp_path: Path) -> None:
        error = refused(mat(tmp_path / "a.mat", FINE, FINE / 2))
        assert error.kind == "not_labels"
        assert "groundTruth{2}.Segmentation is of 3x4 float64" in str(error)

    @pytest.mark.parametrize("write", ["npz", "mat"])
    def test_another_size(self, tmp_path: Path, write: str) -> None:
        path = tmp_path / f"a.{write}"
        error = refused(mat(path, FINE, FINE.T) if write == "mat" else npz(path, a=FINE, b=FINE.T))
        assert error.kind == "other_size"
        assert "3x4 pixels (width x height), its image 4x3" in str(error)

    def test_a_mat_of_other_contents(self, tmp_path: Path) -> None:
        assert "groundTruth{1} has no field Segmentation" in str(refused(mat(tmp_path / "a.mat", FINE, field="Masks")))
        savemat(tmp_path / "b.mat", {"groundTruth": FINE})
        assert "groundTruth{1} has no field Segmentation" in str(refused(str(tmp_path / "b.mat")))
        savemat(tmp_path / "c.mat", {"masks": FINE})
        assert "there is no partition in it" in str(refused(str(tmp_path / "c.mat")))

    @pytest.mark.parametrize("content", [b"", b"words", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" * 40])
    def test_other_files(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.npz").write_bytes(content)
        assert refused(str(tmp_path / "a.npz")).kind == "unreadable"

    def test_a_map_in_which_every_pixel_is_a_region_of_its_own(self, tmp_path: Path) -> None:
        size = (128, 129)
        error = refused(npz(tmp_path / "a.npz", a=np.arange(128 * 129).reshape(size)), size=size)
        assert "'a' has more than 16,384 regions" in str(error)
        load_partitions(npz(tmp_path / "b.npz", a=np.arange(128 * 129).reshape(size) // 2), LIMITS, size)

    def test_a_file_that_is_not_there_or_too_large(self, tmp_path: Path) -> None:
        assert refused(str(tmp_path / "a.npz")).kind == "unreadable"
        error = refused(npz(tmp_path / "b.npz", a=FINE), ImageLimits(max_bytes=99))
        assert "more than 99 bytes" in str(error)

    def test_pickles_are_refused_before_their_bytes_are_looked_at(self, tmp_path: Path) -> None:
        error = refused(npz(tmp_path / "a.npz", a=np.array([[{}]], dtype=object)), size=(1, 1))
        assert "'a' is of 1x1 object" in str(error)

    @pytest.mark.parametrize("write", ["npz", "mat"])
    def test_whatever_is_cut_off_or_turned_over_is_a_message(self, tmp_path: Path, write: str) -> None:
        path = tmp_path / f"a.{write}"
        whole = Path(mat(path, FINE, COARSE) if write == "mat" else npz(path, a=FINE, b=COARSE)).read_bytes()

        @settings(max_examples=150, deadline=None)
        @given(st.integers(0, len(whole) - 1), st.integers(1, 255), st.booleans())
        def damaged(place: int, change: int, cut: bool) -> None:
            there = whole[:place] if cut else whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :]
            path.write_bytes(there)
            found = []
            with suppress(TruthError):
                found = load_partitions(str(path), LIMITS, SIZE)
            assert all(values.shape == SIZE and values.dtype.kind in "iu" for values in found)

        damaged()


def peak_of(call: Callable[[], Any]) -> int:
    """Bytes that were allocated at once while it ran."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class TestBombs:
    BOMB = 1 << 26
    # reading a file takes as many bytes as it may have
    FILES = ImageLimits(max_bytes=1 << 20)

    def member(self, content: bytes, name: str = "a.npy", **options: Any) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content, **options)
        return file.getvalue()

    def npy(self, shape: tuple[int, ...], version: tuple[int, int] = (1, 0)) -> bytes:
        file = io.BytesIO()
        write = np.lib.format.write_array_header_1_0 if version == (1, 0) else np.lib.format.write_array_header_2_0
        write(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        return file.getvalue()

    def cheaply_refused(self, path: Path, content: bytes) -> TruthError:
        path.write_bytes(content)
        errors: list[TruthError] = []
        assert peak_of(lambda: errors.append(refused(str(path), self.FILES))) < self.BOMB / 4
        return errors[0]

    def test_an_array_is_measured_before_it_is_inflated(self, tmp_path: Path) -> None:
        bomb = self.member(self.npy((1 << 14, 1 << 14)) + bytes(self.BOMB))
        assert self.cheaply_refused(tmp_path / "a.npz", bomb).kind == "other_size"

    def test_what_follows_an_array_is_not_inflated(self, tmp_path: Path) -> None:
        (tmp_path / "a.npz").write_bytes(self.member(self.npy(SIZE) + bytes(self.BOMB)))
        peak = peak_of(lambda: load_partitions(str(tmp_path / "a.npz"), self.FILES, SIZE))
        assert peak < self.BOMB / 4

    def test_an_array_that_ends_early_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.npz").write_bytes(self.member(self.npy(SIZE) + bytes(11)))
        assert refused(str(tmp_path / "a.npz")).kind == "unreadable"

    def test_a_header_without_an_end_is_cut_off(self, tmp_path: Path) -> None:
        endless = b"\x93NUMPY\x02\x00" + struct.pack("<I", self.BOMB) + b" " * self.BOMB
        assert self.cheaply_refused(tmp_path / "a.npz", self.member(endless)).kind == "unreadable"

    @pytest.mark.slow
    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_compressions_that_inflate_without_a_bound_are_refused(self, tmp_path: Path, method: int) -> None:
        bomb = self.member(self.npy(SIZE) + bytes(self.BOMB), compress_type=method)
        assert "not compressed as NumPy does" in str(self.cheaply_refused(tmp_path / "a.npz", bomb))

    def test_many_arrays_are_too_much_together(self, tmp_path: Path) -> None:
        # 256 bytes a pixel and 64 KiB: 7 maps of 8 bytes take 56 bytes a pixel, 40 take 320
        large = np.zeros((100, 100), np.int64)
        assert len(load_partitions(npz(tmp_path / "a.npz", **{f"a{i}": large for i in range(7)}), LIMITS, (100, 100)))
        many = npz(tmp_path / "b.npz", **{f"a{i}": large for i in range(41)})
        assert "unpacked it has more than 2625536 bytes" in str(refused(many, size=(100, 100)))

    def test_a_directory_of_many_entries_is_refused_before_it_is_read(self, tmp_path: Path) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for i in range(1001):
                archive.writestr(f"{i}.npy", self.npy(SIZE))
        assert "more than 1000 arrays" in str(self.cheaply_refused(tmp_path / "a.npz", file.getvalue()))

    def matlab(self, *elements: bytes) -> bytes:
        return b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + b"".join(elements)

    def array(self, which: int, shape: tuple[int, ...], content: bytes = b"", name: bytes = b"") -> bytes:
        header = struct.pack("<IIII", 6, 8, which, 0) + struct.pack(f"<II{len(shape)}i", 5, 4 * len(shape), *shape)
        header += struct.pack("<II", 1, len(name)) + name + bytes(-len(name) % 8) + content
        return struct.pack("<II", 14, len(header)) + header

    def test_a_mat_is_inflated_within_a_bound(self, tmp_path: Path) -> None:
        packed = zlib.compress(self.array(9, (1 << 14, 1 << 14), struct.pack("<II", 2, self.BOMB) + bytes(self.BOMB)))
        bomb = self.matlab(struct.pack("<II", 15, len(packed)) + packed)
        assert "unpacks to more than" in str(self.cheaply_refused(tmp_path / "a.mat", bomb))

    def test_sizes_that_a_mat_cannot_hold_are_refused(self, tmp_path: Path) -> None:
        for which in (1, 2, 9):
            inner = self.array(which, (1 << 15, 1 << 15), struct.pack("<II", 2, 0))
            bomb = self.matlab(self.array(1, (1, 1), inner, name=b"groundTruth"))
            assert self.cheaply_refused(tmp_path / "a.mat", bomb).kind in {"unreadable", "not_labels"}
        bomb = self.matlab(self.array(1, (1 << 15, 1 << 15), name=b"groundTruth"))
        assert "cut short" in str(self.cheaply_refused(tmp_path / "a.mat", bomb))

    def test_cells_in_cells_are_not_followed(self, tmp_path: Path) -> None:
        nested = b""
        for _ in range(1000):
            nested = self.array(1, (1, 1), nested)
        bomb = self.matlab(self.array(1, (1, 1), nested, name=b"groundTruth"))
        assert "has no field Segmentation" in str(self.cheaply_refused(tmp_path / "a.mat", bomb))

    def test_more_cells_than_people_are_refused(self, tmp_path: Path) -> None:
        bomb = self.matlab(self.array(1, (1, 1001), struct.pack("<II", 14, 0) * 1001, name=b"groundTruth"))
        assert "more than 1000" in str(self.cheaply_refused(tmp_path / "a.mat", bomb))


class TestMatlab:
    @settings(max_examples=60, deadline=None)
    @given(
        st.sampled_from("bBhHiIqQfd"),
        st.tuples(st.integers(1, 3), st.integers(1, 9)),
        st.integers(1, 4),
        st.booleans(),
        st.integers(0, 2**32),
    )
    def test_numbers_of_all_types_are_those_of_scipy(
        self, kind: str, shape: tuple[int, int], cells: int, compress: bool, seed: int
    ) -> None:
        values = np.random.default_rng(seed).integers(0, 100, (cells, 2, *shape)).astype(kind)
        held = np.empty((1, cells), object)
        for i, (first, second) in enumerate(values):
            held[0, i] = np.array([(first, second)], dtype=[("a long name", object), ("b", object)])
        file = io.BytesIO()
        savemat(file, {"other": values[0, 0], "held": held, "more": "text"}, do_compression=compress)
        file.seek(0)
        theirs = [cell["b"].flat[0] for cell in loadmat(file)["held"].flat]
        ours = field_of_cells(file.getvalue(), "held", "b", 1 << 20)
        for mine, (other,), expected in zip(theirs, ours, values[:, 1], strict=True):
            np.testing.assert_array_equal(other, expected)
            np.testing.assert_array_equal(other, mine)
            assert other.dtype == mine.dtype

    def test_several_structures_of_a_cell_give_each_their_field(self) -> None:
        both = np.array([(1, 2.5), (3, 4.5)], dtype=[("a", object), ("b", object)])
        held = np.empty((1, 1), object)
        held[0, 0] = both
        file = io.BytesIO()
        savemat(file, {"held": held})
        (found,) = field_of_cells(file.getvalue(), "held", "b", 1 << 20)
        assert found is not None
        assert [float(values.item()) for values in found] == [2.5, 4.5]

    def test_damage_is_a_message_whatever_it_is(self) -> None:
        # the reader of SciPy 1.17 ends the process on one in some thousands of these
        held = np.empty((1, 2), object)
        for i in range(2):
            held[0, i] = {"Segmentation": FINE, "Boundaries": COARSE}
        file = io.BytesIO()
        savemat(file, {"groundTruth": held})
        whole, rng = file.getvalue(), np.random.default_rng(0)
        refusals = 0
        for _ in range(3000):
            damaged = bytearray(whole)
            for at in rng.integers(128, len(whole) - 8, rng.integers(1, 6)).tolist():
                cut, more = [(at, b""), (at, damaged[at : at + 8] * 2), (at, rng.bytes(8))][rng.integers(3)]
                damaged[cut : cut + 8] = more
            try:
                field_of_cells(bytes(damaged), "groundTruth", "Segmentation", 1 << 16)
            except ValueError:
                refusals += 1
        assert refusals > 1000
