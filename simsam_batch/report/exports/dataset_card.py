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
    images = outcomes.get("ok", 0)
    size = next((name for bound, name in _SIZES if images < bound), "1M<n<10M")
    of_classes = shown_by(rows).classes
    mask = _CLASSES if of_classes else _MASKS[kind_of(rows)]
    left_out = ", ".join(
        f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(outcomes.items()) if name != "ok"
    )
    about = {"stage": rows.stage, "plan": rows.plan, "content_digest": rows.content_digest}
    record = to_json(about | {"settings": rows.settings, "resolved": rows.resolved}, "README.md").decode()
    named = "" if names is None else "".join(f"\n| {number} | {_cell(name)} |" for number, name in enumerate(names))
    labels = f"\n## Labels\n\n| value of `mask` | name |\n| --- | --- |{named}\n" if named else ""
    text = f"""---
license: unknown  # to fill in: that of the images
task_categories:
- image-segmentation
size_categories:
- {size}
configs:
- config_name: default
  data_files:
  - split: train
    path: {files}
---

# To fill in: a name

{images:,} images with {_BY_PROBE if of_classes else _BY_NETWORK}, computed and written by simsam-batch.
Left out: {left_out or "none"}.

`image` holds the file as it was read, `mask` a PNG of the same size, upright: {mask}.

## Licence and source of the images

To fill in: who made the images, and on which terms they and this data set may be used.
{labels}
## Provenance

The settings that determine the masks, and what they came down to (`backbone` and the digest of its weights among it):

~~~json
{record}
~~~
"""
    return text.encode()


def _cell(name: str) -> str:
    return plain(name).replace("\\", "\\\\").replace("|", "\\|")
