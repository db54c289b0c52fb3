"""Pictures that browsers may keep: their address says what they are of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from viewing import Client, Small

from simsam_batch.errors import SettingsError
from simsam_batch.viewer.columns import bytes_in


def test_pictures_are_kept_by_the_browser_under_the_version_of_their_row(
    served: Callable[..., Client], small_run: Small
) -> None:
    client = served(small_run.out)
    rows = client.get("api/rows", stage="segment", limit=5).json()["rows"]
    good = next(row for row in rows if row["status"] == "ok")
    kept = client.get(f"images/{good['row']}.jpg", stage="segment", side=128, v=good["v"])
    assert good["v"]
    assert kept.headers["cache-control"] == "private, max-age=31536000, immutable"


@pytest.mark.parametrize(("size", "expected"), [("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), ("2GiB", 2**31)])
def test_a_size_is_read_in_its_unit(size: str, expected: int) -> None:
    assert bytes_in(size) == expected


@pytest.mark.parametrize("size", ["", "500", "0MB", "-1GB", "1TB", "1e3MB"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(SettingsError, match="To mend it"):
        bytes_in(size)
