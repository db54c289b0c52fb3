"""A newcomer's walk: from an empty folder by commands that earlier output named, and nothing known besides."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.request import HTTPCookieProcessor, build_opener

import pytest
from PIL import Image

SHOWN = 12
"""Last lines of each output that the record keeps."""


class Walk:
    """Types commands in a folder, each of which some earlier output has to have named, and records them.

    Attributes:
        folder: where it begins.
        record: the file of commands and the last lines of what they said.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.record = folder, folder.parent / "walk.txt"
        self.named: set[tuple[str, ...]] = {()}
        self.environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}

    def type(self, line: str, *, instead: dict[str, str] | None = None, added: str = "") -> str:
        """Type a line as it was named.

        Args:
            line: the command.
            instead: what a person puts in place of some of its words.
            added: an option, of which an output has said that it is to be added.

        Returns:
            What it said.
        """
        words = shlex.split(line)
        assert tuple(words[1:]) in self.named, f"no output named {line!r}"
        words = [(instead or {}).get(word, word) for word in words[1:]] + shlex.split(added)
        done = subprocess.run(
            [sys.executable, "-m", "simsam_batch", *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        self.hear(shlex.join(["simsam", *words]), done.stdout)
        assert done.returncode == 0
        if instead or added:
            self.named.add(tuple(words))
        return done.stdout

    def hear(self, line: str, said: str) -> None:
        """Take the commands out of an output, and keep its last lines."""
        for each in re.findall(r"^  (simsam .*)$", said, re.MULTILINE):
            self.named.add(tuple(shlex.split(each, comments=True)[1:]))
        with self.record.open("a", encoding="utf-8") as record:
            record.write("\n".join([f"$ {line}", *said.splitlines()[-SHOWN:], "", ""]))

    def help_of(self, command: str, begin: str) -> str:
        """Type ``--help``, which the first page names for every command."""
        assert "simsam COMMAND --help" in begin
        self.named.add((command, "--help"))
        return self.type(f"simsam {command} --help")

    def look(self, line: str) -> str:
        """Type the command of a viewer, open the link that it says first, and end it as it says."""
        assert tuple(shlex.split(line)[1:]) in self.named, f"no output named {line!r}"
        viewer = subprocess.Popen(
            [sys.executable, "-m", "simsam_batch", *shlex.split(line)[1:]],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert viewer.stdout is not None
            said = "".join(viewer.stdout.readline() for _ in range(3))
            self.hear(line, said)
            link = re.search(r"Open (http://\S+)", said)
            assert link is not None
            assert "Ctrl-C ends it" in said
            with build_opener(HTTPCookieProcessor(CookieJar())).open(link[1], timeout=60) as answer:
                page = str(answer.read().decode())
            viewer.send_signal(signal.SIGINT)
            assert viewer.wait(60) == 0
        finally:
            viewer.kill()
            viewer.communicate()
        return page


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    (tmp_path / "empty").mkdir()
    walk = Walk(tmp_path / "empty")
    yield walk
    # pytest shows it of a test that failed
    print(walk.record.read_text(encoding="utf-8"))


def photographs(of: Path, to: Path, numbers: range) -> None:
    """Quarters of the demo's six photographs, of 200 pixels at most; there are 24."""
    to.mkdir(exist_ok=True)
    files = sorted(of.iterdir())
    for number in numbers:
        with Image.open(files[number // 4]) as image:
            width, height = image.width // 2, image.height // 2
            left, top = width * (number % 2), height * (number // 2 % 2)
            quarter = image.convert("RGB").crop((left, top, left + width, top + height))
        quarter.thumbnail((200, 200))
        quarter.save(to / f"holiday {number:02}.jpg")


@pytest.mark.slow
def test_a_newcomer_finds_the_way_by_what_was_said_before(walk: Walk) -> None:
    begin = walk.type("simsam")
    assert "simsam demo" in begin

    said = walk.type("simsam demo")
    report = re.search(r"^  (/\S+/index\.html) ", said, re.MULTILINE)
    assert report is not None
    assert "astronaut.png" in Path(report[1]).read_text(encoding="utf-8")

    photographs(walk.folder / "demo-output" / "photos", walk.folder / "photos", range(12))
    own = {"IMAGES": "photos", "OUT": "out"}
    said = walk.type("simsam segment IMAGES OUT --backbone descriptors", instead=own)
    assert "made: 12 object masks" in said

    again = "simsam segment photos out --backbone descriptors"
    assert "<title>" in walk.look("simsam view out")
    said = walk.type("simsam report out")
    assert "holiday 11.jpg" in Path(said.splitlines()[-1]).read_text(encoding="utf-8")
    said = walk.type("simsam export out --format cutout --to out-cutout")
    assert "12 images" in said
    with Image.open(walk.folder / "out-cutout" / "cutouts" / "holiday 11.png") as cutout:
        assert cutout.mode == "RGBA"

    photographs(walk.folder / "demo-output" / "photos", walk.folder / "photos", range(12, 22))
    said = walk.type(again)
    assert re.search(r"^10 images new, .* add --extend$", said, re.MULTILINE)
    said = walk.type(again, added="--extend")
    assert "made: 22 object masks" in said
    in_a_notebook = re.search(r"^in a notebook: (.*)$", said, re.MULTILINE)
    assert in_a_notebook is not None

    # what was exported before stays as it is, and the command that is named now works
    (export,) = re.findall(r"^  (simsam export .*?)  #", said, re.MULTILINE)
    said = walk.type(export)
    assert "22 images" in said
    assert len(list((walk.folder / "out-cutout" / "cutouts").iterdir())) == 12
    said = walk.type("simsam report out")
    assert "22" in Path(said.splitlines()[-1]).read_text(encoding="utf-8")

    walk.help_of("export", begin)
    walk.type("simsam export out --format contact-sheet --to sheet")
    sheet = (walk.folder / "sheet" / "index.html").read_text(encoding="utf-8")
    assert all(f"holiday {number:02}.jpg" in sheet for number in range(22))

    cell, _, then = in_a_notebook[1].partition("  # ")
    assert "run.scores" in then
    assert "run.show(id)" in then
    assert cell.endswith("; run")
    lines = [
        cell.removesuffix("; run"),
        "print(len(run), run._repr_html_().count('<img'))  # what a cell that ends with it displays",
        "print(run.scores)",
        "print(run.show('holiday 03.jpg').size)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=walk.folder,
        env=walk.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    walk.hear("python: " + "; ".join(lines), done.stdout + done.stderr)
    assert done.returncode == 0
    card, scores, size = done.stdout.splitlines()
    assert re.fullmatch(r"22 [1-9]\d*", card)
    assert scores == "{}"
    with Image.open(walk.folder / "photos" / "holiday 03.jpg") as image:
        assert size == str(image.size)
