"""What ``--help`` shows: examples and what is most used first, and with ``--help-all`` everything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click

Examples = Sequence[tuple[str, str]]
"""Pairs of a command as it is typed, and what it does in a few words."""

_FIRST_COLUMN = 34


class HelpfulCommand(click.Command):
    """A command with examples, whose ``--help`` fits on a screen.

    Args:
        examples: of the command.
        most_used: names of the parameters that ``--help`` shows; none: all of them.
        attributes: click's. Of ``help`` the first paragraph stands in every help, the others beside all options.
    """

    def __init__(self, *, examples: Examples, most_used: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(**attributes)
        self.examples, self.most_used = examples, most_used
        # `run` takes it out of the arguments of whatever command
        self.params.append(
            click.Option(["--debug"], is_flag=True, expose_value=False, help="show an error's traceback")
        )
        self.params.append(
            click.Option(
                ["--help-all"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                hidden=not most_used,
                callback=self._show_all,
                help="show all options and exit",
            )
        )

    def _show_all(self, ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted and not ctx.resilient_parsing:
            formatter = ctx.make_formatter()
            self._write_all(ctx, formatter)
            click.echo(formatter.getvalue().rstrip("\n"))
            ctx.exit()

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what fits on a screen."""
        if not self.most_used:
            self._write_all(ctx, formatter)
            return
        self.format_usage(ctx, formatter)
        _write_text(formatter, (self.help or "").partition("\n\n")[0])
        write_examples(formatter, "Examples", self.examples)
        shown = {parameter.name: parameter for parameter in self.get_params(ctx)}
        records = [shown[name].get_help_record(ctx) for name in self.most_used]
        _write_options(formatter, "Most used", filter(None, records))
        count = sum(len(each) for each in self._sections(ctx).values())
        _write_text(formatter, f"`--help-all` shows all {count} options")

    def _write_all(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        first, _, others = (self.help or "").partition("\n\n")
        _write_text(formatter, first)
        write_examples(formatter, "Examples", self.examples)
        if others:
            _write_text(formatter, others)
        for title, records in self._sections(ctx).items():
            _write_options(formatter, title, records)

    def _sections(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
        """What is said of each option, by the titles of their groups."""
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        grouped = any(isinstance(each, SettingOption) for each in options)
        general = "General" if grouped else "Options"
        sections: dict[str, list[tuple[str, str]]] = {general: [], "Input": []}
        for option in options:
            record = option.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(option, "group", general), []).append(record)
        return {title: records for title, records in sections.items() if records}


class SettingOption(click.Option):
    """An option that stands for one setting; its text goes to the settings model, which alone judges it."""

    def __init__(self, *names: str, group: str, **attributes: Any) -> None:
        super().__init__(list(names), **attributes)
        self.group = group


def write_examples(formatter: click.HelpFormatter, title: str, examples: Examples) -> None:
    """Write commands to copy, none of them broken, and what each does as a comment after it, or above it."""
    longest = max(len(line) for line, _ in examples)
    beside = [f"{line:<{longest}}  # {words}" for line, words in examples]
    above = [f"# {words}\n  {line}" for line, words in examples]
    with formatter.section(title):
        fit = max(map(len, beside)) + formatter.current_indent <= formatter.width
        formatter.write("".join(f"  {each}\n" for each in (beside if fit else above)))


def _write_text(formatter: click.HelpFormatter, text: str) -> None:
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(text)


def _write_options(formatter: click.HelpFormatter, title: str, records: Iterable[tuple[str, str]]) -> None:
    with formatter.section(title):
        formatter.write_dl(list(records), col_max=_FIRST_COLUMN)
