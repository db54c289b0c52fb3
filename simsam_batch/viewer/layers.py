"""What a stage found in one image, as raw arrays that the page draws itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from simsam_batch.regions.pixel_index import nearest
from simsam_batch.results.photographs import limits_of
from simsam_batch.results.trees import RegionTree
from simsam_batch.viewer.answers import RefusedError, as_array, one_of, one_of_these, whole, whole_of
from simsam_batch.viewer.maps import cover_of, good_row, grid_index, grid_of, mask_of, reader_of, segments_map
from simsam_batch.viewer.payload import arrays_of
from simsam_batch.viewer.pictures import segments_of
from simsam_batch.viewer.session import OpenedStage, Session
from simsam_batch.workers.truth import TruthReader

LONGEST_SIDE = 1280
"""Of a layer of pixels."""

_VOID = 255
_EIGENVECTORS, _OUTSIDE = "eigenvectors", "outside"


def routes(session: Session) -> list[tuple[str, str, Any]]:
    """``layers/{stage}/{row}/{layer}``."""

    def layer(request: Request) -> Response:
        stage = session.run(one_of(request, "run", ("a", "b"), "a")).stage(request.path_params["stage"])
        row = whole_of(request.path_params["row"], "row")
        name = one_of_these(request.path_params["layer"], "layer", LAYERS)
        if name == "truth":
            values, headers = truth_of(stage, row, whole(request, "of", 0, 0, 1000))
        else:
            values, headers = LAYERS[name](stage, row)
        return as_array(values, request, **headers)

    return [("GET", "layers/{stage}/{row}/{layer}", layer)]


Layer = tuple[NDArray[Any], dict[str, str]]
"""Values (H, W) or (K, H, W), and headers: ``cover``, and ``ignore``, the value that means nothing."""


def mask(stage: OpenedStage, row: int) -> Layer:
    """(H, W) uint8: 1 on the object; of several 1 on the surest, 2 on the next; 0 elsewhere."""
    found = good_row(stage, row)
    if stage.kind != "objects":
        raise _none(stage, "object masks")
    return _over_image(mask_of(found), stage, row)


def labels(stage: OpenedStage, row: int) -> Layer:
    """(H, W) int16: labels of clusters, 0 none; or true classes, of which 0 is what no segment covers."""
    found = good_row(stage, row)
    held = segments_of(stage, found) if stage.kind == "labels" else None
    if held is None:
        raise _none(stage, "label map" if stage.kind == "labels" else "labels")
    ignored = -1 if stage.what is not None and stage.what.classes else 0
    values, headers = _over_image(_narrow(segments_map(found, held)), stage, row)
    return values, headers | {"ignore": str(ignored)}


def regions(stage: OpenedStage, row: int) -> Layer:
    """(H, W) int16: the number of each region, -1 none."""
    reader = reader_of(stage)
    read = good_row(reader, row)
    grid = grid_of(read)
    if read.get("region_map") is not None and grid is not None:
        values = np.array(read["region_map"], np.int32).reshape(grid)
        return _narrow(values), {"cover": _cover(reader, read), "ignore": "-1"}
    found = good_row(stage, row)
    held = segments_of(stage, found) if stage.kind == "objects" else None
    if held is None:
        raise _none(stage, "regions")
    values, headers = _over_image(_narrow(segments_map(found, held, -1)), stage, row)
    return values, headers | {"ignore": "-1"}


def nodes(stage: OpenedStage, row: int) -> Layer:
    """(H, W) int16: the node that a cell ends in, the deepest that holds it; -1 none."""
    found = good_row(stage, row)
    if stage.kind != "trees":
        raise _none(stage, "tree of regions")
    tree = RegionTree(found, stage.rows.settings)
    values, headers = _over_image(_narrow(tree.owners((found["height"], found["width"]))), stage, row)
    return values, headers | {"ignore": "-1"}


def eigenvectors(stage: OpenedStage, row: int) -> Layer:
    """(K, Hp, Wp) fp16: the stored eigenvectors, the constant one first."""
    found = good_row(stage, row)
    held, grid = arrays_of(stage, row).get(_EIGENVECTORS), grid_of(found)
    if held is None or grid is None:
        raise RefusedError(404, f"{stage.name} has stored no eigenvectors: {_WHY[_EIGENVECTORS]}")
    return held.astype(np.float16).reshape(-1, *grid), {"cover": _cover(stage, found)}


def outside(stage: OpenedStage, row: int) -> Layer:
    """(Hp, Wp) uint8: 1 for patches that were left out of the graph, as outlier tokens or islands."""
    found = good_row(stage, row)
    held, grid = arrays_of(stage, row).get(_OUTSIDE), grid_of(found)
    if held is None or grid is None:
        raise RefusedError(404, f"{stage.name} has not stored which patches it left out: {_WHY[_OUTSIDE]}")
    return held.astype(np.uint8).reshape(grid), {"cover": _cover(stage, found)}


def truth(stage: OpenedStage, row: int) -> Layer:
    """The truth as the stage reads it, see `truth_of`; of several drawings the first."""
    return truth_of(stage, row, 0)


def truth_of(stage: OpenedStage, row: int, which: int) -> Layer:
    """(H, W): of objects 1, 0 and 255, of classes and labels their ids; what is not scored has the value ``ignore``.

    A header says how many drawings there are.

    Args:
        stage: a stage that compares with it.
        row: the number of its row.
        which: of several drawings of one image.

    Raises:
        RefusedError: 404: the image has no truth, or the stage none that is drawn; 409: it cannot be read.
    """
    reader = reader_of(stage)
    found, about = good_row(reader, row), truth_about(stage)
    uri = truth_uri(stage, row)
    if about is None:
        raise RefusedError(404, f"{stage.name} compares with no truth. To mend it: run it with --truth")
    if uri is None:
        raise RefusedError(404, "this image has no truth, or the run was made without --truth")
    size = found["height"], found["width"]
    truth_reader = TruthReader(about, limits_of(reader.rows.settings))
    values, fault = truth_reader.read(uri, size)
    if fault is not None:
        raise RefusedError(409, f"the truth cannot be read: {fault}")
    drawings = len(values) if isinstance(values, list) else 1
    if isinstance(values, list):
        if which >= len(values):
            raise RefusedError(404, f"of: the image has {len(values)} drawings, from 0")
        values = values[which]
    ignore = _VOID if about["kind"] == "object" else about.get("ignore_label")
    ignored = -1 if ignore is None else int(ignore)
    whole_map = np.full(size, ignored, np.int32)
    whole_map[truth_reader.part(size)] = values
    small = nearest(whole_map, _limited(size))
    narrow = small.astype(np.uint8) if ignored == _VOID and small.max() <= _VOID else _narrow(small)
    return narrow, {"cover": "1,1", "ignore": str(ignored), "drawings": str(drawings)}


def truth_about(stage: OpenedStage) -> Mapping[str, Any] | None:
    """What a stage's record says of its truth, as `TruthReader` takes it; None if it compares with none."""
    about = stage.rows.resolved.get("truth")
    if not isinstance(about, Mapping) or about.get("kind") not in ("object", "classes", "labels", "partitions"):
        return None
    held = dict(about)
    if held["kind"] == "classes":
        classes = held.get("classes")
        count = stage.rows.resolved.get("classes") if classes is None else len(classes)
        held |= {"count": held.get("count", count), "also_ignored": held.get("also_ignored", [])}
        held.setdefault("ignore_label", None)
    return held


def truth_uri(stage: OpenedStage, row: int) -> str | None:
    """Where the truth of a row is, as the plan has it; None if it has none."""
    shard, place = stage.plan.place_of(row)
    records = stage.plan.shard(shard).records
    if "truth_uri" not in records.column_names:
        return None
    uri = records["truth_uri"][place].as_py()
    return None if uri is None else str(uri)


LAYERS: Mapping[str, Callable[[OpenedStage, int], Layer]] = {
    "mask": mask,
    "truth": truth,
    "labels": labels,
    "regions": regions,
    "nodes": nodes,
    _EIGENVECTORS: eigenvectors,
    _OUTSIDE: outside,
}
"""By name, in the order in which the page offers them."""

_WHY = {
    _EIGENVECTORS: "simsam segment stores them unless --eigenvectors none is given",
    _OUTSIDE: "earlier releases did not, and neither does --eigenvectors none",
}


def _none(stage: OpenedStage, what: str) -> RefusedError:
    return RefusedError(404, f"{stage.name} has no {what} of this image")


def _over_image(values: NDArray[Any], stage: OpenedStage, row: int) -> Layer:
    """Values of every pixel: on the patch grid if they are of whole patches, else at most `LONGEST_SIDE` a side."""
    reader = reader_of(stage)
    of_grid = good_row(reader, row)
    if grid_of(of_grid) is not None:
        rows, columns = grid_index(of_grid, reader.rows.settings)
        # a pixel of each patch; a small image has none of some
        first = [np.unique(along, return_index=True)[1] for along in (rows, columns)]
        if (len(first[0]), len(first[1])) == grid_of(of_grid):
            small = values[np.ix_(first[0], first[1])]
            if np.array_equal(small[np.ix_(rows, columns)], values):
                return small, {"cover": _cover(reader, of_grid)}
    return nearest(values, _limited((values.shape[0], values.shape[1]))), {"cover": "1,1"}


def _cover(reader: OpenedStage, row: Mapping[str, Any]) -> str:
    return ",".join(f"{share:.6g}" for share in cover_of(row, reader.rows.settings))


def _limited(size: tuple[int, int]) -> tuple[int, int]:
    """A size (height, width) with its longer side at most `LONGEST_SIDE`."""
    scale = min(1.0, LONGEST_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _narrow(values: NDArray[np.int32]) -> NDArray[Any]:
    """The same as int16 if that holds them."""
    return values.astype(np.int16) if values.max(initial=0) <= np.iinfo(np.int16).max else values
