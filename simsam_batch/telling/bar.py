"""The bar that shows in a terminal or a notebook how far a command is."""

from __future__ import annotations

from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

_RATE_OF_LAST_S = 180.0


class Bar(Progress):
    """A bar on standard error that is gone at its end; where neither a terminal nor a notebook shows one, nothing.

    In a notebook it is a widget, for which ipywidgets has to be there.

    Args:
        columns: further ones before the time left.
        disable: show none anyhow.
    """

    def __init__(self, *columns: ProgressColumn, disable: bool = False) -> None:
        # names are shown as they are, whatever markup or emoji they spell
        console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        super().__init__(
            *(TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()),
            *(*columns, TimeRemainingColumn()),
            console=console,
            transient=True,
            # images and shards may take minutes each
            speed_estimate_period=_RATE_OF_LAST_S,
            disable=disable or not (console.is_interactive or (console.is_jupyter and find_spec("ipywidgets"))),
        )

    def stop(self) -> None:
        """Take the bar away; the class it derives from prints an empty line where there is none."""
        if not self.disable:
            super().stop()
