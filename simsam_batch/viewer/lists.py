"""Routes that hand on what a filter takes as a list of images, which is IMAGES of another run."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from simsam_batch.runs.schema import IMAGE
from simsam_batch.storage import redact
from simsam_batch.viewer.answers import RefusedError, text
from simsam_batch.viewer.columns import columns_of
from simsam_batch.viewer.listing import listed
from simsam_batch.viewer.rows import stage_of
from simsam_batch.viewer.session import OpenedStage, Session

_ROWS_AT_ONCE = 65_536
_MAY_HOLD_SECRETS = "://.*[@?&;#]"
_NO_LINE = r"[\r\n]|^\s|\s$"


def routes(session: Session) -> list[tuple[str, str, Any]]:
    """``api/list.txt`` and ``api/list.parquet``."""

    def lines(request: Request) -> Response:
        uris = _taken(session, request)["uri"]
        beyond = pc.sum(pc.match_substring_regex(uris, _NO_LINE)).as_py()
        if beyond:
            raise RefusedError(
                409,
                f"{beyond} of these images have a line break or a space at an end of their names, which a list of "
                "lines cannot hold. To mend it: take list.parquet",
            )
        return _download(
            "".join(f"{uri}\n" for uri in uris.to_pylist()).encode(), "list.txt", "text/plain; charset=utf-8"
        )

    def table(request: Request) -> Response:
        held = io.BytesIO()
        pq.write_table(_taken(session, request), held, compression="zstd")
        return _download(held.getvalue(), "list.parquet", "application/vnd.apache.parquet")

    return [("GET", "api/list.txt", lines), ("GET", "api/list.parquet", table)]


def _taken(session: Session, request: Request) -> pa.Table:
    """Ids and URIs of the images that a filter takes, in the order of the plan."""
    stage = stage_of(session, request)
    if stage.rows.unit != IMAGE:
        raise RefusedError(400, f"the rows of {stage.name} are no images, so that they are no list of images")
    columns_of(stage).wait()
    places = listed(session, stage, text(request, "q")).places
    return _uris(stage, places)


def _uris(stage: OpenedStage, places: NDArray[np.int32]) -> pa.Table:
    found, start = [], 0
    for _, table in stage.rows.batches([IMAGE, "uri"], _ROWS_AT_ONCE):
        ends = np.searchsorted(places, [start, start + table.num_rows])
        found.append(table.take(places[ends[0] : ends[1]] - start))
        start += table.num_rows
    schema = pa.schema([(IMAGE, pa.string()), ("uri", pa.string())])
    held = pa.concat_tables([schema.empty_table(), *(table.select(schema.names).cast(schema) for table in found)])
    uris = held["uri"].combine_chunks()
    suspect = pc.match_substring_regex(uris, _MAY_HOLD_SECRETS)
    shown = pa.array([redact(uri) for uri in uris.filter(suspect).to_pylist()], pa.string())
    return held.set_column(1, "uri", pc.replace_with_mask(uris, suspect, shown))


def _download(body: bytes, name: str, kind: str) -> Response:
    headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(body, 200, headers, kind)
