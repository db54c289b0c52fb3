"""Flags of a session: what everybody has said of the rows, and what is said now, which is written every few seconds."""

from __future__ import annotations

import getpass
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from simsam_batch.errors import SettingsError, SimsamError, StorageError
from simsam_batch.results import flags as stored
from simsam_batch.results.flags import REASONS, VERDICTS, Flag
from simsam_batch.storage import Folder, absolute_url, redact
from simsam_batch.storage.urls import WEB, protocol_of
from simsam_batch.viewer import flag_tables
from simsam_batch.viewer.answers import (
    RefusedError,
    as_json,
    body_of,
    one_of,
    one_of_these,
    text,
    text_of,
    whole,
    whole_of,
)
from simsam_batch.viewer.flag_writing import FlagObjects, LocalFile
from simsam_batch.viewer.session import OpenedStage, Session

SECONDS_BETWEEN = 5.0
"""Between two objects of one session."""
MOST_ROWS = 10_000
"""Flagged by one request."""

_LOOK_AGAIN_S = 10.0
_PATIENCE_S = 10.0
_KEPT = "digests"

_log = logging.getLogger(__name__)


class Flags:
    """The flags of one run, as a session sees and adds to them. Safe to use from many threads.

    Args:
        url: of the run's folder.
        reviewer: who looks.
        file: local file for what is flagged; None: the run's folder, or where that cannot be written, a file in the
            working directory.

    Attributes:
        reviewer: as given.
        version: another number whenever a flag was added.
        why: for people, why flags go to a file or nowhere; empty if they go to the run's folder.
    """

    def __init__(self, url: str, reviewer: str, file: str | None = None) -> None:
        self._out = Folder(absolute_url(url))
        self.reviewer = reviewer
        self.version = 0
        self.why = self._trouble = ""
        self._lock, self._looking = threading.Lock(), threading.Lock()
        self._all = stored.Flags()
        self._read: set[str] = set()
        self._looked = self._time = 0.0
        self._shown: dict[str, tuple[int, dict[int, Flag]]] = {}
        self._over = threading.Event()
        self._writer: threading.Thread | None = None
        self._sink: FlagObjects | LocalFile | None = self._place(url, file)

    def _place(self, url: str, file: str | None) -> FlagObjects | LocalFile | None:
        if file is not None:
            given = LocalFile(Path(absolute_url(file)), self._out.url)
            given.check()
            return given
        try:
            if protocol_of(absolute_url(url)) in WEB:
                raise StorageError("a web server takes nothing")
            Folder(f"{absolute_url(url)}/{stored.FOLDER}").check_place()
        except StorageError as error:
            self.why = f"OUT cannot be written: {redact(str(error))}"
        else:
            return FlagObjects(self._out)
        instead = LocalFile(Path.cwd() / f"flags-of-{_plain(self._out.url)}.jsonl", self._out.url)
        try:
            instead.check()
        except StorageError:
            self.why += ". To mend it: give a file by --flags"
            return None
        return instead

    @property
    def where(self) -> str | None:
        """Where flags go; None: nowhere."""
        return None if self._sink is None else self._sink.where

    def about(self) -> dict[str, Any]:
        """What the page is told of them."""
        local = isinstance(self._sink, LocalFile)
        return {
            "writable": self._sink is not None,
            "where": None if self._sink is None else self._sink.where if local else f"OUT/{stored.FOLDER}",
            "why": self._trouble or self.why,
            "reviewer": self.reviewer,
            "reasons": list(REASONS),
            "damaged": self._all.damaged,
        }

    def standing(self, stage: OpenedStage | str) -> dict[int, Flag]:
        """Of every flagged row of a stage the flag to show: this reviewer's, else the latest of anybody.

        Args:
            stage: which.

        Raises:
            StorageError: the storage did not answer.
        """
        name = stage if isinstance(stage, str) else stage.name
        self.look()
        with self._lock:
            if name not in self._shown or self._shown[name][0] != self.version:
                self._shown[name] = self.version, self._all.standing(name, self.reviewer)
            return self._shown[name][1]

    def each(self, stage: str | None = None) -> list[Flag]:
        """Every flag that counts, of all reviewers; raises like `standing`."""
        self.look()
        with self._lock:
            return list(self._all.each(stage))

    def look(self, *, again: bool = False) -> None:
        """Read what others have written: at first, then at most every ten seconds, or at once if asked to.

        Args:
            again: at once.

        Raises:
            StorageError: the storage did not answer at the first time.
        """
        if not self._looking.acquire(blocking=not self._looked or again):
            return
        try:
            self._look(again=again)
        finally:
            self._looking.release()

    def _look(self, *, again: bool) -> None:
        first = not self._looked
        if not (first or again or time.monotonic() - self._looked > _LOOK_AGAIN_S):
            return
        try:
            bodies = list(stored.new_files(self._out, self._read))
            own = self._sink.read() if isinstance(self._sink, LocalFile) and first else b""
        except StorageError:
            if first:
                raise
            self._looked = time.monotonic()
            _log.warning("the flags of others cannot be read just now")
            return
        self._looked = time.monotonic()
        with self._lock:
            for name, body in bodies:
                self._read.add(name)
                self._all.add_lines(body)
            self._all.add_lines(own, self._out.url)
            self.version += bool(bodies or own)

    def add(
        self, stage: OpenedStage, rows: Sequence[int], verdict: str | None, reasons: Iterable[str] = (), note: str = ""
    ) -> int:
        """Say something of rows; it counts at once, and is written soon.

        Args:
            stage: whose rows.
            rows: their numbers; those that are not committed are left out.
            verdict: one of `simsam_batch.results.flags.VERDICTS`; None takes back what this reviewer said.
            reasons: of `simsam_batch.results.flags.REASONS`.
            note: in own words.

        Returns:
            How many rows.

        Raises:
            RefusedError: flags cannot be written anywhere.
            RunError: the rows' shard is damaged.
            StorageError: the storage did not answer, or the local file cannot be written.
        """
        if self._sink is None:
            raise RefusedError(409, f"flags cannot be kept: {self.why}")
        self.look()
        about = digests(stage, rows)
        known = [row for row in dict.fromkeys(rows) if row in about]
        with self._lock:
            # the clock may stand still or go back; the last word stays the last
            self._time = max(round(time.time(), 6), self._time + 1e-6)
            flags = [
                Flag(
                    time=self._time,
                    reviewer=self.reviewer,
                    stage=stage.name,
                    row=row,
                    image_id=about[row][0],
                    content_digest=about[row][1],
                    verdict=verdict,
                    reasons=tuple(reasons),
                    note=note,
                )
                for row in known
            ]
            more = {"run": self._out.url} if isinstance(self._sink, LocalFile) else {}
            self._sink.add("".join(flag.line(**more) for flag in flags))
            for flag in flags:
                self._all.add(flag)
            self.version += 1
            if isinstance(self._sink, FlagObjects) and self._writer is None:
                self._writer = threading.Thread(target=self._write_now_and_then, name="flags", daemon=True)
                self._writer.start()
        return len(flags)

    def told(self, stage: OpenedStage, rows: Iterable[int]) -> dict[int, dict[str, Any]]:
        """The flags to show of some rows, as answers have them, with whether what they judged has been replaced."""
        flags = {row: flag for row, flag in self.standing(stage).items() if row in set(rows)}
        now = {(stage.name, row): digest for row, (_, digest) in digests(stage, list(flags)).items()}
        return {
            row: {
                "verdict": flag.verdict,
                "reasons": list(flag.reasons),
                "note": flag.note,
                "reviewer": flag.reviewer,
                "stale": stored.is_stale(flag, now),
            }
            for row, flag in flags.items()
        }

    def close(self) -> str | None:
        """Write what is left; where the storage refuses it, into a file in the working directory.

        Returns:
            What people must know; None if all is where it belongs.
        """
        self._over.set()
        if not isinstance(self._sink, FlagObjects):
            return None
        if self._writer is not None:
            self._writer.join(_PATIENCE_S)
        left = self._sink.held()
        if not left:
            return None
        instead = LocalFile(Path.cwd() / f"flags-of-{_plain(self._out.url)}.jsonl", self._out.url)
        try:
            instead.add(left.decode())
        except StorageError as error:
            return f"{left.count(10)} flags could not be written: {self._trouble}; {error}"
        return f"{left.count(10)} flags could not be written to OUT and are in {instead.path} ({self._trouble})"

    def _write_now_and_then(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN):
            self._put()
        self._put()

    def _put(self) -> None:
        assert isinstance(self._sink, FlagObjects)  # noqa: S101  the thread is of these alone
        try:
            self._sink.put()
        except StorageError as error:
            self._trouble = f"flags could not be written yet, and are tried again: {redact(str(error))}"
            _log.warning("%s", self._trouble)
        else:
            self._trouble = ""


def digests(stage: OpenedStage, rows: Iterable[int]) -> dict[int, tuple[str, str]]:
    """Of each committed row its id and the digest of what is to be judged; kept with the stage."""
    kept: dict[int, tuple[str, str]] = stage.once(_KEPT, dict)
    rows = list(rows)
    missing = [row for row in rows if row not in kept]
    if missing:
        kept.update(stored.judged(stage.out, stage.name, missing, stage.plan, stage.generations))
    return {row: kept[row] for row in rows if row in kept}


def flags_of(session: Session, which: str = "a") -> Flags:
    """The flags of the run that a session looks at, or with ``b`` of the second one.

    Raises:
        SettingsError: the reviewer's name is empty or too long.
        StorageError: the file of ``--flags`` cannot be written.
    """
    session.run(which)
    url = session.url if which == "a" else session.other_url or ""
    options = session.options
    found: Flags = session.once(
        f"flags {which}", lambda: Flags(url, reviewer_named(options.get("reviewer")), options.get("flags"))
    )
    return found


def close_flags(session: Session) -> list[str]:
    """Write what is left at the end of a session; what people must know of it."""
    which = ["a"] if session.other_url is None else ["a", "b"]
    return [told for each in which if (told := flags_of(session, each).close()) is not None]


def reviewer_named(name: str | None) -> str:
    """The name that flags are signed with: as given, or the login name.

    Raises:
        SettingsError: it is empty or too long.
    """
    if name is None:
        try:
            name = getpass.getuser()
        except (OSError, KeyError):
            name = "somebody"
    name = _clean(name).strip()
    if not 0 < len(name) <= stored.LONGEST_NAME:
        raise SettingsError(f"reviewer: give a name of 1 to {stored.LONGEST_NAME} characters")
    return name


def routes(session: Session) -> list[tuple[str, str, Any]]:
    """``api/flags``, to be read and added to, and all of them as a table in three formats."""

    def add(request: Request) -> Response:
        given = body_of(request)
        which = one_of_these(given.get("run", "a"), "run", ("a", "b"))
        verdict = given.get("verdict")
        if verdict is not None:
            one_of_these(verdict, "verdict", VERDICTS)
        stage = session.run(which).stage(text_of(given.get("stage"), "stage"))
        rows, reasons = given.get("rows"), given.get("reasons", [])
        if not isinstance(rows, list) or not 0 < len(rows) <= MOST_ROWS:
            raise RefusedError(400, f"rows: give a list of 1 to {MOST_ROWS:,} row numbers")
        if not isinstance(reasons, list) or len(reasons) > len(REASONS):
            raise RefusedError(400, f"reasons: give a list of {', '.join(REASONS)}")
        numbers = [whole_of(row, "rows", high=max(0, stage.plan.records - 1)) for row in rows]
        named = [one_of_these(reason, "reasons", REASONS) for reason in reasons]
        note = _clean(text_of(given.get("note", ""), "note", stored.LONGEST_NOTE))
        count = flags_of(session, which).add(stage, numbers, verdict, dict.fromkeys(named), note)
        return as_json({"flagged": count})

    def listed(request: Request) -> Response:
        which = one_of(request, "run", ("a", "b"), "a")
        offset, limit = whole(request, "offset", 0), whole(request, "limit", 1000, 1, MOST_ROWS)
        found, total = _records(session, which, text(request, "stage") or None, offset, limit)
        told = [{"id" if name == "image_id" else name: value for name, value in each.items()} for each in found]
        return as_json({"flags": told, "total": total})

    def table(kind: str) -> Any:
        def answer(request: Request) -> Response:
            which = one_of(request, "run", ("a", "b"), "a")
            found, _ = _records(session, which, text(request, "stage") or None)
            return flag_tables.answer(found, kind)

        return answer

    tables = [("GET", f"api/flags.{kind}", table(kind)) for kind in flag_tables.KINDS]
    return [("POST", "api/flags", add), ("GET", "api/flags", listed), *tables]


def _records(
    session: Session, which: str, stage: str | None, offset: int = 0, limit: int | None = None
) -> tuple[list[dict[str, Any]], int]:
    run = session.run(which)
    if stage is not None:
        run.stage(stage)
    found = flags_of(session, which).each(stage)
    some = found[offset:] if limit is None else found[offset : offset + limit]
    now: dict[tuple[str, int], str] = {}
    for name in {flag.stage for flag in some} & set(run.stages):
        rows = [flag.row for flag in some if flag.stage == name]
        try:
            about = digests(run.stage(name), rows)
        except SimsamError as error:
            _log.warning("whether flags of %s are stale cannot be told: %s", name, error)
            continue
        now |= {(name, row): digest for row, (_, digest) in about.items()}
    return stored.as_records(some, now), len(found)


def _plain(url: str) -> str:
    name = url.rstrip("/").rpartition("/")[2]
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name)[:40] or "run"


def _clean(given: str) -> str:
    """A text that can be written: JSON may hold halves of letters, which UTF-8 has not."""
    return given.encode("utf-8", "replace").decode()
