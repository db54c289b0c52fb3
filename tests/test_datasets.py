"""Datasets by name: made-up copies of their published layouts, what differs from them, and a run from end to end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat

from simsam_batch.catalog import (
    BOXES_COLUMN,
    DATASETS,
    SPLIT_COLUMN,
    Catalog,
    DatasetFacts,
    absolute_input,
    center_crops,
    facts_of,
    read_catalog,
    truth_kind,
)
from simsam_batch.catalog.datasets import coco, named_dataset, voc
from simsam_batch.catalog.datasets.hierarchies import class_names, label_hierarchy
from simsam_batch.cli import run
from simsam_batch.errors import SettingsError
from simsam_batch.images import ImageLimits, TruthError, central_square, load_labels, load_partitions, load_truth
from simsam_batch.storage import Folder, entries, read_url

LIMITS = ImageLimits()
RUN = ["--backbone", "descriptors", "--resize", "native", "--epochs", "1", "--k", "4"]
RUN += ["--engine", "inline", "--quiet"]
FIXED = [*RUN, "--cut", "fixed", "--refine", "none"]


def photograph(path: Path, place: tuple[slice, slice] = (slice(32, 80), slice(48, 96)), width: int = 160) -> None:
    """A red rectangle on noise, 128 pixels high."""
    pixels = np.random.default_rng(0).integers(80, 120, (128, width, 3)).astype(np.uint8)
    pixels[place] = (210, 40, 40)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def mask(path: Path, place: tuple[slice, slice] = (slice(32, 80), slice(48, 96)), width: int = 160) -> None:
    truth = np.zeros((128, width), np.uint8)
    truth[place] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(truth).save(path)


def class_map(path: Path) -> None:
    """Class 13 within a border of pixels that do not count, on background; colours as VOC has them."""
    ids = np.zeros((128, 160), np.uint8)
    ids[32:80, 48:96], ids[34:78, 50:94] = 255, 13
    image = Image.fromarray(ids)
    palette = np.zeros((256, 3), np.uint8)
    palette[13], palette[255] = (192, 0, 128), (224, 224, 192)
    image.putpalette(palette.tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def annotation(path: Path, *objects: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><size><width>160</width></size>{''.join(objects)}</annotation>")


def box(xmin: Any, ymin: Any, xmax: Any, ymax: Any, more: str = "") -> str:
    corners = f"<xmax>{xmax}</xmax><xmin>{xmin}</xmin><ymin>{ymin}</ymin><ymax>{ymax}</ymax>"
    return f"<object><name>dog</name>{more}<bndbox>{corners}</bndbox></object>"


def lines(path: Path, *content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in content))


def saliency_copy(root: Path, images: str, masks: str) -> None:
    for i in range(4):
        place = (slice(32, 80), slice(32 + 16 * i, 80 + 16 * i))
        photograph(root / images / f"{i:04}.jpg", place)
        mask(root / masks / f"{i:04}.png", place)


def cub_copy(root: Path) -> None:
    """Four birds of two species; numbers 2 and 4 are of the test split, and the lists have different orders."""
    home = root / "CUB_200_2011"
    names = {1: "001.Auk/a.jpg", 2: "001.Auk/b.jpg", 3: "002.Wren/a.jpg", 4: "002.Wren/b.jpg"}
    lines(home / "images.txt", *(f"{number} {name}" for number, name in names.items()))
    lines(home / "train_test_split.txt", "4 0", "3 1", "2 0", "1 1")
    for name in names.values():
        photograph(home / "images" / name)
        mask(root / "segmentations" / name.replace(".jpg", ".png"))


def voc_copy(root: Path, year: int = 2012) -> None:
    """Five photographs: 3 and 1 are the val split of the class maps, all but 4 have boxes in trainval."""
    home = root / "VOCdevkit" / f"VOC{year}"
    for i in range(5):
        photograph(home / "JPEGImages" / f"2007_{i:06}.jpg")
        annotation(home / "Annotations" / f"2007_{i:06}.xml", box(49, 33, 96, 80), box(1, 1, 20, 30 + i))
    for i in (0, 1, 3):
        class_map(home / "SegmentationClass" / f"2007_{i:06}.png")
    lines(home / "ImageSets/Segmentation/val.txt", "2007_000003", "2007_000001", "")
    lines(home / "ImageSets/Segmentation/train.txt", "2007_000000")
    lines(home / "ImageSets/Segmentation/trainval.txt", "2007_000000", "2007_000001", "2007_000003")
    lines(home / "ImageSets/Main/trainval.txt", *(f"2007_{i:06}" for i in range(4)))
    lines(home / "ImageSets/Main/train.txt", "2007_000002")


def coco_copy(root: Path) -> None:
    """Three photographs, of which the list selects 9 and 4, in this order."""
    names = {n: f"COCO_train2014_{n:012}.jpg" for n in (4, 7, 9)}
    for name in names.values():
        photograph(root / "train2014" / name)
    lines(root / "coco_20k_filenames.txt", f"train2014/{names[9]}", f"train2014/{names[4]}")
    boxes = [
        {"image_id": 4, "bbox": [10.5, 20, 30.25, 40], "iscrowd": 0, "segmentation": [[1.0, 2.0, 3.0]]},
        {"image_id": 9, "bbox": [0, 0, 9, 9], "iscrowd": 1, "segmentation": {"counts": [1], "size": [3, 3]}},
        {"image_id": 4, "bbox": [1, 2, 3, 4], "iscrowd": 0, "segmentation": []},
        {"image_id": 7, "bbox": [5, 5, 5, 5], "iscrowd": 0, "segmentation": []},
    ]
    held = {"images": [{"id": n, "file_name": name} for n, name in names.items()], "annotations": boxes}
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2014.json").write_text(json.dumps(held))


def label_map(path: Path, *labels: int, depth: type = np.uint8) -> None:
    """A grey map of labels in upright stripes of equal width."""
    values = np.repeat(np.array(labels, depth), 160 // len(labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.tile(values, (128, 1))).save(path)


def bsds_copy(root: Path) -> None:
    """As its archive unpacks; two people drew each image, into two and three parts."""
    home = root / "BSR" / "BSDS500" / "data"
    for split, names in {"test": ["100007", "16004"], "train": ["12003"], "val": ["3096"]}.items():
        for name in names:
            photograph(home / "images" / split / f"{name}.jpg")
            partitions = np.empty((1, 2), object)
            for i, parts in enumerate(([1, 2], [1, 2, 3, 3])):
                drawn = np.tile(np.repeat(np.array(parts, np.uint16), 160 // len(parts)), (128, 1))
                partitions[0, i] = {"Segmentation": drawn, "Boundaries": np.zeros_like(drawn, np.uint8)}
            path = home / "groundTruth" / split / f"{name}.mat"
            path.parent.mkdir(parents=True, exist_ok=True)
            savemat(path, {"groundTruth": partitions}, do_compression=True)
        (home / "images" / split / "Thumbs.db").write_bytes(b"x")


def cityscapes_copy(root: Path) -> None:
    """Two cities in val, one in train, with all kinds of files that go with a photograph."""
    for place in ("val/frankfurt/frankfurt_000000_000294", "val/lindau/lindau_000000_000019", "train/ulm/ulm_1_2"):
        photograph(root / "leftImg8bit" / f"{place}_leftImg8bit.png")
        label_map(root / "gtFine" / f"{place}_gtFine_labelIds.png", 3, 7, 26, 33)
        label_map(root / "gtFine" / f"{place}_gtFine_instanceIds.png", 3, 7, 26001, 33001, depth=np.uint16)
        photograph(root / "gtFine" / f"{place}_gtFine_color.png")
        (root / "gtFine" / f"{place}_gtFine_polygons.json").write_text("{}")


def coco_maps_copy(root: Path, maps: str = "stuffthingmaps_trainval2017") -> None:
    for split, names in {"val2017": ("000000000139", "000000000285"), "train2017": ("000000000009",)}.items():
        for name in names:
            photograph(root / "images" / split / f"{name}.jpg")
            label_map(root / maps / split / f"{name}.png", 0, 90, 91, 181, 255)


def partimagenet_copy(root: Path) -> None:
    for split, names in {"val": ("n01440764_10", "n01440764_1009"), "train": ("n01443537_445",), "test": ()}.items():
        for name in names:
            photograph(root / "PartImageNet" / "images" / split / f"{name}.JPEG")
            label_map(root / "PartImageNet" / "annotations" / split / f"{name}.png", 9, 10, 40, 40)
            (root / "PartImageNet" / "annotations" / split / f"{name}.json").write_text("{}")


def pascal_part_copy(root: Path) -> None:
    """Three photographs: 2 and 0 are the val split, and 0 has no map."""
    home = root / "VOCdevkit" / "VOC2010"
    for i in range(3):
        photograph(home / "JPEGImages" / f"2008_{i:06}.jpg")
    for i in (1, 2):
        label_map(home / "Annotations_Part_Ids" / f"2008_{i:06}.png", 0, 1, 300, 388, 389, depth=np.uint16)
    lines(home / "ImageSets/Main/val.txt", "2008_000002", "2008_000000")
    lines(home / "ImageSets/Main/train.txt", "2008_000001")
    lines(home / "ImageSets/Main/trainval.txt", *(f"2008_{i:06}" for i in range(3)))


def camvid_copy(root: Path) -> None:
    """Three frames in train, one in val and two in test, of which one has no map."""
    home = root / "CamVid"
    frames = {"train": ("0001TP_006690", "0016E5_00390", "0016E5_00420"), "val": ("0016E5_07959",)}
    for split, names in (frames | {"test": ("0001TP_008550", "Seq05VD_f00000")}).items():
        for name in names:
            photograph(home / split / f"{name}.png")
            if not name.startswith("Seq"):
                label_map(home / f"{split}annot" / f"{name}.png", 0, 5, 10, 11)
        lines(home / f"{split}.txt", *(f"/SegNet/CamVid/{split}/{name}.png" for name in names))


def ade20k_copy(root: Path) -> None:
    home = root / "ADEChallengeData2016"
    for folder, part, count in (("training", "train", 3), ("validation", "val", 2)):
        for i in range(1, count + 1):
            photograph(home / "images" / folder / f"ADE_{part}_{i:08}.jpg")
            label_map(home / "annotations" / folder / f"ADE_{part}_{i:08}.png", 0, 1, 3, 150)
    lines(home / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tName")


COPIES: dict[str, Callable[[Path], None]] = {
    "ecssd": lambda root: saliency_copy(root, "images", "ground_truth_mask"),
    "duts-te": lambda root: saliency_copy(root / "DUTS-TE", "DUTS-TE-Image", "DUTS-TE-Mask"),
    "dut-omron": lambda root: saliency_copy(root, "DUT-OMRON-image", "pixelwiseGT-new-PNG"),
    "cub-200-2011": cub_copy,
    "voc2007": lambda root: voc_copy(root, 2007),
    "voc2012": voc_copy,
    "voc2007-boxes": lambda root: voc_copy(root, 2007),
    "voc2012-boxes": voc_copy,
    "coco20k": coco_copy,
    "bsds500": bsds_copy,
    "cityscapes": cityscapes_copy,
    "coco-stuff": coco_maps_copy,
    "coco-things": coco_maps_copy,
    "partimagenet": partimagenet_copy,
    "pascal-part": pascal_part_copy,
    "camvid": camvid_copy,
    "ade20k": ade20k_copy,
}


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        root = tmp_path / "sets" / name
        root.mkdir(parents=True)
        COPIES[name](root)
        return root

    return make


def ids(catalog: Catalog) -> list[str]:
    return list(catalog.table["image_id"].to_pylist())


def pairs(catalog: Catalog, root: Path) -> dict[str, tuple[str, str | None]]:
    """Photograph and truth of each record, below ROOT."""
    rows = catalog.table.select(["image_id", "uri", "truth_uri"]).to_pylist()
    return {
        row["image_id"]: tuple(uri and uri.removeprefix(f"{root}/") for uri in (row["uri"], row["truth_uri"]))
        for row in rows
    }


class TestNames:
    @pytest.mark.parametrize(
        "url",
        [
            "s3://bucket/ecssd",
            "memory://ecssd/x",
            "C:/photos",
            "/data/ecssd:x",
            "./ecssd:x",
            "ecssd",
            "filecache::s3://b/c",
        ],
    )
    def test_urls_and_paths_are_no_names(self, url: str) -> None:
        assert named_dataset(url) is None

    @pytest.mark.parametrize(
        ("given", "name", "root"),
        [
            ("ecssd:/data/ECSSD", "ecssd", "/data/ECSSD"),
            ("ECSSD:data", "ecssd", "data"),
            ("voc2012-boxes:s3://bucket/VOC2012", "voc2012-boxes", "s3://bucket/VOC2012"),
            ("duts-te:a:b", "duts-te", "a:b"),
        ],
    )
    def test_a_name_and_its_root_are_told_apart(self, given: str, name: str, root: str) -> None:
        named = named_dataset(given)
        assert named is not None
        assert (named[0].name, named[1]) == (name, root)

    @pytest.mark.parametrize("given", ["ecssd:", "ecssd://data/ECSSD"])
    def test_a_name_without_a_root_is_refused(self, given: str) -> None:
        with pytest.raises(SettingsError, match="written ecssd:ROOT"):
            named_dataset(given)

    def test_an_unknown_name_is_refused_with_the_known_ones(self) -> None:
        with pytest.raises(SettingsError, match=r"no dataset has the name 'ecsd'; did you mean ecssd:ROOT\?.*voc2012"):
            read_catalog("ecsd:/data")

    def test_a_folder_with_a_colon_in_its_name_stays_a_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        photograph(tmp_path / "trip:2024" / "a.png")
        monkeypatch.chdir(tmp_path)
        assert ids(read_catalog("trip:2024")) == ["a.png"]

    def test_the_input_is_named_the_same_from_everywhere_and_without_credentials(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert absolute_input("ECSSD:sets/x/") == f"ecssd:{tmp_path}/sets/x"
        assert absolute_input("ecssd:s3://user:word@bucket/x") == "ecssd:s3://bucket/x"
        assert absolute_input("s3://bucket/x/") == "s3://bucket/x"

    def test_every_dataset_has_a_made_up_copy_here(self) -> None:
        assert set(COPIES) == set(DATASETS)


class TestLayouts:
    @pytest.mark.parametrize(
        ("name", "images", "masks"),
        [
            ("ecssd", "images", "ground_truth_mask"),
            ("duts-te", "DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask"),
            ("dut-omron", "DUT-OMRON-image", "pixelwiseGT-new-PNG"),
        ],
    )
    def test_photographs_and_masks_are_paired_by_stem(
        self, copy: Callable[[str], Path], name: str, images: str, masks: str
    ) -> None:
        root = copy(name)
        expected = {f"{i:04}.jpg": (f"{images}/{i:04}.jpg", f"{masks}/{i:04}.png") for i in range(4)}
        catalog = read_catalog(f"{name}:{root}")
        assert pairs(catalog, root) == expected
        assert catalog.table["size"].to_pylist() == [(root / image).stat().st_size for image, _ in expected.values()]

    def test_a_named_dataset_and_its_folders_make_the_same_records(self, copy: Callable[[str], Path]) -> None:
        root = copy("ecssd")
        by_folder = read_catalog(f"{root}/images", truth=f"{root}/ground_truth_mask")
        assert read_catalog(f"ecssd:{root}").table.equals(by_folder.table)

    def test_cub_takes_the_official_test_split_by_number_not_by_line(self, copy: Callable[[str], Path]) -> None:
        root = copy("cub-200-2011")
        expected = {
            f"{name}.jpg": (f"CUB_200_2011/images/{name}.jpg", f"segmentations/{name}.png")
            for name in ("001.Auk/b", "002.Wren/b")
        }
        assert pairs(read_catalog(f"cub-200-2011:{root}"), root) == expected
        # masks of the other split are no news
        (note,) = read_catalog(f"cub-200-2011:{root}").notes
        assert note.startswith("cub-200-2011 split 'test': 2 images are there and 5794 were published")
        train = read_catalog(f"cub-200-2011:{root}", split="train")
        assert ids(train) == ["001.Auk/a.jpg", "002.Wren/a.jpg"]
        assert len(ids(read_catalog(f"cub-200-2011:{root}", split="all"))) == 4

    @pytest.mark.parametrize("given", ["", "CUB_200_2011"])
    def test_cubs_masks_may_lie_among_its_photographs(self, copy: Callable[[str], Path], given: str) -> None:
        root = copy("cub-200-2011")
        (root / "segmentations").rename(root / "CUB_200_2011" / "segmentations")
        catalog = read_catalog(f"cub-200-2011:{root / given}")
        assert catalog.table["truth_uri"].null_count == 0

    @pytest.mark.parametrize("given", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
    def test_voc_is_found_where_its_archives_unpack(self, copy: Callable[[str], Path], given: str) -> None:
        root = copy("voc2012")
        home = "VOCdevkit/VOC2012"
        # in the order of the list
        assert pairs(read_catalog(f"voc2012:{root / given}"), root) == {
            f"2007_{i:06}.jpg": (
                f"{home}/JPEGImages/2007_{i:06}.jpg",
                f"{home}/SegmentationClass/2007_{i:06}.png",
            )
            for i in (3, 1)
        }

    @pytest.mark.parametrize("name", ["voc2007", "voc2012"])
    def test_voc_has_its_splits(self, copy: Callable[[str], Path], name: str) -> None:
        root = copy(name)
        assert [len(ids(read_catalog(f"{name}:{root}", split=s))) for s in ("train", "val", "trainval")] == [1, 2, 3]

    @pytest.mark.parametrize("name", ["voc2007-boxes", "voc2012-boxes"])
    def test_voc_boxes_count_pixels_from_zero(self, copy: Callable[[str], Path], name: str) -> None:
        catalog = read_catalog(f"{name}:{copy(name)}")
        assert ids(catalog) == [f"2007_{i:06}.jpg" for i in range(4)]
        # 49 33 96 80 in the file; the first pixel of a row or column is 1 there and 0 here
        assert catalog.table[BOXES_COLUMN].to_pylist() == [[[48, 32, 96, 80], [0, 0, 20, 30 + i]] for i in range(4)]
        assert catalog.table["truth_uri"].null_count == 4

    def test_coco_boxes_are_corners_without_crowds(self, copy: Callable[[str], Path]) -> None:
        catalog = read_catalog(f"coco20k:{copy('coco20k')}")
        assert ids(catalog) == ["COCO_train2014_000000000009.jpg", "COCO_train2014_000000000004.jpg"]
        # x y width height in the file
        assert catalog.table[BOXES_COLUMN].to_pylist() == [[], [[10.5, 20, 40.75, 60], [1, 2, 4, 6]]]
        assert "1 of 2 images have an annotation without any object that counts" in catalog.notes

    @pytest.mark.parametrize("given", ["", "BSR", "BSR/BSDS500", "BSR/BSDS500/data"])
    def test_the_berkeley_set_pairs_photographs_and_partitions_of_a_split(
        self, copy: Callable[[str], Path], given: str
    ) -> None:
        root, home = copy("bsds500"), "BSR/BSDS500/data"
        assert pairs(read_catalog(f"bsds500:{root / given}"), root) == {
            f"{name}.jpg": (f"{home}/images/test/{name}.jpg", f"{home}/groundTruth/test/{name}.mat")
            for name in ("100007", "16004")
        }
        for split, names in (("train", ["12003.jpg"]), ("val", ["3096.jpg"])):
            assert ids(read_catalog(f"bsds500:{root}", split=split)) == names

    def test_cityscapes_pairs_names_that_differ(self, copy: Callable[[str], Path]) -> None:
        root = copy("cityscapes")
        catalog = read_catalog(f"cityscapes:{root}")
        assert pairs(catalog, root) == {
            f"{place}_leftImg8bit.png": (
                f"leftImg8bit/val/{place}_leftImg8bit.png",
                f"gtFine/val/{place}_gtFine_labelIds.png",
            )
            for place in ("frankfurt/frankfurt_000000_000294", "lindau/lindau_000000_000019")
        }
        (note,) = catalog.notes
        assert note.startswith("cityscapes split 'val': 2 images are there and 500 were published")
        assert ids(read_catalog(f"cityscapes:{root}", split="train")) == ["ulm/ulm_1_2_leftImg8bit.png"]

    @pytest.mark.parametrize("name", ["coco-stuff", "coco-things"])
    @pytest.mark.parametrize("maps", ["stuffthingmaps_trainval2017", "annotations"])
    def test_the_pixel_maps_of_coco_lie_where_they_were_unpacked(self, tmp_path: Path, name: str, maps: str) -> None:
        coco_maps_copy(tmp_path, maps)
        # what else is called so holds no maps
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / "instances_val2017.json").write_text("{}")
        assert pairs(read_catalog(f"{name}:{tmp_path}"), tmp_path) == {
            f"{number}.jpg": (f"images/val2017/{number}.jpg", f"{maps}/val2017/{number}.png")
            for number in ("000000000139", "000000000285")
        }
        assert ids(read_catalog(f"{name}:{tmp_path}", split="train2017")) == ["000000000009.jpg"]

    def test_partimagenet_pairs_photographs_and_maps_of_parts(self, copy: Callable[[str], Path]) -> None:
        root = copy("partimagenet")
        catalog = read_catalog(f"partimagenet:{root}")
        home = "PartImageNet"
        assert pairs(catalog, root) == {
            f"{name}.JPEG": (f"{home}/images/val/{name}.JPEG", f"{home}/annotations/val/{name}.png")
            for name in ("n01440764_10", "n01440764_1009")
        }
        # its two releases have different splits: no number is expected
        assert catalog.notes == []

    def test_pascal_part_takes_the_lists_of_voc_and_maps_that_were_made(self, copy: Callable[[str], Path]) -> None:
        root, home = copy("pascal-part"), "VOCdevkit/VOC2010"
        catalog = read_catalog(f"pascal-part:{root}")
        assert pairs(catalog, root) == {
            "2008_000002.jpg": (f"{home}/JPEGImages/2008_000002.jpg", f"{home}/Annotations_Part_Ids/2008_000002.png"),
            "2008_000000.jpg": (f"{home}/JPEGImages/2008_000000.jpg", None),
        }
        assert "1 of 2 images have no truth: '2008_000000.jpg'" in catalog.notes

    @pytest.mark.parametrize("given", ["", "CamVid"])
    def test_camvid_has_the_folders_of_segnet(self, copy: Callable[[str], Path], given: str) -> None:
        root = copy("camvid")
        catalog = read_catalog(f"camvid:{root / given}", split="train")
        assert pairs(catalog, root) == {
            f"{name}.png": (f"CamVid/train/{name}.png", f"CamVid/trainannot/{name}.png")
            for name in ("0001TP_006690", "0016E5_00390", "0016E5_00420")
        }
        assert ids(read_catalog(f"camvid:{root}", split="val")) == ["0016E5_07959.png"]
        # the split that figures are published for
        usual = read_catalog(f"camvid:{root}")
        assert ids(usual) == ["0001TP_008550.png", "Seq05VD_f00000.png"]
        assert usual.notes[0] == "1 of 2 images have no truth: 'Seq05VD_f00000.png'"

    def test_camvid_may_be_sorted_into_images_and_labels(self, tmp_path: Path) -> None:
        for split, name in (("train", "0001TP_006690"), ("val", "0016E5_07959"), ("test", "Seq05VD_f00000")):
            photograph(tmp_path / "images" / split / f"{name}.jpg")
            label_map(tmp_path / "labels" / split / f"{name}.png", 0, 11)
        assert pairs(read_catalog(f"camvid:{tmp_path}", split="val"), tmp_path) == {
            "0016E5_07959.jpg": ("images/val/0016E5_07959.jpg", "labels/val/0016E5_07959.png")
        }
        (tmp_path / "labels").rename(tmp_path / "maps")
        with pytest.raises(SettingsError) as refused:
            read_catalog(f"camvid:{tmp_path}")
        assert "looked for train/, trainannot/, val/, valannot/ or images/, labels/ in " in str(refused.value)
        assert f"{tmp_path} lacks labels/ and has images/, maps/" in str(refused.value)

    def test_ade20k_calls_its_folders_otherwise_than_its_splits(self, copy: Callable[[str], Path]) -> None:
        root, home = copy("ade20k"), "ADEChallengeData2016"
        assert pairs(read_catalog(f"ade20k:{root}"), root) == {
            f"ADE_val_{i:08}.jpg": (
                f"{home}/images/validation/ADE_val_{i:08}.jpg",
                f"{home}/annotations/validation/ADE_val_{i:08}.png",
            )
            for i in (1, 2)
        }
        assert ids(read_catalog(f"ade20k:{root}", split="train")) == [f"ADE_train_{i:08}.jpg" for i in (1, 2, 3)]

    def test_a_dataset_is_read_from_every_storage(self, tmp_path: Path, out_url: str) -> None:
        voc_copy(tmp_path / "here")
        folder = Folder(out_url)
        for path in (tmp_path / "here").rglob("*"):
            if path.is_file():
                folder.replace(path.relative_to(tmp_path / "here").as_posix(), path.read_bytes())
        home = f"{out_url}/VOCdevkit/VOC2012"
        assert entries(home) == ["Annotations/", "ImageSets/", "JPEGImages/", "SegmentationClass/"]
        semantic = read_catalog(f"voc2012:{out_url}").table
        for column, kind in (("uri", "JPEGImages/2007_{:06}.jpg"), ("truth_uri", "SegmentationClass/2007_{:06}.png")):
            for uri, i in zip(semantic[column].to_pylist(), (3, 1), strict=True):
                assert uri.endswith(f"/VOCdevkit/VOC2012/{kind.format(i)}")
                assert read_url(uri) == folder.read(f"VOCdevkit/VOC2012/{kind.format(i)}")
        assert read_catalog(f"voc2012-boxes:{out_url}").table[BOXES_COLUMN].null_count == 0

    def test_entries_tell_files_from_folders_on_every_storage(self, out_url: str) -> None:
        assert entries(out_url) == []
        for name in ("b.txt", "a/deep/c.txt"):
            Folder(out_url).replace(name, b"x")
        assert entries(out_url) == ["a/", "b.txt"]
        assert entries(f"{out_url}/a") == ["deep/"]
        assert entries(f"{out_url}/b.txt") == []


class TestWhatDiffers:
    @pytest.mark.parametrize("name", DATASETS)
    def test_a_root_that_is_not_there_shows_the_layout(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(SettingsError) as refused:
            read_catalog(f"{name}:{tmp_path}/nothing")
        assert f"{name}: {tmp_path}/nothing has not the layout" in str(refused.value)
        assert "is empty or not there" in str(refused.value)
        assert DATASETS[name].layout in str(refused.value)

    @pytest.mark.parametrize(
        ("name", "need"), [(name, need) for name, dataset in DATASETS.items() for need in dataset.needs]
    )
    def test_whatever_is_lacking_is_named_beside_what_is_there(
        self, copy: Callable[[str], Path], name: str, need: str
    ) -> None:
        root = copy(name)
        (path,) = [path for path in root.rglob(need.rstrip("/")) if path.is_dir() == need.endswith("/")]
        path.rename(path.with_name("elsewhere"))
        with pytest.raises(SettingsError) as refused:
            read_catalog(f"{name}:{root}")
        message = str(refused.value)
        assert f"{path.parent} lacks {need} and has " in message
        assert "elsewhere" in message.split(" and has ")[1]
        assert DATASETS[name].layout in message

    @pytest.mark.parametrize(
        ("name", "emptied", "reason"),
        [
            ("ecssd", "images", "no file of images/ ends in .jpg"),
            ("ecssd", "ground_truth_mask", "no file of ground_truth_mask/ ends in"),
            ("cub-200-2011", "CUB_200_2011/images", "no file of images/ ends in"),
            ("voc2012", "VOCdevkit/VOC2012/SegmentationClass", "no file of SegmentationClass/"),
            ("voc2012", "VOCdevkit/VOC2012/ImageSets/Segmentation", "no file ImageSets/Segmentation/val.txt"),
            ("voc2012-boxes", "VOCdevkit/VOC2012/Annotations", "no file of Annotations/ ends in .xml"),
            ("voc2012-boxes", "VOCdevkit/VOC2012/ImageSets/Main", "no file ImageSets/Main/trainval.txt"),
            ("coco20k", "annotations", "no file annotations/instances_train2014.json"),
            ("bsds500", "BSR/BSDS500/data/groundTruth/test", "no file of groundTruth/test/ ends in .mat"),
            ("cityscapes", "gtFine/val", "no file of gtFine/val/ ends in _gtFine_labelIds.png"),
            ("cityscapes", "leftImg8bit/val", "no file of leftImg8bit/val/ ends in _leftImg8bit.png"),
            ("coco-stuff", "stuffthingmaps_trainval2017", "no file of stuffthingmaps_trainval2017/val2017/ ends in"),
            ("partimagenet", "PartImageNet/annotations/val", "no file of annotations/val/ ends in"),
            ("pascal-part", "VOCdevkit/VOC2010/Annotations_Part_Ids", "no file of Annotations_Part_Ids/ ends in"),
            ("camvid", "CamVid/testannot", "no file of testannot/ ends in"),
            ("ade20k", "ADEChallengeData2016/images/validation", "no file of images/validation/ ends in"),
        ],
    )
    def test_an_empty_folder_is_refused(
        self, copy: Callable[[str], Path], name: str, emptied: str, reason: str
    ) -> None:
        root = copy(name)
        for path in (root / emptied).rglob("*"):
            if path.is_file():
                path.unlink()
        with pytest.raises(SettingsError) as refused:
            read_catalog(f"{name}:{root}")
        assert reason in str(refused.value)
        assert "Expected:\nROOT\n├──" in str(refused.value)

    @pytest.mark.parametrize(
        ("name", "file", "content", "reason"),
        [
            ("cub-200-2011", "CUB_200_2011/images.txt", "1\n", "images.txt has '1' where 2 columns are expected"),
            ("cub-200-2011", "CUB_200_2011/images.txt", "", "images.txt has no line in it"),
            ("cub-200-2011", "CUB_200_2011/images.txt", "9 x/y.jpg\n", "does not know 'x/y.jpg'"),
            ("cub-200-2011", "CUB_200_2011/train_test_split.txt", "1 2\n", "marks images by 0 and 1, and has '2'"),
            (
                "cub-200-2011",
                "CUB_200_2011/train_test_split.txt",
                "1 1\n2 1\n3 1\n4 1\n",
                "no image of the split 'test'",
            ),
            ("voc2012", "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", "a\nb\n", "none of the 2 images"),
            ("voc2012", "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", "a\na\n", "lists 'a' more than once"),
            ("voc2012", "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", b"\xff\n", "val.txt is not UTF-8 text"),
            ("coco20k", "annotations/instances_train2014.json", "{", "is not COCO's: JSONDecodeError"),
            ("coco20k", "annotations/instances_train2014.json", '{"images": []}', "is not COCO's: KeyError"),
            ("coco20k", "annotations/instances_train2014.json", "[]", "is not COCO's: TypeError"),
        ],
    )
    def test_lists_that_cannot_be_meant_are_refused(
        self, copy: Callable[[str], Path], name: str, file: str, content: str | bytes, reason: str
    ) -> None:
        root = copy(name)
        (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(SettingsError) as refused:
            read_catalog(f"{name}:{root}")
        assert reason in str(refused.value)

    def test_coco_without_pixel_maps_is_refused(self, copy: Callable[[str], Path]) -> None:
        root = copy("coco-things")
        (root / "stuffthingmaps_trainval2017").rename(root / "maps")
        missing = "no folder stuffthingmaps_trainval2017/val2017 or annotations/val2017"
        with pytest.raises(SettingsError, match=missing):
            read_catalog(f"coco-things:{root}")

    def test_cub_without_masks_is_refused(self, copy: Callable[[str], Path]) -> None:
        root = copy("cub-200-2011")
        (root / "segmentations").rename(root / "masks")
        with pytest.raises(SettingsError, match="there is no folder segmentations"):
            read_catalog(f"cub-200-2011:{root}")

    def test_two_photographs_for_one_listed_id_are_refused(self, copy: Callable[[str], Path]) -> None:
        root = copy("voc2012")
        photograph(root / "VOCdevkit/VOC2012/JPEGImages/2007_000003.png")
        with pytest.raises(SettingsError, match="more than one image file is there for '2007_000003'"):
            read_catalog(f"voc2012:{root}")

    def test_a_missing_and_a_stray_file_shift_nothing(self, copy: Callable[[str], Path]) -> None:
        root = copy("ecssd")
        (root / "ground_truth_mask" / "0001.png").unlink()
        mask(root / "ground_truth_mask" / "0000b.png")
        (root / "images" / "Thumbs.db").write_bytes(b"x")
        catalog = read_catalog(f"ecssd:{root}")
        truths = {name: truth and Path(truth).stem for name, (_, truth) in pairs(catalog, root).items()}
        assert truths == {"0000.jpg": "0000", "0001.jpg": None, "0002.jpg": "0002", "0003.jpg": "0003"}
        assert any(note.startswith("1 of 4 images have no truth: '0001.jpg'") for note in catalog.notes)
        assert any(note.startswith("1 truth files belong to no image: '0000b.png'") for note in catalog.notes)

    def test_listed_images_that_are_not_there_are_named_and_left_out(self, copy: Callable[[str], Path]) -> None:
        root = copy("voc2012")
        (root / "VOCdevkit/VOC2012/JPEGImages/2007_000003.jpg").unlink()
        catalog = read_catalog(f"voc2012:{root}")
        assert ids(catalog) == ["2007_000001.jpg"]
        assert "1 of 2 images that ImageSets/Segmentation/val.txt lists are not there" in catalog.notes[0]
        assert "'2007_000003'" in catalog.notes[0]

    def test_photographs_outside_the_split_are_no_news(self, copy: Callable[[str], Path]) -> None:
        (note,) = read_catalog(f"voc2012:{copy('voc2012')}").notes
        assert note.startswith("voc2012 split 'val': 2 images are there and 1449 were published")

    def test_a_missing_and_a_broken_annotation_are_told_apart_from_an_empty_one(
        self, copy: Callable[[str], Path]
    ) -> None:
        root = copy("voc2012-boxes")
        folder = root / "VOCdevkit/VOC2012/Annotations"
        (folder / "2007_000000.xml").unlink()
        (folder / "2007_000001.xml").write_text("<annotation>")
        annotation(folder / "2007_000002.xml")
        catalog = read_catalog(f"voc2012-boxes:{root}")
        assert catalog.table[BOXES_COLUMN].to_pylist() == [None, None, [], [[48, 32, 96, 80], [0, 0, 20, 33]]]
        unreadable, without, empty, _ = catalog.notes
        assert re.match("1 annotations cannot be read: ['\"]2007_000001.xml: not XML: ", unreadable)
        assert without == "2 of 4 images have no annotation: '2007_000000.jpg', '2007_000001.jpg'"
        assert empty == "1 of 4 images have an annotation without any object that counts"

    def test_a_split_of_the_published_size_needs_no_note(
        self, copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(DATASETS["ecssd"].splits, "all", 4)  # type: ignore[arg-type]
        assert read_catalog(f"ecssd:{copy('ecssd')}").notes == []

    def test_other_splits_and_options_of_folders_are_refused(self, copy: Callable[[str], Path]) -> None:
        root = copy("voc2012")
        with pytest.raises(SettingsError, match=r"split: 'test' is not one of val \| train \| trainval of voc2012"):
            read_catalog(f"voc2012:{root}", split="test")
        with pytest.raises(SettingsError, match=r"split: .* has none"):
            read_catalog(str(root), split="val")
        for option in ({"truth": "x"}, {"root": "x"}, {"keep_columns": ["x"]}):
            with pytest.raises(SettingsError, match=f"{next(iter(option))}: x has no meaning for voc2012:ROOT"):
                read_catalog(f"voc2012:{root}", **option)  # type: ignore[arg-type]

    def test_a_limit_counts_after_the_whole_split_was_compared(self, copy: Callable[[str], Path]) -> None:
        catalog = read_catalog(f"ecssd:{copy('ecssd')}", limit=2)
        assert ids(catalog) == ["0000.jpg", "0001.jpg"]
        assert "4 images are there and 1000 were published" in catalog.notes[0]


class TestSeveralSplits:
    def test_splits_follow_each_other_with_their_names_beside_and_their_own_truth(
        self, copy: Callable[[str], Path]
    ) -> None:
        root, home = copy("camvid"), "CamVid"
        catalog = read_catalog(f"camvid:{root}", split="train+val")
        assert pairs(catalog, root) == {
            **{
                f"{name}.png": (f"{home}/train/{name}.png", f"{home}/trainannot/{name}.png")
                for name in ("0001TP_006690", "0016E5_00390", "0016E5_00420")
            },
            "0016E5_07959.png": (f"{home}/val/0016E5_07959.png", f"{home}/valannot/0016E5_07959.png"),
        }
        assert catalog.table[SPLIT_COLUMN].to_pylist() == ["train", "train", "train", "val"]
        assert catalog.dataset == DATASETS["camvid"].facts("train+val")
        turned = read_catalog(f"camvid:{root}", split="val+train").table
        assert turned[SPLIT_COLUMN].to_pylist() == ["val", "train", "train", "train"]

    @pytest.mark.parametrize(
        ("name", "one", "other"),
        [
            ("cub-200-2011", "train", "test"),
            ("voc2012", "train", "val"),
            ("coco-stuff", "train2017", "val2017"),
            ("bsds500", "train", "val"),
            ("cityscapes", "train", "val"),
            ("partimagenet", "train", "val"),
            ("pascal-part", "train", "val"),
            ("ade20k", "train", "val"),
        ],
    )
    def test_the_records_are_those_of_each_split_on_its_own(
        self, copy: Callable[[str], Path], name: str, one: str, other: str
    ) -> None:
        root = copy(name)
        both = read_catalog(f"{name}:{root}", split=f"{one}+{other}").table
        for split in (one, other):
            alone = read_catalog(f"{name}:{root}", split=split).table
            assert SPLIT_COLUMN not in alone.column_names
            there = [row for row in both.to_pylist() if row.pop(SPLIT_COLUMN) == split]
            assert there == alone.to_pylist()
        assert both.num_rows == len(set(both["image_id"].to_pylist()))
        assert both.schema.field(SPLIT_COLUMN).type == "string"

    def test_boxes_of_several_splits_stay_with_their_images(self, copy: Callable[[str], Path]) -> None:
        root = copy("voc2012-boxes")
        lines(root / "VOCdevkit/VOC2012/ImageSets/Main/val.txt", "2007_000003", "2007_000001")
        table = read_catalog(f"voc2012-boxes:{root}", split="train+val").table
        assert [boxes[1][3] for boxes in table[BOXES_COLUMN].to_pylist()] == [32, 33, 31]
        assert table[SPLIT_COLUMN].to_pylist() == ["train", "val", "val"]

    def test_an_image_in_two_splits_is_refused_by_name(self, copy: Callable[[str], Path]) -> None:
        with pytest.raises(SettingsError) as refused:
            read_catalog(f"voc2012:{copy('voc2012')}", split="val+trainval")
        assert str(refused.value) == (
            "split: val+trainval of voc2012: 2 images are in both: '2007_000001.jpg', '2007_000003.jpg'. "
            "To mend it: join splits that share none, or give one of val | trainval"
        )

    def test_two_files_of_one_name_are_refused(self, copy: Callable[[str], Path]) -> None:
        root = copy("bsds500")
        home = root / "BSR/BSDS500/data"
        photograph(home / "images/val/12003.jpg")
        with pytest.raises(SettingsError, match=r"1 images are called the same in both, .*: '12003\.jpg'"):
            read_catalog(f"bsds500:{root}", split="train+val")
        assert len(ids(read_catalog(f"bsds500:{root}", split="train+test"))) == 3

    @pytest.mark.parametrize(
        ("split", "message"),
        [
            ("train+trains", "'trains' of 'train+trains' is not one of val | train | trainval of voc2012; several are"),
            ("train+", "'' of 'train+' is not one of"),
            ("train + val", "'train ' of 'train + val' is not one of"),
            ("train+val+train", "'train+val+train' names train more than once"),
        ],
    )
    def test_names_that_are_none_or_twice_there_are_refused(
        self, copy: Callable[[str], Path], split: str, message: str
    ) -> None:
        with pytest.raises(SettingsError, match=re.escape(message)):
            read_catalog(f"voc2012:{copy('voc2012')}", split=split)

    def test_notes_say_which_split_they_are_of_and_each_has_its_own_published_number(
        self, copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(DATASETS["camvid"].splits, "train", 3)  # type: ignore[arg-type]
        incomparable = "scores are not comparable with published ones"
        assert read_catalog(f"camvid:{copy('camvid')}", split="train+val+test").notes == [
            f"camvid split 'val': 1 images are there and 101 were published; {incomparable}",
            "camvid split 'test': 1 of 2 images have no truth: 'Seq05VD_f00000.png'",
            f"camvid split 'test': 2 images are there and 233 were published; {incomparable}",
        ]

    def test_a_limit_that_leaves_nothing_of_a_split_says_so(self, copy: Callable[[str], Path]) -> None:
        root = copy("camvid")
        cut = read_catalog(f"camvid:{root}", split="train+val+test", limit=3)
        assert cut.table[SPLIT_COLUMN].to_pylist() == ["train"] * 3
        assert cut.notes[-1] == "limit: none of the first 3 images is of the split val or test"
        assert not any("limit" in note for note in read_catalog(f"camvid:{root}", split="train+val", limit=4).notes)


class TestAnnotations:
    def test_difficult_objects_count_and_parts_do_not(self, tmp_path: Path) -> None:
        part = "<part><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
        annotation(tmp_path / "a.xml", box(5, 6, 7.5, 8, "<difficult>1</difficult>" + part))
        assert voc.boxes_of((tmp_path / "a.xml").read_bytes()) == [[4, 5, 7.5, 8]]

    def test_a_box_of_one_pixel_has_an_area(self, tmp_path: Path) -> None:
        annotation(tmp_path / "a.xml", box(5, 6, 5, 6))
        assert voc.boxes_of((tmp_path / "a.xml").read_bytes()) == [[4, 5, 5, 6]]

    @pytest.mark.parametrize(
        "corners", [(5, 6, 4, 9), (0, 1, 4, 9), ("", 1, 4, 9), ("nan", 1, 4, 9), (1, 1, "inf", 9), ("x", 1, 4, 9)]
    )
    def test_corners_out_of_order_or_no_numbers_are_refused(self, tmp_path: Path, corners: tuple[Any, ...]) -> None:
        annotation(tmp_path / "a.xml", box(1, 1, 2, 2), box(*corners))
        with pytest.raises(ValueError, match="object 1 has the corners"):
            voc.boxes_of((tmp_path / "a.xml").read_bytes())

    def test_other_xml_is_refused(self) -> None:
        with pytest.raises(ValueError, match="outer element is 'svg'"):
            voc.boxes_of(b"<svg/>")

    def test_coco_refuses_boxes_of_other_than_four_numbers(self) -> None:
        held = {"images": [{"id": 1, "file_name": "a.jpg"}]}
        wrong = held | {"annotations": [{"image_id": 1, "iscrowd": 0, "bbox": [1, 2, 3]}]}
        with pytest.raises(ValueError, match="not enough values"):
            coco.boxes_of(json.dumps(wrong).encode())

    @pytest.mark.parametrize(
        "annotation",
        [
            {"image_id": 7, "bbox": [10, 20, 30, 40]},
            {"image_id": "7", "bbox": ["10", "20.0", "30", "4e1"], "iscrowd": "0"},
            {"image_id": 7.0, "bbox": [10.0, 20, 30, 40], "iscrowd": None},
        ],
    )
    def test_coco_may_leave_out_iscrowd_and_write_numbers_as_text(self, annotation: dict[str, Any]) -> None:
        held = {"images": [{"id": 7, "file_name": "a/b.jpg"}], "annotations": [annotation]}
        assert coco.boxes_of(json.dumps(held).encode()) == {"a/b": [[10, 20, 40, 60]]}

    def test_crowds_written_as_text_do_not_count(self) -> None:
        crowd = {"image_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": "1"}
        held = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [crowd]}
        assert coco.boxes_of(json.dumps(held).encode()) == {"a": []}

    def test_instances_have_their_outlines_their_sizes_and_their_crowds(self) -> None:
        outlines = [[1, 1, 5, 1, 5.5, 4], [8, 8, 9, 8, 9, 9]]
        runs = {"size": [20, 30], "counts": [600]}
        annotations = [
            {"image_id": "7", "bbox": [1, 1, 8, 8], "segmentation": outlines, "area": 12},
            {"image_id": 7, "bbox": [0, 0, 30, 20], "segmentation": runs, "iscrowd": "1"},
        ]
        images = [{"id": 7, "file_name": "a/b.jpg", "height": 20, "width": 30}, {"id": 8, "file_name": "c.jpg"}]
        held = {"images": images, "annotations": annotations}
        found = coco.instances_of(json.dumps(held).encode())
        size, (one, crowd) = found["a/b"]
        assert (size, found["c"]) == ((20, 30), (None, []))
        assert [outline.tolist() for outline in one.segmentation] == outlines
        assert (one.box, one.area, one.crowd) == ([1, 1, 9, 9], 12.0, False)
        assert (crowd.segmentation, crowd.area, crowd.crowd) == (runs, None, True)

    @pytest.mark.parametrize("outline", [None, [], ["x"], [[1, "y"]]])
    def test_instances_without_an_outline_of_numbers_are_refused(self, outline: Any) -> None:
        annotation = {"id": 3, "image_id": 7, "bbox": [1, 1, 8, 8], "segmentation": outline}
        held = {"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": [annotation]}
        with pytest.raises(ValueError, match=r"annotation 3 has no outline|could not convert string"):
            coco.instances_of(json.dumps(held).encode())

    def test_annotations_of_images_that_are_not_there_are_counted(self) -> None:
        left_over = [{"image_id": number, "bbox": [1, 2, 3, 4]} for number in (8, 9, 8)]
        notes: list[str] = []
        coco.boxes_of(json.dumps({"images": [], "annotations": left_over}).encode(), notes)
        assert notes == ["3 annotations are of images that the file does not have: '8', '9'"]

    @pytest.mark.parametrize(
        ("box", "message"),
        [
            ("1234", "not enough values"),
            ([1, 2, "x", 4], "could not convert"),
            ([1, 2, 3, -4], "a size is negative"),
            ([1, 2, 3, float("nan")], "a number is not finite"),
            ([1, 10**400, 3, 4], "too large"),
            (None, "not enough values"),
        ],
    )
    def test_a_box_that_is_none_is_named_by_its_annotation(self, box: Any, message: str) -> None:
        held = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 5, "image_id": 1, "bbox": box}]}
        with pytest.raises(ValueError, match=rf"the annotation 5 has the box .*{message}"):
            coco.boxes_of(json.dumps(held).encode())

    def test_two_images_of_one_id_or_one_stem_are_refused_by_name(self) -> None:
        for pictures, message in (
            ([{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}], "two images have the id 1: 'a.jpg'"),
            ([{"id": 1, "file_name": "x/a.jpg"}, {"id": 2, "file_name": "x/a.png"}], "sub-folder and stem: 'x/a'"),
        ):
            with pytest.raises(ValueError, match=message):
                coco.boxes_of(json.dumps({"images": pictures, "annotations": []}).encode())

    def test_an_image_that_is_listed_twice_keeps_the_boxes_of_both(self) -> None:
        pictures = [{"id": number, "file_name": "a.jpg"} for number in (1, 1, 2)]
        found = [{"image_id": number, "bbox": [number, 0, 1, 1]} for number in (1, 2)]
        held = json.dumps({"images": pictures, "annotations": found}).encode()
        assert coco.boxes_of(held) == {"a": [[1, 0, 2, 1], [2, 0, 3, 1]]}


class TestFacts:
    def test_each_dataset_says_how_it_is_scored(self) -> None:
        told = {name: (d.protocol, d.kind, d.ignore_label, d.center_crop) for name, d in DATASETS.items()}
        masks, labels, corloc = ("dsm-object", "object", None), ("voc-semantic", "semantic", 255), ("corloc", "boxes")
        assert told == {
            **dict.fromkeys(("ecssd", "duts-te", "dut-omron"), (*masks, False)),
            "cub-200-2011": (*masks, True),
            **dict.fromkeys(("voc2007", "voc2012"), (*labels, False)),
            **dict.fromkeys(("voc2007-boxes", "voc2012-boxes", "coco20k"), (*corloc, None, False)),
            "bsds500": ("segmentation-covering", "partitions", None, False),
            "cityscapes": ("semantic", "semantic", 0, False),
            **dict.fromkeys(("coco-stuff", "coco-things"), ("semantic", "semantic", 255, False)),
            "partimagenet": ("semantic", "semantic", None, False),
            "pascal-part": ("semantic", "semantic", 389, False),
            "camvid": ("semantic", "semantic", 11, False),
            "ade20k": ("semantic", "semantic", 0, False),
        }

    def test_each_hierarchy_knows_the_labels_of_its_dataset(self) -> None:
        named = {name: d.label_hierarchy for name, d in DATASETS.items() if d.label_hierarchy is not None}
        same = ("voc2012", "cityscapes", "coco-stuff", "coco-things", "partimagenet", "pascal-part")
        assert named == {name: name for name in same}
        for name, which in named.items():
            facts, found = DATASETS[name].facts(next(iter(DATASETS[name].splits))), label_hierarchy(which)
            assert facts.label_hierarchy == which
            assert set(range(len(facts.classes))) <= found.region_of_label.keys() | found.ignore
            assert facts.ignore_label is None or facts.ignore_label in found.ignore
            assert len(set(facts.classes)) == len(facts.classes)

    def test_classes_are_named_by_their_regions(self) -> None:
        cityscapes = class_names("cityscapes")
        assert [cityscapes[i] for i in (0, 7, 11, 23, 33)] == ["ignored 0", "road", "building", "sky", "bicycle"]
        assert sum(not name.startswith("ignored") for name in cityscapes) == 19
        # one map, two ways to look at it: what is background to one is named by the other
        pixels = class_names("coco-things", "coco-stuff")
        assert [pixels[i] for i in (0, 90, 91, 181)] == ["person", "hair brush", "banner", "wood"]
        assert len(pixels) == 182
        # a head is one of several animals'
        parts = class_names("partimagenet")
        assert [parts[i] for i in (0, 9, 40)] == ["quadruped/head", "fish/head", "background"]
        assert len(parts) == 41
        numbered = class_names("pascal-part")
        assert [numbered[i] for i in (0, 14, 54, 388)] == [
            *("background", "aeroplane/wheel_1", "boat", "tvmonitor/screen"),
        ]
        assert len(numbered) == 389

    def test_published_sizes_of_splits_add_up(self) -> None:
        for name in ("voc2007", "voc2012", "voc2007-boxes", "voc2012-boxes", "pascal-part"):
            splits = DATASETS[name].splits
            assert splits["train"] + splits["val"] == splits["trainval"]
        assert sum(DATASETS["bsds500"].splits.values()) == 500
        cub = DATASETS["cub-200-2011"].splits
        assert cub["test"] + cub["train"] == cub["all"]

    def test_camvids_classes_are_those_of_its_list(self, test_data: Path) -> None:
        camvid = DATASETS["camvid"].facts("val")
        listed = (test_data / "camvid" / "classes.txt").read_text().split()
        assert [*camvid.classes, "void"] == listed
        assert camvid.ignore_label == listed.index("void")

    def test_ade20k_has_150_classes_after_what_is_none(self) -> None:
        classes = DATASETS["ade20k"].facts("val").classes
        assert len(classes) == len(set(classes)) == 151
        # by their numbers in objectInfo150.txt
        named = {1: "wall", 3: "sky", 13: "person", 59: "screen door", 131: "screen", 142: "crt screen", 150: "flag"}
        assert {number: classes[number] for number in named} == named

    def test_voc_has_21_classes_with_background_first(self) -> None:
        classes = DATASETS["voc2012"].classes
        assert (len(classes), classes[0], classes[15], classes[20]) == (21, "background", "person", "tvmonitor")

    @pytest.mark.parametrize("name", DATASETS)
    def test_facts_survive_the_plan(self, name: str) -> None:
        split = next(iter(DATASETS[name].splits))
        facts = DATASETS[name].facts(split)
        assert (facts.name, facts.split) == (name, split)
        assert facts_of({"images": "x", "dataset": json.loads(json.dumps(facts.to_json()))}) == facts

    def test_facts_of_an_older_plan_are_read(self) -> None:
        facts = DatasetFacts("a", "b", "semantic", "voc-semantic", ("x", "y"), 255)
        held = facts.to_json()
        # a fact that came later, and one that went
        del held["label_hierarchy"]
        held["published_images"] = 1
        assert DatasetFacts.from_json(held) == facts

    def test_the_dataset_says_what_truth_is_and_else_the_plan(self) -> None:
        facts = DatasetFacts("a", "b", "boxes", "corloc").to_json()
        assert truth_kind({}) is None
        assert truth_kind({"truth_kind": None}) is None
        assert truth_kind({"truth_kind": "partitions"}) == "partitions"
        assert truth_kind({"dataset": facts}) == "boxes"
        assert truth_kind({"dataset": facts, "truth_kind": "partitions"}) == "boxes"

    @pytest.mark.parametrize(
        ("choice", "of_dataset", "expected"),
        [
            *(("auto", True, True), ("auto", False, False), ("auto", None, False)),
            *(("none", True, False), ("center", False, True), ("center", None, True)),
        ],
    )
    def test_the_crop_is_the_datasets_unless_one_is_asked_for(
        self, choice: str, of_dataset: bool | None, expected: bool
    ) -> None:
        source: dict[str, Any] = {"truth_crop": choice}
        if of_dataset is not None:
            facts = DatasetFacts("a", "b", 1, "object", "dsm-object", center_crop=of_dataset)
            source["dataset"] = facts.to_json()
        assert center_crops(source) is expected
        assert not center_crops({})

    @pytest.mark.parametrize(
        ("size", "expected"),
        [((4, 4), (0, 4, 0, 4)), ((4, 10), (0, 4, 3, 7)), ((11, 4), (3, 7, 0, 4)), ((1, 2), (0, 1, 0, 1))],
    )
    def test_the_central_square_has_the_shorter_side(
        self, size: tuple[int, int], expected: tuple[int, int, int, int]
    ) -> None:
        rows, columns = central_square(size)
        assert (rows.start, rows.stop, columns.start, columns.stop) == expected


class TestTruthFiles:
    @pytest.mark.parametrize(
        ("name", "file", "labels"),
        [
            ("cityscapes", "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png", [3, 7, 26, 33]),
            ("coco-stuff", "stuffthingmaps_trainval2017/val2017/000000000139.png", [0, 90, 91, 181, 255]),
            ("partimagenet", "PartImageNet/annotations/val/n01440764_10.png", [9, 10, 40]),
            ("pascal-part", "VOCdevkit/VOC2010/Annotations_Part_Ids/2008_000002.png", [0, 1, 300, 388, 389]),
        ],
    )
    def test_every_label_of_the_maps_is_a_class_or_ignored(
        self, copy: Callable[[str], Path], name: str, file: str, labels: list[int]
    ) -> None:
        root = copy(name)
        facts = DATASETS[name].facts(next(iter(DATASETS[name].splits)))
        found = load_labels(f"{root}/{file}", LIMITS, (128, 160), classes=len(facts.classes), ignore=facts.ignore_label)
        assert np.unique(found).tolist() == labels

    def test_the_partitions_of_the_berkeley_set_are_several(self, copy: Callable[[str], Path]) -> None:
        (uri, _) = read_catalog(f"bsds500:{copy('bsds500')}").table["truth_uri"].to_pylist()
        found = load_partitions(uri, LIMITS, (128, 160))
        assert [np.unique(partition).tolist() for partition in found] == [[1, 2], [1, 2, 3]]

    def test_vocs_palette_holds_class_ids(self, tmp_path: Path) -> None:
        class_map(tmp_path / "a.png")
        ids = load_labels(str(tmp_path / "a.png"), LIMITS, (128, 160), classes=21, ignore=255)
        # 48 x 48 pixels, of which the inner 44 x 44 are a horse
        assert [(ids == i).sum() for i in (0, 13, 255)] == [128 * 160 - 48 * 48, 44 * 44, 48 * 48 - 44 * 44]

    def test_a_class_map_is_no_object_mask(self, tmp_path: Path) -> None:
        class_map(tmp_path / "a.png")
        with pytest.raises(TruthError, match="run from 0 to 255"):
            load_truth(str(tmp_path / "a.png"), LIMITS, (128, 160))

    def test_masks_of_several_people_count_over_one_half(self, tmp_path: Path) -> None:
        # CUB's masks: each of five people adds 51; three of five are over one half
        votes = np.repeat(np.array([0, 51, 102, 153, 204, 255], np.uint8), 4).reshape(4, 6, order="F")
        Image.fromarray(votes).save(tmp_path / "a.png")
        truth = load_truth(str(tmp_path / "a.png"), LIMITS, (4, 6))
        np.testing.assert_array_equal(truth, votes >= 153)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(out / "results" / "segment").to_pylist())


def found_masks(out: Path) -> list[np.ndarray]:
    from pycocotools import mask as coco_masks

    return [coco_masks.decode(row["mask_rle"]).astype(bool) for row in rows_of(out)]


def metrics(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "results" / "segment.json").read_text())["metrics"])


class TestRuns:
    def test_segment_scores_ecssd_and_records_its_protocol(
        self, copy: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root, out = copy("ecssd"), tmp_path / "out"
        mask(root / "ground_truth_mask" / "0003.png", width=100)
        assert run(["segment", f"ecssd:{root}", str(out), *FIXED]) == 0
        rows = rows_of(out)
        assert [row["image_id"] for row in rows] == [f"{i:04}.jpg" for i in range(4)]
        scores = [row["iou"] for row in rows]
        for i, found in enumerate(found_masks(out)[:3]):
            truth = np.zeros((128, 160), bool)
            truth[32:80, 32 + 16 * i : 80 + 16 * i] = True
            assert scores[i] == pytest.approx((found & truth).sum() / (found | truth).sum())
            assert scores[i] > 0.5
        assert scores[3] is None
        assert "100x128 pixels (width x height), its image 160x128" in rows[3]["truth_error"]
        assert metrics(out)["iou_per_image_mean"] == pytest.approx(sum(scores[:3]) / 3)
        assert (metrics(out)["images_scored"], metrics(out)["truth_errors"]) == (3, 1)
        source = json.loads((out / "run.json").read_text())["source"]
        assert source["images"] == f"ecssd:{root}"
        assert facts_of(source) == DATASETS["ecssd"].facts("all")
        # goes on without looking at ROOT; another split is another input
        root.rename(root.with_name("gone"))
        assert run(["segment", f"ECSSD:{root}/", str(out), *FIXED]) == 0
        assert run(["segment", f"ecssd:{root}", str(out), *FIXED, "--split", "all"]) == 1
        assert "split: the run in OUT has None, this command has 'all'" in capsys.readouterr().err

    def test_cub_is_scored_on_the_central_square_unless_told_otherwise(
        self, copy: Callable[[str], Path], tmp_path: Path
    ) -> None:
        root = copy("cub-200-2011")
        for name in ("001.Auk/b", "002.Wren/b"):
            # 128 x 256 pixels: the square is columns 64 to 192, and the object lies half in it
            photograph(root / "CUB_200_2011" / "images" / f"{name}.jpg", (slice(32, 96), slice(32, 96)), 256)
            mask(root / "segmentations" / f"{name}.png", (slice(32, 96), slice(32, 128)), 256)
        truth = np.zeros((128, 256), bool)
        truth[32:96, 32:128] = True
        scores = []
        for choice, columns in (("none", slice(0, 256)), ("auto", slice(64, 192))):
            out = tmp_path / choice
            assert run(["segment", f"cub-200-2011:{root}", str(out), *FIXED, "--truth-crop", choice]) == 0
            found, wanted = [m[:, columns] for m in found_masks(out)], truth[:, columns]
            scores.append([row["iou"] for row in rows_of(out)])
            assert scores[-1] == pytest.approx([(m & wanted).sum() / (m | wanted).sum() for m in found])
            assert metrics(out)["accuracy"] == pytest.approx(np.mean([m == wanted for m in found]))
        assert scores[0] != scores[1]

    def test_class_maps_are_not_taken_for_object_masks(
        self, copy: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root, out = copy("voc2012"), tmp_path / "out"
        loud = [word for word in RUN if word != "--quiet"]
        assert run(["segment", f"voc2012:{root}", str(out), *loud, "--split", "trainval"]) == 0
        assert [(row["iou"], row["truth_error"]) for row in rows_of(out)] == [(None, None)] * 3
        assert "masks are not scored" in " ".join(capsys.readouterr().err.split())

    def test_boxes_pass_through_to_the_rows(self, copy: Callable[[str], Path], tmp_path: Path) -> None:
        root, out = copy("voc2007-boxes"), tmp_path / "out"
        assert run(["segment", f"voc2007-boxes:{root}", str(out), *FIXED]) == 0
        rows = rows_of(out)
        assert [row[BOXES_COLUMN][0] for row in rows] == [[48, 32, 96, 80]] * 4
        assert [row["bbox_xyxy"] for row in rows] == [[48, 32, 96, 80]] * 4

    def test_splits_pass_through_the_plan_to_the_rows(self, copy: Callable[[str], Path], tmp_path: Path) -> None:
        root, out = copy("voc2012"), tmp_path / "out"
        assert run(["segment", f"voc2012:{root}", str(out), *FIXED, "--split", "val+train"]) == 0
        rows = [(row["image_id"], row[SPLIT_COLUMN]) for row in rows_of(out)]
        assert rows == [("2007_000003.jpg", "val"), ("2007_000001.jpg", "val"), ("2007_000000.jpg", "train")]
        facts = facts_of(json.loads((out / "run.json").read_text())["source"])
        assert facts is not None
        assert facts.split == "val+train"

    def test_partitions_are_not_taken_for_object_masks(self, copy: Callable[[str], Path], tmp_path: Path) -> None:
        root, out = copy("bsds500"), tmp_path / "out"
        assert run(["segment", f"bsds500:{root}", str(out), *FIXED]) == 0
        assert [(row["iou"], row["truth_error"]) for row in rows_of(out)] == [(None, None)] * 2
        assert truth_kind(json.loads((out / "run.json").read_text())["source"]) == "partitions"

    def test_semantic_scores_the_parts_of_16_bit_maps(self, copy: Callable[[str], Path], tmp_path: Path) -> None:
        root, out = copy("pascal-part"), tmp_path / "out"
        few = ["--regions", "4", "--clusters", "3", "--split", "trainval"]
        assert run(["semantic", f"pascal-part:{root}", str(out), *RUN, *few]) == 0
        result = json.loads((out / "results" / "semantic.json").read_text())["metrics"]
        # of the five labels in the maps the last is ignored
        assert set(result["iou_by_class"]) >= {"background", "aeroplane/body", "tvmonitor/screen"}
        assert result["images_scored"] == 2

    def test_all_ids_that_cityscapes_ignores_are_ignored(self, copy: Callable[[str], Path], tmp_path: Path) -> None:
        root, out = copy("cityscapes"), tmp_path / "out"
        assert run(["semantic", f"cityscapes:{root}", str(out), *RUN, "--regions", "4", "--clusters", "3"]) == 0
        result = json.loads((out / "results" / "semantic.json").read_text())["metrics"]
        # of 3, 7, 26 and 33 the first is the border that rectification leaves
        assert set(result["iou_by_class"]) == {"road", "car", "bicycle"}
        assert result["ignored_pixels"] > 0

    @pytest.mark.parametrize("given", ["ecssd:{0}/nothing", "ecsd:{0}"])
    def test_a_wrong_name_or_root_is_one_message(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str
    ) -> None:
        assert run(["segment", given.format(tmp_path), str(tmp_path / "out"), *FIXED]) == 1
        message = capsys.readouterr().err
        assert message.startswith("simsam: ")
        assert "Traceback" not in message


def test_every_dataset_is_on_the_page_that_describes_them() -> None:
    page = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text(encoding="utf-8")
    described = {row.split("|")[1].strip(" `"): row for row in page.splitlines() if row.startswith("| `")}
    assert set(described) == set(DATASETS)
    for name, dataset in DATASETS.items():
        sizes = (split if size is None else f"{split} {size:,}" for split, size in dataset.splits.items())
        for fact in (dataset.protocol, *sizes):
            assert fact in described[name], f"{name}: {fact}"
        for need in needs(dataset.layout):
            assert need in page, need


def needs(layout: str) -> Iterable[str]:
    """Folders and files named in a layout's tree."""
    return [line.split("── ")[1].split()[0].split("/")[0] for line in layout.splitlines() if "── " in line]
