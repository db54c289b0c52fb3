"""The filter language against a plain pandas computation, and every fault told with its place."""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simsam_batch.viewer.columns import Columns
from simsam_batch.viewer.query import LONGEST, QueryError, matching, parsed

ROWS = 60
FRAME = pd.DataFrame(
    {
        "id": [f'{("train", "val")[i % 2]}/{"a b" if i % 7 == 0 else "x"}"{i}' for i in range(ROWS)],
        "score": [np.nan if i % 11 == 0 else ((i * 37) % 50) / 50 for i in range(ROWS)],
        "size": [np.nan if i % 13 == 0 else float((i * 17) % 9) for i in range(ROWS)],
        "fine": [None if i % 10 == 0 else i % 3 == 0 for i in range(ROWS)],
        "camera": [(None, "left", "right one", "a,b")[i % 4] for i in range(ROWS)],
    }
)
VERDICTS = {3: "bad", 4: "good", 8: "bad", 9: "unsure", 21: None}


@dataclass
class Flag:
    verdict: str | None


@dataclass
class Held:
    """Rows in memory, as `Columns` has them."""

    frame: pd.DataFrame
    count: int = ROWS
    unit: str = "image_id"
    labels: Any = None
    has_labels: bool = False
    kinds: dict[str, str] = field(
        default_factory=lambda: {"score": "number", "size": "integer", "fine": "boolean", "camera": "words"}
    )

    def __post_init__(self) -> None:
        self.numbers = np.arange(len(self.frame))
        self.ids = pa.chunked_array([self.frame["id"].tolist()])

    def words(self, name: str) -> list[str]:
        return sorted(set(self.frame[name].dropna()))

    def column(self, name: str) -> Any:
        if self.kinds[name] == "words":
            places = {word: place for place, word in enumerate(self.words(name))}
            return np.array([places.get(word, -1) for word in self.frame[name]], np.int16)
        return self.frame[name].astype(float).to_numpy(np.float32)

    def places(self, numbers: Any) -> Any:
        return numbers


HELD = cast("Columns", Held(FRAME))
FLAGS = {row: Flag(verdict) for row, verdict in VERDICTS.items()}


def taken(text: str) -> list[int]:
    """Rows that a filter takes."""
    return cast("list[int]", np.flatnonzero(matching(text, HELD, FLAGS)).tolist())


def in_quotes(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


numbers = st.integers(-20, 120).map(lambda n: n / 100) | st.integers(-2, 10)
operators = st.sampled_from(["<", "<=", ">", ">=", "="])


@st.composite
def terms(draw: st.DrawFn) -> tuple[str, pd.Series]:
    """A term and, by pandas, which rows it holds for."""
    kind = draw(st.sampled_from(["compare", "range", "several", "has", "true", "words", "part", "id", "flag"]))
    name = draw(st.sampled_from(["score", "size"]))
    values = FRAME[name].astype(np.float32)
    if kind == "compare":
        does, number = draw(operators), np.float32(draw(numbers))
        compared = {"<": values.lt, "<=": values.le, ">": values.gt, ">=": values.ge, "=": values.eq}
        return f"{name}{does}{number}", compared[does](number)
    if kind == "range":
        low, high = draw(st.none() | numbers), draw(numbers)
        held = values.between(-np.inf if low is None else np.float32(low), np.float32(high))
        return f"{name}:{'' if low is None else low}..{high}", held
    if kind == "several":
        some = draw(st.lists(numbers, min_size=1, max_size=3))
        return f"{name}:{','.join(map(str, some))}", values.isin([np.float32(one) for one in some])
    if kind == "has":
        name = draw(st.sampled_from(["score", "size", "fine", "camera"]))
        return f"{name}?", FRAME[name].notna()
    if kind == "true":
        return "fine", FRAME["fine"].eq(True)
    if kind == "words":
        some = draw(st.lists(st.sampled_from(["left", "right one", "a,b", "neither"]), min_size=1, max_size=3))
        return f"camera:{','.join(map(in_quotes, some))}", FRAME["camera"].isin(some)
    if kind == "part":
        part = draw(st.sampled_from(["left", "t", "a,b", "t o", "no"]))
        return f"camera~{in_quotes(part)}", FRAME["camera"].str.contains(part, regex=False).eq(True)
    if kind == "id":
        part = draw(st.sampled_from(["train/", "a b", '"1', "7", "\\", "/x"]))
        return f"id~{in_quotes(part)}", FRAME["id"].str.contains(part, regex=False)
    wanted = draw(st.lists(st.sampled_from(["bad", "good", "unsure", "none"]), min_size=1, max_size=2))
    said = FRAME.index.to_series().map(VERDICTS).fillna("none")
    return f"flag:{','.join(wanted)}", said.isin(wanted)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(terms(), st.booleans(), st.sampled_from([" ", "  ", "\t"])), max_size=4))
def test_a_filter_takes_the_rows_that_pandas_takes(chosen: list[tuple[tuple[str, pd.Series], bool, str]]) -> None:
    expected, text = pd.Series(data=True, index=FRAME.index), ""
    for (term, held), turned, space in chosen:
        text += ("-" if turned else "") + term + space
        expected &= ~held if turned else held
    assert taken(text) == expected.index[expected].tolist()


@settings(max_examples=300, deadline=None)
@given(
    st.text(string.printable + "é☃\x00", max_size=60)
    | st.lists(
        st.sampled_from(
            [
                "score",
                "size",
                "flag",
                "id",
                "camera",
                "<",
                "..",
                ":",
                ",",
                '"',
                "-",
                "~",
                "?",
                " ",
                "0.5",
                "1e9",
                "\\",
                "bad",
            ]
        ),
        max_size=9,
    ).map("".join)
)
def test_any_text_is_a_filter_or_a_fault_within_it(text: str) -> None:
    fault = None
    try:
        matching(text, HELD, FLAGS)
    except QueryError as error:
        fault = error
    assert fault is None or (0 <= fault.at <= len(text) and fault.message)


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        ('score>0 id~"train', 11, "no end"),
        ('camera:left,"x', 12, "no end"),
        ("score>0 scoer<1", 8, "did you mean 'score'"),
        ("a<b<c", 3, "compare once"),
        ("score<0.2<0.5", 9, "as in score:0.1..0.5"),
        ("score<1e999", 6, "too large"),
        ("score>nan", 6, "'nan' is no number"),
        ("score>inf", 6, "no number"),
        ("score>1_000", 6, "no number"),
        ("score>٣", 6, "no number"),
        ("score:0.1..x", 11, "'x' is no number"),
        ("score:..", 6, "a range has an end"),
        ("score:0.1,", 10, "a value is missing"),
        ("score<", 6, "a value is missing"),
        ("score", 5, "say what score shall be"),
        ("fine<1", 4, "yes or no"),
        ("fine:maybe", 5, "true or false"),
        ("camera<3", 6, "text"),
        ("score~3", 5, "no text"),
        ("flag:bda", 5, "did you mean 'bad'"),
        ("id", 2, "say which"),
        ("-", 1, "the name of a column is missing"),
        ("  <3", 2, "the name of a column is missing"),
        ("score?x", 6, "a space is missing"),
        ("x" * (LONGEST + 1), LONGEST, "at most 2000"),
    ],
)
def test_a_fault_is_told_with_its_place(text: str, at: int, words: str) -> None:
    with pytest.raises(QueryError) as caught:
        matching(text, HELD, FLAGS)
    assert words in caught.value.message
    assert caught.value.at == at


def test_a_quote_and_a_backslash_are_written_with_a_backslash() -> None:
    (term,) = parsed(r'id~"a \"b\" \\ c\d"')
    assert term.values[0][0] == r'a "b" \ c\d'


def test_a_number_is_compared_as_it_is_held() -> None:
    # a third of 0.1 has no end in base two: what is stored in single precision is equal to what is written
    held = cast("Columns", Held(pd.DataFrame({"id": ["a"], "score": [0.1]}), 1))
    assert matching("score=0.1", held).tolist() == [True]
    assert matching("score<0.1", held).tolist() == [False]


def test_a_number_beyond_single_precision_is_as_good_as_infinite() -> None:
    assert taken("score<1e300") == taken("score?")
    assert taken("score>1e300") == []
