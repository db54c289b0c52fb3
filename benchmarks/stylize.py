"""Restyling an image by words: an update against the published procedure, a forward pass, and memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks import material
from benchmarks.clipstyler_upstream import Upstream, free
from benchmarks.measure import (
    Row,
    Setup,
    alternate,
    cores,
    in_own_process,
    peak_memory,
    ratios,
    start_new_peak,
    threads,
)
from simsam_batch.features.clip import DEFAULT, Clip, templates
from simsam_batch.features.vgg import Vgg
from simsam_batch.styling.crops import windows_of
from simsam_batch.styling.fitting import Fit, Procedure, Region

GROUP = "stylize"
UPDATES = 100
_TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    "quick_gelu": True,
}


def rows(setup: Setup) -> Iterator[Row]:
    """An update of one region at 256 pixels, what a network of the run saves, and memory by crops seen at once."""
    side, crops, rounds = setup.pick(cpu=(256, 16, 5), cuda=(512, 64, 9), smoke=(32, 4, 2))
    upstream, fit = _both(side, crops, setup)
    with threads(cores()):
        seconds = alternate({"ours": fit.update, "upstream": upstream.update}, setup, rounds=rounds)
    network = "a small CLIP" if setup.smoke else DEFAULT
    note = f"{network} and VGG-19 with weights by chance; {material.photographs().source}"
    yield Row(
        GROUP,
        f"an update, {side} x {side}, {crops} crops",
        "frozen networks, all crops by one interpolation",
        "the published procedure: crops one by one, drawn until they fit, networks not frozen",
        ratios(seconds["upstream"], seconds["ours"]),
        median(seconds["ours"]),
        median(seconds["upstream"]),
        threads=f"{cores()} each",
        target=2.0,
        note=note,
    )
    with threads(cores()):
        seconds = alternate({"forward": fit.restyled, "update": fit.update}, setup, rounds=rounds)
    yield Row(
        GROUP,
        f"a picture of {side} x {side} by a network of the run",
        "one forward pass",
        f"{UPDATES} updates of a network of the image's own, {crops} crops",
        [UPDATES * ratio for ratio in ratios(seconds["update"], seconds["forward"])],
        median(seconds["forward"]),
        UPDATES * median(seconds["update"]),
        threads=f"{cores()} each",
        note=f"{note}; of the updates one is measured",
    )
    peaks = {
        together: in_own_process(setup, "benchmarks.stylize", side, crops, together, int(setup.smoke))["mb"]
        for together in (crops, max(1, crops // 4))
    }
    yield Row(
        GROUP,
        f"peak of memory of an update, {crops} crops at once by a quarter of them",
        f"{peaks[max(1, crops // 4)]:.0f} MB",
        f"{peaks[crops]:.0f} MB",
        [peaks[crops] / peaks[max(1, crops // 4)]],
        threads=str(cores()),
        note=note,
        details={str(together): mb for together, mb in peaks.items()},
    )


def _networks(setup: Setup) -> tuple[Clip, Vgg, Any, Any]:
    import open_clip
    from torchvision.models import vgg19

    torch.manual_seed(0)
    if setup.smoke:
        model = open_clip.CLIP(**_TINY)
        model.visual.image_size, model.visual.image_mean, model.visual.image_std = 32, (0.5,) * 3, (0.25,) * 3
    else:
        model = open_clip.create_model(DEFAULT, load_weights=False)
    layers = vgg19(weights=None).features
    for each in layers:
        if isinstance(each, torch.nn.ReLU):
            each.inplace = False
    model.to(setup.device).eval().requires_grad_(False)
    layers.to(setup.device).eval().requires_grad_(False)
    return Clip(DEFAULT, model, open_clip.tokenize, templates()), Vgg(layers), model, layers


def _both(side: int, crops: int, setup: Setup, together: int = 0) -> tuple[Upstream, Fit]:
    """The published procedure and ours, on the same photograph, mask and networks."""
    clip, vgg, *_ = _networks(setup)
    picture = material.pixels(material.photographs().files[0], "native")[0].permute(2, 0, 1)[None].float() / 255
    image = functional.interpolate(picture, (side, side), mode="bicubic", antialias=True).clamp(0, 1).to(setup.device)
    mask = np.zeros((side, side), np.bool_)
    mask[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = True
    direction = functional.normalize(torch.randn(clip.encode(_blank(clip, setup)).shape[1]), dim=0).to(setup.device)
    window = side // 4
    region = Region(torch.from_numpy(mask), direction, windows_of(mask, window), crops)
    how = replace(Procedure(), crops=crops, together=together or crops, patience=0)
    loose_clip, loose_vgg, *loose = _networks(setup)
    for each in loose:
        free(each)
    upstream = Upstream(image, torch.from_numpy(mask).to(setup.device), loose_clip, loose_vgg, direction, crops, window)
    upstream.net.to(setup.device)
    return upstream, Fit(image, region, clip, vgg, how, 0)


def _blank(clip: Clip, setup: Setup) -> torch.Tensor:
    return torch.zeros(1, 3, clip.size, clip.size, device=setup.device)


def of_words(side: str, crops: str, together: str, smoke: str) -> dict[str, Any]:
    """Megabytes that an update takes above what stood before it, by the words of the command line."""
    setup = Setup(torch.device("cpu"), smoke=bool(int(smoke)))
    _, fit = _both(int(side), int(crops), setup, int(together))
    before = start_new_peak()
    fit.update()
    return {"mb": max(1.0, (peak_memory() - before) / 1e6)}


if __name__ == "__main__":
    print(json.dumps(of_words(*sys.argv[1:])))
