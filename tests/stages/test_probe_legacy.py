"""``simsam probe --preset ibot-legacy`` against the published protocol, written out in NumPy, PIL, SciPy and timm."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from probe_runs import HEIGHT, NETWORK, PATCH, VOID, WIDTH, arguments, make_collection
from result_rows import pixels_of, rows_of
from safetensors.torch import load_file, save_file
from scipy.cluster.hierarchy import fcluster, linkage

from simsam_batch.cli import run as simsam
from simsam_batch.probes.blocks import Block
from simsam_batch.probes.steps import IBOT_LEGACY, Steps, fit_by_steps
from simsam_batch.regions.codebook import Codebook
from simsam_batch.stages.probe.settings import PRESETS, ProbeSettings

SHORT, SIDE = 72, 64
GRID = SIDE // PATCH
CLASSES, NEIGHBOURS, CHUNKS, OF_CHUNK = 3, 5, 3, 4
SETS = ("norm-token-5", "key-5")
FRACTIONS = (0.5, 1.0)

pytestmark = pytest.mark.usefixtures("one_thread")

Ids = NDArray[np.int64]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("legacy")
    make_collection(home)
    # a final norm that does something
    weights = load_file(home / "vit.safetensors")
    weights["norm.weight"] = torch.linspace(0.5, 2, len(weights["norm.weight"]))
    weights["norm.bias"] = torch.linspace(-1, 1, len(weights["norm.bias"]))
    save_file(weights, home / "vit.safetensors")
    return home


def legacy(home: Path, out: Path, *more: str) -> list[str]:
    """A run with the preset and but for sizes nothing else; of 12 images 6 are fitted on and 6 scored."""
    command = arguments(home, out)
    start = command.index("--resize")
    command[start + 1] = f"crop:{SHORT}:{SIDE}"
    # steps of L-BFGS, of which there are none
    start = command.index("--iterations")
    del command[start : start + 2]
    small = ["--ward", f"chunks:{CHUNKS}:{OF_CHUNK}", "--facets", "norm-token,key", "--fractions", ".5,1"]
    return [*command, "--preset", "ibot-legacy", *small, "--engine", "inline", *more]


@pytest.fixture(scope="module")
def finished(home: Path) -> Path:
    out = home / "run"
    assert simsam(legacy(home, out)) == 0
    return out


def arrays_of(out: Path, row: dict[str, Any]) -> dict[str, Any]:
    with np.load(out / row["arrays_path"], allow_pickle=False) as file:
        start = f"{row['arrays_member']}."
        return {
            name.removeprefix(start).removesuffix(".npy"): file[name] for name in file.files if name.startswith(start)
        }


def seen_square(image: Image.Image, filter_: Image.Resampling) -> NDArray[np.uint8]:
    """Shorter side to 72 of 64 x 96 pixels, so 72 x 108; then the central 64 x 64, from (4, 22) on."""
    assert image.size == (WIDTH, HEIGHT)
    return np.asarray(image.resize((108, 72), filter_))[4:68, 22:86]


def truth_of(home: Path, name: str) -> Ids:
    """Truth of the square, pixels that do not count as background."""
    with Image.open(home / "truth" / name) as image:
        ids = seen_square(image, Image.Resampling.NEAREST).astype(np.int64)
    return np.where(ids == VOID, 0, ids)


def coarse(truth: Ids) -> Ids:
    """(16,) the class of most pixels of each patch, row by row, the lowest of equal ones."""
    corners = [(top, left) for top in range(0, SIDE, PATCH) for left in range(0, SIDE, PATCH)]
    patches = [truth[top : top + PATCH, left : left + PATCH].ravel() for top, left in corners]
    return np.array([np.bincount(patch, minlength=3).argmax() for patch in patches])


def tiled(patches: Ids) -> Ids:
    return np.kron(patches.reshape(GRID, GRID), np.ones((PATCH, PATCH), np.int64))


def smoothed(prediction: Ids) -> Ids:
    """By the label at each patch's top left pixel; a patch that none of eight neighbours agrees with is background."""
    labels = prediction[::PATCH, ::PATCH]
    around = np.zeros((GRID + 2, GRID + 2), np.int64)
    around[1:-1, 1:-1] = labels
    found = labels.copy()
    for y in range(GRID):
        for x in range(GRID):
            window = around[y : y + 3, x : x + 3].ravel().tolist()
            del window[4]
            if labels[y, x] not in window:
                found[y, x] = 0
    return tiled(found)


def per_image(predictions: list[Ids], truths: list[Ids]) -> float:
    """The mean over images of the mean over classes that are predicted or true there of their IoU."""
    means = []
    for prediction, truth in zip(predictions, truths, strict=True):
        own = []
        for c in range(CLASSES):
            union = ((prediction == c) | (truth == c)).sum()
            if union:
                own.append(((prediction == c) & (truth == c)).sum() / union)
        means.append(np.mean(own))
    return float(np.mean(means))


class Published:
    """What the published code would be given: features of the run's images, and truth read anew."""

    def __init__(self, home: Path, out: Path, sets: tuple[str, ...] = SETS) -> None:
        self.names = [row["image_id"] for row in rows_of(out, "features")]
        rows = {row["image_id"]: row for row in rows_of(out, "probe-maps")}
        self.train = [name for name in self.names if rows[name]["side"] == "train"]
        self.val = [name for name in self.names if rows[name]["side"] == "val"]
        held = {row["image_id"]: arrays_of(out, row) for row in rows_of(out, "features")}
        self.features = {n: {s: held[n][s].reshape(16, -1) for s in sets} for n in self.names}
        self.truth = {name: truth_of(home, name) for name in self.names}

    def head(self, fraction: float) -> list[str]:
        return self.train[: int(fraction * len(self.train))]

    def rows(self, names: list[str], features: str) -> tuple[NDArray[np.float64], Ids]:
        """All patches of some images in order, and their coarse labels."""
        own = np.concatenate([self.features[name][features] for name in names]).astype(np.float64)
        return own, np.concatenate([coarse(self.truth[name]) for name in names])

    def balanced(self, names: list[str], features: str) -> tuple[NDArray[np.float64], Ids]:
        """All foreground, then so many of the first rows as there are of background."""
        rows, labels = self.rows(names, features)
        taken = [i for i, label in enumerate(labels) if label != 0]
        taken += [i for i in range(len(labels)) if i < (labels == 0).sum()]
        return rows[taken], labels[taken]

    def score(self, classes_of: Callable[[NDArray[np.float64]], Ids], features: str) -> float:
        found = [smoothed(tiled(classes_of(self.features[n][features].astype(np.float64)))) for n in self.val]
        return per_image(found, [self.truth[name] for name in self.val])


@pytest.fixture(scope="module")
def published(home: Path, finished: Path) -> Published:
    return Published(home, finished)


def figures(out: Path, probe: str) -> dict[tuple[str, float], float]:
    return {
        (row["features"], row["fraction"]): row["miou_per_image"]
        for row in rows_of(out, "probe-table")
        if row["probe"] == probe
    }


def fit_of(out: Path, name: str) -> dict[str, Any]:
    return next(row for row in rows_of(out, "probe-fits") if row["fit"] == name)


def every_cell(figures: dict[tuple[str, float], float], expected: Callable[[str, float], float]) -> None:
    assert {*figures} == {(features, fraction) for features in SETS for fraction in FRACTIONS}
    for (features, fraction), figure in figures.items():
        assert figure == pytest.approx(expected(features, fraction)), (features, fraction)
    assert len({*figures.values()}) > 1, "any prediction would score alike"


def test_the_network_sees_the_central_square_and_keys_pass_its_final_norm(home: Path, published: Published) -> None:
    model = timm.create_model(NETWORK, pretrained=False, num_classes=0, dynamic_img_size=True, dynamic_img_pad=False)
    model.load_state_dict(load_file(home / "vit.safetensors"))
    model.eval()
    held: dict[str, torch.Tensor] = {}
    model.blocks[-1].attn.qkv.register_forward_hook(lambda module, given, found: held.update(qkv=found))
    mean, std = (torch.tensor(model.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    for name in published.names[:3]:
        with Image.open(home / "photos" / name) as image:
            pixels = torch.from_numpy(seen_square(image, Image.Resampling.BICUBIC).copy()).permute(2, 0, 1) / 255
        with torch.no_grad():
            tokens = model.forward_features(((pixels - mean) / std)[None])
            key = model.norm(held["qkv"].chunk(3, dim=-1)[1])
        for features, expected in (("norm-token-5", tokens), ("key-5", key)):
            patches = expected[0, model.num_prefix_tokens :].numpy()
            np.testing.assert_allclose(published.features[name][features], patches, atol=1e-4)


def neighbours_among(rows: NDArray[np.float64], labels: Ids) -> Callable[[NDArray[np.float64]], Ids]:
    """The class of most of the nearest five rows by inner product, the lowest of equal ones."""

    def classes(patches: NDArray[np.float64]) -> Ids:
        nearest = np.argsort(-(patches @ rows.T), axis=1, kind="stable")[:, :NEIGHBOURS]
        return np.array([np.bincount(labels[own], minlength=3).argmax() for own in nearest])

    return classes


def test_neighbours_are_by_inner_product_among_rows_of_which_some_come_twice(
    finished: Path, published: Published
) -> None:
    def expected(features: str, fraction: float) -> float:
        rows = published.balanced(published.head(fraction), features)
        return published.score(neighbours_among(*rows), features)

    every_cell(figures(finished, "knn"), expected)


def test_linear_probes_descend_on_these_rows_in_this_order(finished: Path, published: Published) -> None:
    def expected(features: str, fraction: float) -> float:
        both = [published.balanced(published.head(fraction), each) for each in SETS]
        labels = torch.nn.functional.one_hot(torch.from_numpy(both[0][1]), CLASSES).float()
        block = Block([torch.from_numpy(rows).float() for rows, _ in both], labels, torch.ones(len(labels)))
        probes = fit_by_steps(lambda: [block], CLASSES, IBOT_LEGACY, seed=0)
        fit = fit_of(finished, f"linear, {fraction:g} draw 0")
        held = arrays_of(finished, fit)
        own = probes[SETS.index(features)]
        # 50 epochs of one step: all rows are fewer than 16 images of 196 patches
        assert (fit["iterations"], fit["patches"], fit["converged"]) == (50, len(labels), None)
        np.testing.assert_allclose(held[f"weight.{features}"], own.weight.numpy(), atol=1e-6)
        np.testing.assert_allclose(held[f"bias.{features}"], own.bias.numpy(), atol=1e-6)
        weight, bias = own.weight.double().numpy(), own.bias.double().numpy()
        return published.score(lambda patches: (patches @ weight.T + bias).argmax(axis=1), features)

    every_cell(figures(finished, "linear"), expected)


def majority(members: Ids, labels: Ids, clusters: int) -> Ids:
    """The class of most members of each cluster; without any, background."""
    return np.array([np.bincount(labels[members == each], minlength=3).argmax() for each in range(clusters)])


def nearest_by_cosine(patches: NDArray[np.float64], centroids: NDArray[np.float64]) -> Ids:
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (patches, centroids)]
    return (unit[0] @ unit[1].T).argmax(axis=1)


def by_clusters(out: Path, published: Published, features: str, fraction: float, clusters: int = 6) -> float:
    """The figure of clusters as they were found: named by the most of the first images' patches, nearest by cosine."""
    fit = fit_of(out, f"kmeans {features}, seed 0")
    assert fit["patches"] == 16 * len(published.train)
    with np.load(out / fit["arrays_path"]) as file:
        member = next(name for name in file.files if name.startswith(f"{fit['arrays_member']}.codebook.{clusters}"))
        book = Codebook.from_bytes(file.zip.read(member))
    rows, labels = published.rows(published.head(fraction), features)
    names = majority(nearest_by_angle(rows, book), labels, len(book.centers))
    return published.score(lambda patches: names[nearest_by_angle(patches, book)], features)


def nearest_by_angle(rows: NDArray[np.float64], book: Codebook) -> Ids:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    distances: Ids = ((unit[:, None] - book.centers.astype(np.float64)) ** 2).sum(axis=2).argmin(axis=1)
    return distances


def test_clusters_are_of_all_patches_and_named_by_the_first_images(finished: Path, published: Published) -> None:
    every_cell(figures(finished, "kmeans"), lambda *cell: by_clusters(finished, published, *cell))


def test_a_cluster_without_labels_is_background_though_another_class_is_commoner(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "photos", tmp_path / "photos")
    shutil.copy(home / "vit.safetensors", tmp_path)
    (tmp_path / "names.txt").write_text("square\nground\ndisc\n")
    (tmp_path / "truth").mkdir()
    for path in (home / "truth").iterdir():
        with Image.open(path) as image:
            truth = np.asarray(image)
        swapped = np.where(truth < 2, 1 - truth, truth).astype(np.uint8)
        Image.fromarray(swapped).save(tmp_path / "truth" / path.name)
    out = tmp_path / "run"
    # two images name sixteen clusters
    few = ["--probes", "kmeans", "--facets", "key", "--fractions", ".34", "--clusters", "16"]
    assert simsam(legacy(tmp_path, out, *few)) == 0
    named = np.load(out / (fit := fit_of(out, "kmeans key-5, seed 0"))["arrays_path"])
    counts = named[f"{fit['arrays_member']}.counts.16.npy"][0]
    assert counts.sum(axis=0).argmax() == 1
    assert (counts.sum(axis=1) == 0).any(), "else nothing is shown"
    figure = figures(out, "kmeans")["key-5", 0.34]
    assert figure == pytest.approx(by_clusters(out, Published(tmp_path, out, ("key-5",)), "key-5", 0.34, 16))


def test_chunks_of_all_patches_have_clusters_by_ward_and_vote_by_cosine(finished: Path, published: Published) -> None:
    def expected(features: str, fraction: float) -> float:
        rows, labels = published.rows(published.train, features)
        size = -(-len(rows) // CHUNKS)
        ensemble = []
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            members = fcluster(linkage(rows[part], "ward"), OF_CHUNK, "maxclust") - 1
            centroids = np.array([rows[part][members == each].mean(axis=0) for each in range(OF_CHUNK)])
            # of half of the labels, those of the first half of each chunk
            named = np.where(np.arange(len(members)) < int(fraction * len(members)), members, -1)
            ensemble.append((centroids, majority(named, labels[part], OF_CHUNK)))

        def classes(patches: NDArray[np.float64]) -> Ids:
            votes = np.array([names[nearest_by_cosine(patches, centroids)] for centroids, names in ensemble])
            return np.array([np.bincount(own, minlength=3).argmax() for own in votes.T])

        return published.score(classes, features)

    every_cell(figures(finished, "ward"), expected)


def test_floor_and_ceiling_are_of_the_same_pixels(home: Path, finished: Path, published: Published) -> None:
    rows = {row["cell"]: row for row in rows_of(finished, "probe-table")}
    truths = [published.truth[name] for name in published.val]
    train = np.concatenate([published.truth[name].ravel() for name in published.train])
    commonest = int(np.bincount(train).argmax())
    floor = per_image([np.full((SIDE, SIDE), commonest)] * len(truths), truths)
    ceiling = per_image([tiled(coarse(truth)) for truth in truths], truths)
    assert rows["floor"]["miou_per_image"] == pytest.approx(floor)
    assert rows["patch ceiling"]["miou_per_image"] == pytest.approx(ceiling)
    table = json.loads((finished / "results" / "probe-table.json").read_text())["metrics"]["table"]
    assert table["references"]["floor"]["miou_per_image"] == pytest.approx(floor)
    for row in rows_of(finished, "probe-maps"):
        if row["side"] == "val":
            counts = arrays_of(finished, row)["counts"]
            # every pixel of the square counts, in every cell
            assert (counts[:, 1].sum(axis=1) == SIDE * SIDE).all()
            assert (counts[:, 2] == np.bincount(published.truth[row["image_id"]].ravel(), minlength=3)).all()


def test_label_maps_are_of_whole_images_and_end_where_the_square_does(finished: Path) -> None:
    # the square begins at 22 of 108 and ends at 86: columns 20 to 75 of 96; rows 4 to 59 of 64
    outside = np.ones((HEIGHT, WIDTH), np.bool_)
    outside[4:60, 20:76] = False
    seen = 0
    for row in rows_of(finished, "probe-maps"):
        for of_probe in row["maps"] or []:
            for segment in of_probe["segments"]:
                pixels = pixels_of(segment["mask_rle"])
                assert pixels.shape == outside.shape
                assert not (pixels & outside).any()
                seen += int(pixels.any())
    assert seen


def test_pixels_beside_the_square_do_not_count_at_the_images_own_size(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    few = ["--probes", "knn", "--truth-size", "native", "--void", "ignore", "--fractions", "1", "--facets", "key"]
    assert simsam(legacy(home, out, *few)) == 0
    for row in rows_of(out, "patch-labels"):
        with Image.open(home / "truth" / row["image_id"]) as image:
            truth = np.asarray(image)
        square = truth[4:60, 20:76]
        counted = square[square != VOID]
        assert dict(zip(row["classes"], row["class_pixels"], strict=True)) == {
            c: int((counted == c).sum()) for c in np.unique(counted).tolist()
        }
        assert row["void_pixels"] == truth.size - counted.size


def test_the_preset_says_what_is_published_and_each_setting_is_one_of_its_own() -> None:
    preset = PRESETS["ibot-legacy"]
    assert {*preset} <= {*ProbeSettings.model_fields}
    plain = ProbeSettings().model_dump()
    # what stays as it is by default is named too where a default may move
    same = {name for name, value in preset.items() if plain[name] == value}
    assert same == {"facets", "blocks", "fractions", "probes", "epochs", "learning_rate", "cluster_names"}
    assert (preset["resize"], preset["neighbours"], preset["clusters"]) == ("crop:256:224", 20, (20,))


@pytest.mark.parametrize("command", ["segment", "semantic", "hierarchy"])
def test_commands_of_whole_images_refuse_a_crop(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    made = [command, str(home / "photos"), str(tmp_path / "out"), "--resize", "crop:72:64", "--backbone", "descriptors"]
    assert simsam(made) != 0
    assert "leaves out what lies beside the central square" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_features_that_were_begun_before_projections_could_be_normed_are_gone_on_with(
    home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ["features", str(home / "photos"), str(out), "--backbone", NETWORK, "--resize", "native", "--quiet"]
    command += ["--weights", str(home / "vit.safetensors"), "--shard-size", "4", "--engine", "inline"]
    assert simsam(command) == 0
    record = out / "features" / "stage.json"
    stage = json.loads(record.read_text())
    assert stage["settings"].pop("facet_norm") == "none"
    record.write_text(json.dumps(stage))
    manifests = {path.name: path.read_bytes() for path in (out / "features" / "manifests").iterdir()}
    assert simsam(command) == 0
    assert {path.name: path.read_bytes() for path in (out / "features" / "manifests").iterdir()} == manifests
    assert simsam([*command, "--facet-norm", "final"]) != 0


@pytest.mark.parametrize("ward", ["chunks", "chunks:3", "chunks:0:4", "trees"])
def test_a_way_of_ward_that_is_none_says_what_is_allowed(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ward: str
) -> None:
    assert simsam(arguments(home, tmp_path / "out", "--ward", ward)) != 0
    assert "chunks:N:K" in capsys.readouterr().err


def test_steps_of_adamw_are_on_shares_of_classes_of_all_labelled_patches(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    few = ["--probes", "linear", "--fractions", "1", "--facets", "key", "--seeds", "1", "--engine", "inline"]
    command = arguments(home, out, *few, "--solver", "adamw", "--epochs", "3", "--learning-rate", ".01")
    start = command.index("--iterations")
    del command[start : start + 2]
    assert simsam(command) == 0
    train = [row["image_id"] for row in rows_of(out, "probe-maps") if row["side"] == "train"]
    held = {row["image_id"]: arrays_of(out, row) for row in rows_of(out, "features")}
    features, targets, weights = [], [], []
    for name in train:
        with Image.open(home / "truth" / name) as image:
            truth = np.asarray(image)
        for y, x in np.ndindex(HEIGHT // PATCH, WIDTH // PATCH):
            under = truth[y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH]
            counts = np.bincount(under[under != VOID], minlength=3)
            if counts.sum():
                features.append(held[name]["key-5"][y, x])
                targets.append(counts / counts.sum())
                weights.append(counts.sum() / PATCH**2)
    rows, shares, counted = (torch.from_numpy(np.array(each)).float() for each in (features, targets, weights))
    how = Steps(solver="adamw", epochs=3, warm_up_epochs=3, learning_rate=0.01)
    (expected,) = fit_by_steps(lambda: [Block([rows], shares, counted)], CLASSES, how, seed=0)
    fit = fit_of(out, "linear, 1 draw 0")
    assert fit["iterations"] == 3
    np.testing.assert_allclose(arrays_of(out, fit)["weight.key-5"], expected.weight.numpy(), atol=1e-5)


def test_first_patches_are_those_of_the_images_drawn_wherever_these_stand(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert simsam(legacy(home, out, "--probes", "knn", "--subset", "random", "--seeds", "2")) == 0
    published = Published(home, out)
    drawn = {row["subset"]: arrays_of(out, row)["records"] for row in rows_of(out, "subsets")}
    every = [row["image_id"] for row in rows_of(out, "features")]
    found = {}
    for row in rows_of(out, "probe-table"):
        if row["probe"] == "knn":
            names = [every[record] for record in drawn[f"{row['fraction']:g} draw {row['seed']}"]]
            features = row["features"]
            figure = published.score(neighbours_among(*published.balanced(names, features)), features)
            assert row["miou_per_image"] == pytest.approx(figure), row["cell"]
            found[tuple(names)] = figure
    assert any(list(names) != published.train[: len(names)] for names in found)
    assert len({*found.values()}) > 1
