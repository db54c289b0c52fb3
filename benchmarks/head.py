"""Training of the heads: whole batches in closed form against one image at a time by autograd."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from benchmarks import upstream
from benchmarks.measure import Row, Setup, alternate, cores, ratios, threads
from simsam_batch.spectral.head import train_head
from simsam_batch.spectral.views import random_affine, warp
from simsam_batch.stages.segment.settings import SegmentSettings

_AFFINE = {"scale": (0.8, 1.2), "translate": 0.1, "rotate": 15.0, "shear": 0.0}


def _views(features: Tensor, grid: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """The two views of one image (1, N, C) that `train_head` makes for this seed; only rows that it pairs."""
    affine = random_affine([Generator("cpu").manual_seed(seed)], grid, **_AFFINE)  # type: ignore[arg-type]
    inside = warp(torch.ones(1, grid[0] * grid[1], 1), grid, affine)[0, :, 0] > 0.999
    inside = inside.to(features.device)
    return features[0, inside], warp(features, grid, affine)[0, inside]


def rows(setup: Setup) -> Iterator[Row]:
    """Two targets, and our settings by autograd for comparison."""
    side = 6 if setup.smoke else 30
    grid, channels = (side, side), setup.pick(cpu=384, cuda=384, smoke=16)
    batch = setup.pick(cpu=4, cuda=64, smoke=2)
    generator = torch.Generator().manual_seed(0)
    features = normalize(torch.randn(batch, side * side, channels, generator=generator), dim=-1).to(setup.device)
    valid = torch.ones(features.shape[:2], dtype=torch.bool, device=setup.device)
    seeds = list(range(batch))
    views = [_views(features[i : i + 1], grid, i) for i in range(min(batch, 2))]
    chosen = SegmentSettings()

    def loop(rate: float, patches: int, epochs: int) -> None:
        for alpha, beta in views:
            upstream.Head(channels, setup.device, rate).train(alpha, beta, patches=patches, epochs=epochs)

    ours = partial(train_head, features, grid, valid, seeds)
    default = partial(
        ours,
        patches_per_step=chosen.patches_per_step,
        learning_rate=chosen.learning_rate,
        epochs=chosen.epochs,
    )
    same = partial(
        ours,
        patches_per_step=upstream.PATCHES,
        learning_rate=upstream.LEARNING_RATE,
        epochs=upstream.EPOCHS,
    )
    slow = partial(loop, upstream.LEARNING_RATE, upstream.PATCHES, 1)
    words = f"{chosen.patches_per_step} patches, lr {chosen.learning_rate:g}, {chosen.epochs} epochs"
    theirs = f"{upstream.PATCHES} patches, lr {upstream.LEARNING_RATE:g}, {upstream.EPOCHS} epochs"
    shape = f"C = {channels}, N = {side * side}"
    scaled = f"1 of the loop's {upstream.EPOCHS} epochs on {len(views)} of the images is measured and scaled"
    plans = [
        ("defaults against upstream's loop", default, words, slow, theirs, upstream.EPOCHS, (7.0, 500.0), scaled),
        ("identical settings, upstream's", same, theirs, slow, theirs, upstream.EPOCHS, (3.0, 50.0), scaled),
        (
            "identical settings, ours",
            default,
            words,
            partial(loop, chosen.learning_rate, chosen.patches_per_step, chosen.epochs),
            words,
            1,
            (None, None),
            "",
        ),
    ]
    # With one thread as well: where others use a core, products as small as the loop's wait for their second thread.
    counts = [cores(), 1] if cores() > 1 and not setup.cuda else [cores()]
    for count in counts:
        for what, mine, my_words, peer, peer_words, factor, targets, note in plans:
            if count != cores() and what != plans[0][0]:
                continue
            with threads(count):
                # Upstream's settings take seconds an image on both sides, and so does the loop with ours.
                rounds = setup.pick(cpu=3 if what == plans[0][0] else 2, cuda=5, smoke=1)
                found = alternate({"ours": mine, "peer": peer}, setup, rounds=rounds, warm=mine is not same)
            mine_s = [s / batch for s in found["ours"]]
            peer_s = [s * factor / len(views) for s in found["peer"]]
            yield Row(
                "head",
                f"{what}, {shape}",
                f"batch of {batch}: {my_words}",
                f"autograd, image by image: {peer_words}",
                ratios(peer_s, mine_s),
                statistics.median(mine_s),
                statistics.median(peer_s),
                threads=f"{count} each",
                target=targets[1] if setup.cuda else targets[0],
                note=f"random unit rows; ours includes making the views, the loop is given them. {note}".strip(),
            )
