"""What is asked for and answered: parameters within limits, JSON, arrays, and refusals that say what to do."""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Mapping
from math import isfinite
from typing import Any

import anyio.from_thread
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from simsam_batch.errors import RunError, SettingsError, StorageError, did_you_mean
from simsam_batch.storage import redact

LONGEST_TEXT = 2000
"""Characters of a parameter at most."""

_WORTH_PACKING = 1400


class RefusedError(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        message: what is wrong, and what to do.
        more: further values of the answer, such as ``at``, where in a filter the fault is.
    """

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.more = status, message, more


def refusal(error: Exception, out: str) -> RefusedError:
    """How an error of the reading API is told: without the place of the run, which is written as OUT.

    Args:
        error: any.
        out: URL of the run's folder.
    """
    if isinstance(error, RefusedError):
        return error
    text = redact(str(error)).replace(out, "OUT")
    if isinstance(error, SettingsError):
        return RefusedError(404, text)
    if isinstance(error, RunError):
        return RefusedError(409, text)
    if isinstance(error, StorageError):
        return RefusedError(503, f"the storage did not answer: {text}")
    return RefusedError(500, "this is a defect of simsam view; started with --debug, it prints where it is")


def whole(request: Request, name: str, default: int | None = None, low: int = 0, high: int = 2**53) -> int:
    """A whole number of the query.

    Raises:
        RefusedError: it is missing without a default, no number, or out of its limits.
    """
    given = request.query_params.get(name)
    if given is None and default is not None:
        return default
    return whole_of(given, name, low, high)


def whole_of(given: Any, name: str, low: int = 0, high: int = 2**53) -> int:
    """A whole number, as text or as JSON has it; raises like `whole`."""
    if isinstance(given, str) and given.isascii() and given.lstrip("-").isdigit() and len(given) < 20:
        given = int(given)
    if not isinstance(given, int) or isinstance(given, bool) or not low <= given <= high:
        raise RefusedError(400, f"{name}: give a whole number of {low} to {high}")
    return given


def number(request: Request, name: str, default: float, low: float, high: float) -> float:
    """A number of the query; raises like `whole`."""
    given = request.query_params.get(name)
    if given is None:
        return default
    try:
        value = float(given) if len(given) < 40 else np.nan
    except ValueError:
        value = np.nan
    if not isfinite(value) or not low <= value <= high:
        raise RefusedError(400, f"{name}: give a number of {low:g} to {high:g}")
    return value


def text(request: Request, name: str, default: str = "", most: int = LONGEST_TEXT) -> str:
    """A text of the query.

    Raises:
        RefusedError: it is too long.
    """
    return text_of(request.query_params.get(name, default), name, most)


def text_of(given: Any, name: str, most: int = LONGEST_TEXT) -> str:
    """A text, as JSON has it; raises like `text`."""
    if not isinstance(given, str) or len(given) > most:
        raise RefusedError(400, f"{name}: give a text of at most {most} characters")
    return given


def one_of(request: Request, name: str, known: Collection[str], default: str | None = None) -> str:
    """One of some words of the query.

    Raises:
        RefusedError: it is none of them.
    """
    return one_of_these(request.query_params.get(name, default), name, known)


def one_of_these(given: Any, name: str, known: Collection[str]) -> str:
    """One of some words, as JSON has it; raises like `one_of`."""
    if not isinstance(given, str) or given not in known:
        guess = did_you_mean(given, known) if isinstance(given, str) else ""
        raise RefusedError(400, f"{name}: give one of {', '.join(known)}{guess}")
    return given


def body_of(request: Request) -> dict[str, Any]:
    """The body of a request, an object of JSON; asked for in the thread that answers it.

    Raises:
        RefusedError: it is none.
    """
    try:
        given = json.loads(anyio.from_thread.run(request.body))
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise RefusedError(400, "give an object of JSON")
    return given


def as_json(value: Any, status: int = 200) -> Response:
    """An answer in JSON; what is not finite is null."""
    body = json.dumps(finite(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    return Response(body, status, {"Cache-Control": "no-store"}, "application/json")


def finite(value: Any) -> Any:
    """The same with null for every number that is not finite, as JSON has none, and NumPy's as Python's."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return value


def as_array(values: NDArray[Any], request: Request, *, keep: str = "no-store", **more: str) -> Response:
    """An answer of the raw values of an array, little-endian, C order, its shape and dtype in the headers.

    Args:
        values: of any shape.
        request: which may take gzip.
        keep: for ``Cache-Control``.
        more: further headers, ``X-`` before their names.
    """
    body = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    headers = {"Cache-Control": keep, "X-Shape": ",".join(map(str, values.shape)), "X-Dtype": values.dtype.name}
    headers |= {f"X-{name.title()}": value for name, value in more.items()}
    if len(body) > _WORTH_PACKING and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, compresslevel=1, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, 200, headers, "application/octet-stream")
