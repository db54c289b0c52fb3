"""Input as people have it: one file, a pattern, a table of any columns, an archive, several paths, or OUT first."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import csv as pa_csv
from result_rows import rows_of
from s3_server import S3Server

from simsam_batch.catalog import Catalog, read_catalog, read_pairs
from simsam_batch.cli import run
from simsam_batch.errors import SettingsError
from simsam_batch.storage import Folder, ObjectNotFound, read_url

QUICK = ["--backbone", "descriptors", "--engine", "inline", "--resize", "64x96", "--quiet"]


def picture(seed: int, kind: str = "PNG") -> bytes:
    """A file of noise, another one for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, kind)
    return target.getvalue()


def fill(url: str, names: Iterable[str]) -> str:
    """Pictures of these names, each of its own pixels."""
    folder = Folder(url)
    for seed, name in enumerate(names):
        folder.replace(name, picture(seed, "JPEG" if name.lower().endswith("jpg") else "PNG"))
    return url


def ids(catalog: Catalog) -> list[str]:
    return list(catalog.table["image_id"].to_pylist())


def rows_by_image(out: Path) -> dict[str, dict[str, Any]]:
    """The rows of a run of segment."""
    return {row["image_id"]: row for row in rows_of(out, "segment")}


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command that cannot run says."""

    def on(*arguments: str) -> str:
        assert run([*arguments, *QUICK]) == 1
        return capsys.readouterr().err

    return on


class TestOneFile:
    def test_it_is_a_catalog_of_one_on_every_storage(self, out_url: str) -> None:
        fill(out_url, ["photos/a b.JPG", "photos/c.png"])
        catalog = read_catalog(f"{out_url}/photos/a b.JPG")
        (row,) = catalog.table.to_pylist()
        assert row["image_id"] == "a b.JPG"
        assert row["size"] == len(read_url(row["uri"])) == len(picture(0, "JPEG"))
        (listed,) = [each for each in read_catalog(f"{out_url}/photos").table.to_pylist() if "a b" in each["image_id"]]
        # of one object of fsspec's memory there are two spellings
        assert listed | {"uri": ""} == row | {"uri": ""}

    def test_truth_is_joined_as_to_a_folder(self, tmp_path: Path) -> None:
        fill(str(tmp_path), ["photos/a.jpg", "masks/a.png", "masks/b.png"])
        catalog = read_catalog(f"{tmp_path}/photos/a.jpg", truth=f"{tmp_path}/masks")
        assert catalog.table["truth_uri"].to_pylist() == [f"{tmp_path}/masks/a.png"]

    def test_a_run_of_it_is_gone_on_with(self, tmp_path: Path) -> None:
        fill(str(tmp_path), ["a.png"])
        command = ["segment", f"{tmp_path}/a.png", f"{tmp_path}/out", *QUICK]
        assert [run(command), run(command)] == [0, 0]
        assert [(name, row["status"]) for name, row in rows_by_image(tmp_path / "out").items()] == [("a.png", "ok")]

    def test_a_video_and_a_file_that_is_not_there_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "clip.mp4").write_bytes(b"x")
        with pytest.raises(SettingsError, match=r"clip\.mp4 is video, which is not read\. To mend it: write frames"):
            read_catalog(str(tmp_path / "clip.mp4"))
        with pytest.raises(SettingsError, match="there is no such folder"):
            read_catalog(str(tmp_path / "a.png"))


class TestPatterns:
    NAMES = ("a.jpg", "b.png", "sub/c.jpg", "sub/deep/d.jpg", "sub/.hidden.jpg", "e.JPG")

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("*.jpg", ["a.jpg"]),
            ("**/*.jpg", ["a.jpg", "sub/c.jpg", "sub/deep/d.jpg"]),
            ("**", ["a.jpg", "b.png", "e.JPG", "sub/c.jpg", "sub/deep/d.jpg"]),
            ("sub/*", ["c.jpg"]),
            ("s?b/**/d.jpg", ["sub/deep/d.jpg"]),
            ("[ab].*", ["a.jpg", "b.png"]),
            ("*.[jJ][pP][gG]", ["a.jpg", "e.JPG"]),
        ],
    )
    def test_names_count_from_the_folder_before_the_pattern(
        self, out_url: str, pattern: str, expected: list[str]
    ) -> None:
        fill(out_url, self.NAMES)
        catalog = read_catalog(f"{out_url}/{pattern}")
        assert ids(catalog) == expected
        listed = {row["image_id"]: row for row in read_catalog(out_url).table.to_pylist()}
        for row in catalog.table.to_pylist():
            (same,) = [each for each in listed.values() if each["uri"] == row["uri"]]
            assert same == row | {"image_id": same["image_id"]}

    def test_others_that_match_and_hidden_ones_are_said_and_no_others(self, tmp_path: Path) -> None:
        fill(str(tmp_path), self.NAMES)
        (tmp_path / "sub" / "notes.txt").write_text("x")
        (tmp_path / "else.txt").write_text("x")
        catalog = read_catalog(f"{tmp_path}/sub/*")
        assert [note.partition(" of ")[0] for note in catalog.notes] == ["1 file", "1 file"]
        assert "not in the catalog: .txt 1" in catalog.notes[0]
        assert "'.hidden.jpg'. To take them: --hidden" in catalog.notes[1]
        assert ids(read_catalog(f"{tmp_path}/sub/*", hidden=True)) == [".hidden.jpg", "c.jpg"]

    def test_a_run_in_the_folder_is_left_out(self, tmp_path: Path) -> None:
        fill(str(tmp_path), ["a.png"])
        command = ["segment", f"{tmp_path}/**/*.png", f"{tmp_path}/out", *QUICK]
        assert [run(command), run(command)] == [0, 0]
        fill(f"{tmp_path}/out", ["report/b.png"])
        assert ids(read_catalog(f"{tmp_path}/**/*.png")) == ["a.png"]

    def test_a_name_with_such_letters_is_that_file_or_folder(self, out_url: str) -> None:
        fill(out_url, ["set[1]/a.png", "set[1]/b[0].png", "set1/c.png"])
        assert ids(read_catalog(f"{out_url}/set[1]")) == ["a.png", "b[0].png"]
        assert ids(read_catalog(f"{out_url}/set[1]/b[0].png")) == ["b[0].png"]

    def test_a_folder_with_such_letters_is_that_folder_on_a_local_disk(self, tmp_path: Path) -> None:
        fill(str(tmp_path), ["set[1]/a.png", "set1/c.png"])
        assert ids(read_catalog(f"{tmp_path}/set[1]/*.png")) == ["a.png"]
        assert ids(read_catalog(f"{tmp_path}/set[12]/*.png")) == ["set1/c.png"]

    def test_what_matches_nothing_or_is_no_pattern_is_refused(self, tmp_path: Path) -> None:
        fill(str(tmp_path), ["a.png", "notes.txt"])
        with pytest.raises(SettingsError, match=r"\*\.jpg: no file below .* matches this\. To mend it: check the"):
            read_catalog(f"{tmp_path}/*.jpg")
        with pytest.raises(SettingsError, match="no image in it: looked for"):
            read_catalog(f"{tmp_path}/notes.*")
        with pytest.raises(SettingsError, match=r"write \*\* alone between slashes"):
            read_catalog(f"{tmp_path}/**.png")
        with pytest.raises(SettingsError, match="write the bucket's name"):
            read_catalog("s3://bucket-*/a.png")


class TestTables:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("t.csv", 'file_name,caption\na.png,one\nsub/b.png,"two, of\ntwo lines"\n'),
            ("t.csv", '\ufeffcaption;PATH\r\none;a.png\r\n"two, of\ntwo lines";sub/b.png\r\n'),
            ("t.tsv", 'img\tcaption\na.png\tone\nsub/b.png\t"two, of\ntwo lines"\n'),
            (
                "t.jsonl",
                (
                    '{"image": "a.png", "caption": "one"}\n\n'
                    '{"caption": "two, of\\ntwo lines", "image": "sub/b.png", "x": [1]}'
                ),
            ),
            (
                "t.ndjson",
                '{"url": "a.png", "caption": "one"}\n{"caption": "two, of\\ntwo lines", "url": "sub/b.png"}\n',
            ),
        ],
    )
    def test_the_usual_names_are_found(self, out_url: str, name: str, content: str) -> None:
        fill(out_url, ["a.png", "sub/b.png"])
        Folder(out_url).replace(name, content.encode())
        table = read_catalog(f"{out_url}/{name}", keep_columns=["caption"]).table
        assert table["image_id"].to_pylist() == ["a.png", "sub/b.png"]
        assert table["caption"].to_pylist() == ["one", "two, of\ntwo lines"]
        assert [read_url(uri) for uri in table["uri"].to_pylist()] == [picture(0), picture(1)]

    @pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
    def test_any_other_name_is_given(self, tmp_path: Path, name: str) -> None:
        fill(str(tmp_path), ["a.png"])
        columns = {"where is it": ["a.png", "http://example.org/b.png"], "image_id": ["one", "007"], "n": [1, 2]}
        table = pa.table(columns)
        if name == "t.csv":
            pa_csv.write_csv(table, tmp_path / name)
        elif name == "t.jsonl":
            (tmp_path / name).write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
        else:
            pq.write_table(table, tmp_path / name)
        found = read_catalog(str(tmp_path / name), uri_column="where is it", keep_columns=["n"]).table
        assert found.select(["image_id", "uri", "n"]).to_pylist() == [
            {"image_id": "one", "uri": f"{tmp_path}/a.png", "n": 1},
            {"image_id": "007", "uri": "http://example.org/b.png", "n": 2},
        ]
        with pytest.raises(SettingsError) as raised:
            read_catalog(str(tmp_path / name))
        assert "its columns are where is it, image_id" in str(raised.value)
        assert "To mend it: name the one with the paths or URLs by --uri-column" in str(raised.value)
        with pytest.raises(SettingsError, match="no column 'x'; its columns are where is it, image_id"):
            read_catalog(str(tmp_path / name), uri_column="x")

    def test_uri_wins_and_of_others_nobody_guesses(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("file_name,uri\nx.png,a.png\n")
        assert ids(read_catalog(str(tmp_path / "t.csv"))) == ["a.png"]
        (tmp_path / "t.csv").write_text("file_name,url\nx.png,a.png\n")
        with pytest.raises(SettingsError, match=r"several columns that may name images: file_name, url\. To mend it"):
            read_catalog(str(tmp_path / "t.csv"))
        assert ids(read_catalog(str(tmp_path / "t.csv"), uri_column="url")) == ["a.png"]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("t.csv", b"path,n\na.png\n", "cannot be read as a table of UTF-8 text: .*Expected 2 columns, got 1"),
            ("t.csv", b"path\n\xff\n", "cannot be read as a table of UTF-8 text"),
            ("t.csv", b"path,n\n,1\n", "column path is empty in 1 rows"),
            ("t.csv", b"path\n", "has no rows"),
            ("t.csv", b"", "cannot be read as a table|no column 'uri'"),
            ("t.csv", b"path,path\na.png,b.png\n", "several columns that may name images|columns of the same name"),
            ("t.jsonl", b'{"path": "a.png"}\n{"path"\n', "line 2 is not JSON"),
            ("t.jsonl", b'["a.png"]\n', "line 1 is no object with names"),
            ("t.jsonl", b'{"path": "a.png"}\n{"n": 1}\n', "column path is empty in 1 rows"),
            ("t.jsonl", b'{"path": "a.png"}\n{"path": 1}\n', "column path is not of one type"),
            ("t.jsonl", b"\n", "has no rows"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path: Path, name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SettingsError, match=message):
            read_catalog(str(tmp_path / name))

    def test_a_run_keeps_to_the_column_it_was_planned_with(self, tmp_path: Path, said: Callable[..., str]) -> None:
        fill(str(tmp_path), ["a.png", "b.png"])
        (tmp_path / "t.csv").write_text("left,right\na.png,b.png\n")
        command = ["segment", f"{tmp_path}/t.csv", f"{tmp_path}/out"]
        assert run([*command, "--uri-column", "right", *QUICK]) == 0
        assert run([*command, "--uri-column", "right", *QUICK]) == 0
        assert list(rows_by_image(tmp_path / "out")) == ["b.png"]
        assert "uri_column: the run in OUT has 'right', this command has 'left'" in said(
            *command, "--uri-column", "left"
        )
        assert "uri_column: the run in OUT has 'right', this command has None" in said(*command)

    def test_where_there_is_no_table_it_has_no_meaning(self, tmp_path: Path) -> None:
        fill(str(tmp_path), ["a.png"])
        (tmp_path / "list.txt").write_text("a.png")
        for images in (f"{tmp_path}", f"{tmp_path}/list.txt"):
            with pytest.raises(SettingsError, match="uri_column: path has no meaning for a"):
                read_catalog(images, uri_column="path")


class TestSeveral:
    def test_ids_count_from_the_folder_above_all(self, out_url: str) -> None:
        fill(out_url, ["cats/a.jpg", "cats/more/b.jpg", "dogs/a.jpg", "c.png", "d.png"])
        found = read_catalog([f"{out_url}/dogs", f"{out_url}/cats", f"{out_url}/d.png"])
        assert ids(found) == ["cats/a.jpg", "cats/more/b.jpg", "d.png", "dogs/a.jpg"]
        whole = {row["image_id"]: row for row in read_catalog(out_url).table.to_pylist()}
        for row in found.table.to_pylist():
            same = whole[row["image_id"]]
            # of one object of fsspec's memory there are two spellings
            assert row == same | {"uri": row["uri"]}
            assert read_url(row["uri"]) == read_url(same["uri"])
        files = [f"{out_url}/cats/more/b.jpg", f"{out_url}/cats/a.jpg"]
        assert ids(read_catalog(files)) == ["a.jpg", "more/b.jpg"]
        assert ids(read_catalog([f"{out_url}/*.png", f"{out_url}/dogs/*"])) == ["c.png", "d.png", "dogs/a.jpg"]

    def test_what_is_named_twice_is_one(self, tmp_path: Path) -> None:
        fill(str(tmp_path), ["a.png", "sub/b.png"])
        named = [f"{tmp_path}/a.png", f"{tmp_path}/sub/../a.png", f"{tmp_path}", f"{tmp_path}/sub"]
        assert ids(read_catalog(named)) == ["a.png", "sub/b.png"]
        assert ids(read_catalog([f"{tmp_path}/a.png"])) == ["a.png"]

    def test_places_with_nothing_in_common(self, s3_url: str, tmp_path: Path) -> None:
        fill(str(tmp_path), ["a.png"])
        fill(s3_url, ["b.png"])
        assert ids(read_catalog([s3_url, f"{tmp_path}/a.png"])) == [f"{tmp_path}/a.png", f"{s3_url}/b.png"]

    def test_truth_is_joined_by_these_ids(self, tmp_path: Path) -> None:
        fill(str(tmp_path), ["cats/a.jpg", "dogs/a.jpg", "masks/cats/a.png", "masks/dogs/a.png"])
        found = read_catalog([f"{tmp_path}/cats", f"{tmp_path}/dogs"], truth=f"{tmp_path}/masks").table
        expected = [f"{tmp_path}/masks/cats/a.png", f"{tmp_path}/masks/dogs/a.png"]
        assert found["truth_uri"].to_pylist() == expected

    def test_as_a_shell_makes_them_of_a_pattern(self, tmp_path: Path, said: Callable[..., str]) -> None:
        photos = fill(str(tmp_path / "photos"), [f"{i}.png" for i in range(7)])
        (tmp_path / "photos" / "Thumbs.db").write_bytes(b"x")
        (tmp_path / "photos" / "clip.mp4").write_bytes(b"x")
        shell = sorted(map(str, Path(photos).iterdir()))
        out = tmp_path / "out"
        assert run(["segment", *shell, str(out), *QUICK, "--allow-failed", "0.5"]) == 0
        assert run(["segment", *reversed(shell), str(out), *QUICK, "--allow-failed", "0.5"]) == 0
        rows = rows_by_image(out)
        assert list(rows) == [*(f"{i}.png" for i in range(7)), "clip.mp4"]
        assert [row["status"] for row in rows.values()] == ["ok"] * 7 + ["failed"]
        assert json.loads((out / "run.json").read_text())["source"]["images"] == shell
        text = said("segment", *shell[:6], str(out))
        assert "images: the run in OUT has [" in text
        assert " and 4 more, this command has [" in text
        assert said("segment", str(out), str(tmp_path / "other")).count(f"a run about '{photos}/0.png', ") == 1

    def test_out_forgotten(self, tmp_path: Path, said: Callable[..., str]) -> None:
        fill(str(tmp_path), [f"{i}.png" for i in range(5)])
        shell = [f"{tmp_path}/{i}.png" for i in range(5)]
        text = said("segment", *shell)
        assert f"OUT: {shell[4]} is an image file" in text
        assert f"To mend it: simsam segment {' '.join(shell[:3])} ... {shell[4]} OUT\n" in text
        assert "segment needs IMAGES and OUT" in said("segment", shell[0])

    def test_lists_tables_and_datasets_are_given_alone(self, tmp_path: Path) -> None:
        fill(str(tmp_path), ["a.png"])
        (tmp_path / "list.txt").write_text("a.png")
        for other in (f"{tmp_path}/list.txt", "t.CSV", f"ecssd:{tmp_path}"):
            with pytest.raises(SettingsError, match="can only be given alone"):
                read_catalog([f"{tmp_path}/a.png", other])
        with pytest.raises(SettingsError, match="there is no such folder"):
            read_catalog([f"{tmp_path}/a.png", f"{tmp_path}/b.png"])

    def test_none_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="no path is given"):
            read_catalog([])

    def test_pairs_of_several(self, tmp_path: Path) -> None:
        fill(str(tmp_path), ["a.png", "sub/b.png"])
        found = read_pairs([f"{tmp_path}/a.png", f"{tmp_path}/sub/b.png"], pairs="all")
        assert found.pairs is not None
        assert found.pairs["pair_id"].to_pylist() == ["a.png:sub/b.png", "sub/b.png:a.png"]


def packed(kind: str, names: Iterable[str]) -> bytes:
    """An archive of pictures of these names, each of its own pixels; every second one of a zip is deflated."""
    target = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(target, "w") as archive:
            for seed, name in enumerate(names):
                archive.writestr(name, picture(seed), zipfile.ZIP_DEFLATED if seed % 2 else zipfile.ZIP_STORED)
    else:
        with tarfile.open(fileobj=target, mode="w") as archive:
            for seed, name in enumerate(names):
                info = tarfile.TarInfo(name)
                info.size = len(picture(seed))
                archive.addfile(info, io.BytesIO(picture(seed)))
    return target.getvalue()


def with_bytes(data: bytes, at: int, changed: bytes) -> bytes:
    return data[:at] + changed + data[at + len(changed) :]


class TestArchives:
    NAMES = ("b.png", "sub/a ä.png", "./c.png", "sub/#1.png", "notes.txt", ".hidden.png", "long/" + 120 * "x" + ".png")

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_members_are_images_on_every_storage(self, out_url: str, kind: str) -> None:
        Folder(out_url).replace(f"Set.{kind}", packed(kind, self.NAMES))
        catalog = read_catalog(f"{out_url}/Set.{kind}")
        expected = {"b.png": 0, "c.png": 2, self.NAMES[6]: 6, "sub/#1.png": 3, "sub/a ä.png": 1}
        assert ids(catalog) == list(expected)
        assert [note.partition(" of ")[0] for note in catalog.notes] == ["1 file", "1 file"]
        for row in catalog.table.to_pylist():
            content = picture(expected[row["image_id"]])
            assert row["uri"] == f"{out_url}/Set.{kind}#{row['image_id']}"
            assert row["size"] == len(content)
            assert read_url(row["uri"]) == content
            assert read_url(row["uri"], 100) == content[:101]
            assert read_url(row["uri"], len(content)) == content
        with pytest.raises(ObjectNotFound, match="the archive has no such member"):
            read_url(f"{out_url}/Set.{kind}#none.png")

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_an_image_costs_one_request_of_its_own_size(self, s3_url: str, moto_server: S3Server, kind: str) -> None:
        names = [f"{i}.png" for i in range(40)]
        data = packed(kind, names)
        Folder(s3_url).replace(f"a.{kind}", data)
        uris = read_catalog(f"{s3_url}/a.{kind}").table["uri"].to_pylist()
        asked: list[str] = []
        moto_server.fault = lambda method, path: asked.append(f"{method} {path}") or ""
        try:
            for uri in uris:
                read_url(uri)
        finally:
            moto_server.heal()
        assert len(asked) == 40
        assert all(each.startswith("GET ") for each in asked)

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_a_run_is_that_of_the_same_files_unpacked(self, tmp_path: Path, kind: str) -> None:
        names = ["a.png", "sub/b.png", "sub/c.png"]
        (tmp_path / f"set.{kind}").write_bytes(packed(kind, names))
        fill(str(tmp_path / "set"), [])
        for seed, name in enumerate(names):
            Folder(str(tmp_path / "set")).replace(name, picture(seed))
        for images in (f"set.{kind}", "set"):
            command = ["segment", f"{tmp_path}/{images}", f"{tmp_path}/out-{images}", *QUICK]
            assert [run(command), run(command)] == [0, 0]
        one, other = rows_by_image(tmp_path / f"out-set.{kind}"), rows_by_image(tmp_path / "out-set")
        assert list(one) == list(other) == names
        for name in names:
            assert one[name]["uri"] == f"{tmp_path}/set.{kind}#{name}"
            assert not one[name]["changed_since_plan"]
            same = ("status", "content_sha256", "mask_rle", "confidence", "width", "height")
            assert [one[name][key] for key in same] == [other[name][key] for key in same]
        # these take the images along
        to = tmp_path / "as-yolo"
        assert run(["export", f"{tmp_path}/out-set.{kind}", "--to", str(to), "--format", "yolo"]) == 0
        assert sorted(path.read_bytes() for path in to.rglob("*.png")) == sorted(picture(seed) for seed in range(3))
        assert run(["report", f"{tmp_path}/out-set.{kind}"]) == 0

    def test_bad_members_fail_and_cost_no_other(self, tmp_path: Path) -> None:
        names = ["a.png", "deflated.png", "stored.png", "secret.png", "bz2.png", "moved.png", "z.png"]
        data = packed("zip", names)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = {info.filename: info for info in archive.infolist()}
        for name in ("deflated.png", "stored.png"):
            data = with_bytes(data, infos[name].header_offset + 200, b"\xff" * 40)
        # in the directory, the flags are two bytes, and then the method, 8 and 10 bytes behind the signature
        for name, place, value in (("secret.png", 8, b"\1\0"), ("bz2.png", 10, b"\x0c\0")):
            entry = data.rindex(name.encode()) - 46
            assert data[entry : entry + 4] == b"PK\1\2"
            data = with_bytes(data, entry + place, value)
        data = with_bytes(data, infos["moved.png"].header_offset, b"PKxx")
        (tmp_path / "set.zip").write_bytes(data)
        command = ["segment", f"{tmp_path}/set.zip", f"{tmp_path}/out", *QUICK]
        assert run(command) == 3
        rows = rows_by_image(tmp_path / "out")
        assert {name: row["error_type"] for name, row in rows.items()} == {
            "a.png": None,
            "bz2.png": "unsupported",
            "deflated.png": "undecodable",
            "moved.png": "undecodable",
            "secret.png": "unsupported",
            "stored.png": "undecodable",
            "z.png": None,
        }
        assert "it is encrypted. To mend it: unpack the archive with its password" in rows["secret.png"]["error"]
        assert "it is packed by bzip2, which is not read. To mend it" in rows["bz2.png"]["error"]
        assert "another checksum than is listed. To mend it" in rows["stored.png"]["error"]
        assert "is not where the archive's own list says" in rows["moved.png"]["error"]
        assert rows["deflated.png"]["failed_step"] == "read"

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_one_that_is_cut_or_none_is_refused(self, tmp_path: Path, kind: str) -> None:
        data = packed(kind, ["a.png", "b.png"])
        for name, content in (("cut", data[: len(data) // 2]), ("empty", b""), ("other", b"x" * 5000)):
            (tmp_path / f"{name}.{kind}").write_bytes(content)
            with pytest.raises(SettingsError, match=r"no archive of its kind, or not whole: .*To mend it: copy it"):
                read_catalog(f"{tmp_path}/{name}.{kind}")
        (tmp_path / f"text.{kind}").write_bytes(packed(kind, ["notes.txt"]))
        with pytest.raises(SettingsError, match="no image in it"):
            read_catalog(f"{tmp_path}/text.{kind}")
        with pytest.raises(SettingsError, match="there is no such folder"):
            read_catalog(f"{tmp_path}/none.{kind}")

    def test_packed_tars_are_refused_with_a_mend(self, tmp_path: Path) -> None:
        (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b")
        with pytest.raises(SettingsError, match=r"To mend it: unpack it, and give the folder, the plain \.tar"):
            read_catalog(f"{tmp_path}/a.tar.gz")

    def test_another_archive_of_that_name_is_listed_anew(self, out_url: str) -> None:
        folder = Folder(out_url)
        for kind in ("zip", "tar"):
            folder.replace(f"a.{kind}", packed(kind, ["a.png", "b.png"]))
            assert read_url(f"{out_url}/a.{kind}#b.png") == picture(1)
            folder.replace(f"a.{kind}", packed(kind, ["0.png", "longer name.png", "b.png"]))
            assert read_url(f"{out_url}/a.{kind}#b.png") == picture(2)
            folder.replace(f"a.{kind}", packed(kind, ["b.png"]))
            assert read_url(f"{out_url}/a.{kind}#b.png") == picture(0)

    def test_of_two_members_of_one_name_the_last_counts(self, tmp_path: Path) -> None:
        (tmp_path / "a.tar").write_bytes(packed("tar", ["a.png", "b.png", "./a.png"]))
        assert read_url(f"{tmp_path}/a.tar#a.png") == picture(2)
        assert ids(read_catalog(f"{tmp_path}/a.tar")) == ["a.png", "b.png"]

    def test_a_second_name_of_a_file_in_a_tar_is_an_image_too(self, tmp_path: Path) -> None:
        (tmp_path / "set").mkdir()
        (tmp_path / "set/a.png").write_bytes(picture(3))
        (tmp_path / "set/b.png").hardlink_to(tmp_path / "set/a.png")
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            archive.add(tmp_path / "set", arcname=".")
        with tarfile.open(tmp_path / "a.tar") as archive:
            assert [member.islnk() for member in archive if member.name.endswith(".png")] == [False, True]
        table = read_catalog(f"{tmp_path}/a.tar").table
        assert table["image_id"].to_pylist() == ["a.png", "b.png"]
        assert [read_url(uri) for uri in table["uri"].to_pylist()] == [picture(3)] * 2

    def test_truth_and_lists_of_members_and_several_archives(self, tmp_path: Path) -> None:
        for name in ("one.zip", "two.tar", "masks.zip"):
            (tmp_path / name).write_bytes(packed(name[-3:], ["x/a.png", "b.png"]))
        found = read_catalog(f"{tmp_path}/one.zip", truth=f"{tmp_path}/masks.zip").table
        assert found["truth_uri"].to_pylist() == [f"{tmp_path}/masks.zip#b.png", f"{tmp_path}/masks.zip#x/a.png"]
        expected = ["one.zip/b.png", "one.zip/x/a.png", "two.tar/b.png", "two.tar/x/a.png"]
        assert ids(read_catalog([f"{tmp_path}/one.zip", f"{tmp_path}/two.tar"])) == expected
        assert ids(read_catalog(f"{tmp_path}/[ot][nw]*.zip")) == ["b.png", "x/a.png"]
        (tmp_path / "list.txt").write_text("one.zip#x/a.png\n")
        (row,) = read_catalog(f"{tmp_path}/list.txt").table.to_pylist()
        assert read_url(row["uri"]) == picture(0)

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_a_folder_or_one_image_in_it(self, out_url: str, kind: str) -> None:
        names = ["set/images/a.png", "set/images/b/c.png", "set/masks/a.png", "set/masks/b/c.png", "set/images.png"]
        Folder(out_url).replace(f"a.{kind}", packed(kind, names))
        archive = f"{out_url}/a.{kind}"
        found = read_catalog(f"{archive}#set/images/", truth=f"{archive}#set/masks").table
        assert found["image_id"].to_pylist() == ["a.png", "b/c.png"]
        assert found["uri"].to_pylist() == [f"{archive}#{name}" for name in names[:2]]
        assert found["truth_uri"].to_pylist() == [f"{archive}#{name}" for name in names[2:4]]
        assert ids(read_catalog(f"{archive}#set/*/*.png")) == ["images/a.png", "masks/a.png"]
        (row,) = read_catalog(f"{archive}#set/images/a.png").table.to_pylist()
        assert (row["image_id"], row["uri"], row["size"]) == ("a.png", f"{archive}#{names[0]}", len(picture(0)))
        with pytest.raises(SettingsError, match="the archive has no such folder"):
            read_catalog(f"{archive}#set/none")

    def test_a_key_that_looks_like_a_member_or_row(self, out_url: str) -> None:
        names = ["t.parquet#x/1", "set.zip#1/a.png", "set.tar#1/2/b.png"]
        fill(out_url, names)
        assert ids(read_catalog(out_url)) == names[:0:-1]
        assert [read_url(f"{out_url}/{name}") for name in names] == [picture(seed) for seed in range(3)]
        with pytest.raises(ObjectNotFound, match=r"set\.zip"):
            read_url(f"{out_url}/set.zip#1/none.png")

    def test_a_folder_or_file_whose_name_looks_like_one(self, tmp_path: Path) -> None:
        fill(str(tmp_path), ["set.zip/a.png", "b.zip#c.png"])
        assert ids(read_catalog(f"{tmp_path}/set.zip")) == ["a.png"]
        assert ids(read_catalog(f"{tmp_path}/b.zip#c.png")) == ["b.zip#c.png"]
        assert read_url(f"{tmp_path}/b.zip#c.png") == picture(1, "PNG")


class TestHuggingFace:
    """What ``datasets`` itself writes, read without it."""

    @staticmethod
    def made(rows: int) -> Any:
        import datasets

        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        images = [{"bytes": picture(row), "path": "same name.png"} for row in range(rows)]
        return datasets.Dataset.from_dict({"image": images, "label": list(range(rows))}, features=features)

    def test_a_saved_dataset_and_one_of_its_splits(self, tmp_path: Path) -> None:
        import datasets

        made = self.made(7)
        both = datasets.DatasetDict({"train": made.select(range(4)), "test": made.select(range(4, 7))})
        both.save_to_disk(tmp_path / "both", num_shards={"train": 2, "test": 1})
        (tmp_path / "both" / "train" / "cache-0123.arrow").write_bytes(b"of datasets itself")
        table = read_catalog(f"{tmp_path}/both", keep_columns=["label"]).table
        assert table["image_id"].to_pylist() == [
            *(f"test/data-00000-of-00001/{row}" for row in range(3)),
            *(f"train/data-{shard:05}-of-00002/{row}" for shard in range(2) for row in range(2)),
        ]
        assert table["uri"][6].as_py() == f"{tmp_path}/both/train/data-00001-of-00002.arrow#image/1"
        assert table["label"].to_pylist() == [4, 5, 6, 0, 1, 2, 3]
        for row in table.to_pylist():
            assert read_url(row["uri"]) == picture(row["label"])
            assert read_url(row["uri"], 10) == picture(row["label"])[:11]
            assert row["size"] == len(picture(row["label"]))
        assert ids(read_catalog(f"{tmp_path}/both/train"))[3] == "data-00001-of-00002/1"

    def test_one_of_its_files_by_its_name_and_a_copy_that_lacks_one(self, tmp_path: Path) -> None:
        self.made(4).save_to_disk(tmp_path / "set", num_shards=2)
        first, second = sorted((tmp_path / "set").glob("*.arrow"))
        beside = tmp_path / "set" / "mine.arrow"
        beside.write_bytes(first.read_bytes())
        assert len(ids(read_catalog(str(beside)))) == len(ids(read_catalog(str(first)))) == 2
        second.unlink()
        with pytest.raises(SettingsError, match=rf"lacks {second.name}, which its state.json names.*copy the dataset"):
            read_catalog(f"{tmp_path}/set")

    def test_parquet_and_arrow_files_side_by_side(self, tmp_path: Path) -> None:
        self.made(2).save_to_disk(tmp_path / "saved")
        (file,) = (tmp_path / "saved").glob("*.arrow")
        (tmp_path / "mixed").mkdir()
        (tmp_path / "mixed/b.arrow").write_bytes(file.read_bytes())
        pq.write_table(self.made(3).data.table, tmp_path / "mixed/a.parquet")
        self.made(1).remove_columns("image").save_to_disk(tmp_path / "none")
        (other,) = (tmp_path / "none").glob("*.arrow")
        (tmp_path / "mixed/cache.arrow").write_bytes(other.read_bytes())
        catalog = read_catalog(f"{tmp_path}/mixed", keep_columns=["label"])
        assert catalog.notes == ["1 Arrow file without a column of images left out: 'cache.arrow'"]
        found = catalog.table
        assert found["image_id"].to_pylist() == [*(f"a/{row}" for row in range(3)), *(f"b/{row}" for row in range(2))]
        assert [read_url(uri) for uri in found["uri"].to_pylist()] == [picture(row) for row in (0, 1, 2, 0, 1)]

    def test_parquet_shards_on_every_storage(self, out_url: str) -> None:
        for shard in range(2):
            file = io.BytesIO()
            table = self.made(5).select(range(shard, 5)).flatten_indices().data.table
            pq.write_table(table, file, row_group_size=2)
            Folder(out_url).replace(f"data/train-{shard}.parquet", file.getvalue())
        found = read_catalog(out_url, keep_columns=["label"]).table
        assert found["image_id"].to_pylist() == [f"data/train-{s}/{row}" for s in range(2) for row in range(5 - s)]
        for row in found.to_pylist():
            assert read_url(row["uri"]) == picture(row["label"])
        assert ids(read_catalog(f"{out_url}/data/train-1.parquet")) == [f"train-1/{row}" for row in range(4)]
        for gone in ("#image/4", "#label_/0"):
            with pytest.raises(ObjectNotFound, match="no such column or row"):
                read_url(f"{out_url}/data/train-1.parquet{gone}")

    def test_a_run_of_rows_one_of_which_is_empty(self, tmp_path: Path) -> None:
        made = self.made(3)
        made = made.map(lambda row: {"image": None} if row["label"] == 1 else {}, load_from_cache_file=False)
        made.save_to_disk(tmp_path / "set")
        command = ["segment", f"{tmp_path}/set", f"{tmp_path}/out", *QUICK, "--keep-columns", "label"]
        assert [run(command), run(command)] == [3, 3]
        rows = list(rows_by_image(tmp_path / "out").values())
        assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
        assert (rows[1]["error_type"], rows[1]["failed_step"]) == ("undecodable", "read")
        assert "the row has no bytes. To mend it: leave it out" in rows[1]["error"]
        assert rows[2]["content_sha256"] == sha256(picture(2)).hexdigest()

    def test_rows_that_name_a_file_instead(self, tmp_path: Path) -> None:
        fill(str(tmp_path), ["a.png", "sub/b.png"])
        images = [{"bytes": None, "path": f"{tmp_path}/a.png"}, {"bytes": None, "path": "sub/b.png"}]
        pq.write_table(pa.table({"image": [*images, {"bytes": picture(5), "path": None}]}), tmp_path / "t.parquet")
        found = read_catalog(f"{tmp_path}/t.parquet").table
        assert [read_url(uri) for uri in found["uri"].to_pylist()] == [picture(0), picture(1), picture(5)]

    def test_of_two_columns_of_images_one_is_chosen(self, tmp_path: Path) -> None:
        images = [{"bytes": picture(0), "path": None}]
        pq.write_table(pa.table({"left": images, "right": images}), tmp_path / "t.parquet")
        with pytest.raises(
            SettingsError, match=r"several columns: left, right\. To mend it: say which by --uri-column"
        ):
            read_catalog(f"{tmp_path}/t.parquet")
        (row,) = read_catalog(f"{tmp_path}/t.parquet", uri_column="right").table.to_pylist()
        assert row["uri"] == f"{tmp_path}/t.parquet#right/0"

    def test_what_cannot_serve_says_why(self, tmp_path: Path, s3_url: str) -> None:
        self.made(1).remove_columns("image").save_to_disk(tmp_path / "none")
        with pytest.raises(SettingsError, match="has no column of images; its columns are label"):
            read_catalog(f"{tmp_path}/none")
        self.made(1).save_to_disk(tmp_path / "set")
        (file,) = (tmp_path / "set").glob("*.arrow")
        Folder(s3_url).replace(file.name, file.read_bytes())
        with pytest.raises(SettingsError, match="To mend it: copy the dataset to a local disk, or write it"):
            read_catalog(s3_url)
        file.write_bytes(b"x" * 100)
        with pytest.raises(SettingsError, match="is no Arrow file that can be read"):
            read_catalog(f"{tmp_path}/set")


class TestSwapped:
    @pytest.mark.parametrize("images", ["missing", "empty", "run", "notes"])
    def test_out_has_images_and_images_has_none(self, tmp_path: Path, said: Callable[..., str], images: str) -> None:
        photos = fill(str(tmp_path / "my photos"), ["sub/a.png"])
        (tmp_path / "empty").mkdir()
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "read.me").write_text("x")
        assert run(["segment", photos, str(tmp_path / "run"), *QUICK]) == 0
        before = sorted(tmp_path.rglob("*"))
        text = said("segment", str(tmp_path / images), photos)
        reason = {"missing": "is not there", "empty": "is empty", "run": "is the OUT of a run", "notes": "has no image"}
        assert reason[images] in text
        assert f"To mend it: simsam segment '{photos}' {tmp_path / images}\n" in text
        assert sorted(tmp_path.rglob("*")) == before

    def test_both_have_images(self, tmp_path: Path, said: Callable[..., str]) -> None:
        one, other = fill(str(tmp_path / "one"), ["a.png"]), fill(str(tmp_path / "other"), ["b.png"])
        before = sorted(tmp_path.rglob("*"))
        text = said("segment", one, other)
        assert "'b.png', and what the run writes would be among them" in text
        assert f"swapped: simsam segment {other} {one}\n" in text
        assert sorted(tmp_path.rglob("*")) == before

    def test_a_folder_above_images_may_be_out(self, tmp_path: Path) -> None:
        photos = fill(str(tmp_path / "photos"), ["a.png"])
        assert run(["segment", photos, str(tmp_path), *QUICK]) == 0

    def test_out_is_an_image(self, tmp_path: Path, said: Callable[..., str]) -> None:
        fill(str(tmp_path), ["a.png", "b.png"])
        text = said("segment", f"{tmp_path}/a.png", f"{tmp_path}/b.png")
        assert "is an image file; OUT is the folder for the results, and the last that is named" in text
        assert f"To mend it: simsam segment {tmp_path}/a.png {tmp_path}/b.png OUT\n" in text

    def test_in_a_bucket(self, s3_url: str, tmp_path: Path, said: Callable[..., str]) -> None:
        fill(s3_url, ["a.png"])
        assert f"To mend it: simsam segment {s3_url} {tmp_path}/none\n" in said("segment", f"{tmp_path}/none", s3_url)
        assert [info.name for info in Folder(s3_url).list()] == ["a.png"]
