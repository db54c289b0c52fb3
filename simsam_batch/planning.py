"""What a run is about: its images, listed once and made into a plan; or the plan that is there, and how it differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simsam_batch.errors import RunError, SettingsError, SimsamError
from simsam_batch.plain_text import counted
from simsam_batch.settings import PairInput, RunSettings
from simsam_batch.storage import Folder, absolute_url, redact
from simsam_batch.telling.status import noun_of

if TYPE_CHECKING:
    import pyarrow as pa

    from simsam_batch.catalog import Catalog, Images
    from simsam_batch.runs.plan import Plan
    from simsam_batch.telling.console import Reporter

_PATHS_NAMED = 5

_CHEAP = 20_000
"""A plan of so many images at most is compared with IMAGES on every resume: listing them costs some 20 requests."""


def listed_input(images: Images, out: Folder, settings: RunSettings, command: str) -> Catalog | None:
    """The images of a run that is not planned yet, or whose input is to be compared; None for one that is.

    Args:
        images: what the run is about.
        out: the run's folder.
        settings: of the command.
        command: its command line up to IMAGES, for messages.

    Raises:
        SettingsError: IMAGES holds no images or cannot be used, it and OUT seem to be swapped, or the run in OUT is
            about another input.
        StorageError: IMAGES cannot be listed.
    """
    from simsam_batch.catalog import read_catalog, read_pairs, require_right_way_round
    from simsam_batch.growing import is_to_grow
    from simsam_batch.runs.plan import load_plan

    plan = load_plan(out)
    asked = True
    if plan is not None:
        _require_same_input(plan, _source(images, settings), settings)
        asked = settings.check_input or settings.prune or is_to_grow(plan, settings)
        if not asked and plan.records > _CHEAP:
            return None
    else:
        require_right_way_round(images, out.url, command)
    given: dict[str, Any] = {
        "root": settings.root,
        "truth": settings.truth,
        "split": settings.split,
        "keep_columns": settings.keep_columns,
        # what is gone shows in the whole list alone
        "limit": settings.limit or None if plan is None or isinstance(settings, PairInput) else None,
        "hidden": settings.hidden,
        "uri_column": settings.uri_column,
    }
    try:
        if isinstance(settings, PairInput):
            return read_pairs(images, pairs=settings.pairs, **given)
        return read_catalog(images, **given)
    except SimsamError:
        # a run goes on without its list
        if asked:
            raise
        return None


def open_plan(images: Images, out: Folder, settings: RunSettings, catalog: Catalog | None, report: Reporter) -> Plan:
    """The plan of the run in OUT; made from what was listed if there is none yet.

    A run that exists is about the images it was planned with. What a new listing shows is said, and with ``extend``, or
    where fewer images were asked for at first, what is new becomes part of the run.

    Raises:
        SettingsError: the run in OUT is about another input.
        RunError: the run that was in OUT is gone.
    """
    from simsam_batch.catalog import PAIRS
    from simsam_batch.growing import grow, is_to_grow, require_same_ids, say_changes
    from simsam_batch.runs.plan import FURTHER_PLANS, load_plan, make_plan

    plan, source = load_plan(out), _source(images, settings)
    if catalog is None:
        if plan is None:
            raise RunError(f"{out.url} held a run, which has just been taken away. To mend it: run the command again")
        return plan
    if plan is None:
        for note in catalog.notes:
            report.note(note)
        facts: dict[str, Any] = {} if catalog.dataset is None else {"dataset": catalog.dataset.to_json()}
        if catalog.truth_kind is not None:
            facts["truth_kind"] = catalog.truth_kind
        if catalog.pairs is not None:
            further = {PAIRS: _plan_of_pairs(out, catalog.pairs, settings).about()}
            facts |= {FURTHER_PLANS: further, "pair_set": catalog.pair_set}
        plan = make_plan(out, catalog.table, shard_size=settings.shard_size or None, source=source | facts)
        # Another driver may have been first, with another input.
        _require_same_input(plan, source, settings)
        return plan
    _require_same_input(plan, source, settings)
    if source["images"] != plan.source.get("images"):
        require_same_ids(plan, catalog)
    if is_to_grow(plan, settings):
        plan = grow(plan, catalog, source, settings, report)
    say_changes(plan, catalog, settings, report)
    return plan


def _plan_of_pairs(out: Folder, pairs: pa.Table, settings: RunSettings) -> Plan:
    """The plan of the pairs of a run, which is there before the run is."""
    from simsam_batch.catalog import PAIR_UNIT
    from simsam_batch.runs.plan import default_shard_size, make_plan_of

    return make_plan_of(
        out, pairs, unit=PAIR_UNIT, shard_size=settings.shard_size or default_shard_size(pairs.num_rows)
    )


def _source(images: Images, settings: RunSettings) -> dict[str, Any]:
    """What a plan records of its input, but for the size of shards."""
    from simsam_batch.catalog import absolute_input, named_paths

    given = [absolute_input(path) for path in named_paths(images)]
    source = {"images": given[0] if len(given) == 1 else given} | settings.values_of("input")
    for name in ("root", "truth"):
        if source[name] is not None:
            source[name] = redact(absolute_url(source[name]))
    del source["shard_size"]
    return source


def _require_same_input(plan: Plan, source: dict[str, Any], settings: RunSettings) -> None:
    from simsam_batch.growing import limited

    shard_size = settings.shard_size
    # a run of an earlier release does not say that it left hidden files out
    there, here = {"hidden": False} | plan.source, dict(source)
    if shard_size and shard_size != plan.shard_size:
        there["shard_size"], here["shard_size"] = plan.shard_size, shard_size
    # a trial with some, and then with more, is one run
    limit, (counted_by, asked) = here.pop("limit"), limited(plan)
    held = min(asked or counted_by.records, counted_by.records)
    noun = noun_of(counted_by.unit)
    fewer = [f"limit: the run in OUT has {counted(held, noun)}, this command has {limit}"] * (0 < limit < held)
    if set(_paths(there.get("images"))) < set(_paths(here["images"])):
        # the shell makes more paths of a pattern when a folder has grown
        del here["images"]
    differences = [
        f"{name}: the run in OUT has {_shortened(there.get(name))}, this command has {_shortened(value)}"
        for name, value in here.items()
        if there.get(name) != value
    ] + fewer
    if differences:
        raise SettingsError(
            "OUT holds a run about another input:",
            *(f"  {difference}" for difference in differences),
            "To mend it: give the same input, or another OUT",
        )


def _paths(images: Any) -> list[str]:
    """IMAGES as a plan records them, one or several."""
    return images if isinstance(images, list) else [str(images)]


def _shortened(value: Any) -> str:
    """A recorded value for people; of many paths the first."""
    if isinstance(value, list) and len(value) > _PATHS_NAMED:
        return f"{value[:_PATHS_NAMED]!r} and {len(value) - _PATHS_NAMED} more"
    return repr(value)
