"""The templates of pages: whatever is put into one is escaped, rid of credentials, and plain text on one line."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from simsam_batch.plain_text import plain
from simsam_batch.storage import redact


def render(template: str, **values: Any) -> str:
    """A page."""
    return "".join(rendered(template, **values))


def rendered(template: str, **values: Any) -> Iterator[str]:
    """Likewise piece by piece: what a value iterates over is asked for as the page goes on."""
    style = _file("style.css")
    digest = base64.b64encode(sha256(style.encode()).digest()).decode()
    environment = Environment(
        loader=FunctionLoader(_file),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_presentable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # the digest is taken of this very text, which holds nothing of the run
    return environment.get_template(template).generate(style=Markup(style), style_digest=digest, **values)  # noqa: S704


def _presentable(value: Any) -> Any:
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return plain(redact(value)) if is_text else value


def _file(name: str) -> str:
    return files("simsam_batch.report.page").joinpath(name).read_text(encoding="utf-8")
