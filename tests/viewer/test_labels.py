"""Which rows have which label, of label maps and of region trees, against the lists in the run's files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from result_rows import rows_of
from viewing import NAMES, Client, loaded, write_photographs

from simsam_batch.cli import run

COMMANDS = {
    "semantic": ["--head", "none", "--region-feature", "patches", "--regions", "3", "--clusters", "4"],
    "hierarchy": ["--clusters", "3"],
}
WITH_LABELS = {"semantic": "semantic", "hierarchy": "labels"}


@pytest.fixture(scope="module", params=COMMANDS)
def labelled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A stage with labels, and the run that it is in."""
    root = tmp_path_factory.mktemp(request.param)
    write_photographs(root, NAMES[4:])
    arguments = [request.param, str(root / "photos"), str(root / "out"), *COMMANDS[request.param]]
    assert run([*arguments, "--backbone", "descriptors", "--resize", "native", "--engine", "inline", "--quiet"]) == 0
    return request.param, root / "out"


def test_label_takes_the_rows_that_list_it_and_facets_count_them(
    labelled: tuple[str, Path], served: Callable[..., Client]
) -> None:
    stage, out = labelled
    client = loaded(served(out), stage)
    lists = [{label for label in row["labels"] if label} for row in rows_of(out, WITH_LABELS[stage])]
    counts = Counter(label for labels in lists for label in labels)
    assert len(counts) > 1
    for label in [*counts, 99]:
        answer = client.get("api/rows", stage=stage, q=f"label:{label}").json()
        assert [row["row"] for row in answer["rows"]] == [row for row, labels in enumerate(lists) if label in labels]
    one, *_ = counts
    facet = client.get("api/facets", stage=stage, q=f"-label:{one}", names="label").json()["facets"]["label"]
    without = Counter(label for labels in lists if one not in labels for label in labels)
    assert {int(word): (count, taken) for word, count, taken in facet["values"]} == {
        label: (count, without[label]) for label, count in counts.items()
    }


def test_a_label_that_is_no_number_is_looked_for_among_the_names(
    labelled: tuple[str, Path], served: Callable[..., Client]
) -> None:
    stage, out = labelled
    answer = served(out).get("api/rows", stage=stage, q="label:7,horse")
    assert (answer.status, answer.json()["at"]) == (400, 8)
    assert "there is no label 'horse'" in answer.json()["error"]
