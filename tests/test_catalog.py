"""Folders, lists and tables become the same records; truth joins by name; what is wrong is named."""

from __future__ import annotations

import io
import os
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simsam_batch import formats
from simsam_batch.catalog import Catalog, read_catalog
from simsam_batch.errors import SettingsError
from simsam_batch.runs.schema import PLAN_FIELDS
from simsam_batch.storage import Folder, read_url


def fill(url: str, names: Iterable[str]) -> str:
    """Files whose content is their own name."""
    folder = Folder(url)
    for name in names:
        folder.replace(name, name.encode())
    return url


def parquet(folder: str, name: str, /, **columns: Any) -> str:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    Folder(folder).replace(name, file.getvalue())
    return f"{folder}/{name}"


def text_list(folder: Path, content: str | bytes, name: str = "list.txt") -> str:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder / name)


def ids(catalog: Catalog) -> list[str]:
    return list(catalog.table["image_id"].to_pylist())


def truths(catalog: Catalog) -> dict[str, str | None]:
    """Each image's truth, by the content of the file that ``truth_uri`` leads to."""
    rows = catalog.table.select(["image_id", "truth_uri"]).to_pylist()
    return {r["image_id"]: None if r["truth_uri"] is None else read_url(r["truth_uri"]).decode() for r in rows}


class TestFolders:
    def test_images_are_found_recursively_and_sorted_on_every_storage(self, out_url: str) -> None:
        fill(out_url, ["b.png", "a/z.JPG", "a-1/x.webp", "a.jpeg", "a/deep/er/y.TIFF", "c.bmp", "d.tif"])
        catalog = read_catalog(out_url)
        # '-' (0x2d) < '.' (0x2e) < '/' (0x2f): code points of the whole relative path, not folder by folder
        assert ids(catalog) == ["a-1/x.webp", "a.jpeg", "a/deep/er/y.TIFF", "a/z.JPG", "b.png", "c.bmp", "d.tif"]
        assert catalog.notes == []
        for row in catalog.table.to_pylist():
            assert read_url(row["uri"]).decode() == row["image_id"]
            assert row["size"] == len(row["image_id"])
            assert row["truth_uri"] is None

    def test_the_columns_are_those_of_a_plan(self, tmp_path: Path) -> None:
        schema = read_catalog(fill(str(tmp_path), ["a.png"])).table.schema
        assert list(schema) == PLAN_FIELDS

    def test_hidden_files_and_folders_are_left_out_and_said(self, tmp_path: Path) -> None:
        fill(f"{tmp_path}/images", ["a.png", ".b.png", "._a.png", ".cache/c.png", "d/.e/f.png", ".DS_Store"])
        catalog = read_catalog(f"{tmp_path}/images")
        assert ids(catalog) == ["a.png"]
        (note,) = catalog.notes
        assert note.startswith(f"4 files of {tmp_path}/images left out for a name in the path that begins with a dot")
        assert note.endswith("'._a.png', '.b.png', '.cache/c.png', 'd/.e/f.png'. To take them: --hidden")
        catalog = read_catalog(f"{tmp_path}/images", hidden=True)
        assert ids(catalog) == ["._a.png", ".b.png", ".cache/c.png", "a.png", "d/.e/f.png"]
        assert catalog.notes == [f"1 file of {tmp_path}/images not in the catalog: no suffix 1"]

    def test_hidden_truth_is_said_and_taken_like_hidden_images(self, tmp_path: Path) -> None:
        images = fill(f"{tmp_path}/images", ["a.png", "b.png"])
        masks = fill(f"{tmp_path}/masks", ["a.png", ".b.png", ".more/c.png"])
        catalog = read_catalog(images, truth=masks)
        assert truths(catalog) == {"a.png": "a.png", "b.png": None}
        assert catalog.notes[0].startswith(f"2 files of {masks} left out")
        fill(images, [".b.png"])
        catalog = read_catalog(images, truth=masks, hidden=True)
        assert truths(catalog) == {".b.png": ".b.png", "a.png": "a.png", "b.png": None}

    def test_a_folder_of_hidden_images_alone_says_so(self, tmp_path: Path) -> None:
        fill(str(tmp_path), [".a.png", ".b.png"])
        with pytest.raises(SettingsError, match=r"no image in it: .*; 2 are hidden, which --hidden takes"):
            read_catalog(str(tmp_path))
        assert ids(read_catalog(str(tmp_path), hidden=True)) == [".a.png", ".b.png"]

    def test_hidden_has_no_meaning_for_a_list(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"hidden: .*is a list"):
            read_catalog(text_list(tmp_path, "a.png"), hidden=True)

    @pytest.mark.parametrize("slash", ["", "/"])
    def test_a_bucket_as_a_whole_is_a_folder_of_images(self, s3_url: str, slash: str) -> None:
        if os.environ.get("SIMSAM_TEST_S3_URL"):
            pytest.skip("a bucket of one's own is needed")
        bucket = s3_url.removesuffix("/some/prefix")
        fill(bucket, ["b.png", "x/a.png"])
        catalog = read_catalog(f"{bucket}{slash}")
        assert ids(catalog) == ["b.png", "x/a.png"]
        assert [read_url(uri).decode() for uri in catalog.table["uri"].to_pylist()] == ["b.png", "x/a.png"]

    @pytest.mark.parametrize("slash", ["", "/"])
    def test_a_bucket_as_a_whole_is_a_folder_of_truth(self, s3_url: str, tmp_path: Path, slash: str) -> None:
        if os.environ.get("SIMSAM_TEST_S3_URL"):
            pytest.skip("a bucket of one's own is needed")
        bucket = s3_url.removesuffix("/some/prefix")
        fill(bucket, ["b.png", "x/a.png"])
        images = fill(f"{tmp_path}/images", ["b.jpg", "x/a.jpg"])
        assert truths(read_catalog(images, truth=f"{bucket}{slash}")) == {"b.jpg": "b.png", "x/a.jpg": "x/a.png"}

    def test_other_files_are_counted_by_suffix(self, tmp_path: Path) -> None:
        fill(str(tmp_path), ["a.png", "b.txt", "c/d.txt", "e.ICO", "README"])
        (note,) = read_catalog(str(tmp_path)).notes
        assert note.startswith("4 files")
        assert note.endswith(".txt 2, .ico 1, no suffix 1")

    def test_pictures_and_videos_that_are_not_read_are_records_too_and_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(formats, "find_spec", lambda name: None)
        names = ["a.png", "b.HEIC", "c.gif", "d.avif", "e.jp2", "f/g.CR2", "f/h.nef", "i.MOV"]
        fill(str(tmp_path), [*names, "notes.txt"])
        catalog = read_catalog(str(tmp_path))
        assert ids(catalog) == names
        unread, others = catalog.notes
        assert unread.startswith("4 files")
        assert "2 of camera raw (to mend it: develop" in unread
        assert "1 of HEIC (to mend it: pip install 'simsam-batch[heic]'" in unread
        assert "1 of video" in unread
        assert others.startswith("1 file of")

    def test_a_folder_of_what_is_not_read_alone_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(formats, "find_spec", lambda name: None)
        fill(str(tmp_path), ["a.HEIC", "b.heic", "c.mp4"])
        with pytest.raises(SettingsError, match=r"no image in it that can be read, but 2 of HEIC .*; 1 of video"):
            read_catalog(str(tmp_path))

    def test_a_video_beside_tables_is_no_image(self, tmp_path: Path) -> None:
        fill(str(tmp_path), ["film.mp4"])
        parquet(str(tmp_path), "part.parquet", uri=["x.png"])
        assert ids(read_catalog(str(tmp_path))) == ["x.png"]

    def test_a_raw_file_beside_its_jpeg_has_no_part_in_the_truth(self, tmp_path: Path) -> None:
        images = fill(f"{tmp_path}/images", ["a.jpg", "a.CR2"])
        masks = fill(f"{tmp_path}/masks", ["a.png"])
        assert truths(read_catalog(images, truth=masks)) == {"a.jpg": "a.png", "a.CR2": None}

    @pytest.mark.parametrize(
        "name", ["with space.png", "ünïcode/é.png", "new\nline.png", "a'b\"c.png", "100%20#?.png", "<b>.png"]
    )
    def test_names_are_data(self, tmp_path: Path, name: str) -> None:
        (row,) = read_catalog(fill(str(tmp_path), [name])).table.to_pylist()
        assert row["image_id"] == name
        assert read_url(row["uri"]).decode() == name

    @settings(max_examples=40, deadline=None)
    @given(st.sets(st.from_regex(r"[a-c\-.]{0,2}[ab](/[a-c\- ]{1,2})?\.(png|JPG|txt)", fullmatch=True), min_size=1))
    def test_every_image_is_listed_exactly_once(self, names: set[str]) -> None:
        visible = {n for n in names if not any(part.startswith(".") for part in n.split("/"))}
        expected = sorted(n for n in visible if n.lower().endswith((".png", ".jpg")))
        with TemporaryDirectory() as folder:
            for name in [*names, "always.png"]:
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).touch()
            assert ids(read_catalog(folder)) == sorted([*expected, "always.png"])

    def test_a_limit_takes_the_first(self, tmp_path: Path) -> None:
        fill(str(tmp_path), [f"{n}.png" for n in range(9)])
        assert ids(read_catalog(str(tmp_path), limit=2)) == ["0.png", "1.png"]
        assert len(ids(read_catalog(str(tmp_path), limit=100))) == 9
        with pytest.raises(SettingsError, match="limit"):
            read_catalog(str(tmp_path), limit=0)

    def test_many_files_keep_their_order_over_the_chunks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("simsam_batch.catalog.folders._CHUNK", 4)
        fill(str(tmp_path), [f"{n % 3}/{n:02}.png" for n in range(13)])
        assert ids(read_catalog(str(tmp_path))) == sorted(f"{n % 3}/{n:02}.png" for n in range(13))

    def test_a_folder_that_is_missing_empty_or_without_images_is_refused(self, out_url: str) -> None:
        with pytest.raises(SettingsError, match=r"IMAGES: .*out|prefix.*To mend it"):
            read_catalog(out_url)
        fill(out_url, ["notes.md", ".hidden.png"])
        with pytest.raises(SettingsError, match=r"no image in it: looked for \.jpg \.jpeg"):
            read_catalog(out_url)

    @pytest.mark.parametrize("name", ["photo.txt.bak", "read.me", "noise"])
    def test_a_single_file_of_another_kind_is_refused(self, tmp_path: Path, name: str) -> None:
        fill(str(tmp_path), [name])
        with pytest.raises(SettingsError, match=r"is a single file\. IMAGES is a folder, an image file"):
            read_catalog(str(tmp_path / name))

    def test_a_name_that_is_not_utf8_is_named_with_its_cause(self, tmp_path: Path) -> None:
        Path(os.fsdecode(bytes(tmp_path) + b"/\xff.png")).write_bytes(b"x")
        with pytest.raises(SettingsError, match="not UTF-8"):
            read_catalog(str(tmp_path))

    def test_options_of_tables_are_refused(self, tmp_path: Path) -> None:
        fill(str(tmp_path), ["a.png"])
        with pytest.raises(SettingsError, match="root"):
            read_catalog(str(tmp_path), root=str(tmp_path))
        with pytest.raises(SettingsError, match="keep_columns: caption"):
            read_catalog(str(tmp_path), keep_columns=["caption"])


class TestLists:
    def test_lines_are_paths_from_the_lists_own_folder(self, tmp_path: Path) -> None:
        path = text_list(tmp_path, "\ufeff# a comment\r\n\r\n  z.png \r\na/ünï.jpg\r\n# b.png\nb.gif")
        catalog = read_catalog(path)
        # as listed, whatever the suffix, and nobody looked for the files
        assert ids(catalog) == ["z.png", "a/ünï.jpg", "b.gif"]
        assert catalog.table["uri"].to_pylist() == [f"{tmp_path}/{name}" for name in ids(catalog)]
        assert catalog.table["size"].null_count == 3
        assert list(catalog.table.schema) == PLAN_FIELDS

    def test_a_root_moves_relative_lines_and_shortens_absolute_ones(self, tmp_path: Path) -> None:
        path = text_list(tmp_path, "a.png\n/data/set/b.png\n/elsewhere/c.png\ns3://bucket/d.png\n/data/setting/e.png")
        rows = read_catalog(path, root="/data/set/").table.to_pylist()
        assert [(r["image_id"], r["uri"]) for r in rows] == [
            ("a.png", "/data/set/a.png"),
            ("b.png", "/data/set/b.png"),
            ("/elsewhere/c.png", "/elsewhere/c.png"),
            ("s3://bucket/d.png", "s3://bucket/d.png"),
            ("/data/setting/e.png", "/data/setting/e.png"),
        ]

    def test_a_list_on_storage_starts_from_its_own_folder(self, out_url: str) -> None:
        fill(out_url, ["lists/a.png", "lists/b/c.png"])
        Folder(out_url).replace("lists/train.txt", b"b/c.png\na.png\n")
        rows = read_catalog(f"{out_url}/lists/train.txt").table.to_pylist()
        assert [r["image_id"] for r in rows] == ["b/c.png", "a.png"]
        assert [read_url(r["uri"]).decode() for r in rows] == ["lists/b/c.png", "lists/a.png"]

    def test_dots_inside_the_root_are_resolved(self, tmp_path: Path) -> None:
        assert ids(read_catalog(text_list(tmp_path, "./a.png\nb/../c.png\nd/./e.png\n..f/g..png"))) == [
            "a.png",
            "c.png",
            "d/e.png",
            "..f/g..png",
        ]

    @pytest.mark.parametrize("line", ["../secret.png", "a/../../secret.png", "..", "./../x.png"])
    def test_a_path_that_leaves_the_root_is_refused_by_name(self, tmp_path: Path, line: str) -> None:
        with pytest.raises(SettingsError, match=r"'\.\..*would leave the root"):
            read_catalog(text_list(tmp_path, f"good.png\n{line}\n"))

    def test_an_absolute_path_that_climbs_is_not_taken_for_one_below_the_root(self, tmp_path: Path) -> None:
        path = text_list(tmp_path, "/data/set/../other.png")
        assert ids(read_catalog(path, root="/data/set")) == ["/data/set/../other.png"]

    @pytest.mark.parametrize("begin", ["file://", "FILE://", "file://localhost", "file:", "local://"])
    def test_file_urls_are_the_paths_that_they_stand_for(self, tmp_path: Path, begin: str) -> None:
        names = ["a.png", "b/c.png", "with space.png", "100%.png", "ünï#q?.png", "a+b.png"]
        fill(str(tmp_path), names)
        lines = [(tmp_path / name).as_uri().replace("file://", begin) for name in names]
        catalog = read_catalog(text_list(tmp_path, "\n".join(lines)))
        assert ids(catalog) == names
        assert catalog.table["uri"].to_pylist() == [f"{tmp_path}/{name}" for name in names]
        assert [read_url(uri).decode() for uri in catalog.table["uri"].to_pylist()] == names
        path = parquet(str(tmp_path), "t.parquet", uri=lines, truth_uri=lines[::-1])
        table = read_catalog(path, root=f"{begin}{tmp_path}").table
        assert table["image_id"].to_pylist() == names
        assert table["truth_uri"].to_pylist() == [f"{tmp_path}/{name}" for name in names[::-1]]

    def test_file_urls_join_truth_like_paths(self, tmp_path: Path) -> None:
        masks = fill(f"{tmp_path}/masks", ["a.png"])
        path = text_list(tmp_path, (tmp_path / "pictures" / "a.jpg").as_uri())
        assert truths(read_catalog(path, root=f"{tmp_path}/pictures", truth=masks)) == {"a.jpg": "a.png"}

    def test_repeated_images_are_refused_by_name_and_number(self, tmp_path: Path) -> None:
        lines = [f"{n}.png" for n in range(7)] * 2 + ["once.png"]
        with pytest.raises(SettingsError, match=r"7 occur more than once: '0\.png', .*'4\.png' and 2 more"):
            read_catalog(text_list(tmp_path, "\n".join(lines)))

    def test_two_spellings_of_one_path_are_one_image(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"more than once: 'a\.png'"):
            read_catalog(text_list(tmp_path, f"a.png\n{tmp_path}/a.png\n"))

    @pytest.mark.parametrize("content", ["", "\n\r\n  \n# nothing\n"])
    def test_an_empty_list_is_refused(self, tmp_path: Path, content: str) -> None:
        with pytest.raises(SettingsError, match="lists no image"):
            read_catalog(text_list(tmp_path, content))

    def test_a_missing_list_and_one_that_is_no_text_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"gone\.txt"):
            read_catalog(str(tmp_path / "gone.txt"))
        with pytest.raises(SettingsError, match="not UTF-8"):
            read_catalog(text_list(tmp_path, b"caf\xe9.png\n"))

    def test_a_long_list_is_read_whole_and_in_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("simsam_batch.catalog.tables._BLOCK", 100_000)
        names = [f"folder {n % 17}/image {n}.jpg" for n in range(50_000)]
        assert ids(read_catalog(text_list(tmp_path, "\n".join(names)))) == names

    def test_a_line_that_is_longer_than_any_path_shows_that_it_is_no_list(self, tmp_path: Path) -> None:
        assert ids(read_catalog(text_list(tmp_path, "a" * 65_536))) == ["a" * 65_536]
        with pytest.raises(SettingsError, match="is no list: a line of it has more than 65536 bytes"):
            read_catalog(text_list(tmp_path, "a.png\n" + "a" * 65_537))

    def test_no_python_object_is_kept_for_a_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # 200,000 Python strings of 34 characters are 17 MB; Arrow's columns are counted by Arrow
        monkeypatch.setattr("simsam_batch.catalog.tables._BLOCK", 1 << 20)
        path = text_list(tmp_path, "".join(f"./train/folder_{n % 100:02}/image_{n:06}.jpg\n" for n in range(200_000)))
        tracemalloc.start()
        table = read_catalog(path).table
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10_000_000
        # id and URI, each with a 4-byte offset; three columns of nulls: 8 + 4 + 4 bytes and a bit each
        bound = 2 * (34 + 4) + len(str(tmp_path)) + 1 + 16 + 3 / 8
        assert table.nbytes / 200_000 < bound + 1

    def test_the_time_grows_with_the_lines_and_not_with_their_square(self, tmp_path: Path) -> None:
        def seconds(lines: int) -> float:
            path = text_list(tmp_path, "".join(f"a/{n}.jpg\n" for n in range(lines)))
            start = time.process_time()
            read_catalog(path)
            return time.process_time() - start

        seconds(1000)
        # sixteen times the lines: 16 times the time, or 256 times if each met every other
        assert seconds(320_000) < 64 * max(seconds(20_000), 0.005)


class TestParquet:
    def test_columns_are_taken_as_they_are(self, out_url: str) -> None:
        path = parquet(
            out_url,
            "set.parquet",
            caption=["one", None],
            uri=["s3://bucket/a.png", "b.png"],
            image_id=["first", "second"],
            truth_uri=["truth/a.png", None],
            size=pa.array([5, None], pa.int32()),
            etag=["x", "y"],
            unused=[1.0, 2.0],
        )
        table = read_catalog(path, keep_columns=["caption"]).table
        assert list(table.schema) == [*PLAN_FIELDS, pa.field("caption", pa.string())]
        first, second = table.to_pylist()
        assert (first["image_id"], first["uri"], first["size"], first["etag"]) == (
            "first",
            "s3://bucket/a.png",
            5,
            "x",
        )
        assert (second["size"], second["truth_uri"], second["caption"]) == (None, None, None)
        assert first["truth_uri"].endswith("/truth/a.png")
        fill(out_url, ["b.png", "truth/a.png"])
        assert read_url(second["uri"]) == b"b.png"
        assert read_url(first["truth_uri"]) == b"truth/a.png"

    def test_ids_come_from_the_uri_where_there_is_no_column(self, tmp_path: Path) -> None:
        path = parquet(str(tmp_path), "t.parquet", uri=["a/b.png", f"{tmp_path}/c.png", "gs://x/d.png"])
        assert ids(read_catalog(path)) == ["a/b.png", "c.png", "gs://x/d.png"]

    @pytest.mark.parametrize("folder", ["tables", "tables.parquet"])
    def test_a_folder_of_tables_is_one_catalog_in_the_order_of_its_files(self, out_url: str, folder: str) -> None:
        parquet(f"{out_url}/{folder}", "part-1.parquet", uri=["c.png", "a.png"], label=[3, 1])
        parquet(f"{out_url}/{folder}", "part-0.parquet", label=[2], uri=["b.png"])
        fill(out_url, [f"{folder}/_SUCCESS"])
        catalog = read_catalog(f"{out_url}/{folder}", keep_columns=["label"])
        assert ids(catalog) == ["b.png", "c.png", "a.png"]
        assert catalog.table["label"].to_pylist() == [2, 3, 1]
        assert str(catalog.table["uri"][0]).endswith(f"/{folder}/b.png")

    def test_numbers_and_dictionaries_serve_as_ids(self, tmp_path: Path) -> None:
        uri = pa.array(["a.png", "b.png"]).dictionary_encode()
        assert ids(read_catalog(parquet(str(tmp_path), "t.parquet", uri=uri, image_id=[10, 7]))) == ["10", "7"]

    @pytest.mark.parametrize(
        ("columns", "keep", "reason"),
        [
            ({"what": ["a.png"]}, [], "no column 'uri', nor .*; its columns are what"),
            ({"uri": ["a.png"], "x": [1]}, ["x", "label"], "has no label; its columns are uri, x"),
            ({"uri": ["a.png"], "size": [1]}, ["size"], "size: the results have columns of that name"),
            ({"uri": ["a.png"], "shard": [1]}, ["shard"], "shard: the results have"),
            ({"uri": ["a.png"], "x": [1]}, ["x", "x"], "x is given more than once"),
            ({"uri": ["a.png", None]}, [], "uri is empty in 1 rows"),
            ({"uri": ["a.png", "b.png"], "image_id": ["a", None]}, [], "image_id is empty in 1 rows"),
            ({"uri": ["a.png", "b.png"], "image_id": ["a", ""]}, [], "empty image_id"),
            ({"uri": ["a.png", "b.png"], "image_id": ["a", "a"]}, [], "more than once: 'a'"),
            ({"uri": ["../a.png"]}, [], "would leave the root"),
            ({"uri": ["a.png"], "truth_uri": ["../a.png"]}, [], "would leave the root"),
            ({"uri": ["a.png"], "size": ["big"]}, [], "column size cannot be read as int64"),
            ({"uri": pa.array([], pa.string())}, [], "has no rows"),
        ],
    )
    def test_a_table_that_cannot_serve_says_why(
        self, tmp_path: Path, columns: dict[str, Any], keep: list[str], reason: str
    ) -> None:
        path = parquet(str(tmp_path), "t.parquet", **columns)
        with pytest.raises(SettingsError, match=reason):
            read_catalog(path, keep_columns=keep)

    def test_two_columns_of_one_name_are_refused(self, tmp_path: Path) -> None:
        uri, label = pa.array(["a.png"]), pa.array([1])
        pq.write_table(pa.table([uri, uri], names=["uri", "uri"]), tmp_path / "uri.parquet")
        pq.write_table(pa.table([uri, label, label], names=["uri", "x", "x"]), tmp_path / "kept.parquet")
        for name, keep in (("uri", []), ("kept", ["x"])):
            with pytest.raises(SettingsError, match="columns of the same name"):
                read_catalog(str(tmp_path / f"{name}.parquet"), keep_columns=keep)
        # what is not read may be called what it likes
        assert ids(read_catalog(str(tmp_path / "kept.parquet"))) == ["a.png"]

    def test_texts_that_are_not_utf8_are_refused(self, tmp_path: Path) -> None:
        bad = pa.array([b"caf\xe9.png"]).cast(pa.binary())
        text = pa.StringArray.from_buffers(1, bad.buffers()[1], bad.buffers()[2])
        with pytest.raises(SettingsError, match="no Parquet file that can be read"):
            read_catalog(parquet(str(tmp_path), "t.parquet", uri=text))

    @pytest.mark.parametrize(
        ("first", "second", "joined"),
        [
            (pa.nulls(1), pa.array(["x"]), pa.string()),
            (pa.array([1], pa.int32()), pa.array([2], pa.int64()), pa.int64()),
            (pa.array([1], pa.int64()), pa.array([2], pa.int32()), pa.int64()),
            (pa.array(["a"], pa.large_string()), pa.array(["b"]), pa.large_string()),
            (pa.array([[1]], pa.list_(pa.int32())), pa.array([[]], pa.list_(pa.null())), pa.list_(pa.int32())),
            (
                pa.array([{"a": 1}]),
                pa.array([{"a": None}], pa.struct([("a", pa.null())])),
                pa.struct([("a", pa.int64())]),
            ),
        ],
    )
    def test_a_kept_column_of_two_types_is_of_the_wider_one(
        self, tmp_path: Path, first: pa.Array, second: pa.Array, joined: pa.DataType
    ) -> None:
        parquet(str(tmp_path), "a.parquet", uri=["a.png"], label=first)
        parquet(str(tmp_path), "b.parquet", uri=["b.png"], label=second)
        table = read_catalog(str(tmp_path), keep_columns=["label"]).table
        assert table["label"].type == joined
        assert table["label"].to_pylist() == [*first.to_pylist(), *second.to_pylist()]

    def test_whole_numbers_that_a_wider_type_would_round_are_refused(self, tmp_path: Path) -> None:
        parquet(str(tmp_path), "a.parquet", uri=["a.png"], label=[2**53 + 1])
        parquet(str(tmp_path), "b.parquet", uri=["b.png"], label=[0.5])
        with pytest.raises(SettingsError, match="cannot be joined"):
            read_catalog(str(tmp_path), keep_columns=["label"])

    def test_own_columns_may_differ_in_type_from_file_to_file(self, tmp_path: Path) -> None:
        columns = {"uri": ["a.png"], "size": pa.array([1], pa.int32()), "etag": pa.nulls(1), "image_id": [7]}
        parquet(str(tmp_path), "a.parquet", **columns)
        parquet(str(tmp_path), "b.parquet", uri=pa.array(["b.png"], pa.large_string()), image_id=["eight"])
        assert ids(read_catalog(str(tmp_path))) == ["7", "eight"]

    def test_tables_of_types_that_do_not_go_together_are_refused_by_name(self, tmp_path: Path) -> None:
        parquet(str(tmp_path), "a.parquet", uri=["a.png"], label=[1])
        parquet(str(tmp_path), "b.parquet", uri=["b.png"], label=["one"])
        expected = r"label is int64 in \S+/a\.parquet and string in \S+/b\.parquet, and no type holds both\. To mend it"
        with pytest.raises(SettingsError, match=expected):
            read_catalog(str(tmp_path), keep_columns=["label"])

    def test_a_missing_table_and_one_that_is_no_parquet_are_refused(self, out_url: str) -> None:
        fill(out_url, ["no.parquet"])
        with pytest.raises(SettingsError, match=r"no\.parquet is no Parquet file"):
            read_catalog(f"{out_url}/no.parquet")
        with pytest.raises(SettingsError, match=r"gone\.parquet"):
            read_catalog(f"{out_url}/gone.parquet")


class TestTruth:
    def test_masks_join_by_sub_folder_and_stem_on_every_storage(self, out_url: str) -> None:
        images = fill(f"{out_url}/images", ["b.jpg", "x/a.JPG", "y/a.jpg", "v1.2.jpg"])
        masks = fill(f"{out_url}/masks", ["x/a.png", "b.PNG", "y/a.tif", "v1.2.png", "readme.md"])
        catalog = read_catalog(images, truth=masks)
        assert truths(catalog) == {"b.jpg": "b.PNG", "v1.2.jpg": "v1.2.png", "x/a.JPG": "x/a.png", "y/a.jpg": "y/a.tif"}
        assert catalog.notes == []

    def test_position_never_counts(self, tmp_path: Path) -> None:
        images = fill(f"{tmp_path}/images", ["a.jpg", "b.jpg", "c.jpg"])
        masks = fill(f"{tmp_path}/masks", ["b.png", "c.png", "d.png"])
        catalog = read_catalog(images, truth=masks)
        assert truths(catalog) == {"a.jpg": None, "b.jpg": "b.png", "c.jpg": "c.png"}
        assert catalog.notes == [
            "1 of 3 images have no truth: 'a.jpg'",
            "1 truth files belong to no image: 'd.png'",
        ]

    def test_notes_name_five_and_count_all(self, tmp_path: Path) -> None:
        images = fill(f"{tmp_path}/images", ["hit.jpg", *(f"{n}.jpg" for n in range(8))])
        masks = fill(f"{tmp_path}/masks", ["hit.png"])
        assert read_catalog(images, truth=masks).notes == [
            "8 of 9 images have no truth: '0.jpg', '1.jpg', '2.jpg', '3.jpg', '4.jpg' and 3 more"
        ]

    def test_lists_and_tables_join_by_the_stem_of_their_ids(self, tmp_path: Path) -> None:
        masks = fill(f"{tmp_path}/masks", ["x/a.png", "frame 1.5.png"])
        listed = read_catalog(text_list(tmp_path, "x/a.jpg\nframe 1.5.webp\n"), truth=masks)
        assert truths(listed) == {"x/a.jpg": "x/a.png", "frame 1.5.webp": "frame 1.5.png"}
        path = parquet(str(tmp_path), "t.parquet", uri=["1.jpg", "2.jpg"], image_id=["x/a", "frame 1.5"])
        assert truths(read_catalog(path, truth=masks)) == {"x/a": "x/a.png", "frame 1.5": "frame 1.5.png"}

    def test_two_masks_of_one_stem_are_refused_by_name(self, tmp_path: Path) -> None:
        images = fill(f"{tmp_path}/images", ["a.jpg", "b.jpg"])
        masks = fill(f"{tmp_path}/masks", ["a.png", "b.png", "b.bmp"])
        with pytest.raises(SettingsError, match=r"more than one file for 'b'\."):
            read_catalog(images, truth=masks)

    def test_two_images_of_one_stem_cannot_share_a_mask(self, tmp_path: Path) -> None:
        images = fill(f"{tmp_path}/images", ["a.jpg", "a.png", "b.jpg"])
        masks = fill(f"{tmp_path}/masks", ["a.png", "b.png"])
        with pytest.raises(SettingsError, match=r"more than one image would get the same truth: 'a'\."):
            read_catalog(images, truth=masks)

    def test_no_match_at_all_shows_one_name_of_each_side(self, tmp_path: Path) -> None:
        images = fill(f"{tmp_path}/images", ["a.jpg"])
        masks = fill(f"{tmp_path}/masks", ["a_mask.png"])
        with pytest.raises(SettingsError, match=r"'a_mask\.png'.*'a\.jpg'"):
            read_catalog(images, truth=masks)
        with pytest.raises(SettingsError, match=r"none ends in \.jpg .*\.npz \.mat"):
            read_catalog(images, truth=fill(f"{tmp_path}/texts", ["a.txt"]))

    def test_masks_inside_the_images_folder_are_no_images(self, out_url: str) -> None:
        fill(out_url, ["a.jpg", "b.jpg", "masks/a.png", "masks/b.png", "masks2/c.jpg"])
        catalog = read_catalog(out_url, truth=f"{out_url}/masks")
        assert truths(catalog) == {"a.jpg": "masks/a.png", "b.jpg": "masks/b.png", "masks2/c.jpg": None}

    def test_the_images_cannot_be_their_own_truth(self, tmp_path: Path) -> None:
        fill(str(tmp_path), ["a.png"])
        with pytest.raises(SettingsError, match="IMAGES itself"):
            read_catalog(str(tmp_path), truth=f"{tmp_path}/")

    def test_a_missing_truth_folder_is_refused(self, out_url: str) -> None:
        images = fill(f"{out_url}/images", ["a.png"])
        with pytest.raises(SettingsError, match=r"truth: .*gone"):
            read_catalog(images, truth=f"{out_url}/gone")

    def test_truth_cannot_come_from_two_places(self, tmp_path: Path) -> None:
        masks = fill(f"{tmp_path}/masks", ["a.png"])
        path = parquet(str(tmp_path), "t.parquet", uri=["a.jpg"], truth_uri=["a.png"])
        with pytest.raises(SettingsError, match="truth_uri"):
            read_catalog(path, truth=masks)

    @pytest.mark.parametrize("suffix", ["npz", "NPZ", "mat"])
    def test_partitions_join_like_masks_and_say_what_they_are(self, out_url: str, suffix: str) -> None:
        images = fill(f"{out_url}/images", ["b.jpg", "x/a.jpg"])
        partitions = fill(f"{out_url}/partitions", [f"x/a.{suffix}", f"b.{suffix}", "readme.md"])
        catalog = read_catalog(images, truth=partitions)
        assert truths(catalog) == {"b.jpg": f"b.{suffix}", "x/a.jpg": f"x/a.{suffix}"}
        assert (catalog.truth_kind, catalog.notes) == ("partitions", [])

    def test_a_table_names_partitions_in_its_own_column(self, tmp_path: Path) -> None:
        uris, remote = ["a.jpg", "b.jpg"], "https://photos.example/b.npz?version=2"
        path = parquet(str(tmp_path), "t.parquet", uri=uris, truth_uri=pa.array([None, remote], pa.string()))
        assert read_catalog(path).truth_kind == "partitions"
        assert read_catalog(path, limit=1).truth_kind == "partitions"

    def test_image_files_and_no_truth_have_no_kind_of_their_own(self, tmp_path: Path) -> None:
        images = fill(f"{tmp_path}/images", ["a.jpg"])
        assert read_catalog(images).truth_kind is None
        assert read_catalog(images, truth=fill(f"{tmp_path}/masks", ["a.png"])).truth_kind is None
        named = parquet(str(tmp_path), "t.parquet", uri=["a.jpg"], truth_uri=["npz/a.mat.png"])
        assert read_catalog(named).truth_kind is None

    def test_two_kinds_of_truth_are_refused_with_one_of_each(self, tmp_path: Path) -> None:
        images = fill(f"{tmp_path}/images", ["a.jpg", "b.jpg"])
        with pytest.raises(SettingsError, match=r"has partitions, such as 'b\.npz', and image files, such as 'a\.png'"):
            read_catalog(images, truth=fill(f"{tmp_path}/mixed", ["a.png", "b.npz"]))
        path = parquet(str(tmp_path), "t.parquet", uri=["a.jpg", "b.jpg"], truth_uri=["a.png", "b.mat"])
        with pytest.raises(SettingsError, match=r"has partitions, such as '.*b\.mat', and image files"):
            read_catalog(path)


def test_the_berkeley_images_all_have_their_partitions(test_data: Path) -> None:
    berkeley = test_data / "bsds500"
    catalog = read_catalog(str(berkeley / "images"), truth=str(berkeley / "partitions"))
    assert (catalog.table.num_rows, catalog.table["truth_uri"].null_count, catalog.notes) == (40, 0, [])
    assert catalog.truth_kind == "partitions"


def test_the_horses_all_have_their_masks(test_data: Path) -> None:
    horses = test_data / "weizmann_horses"
    catalog = read_catalog(str(horses / "images"), truth=str(horses / "masks"))
    assert (catalog.table.num_rows, catalog.table["truth_uri"].null_count, catalog.notes) == (109, 0, [])
    for row in catalog.table.to_pylist():
        assert Path(row["uri"]).stem == Path(row["truth_uri"]).stem


def test_messages_hold_no_credentials(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read_catalog(f"memory://user:hunter2@{tmp_path.name}/none")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "https://person:secret@photos.example/a.jpg",
        "https://photos.example/a.jpg?X-Amz-Credential=abc&X-Amz-Signature=0123",
        "https://photos.example/a.jpg?sv=2024&sig=0123",
        "https://photos.example/a.jpg#access_token=0123",
    ],
)
def test_urls_that_carry_credentials_are_refused_without_showing_them(tmp_path: Path, uri: str) -> None:
    with pytest.raises(SettingsError, match="carry a password, key or signature") as refusal:
        read_catalog(text_list(tmp_path, f"https://photos.example/b.jpg\n{uri}\n"))
    assert "secret" not in str(refusal.value)
    assert "0123" not in str(refusal.value)


def test_truth_that_carries_credentials_is_refused_too(tmp_path: Path) -> None:
    table = {
        "uri": ["https://photos.example/a.jpg"],
        "truth_uri": ["https://photos.example/a.png?X-Amz-Signature=0123"],
    }
    pq.write_table(pa.table(table), tmp_path / "table.parquet")
    with pytest.raises(SettingsError, match="carry a password, key or signature") as refusal:
        read_catalog(str(tmp_path / "table.parquet"))
    assert "0123" not in str(refusal.value)


def test_urls_with_harmless_queries_are_taken(tmp_path: Path) -> None:
    uri = "https://photos.example/a.jpg?width=300&version=2"
    assert read_catalog(text_list(tmp_path, uri)).table["uri"].to_pylist() == [uri]


@pytest.mark.parametrize(
    "name", ["a?token=1.png", "a;key=2.png", "a#secret=3.png", "a&auth=4.png", "a?X-Amz-Signature=5.png"]
)
def test_keys_in_a_bucket_are_names_and_hold_no_credentials(s3_url: str, tmp_path: Path, name: str) -> None:
    fill(s3_url, [name])
    assert ids(read_catalog(s3_url)) == [name]
    assert read_catalog(text_list(tmp_path, f"{s3_url}/{name}")).table["uri"].to_pylist() == [f"{s3_url}/{name}"]
    with pytest.raises(SettingsError, match="carry a password, key or signature"):
        read_catalog(text_list(tmp_path, "s3://person:secret@bucket/a.png"))


def test_a_key_that_goes_on_after_the_suffix_of_partitions_is_an_image(s3_url: str, tmp_path: Path) -> None:
    images = fill(f"{tmp_path}/images", ["a.npz?b.jpg"])
    assert read_catalog(images, truth=fill(s3_url, ["a.npz?b.png"])).truth_kind is None
