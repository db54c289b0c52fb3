"""The README.md of a data set for Hugging Face: what it is, where it came from, what its owner has to fill in."""

from __future__ import annotations

from collections.abc import Mapping

from simsam_batch.plain_text import plain
from simsam_batch.results.label_maps import kind_of, shown_by
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.records import to_json

_MASKS = {
    "objects": "1 on the object that stands out, 0 elsewhere",
    "labels": "the label of a cluster of regions, shared by the whole collection; 0 is background",
    "trees": "1 plus the place in `nodes` of the region that a pixel ends in; 0 is none",
}
_CLASSES = "the class that a probe gives each pixel; 0 is a class as any other"
_BY_NETWORK = "masks that a frozen vision transformer gave without labels"
_BY_PROBE = "label maps by a probe of a frozen vision transformer's features, fitted on other images and their labels"
_SIZES = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]


def dataset_card(rows: StageRows, names: list[str] | None, outcomes: Mapping[str, int], files: str) -> bytes:
    """The card as UTF-8 Markdown.

    Args:
        rows: what was exported.
        names: of the labels; None for trees.
        outcomes: how many images came to what.
        files: pattern of the data files.
    """
    of_classes = shown_by(rows).classes
    mask = _CLASSES if of_classes else _MASKS[kind_of(rows)]
    named = "" if names is None else "".join(f"\n| {number} | {_cell(name)} |" for number, name in enumerate(names))
    labels = f"\n## Labels\n\n| value of `mask` | name |\n| --- | --- |{named}\n" if named else ""
    images = outcomes.get("ok", 0)
    return _card(
        rows,
        outcomes,
        ("image-segmentation", images, files),
        f"{images:,} images with {_BY_PROBE if of_classes else _BY_NETWORK}",
        f"`image` holds the file as it was read, `mask` a PNG of the same size, upright: {mask}.",
        labels,
    )


def restyled_card(rows: StageRows, pictures: int, outcomes: Mapping[str, int], files: str) -> bytes:
    """The card of restyled images; see `dataset_card`.

    Args:
        rows: what was exported.
        pictures: how many there are.
        outcomes: how many images came to what.
        files: pattern of the data files.
    """
    return _card(
        rows,
        outcomes,
        ("image-to-image", pictures, files),
        f"{pictures:,} pictures of {outcomes.get('ok', 0):,} images, restyled by words inside masks",
        "`image` holds a picture of its original's size, `uri` where the original was read, `text` the words, and "
        "`regions` what became of each region.",
        "",
    )


def _card(
    rows: StageRows, outcomes: Mapping[str, int], about: tuple[str, int, str], what: str, columns: str, labels: str
) -> bytes:
    task, samples, files = about
    size = next((name for bound, name in _SIZES if samples < bound), "1M<n<10M")
    left_out = ", ".join(
        f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(outcomes.items()) if name != "ok"
    )
    origin = {"stage": rows.stage, "plan": rows.plan, "content_digest": rows.content_digest}
    record = to_json(origin | {"settings": rows.settings, "resolved": rows.resolved}, "README.md").decode()
    made = "masks" if task == "image-segmentation" else "pictures"
    networks = "`backbone` and the digest of its weights" if made == "masks" else "the digests of the networks' weights"
    text = f"""---
license: unknown  # to fill in: that of the images
task_categories:
- {task}
size_categories:
- {size}
configs:
- config_name: default
  data_files:
  - split: train
    path: {files}
---

# To fill in: a name

{what}, computed and written by simsam-batch.
Left out: {left_out or "none"}.

{columns}

## Licence and source of the images

To fill in: who made the images, and on which terms they and this data set may be used.
{labels}
## Provenance

The settings that determine the {made}, and what they came down to ({networks} among it):

~~~json
{record}
~~~
"""
    return text.encode()


def _cell(name: str) -> str:
    return plain(name).replace("\\", "\\\\").replace("|", "\\|")
