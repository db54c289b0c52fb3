"""A run as a notebook shows it: a small table and a few pictures, in one piece of HTML of bounded size."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

from PIL import Image

from simsam_batch.plain_text import plain

SIDE = 176
"""Pixels of the longer side of a picture."""

_MOST_BYTES = 24_000
_LONGEST = 200
_QUALITIES = (82, 60, 30, 10)
_CELL = 'style="text-align:left;padding:1px 12px 1px 0"'
_ABREAST = 'style="display:flex;flex-wrap:wrap;gap:8px;margin-top:6px"'
_FIGURE = f'style="margin:0;max-width:{SIDE}px;font-size:85%;overflow-wrap:anywhere"'


def card(facts: Mapping[str, str], pictures: Sequence[tuple[str, Image.Image | None]]) -> str:
    """HTML that needs nothing but itself.

    Args:
        facts: what is said of the run, line by line.
        pictures: names, and the picture of each at `SIDE`; None for one that cannot be shown.
    """
    rows = "".join(
        f'<tr><th scope="row" {_CELL}>{_text(name)}</th><td {_CELL}>{_text(said)}</td></tr>'
        for name, said in facts.items()
    )
    figures = "".join(
        f"<figure {_FIGURE}>{'no picture' if picture is None else _image(name, picture)}"
        f"<figcaption>{_text(name)}</figcaption></figure>"
        for name, picture in pictures
    )
    return f"<div><table>{rows}</table><div {_ABREAST}>{figures}</div></div>"


def _text(text: str) -> str:
    shown = plain(text)
    return html.escape(shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}\N{HORIZONTAL ELLIPSIS}")


def _image(name: str, picture: Image.Image) -> str:
    for quality in _QUALITIES:
        target = io.BytesIO()
        picture.save(target, "JPEG", quality=quality)
        if target.tell() <= _MOST_BYTES:
            break
    data = base64.b64encode(target.getvalue()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{data}" alt="{_text(name)}">'
