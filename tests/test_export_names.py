"""Image ids as names of files: below their folder, each its own, and ordinary ones as they are."""

from __future__ import annotations

from hashlib import sha256
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simsam_batch.report.exports.safe_names import SafeNames, is_plain, safe_path
from simsam_batch.results.csv_cells import cell
from simsam_batch.storage import Folder

PARTS = st.one_of(
    st.sampled_from(["", ".", "..", "a", "a.png", "a.jpg", "a%2Ejpg", "A", "A.JPG", "a.PNG", "ẞ", "%-", "x" * 300]),
    st.text("a.%:", max_size=4),
    st.text(),
)
IDS = st.builds("/".join, st.lists(PARTS, min_size=1, max_size=4))


def stays_below(path: str) -> None:
    """As a path, as the storage takes it, and within what disks and S3 allow."""
    Folder("/somewhere")._full(path)
    assert all(part not in ("", ".", "..") for part in path.split("/"))
    assert not PurePosixPath(path).is_absolute()
    assert not set(path) & set('\\<>:"|?*#\0\n')
    assert max(len(part.encode()) for part in path.split("/")) <= 255
    assert len(path.encode()) <= 800


@pytest.mark.parametrize(
    ("image_id", "name", "path"),
    [
        ("a/b c.jpg", "a/b c.png", "a/b c.jpg"),
        ("ñandú/1.tar.gz", "ñandú/1.tar.png", "ñandú/1.tar.gz"),
        ("../../etc/passwd", "%2E%2E/%2E%2E/etc/passwd.png", "%2E%2E/%2E%2E/etc/passwd"),
        ("/etc//x", "%/etc/%/x.png", "%/etc/%/x"),
        ("./.", "%2E/%2E.png", "%2E/%2E"),
        ("C:\\x.jpg", "C%3A%5Cx.png", "C%3A%5Cx.jpg"),
        ("100%\n.jpg", "100%25%0A.png", "100%25%0A.jpg"),
        ("s3://bucket/x.jpg", "s3%3A/%/bucket/x.png", "s3%3A/%/bucket/x.jpg"),
        (".hidden", ".hidden.png", ".hidden"),
    ],
)
def test_a_name_is_what_one_expects(image_id: str, name: str, path: str) -> None:
    assert SafeNames([image_id], ".png").of(image_id) == name
    assert safe_path(image_id) == path


def test_images_that_share_a_stem_keep_their_suffix_and_folders_do_not_take_the_names_of_files() -> None:
    ids = ["b.jpg", "b.png", "b", "b.jpg.tif", "b.png/c.jpg", "other.jpg"]
    names = SafeNames(ids, ".png")
    assert [names.of(image_id) for image_id in ids] == [
        *("b%2Ejpg.png", "b%2Epng.png", "b.png", "b.jpg.png", "b%2Epng/c.png", "other.png"),
    ]


def test_images_that_a_disk_may_take_for_one_differ_in_more_than_case() -> None:
    ids = ["A.jpg", "a.jpg", "B/c.jpg", "b/c.jpg", "IMG.JPG", "img.png", "plain.jpg"]
    names = SafeNames(ids, ".png")
    found = [names.of(image_id) for image_id in ids]
    assert len({name.casefold() for name in found}) == len(ids)
    assert found[4:] == ["IMG%2EJPG.png", "img%2Epng.png", "plain.png"]
    # the digest is SHA-256's first 32 bits
    assert [name.split("%-")[0] for name in found[:4]] == ["A%2Ejpg", "a%2Ejpg", "B/c%2Ejpg", "b/c%2Ejpg"]
    assert found[0] == f"A%2Ejpg%-{sha256(b'A.jpg').hexdigest()[:8]}.png"


@settings(deadline=None, max_examples=400)
@given(st.lists(IDS, unique=True, max_size=12))
def test_names_stay_below_their_folder_and_no_two_are_the_same(ids: list[str]) -> None:
    names = SafeNames(ids, ".png")
    found = [names.of(image_id) for image_id in ids]
    assert len({name.casefold() for name in found}) == len(ids)
    for name in found:
        assert name.endswith(".png")
        stays_below(name)
        # a disk cannot hold a file and a folder of one name
        assert not any(other.casefold().startswith(name.casefold() + "/") for other in found)
    paths = [safe_path(image_id) for image_id in ids]
    assert len({*paths}) == len(ids)
    for path in paths:
        stays_below(path)


@pytest.mark.parametrize("image_id", ["../a", "/a", "a//b", "a/", "", ".", "a\\b", "a\0"])
def test_an_id_that_leads_elsewhere_is_not_plain(image_id: str) -> None:
    assert not is_plain(image_id)
    assert is_plain("a/..b/c d:%.jpg")


@pytest.mark.parametrize("image_id", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1", "＠a", "'=1", "'"])
def test_an_id_that_a_spreadsheet_would_compute_is_marked(image_id: str) -> None:
    assert cell(image_id) == "'" + image_id


@pytest.mark.parametrize("image_id", ["a/b.jpg", "1-2.png", " =1", "a=1", '"', ""])
def test_other_ids_are_cells_as_they_are(image_id: str) -> None:
    assert cell(image_id) == image_id


@given(st.one_of(st.text(), st.text("'=+-@\t\ra", max_size=4)))
def test_no_cell_begins_like_a_formula_and_every_id_comes_back(image_id: str) -> None:
    """The list of OWASP's page on CSV injection."""
    shown = cell(image_id)
    assert not shown.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert shown.removeprefix("'") == image_id
