"""``report/index.html``: chapters, dataset card and pictures put together."""

from __future__ import annotations

from collections.abc import Sequence

from simsam_batch import __version__
from simsam_batch.errors import SettingsError
from simsam_batch.plain_text import counted
from simsam_batch.report.page.album import Album
from simsam_batch.report.page.card import NAME as CARD
from simsam_batch.report.page.card import dataset_card
from simsam_batch.report.page.chapters import Chapter, Source
from simsam_batch.report.page.settings import sources
from simsam_batch.report.page.template import render
from simsam_batch.runs.plan import Plan
from simsam_batch.stages.registry import COMMANDS, own_stages
from simsam_batch.storage import Folder

PAGE = "report/index.html"
MOST_SAMPLES = 100
"""Images of a gallery, at most."""


def write_page(out: Folder, plan: Plan, stages: Sequence[str], samples: int, stage: str | None = None) -> str:
    """Write the page of a run, of what is committed so far, over an earlier one.

    Pictures are drawn from the images themselves, each read once; memory holds one, and some numbers of every row.

    Args:
        out: the run's folder.
        plan: of the run.
        stages: those begun, in their order.
        samples: images of a gallery at most, 1 to `MOST_SAMPLES`.
        stage: only the chapter that has this stage.

    Returns:
        The name of the page in ``out``.

    Raises:
        SettingsError: ``samples`` is out of range, no stage has begun, there is none of that name, or the dataset card
            cannot be read.
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    if not 1 <= samples <= MOST_SAMPLES:
        raise SettingsError(f"samples: {samples} is not allowed; it is a whole number from 1 to {MOST_SAMPLES}")
    if not stages:
        raise SettingsError(
            f"{out.url}: no stage has begun, so there is nothing to report. To mend it: run the command that made "
            "the plan"
        )
    if stage is not None and stage not in stages:
        raise SettingsError(f"stage: {out.url} has no stage {stage!r}; it has {', '.join(stages)}")
    card = dataset_card(out)
    source = Source(out, plan, Album(out), samples)
    chapters: list[Chapter] = [
        command.chapter()(source, command, stages)
        for command in COMMANDS
        if any(each in stages for each in own_stages(command)) and stage in (None, *own_stages(command))
    ]
    page = render(
        "page.html",
        name=out.url.rstrip("/").rpartition("/")[2] or out.url,
        url=out.url,
        plan=plan,
        sources=sources(plan.source),
        chapters=chapters,
        card=card,
        card_name=CARD.rpartition("/")[2],
        counted=counted,
        version=__version__,
    )
    out.replace(PAGE, page.encode("utf-8", "replace"))
    return PAGE
