"""What is looked at: one run or two, each as it was when it was opened, and opened anew when asked to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from simsam_batch.errors import SettingsError
from simsam_batch.results.opening import begun_stages, existing_plan
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.reading import StageRows
from simsam_batch.stages.kinds import Shown
from simsam_batch.stages.registry import shown, stages_with_features, stages_with_matches, stages_with_pictures
from simsam_batch.storage import Folder, absolute_url
from simsam_batch.viewer.kept import Kept

_MOST_NAMES = 64
"""Of what is made once; there are a dozen."""


class OpenedStage:
    """One stage of a run as it was when it was opened. Safe to use from many threads.

    Attributes:
        out: the run's folder.
        name: of the stage.
        rows: its rows.
        ledger: of what is committed.
        plan: of its records.
        generations: of every committed shard the generation that the rows are of.
        what: masks, labels or trees that the rows show; None for others.
        kind: ``objects``, ``labels``, ``trees``, ``restyled``, ``pairs``, ``features``, or ``table`` for anything else.
        options: of the session.
        run: that it is a stage of.
    """

    def __init__(self, run: OpenedRun, name: str, options: Mapping[str, Any]) -> None:
        self.run, self.out, self.name, self.options = run, run.out, name, options
        self.rows = StageRows(self.out, name)
        self.ledger: Ledger = self.rows.ledger
        # most stages are about the run's images, whose plan is read already
        known = self.ledger.known()
        self.plan: Plan = run.plan if known["plan"] == run.plan.about() else self.ledger.plan(known)
        self.generations = self.ledger.committed()
        self.what: Shown | None = shown(name)
        self.kind: str = self.what.kind if self.what is not None else _kind_of(name)
        self._made: Kept[Any] = Kept(_MOST_NAMES)

    def version(self, row: int) -> str:
        """What changes when a retry replaces a row, and differs between runs; empty of what is not committed."""
        generation = self.generations.get(self.plan.place_of(row)[0])
        return "" if generation is None else f"{self.ledger.known()['token'][:12]}.{generation}"

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` makes, made at the first time that this name is asked for and then kept with the stage.

        Others who ask for another name need not wait for it; what is made may ask for other names.
        """
        return self._made.get(name, make)

    def made(self, name: str) -> Any:
        """What `once` has made under a name; None if nothing yet."""
        return self._made.held(name)


class OpenedRun:
    """A run as it was when it was opened. Safe to use from many threads.

    Attributes:
        out: its folder.
        plan: of its images.
        stages: names of the stages that had begun, each after the one it reads.

    Args:
        url: of OUT, as a path or any fsspec URL.
        options: of the session.

    Raises:
        SettingsError: there is no run.
        RunError: it is damaged.
        StorageError: the storage did not answer.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.out, self._options = Folder(absolute_url(url)), options or {}
        self.plan = existing_plan(self.out)
        self.stages = begun_stages(self.out)
        self._opened: dict[str, OpenedStage] = {}
        self._opening = {name: threading.Lock() for name in self.stages}

    def stage(self, name: str) -> OpenedStage:
        """A stage of the run.

        Raises:
            SettingsError: it has none of this name.
            RunError: the stage is damaged.
            StorageError: the storage did not answer.
        """
        if name not in self.stages:
            has = ", ".join(self.stages) or "none yet"
            raise SettingsError(f"stage: the run has no stage {name!r}; it has {has}")
        # others can be opened meanwhile
        with self._opening[name]:
            if name not in self._opened:
                self._opened[name] = OpenedStage(self, name, self._options)
            return self._opened[name]

    def each(self) -> Iterator[OpenedStage]:
        """All stages, opened side by side; raises as `stage`."""
        with ThreadPoolExecutor(max(1, len(self.stages)), "simsam-opening") as threads:
            yield from threads.map(self.stage, self.stages)

    @cached_property
    def of_images(self) -> list[str]:
        """The stages whose rows are the run's images."""
        return [stage.name for stage in self.each() if stage.plan.digest == self.plan.digest]


@dataclass
class Session:
    """All that the answers are made of.

    Attributes:
        url: of the run, as given.
        other_url: of a second one to compare with; None without.
        options: what the command was asked for besides.
    """

    url: str
    other_url: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._runs: dict[str, OpenedRun] = {}
        self._made: Kept[Any] = Kept(_MOST_NAMES)
        self.run("a")
        if self.other_url is not None:
            self.run("b")

    def run(self, which: str = "a") -> OpenedRun:
        """The run, or with ``b`` the second one.

        Raises:
            SettingsError: there is no second one.
        """
        url = self.url if which == "a" else self.other_url
        if url is None:
            raise SettingsError("run: no second run was given. To mend it: simsam view OUT OTHER")
        with self._lock:
            if which not in self._runs:
                self._runs[which] = OpenedRun(url, self.options)
            return self._runs[which]

    def reopen(self) -> None:
        """See the runs as they are now from here on: what was committed since, and what a retry replaced."""
        fresh = {
            which: OpenedRun(url, self.options)
            for which, url in (("a", self.url), ("b", self.other_url))
            if url is not None
        }
        with self._lock:
            self._runs = fresh

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` makes, made at the first time that this name is asked for and kept to the end."""
        return self._made.get(name, make)


def _kind_of(name: str) -> str:
    if name in stages_with_matches():
        return "pairs"
    if name in stages_with_pictures():
        return "restyled"
    return "features" if name in stages_with_features() else "table"
