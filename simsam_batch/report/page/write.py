"""``report/index.html``: chapters, dataset card and pictures put together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from simsam_batch import __version__
from simsam_batch.errors import SettingsError
from simsam_batch.plain_text import counted
from simsam_batch.report.page.album import PAGES, Album
from simsam_batch.report.page.card import NAME as CARD
from simsam_batch.report.page.card import dataset_card
from simsam_batch.report.page.chapters import Chapter, Source
from simsam_batch.report.page.settings import sources
from simsam_batch.report.page.template import render
from simsam_batch.report.page.thumbnails import Thumbnails, score_columns, write_thumbnail_pages
from simsam_batch.results.label_maps import map_rows
from simsam_batch.results.sources import with_files
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.reading import StageRows
from simsam_batch.stages.registry import COMMANDS, own_stages, shown
from simsam_batch.storage import Folder

PAGE = "report/index.html"
MOST_SAMPLES = 100
"""Images of a gallery, at most."""

MOST_THUMBNAILS = 10_000
"""Images of a page of all images, at most: the first ones."""


def write_page(
    out: Folder, plan: Plan, stages: Sequence[str], samples: int, stage: str | None = None, *, thumbnails: bool = False
) -> str:
    """Write the page of a run, of what is committed so far, over an earlier one.

    Pictures are drawn from the images themselves, each read once; memory holds one, and some numbers of every row.

    Args:
        out: the run's folder.
        plan: of the run.
        stages: those begun, in their order.
        samples: images of a gallery at most, 1 to `MOST_SAMPLES`.
        stage: only the chapter that has this stage.
        thumbnails: write pages of all images beside it, of at most `MOST_THUMBNAILS` of each stage with masks.

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
    chapters: list[Chapter] = []
    for command in COMMANDS:
        begun = [each for each in own_stages(command) if each in stages]
        if begun and stage in (None, *own_stages(command)):
            chapters.append(command.chapter()(source, command, stages))
            if thumbnails:
                chapters[-1].all_images = _thumbnail_pages(out, begun)
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


def _thumbnail_pages(out: Folder, stages: Sequence[str]) -> list[tuple[str, str]]:
    """Write a page of all images for each of some stages that show any; their names beside the page, by stage."""
    written = []
    for name in stages:
        rows = StageRows(out, name)
        if shown(name) is not None and (images := min(len(rows), MOST_THUMBNAILS)):
            pages = Thumbnails(rows, out, PAGES, name)
            numbered = with_files(islice(map_rows(rows, score_columns(rows)), images))
            pictures = (pages.of(number, row, data)[0] for number, row, data in numbered)
            title = out.url.rstrip("/").rpartition("/")[2] or out.url
            write_thumbnail_pages(rows, out, f"{PAGES}all-{name}", pictures, images, title, "index.html")
            written.append((name, f"all-{name}.html"))
    return written
