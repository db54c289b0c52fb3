"""The catalogue of commands that compute and of their stages; whoever needs to know of them asks it.

A command is one entry here. What it and its stages are stands in their folders beside this file: ``settings.py`` (what
may be set), ``rows.py`` (columns, fold, what the rows show), ``stage.py`` (the stage with its worker, the steps of the
command) and ``views.py`` (its chapter of the report). They are imported when they are asked for, so that this module
costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from simsam_batch.errors import SettingsError, did_you_mean

if TYPE_CHECKING:
    from simsam_batch.settings import NetworkSettings
    from simsam_batch.stages.base import CommandStage
    from simsam_batch.stages.kinds import Shown
    from simsam_batch.stages.steps import Steps


@dataclass(frozen=True, slots=True)
class Command:
    """A command of ``simsam`` that computes.

    Attributes:
        name: of the command, the operation and, with ``_`` between its words, the folder with its settings, steps and
            chapter.
        title: of its chapter in the report.
        summary: one line for ``simsam --help``.
        about: what ``--help`` of the command says.
        stages: the folders of its stages by their names, each after those it reads. A stage that several commands
            have is the same for all, and belongs to the first of them.
    """

    name: str
    title: str
    summary: str
    about: str
    stages: Mapping[str, str]

    @property
    def _folder(self) -> str:
        return self.name.replace(" ", "_")

    def settings(self) -> type[NetworkSettings]:
        """The class of its settings."""
        return cast("type[NetworkSettings]", _module(self._folder, "settings").SETTINGS)

    def steps(self) -> Steps:
        """What makes its stages, one after the other."""
        return cast("Steps", _module(self._folder, "stage").STEPS)

    def chapter(self) -> Callable[..., Any]:
        """What makes its chapter of the report, see `simsam_batch.report.page.chapters`."""
        return cast("Callable[..., Any]", _module(self._folder, "views").chapter)


COMMANDS: Sequence[Command] = (
    Command(
        "segment",
        "Object masks",
        "Write an object mask and eigenvectors for every image of a collection.",
        "Write an object mask and K eigenvectors for every image.\n\n"
        "IMAGES is a folder, image files, a quoted pattern, a .zip or .tar, a .txt list, a table (.csv, .jsonl, "
        ".parquet), or a dataset by name with its folder, such as ecssd:ROOT; IMAGES, "
        "OUT and ROOT take local paths and any fsspec URL, such as s3://bucket/photos. "
        "Run the same command again to go on after an interruption.",
        {"segment": "segment"},
    ),
    Command(
        "semantic",
        "Label maps",
        "Give the regions of all images labels shared by the whole collection.",
        "Cut every image into regions, cluster the regions of the whole set, and write label maps.\n\n"
        "IMAGES and OUT are as for simsam segment. Labels are 0 for background and 1 to --clusters. With --truth, a "
        "folder of class id images, labels are matched to classes and scored. Run the same command again to go on "
        "after an interruption, from whichever step it was in.",
        {"regions": "regions", "clusters": "clusters", "patch-clusters": "clusters", "semantic": "semantic"},
    ),
    Command(
        "hierarchy",
        "Region trees",
        "Split every image into a tree of regions.",
        "Split every image into a tree of regions, as deep and as wide as the image has parts.\n\n"
        "IMAGES and OUT are as for simsam segment. With --truth, a folder of label maps, the nodes are scored by how "
        "well they cover the labelled regions, and with --label-hierarchy those above them. Run the same command again "
        "to go on after an interruption.",
        {"hierarchy": "hierarchy", "node-clusters": "clusters", "labels": "labels"},
    ),
    Command(
        "features",
        "Features",
        "Write the patch features of every image, of several facets and blocks at once.",
        "Run every image through a frozen vision transformer once, and write its patch features.\n\n"
        "IMAGES and OUT are as for simsam segment. An image's features are arrays (patch rows, patch columns, "
        "channels), one for each of --facets of each of --blocks, whatever number of them from one forward pass. From "
        "Python, simsam_batch.open_run(OUT).features(IMAGE_ID) reads those of one image alone, from object storage "
        "too, and as_torch_dataset() gives them to a DataLoader. How much room they take is said before the start. Run "
        "the same command again to go on after an interruption.",
        {"features": "features"},
    ),
    Command(
        "probe",
        "Probes",
        "Measure how well patch features segment, by linear, k-NN, k-means and Ward probes.",
        "Fit probes to the patch features of some images with labels, and score them on others.\n\n"
        "IMAGES and OUT are as for simsam segment; --truth is a folder of class id images. Features are computed once, "
        "or taken from OUT if simsam features has put the same ones there; then every probe of every facet and block "
        "is fitted with every share of the labels. Run the same command again to go on after an interruption.\n\n"
        "What is fitted labels other images by simsam probe apply; a folder IMAGES of that name is given as ./apply.",
        {
            "features": "features",
            "patch-labels": "patch_labels",
            "subsets": "subsets",
            "probe-fits": "probe_fits",
            "probe-maps": "probe_maps",
            "probe-table": "probe_table",
        },
    ),
    Command(
        "probe apply",
        "Applied probe",
        "Label new images by a probe that simsam probe has fitted.",
        "Compute the features of new images, and label every pixel by a probe that was fitted before.\n\n"
        "PROBE_RUN is the OUT of a finished simsam probe, IMAGES and OUT are as for simsam segment: OUT is another "
        "folder, and the run in PROBE_RUN stays as it is. Which of its probes is applied is said by --probe and the "
        "flags beside it. What features depend on (network, blocks, facets, size, precision) is taken from there and "
        "not given anew; only what the probe sees is computed. --weights is where the weights are now, if they have "
        "been moved. With --truth, a folder of class id images, the label maps are scored. Run the same command again "
        "to go on after an interruption.",
        {"features": "features", "probe-apply": "probe_apply"},
    ),
    Command(
        "correspond",
        "Correspondence",
        "Find points of one image in another, over whole sets of pairs.",
        "Find points of one image in another by patch features, for every pair of a set.\n\n"
        "IMAGES is a file of pairs (.json, .jsonl, .csv or .parquet: source and target images, points in pixels, and "
        "true points and boxes where they are known), a set by name such as spair:ROOT, key points of COCO or "
        "DeepLabCut, or images as for simsam segment; of the last two --pairs says which are matched. OUT is as for "
        "simsam segment. Every image is computed once, however many pairs it is in. With true points PCK is scored at "
        "every usual threshold, each under its own name. Run the same command again to go on after an interruption.",
        {"features": "features", "matches": "matches"},
    ),
    Command(
        "correspond diffusion",
        "Correspondence by diffusion",
        "Find points of one image in another by the attention of Stable Diffusion.",
        "Find points of one image in another by the cross-attention of Stable Diffusion.\n\n"
        "IMAGES and OUT are as for simsam correspond. For every point an embedding is fitted that one token's "
        "attention fires at, and looked for in the target (Hedlin et al., NeurIPS 2023): each takes a GPU seconds, "
        "where simsam correspond takes next to nothing. --weights is a local folder in the layout of diffusers with "
        "unet and vae, of Stable Diffusion 1.4, 1.5 or a like one; nothing is fetched. Run the same command again to "
        "go on after an interruption.",
        {"embeddings": "embeddings", "attention": "attention"},
    ),
    Command(
        "transfer",
        "Transferred labels",
        "Carry the masks or label maps of a few images over to all others.",
        "Carry the masks or label maps of a few images over to all others of a set, by their patch features.\n\n"
        "IMAGES and OUT are as for simsam segment; --truth is a folder of object masks, or of class id images with "
        "--truth-is classes, in which the images named by --exemplars must have one. Every patch of the other images "
        "takes the labels of the exemplars' most similar patches; images that have truth themselves are scored. Run "
        "the same command again to go on after an interruption.",
        {"features": "features", "transfer": "transfer"},
    ),
    Command(
        "stylize",
        "Restyled images",
        "Restyle the objects of a run, or what is around them, by words.",
        "Restyle the object, the background, or both, of every image by words, inside the masks of simsam segment.\n\n"
        "OUT is that of a finished simsam segment. A small network is fitted to every region of every "
        "image, by what CLIP and VGG-19 see (Kwon and Ye, CLIPstyler, CVPR 2022; Kamra et al., ICIP 2023), and its "
        "picture put back into the image: what is not restyled stays as it is to the bit. --clip-weights and "
        "--vgg-weights are local files; nothing is fetched. An image takes some 15 seconds of a GPU, and hours of a "
        "CPU with the defaults. Run the same command again to go on after an interruption.",
        {"style-networks": "style_networks", "stylize": "stylize"},
    ),
)


def command(name: str) -> Command:
    """A command by its name.

    Raises:
        SettingsError: there is none.
    """
    for each in COMMANDS:
        if each.name == name:
            return each
    names = [each.name for each in COMMANDS]
    guess = did_you_mean(name, names)
    raise SettingsError(f"there is no command {name!r} that computes{guess}; there are {', '.join(names)}")


def stage_names() -> list[str]:
    """The names of all stages, each after those it reads."""
    return list(dict.fromkeys(name for each in COMMANDS for name in each.stages))


def command_of(stage: str) -> Command:
    """The command that a stage belongs to, the first of those that have it.

    Raises:
        SettingsError: no command has such a stage.
    """
    for each in COMMANDS:
        if stage in each.stages:
            return each
    raise SettingsError(f"there is no stage {stage!r}; there are {', '.join(stage_names())}")


def own_stages(command: Command) -> list[str]:
    """The names of the stages that belong to a command, without those that an earlier one has."""
    return [stage for stage in command.stages if command_of(stage) is command]


def stage_class(name: str) -> type[CommandStage[Any]]:
    """The class of a stage, by which it is made anew wherever it is worked on.

    Raises:
        SettingsError: there is no such stage.
    """
    found: type[CommandStage[Any]] = _module(command_of(name).stages[name], "stage").STAGES[name]
    return found


def shown(stage: str) -> Shown | None:
    """What the rows of a stage show, as masks, labels or trees; None for a stage that is unknown or shows nothing."""
    for each in COMMANDS:
        if stage in each.stages:
            return cast("Shown | None", getattr(_module(each.stages[stage], "rows"), "SHOWN", None))
    return None


def stages_showing(kinds: Iterable[str]) -> list[str]:
    """The names of the stages whose rows show one of these kinds."""
    wanted = set(kinds)
    return [name for name in stage_names() if (what := shown(name)) is not None and what.kind in wanted]


def scores_of(stage: str) -> Mapping[str, Sequence[str]]:
    """The scores that each row of a stage has, by their names, and of each its column, or two whose ratio it is."""
    for each in COMMANDS:
        if stage in each.stages:
            return cast("Mapping[str, Sequence[str]]", getattr(_module(each.stages[stage], "rows"), "SCORES", {}))
    return {}


def stages_with_features() -> list[str]:
    """The names of the stages that keep features: the arrays of an image are features of it, each by its name."""
    return _marked("FEATURES")


def stages_with_matches() -> list[str]:
    """The names of the stages whose rows are pairs with points that were matched."""
    return _marked("MATCHES")


def stages_with_pictures() -> list[str]:
    """The names of the stages that make pictures of images: ``styles`` of a row says which, and of what words."""
    return _marked("PICTURES")


def _marked(mark: str) -> list[str]:
    folders = {name: folder for each in COMMANDS for name, folder in each.stages.items()}
    return [name for name, folder in folders.items() if getattr(_module(folder, "rows"), mark, False)]


def _module(folder: str, part: str) -> Any:
    return import_module(f"simsam_batch.stages.{folder}.{part}")
