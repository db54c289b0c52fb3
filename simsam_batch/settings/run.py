"""What every stage needs to know: its input, how images are prepared, and how the work is executed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from simsam_batch.settings.declare import Component, Settings, given, operation, result

_WITHOUT_RAY = ("auto", "local", "torchrun", "inline")


class Input(Component, title="Input"):
    """What a run is about."""

    root: str | None = given(None, "folder that relative paths of a list or table start from")
    uri_column: str | None = given(
        None, "column of a table that holds the paths or URLs of images; none: uri, or another usual name"
    )
    truth: str | None = given(
        None, "folder of truth, joined to images by sub-folder and file stem: masks, label maps, or partitions (.npz)"
    )
    split: str | None = given(
        None, "part of a dataset by name, such as val, or train+val; none: the one its figures are given for"
    )
    truth_crop: Literal["auto", "none", "center"] = given(
        "auto", "center: score the central square of each image alone; auto: as the dataset by name was published"
    )
    hidden: bool = given(False, "take files and folders whose names begin with a dot as well")
    keep_columns: tuple[str, ...] = given((), "columns of an input table to pass through to the results")
    limit: int = given(0, "only the first N images, for a trial; 0: all", ge=0)
    shard_size: int = given(0, "images per shard; 0: images/64, at least 8 and at most 1024", ge=0)


class Images(Component, title="Images"):
    """How images are prepared."""

    resize: str = result(
        "short:384",
        "native | HEIGHTxWIDTH | short:PIXELS (the shorter side) | bucket:PIXELS (few grids, for full GPU batches) | "
        "crop:SHORT:SIDE (features and probe: the shorter side, then the central square of SIDE)",
    )
    color_profile: Literal["ignore", "srgb"] = result(
        "ignore", "srgb: colours are turned to sRGB by the ICC profile in each file; ignore: taken as they are stored"
    )
    decode: Literal["scaled", "exact"] = result(
        "scaled",
        "how images come to the size of --resize. scaled: by torch's filter, and JPEGs that are much larger are "
        "decoded at 1/2, 1/4 or 1/8 of their size, unless a CRF refines them; exact: decoded whole, then by Pillow's "
        "filter",
        unrecorded="exact",
    )


class Limits(Component, title="Limits"):
    """What decides which images fail, and changes no number of the others."""

    max_bytes: int = result(200_000_000, "largest image file in bytes", ge=1)
    max_pixels: int = result(100_000_000, "largest image in pixels, before any resize", ge=1)
    max_patches: int = result(8192, "largest patch grid; memory grows with its square", ge=4)
    decode_seconds: float = result(60.0, "longest time to decode one image, in processor seconds", gt=0)


class Numbers(Component, title="Numbers"):
    """What the numbers depend on to their last bit."""

    seed: int = result(0, "every random draw is seeded from this and the image's id", ge=0)
    threads: int = result(1, "CPU threads of one worker; the count changes the last bits", ge=1)
    batch_size: int = result(0, "images computed together; 0: 1 on a CPU, by memory on a GPU", ge=0)
    precision: Literal["auto", "fp32", "bf16"] = result(
        "auto", "of the backbone's forward pass; auto: bf16 on a GPU, fp32 on a CPU", idle={"backbone": ["descriptors"]}
    )


class Operation(Component, title="Operation"):
    """How the work is executed."""

    engine: Literal["auto", "local", "ray", "torchrun", "inline"] = operation(
        "auto",
        "what executes the shards; auto: torchrun when started by it, else local; inline: this very process",
    )
    workers: int = operation(
        0, "worker processes; 0: --workers-per-gpu on each GPU, else one per --threads CPU cores", ge=0
    )
    workers_per_gpu: int = operation(
        1,
        "workers that share a GPU and its memory, where one process cannot keep it busy",
        ge=1,
        idle={"device": ["cpu"]},
    )
    device: Literal["auto", "cpu", "cuda"] = operation("auto", "where workers compute; auto: cuda if there is one")
    ray_address: str | None = operation(
        None, "Ray cluster to join; none: RAY_ADDRESS, else a local one", idle={"engine": _WITHOUT_RAY}
    )
    decode_threads: int = operation(0, "threads of one worker that read and decode ahead; 0: 2, beside a GPU 8", ge=0)
    encode_threads: int = operation(
        0, "threads of one worker that make rows of results; 0: none of their own, beside a GPU 4", ge=0
    )
    starts_before_quarantine: int = operation(
        3, "a shard started this often without a commit runs image by image in a child process", ge=1
    )
    recycle_after: int = operation(0, "a worker that has had so many shards is replaced by a fresh one; 0: never", ge=0)
    grace_seconds: float = operation(
        20.0, "after SIGTERM or Ctrl-C shards in flight may take so long to finish; 0: they are dropped at once", ge=0
    )
    stall_minutes: float = operation(
        30.0, "a worker without progress for so long ends itself and is replaced", gt=0, idle={"engine": ["inline"]}
    )
    allow_failed: float = operation(0.0, "tolerated fraction of failed images before exit code 3", ge=0, le=1)
    single_driver: bool = operation(
        False, "for a store without conditional create: promise that no second command works on OUT meanwhile"
    )
    extend: bool = operation(False, "list IMAGES again on a resume, and do what is new as part of the same run")
    prune: bool = operation(
        False, "list IMAGES again on a resume, and mark the rows of images that are gone, which nothing shows any more"
    )
    check_input: bool = operation(
        False, "list IMAGES again on a resume and say what is new, gone or changed; up to 20,000 images always"
    )
    quiet: bool = operation(False, "print only warnings and errors")
    log_format: Literal["text", "json"] = operation("text", "text, or one JSON object per line on stderr")


class RunSettings(Operation, Numbers, Limits, Images, Input, Settings):
    """What every stage needs to know: its input, how images are prepared, and how the work is executed.

    Attributes:
        before_images: names of settings that stand before IMAGES on the command line, and are no flags.
        given_images: whether IMAGES is given at all; else the command is about the run that OUT has.
    """

    before_images: ClassVar[Sequence[str]] = ()
    given_images: ClassVar[bool] = True

    @classmethod
    def arguments(cls) -> list[str]:
        """Names of what stands on the command line without a flag."""
        return [*cls.before_images, *(["images"] if cls.given_images else []), "out"]

    @classmethod
    def not_given(cls) -> list[str]:
        """Names of the settings that have no flag: they have one value here, or another run fixes them."""
        return []

    @classmethod
    def given_by_name(cls) -> list[str]:
        """Names of the settings that are given by them: flags, and keywords in Python."""
        return [name for name in cls.model_fields if name not in (*cls.arguments(), *cls.not_given())]

    def written(self) -> dict[str, Any]:
        """The settings as a file for ``--config`` holds them, as plain values."""
        return self.model_dump(mode="json")

    def changed(self) -> list[str]:
        """Names of the settings that are not as they are by default, which is all that such a file needs to hold."""
        return [name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default]

    @classmethod
    def limits(cls) -> list[str]:
        """Names of the result settings that decide which images fail, and change no number of the others."""
        return cls.fields_of("result", (Limits,))
