"""What a run about pairs is told: files of pairs, sets by name, key points, images."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simsam_batch.catalog import Catalog, read_catalog, read_pairs
from simsam_batch.errors import SettingsError

ONE = {
    "source": "a/1.jpg",
    "target": "b/2.jpg",
    "source_points": [[1, 2], [3.5, 4]],
    "target_points": [[5, 6], None],
    "point_names": ["left", "right"],
    "source_box": [0, 0, 10, 20],
    "category": "cat",
}


def write(path: Path, held: Any) -> str:
    path.write_text(json.dumps(held))
    return str(path)


def pairs(catalog: Catalog) -> list[dict[str, Any]]:
    assert catalog.pairs is not None
    found: list[dict[str, Any]] = catalog.pairs.to_pylist()
    return found


def ids(catalog: Catalog) -> list[str]:
    found: list[str] = catalog.table["image_id"].to_pylist()
    return found


def test_json_lines_parquet_and_csv_say_the_same(tmp_path: Path) -> None:
    other = {"source": "b/2.jpg", "target": "a/1.jpg", "source_points": [[7.0, 8.0]]}
    plain = read_pairs(write(tmp_path / "pairs.json", [ONE, other]))
    under = read_pairs(write(tmp_path / "under.json", {"pairs": [ONE, other]}))
    (tmp_path / "pairs.jsonl").write_text(f"{json.dumps(ONE)}\n\n{json.dumps(other)}\n")
    lines = read_pairs(str(tmp_path / "pairs.jsonl"))
    pq.write_table(pa.Table.from_pylist([ONE | {"weather": "dry"}, other]), tmp_path / "pairs.parquet")
    table = read_pairs(str(tmp_path / "pairs.parquet"), keep_columns=["weather"])
    assert pairs(plain) == pairs(under) == pairs(lines)
    assert [pair["weather"] for pair in pairs(table)] == ["dry", None]
    assert [{k: v for k, v in pair.items() if k != "weather"} for pair in pairs(table)] == pairs(plain)
    first, second = pairs(plain)
    assert first["pair_id"] == "a/1.jpg:b/2.jpg"
    assert (first["source_record"], first["target_record"]) == (0, 1)
    assert first["source_points"] == [[1, 2], [3.5, 4]]
    assert first["target_points"] == [[5, 6], None]
    assert second["target_points"] is None
    assert ids(plain) == ["a/1.jpg", "b/2.jpg"]
    assert plain.table["uri"].to_pylist() == [f"{tmp_path}/a/1.jpg", f"{tmp_path}/b/2.jpg"]
    assert plain.notes == ["1 of 2 pairs have no true points: they are matched, and not scored"]


def test_csv_has_a_line_for_each_point(tmp_path: Path) -> None:
    text = (
        "source,target,point,source_x,source_y,target_x,target_y,category,source_box_left,source_box_top,"
        "source_box_right,source_box_bottom\n"
        "a/1.jpg,b/2.jpg,left,1,2,5,6,cat,0,0,10,20\n"
        "c.jpg,a/1.jpg,,,,,,,,,,\n"
        "a/1.jpg,b/2.jpg,right,3.5,4,,,cat,0,0,10,20\n"
    )
    (tmp_path / "pairs.csv").write_text(text)
    found = pairs(read_pairs(str(tmp_path / "pairs.csv")))
    expected = pairs(read_pairs(write(tmp_path / "one.json", [ONE, {"source": "c.jpg", "target": "a/1.jpg"}])))
    assert found == expected


def test_pairs_come_in_the_order_of_their_sources_then_targets(tmp_path: Path) -> None:
    names = [("a", "b"), ("c", "a"), ("a", "c"), ("b", "a"), ("a", "b")]
    found = read_pairs(write(tmp_path / "p.json", [{"source": s, "target": t} for s, t in names]), root=str(tmp_path))
    assert ids(found) == ["a", "b", "c"]
    assert [pair["pair_id"] for pair in pairs(found)] == ["a:b", "a:b#2", "a:c", "b:a", "c:a"]
    limited = read_pairs(str(tmp_path / "p.json"), limit=2)
    assert [pair["pair_id"] for pair in pairs(limited)] == ["a:b", "c:a"]


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ([], "no pair"),
        ({"pairs": 3}, "no list of pairs"),
        (["text"], "pair 0 is no pair"),
        ([{"source": "a"}], "pair 0 needs a path or URL as source and as target"),
        ([ONE | {"target_points": [[1, 2]]}], "2 source_points and 1 target_points"),
        ([{"source": "a", "target": "b", "target_points": [[1, 2]]}], "no source_points and 1 target_points"),
        ([ONE | {"point_names": ["one"]}], "1 point_names"),
        ([ONE | {"source_points": [[1, 2], [3]]}], r"\[3\] where 2 numbers"),
        ([ONE | {"source_points": [[1, 2], [3, "x"]]}], "where 2 numbers"),
        ([ONE | {"target_points": [[1, 2], [float("inf"), 0]]}], "where 2 numbers"),
        ([ONE | {"source_box": [0, 0, 0, 5]}], "left, top, right, bottom"),
        ([ONE | {"source_box": [0, 5]}], "where 4 numbers"),
        ([ONE | {"category": 3}], "category is a text"),
        ([ONE | {"pair_id": "x"}, ONE | {"pair_id": "x"}], "more than one pair has the pair_id 'x'"),
        ([ONE | {"source": "../up.jpg"}], "would leave the root"),
        ([ONE | {"source": "s3://key:secret@bucket/a.jpg"}], "carry a password"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, held: Any, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        read_pairs(write(tmp_path / "pairs.json", held))


def test_files_that_are_no_pairs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    (tmp_path / "odd.csv").write_text("source,target,source_x,source_y\na,b,one,2\n")
    (tmp_path / "short.csv").write_text("source,target\na.jpg\n")
    for name, words in (
        ("bad.json", "is not JSON"),
        ("bad.csv", "no column source, target"),
        ("odd.csv", "'one' is no"),
        ("short.csv", "needs a path or URL as source and as target"),
    ):
        with pytest.raises(SettingsError, match=words):
            read_pairs(str(tmp_path / name))
    with pytest.raises(SettingsError, match="To mend it"):
        read_pairs(str(tmp_path / "not-there.json"))


def coco(tmp_path: Path) -> str:
    def person(image: int, seen: list[int], kind: int = 1, crowd: int = 0) -> dict[str, Any]:
        points = [value for i, v in enumerate(seen) for value in (10 * image + i, 20 * image + i, v)]
        return {
            "image_id": image,
            "category_id": kind,
            "keypoints": points,
            "bbox": [1, 2, 30, 40],
            "iscrowd": crowd,
        }

    held = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in (1, 2, 3)],
        "categories": [
            {"id": 1, "name": "person", "keypoints": ["nose", "left_eye"]},
            {"id": 2, "name": "horse", "keypoints": ["nose", "tail"]},
            {"id": 3, "name": "cup"},
        ],
        "annotations": [
            person(1, [2, 1]),
            person(2, [0, 2]),
            person(2, [2, 2], 2),
            person(3, [1, 0]),
            person(3, [2, 2], 2),
            person(3, [2, 2], 1, 1),
            {"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]},
        ],
    }
    return write(tmp_path / "coco.json", held)


def test_key_points_of_coco_are_paired_by_category(tmp_path: Path) -> None:
    found = read_pairs(coco(tmp_path), pairs="same-category")
    held = {pair["pair_id"]: pair for pair in pairs(found)}
    # the persons of 2 and 3 share no point that is known
    assert list(held) == [
        "1.jpg:2.jpg",
        "1.jpg:3.jpg",
        "2.jpg:1.jpg",
        "2.jpg:3.jpg#1-1",
        "3.jpg:1.jpg",
        "3.jpg:2.jpg#1-1",
    ]
    first = held["1.jpg:2.jpg"]
    assert first["point_names"] == ["nose", "left_eye"]
    assert first["source_points"] == [[10, 20], [11, 21]]
    # the nose is hidden there
    assert first["target_points"] == [None, [21, 41]]
    assert first["source_box"] == [1, 2, 31, 42]
    assert held["2.jpg:3.jpg#1-1"]["category"] == "horse"
    every = read_pairs(coco(tmp_path), pairs="all")
    assert len(pairs(every)) > len(held)
    with pytest.raises(SettingsError, match="--pairs all"):
        read_pairs(coco(tmp_path))


def test_frames_of_deeplabcut_are_paired_as_a_video(tmp_path: Path) -> None:
    lines = [
        ["scorer", "", "", "me", "me", "me", "me"],
        ["bodyparts", "", "", "snout", "snout", "tail", "tail"],
        ["coords", "", "", "x", "y", "x", "y"],
        ["labeled-data", "one", "img01.png", "1.5", "2", "3", "4"],
        ["labeled-data", "one", "img02.png", "5", "6", "", ""],
        ["labeled-data", "one", "img03.png", "7", "8", "9", "10"],
        ["labeled-data", "two", "img01.png", "1", "1", "2", "2"],
        ["labeled-data", "two", "img09.png", "3", "3", "4", "4"],
    ]
    path = tmp_path / "CollectedData_me.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    found = pairs(read_pairs(str(path), pairs="video"))
    assert [(pair["source"][-13:], pair["target"][-13:]) for pair in found] == [
        ("one/img01.png", "one/img02.png"),
        ("one/img01.png", "one/img03.png"),
        ("two/img01.png", "two/img09.png"),
    ]
    assert found[0]["target_points"] == [[5, 6], None]
    assert found[0]["point_names"] == ["snout", "tail"]


def test_a_folder_of_images_is_paired_without_points(tmp_path: Path) -> None:
    for name in ("x/1.jpg", "x/2.jpg", "y/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = read_pairs(str(tmp_path), pairs="all")
    assert len(pairs(found)) == 6
    assert pairs(found)[0]["source_points"] is None
    assert [pair["pair_id"] for pair in pairs(read_pairs(str(tmp_path), pairs="same-category"))] == [
        "x/1.jpg:x/2.jpg",
        "x/2.jpg:x/1.jpg",
    ]
    with pytest.raises(SettingsError, match="no two images"):
        read_pairs(str(tmp_path / "y"), pairs="all")


def test_individuals_are_paired_with_themselves_and_no_image_with_itself(tmp_path: Path) -> None:
    lines = [
        ["scorer", "me", "me", "me", "me"],
        ["individuals", "m1", "m1", "m2", "m2"],
        ["bodyparts", "snout", "snout", "snout", "snout"],
        ["coords", "x", "y", "x", "y"],
        ["v/1.png", "1", "1", "50", "50"],
        ["v/2.png", "2", "2", "60", "60"],
        ["v/3.png", "", "", "70", "70"],
    ]
    path = tmp_path / "CollectedData_me.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    of_both = pairs(read_pairs(str(path), pairs="video"))
    assert len(of_both) == 3
    assert [(pair["source_points"][0], pair["target_points"][0]) for pair in of_both] == [
        ([1, 1], [2, 2]),
        ([50, 50], [60, 60]),
        ([50, 50], [70, 70]),
    ]
    assert all(pair["source"] != pair["target"] for pair in pairs(read_pairs(str(path), pairs="all")))


def test_more_pairs_than_anybody_means_are_refused_and_a_few_are_made_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simsam_batch.catalog.pairs.keypoints._MOST", 10)
    (tmp_path / "many.txt").write_text("".join(f"{number}.jpg\n" for number in range(5)))
    with pytest.raises(SettingsError, match=r"'all' makes 20 pairs of .* To mend it"):
        read_pairs(str(tmp_path / "many.txt"), pairs="all")
    assert len(pairs(read_pairs(str(tmp_path / "many.txt"), pairs="all", limit=7))) == 7


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"truth": "masks"}, "truth: no meaning"),
        ({"split": "val"}, "split: no meaning"),
        ({"pairs": "video"}, "pairs: no meaning"),
        ({"hidden": True}, "hidden: no meaning"),
    ],
)
def test_options_that_mean_nothing_for_a_file_of_pairs_are_refused(
    given: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=words):
        read_pairs(write(tmp_path / "pairs.json", [ONE]), **given)


def spair(root: Path) -> str:
    home = root / "SPair-71k"
    for folder in ("JPEGImages/cat", "PairAnnotation/test", "Layout/large"):
        (home / folder).mkdir(parents=True)
    line = "000001-a-b:cat"
    annotation = {
        "src_kps": [[10, 20], [30, 40]],
        "trg_kps": [[11, 21], [31, 41]],
        "kps_ids": ["0", "4"],
        "src_bndbox": [5, 5, 60, 70],
        "trg_bndbox": [6, 6, 50, 80],
        "src_imname": "a.jpg",
        "trg_imname": "b.jpg",
        "category": "cat",
    }
    # no line feed at the end
    (home / "Layout/large/test.txt").write_text(f"{line}\n000002-b-a:cat")
    for name in (line, "000002-b-a:cat"):
        (home / f"PairAnnotation/test/{name}.json").write_text(json.dumps(annotation))
    return f"spair:{root}"


def test_spair_as_it_is_unpacked(tmp_path: Path) -> None:
    found = read_pairs(spair(tmp_path))
    first, second = pairs(found)
    assert (first["pair_id"], second["pair_id"]) == ("000001-a-b:cat", "000002-b-a:cat")
    assert (first["source"], first["target"]) == ("JPEGImages/cat/a.jpg", "JPEGImages/cat/b.jpg")
    assert first["target_box"] == [6, 6, 50, 80]
    assert first["point_names"] == ["0", "4"]
    assert found.pair_set == {"name": "spair", "split": "test", "published": "published-spair"}
    assert any("12234 were published" in note for note in found.notes)
    with pytest.raises(SettingsError, match=r"not one of test \| val \| trn"):
        read_pairs(f"spair:{tmp_path}", split="train")
    with pytest.raises(SettingsError, match="has not the layout of SPair-71k"):
        read_pairs(f"spair:{tmp_path / 'nothing'}")
    with pytest.raises(SettingsError, match="a set of pairs, which simsam correspond takes"):
        read_catalog(f"spair:{tmp_path}")


def test_pf_willow_as_it_is_unpacked(tmp_path: Path) -> None:
    numbers = [*range(10), *range(100, 110), *range(200, 210), *range(300, 310)]
    head = ",".join(["imageA", "imageB", *(f"c{i}" for i in range(40))])
    row = ",".join(["PF-WILLOW/car(G)/1.png", "PF-WILLOW/car(G)/2.png", *map(str, numbers)])
    (tmp_path / "test_pairs.csv").write_text(f"{head}\n{row}\n")
    (pair,) = pairs(read_pairs(f"pf-willow:{tmp_path}"))
    assert (pair["source"], pair["category"]) == ("car(G)/1.png", "car(G)")
    assert pair["source_points"][3] == [3, 103]
    assert pair["target_points"][9] == [209, 309]


def test_pf_pascal_as_it_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages").mkdir()
    text = "source_image,target_image,class,XA,YA,XB,YB\nPF/a.jpg,PF/b.jpg,bus,1;2,3;4,5;6,7;8\n"
    (tmp_path / "test_pairs.csv").write_text(text)
    (pair,) = pairs(read_pairs(f"pf-pascal:{tmp_path}"))
    assert pair["target"] == "JPEGImages/b.jpg"
    assert (pair["source_points"], pair["target_points"]) == ([[1, 3], [2, 4]], [[5, 7], [6, 8]])


def test_cub_pairs_birds_of_a_class_by_the_parts_both_show(tmp_path: Path) -> None:
    home = tmp_path / "CUB_200_2011"
    (home / "parts").mkdir(parents=True)
    (home / "images").mkdir()
    files = {1: "001.A/x.jpg", 2: "001.A/y.jpg", 3: "001.A/z.jpg", 4: "004.D/w.jpg", 5: "001.A/train.jpg"}
    (home / "images.txt").write_text("".join(f"{n} {name}\n" for n, name in files.items()))
    (home / "image_class_labels.txt").write_text("1 1\n2 1\n3 1\n4 4\n5 1\n")
    (home / "train_test_split.txt").write_text("1 0\n2 0\n3 0\n4 0\n5 1\n")
    (home / "bounding_boxes.txt").write_text("".join(f"{n} 10.0 20.0 30.0 40.0\n" for n in files))
    (home / "parts" / "parts.txt").write_text("1 back\n2 left eye\n")
    # 3 shows nothing, 2 its eye alone
    locations = (
        "1 1 5.0 6.0 1\n1 2 7.0 8.0 1\n2 1 0.0 0.0 0\n2 2 9.0 1.0 1\n3 1 0 0 0\n3 2 0 0 0\n4 1 1 1 1\n5 1 1 1 1\n"
    )
    (home / "parts" / "part_locs.txt").write_text(locations)
    (pair,) = pairs(read_pairs(f"cub-parts:{tmp_path}"))
    assert (pair["source"], pair["target"]) == ("images/001.A/x.jpg", "images/001.A/y.jpg")
    assert pair["point_names"] == ["left eye"]
    assert (pair["source_points"], pair["target_points"]) == ([[7, 8]], [[9, 1]])
    assert pair["target_box"] == [10, 20, 40, 60]
    every = pairs(read_pairs(f"cub-parts:{tmp_path}", split="all"))
    assert [(pair["target"], pair["point_names"]) for pair in every] == [
        ("images/001.A/y.jpg", ["left eye"]),
        ("images/001.A/train.jpg", ["back"]),
    ]
