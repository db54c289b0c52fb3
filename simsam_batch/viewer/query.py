"""The filter language: a line of terms, read by a parser of its own, and the rows that it takes."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from simsam_batch.errors import did_you_mean
from simsam_batch.viewer.columns import Columns
from simsam_batch.viewer.labels import Labels

LONGEST = 2000
"""Characters of a filter."""

VERDICTS = ("bad", "good", "unsure")
"""What ``flag:`` takes, besides `UNFLAGGED`."""

UNFLAGGED = "none"
"""Stands for the rows that nobody has flagged."""

Mask = NDArray[np.bool_]

_COMPARED: Mapping[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_SPACES = " \t\r\n"
_YES = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class QueryError(Exception):
    """A filter that cannot be read.

    Attributes:
        message: what is wrong with it, and what to do.
        at: the character where, from 0.
    """

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.message, self.at = message, at


class Flagged(Protocol):
    """What a filter sees of a flag."""

    @property
    def verdict(self) -> str | None:
        """One of `VERDICTS`."""
        ...


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a filter.

    Attributes:
        name: what it is about.
        does: ``<``, ``<=``, ``>``, ``>=``, ``=``, ``:`` (one of), ``~`` (contains), ``?`` (has a value), or nothing:
            is true.
        values: what is behind that, each with the character at which it begins, and whether it is in quotes.
        turned: whether rows are taken that it does not hold for.
        at: the character at which its name begins.
        does_at: and at which what it does stands.
    """

    name: str
    does: str
    values: Sequence[tuple[str, int, bool]]
    turned: bool
    at: int
    does_at: int


def parsed(text: str) -> list[Term]:
    """The terms of a filter, all of which must hold.

    Args:
        text: as in ``docs/view.md``.

    Raises:
        QueryError: it cannot be read.
    """
    if len(text) > LONGEST:
        raise QueryError(f"a filter has at most {LONGEST} characters, and this has {len(text)}", LONGEST)
    reader = _Reader(text)
    terms = []
    while reader.skip_spaces():
        terms.append(reader.term())
    return terms


def matching(text: str, columns: Columns, flags: Mapping[int, Flagged] | None = None) -> Mask:
    """Which of the rows read so far a filter takes, (`Columns.count`,).

    Numbers are compared in the precision that they are held in. ``-`` before a term takes all the rows that the term
    does not take, those without a value among them.

    Args:
        text: the filter; empty: all rows.
        columns: of the stage.
        flags: by the rows' numbers; None: nothing is flagged.

    Raises:
        QueryError: it cannot be read, or asks for what is not there.
    """
    count = columns.count
    found = np.ones(count, np.bool_)
    for term in parsed(text):
        one = _held(term, columns, flags or {}, count)
        found &= ~one if term.turned else one
    return found


def _held(term: Term, columns: Columns, flags: Mapping[int, Flagged], count: int) -> Mask:
    if term.name == "flag":
        return _of_flags(term, columns, flags, count)
    if term.name in ("id", columns.unit):
        return _of_ids(term, columns, count)
    labels = columns.labels if term.name == "label" else None
    if labels is not None:
        return _of_labels(term, labels, columns, count)
    if term.name not in columns.kinds:
        known = ["id", "flag", *(["label"] if columns.has_labels else []), *columns.kinds]
        raise QueryError(f"there is no column {term.name!r}{did_you_mean(term.name, known)}", term.at)
    values = columns.column(term.name)[:count]
    kind = columns.kinds[term.name]
    if kind == "words":
        return _of_words(term, values, columns.words(term.name))
    if term.does == "?":
        return np.asarray(~np.isnan(values))
    if term.does == "~":
        raise _not_for(term, f"{term.name} is no text", "<, >, : or ?")
    if kind == "boolean":
        return _of_booleans(term, values)
    if term.does == "":
        raise QueryError(
            f"say what {term.name} shall be, as in {term.name}>0, {term.name}:0..1 or {term.name}?",
            term.does_at,
        )
    if term.does in _COMPARED:
        (word, at, _), *_ = term.values
        return np.asarray(_COMPARED[term.does](values, _as(values, _number(word, at))))
    found = np.zeros(count, np.bool_)
    for word, at, _ in term.values:
        low, range_, high = word.partition("..")
        if not range_:
            found |= values == _as(values, _number(word, at))
            continue
        if not low and not high:
            raise QueryError("a range has an end, as in 0.1..0.5, 0.1.. or ..0.5", at)
        inside = ~np.isnan(values)
        if low:
            inside &= values >= _as(values, _number(low, at))
        if high:
            inside &= values <= _as(values, _number(high, at + len(low) + 2))
        found |= inside
    return found


def _of_booleans(term: Term, values: NDArray[Any]) -> Mask:
    if term.does == "":
        return np.asarray(values == 1)
    if term.does not in (":", "="):
        raise _not_for(term, f"{term.name} is yes or no", f"{term.name}, -{term.name}, {term.name}? or {term.name}:no")
    found = np.zeros(len(values), np.bool_)
    for word, at, _ in term.values:
        if word.lower() not in _YES:
            raise QueryError(f"{term.name} is true or false, and not {word!r}", at)
        found |= values == _YES[word.lower()]
    return found


def _of_words(term: Term, codes: NDArray[Any], words: Sequence[str]) -> Mask:
    if term.does in ("?", ""):
        if term.does == "":
            raise QueryError(f"say which, as in {term.name}:{_quoted(words[0]) if words else 'word'}", term.does_at)
        return codes >= 0
    if term.does == "~":
        ((part, _, _),) = term.values
        wanted = [place for place, word in enumerate(words) if part in word]
    elif term.does in (":", "="):
        given = {word for word, _, _ in term.values}
        wanted = [place for place, word in enumerate(words) if word in given]
    else:
        raise _not_for(term, f"{term.name} is text", ": or ~")
    return _among(codes, wanted, len(words))


def _of_ids(term: Term, columns: Columns, count: int) -> Mask:
    if term.does in ("", "?"):
        raise QueryError("say which, as in id~train/ or id:name", term.does_at)
    if term.does == "~":
        ((part, _, _),) = term.values
        found = pc.match_substring(columns.ids.slice(0, count), part)
    elif term.does in (":", "="):
        found = pc.is_in(columns.ids.slice(0, count), pa.array([word for word, _, _ in term.values], pa.string()))
    else:
        raise _not_for(term, "an id is text", ": or ~")
    return np.asarray(found.to_numpy(), np.bool_)


def _of_flags(term: Term, columns: Columns, flags: Mapping[int, Flagged], count: int) -> Mask:
    def those(wanted: Iterable[str] | None) -> Mask:
        rows = [row for row, flag in flags.items() if flag.verdict is not None]
        if wanted is not None:
            rows = [row for row in rows if str(flags[row].verdict) in wanted]
        found = np.zeros(len(columns.numbers), np.bool_)
        found[columns.places(np.array(rows, np.int64))] = True
        return found[:count]

    if term.does in ("", "?"):
        return those(None)
    if term.does not in (":", "="):
        raise _not_for(term, "a flag is a word", "flag:bad")
    known = [*VERDICTS, UNFLAGGED]
    for word, at, _ in term.values:
        if word not in known:
            raise QueryError(f"a flag is one of {', '.join(known)}{did_you_mean(word, known)}", at)
    given = {word for word, _, _ in term.values}
    return those(given) | ~those(None) if UNFLAGGED in given else those(given)


def _of_labels(term: Term, labels: Labels, columns: Columns, count: int) -> Mask:
    if term.does in ("", "?"):
        wanted = None
    elif term.does in (":", "="):
        named: dict[str, list[int]] = {}
        for label, name in labels.names.items():
            named.setdefault(name, []).append(label)
        wanted = []
        for word, at, quoted in term.values:
            if not quoted and word.isascii() and word.isdigit() and len(word) < 10:
                wanted.append(int(word))
            elif word in named:
                wanted += named[word]
            else:
                raise QueryError(f"there is no label {word!r}{did_you_mean(word, named)}; give its number", at)
    else:
        raise _not_for(term, "a label is a number or a name", "label:7")
    found = np.zeros(len(columns.numbers), np.bool_)
    for label in labels.labels.tolist() if wanted is None else wanted:
        found[labels.places_of(label)] = True
    return found[:count]


def _among(codes: NDArray[Any], wanted: Sequence[int], words: int) -> Mask:
    # the last is that of -1, no word
    table = np.zeros(words + 1, np.bool_)
    table[list(wanted)] = True
    found: Mask = table[codes]
    return found


def _as(values: NDArray[Any], number: float) -> Any:
    with np.errstate(over="ignore"):
        return values.dtype.type(number)


def _number(word: str, at: int) -> float:
    if _NUMBER.fullmatch(word) is None:
        raise QueryError(f"{word[:40]!r} is no number" if word else "a number is missing", at)
    number = float(word)
    if not isfinite(number):
        raise QueryError(f"{word[:40]!r} is too large a number", at)
    return number


def _not_for(term: Term, why: str, instead: str) -> QueryError:
    return QueryError(f"{why}, and has no {term.does}; use {instead}", term.does_at)


def _quoted(word: str) -> str:
    plain = word and not any(c in _SPACES + ',"' for c in word)
    return word if plain else '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Reader:
    """Reads terms from left to right."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def skip_spaces(self) -> bool:
        """Whether there is anything more."""
        while self._at < len(self._text) and self._text[self._at] in _SPACES:
            self._at += 1
        return self._at < len(self._text)

    def term(self) -> Term:
        turned = self._text[self._at] == "-"
        self._at += turned
        at = self._at
        name = self._word(_SPACES + "<>=:~?,")[0]
        if not name:
            raise QueryError("the name of a column is missing", at)
        does_at = self._at
        does = next((d for d in (*_COMPARED, ":", "~", "?") if self._text.startswith(d, self._at)), "")
        self._at += len(does)
        values = []
        if does in (*_COMPARED, "~"):
            values.append(self._value(_SPACES if does == "~" else _SPACES + "<>=:~?,"))
        elif does == ":":
            values.append(self._value(_SPACES + ","))
            while self._text.startswith(",", self._at):
                self._at += 1
                values.append(self._value(_SPACES + ","))
        if does in _COMPARED and self._at < len(self._text) and self._text[self._at] in "<>=":
            raise QueryError(f"compare once; a range is written as in {name}:0.1..0.5", self._at)
        if self._at < len(self._text) and self._text[self._at] not in _SPACES:
            raise QueryError(f"a space is missing before {self._text[self._at]!r}", self._at)
        return Term(name, does, values, turned, at, does_at)

    def _value(self, ends: str) -> tuple[str, int, bool]:
        at = self._at
        word, quoted = self._word(ends)
        if not word and not quoted:
            raise QueryError("a value is missing", at)
        return word, at, quoted

    def _word(self, ends: str) -> tuple[str, bool]:
        """What is in quotes, with a backslash before a quote or backslash; else all up to one of some characters."""
        start = self._at
        if not self._text.startswith('"', start):
            while self._at < len(self._text) and self._text[self._at] not in ends:
                self._at += 1
            return self._text[start : self._at], False
        self._at += 1
        word = ""
        while self._at < len(self._text):
            character = self._text[self._at]
            self._at += 1
            if character == '"':
                return word, True
            if character == "\\" and self._text[self._at : self._at + 1] in ('"', "\\"):
                character = self._text[self._at]
                self._at += 1
            word += character
        raise QueryError("the quote that begins here has no end", start)
