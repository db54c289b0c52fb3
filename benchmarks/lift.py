"""``python -m benchmarks.lift DATA WEIGHTS``: the lift from stored eigenvectors against that of the whole graph.

The graphs are those of ``simsam segment`` by a ViT; the stored eigenvectors are K = 15 in half precision. The table of
docs/view.md is this one's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.features.backbones import load_backbone
from simsam_batch.features.contract import Backbone
from simsam_batch.settings import resolve
from simsam_batch.spectral.lift import lift
from simsam_batch.stages.decomposition import decompose_batch
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.workers.seeds import image_seed
from simsam_batch.workers.timer import Timer

SETS = {"horses": "weizmann_horses/images", "BSDS500": "bsds500"}
STEPS = (1, 2, 4, 8)
K = 15


def main() -> None:
    """Print a line for each set, head and number of steps."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lift", description=__doc__)
    parser.add_argument("data", type=Path, help="folder with weizmann_horses and bsds500")
    parser.add_argument("weights", help="of vit_tiny_patch16_224")
    parser.add_argument("--images", type=int, default=20, help="of each set")
    options = parser.parse_args()
    print("| images | head | t | Pearson over all pairs: mean (range) | over the row of a patch: mean |")
    print("| --- | --- | --- | --- | --- |")
    for name, folder in SETS.items():
        files = sorted((options.data / folder).rglob("*.jpg"))
        chosen = [files[place] for place in np.linspace(0, len(files) - 1, options.images).astype(int)]
        for head in ("none", "trained"):
            found = np.array([correlations(path, head, options.weights) for path in chosen])
            for step, (whole, rows) in zip(STEPS, found.transpose(1, 2, 0), strict=True):
                print(
                    f"| {len(chosen)} {name} | {head} | {step} | {whole.mean():.3f} ({whole.min():.3f} to "
                    f"{whole.max():.3f}) | {rows.mean():.3f} |",
                    flush=True,
                )


def correlations(path: Path, head: str, weights: str) -> NDArray[np.float64]:
    """Of one image for each number of steps the correlation over all pairs of patches, and the mean over rows."""
    given = {"backbone": "vit_tiny_patch16_224", "block": 8, "resize": "short:384", "head": head, "k": K}
    settings = resolve(SegmentSettings, given | {"weights": weights, "device": "cpu"})
    graph, values, vectors = decomposed(path, settings, _backbone(settings))
    stored = vectors.astype(np.float16)
    return np.array([_pearson(lift(values, stored, step), exact) for step, exact in exact_lifts(graph)])


def decomposed(
    path: Path, settings: SegmentSettings, backbone: Backbone
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float32]]:
    """The graph of the patches that are in it, (M, M), and the eigenpairs as a run stores them for these."""
    limits = images.ImageLimits()
    resize = images.parse_resize(settings.resize)
    loaded = images.prepare(path.read_bytes(), limits=limits, resize=resize, patch=backbone.patch)
    found = decompose_batch(
        torch.from_numpy(loaded.rgb)[None],
        loaded.grid,
        [image_seed(settings.seed, path.name)],
        backbone,
        settings,
        Timer(torch.device("cpu")),
        keep_graph=True,
    )
    assert found.graph is not None
    inside = found.valid[0].numpy()
    graph = found.graph[0].numpy().astype(np.float64)[np.ix_(inside, inside)]
    return graph, found.pairs.values[0, :K].numpy(), found.vectors[0, :K].numpy()[:, inside]


def exact_lifts(graph: NDArray[np.float64]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """For each number of steps what a walk on the graph itself gives."""
    degrees = graph.sum(1)
    walk = graph / degrees[:, None]
    for step in STEPS:
        yield step, np.linalg.matrix_power(walk, step) * degrees.sum() / degrees


def _pearson(ours: NDArray[np.float64], exact: NDArray[np.float64]) -> tuple[float, float]:
    """Over the pairs of two patches, and the mean over the patches of that over the others."""
    others = ~np.eye(len(exact), dtype=bool)
    rows = [np.corrcoef(a[keep], b[keep])[0, 1] for a, b, keep in zip(ours, exact, others, strict=True)]
    return float(np.corrcoef(ours[others], exact[others])[0, 1]), float(np.mean(rows))


_loaded: dict[str, Backbone] = {}


def _backbone(settings: SegmentSettings) -> Backbone:
    if settings.backbone not in _loaded:
        _loaded[settings.backbone] = load_backbone(
            settings.backbone,
            weights=Path(settings.weights or ""),
            block=settings.block,
            facet=settings.facet,
            device="cpu",
        )
    return _loaded[settings.backbone]


if __name__ == "__main__":
    main()
