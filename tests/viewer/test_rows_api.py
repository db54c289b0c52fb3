"""The routes that list rows, asked over HTTP of the real server, against what pandas reads of the run's files."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from viewing import Client, Small, left_unfinished, loaded

from simsam_batch.cli import run
from simsam_batch.results.shuffling import shuffled


@pytest.fixture
def client(small_run: Small, served: Callable[..., Client]) -> Client:
    return loaded(served(small_run.out))


@pytest.fixture
def frame(small_run: Small) -> pd.DataFrame:
    return pq.read_table(small_run.out / "results" / "segment").to_pandas()


def listed(client: Client, **query: Any) -> list[int]:
    """The rows of a page."""
    answer = client.get("api/rows", stage="segment", **query)
    assert answer.status == 200, answer.text
    return [row["row"] for row in answer.json()["rows"]]


def test_the_first_page_is_the_plan_in_its_order(client: Client, small_run: Small, frame: pd.DataFrame) -> None:
    answer = client.get("api/rows", stage="segment", columns="iou,camera,year,indoors,cut.score").json()
    assert (answer["total"], answer["complete"], answer["offset"]) == (12, True, 0)
    assert [row["id"] for row in answer["rows"]] == small_run.names
    assert [row["status"] for row in answer["rows"]] == frame["status"].tolist()
    for row, stored in zip(answer["rows"], frame.to_dict("records"), strict=True):
        values = row["values"]
        assert values["camera"] == (None if pd.isna(stored["camera"]) else stored["camera"])
        assert (values["year"], values["indoors"]) == (stored["year"], stored["indoors"])
        if row["row"] != small_run.failed:
            assert values["iou"] == pytest.approx(stored["iou"], abs=1e-6)
            assert values["cut.score"] == pytest.approx(stored["cut"]["score"], abs=1e-6)
    failed = answer["rows"][small_run.failed]
    assert failed["error"] == {"type": frame["error_type"][small_run.failed], "text": frame["error"][small_run.failed]}
    assert failed["values"]["iou"] is None


def test_a_row_is_told_alike_from_storage_and_from_memory(client: Client) -> None:
    names = ",".join(column["name"] for column in client.get("api/run").json()["stages"][0]["columns"][:40])
    stored = client.get("api/rows", stage="segment", columns=names).json()["rows"]
    held = client.get("api/rows", stage="segment", columns=names, q="status:ok,failed").json()["rows"]
    assert stored == held


@pytest.mark.parametrize("desc", [False, True])
@pytest.mark.parametrize("sort", ["iou", "weight", "year", "camera", "indoors", "id", "image_id"])
def test_rows_come_in_order_those_without_a_value_last_and_equal_ones_as_in_the_plan(
    client: Client, frame: pd.DataFrame, sort: str, desc: bool
) -> None:
    column = "image_id" if sort == "id" else sort
    key = frame[column].astype(np.float32) if column == "iou" else frame[column]
    # pandas sorts falling with equal ones in their order if it is told to be stable
    expected = key.sort_values(ascending=not desc, kind="stable", na_position="last").index.tolist()
    assert listed(client, sort=sort, desc=int(desc)) == expected
    pages = [listed(client, sort=sort, desc=int(desc), offset=offset, limit=5) for offset in (0, 5, 10, 15)]
    assert [row for page in pages for row in page] == expected


def test_the_plan_turned_round_begins_with_its_last_row(client: Client) -> None:
    assert listed(client, desc=1) == list(range(11, -1, -1))


def test_a_random_order_is_always_the_same_and_no_other(client: Client) -> None:
    order = listed(client, sort="random")
    assert order == listed(client, sort="random") == np.argsort(shuffled(np.arange(12))).tolist()
    assert sorted(order) == list(range(12)) != order
    # what a filter takes of it keeps its order
    assert listed(client, sort="random", q="indoors") == [row for row in order if row % 2 == 0]


def test_filters_take_what_pandas_takes(client: Client, frame: pd.DataFrame, small_run: Small) -> None:
    low, high = np.float32(frame["iou"].quantile(0.3)), np.float32(frame["iou"].quantile(0.7))
    iou = frame["iou"].astype(np.float32)
    for q, held in {
        f"iou>{low}": iou > low,
        f"iou:{low}..{high} -indoors": iou.between(low, high) & ~frame["indoors"],
        "camera:left": frame["camera"] == "left",
        "status:failed": frame["status"] == "failed",
        "-status:failed year:2001,2003": (frame["status"] != "failed") & frame["year"].isin([2001, 2003]),
        'id~"<img src=x"': frame["image_id"].str.contains("<img src=x", regex=False),
        'id:"train/with space.png"': frame["image_id"] == "train/with space.png",
        "weight?": frame["weight"].notna(),
        "flag:none": frame["status"].notna(),
    }.items():
        answer = client.get("api/rows", stage="segment", q=q, limit=200).json()
        assert [row["row"] for row in answer["rows"]] == held.index[held].tolist(), q
        assert answer["total"] == held.sum()


@pytest.mark.parametrize(
    ("query", "status", "words", "at"),
    [
        ({"q": "iou>0 confidnce<1"}, 400, "did you mean 'confidence'", 6),
        ({"q": 'id~"x'}, 400, "no end", 3),
        ({"sort": "ioo"}, 400, "no column 'ioo'", None),
        ({"columns": "mask_rle"}, 400, "'mask_rle'", None),
        ({"limit": 201}, 400, "limit", None),
        ({"limit": 0}, 400, "limit", None),
        ({"offset": -1}, 400, "offset", None),
        ({"stage": "semantic"}, 404, "no stage 'semantic'", None),
        ({"run": "b"}, 404, "no second run", None),
        ({"run": "c"}, 400, "run", None),
        ({"q": "x" * 2001}, 400, "2000", None),
    ],
)
def test_what_cannot_be_listed_is_refused_in_words(
    client: Client, query: dict[str, Any], status: int, words: str, at: int | None
) -> None:
    answer = client.get("api/rows", **{"stage": "segment", **query})
    assert answer.status == status
    assert words in answer.json()["error"]
    assert answer.json().get("at") == at


@pytest.mark.parametrize("sort", ["", "iou", "random", "camera"])
def test_neighbours_are_those_of_the_list(client: Client, sort: str) -> None:
    order = listed(client, q="-year:2001", sort=sort, desc=1)
    for place, row in enumerate(order):
        beside = client.get("api/neighbours", stage="segment", q="-year:2001", sort=sort, desc=1, row=row).json()
        assert beside == {
            "place": place,
            "total": len(order),
            "previous": order[place - 1] if place else None,
            "next": order[place + 1] if place + 1 < len(order) else None,
        }
    outside = client.get("api/neighbours", stage="segment", q="-year:2001", row=1).json()
    assert outside == {"place": None, "total": len(order), "previous": None, "next": None}
    assert client.get("api/neighbours", stage="segment", row=12).status == 404


def test_an_image_is_found_by_its_whole_id(client: Client, small_run: Small) -> None:
    for row, name in enumerate(small_run.names):
        assert client.get("api/find", stage="segment", id=name).json() == {"row": row}
    assert client.get("api/find", stage="segment", id="plain.png").status == 404


def test_facets_count_words_and_bins_of_all_rows_and_of_those_a_filter_takes(
    client: Client, frame: pd.DataFrame
) -> None:
    names = "status,camera,year,weight,indoors,flag,error_type"
    answer = client.get("api/facets", stage="segment", names=names, q="indoors").json()
    inside, facets = frame[frame["indoors"]], answer["facets"]
    assert (answer["complete"], answer["total"]) == (True, len(inside))
    for name in ("status", "camera", "error_type"):
        counts, filtered = frame[name].value_counts(), inside[name].value_counts()
        assert {word: (n, m) for word, n, m in facets[name]["values"]} == {
            word: (counts[word], filtered.get(word, 0)) for word in counts.index
        }
        assert facets[name]["missing"] == frame[name].isna().sum()
    assert facets["indoors"]["values"] == [["false", 6, 0], ["true", 6, 6]]
    assert facets["flag"]["values"][-1] == ["none", 12, 6]
    # one bin a year
    assert facets["year"]["edges"] == [1999.5, 2000.5, 2001.5, 2002.5, 2003.5, 2004.5]
    assert facets["year"]["all"] == frame["year"].value_counts().sort_index().tolist()
    weight = facets["weight"]
    for which, of in (("all", frame), ("filtered", inside)):
        assert weight[which] == np.histogram(of["weight"].dropna(), weight["edges"])[0].tolist()
    assert (weight["min"], weight["max"], weight["missing"]) == (0, 11 / 8, 1)


def test_a_filter_is_handed_on_as_images_of_another_run(client: Client, small_run: Small, tmp_path: Path) -> None:
    answer = client.get("api/list.parquet", stage="segment", q="id~val/")
    assert answer.headers["content-disposition"] == 'attachment; filename="list.parquet"'
    table = pq.read_table(io.BytesIO(answer.body)).to_pydict()
    wanted = [name for name in small_run.names if name.startswith("val/")]
    assert table == {"image_id": wanted, "uri": [str(small_run.photos / name) for name in wanted]}
    lines = client.get("api/list.txt", stage="segment", q="id~val/")
    assert lines.text.splitlines() == table["uri"]
    assert lines.headers["content-type"].startswith("text/plain")
    (tmp_path / "list.parquet").write_bytes(answer.body)
    again = ["segment", str(tmp_path / "list.parquet"), str(tmp_path / "out"), "--backbone", "descriptors", "--quiet"]
    assert run([*again, "--resize", "native", "--engine", "inline"]) == 0
    assert pq.read_table(tmp_path / "out" / "results" / "segment")["image_id"].to_pylist() == wanted


def test_of_a_run_in_progress_what_is_committed_is_listed(
    small_run: Small, served: Callable[..., Client], tmp_path: Path
) -> None:
    client = served(left_unfinished(small_run, tmp_path / "out", 1))
    assert listed(client) == [0, 1, 2, 3, 4, 10, 11]
    loaded(client)
    assert listed(client, q="-indoors") == [1, 3, 11]
    assert client.get("api/find", stage="segment", id=small_run.names[10]).json() == {"row": 10}
    missing = client.get("api/find", stage="segment", id=small_run.names[7])
    assert (missing.status, "not computed yet" in missing.json()["error"]) == (404, True)
    assert client.get("api/neighbours", stage="segment", row=4).json()["next"] == 10
    assert client.get("api/list.txt", stage="segment", q="year:2000").text.splitlines() == [
        str(small_run.photos / small_run.names[row]) for row in (0, 10)
    ]
    assert client.get("api/status").json()["stages"]["segment"]["columns_read"] == [7, 7]


def test_the_page_learns_what_columns_there_are(client: Client) -> None:
    (stage,) = client.get("api/run").json()["stages"]
    columns = {column["name"]: column for column in stage["columns"]}
    assert {name for name, column in columns.items() if column["kept"]} == {"camera", "year", "weight", "indoors"}
    kinds = {name: columns[name]["kind"] for name in ("camera", "year", "weight", "indoors", "iou", "cut.score")}
    assert [*kinds.values()] == ["words", "integer", "number", "boolean", "number", "number"]


def test_what_is_flagged_is_told_filtered_and_counted(
    small_run: Small, served: Callable[..., Client], tmp_path: Path
) -> None:
    pytest.importorskip("simsam_batch.viewer.flags")
    shutil.copytree(small_run.out, tmp_path / "out")
    client = loaded(served(tmp_path / "out"))
    assert listed(client, q="flag:bad") == []
    for rows, verdict, reasons in (([1, 5, 9], "bad", ["border"]), ([2], "good", []), ([9], None, [])):
        flag = {"stage": "segment", "rows": rows, "verdict": verdict, "reasons": reasons, "note": "", "run": "a"}
        assert client.post("api/flags", flag).status == 200
    assert listed(client, q="flag:bad") == [1, 5]
    assert listed(client, q="flag:bad,good", sort="id", desc=1) == listed(client, q="flag?", sort="id", desc=1)
    assert listed(client, q="flag:none") == [row for row in range(12) if row not in (1, 2, 5)]
    first = client.get("api/rows", stage="segment", limit=3).json()["rows"]
    assert first[0]["flag"] is None
    assert (first[1]["flag"]["verdict"], first[1]["flag"]["reasons"]) == ("bad", ["border"])
    facet = client.get("api/facets", stage="segment", q="-indoors", names="flag").json()["facets"]["flag"]
    assert facet["values"] == [["bad", 2, 2], ["good", 1, 0], ["unsure", 0, 0], ["none", 9, 4]]
