"""Texts of strangers as cells of CSV files, which spreadsheets would else compute."""

from __future__ import annotations

import re

_FORMULA = re.compile("['=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""What makes spreadsheets compute a cell that begins with it, in Latin and full width; and the mark against that."""


def cell(text: str) -> str:
    """A text as a cell that no spreadsheet computes: with ``'`` before it, if it begins like a formula or with ``'``.

    Ids and notes come from strangers. Whoever drops a ``'`` that a cell begins with has the text.
    """
    return f"'{text}" if _FORMULA.match(text) else text
