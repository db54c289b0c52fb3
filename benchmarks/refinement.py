"""Masks that follow edges: `--refine guided` beside masks as they are drawn and beside the dense CRF."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import Row, Setup, threads
from benchmarks.objects import Picture, found_by_segment, single_objects
from simsam_batch.regions.refine import REFINEMENTS, refine, shrink
from simsam_batch.scores.bits import packed
from simsam_batch.scores.boundary import boundary_iou

GROUP = "refinement"
DRAWS = 4000
_TIMED = 24

Scores = NDArray[np.float64]
"""IoU and boundary IoU (N, 2) of the masks of N pictures."""


def rows(setup: Setup) -> Iterator[Row]:
    """IoU on each set, over all of it and over the half that nothing was chosen on; processor time of a mask."""
    sets, settings, described_by = single_objects(setup)
    methods = ["none", "guided", *(["crf"] if find_spec("pydensecrf") else [])]
    drawn: list[tuple[Picture, NDArray[np.bool_]]] = []
    with threads(1):
        for name, pictures in sets.items():
            found = {}
            for method in methods:
                masks = [
                    masks[0] if masks else np.zeros(picture.truth.shape, dtype=np.bool_)
                    for picture, (masks, _) in zip(
                        pictures,
                        found_by_segment(pictures, settings.model_copy(update={"refine": method})),
                        strict=True,
                    )
                ]
                found[method] = np.array([_scores(each, mask) for each, mask in zip(pictures, masks, strict=True)])
                if method == "none" and not drawn:
                    drawn = [*zip(pictures, masks, strict=True)][:_TIMED]
            yield from _of_set(name, pictures, found, described_by)
        if "crf" in methods:
            yield _times(drawn)


def _scores(picture: Picture, mask: NDArray[np.bool_]) -> tuple[float, float]:
    both, either = np.count_nonzero(mask & picture.truth), np.count_nonzero(mask | picture.truth)
    return both / max(either, 1), boundary_iou(packed(mask), packed(picture.truth))


def _of_set(name: str, pictures: Sequence[Picture], found: Mapping[str, Scores], described_by: str) -> Iterator[Row]:
    blind = [i for i, picture in enumerate(pictures) if not picture.chosen_on]
    groups = sorted({pictures[i].group for i in blind})
    members = [[i for i in blind if pictures[i].group == group] for group in groups]
    details = {
        method: {
            "blind": _mean(scores[:, 0], members),
            "blind_boundary": _mean(scores[:, 1], members),
            "all": float(scores[:, 0].mean()),
        }
        for method, scores in found.items()
    }
    for peer in [method for method in found if method != "guided"]:
        differences = {
            f"guided less {peer}{which}": _mean(found["guided"][:, of] - found[peer][:, of], members)
            for of, which in enumerate(("", ", boundary"))
        }
        worse = int((found["guided"][:, 0] < found[peer][:, 0]).sum())
        yield Row(
            GROUP,
            f"IoU of masks, {name}",
            "--refine guided",
            f"--refine {peer}",
            [float(found["guided"][blind, 0].mean() / max(found[peer][blind, 0].mean(), 1e-3))],
            threads="1",
            note=f"{len(blind)} of {len(pictures)} images in {len(groups)} groups, those that nothing was chosen on; "
            f"worse on {worse} of all; {described_by}",
            details=details | differences,
        )


def _mean(values: NDArray[np.float64], members: Sequence[Sequence[int]]) -> list[float]:
    """A mean over groups, each counting once, with its 95 % interval: groups are drawn again."""
    means = np.array([values[of].mean() for of in members])
    rng = np.random.default_rng(0)
    drawn = means[rng.integers(0, len(means), (DRAWS, len(means)))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return [round(float(each), 4) for each in (means.mean(), low, high)]


def _times(drawn: Sequence[tuple[Picture, NDArray[np.bool_]]]) -> Row:
    """Processor time of a mask at a longest side of 1024, both in turn."""
    seconds: dict[str, list[float]] = {"guided": [], "crf": []}
    sizes = []
    for picture, mask in drawn:
        with Image.open(picture.file) as file:
            rgb = shrink(np.array(file.convert("RGB")), 1024)
        coarse = np.array(Image.fromarray(mask).resize((rgb.shape[1], rgb.shape[0]), Image.Resampling.NEAREST))
        sizes.append(coarse.size / 1e6)
        for method, held in seconds.items():
            began = time.process_time()
            refine(rgb, coarse, REFINEMENTS[method])
            held.append(time.process_time() - began)
    return Row(
        GROUP,
        "processor time of a mask",
        "--refine guided",
        "--refine crf",
        [ours / peer for ours, peer in zip(seconds["guided"], seconds["crf"], strict=True)],
        ours_seconds=float(np.mean(seconds["guided"])),
        peer_seconds=float(np.mean(seconds["crf"])),
        threads="1",
        note=f"{len(drawn)} photographs of {np.mean(sizes):.2f} megapixels on average, in turn",
    )
