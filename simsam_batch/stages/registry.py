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
        about: what the help of the command says; beside its examples ``--help`` has the first paragraph alone.
        stages: the folders of its stages by their names, each after those it reads. A stage that several commands
            have is the same for all, and belongs to the first of them.
        examples: pairs of a command as it is typed, and what it does in a few words; four.
        most_used: the options that ``--help`` shows; ``--help-all`` shows all.
    """

    name: str
    title: str
    summary: str
    about: str
    stages: Mapping[str, str]
    examples: Sequence[tuple[str, str]]
    most_used: Sequence[str]

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
        "Write an object mask and eigenvectors for every image.",
        "Write an object mask and K eigenvectors for every image.\n\n"
        "IMAGES is a folder, a .txt list, a Parquet table with a 'uri' column, or a dataset by name with its folder, "
        "such as ecssd:ROOT; IMAGES, OUT and ROOT take local paths and any fsspec URL, such as s3://bucket/photos. "
        "Run the same command again to go on after an interruption.",
        {"segment": "segment"},
        examples=(
            ("simsam segment photos out", "a mask for every image"),
            ("simsam segment photos trial --limit 20 --backbone descriptors", "20 images, without weights"),
            ("simsam segment photos several --objects 3 --backbone dinov2-base", "up to three objects an image"),
            ("simsam segment photos scored --truth masks", "with scores"),
        ),
        most_used=(
            "preset",
            "backbone",
            "weights",
            "resize",
            "objects",
            "refine",
            "truth",
            "limit",
            "workers",
            "device",
        ),
    ),
    Command(
        "semantic",
        "Label maps",
        "Label regions by labels that all images share.",
        "Cut every image into regions, cluster the regions of the whole set, and write label maps.\n\n"
        "IMAGES and OUT are as for simsam segment. Labels are 0 for background and 1 to --clusters. With --truth, a "
        "folder of class id images, labels are matched to classes and scored. Run the same command again to go on "
        "after an interruption, from whichever step it was in.",
        {"regions": "regions", "clusters": "clusters", "patch-clusters": "clusters", "semantic": "semantic"},
        examples=(
            ("simsam semantic photos labels", "20 labels that all images share"),
            ("simsam semantic photos fine --clusters 60 --refine crf", "60, that follow edges"),
            ("simsam semantic photos scored --truth ids --ignore-label 255", "with scores"),
            ("simsam semantic photos trial --limit 50 --backbone descriptors", "50 images, without weights"),
        ),
        most_used=(
            "backbone",
            "weights",
            "clusters",
            "regions",
            "resize",
            "refine",
            "truth",
            "ignore_label",
            "limit",
            "workers",
        ),
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
        examples=(
            ("simsam hierarchy photos trees", "a tree for every image"),
            ("simsam hierarchy photos coarse --leaves 16 --refine crf", "fewer leaves, that follow edges"),
            ("simsam hierarchy photos named --clusters 50", "like nodes have one label"),
            ("simsam hierarchy photos scored --truth ids", "with scores"),
        ),
        most_used=(
            "preset",
            "backbone",
            "weights",
            "leaves",
            "clusters",
            "resize",
            "refine",
            "truth",
            "limit",
            "workers",
        ),
    ),
    Command(
        "features",
        "Features",
        "Write patch features of several facets and blocks.",
        "Run every image through a frozen vision transformer once, and write its patch features.\n\n"
        "IMAGES and OUT are as for simsam segment. An image's features are arrays (patch rows, patch columns, "
        "channels), one for each of --facets of each of --blocks, whatever number of them from one forward pass. From "
        "Python, simsam_batch.open_run(OUT).features(IMAGE_ID) reads those of one image alone, from object storage "
        "too, and as_torch_dataset() gives them to a DataLoader. How much room they take is said before the start. Run "
        "the same command again to go on after an interruption.",
        {"features": "features"},
        examples=(
            ("simsam features photos feats", "keys of the last block"),
            ("simsam features photos feats --facets key,token --blocks 8,11 --class-token", "all from one pass"),
            ("simsam features photos square --resize crop:256:224 --dtype fp32", "central squares"),
            ("simsam features photos trial --limit 20 --backbone descriptors", "20 images, without weights"),
        ),
        most_used=(
            "backbone",
            "weights",
            "facets",
            "blocks",
            "class_token",
            "dtype",
            "resize",
            "limit",
            "workers",
            "device",
        ),
    ),
    Command(
        "probe",
        "Probes",
        "Measure how well patch features segment.",
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
        examples=(
            ("simsam probe photos probed --truth ids --ignore-label 255", "all probes of the last block"),
            ("simsam probe photos quick --truth ids --probes knn --fractions 1 --seeds 1", "one probe, all labels"),
            (
                "simsam probe photos layers --truth ids --facets key,norm-token --blocks 5,8,11",
                "which block segments best",
            ),
            ("simsam probe voc2012:VOC voc --split train+val", "a dataset by name, from its folder"),
        ),
        most_used=(
            "preset",
            "truth",
            "class_names",
            "ignore_label",
            "backbone",
            "weights",
            "facets",
            "blocks",
            "probes",
            "fractions",
        ),
    ),
    Command(
        "probe apply",
        "Applied probe",
        "Label new images by a probe that was fitted.",
        "Compute the features of new images, and label every pixel by a probe that was fitted before.\n\n"
        "PROBE_RUN is the OUT of a finished simsam probe, IMAGES and OUT are as for simsam segment: OUT is another "
        "folder, and the run in PROBE_RUN stays as it is. Which of its probes is applied is said by --probe and the "
        "flags beside it. What features depend on (network, blocks, facets, size, precision) is taken from there and "
        "not given anew; only what the probe sees is computed. --weights is where the weights are now, if they have "
        "been moved. With --truth, a folder of class id images, the label maps are scored. Run the same command again "
        "to go on after an interruption.",
        {"features": "features", "probe-apply": "probe_apply"},
        examples=(
            ("simsam probe apply probed photos labels", "by the first probe"),
            (
                "simsam probe apply probed photos others --probe knn --features key-11",
                "by this probe",
            ),
            ("simsam probe apply probed photos few --fraction 0.1", "by a tenth of the labels"),
            ("simsam probe apply probed photos scored --truth ids", "and score the label maps"),
        ),
        most_used=("probe", "features", "fraction", "clusters", "truth", "weights", "limit", "workers", "device"),
    ),
    Command(
        "correspond",
        "Correspondence",
        "Find points of one image in another.",
        "Find points of one image in another by patch features, for every pair of a set.\n\n"
        "IMAGES is a file of pairs (.json, .jsonl, .csv or .parquet: source and target images, points in pixels, and "
        "true points and boxes where they are known), a set by name such as spair:ROOT, key points of COCO or "
        "DeepLabCut, or images as for simsam segment; of the last two --pairs says which are matched. OUT is as for "
        "simsam segment. Every image is computed once, however many pairs it is in. With true points PCK is scored at "
        "every usual threshold, each under its own name. Run the same command again to go on after an interruption.",
        {"features": "features", "matches": "matches"},
        examples=(
            ("simsam correspond pairs.json matched --root photos", "pairs and points from a file"),
            ("simsam correspond photos video --pairs video", "the first of each folder with its others"),
            ("simsam correspond spair:SPair-71k spair", "a set by name, scored as it was published"),
            ("simsam correspond pairs.json dense --root photos --dense", "all patches, and not points alone"),
        ),
        most_used=("root", "pairs", "backbone", "weights", "facets", "blocks", "resize", "dense", "limit", "workers"),
    ),
    Command(
        "correspond diffusion",
        "Correspondence by diffusion",
        "The same by the attention of Stable Diffusion.",
        "Find points of one image in another by the cross-attention of Stable Diffusion.\n\n"
        "IMAGES and OUT are as for simsam correspond. For every point an embedding is fitted that one token's "
        "attention fires at, and looked for in the target (Hedlin et al., NeurIPS 2023): each takes a GPU seconds, "
        "where simsam correspond takes next to nothing. --weights is a local folder in the layout of diffusers with "
        "unet and vae, of Stable Diffusion 1.4, 1.5 or a like one; nothing is fetched. Run the same command again to "
        "go on after an interruption.",
        {"embeddings": "embeddings", "attention": "attention"},
        examples=(
            (
                "simsam correspond diffusion pairs.json out --root photos --weights stable-diffusion-v1-5",
                "as in its paper",
            ),
            (
                "simsam correspond diffusion pairs.json fast --root photos --starts 1 --weights stable-diffusion-v1-5",
                "a fifth of the time",
            ),
            (
                "simsam correspond diffusion pairs.json code --preset hedlin-code --weights stable-diffusion-v1-5",
                "as its code does",
            ),
            ("simsam correspond diffusion spair:SPair-71k spair --limit 10 --weights stable-diffusion-v1-5", "a trial"),
        ),
        most_used=("preset", "root", "pairs", "weights", "starts", "steps", "crops", "limit", "workers", "device"),
    ),
    Command(
        "transfer",
        "Transferred labels",
        "Carry masks or labels of a few images to the others.",
        "Carry the masks or label maps of a few images over to all others of a set, by their patch features.\n\n"
        "IMAGES and OUT are as for simsam segment; --truth is a folder of object masks, or of class id images with "
        "--truth-is classes, in which the images named by --exemplars must have one. Every patch of the other images "
        "takes the labels of the exemplars' most similar patches; images that have truth themselves are scored. Run "
        "the same command again to go on after an interruption.",
        {"features": "features", "transfer": "transfer"},
        examples=(
            ("simsam transfer photos carried --truth masks --exemplars a.jpg", "one mask for all other images"),
            ("simsam transfer photos classes --truth ids --truth-is classes --exemplars a.png,b.png", "label maps"),
            (
                "simsam transfer photos close --truth masks --exemplars a.jpg --neighbours 1",
                "by the nearest patch alone",
            ),
            ("simsam transfer photos trial --truth masks --exemplars a.jpg --backbone descriptors", "without weights"),
        ),
        most_used=(
            "truth",
            "exemplars",
            "truth_is",
            "class_names",
            "backbone",
            "weights",
            "resize",
            "neighbours",
            "limit",
            "workers",
        ),
    ),
    Command(
        "stylize",
        "Restyled images",
        "Restyle objects, or what is around them, by words.",
        "Restyle the object, the background, or both, of every image by words, inside the masks of simsam segment.\n\n"
        "OUT is that of a finished simsam segment. A small network is fitted to every region of every "
        "image, by what CLIP and VGG-19 see (Kwon and Ye, CLIPstyler, CVPR 2022; Kamra et al., ICIP 2023), and its "
        "picture put back into the image: what is not restyled stays as it is to the bit. --clip-weights and "
        "--vgg-weights are local files; nothing is fetched. An image takes some 15 seconds of a GPU, and hours of a "
        "CPU with the defaults. Run the same command again to go on after an interruption.",
        {"style-networks": "style_networks", "stylize": "stylize"},
        examples=(
            ("simsam stylize out --object fire --clip-weights clip.pt --vgg-weights vgg19.pth", "the object"),
            (
                "simsam stylize out --background snow --clip-weights clip.pt --vgg-weights vgg19.pth",
                "what is around it",
            ),
            (
                "simsam stylize out --texts words.csv --clip-weights clip.pt --vgg-weights vgg19.pth",
                "several pictures each",
            ),
            (
                "simsam stylize out --object fire --preset quick --clip-weights clip.pt --vgg-weights vgg19.pth",
                "a trial",
            ),
        ),
        most_used=(
            "object",
            "background",
            "label",
            "texts",
            "clip_weights",
            "vgg_weights",
            "preset",
            "fit",
            "workers",
            "device",
        ),
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
