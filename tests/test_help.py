"""What people are shown who ask what there is: commands in groups, examples that work, and options on one screen."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from simsam_batch import cli
from simsam_batch.cli import run
from simsam_batch.help_pages import HelpfulCommand
from simsam_batch.stages.registry import COMMANDS

NAMES = list(cli.simsam.list_commands(click.Context(cli.simsam)))
COMPUTING = {each.name: each for each in COMMANDS}
COLUMNS, LINES = 100, 45


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


def command(name: str) -> HelpfulCommand:
    found = cli.simsam.get_command(click.Context(cli.simsam), name)
    assert isinstance(found, HelpfulCommand)
    return found


def told(name: str, flag: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run([*name.split(), flag]) == 0
    return capsys.readouterr().out


def test_simsam_alone_says_what_there_is_and_how_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    alone = capsys.readouterr().out
    assert run(["--help"]) == 0
    assert capsys.readouterr().out == alone
    titles = re.findall(r"^(\S.*):$", alone, re.MULTILINE)
    assert titles == ["To begin with", "Compute", "Look at results", "Keep in order", "Options"]
    listed = alone[alone.index("Compute:") :]
    for name in NAMES:
        assert len(re.findall(rf"^  {name}  ", listed, re.MULTILINE)) == 1
    assert len(re.findall(r"^  simsam .*  # ", alone, re.MULTILINE)) == 3
    assert len(alone.splitlines()) <= LINES


@pytest.mark.parametrize("name", NAMES)
def test_help_fits_on_a_screen_and_begins_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(name, "--help", capsys)
    # a terminal breaks longer lines
    assert sum(max(1, -(-len(line) // COLUMNS)) for line in text.splitlines()) <= LINES
    usage, about, examples = text.split("\n\n")[:3]
    assert usage.startswith(f"Usage: simsam {name}")
    assert len(about.splitlines()) <= 3
    assert examples.startswith("Examples:\n")
    made = command(name)
    assert len(made.examples) == 4 if name in COMPUTING else 2 <= len(made.examples) <= 4
    for line, words in made.examples:
        assert f"  {line}" in examples
        assert f"# {words}" in examples
    if made.most_used:
        assert len(made.most_used) <= 10
        assert "Most used:" in text
    assert bool(made.most_used) >= (name in COMPUTING)


@pytest.mark.parametrize("name", NAMES)
def test_help_all_has_every_option_and_help_says_how_many(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    short, text, made = told(name, "--help", capsys), told(name, "--help-all", capsys), command(name)
    shown = [
        each for each in made.get_params(click.Context(made)) if isinstance(each, click.Option) and not each.hidden
    ]
    for option in shown:
        assert re.search(rf"(^|\s){option.opts[-1]}\b", text), option.opts
    said = re.search(r"`--help-all` shows all (\d+) options\n$", short)
    assert (int(said[1]) if said else None) == (len(shown) if made.most_used else None)
    if name in COMPUTING:
        model = COMPUTING[name].settings()
        given = set(model.model_fields) - {*model.arguments(), *model.not_given()}
        assert given <= {each.name for each in shown}
        for description in (model.model_fields[each].description for each in given):
            assert "".join(str(description).split())[:30] in "".join(text.split())


@pytest.mark.parametrize("line", [line for name in NAMES for line, _ in command(name).examples])
def test_examples_are_taken_as_they_stand(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = shlex.split(line)
    assert program == "simsam"
    computing = next(
        (name for name in sorted(COMPUTING, key=len)[::-1] if f"{line} ".startswith(f"simsam {name} ")), ""
    )
    if not computing:
        made = command(arguments[0])
        made.make_context(arguments[0], arguments[1:])
        return
    assert run([*arguments, "--print-config", "--changed"]) == 0, capsys.readouterr().err
    changed = yaml.safe_load(capsys.readouterr().out) or {}
    flags = {word[2:].replace("-", "_") for word in arguments if word.startswith("--")}
    assert flags - {"preset"} <= set(changed), "a flag that changes nothing shows nothing"
    context = command(computing).make_context(computing, arguments[len(computing.split()) :])
    places = [each.name for each in command(computing).params if isinstance(each, click.Argument)]
    assert all(context.params[str(place)] for place in places), "it could not run"


def test_settings_that_differ_are_all_that_a_file_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--preset", "tokencut", "--seed", "5", "--keep-columns", "label", "--decode", "exact", "--facet", "key"]
    assert run(["segment", *given, "--print-config"]) == 0
    whole = capsys.readouterr().out
    assert run(["segment", *given, "--print-config", "--changed"]) == 0
    short = capsys.readouterr().out
    held = yaml.safe_load(short)
    assert (held["seed"], held["affinity"], held["keep_columns"]) == (5, "binary", ["label"])
    assert {"facet", "backbone", "tau"}.isdisjoint(held), "these are as by default"
    (tmp_path / "run.yaml").write_text(short)
    assert run(["segment", "--config", str(tmp_path / "run.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == whole


def test_nothing_is_printed_where_nothing_differs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["segment", "--print-config", "--changed"]) == 0
    assert capsys.readouterr().out == ""
    assert run(["segment", "a", "b", "--changed"]) == 1
    assert "--print-config" in capsys.readouterr().err
