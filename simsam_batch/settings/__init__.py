"""Typed, frozen settings: one declaration feeds the YAML file, the flags, ``--help`` and what a run records.

Every field is of one kind. ``result`` settings change the numbers, so a run in OUT is continued only with equal ones;
``input`` settings say what the run is about and are fixed with the plan; ``operation`` settings may differ each time.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from simsam_batch.errors import SettingsError

Kind = Literal["result", "input", "operation"]
T = TypeVar("T", bound="RunSettings")

_SHOWN = 200
_DEEPEST = 8


def _setting(kind: Kind, group: str, default: Any, description: str, **limits: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"kind": kind, "group": group}, **limits)


def _result(group: str, default: Any, description: str, **limits: Any) -> Any:
    return _setting("result", group, default, description, **limits)


def _input(default: Any, description: str, **limits: Any) -> Any:
    return _setting("input", "Input", default, description, **limits)


def _operation(default: Any, description: str, **limits: Any) -> Any:
    return _setting("operation", "Operation", default, description, **limits)


class RunSettings(BaseModel):
    """What every stage needs to know: its input, how images are prepared, and how the work is executed."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    root: str | None = _input(None, "folder that relative paths of a list or table start from")
    truth: str | None = _input(
        None, "folder of truth, joined to images by sub-folder and file stem: masks, label maps, or partitions (.npz)"
    )
    split: str | None = _input(None, "part of a dataset by name, such as val; none: the one its figures are given for")
    truth_crop: Literal["auto", "none", "center"] = _input(
        "auto", "center: score the central square of each image alone; auto: as the dataset by name was published"
    )
    keep_columns: tuple[str, ...] = _input((), "columns of an input table to pass through to the results")
    limit: int = _input(0, "only the first N images, for a trial; 0: all", ge=0)
    shard_size: int = _input(0, "images per shard; 0: images/64, at least 8 and at most 1024", ge=0)

    resize: str = _result(
        "Images",
        "short:384",
        "native | HEIGHTxWIDTH | short:PIXELS (the shorter side) | bucket:PIXELS (few grids, for full GPU batches)",
    )
    max_bytes: int = _result("Limits", 200_000_000, "largest image file in bytes", ge=1)
    max_pixels: int = _result("Limits", 100_000_000, "largest image in pixels, before any resize", ge=1)
    max_patches: int = _result("Limits", 8192, "largest patch grid; memory grows with its square", ge=4)
    decode_seconds: float = _result("Limits", 60.0, "longest time to decode one image, in processor seconds", gt=0)

    seed: int = _result("Numbers", 0, "every random draw is seeded from this and the image's id", ge=0)
    threads: int = _result("Numbers", 1, "CPU threads of one worker; the count changes the last bits", ge=1)
    batch_size: int = _result("Numbers", 0, "images computed together; 0: 1 on a CPU, by memory on a GPU", ge=0)
    precision: Literal["auto", "fp32", "bf16"] = _result(
        "Numbers", "auto", "of the backbone's forward pass; auto: bf16 on a GPU, fp32 on a CPU"
    )

    engine: Literal["auto", "local", "ray", "torchrun", "inline"] = _operation(
        "auto",
        "what executes the shards; auto: torchrun when started by it, else local; inline: this very process",
    )
    workers: int = _operation(0, "worker processes; 0: one per GPU, else one per --threads CPU cores", ge=0)
    device: Literal["auto", "cpu", "cuda"] = _operation("auto", "where workers compute; auto: cuda if there is one")
    ray_address: str | None = _operation(None, "Ray cluster to join; none: RAY_ADDRESS, else a local one")
    decode_threads: int = _operation(0, "threads of one worker that read and decode ahead; 0: 2, beside a GPU 8", ge=0)
    starts_before_quarantine: int = _operation(
        3, "a shard started this often without a commit runs image by image in a child process", ge=1
    )
    recycle_after: int = _operation(
        0, "a worker that has had so many shards is replaced by a fresh one; 0: never", ge=0
    )
    grace_seconds: float = _operation(
        20.0, "after SIGTERM or Ctrl-C shards in flight may take so long to finish; 0: they are dropped at once", ge=0
    )
    stall_minutes: float = _operation(30.0, "a worker without progress for so long ends itself and is replaced", gt=0)
    allow_failed: float = _operation(0.0, "tolerated fraction of failed images before exit code 3", ge=0, le=1)
    single_driver: bool = _operation(
        False, "for a store without conditional create: promise that no second command works on OUT meanwhile"
    )
    check_input: bool = _operation(False, "list IMAGES again on a resume and report what changed since the plan")
    quiet: bool = _operation(False, "print only warnings and errors")
    log_format: Literal["text", "json"] = _operation("text", "text, or one JSON object per line on stderr")

    @classmethod
    def fields_of(cls, kind: Kind) -> list[str]:
        """Names of the settings of one kind, in order of declaration."""
        return [name for name, field in cls.model_fields.items() if extra(field)["kind"] == kind]

    @classmethod
    def limits(cls) -> list[str]:
        """Names of the result settings that decide which images fail, and change no number of the others."""
        return [name for name, field in cls.model_fields.items() if extra(field)["group"] == "Limits"]

    def values_of(self, kind: Kind) -> dict[str, Any]:
        """The settings of one kind as plain JSON values."""
        dumped = self.model_dump(mode="json")
        return {name: dumped[name] for name in self.fields_of(kind)}


class FeatureSettings(RunSettings):
    """What all stages share that describe patches by a network."""

    backbone: str = _result(
        "Features", "dino_vits16", "timm name of a ViT, a DINO alias, or 'descriptors' (no weights)"
    )
    weights: str | None = _operation(
        None, "weights file or URL (safetensors, or torch in timm, DINO or iBOT layout); none: timm fetches them"
    )
    block: int = _result("Features", -1, "transformer block, from 0; negative counts from the end")
    facet: Literal["key", "query", "value", "token", "norm-token"] = _result(
        "Features", "key", "which vector of the block; norm-token: token after the network's final norm"
    )
    outlier_ratio: float = _result(
        "Features", 4.0, "tokens with a norm over this many medians stay out of the graph; 0: keep all", ge=0
    )

    @field_validator("outlier_ratio")
    @classmethod
    def _leaves_most_tokens(cls, value: float) -> float:
        if 0 < value < 1:
            msg = f"outlier_ratio: {value:g} medians would leave out most tokens; it is 0, or at least 1"
            raise ValueError(msg)
        return value


class SpectralSettings(FeatureSettings):
    """What the stages share that cut objects and regions by eigenvectors: head, affinity, solver."""

    head: Literal["none", "trained", "upstream-cli", "upstream-notebook"] = _result(
        "Head", "trained", "none: Deep Spectral Methods; trained: SimSAM; upstream-*: what the published code computes"
    )
    patches_per_step: int = _result("Head", 32, "patch pairs of one training step", ge=1)
    learning_rate: float = _result("Head", 0.96, "of plain SGD; scale it with --patches-per-step", gt=0)
    epochs: int = _result("Head", 5, "passes over an image's patches", ge=1)
    head_precision: Literal["fp32", "tf32", "bf16"] = _result(
        "Head", "fp32", "of the products in the head's training; tf32 is fp32 on a CPU, bf16 needs a GPU to be fast"
    )

    affinity: Literal["cosine", "binary"] = _result("Affinity", "cosine", "binary: TokenCut's thresholded graph")
    shift: Literal["mean", "max/3", "zero"] = _result(
        "Affinity", "max/3", "subtracted from the cosines before clipping"
    )
    kappa: float = _result("Affinity", 0.1, "weight of the head's affinity", ge=0)
    center_head: bool = _result("Affinity", True, "subtract the mean of the head's affinity")
    tau: float = _result("Affinity", 0.2, "cosine above which two patches are joined in the binary graph", ge=-1, le=1)
    color: Literal["knn", "random-walk"] = _result("Affinity", "knn", "kind of colour affinity")
    color_weight: float = _result("Affinity", 0.0, "weight of the colour affinity; 0: none", ge=0)
    floor: float = _result("Affinity", 1e-5, "least affinity between any two patches of the graph", ge=0, lt=1)
    island_share: float = _result(
        "Affinity", 0.05, "islands with at most this share of the patches stay out of the graph", ge=0, lt=0.5
    )

    k: int = _result("Eigenproblem", 15, "eigenpairs to keep, the constant one among them", ge=2)
    solver: Literal["auto", "block-lanczos", "arpack", "lobpcg", "eigh"] = _result(
        "Eigenproblem", "auto", "auto: by device and size"
    )
    tolerance: float = _result("Eigenproblem", 1e-4, "largest residual of a kept pair", gt=0)

    refine: Literal["none", "crf", "crf-upstream"] = _result(
        "Refinement",
        "none",
        "crf: masks follow edges, by a dense CRF that reaches a fifth of the shorter side; crf-upstream: 80 pixels",
    )
    refine_max_side: int = _result(
        "Refinement",
        1024,
        "longest side in pixels that refinement works at; memory grows with its square",
        ge=16,
        le=8192,
    )
    refine_processes: int = _operation(
        0, "processes of one worker that refine masks; 0: the worker itself, beside a GPU 8 or one per core", ge=0
    )

    region_source: Literal["eigenvectors", "features"] = _result(
        "Regions", "eigenvectors", "what k-means groups patches by; features: the baseline without a graph"
    )
    region_vectors: int = _result("Regions", 0, "eigenvectors used for it, after the constant one; 0: all", ge=0)
    split_regions: bool = _result("Regions", False, "make each connected part of a region a region of its own")
    background: bool = _result("Regions", True, "take the region with the most border for background, label 0")

    @model_validator(mode="after")
    def _combinations_make_sense(self) -> Self:
        if self.affinity == "binary" and self.head != "none":
            msg = "affinity: 'binary' knows no head; allowed with it: head 'none'"
            raise ValueError(msg)
        if self.affinity == "binary" and self.color_weight:
            msg = "affinity: 'binary' takes no colour; allowed with it: color_weight 0"
            raise ValueError(msg)
        if self.head.startswith("upstream") and self.center_head:
            msg = f"center_head: upstream's affinity is not centred; allowed with head {self.head!r}: false"
            raise ValueError(msg)
        return self


class ClusterSettings(FeatureSettings):
    """How what all images have is clustered."""

    clusters: int = _result("Clusters", 0, "labels over the whole set", ge=0)
    pca_dim: int = _result("Clusters", 0, "principal components kept before clustering; 0: all, no PCA", ge=0)
    cluster_method: Literal["kmeans", "minibatch"] = _result(
        "Clusters", "kmeans", "minibatch: what published code uses"
    )
    sample: int = _result("Clusters", 1_000_000, "regions that the clusters are fitted on, at most", ge=1)


class SegmentSettings(SpectralSettings):
    """Settings of ``simsam segment``: one object mask and K eigenvectors for each image."""

    eigenvectors: Literal["none", "fp16", "fp32"] = _result("Eigenproblem", "fp16", "how eigenvectors are stored")

    regions: int = _result(
        "Regions",
        -1,
        "further cut each image into so many regions, background included; 0: as the eigengap says; -1: do not",
        ge=-1,
    )

    repeats: int = _result("Head", 1, "heads with different seeds; scores get a mean and a deviation", ge=1, le=100)

    threshold: Literal["zero", "mean"] = _result("Mask", "mean", "of the second eigenvector")
    side: Literal["smaller", "border", "largest-entry"] = _result(
        "Mask", "border", "which side is the object: the smaller, the one off the border, or that of the peak"
    )
    component: Literal["all", "peak"] = _result(
        "Mask", "all", "keep all of that side, or the part connected to the peak of the second eigenvector"
    )

    @model_validator(mode="after")
    def _repeats_are_comparable(self) -> Self:
        if self.repeats > 1 and self.refine != "none":
            msg = f"repeats: {self.repeats} heads are compared by unrefined masks; allowed with it: refine 'none'"
            raise ValueError(msg)
        return self


class SemanticSettings(SpectralSettings, ClusterSettings):
    """Settings of ``simsam semantic``: regions of every image, clustered over the whole set."""

    regions: int = _result(
        "Regions", 15, "regions of an image, background included; 0: as many as the eigengap says", ge=0
    )
    erode: int = _result("Regions", 2, "erosions of a region before its box is drawn", ge=0)
    dilate: int = _result("Regions", 3, "dilations after them", ge=0)
    region_feature: Literal["patches", "class-token", "mean-token"] = _result(
        "Regions",
        "patches",
        "what describes a region: its patches' mean, or the class token or mean token of its box seen alone",
    )
    crop_size: int = _result("Regions", 224, "side in pixels that boxes are resized to; 0: their own size", ge=0)

    clusters: int = _result("Clusters", 20, "labels over the whole set, background not counted", ge=1)
    repeats: int = _result("Clusters", 1, "fits with different seeds; scores get a mean and a deviation", ge=1, le=100)

    class_names: str | None = _operation(
        None, "text file with a name for each class of the truth, a line each from id 0"
    )
    ignore_label: int = _result("Scores", -1, "id in the truth that is not scored; -1: none", ge=-1)
    matching: Literal["hungarian", "majority"] = _result(
        "Scores", "hungarian", "clusters to classes: one to one, or each to its best class"
    )


class HierarchySettings(ClusterSettings):
    """Settings of ``simsam hierarchy``: a tree of regions for every image."""

    facet: Literal["key", "query", "value", "token", "norm-token"] = _result(
        "Features", "norm-token", "which vector of the block; norm-token: token after the network's final norm"
    )

    superpixels: int = _result("Superpixels", 200, "groups of patches that the tree is made of, at most", ge=1)
    adjacency: Literal["minmax", "exp"] = _result(
        "Superpixels", "minmax", "weights of the patch graph; minmax: falling evenly with the cosine distance"
    )
    sigma: float = _result("Superpixels", 1.0, "width of the adjacency exp", gt=0)
    min_weight: float = _result("Superpixels", 0.0, "weights of the patch graph below it become zero", ge=0, lt=1)
    form: Literal["auto", "low-rank", "dense"] = _result(
        "Superpixels", "auto", "low-rank: no N x N matrix, at most channels + 1 superpixels; auto: wherever it is exact"
    )
    tolerance: float = _result("Superpixels", 1e-4, "largest residual of an eigenpair", gt=0)
    restarts: int = _result("Superpixels", 10, "of k-means, of which the best counts; 1 is four times as fast", ge=1)

    heuristic: Literal["max-gap", "fiedler"] = _result(
        "Tree", "max-gap", "parts of a node: by the largest eigengap, or always two"
    )
    eigenpairs: int = _result("Tree", 10, "eigenvalues looked at; a node has one part less, at most", ge=3)
    max_instability: float = _result(
        "Tree", 0.0, "how evenly an eigenvector may be spread, 0 to 1, to count as one that divides; 0: any", ge=0, le=1
    )
    max_ncut: float = _result("Tree", 0.8, "mean normalised cut that a split stays below; 0: any", ge=0)
    max_perturbation: float = _result("Tree", 80.0, "perturbation over which a split is refused; 0: any", ge=0)
    min_superpixels: int = _result("Tree", 1, "nodes of so few superpixels stay whole", ge=1)
    max_depth: int = _result("Tree", 9, "depth of the deepest nodes", ge=0)
    numbering: Literal["corrected", "upstream"] = _result(
        "Tree", "corrected", "upstream: first leaves keep their parents' labels, as in the published code, to compare"
    )

    refine: Literal["none", "crf"] = _result(
        "Refinement", "none", "crf: leaves in pixels, along the edges of the picture, by their features and a dense CRF"
    )
    refine_max_side: int = _result(
        "Refinement", 512, "longest side in pixels that refinement works at; it takes time by pixels x leaves", ge=16
    )
    refine_processes: int = _operation(
        0, "processes of one worker that refine; 0: the worker itself, beside a GPU 8 or one per core", ge=0
    )

    clusters: int = _result(
        "Clusters", 0, "labels that the nodes of all trees get by their features, alike ones the same; 0: none", ge=0
    )

    label_hierarchy: str | None = _operation(
        None,
        "which labels of the truth are parts of what: a dataset's name or a YAML file; none: as the dataset has it, "
        "else all stand alone",
    )
    ignore_label: int = _result("Scores", -1, "label in the truth that is not scored; -1: none", ge=-1)
    baselines: bool = _result(
        "Scores", False, "score a regular grid, cut in quarters, and k-means of the same features beside the trees"
    )

    @model_validator(mode="after")
    def _the_form_fits_the_graph(self) -> Self:
        if self.form == "low-rank" and self.adjacency != "minmax":
            msg = f"form: 'low-rank' needs the adjacency 'minmax'; allowed with {self.adjacency!r}: auto | dense"
            raise ValueError(msg)
        if self.form == "low-rank" and self.min_weight:
            msg = "form: 'low-rank' needs all weights; allowed with it: min_weight 0"
            raise ValueError(msg)
        return self


_PUBLISHED: dict[str, Any] = {
    "precision": "fp32",
    "resize": "native",
    "block": -1,
    "outlier_ratio": 0.0,
    "island_share": 0.0,
    "floor": 0.0,
    "threshold": "zero",
    "side": "smaller",
    "region_feature": "class-token",
    "crop_size": 0,
    "cluster_method": "minibatch",
}
_UPSTREAM: dict[str, Any] = _PUBLISHED | {"shift": "max/3", "kappa": 0.1, "center_head": False}

# As in all published configurations but for Cityscapes, which takes 840x1680 and 300 superpixels.
_TREES: dict[str, Any] = {
    "precision": "fp32",
    "backbone": "vit_base_patch14_reg4_dinov2.lvd142m",
    "resize": "840x840",
    "block": -1,
    "facet": "norm-token",
    "outlier_ratio": 0.0,
    "form": "dense",
    "superpixels": 200,
    "max_perturbation": 80.0,
}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "dsm": _PUBLISHED | {"head": "none", "shift": "zero", "k": 5},
        "tokencut": _PUBLISHED
        | {"head": "none", "affinity": "binary", "floor": 1e-5, "threshold": "mean", "side": "largest-entry"}
        | {"component": "peak", "k": 2},
        "simsam-paper": _PUBLISHED
        | {"head": "trained", "shift": "mean", "kappa": 0.1, "center_head": False}
        | {"patches_per_step": 2, "learning_rate": 0.06, "epochs": 10},
        "simsam-cli": _UPSTREAM | {"head": "upstream-cli"},
        "simsam-notebook": _UPSTREAM
        | {"head": "upstream-notebook", "resize": "512x512"}
        | {"patches_per_step": 2, "learning_rate": 0.06, "epochs": 10},
        "hierarchy-paper": _TREES,
        "hierarchy-code": _TREES | {"max_perturbation": 50.0, "numbering": "upstream"},
    }
)
"""Whole sets of settings, as published; a file's and the command line's own values come on top."""


def presets_of(model: type[RunSettings]) -> list[str]:
    """Names of the presets for the command whose settings these are."""
    of_trees = issubclass(model, HierarchySettings)
    return [name for name in PRESETS if name.startswith("hierarchy-") == of_trees]


def extra(field: FieldInfo) -> dict[str, str]:
    """The ``kind`` and ``group`` a setting was declared with."""
    declared = field.json_schema_extra
    assert isinstance(declared, dict)  # noqa: S101  every field is declared through _setting
    return {key: str(value) for key, value in declared.items()}


def allowed(field: FieldInfo) -> str:
    """What a setting may be, in words for people."""
    annotation = field.annotation
    options = [a for a in get_args(annotation) if a is not type(None)]
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, options))
    base = options[0] if options and get_origin(annotation) is not tuple else annotation
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    text = words.get(base, "a list of texts") if isinstance(base, type) else "a list of texts"
    for limit in field.metadata:
        for name, phrase in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
            if (bound := getattr(limit, name, None)) is not None:
                text += f", {phrase} {bound:g}"
    return text


def resolve(
    model: type[T], flags: Mapping[str, Any], file: Mapping[str, Any] | None = None, source: str = "--config"
) -> T:
    """Settings from a preset, a file and flags; flags win over the file, the file over the preset.

    Args:
        model: the settings of a stage.
        flags: values by field name; ``preset`` may be among them.
        file: what a YAML file held, with ``-`` or ``_`` in its keys; ``preset`` may be among them.
        source: name of the file for messages.

    Raises:
        SettingsError: an unknown key or a value that is not allowed; names the key, what was given, what is allowed.
    """
    from_file = {str(key).replace("-", "_"): value for key, value in (file or {}).items()}
    for key in from_file:
        if key not in model.model_fields and key != "preset":
            near = difflib.get_close_matches(key, model.model_fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(model.model_fields)}"
            msg = f"{source}: unknown setting {_shown(key)}{hint}"
            raise SettingsError(msg)
    given = from_file | dict(flags)
    preset = given.pop("preset", None)
    if preset is not None and not (isinstance(preset, str) and preset in presets_of(model)):
        msg = f"preset: {_shown(preset)} is not one of {' | '.join(presets_of(model))}"
        raise SettingsError(msg)
    values = {k: v for k, v in PRESETS.get(preset or "", {}).items() if k in model.model_fields} | given
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(model, problem) for problem in error.errors())) from None


def _explain(model: type[RunSettings], problem: Any) -> str:
    if not problem["loc"]:
        return str(problem["ctx"]["error"])
    key = str(problem["loc"][0])
    if key not in model.model_fields:
        return f"{key}: unknown setting"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return f"{key}: {_shown(problem['input'])} is not allowed; it is {allowed(model.model_fields[key])}"


def _shown(value: object) -> str:
    """A value as it was given, or its beginning."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # numbers of thousands of digits, and lists in lists in lists, have no text
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping in a YAML settings file.

    Raises:
        SettingsError: the file cannot be read, is not YAML, or holds no mapping.
    """
    from pathlib import Path

    import yaml

    from simsam_batch.yaml_text import check_written_out

    try:
        text = Path(path).read_text(encoding="utf-8")
        check_written_out(text, deepest=_DEEPEST)
        held = yaml.safe_load(text)
    # beside YAML's own errors, the converters of its tags raise nearly any other
    except Exception as error:
        msg = f"--config {path}: cannot be read as YAML: {' '.join(str(error).split())[:500] or type(error).__name__}"
        raise SettingsError(msg) from error
    if held is None:
        return {}
    if not isinstance(held, dict):
        msg = f"--config {path}: expected 'setting: value' lines, found a {type(held).__name__}"
        raise SettingsError(msg)
    return held
