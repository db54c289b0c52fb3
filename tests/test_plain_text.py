"""What strangers named and wrote reaches people escaped, on one line each; tables and events have it as it is."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_jobs import photograph

from simsam_batch import cli, operations
from simsam_batch.drawing.text import write
from simsam_batch.engines.child import Child, Receive, Send
from simsam_batch.errors import SettingsError
from simsam_batch.plain_text import plain
from simsam_batch.report.exports.dataset_card import _cell
from simsam_batch.storage import Folder

FORGED = "failed: other.png: not an image"
NAMES = [
    f"a\n{FORGED}.png",
    "b\x1b[2J\x1b]0;title\x07.png",
    "c\x9b31m\x85.png",
    "d\u202egnp.exe\u2066\u200f.png",
    "e\r\x08\x7f\u2028.png",
]
"""Line breaks, ESC and what follows it, C1, marks of direction, and deletions."""

ESCAPED = [
    rf"a\n{FORGED}.png",
    r"b\x1b[2J\x1b]0;title\x07.png",
    r"c\x9b31m\x85.png",
    r"d\u202egnp.exe\u2066\u200f.png",
    r"e\r\x08\x7f\u2028.png",
]
PLAIN = ["--backbone", "descriptors", "--resize", "native", "--head", "none", "--engine", "inline"]


def is_clean(text: str) -> bool:
    """Whether a text of several lines has none but its own line breaks, and nothing else that is not seen."""
    return all(letter.isprintable() or letter == "\n" for letter in text)


@given(st.text())
def test_no_text_has_anything_left_that_is_not_seen(text: str) -> None:
    shown = plain(text)
    assert all(letter.isprintable() or unicodedata.category(letter) == "Zs" for letter in shown)
    # a reader of Python's escapes gets the text back, where it has none of its own
    if "\\" not in text:
        assert re.sub(r"\\(x..|u.{4}|U.{8}|[nrt])", lambda m: m[0].encode().decode("unicode_escape"), shown) == text


@pytest.mark.parametrize(
    "name", ["plain.jpg", "Ünïcode 写真.png", "screenshot 10.15\u202fAM.png", "\u3000.png", "a\\nb", ""]
)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert plain(name) == name


@pytest.mark.parametrize(("name", "escaped"), zip(NAMES, ESCAPED, strict=True))
def test_other_names_are_written_as_python_writes_them(name: str, escaped: str) -> None:
    assert plain(name) == escaped


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs of these names, and beside each a file of the same name that is no picture."""
    folder = tmp_path_factory.mktemp("named")
    for sub in ("fine", "broken"):
        (folder / "photos" / sub).mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (folder / "photos/fine" / name).write_bytes(photograph(number, 48))
        (folder / "photos/broken" / name).write_text("no picture")
    return folder


def test_names_reach_terminal_and_page_escaped_and_tables_and_events_exact(
    named: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = named / "out"
    assert cli.run(["segment", str(named / "photos"), str(out), *PLAIN]) == 3
    said = capfd.readouterr().err
    assert is_clean(said)
    failed = [line.removeprefix("failed: broken/") for line in said.splitlines() if line.startswith("failed: ")]
    assert sorted(line[: line.index(": not an image")] for line in failed if FORGED not in line) == ESCAPED[1:]
    assert len(failed) == len(NAMES), "none is forged"

    rows = pq.read_table(out / "results/segment").to_pylist()
    assert sorted(row["image_id"] for row in rows) == sorted(
        f"{sub}/{name}" for sub in ("fine", "broken") for name in NAMES
    )
    folder = Folder(str(out))
    told = [json.loads(line) for info in folder.list("events") for line in folder.read(info.name).decode().splitlines()]
    assert {event["image_id"] for event in told if event["event"] == "failed"} == {f"broken/{name}" for name in NAMES}
    assert is_clean(folder.read(folder.list("events")[0].name).decode())

    page = Path(operations.report(str(out))).read_text(encoding="utf-8")
    assert is_clean(page)
    for escaped in ESCAPED:
        assert f"fine/{escaped}" in page
        assert f"broken/{escaped}" in page


def test_commands_about_a_folder_with_such_a_name_print_it_escaped(
    named: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o\x1b[31m\nsimsam: all is well"
    assert cli.run(["segment", str(named / "photos/fine"), str(out), *PLAIN, "--log-format", "json"]) == 0
    for command in (["status"], ["status", "--json"], ["verify"], ["report"], ["doctor"]):
        assert cli.run([command[0], str(out), *command[1:]]) == 0
    assert cli.run(["export", str(out), "--to", str(out.with_name("to\x1b\n")), "--format", "coco"]) == 0
    assert cli.run(["retry", str(out / "none")]) == cli.EXIT_COULD_NOT_RUN
    assert cli.run(["segment", str(out), str(tmp_path / "new"), *PLAIN]) == cli.EXIT_COULD_NOT_RUN
    assert cli.run(["export", str(out), "--to", str(tmp_path / "to"), "--format", "\x1b[31m\nvoc"]) == 1
    assert cli.run(["no\x1b\nsuch"]) == cli.EXIT_COULD_NOT_RUN
    said = capfd.readouterr()
    assert is_clean(said.out + said.err)
    assert r"o\x1b[31m\nsimsam: all is well" in said.out
    assert r"o\x1b[31m\nsimsam: all is well" in said.err
    assert "\nsimsam: all is well" not in said.out + said.err


def test_a_defect_and_its_traceback_are_escaped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("\x1b[2J of \x9b31m\nsimsam: all is well")

    monkeypatch.setattr(operations, "status", broken)
    assert cli.run(["status", str(tmp_path), "--debug"]) == cli.EXIT_COULD_NOT_RUN
    said = capfd.readouterr().err
    assert is_clean(said)
    assert "Traceback" in said
    assert r"simsam: ValueError: \x1b[2J of \x9b31m\nsimsam: all is well" in said.splitlines()


def test_a_message_of_several_lines_keeps_its_own(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = SettingsError("two things:", "  one\nforged", "To mend it: neither")
    assert str(error) == "two things:\n  one\nforged\nTo mend it: neither"
    assert error.lines == ("two things:", "  one\nforged", "To mend it: neither")
    assert cli.run(["segment", "a", "b", "--threads", "none", "--seed", "few"]) == cli.EXIT_COULD_NOT_RUN
    assert len(capfd.readouterr().err.splitlines()) == 2


def log_what_comes(receive: Receive, send: Send) -> None:
    logging.getLogger("a worker's").warning("reading %s again", receive())
    send("logged")


@pytest.mark.slow
def test_a_worker_process_logs_a_name_on_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    child = Child(log_what_comes, {"PYTHONPATH": ":".join(sys.path)})
    child.send(NAMES[0])
    assert child.receive() == "logged"
    child.end()
    assert capfd.readouterr().err == f"reading {ESCAPED[0]} again\n"


def test_the_command_logs_a_name_on_one_line_and_tracebacks_on_theirs() -> None:
    script = (
        "import logging, sys\n"
        "from simsam_batch import cli\n"
        "cli.run = lambda arguments: 0\n"
        "try: cli.main([])\n"
        "except SystemExit: pass\n"
        "try: raise ValueError('\\x1b[2J')\n"
        "except ValueError: logging.getLogger('x').warning('a\\nb', exc_info=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, *rest = done.stderr.splitlines()
    assert first == r"a\nb"
    assert rest[0].startswith("Traceback")
    assert rest[-1] == r"ValueError: \x1b[2J"


def test_pictures_and_cards_have_names_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image, ImageDraw

    drawn: list[str] = []
    draw = ImageDraw.Draw(Image.new("RGB", (900, 40)))
    monkeypatch.setattr(draw, "text", lambda where, text, *_: drawn.append(text))
    for name in NAMES:
        write(draw, (0, 0), name, 900)
    assert drawn == ESCAPED
    assert _cell("a\x1b|b") == r"a\\x1b\|b"
