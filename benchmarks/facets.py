"""Features of several facets of a block from one forward pass, against those of one facet."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import material
from benchmarks.measure import Row, Setup, alternate, cores, ratios, threads
from simsam_batch.features.backbones import load_taps

FACETS = ("norm-token", "query", "key", "value")


def rows(setup: Setup) -> Iterator[Row]:
    """A ViT-S/16 with weights by chance over one photograph, or a few on a GPU."""
    many = setup.pick(cpu=1, cuda=16, smoke=1)
    size = setup.pick(cpu="384x512", cuda="384x512", smoke="64x96")
    with tempfile.TemporaryDirectory() as folder:
        weights = material.write_random_weights(Path(folder))
        networks = {
            which: load_taps(material.VIT_SMALL, weights=weights, blocks=[-1], facets=facets, device=setup.device.type)
            for which, facets in {"four": FACETS, "one": FACETS[:1]}.items()
        }
    photographs = material.photographs()
    picture = material.pixels(photographs.files[0], size)[0][None].expand(many, -1, -1, -1).to(setup.device)
    cases = {
        which: (lambda network=network: network(material.normalized(picture, network)))
        for which, network in networks.items()
    }
    with threads(cores()):
        seconds = alternate(cases, setup, rounds=setup.pick(cpu=9, cuda=15, smoke=2))
    yield Row(
        "facets",
        f"forward pass, {material.VIT_SMALL}, {many} x {size}",
        f"{', '.join(FACETS)} of the last block",
        f"{FACETS[0]} alone",
        ratios(seconds["four"], seconds["one"]),
        float(np.median(seconds["four"])),
        float(np.median(seconds["one"])),
        threads=f"{cores()} each",
        target=1.15,
        at_most=True,
        note=f"the first of {photographs.source}; seconds for the pass, descriptors on the device",
    )
