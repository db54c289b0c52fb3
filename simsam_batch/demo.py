"""The newcomer's first run: photographs that ship with scikit-image, truth drawn by hand, a page about it all."""

from __future__ import annotations

import json
import shlex
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simsam_batch.errors import SettingsError, StorageError
from simsam_batch.plain_text import plain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SETTINGS: dict[str, Any] = {"backbone": "descriptors", "resize": "short:256", "cut": "fixed"}
"""Where the demo leaves the defaults: a backbone that needs no weights, patches that show more of a scene each, and the
cut at the mean, since most of these objects reach the border and colours and gradients do not tell them well enough."""


def run_demo(out: str = "demo-output") -> dict[str, Any]:
    """Segment six photographs into ``out`` and print where to look; running it again goes on or repeats.

    Writes ``photos/``, ``truth/`` (masks of the polygons in ``demo_truth.json``) and the run ``run/`` with its report
    page.

    Args:
        out: a local folder.

    Returns:
        What ``run/results/segment.json`` holds.

    Raises:
        SettingsError: scikit-image is not installed, or ``out`` is no local folder or holds another run.
        StorageError: ``out`` cannot be written.
    """
    from simsam_batch import operations
    from simsam_batch.stages.segment.settings import SegmentSettings
    from simsam_batch.telling.console import reporter

    if "://" in out:
        raise SettingsError(f"demo: {out!r} is not a local folder. To mend it: give a path such as demo-output")
    folder = Path(out).absolute()
    try:
        _write_photographs(folder)
    except OSError as error:
        raise StorageError(f"demo: cannot write to {folder}: {error}. To mend it: give another folder") from error
    settings = SegmentSettings(**SETTINGS, truth=str(folder / "truth"))
    run = folder / "run"
    with reporter("text", quiet=False) as report:
        result = operations.run("segment", str(folder / "photos"), str(run), settings, report)
    if result is None:
        raise SettingsError("demo: it runs on its own. To mend it: start it without torchrun")
    operations.report(str(run))
    print(_summary(plain(str(folder)), result))
    return result


def truth_polygons() -> list[dict[str, Any]]:
    """The photographs with their objects: ``file``, ``object``, ``licence``, ``size`` [height, width] and ``polygons``.

    A polygon is a list of [x, y] in pixels from the upper left corner of the photograph; the object is their union.
    """
    text = files("simsam_batch").joinpath("demo_truth.json").read_text(encoding="utf-8")
    return list(json.loads(text)["photographs"])


def _write_photographs(folder: Path) -> None:
    """Copy the photographs and draw their truth."""
    from PIL import Image

    photographs = truth_polygons()
    contents = {photograph["file"]: _photograph(photograph["file"]) for photograph in photographs}
    masks = {photograph["file"]: _mask(photograph) for photograph in photographs}
    for name in ("photos", "truth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / "photos" / name).write_bytes(content)
        Image.fromarray(masks[name]).save((folder / "truth" / name).with_suffix(".png"))


def _mask(photograph: dict[str, Any]) -> NDArray[np.uint8]:
    """255 where a pixel's centre lies in one of the polygons, whose coordinates count from the corner of a pixel."""
    import numpy as np
    from skimage.draw import polygon2mask

    mask = np.zeros(photograph["size"], np.uint8)
    for polygon in photograph["polygons"]:
        mask[polygon2mask(mask.shape, np.array(polygon)[:, ::-1] - 0.5)] = 255
    return mask


def _photograph(name: str) -> bytes:
    source = find_spec("skimage")
    if source is None or source.origin is None:
        raise SettingsError("demo: its photographs come with scikit-image: pip install 'simsam-batch[demo]'")
    path = Path(source.origin).parent / "data" / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"demo: this scikit-image has no {path}: pip install 'simsam-batch[demo]'") from error


def _summary(folder: str, result: dict[str, Any]) -> str:
    return f"""\
{result["ok"]} photographs are segmented. Their masks overlap the hand-drawn truth with a mean IoU of \
{result["metrics"]["iou_per_image_mean"]:.2f}, from colours and
gradients alone: this demo uses no network, and a vision transformer does better. Look at
  {folder}/run/report/index.html         the report, for a browser: scores, pictures, times, settings
  {folder}/run/results/segment.json      the scores and how they came about
  {folder}/run/results/segment/          one row per image: mask, box, eigenvalues (Parquet)
Next:
  simsam view {shlex.quote(folder + "/run")}    # look at them in a browser
  simsam segment IMAGES OUT --backbone descriptors    # your own: a folder, a list or s3://...; no download, as here
  simsam segment IMAGES OUT    # the same by DINO ViT-S/16, whose weights the first run fetches"""
