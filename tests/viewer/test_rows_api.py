"""The routes that list rows, asked over HTTP of the real server."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from result_rows import rows_of
from viewing import Client, Small


@pytest.fixture
def client(small_run: Small, served: Callable[..., Client]) -> Client:
    return served(small_run.out)


def test_the_first_page_is_the_plan_in_its_order(client: Client, small_run: Small) -> None:
    answer = client.get("api/rows?stage=segment&columns=iou,camera,year,indoors,cut.score").json()
    assert (answer["total"], answer["complete"], answer["offset"]) == (12, True, 0)
    assert [row["id"] for row in answer["rows"]] == small_run.names
    print(answer["rows"][:5])
    for row, stored in zip(answer["rows"], rows_of(small_run.out, "segment"), strict=True):
        assert row["status"] == stored["status"]
        assert row["values"]["camera"] == stored["camera"]


def test_filter(client: Client, small_run: Small) -> None:
    for q in (
        "iou>0.65",
        "-indoors",
        "camera:left,right iou?",
        "status:failed",
        "id~train/",
        "flag:bad",
        "weight:0.5..1",
        'id:"',
    ):
        for sort in ("", "iou", "id", "camera", "random", "weight"):
            a = client.get("api/rows", stage="segment", q=q, sort=sort, desc=1)
            print(
                q,
                sort,
                a.status,
                a.json().get("total"),
                [r["row"] for r in a.json().get("rows", [])],
                a.json().get("error"),
            )
    print(client.get("api/neighbours", stage="segment", q="iou?", sort="iou", row=3).json())
    print(client.get("api/find", stage="segment", id="train/plain.png").json())
    print(client.get("api/find", stage="segment", id="train/plain.pn").json())
    print(client.get("api/status").json())
    print(client.get("api/run").json()["stages"][0]["columns"][:30])
