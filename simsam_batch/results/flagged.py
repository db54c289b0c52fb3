"""The rows of a stage that people have flagged, or those that they have not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simsam_batch.errors import SettingsError
from simsam_batch.results.flags import VERDICTS, Flags, check_verdicts, digests_of, is_stale, read_flags
from simsam_batch.runs.reading import BATCH_ROWS, StageRows


class ChosenRows(StageRows):
    """Some rows of a stage, under the numbers that they have among all.

    Args:
        rows: all.
        chosen: numbers of those that are here.
    """

    def __init__(self, rows: StageRows, chosen: NDArray[np.int64]) -> None:
        vars(self).update(vars(rows))
        self.chosen = chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def batches(self, columns: Iterable[str] | None = None, rows: int = BATCH_ROWS) -> Iterator[tuple[int, pa.Table]]:
        """Those of `StageRows.batches` that are chosen; a table holds rows whose numbers go on."""
        for first, table in super().batches(columns, rows):
            start, end = np.searchsorted(self.chosen, [first, first + table.num_rows])
            here = self.chosen[start:end]
            # numbers go on within a table: it is cut where they do not
            for block in np.split(here, np.flatnonzero(np.diff(here) > 1) + 1):
                if len(block):
                    yield int(block[0]), table.slice(int(block[0]) - first, len(block))

    def beside(self, stage: str, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Those of `StageRows.beside` that are chosen."""
        chosen = iter(self.chosen.tolist())
        wanted = next(chosen, None)
        for number, row in super().beside(stage, columns):
            if number == wanted:
                yield number, row
                wanted = next(chosen, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByFlags:
    """Which rows are wanted.

    Attributes:
        flagged: only rows of which any reviewer says one of these; None: whatever is said.
        not_flagged: only rows of which no reviewer says one of these; None likewise.
        file: a local file with further flags, as ``simsam view --flags`` writes it.
    """

    flagged: Sequence[str] | None = None
    not_flagged: Sequence[str] | None = None
    file: str | None = None

    def check(self) -> None:
        """Refuse what is no verdict.

        Raises:
            SettingsError: it is none, or a file is given and nothing is asked of it.
        """
        check_verdicts("flagged", self.flagged or ())
        check_verdicts("not_flagged", self.not_flagged or ())
        if self.file is not None and not self:
            raise SettingsError(
                f"flags: nothing is chosen by them. To mend it: give --flagged or --not-flagged {' | '.join(VERDICTS)}"
            )

    def __bool__(self) -> bool:
        return bool(self.flagged or self.not_flagged)


def rows_by_flags(rows: StageRows, wanted: ByFlags) -> tuple[ChosenRows, dict[str, Any]]:
    """The rows that are wanted, and what is to be recorded of the choice.

    A flag on what has been replaced since says nothing of what is there now, and does not count.

    Args:
        rows: all of a stage.
        wanted: which.

    Returns:
        The rows; and ``flagged`` and ``not_flagged`` as given, ``stale_flags``, how many did not count, and ``chosen``,
        a digest of the numbers of the rows.

    Raises:
        SettingsError: no row is left.
        RunError: a shard is damaged.
        StorageError: the storage did not answer, or the file cannot be read.
    """
    wanted.check()
    flags = read_flags(rows.out, file=wanted.file)
    standing = list(flags.each(rows.stage))
    now = digests_of(rows.out, standing)
    stale = {flag for flag in standing if is_stale(flag, now)}
    there = np.concatenate([np.arange(first, first + table.num_rows) for first, table in rows.batches([rows.unit])])
    keep = np.ones(len(there), np.bool_)
    for verdicts, kept in ((wanted.flagged, True), (wanted.not_flagged, False)):
        if verdicts:
            said = [flag.row for flag in standing if flag.verdict in verdicts and flag not in stale]
            keep &= np.isin(there, np.array(said, np.int64)) == kept
    chosen = there[keep].astype(np.int64)
    if not len(chosen):
        raise SettingsError(_none_left(rows, wanted, flags, len(stale)))
    return ChosenRows(rows, chosen), {
        "flagged": _named(wanted.flagged),
        "not_flagged": _named(wanted.not_flagged),
        "stale_flags": len(stale),
        "chosen": sha256(chosen.astype("<i8").tobytes()).hexdigest(),
    }


def _named(verdicts: Sequence[str] | None) -> list[str] | None:
    return sorted(set(verdicts)) if verdicts else None


def _none_left(rows: StageRows, wanted: ByFlags, flags: Flags, stale: int) -> str:
    said = f"flagged {' or '.join(wanted.flagged)}" if wanted.flagged else ""
    not_said = f"not flagged {' or '.join(wanted.not_flagged)}" if wanted.not_flagged else ""
    having = [name for name in flags.stages() if any(flags.each(name))]
    old = f"; {stale} flags are about rows that have been replaced since" if stale else ""
    return (
        f"flags: no row of {rows.stage} of {rows.out.url} is {' and '.join(filter(None, [said, not_said]))}{old}; "
        f"stages with flags: {', '.join(having) or 'none'}. To mend it: flag some in simsam view, or give another stage"
    )
