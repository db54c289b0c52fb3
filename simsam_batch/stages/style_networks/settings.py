"""The settings of ``simsam stylize``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from simsam_batch.settings import Component, Input, Network, NetworkSettings, operation, result

_WITHOUT = (
    "check_input",
    "extend",
    "prune",
    "weights",
    "resize",
    "decode",
    "batch_size",
    "max_patches",
    "encode_threads",
)
"""Settings that mean nothing here, beside those of the input and of a network that describes patches."""

_RUN = {"fit": ["run"]}


class Style(Component, title="Style"):
    """What is restyled by which words, and how a network is fitted to them."""

    object: str = result("", "what the object should look like, in words; without any it is left as it is")
    background: str = result("", "what everything else should look like, likewise")
    label: tuple[str, ...] = result(
        (), 'a label of a semantic run and what it should look like, such as "7=a lawn"; may be given several times'
    )
    texts: str | None = operation(
        None,
        "file with words for one picture of each image in every line, in the place of the three above: texts for the "
        "object in a .txt, or a .csv or .jsonl that names object, background and labels",
        place=True,
    )
    looks: tuple[dict[str, str], ...] = result((), "of each picture the words of its regions: what the four above say")
    method: Literal["regions", "clipstyler", "sem-cs-single", "sem-cs-double"] = result(
        "regions",
        "regions: each has a network of its own, and nothing else is touched; the others: what a published program "
        "computes, with its faults, and all of the picture changes",
    )
    fit: Literal["image", "run"] = result(
        "image",
        "image: a network for each region of each image; run: one for each text, fitted to images of the run, which "
        "then restyles any of them at once",
        only={"method": ["regions"]},
    )
    run_steps: int = result(1000, "updates of a network of the run", ge=1, only=_RUN)
    run_batch: int = result(4, "images in each of these", ge=1, only=_RUN)
    run_side: int = result(256, "shorter side of the images in these, in pixels", ge=16, only=_RUN)
    run_crops: int = result(16, "crops of each of them", ge=1, only=_RUN)
    beside: int = result(
        20, "images that are restyled by networks of their own too, to compare; 0: none", ge=0, le=10_000, only=_RUN
    )
    source_text: str = result("a Photo", "what images look like now")
    side: int = result(512, "an image is worked on with its shorter side of so many pixels, its shape kept", ge=16)
    steps: int = result(400, "updates of the network of each region, at most", ge=1)
    patience: int = result(
        50, "a region ends when the mean loss of its crops has not fallen by 1 % in so many updates; 0: never", ge=0
    )
    crops: int = result(64, "crops that are looked at in each update", ge=1)
    crop: float = result(0.25, "side of a crop, as a share of the shorter side", gt=0, le=1)
    patch_weight: float = result(9000.0, "of the crops", ge=0)
    view_weight: float = result(500.0, "of the region as a whole", ge=0)
    content_weight: float = result(150.0, "of what VGG sees, which is to be kept", ge=0)
    variation_weight: float = result(1.77, "of differences between neighbours", ge=0)
    threshold: float = result(0.7, "crops with a loss below have enough of the style, and count nothing", ge=0)
    style_rate: float = result(5e-4, "of Adam, halved every 100 updates", gt=0)
    feather: float = result(0.0, "pixels over which a restyled region begins, inside its edge; 0: at once", ge=0)
    clip: str = result("ViT-B-32-quickgelu", "network of open_clip that judges, or a .json file with its configuration")
    clip_weights: str | None = operation(None, "file of its weights", place=True)
    score_clip: str = result("", "another one that tells how well it went; the one that judges flatters itself")
    score_clip_weights: str | None = operation(None, "file of its weights", place=True)
    checkpoint_steps: int = operation(
        100,
        "updates after which a network is kept in OUT, and a killed run goes on from there; 0: never",
        ge=0,
    )
    vgg_weights: str | None = operation(None, "file of the weights of VGG-19, as torchvision names them", place=True)
    together: int = result(64, "crops looked at at once; fewer need less memory, and change the last bits", ge=1)

    @field_validator("object", "background", "source_text")
    @classmethod
    def _without_blanks_around(cls, value: str) -> str:
        return value.strip()


_PUBLISHED: Mapping[str, Any] = {
    "side": 512,
    "patience": 0,
    "crops": 64,
    "crop": 0.25,
    "patch_weight": 9000.0,
    "view_weight": 500.0,
    "content_weight": 150.0,
    "variation_weight": 0.002,
    "threshold": 0.7,
    "style_rate": 5e-4,
    "source_text": "a Photo",
    "clip": "ViT-B-32-quickgelu",
}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "clipstyler": {**_PUBLISHED, "method": "clipstyler", "steps": 201},
        "sem-cs-single": {**_PUBLISHED, "method": "sem-cs-single", "steps": 401, "source_text": "Night"},
        "sem-cs-double": {
            **_PUBLISHED,
            "method": "sem-cs-double",
            "steps": 401,
            "content_weight": 600.0,
            "clip": "RN50-quickgelu",
        },
        "quick": {"side": 256, "crops": 16, "steps": 100},
    }
)
"""Whole sets of settings: as published, and one that takes a sixteenth of the time."""


class StylizeSettings(Style, NetworkSettings):
    """Settings of ``simsam stylize``; the images and their masks are those of the run in OUT."""

    given_images: ClassVar[bool] = False
    presets: ClassVar = PRESETS

    @classmethod
    def not_given(cls) -> list[str]:
        """Names of settings that mean nothing here."""
        return [*cls.fields_of("input", (Input,)), *cls.fields_of("result", (Network,)), "looks", *_WITHOUT]
