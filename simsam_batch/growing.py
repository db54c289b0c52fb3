"""A set that grows: what a new listing of IMAGES has beyond the plan of a run, and how it becomes part of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simsam_batch.errors import SettingsError
from simsam_batch.plain_text import counted
from simsam_batch.settings import RunSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    import pyarrow as pa

    from simsam_batch.catalog import Catalog
    from simsam_batch.runs.plan import Plan
    from simsam_batch.telling.console import Reporter

_NAMED = 5


def limited(plan: Plan) -> tuple[Plan, int]:
    """What a limit counts, a run's pairs where it has some and else its images; and how many were asked for; 0: all.

    Raises:
        RunError: the record of the run's pairs is damaged.
    """
    from simsam_batch.catalog import PAIRS
    from simsam_batch.runs.plan import further_plans

    counted_by = further_plans(plan).get(PAIRS, plan)
    # images of pairs come before these, and a command may be killed between the two
    return counted_by, int((plan.source | counted_by.source).get("limit") or 0)


def is_to_grow(plan: Plan, settings: RunSettings) -> bool:
    """Whether new images are to become part of the run: they are asked for, or it was about the first few so far.

    Raises:
        RunError: the record of the run's pairs is damaged.
    """
    _, few = limited(plan)
    return settings.extend or (few > 0 and (settings.limit == 0 or settings.limit > few))


def require_same_ids(plan: Plan, catalog: Catalog) -> None:
    """Refuse a list by which images of the run would have other ids, as further paths may make it.

    Raises:
        SettingsError: naming one.
        RunError: the plan cannot be read.
    """
    names = dict(zip(catalog.table["uri"].to_pylist(), catalog.table["image_id"].to_pylist(), strict=True))
    for number in range(plan.shards):
        records = plan.shard(number).records.select(["image_id", "uri"]).to_pydict()
        for known, uri in zip(records["image_id"], records["uri"], strict=True):
            if names.get(uri, known) != known:
                raise SettingsError(
                    f"images: by these paths {known!r} of the run in OUT would be {names[uri]!r}, since ids count from "
                    "the folder that holds all paths. To mend it: give further paths below the same folder, or use "
                    "another OUT"
                )


def grow(plan: Plan, catalog: Catalog, source: Mapping[str, Any], settings: RunSettings, report: Reporter) -> Plan:
    """The plan with all that was listed: what is new comes behind what is there, in shards of its own.

    Several drivers may do so at once; what one has appended the other does not append again.

    Args:
        plan: of the run's images.
        catalog: what was listed.
        source: what a plan records of the input.
        settings: of the command.
        report: is told how many are new.

    Raises:
        SettingsError: what is new has other columns or another kind of truth than the plan.
        RunError: the plan cannot be read.
        StorageError: OUT cannot be read or written.
    """
    from simsam_batch.runs.plan import row_numbers

    if catalog.truth_kind != plan.source.get("truth_kind") and catalog.table["truth_uri"].null_count < len(
        catalog.table
    ):
        raise SettingsError(
            f"the truth of the run in OUT is of the kind {plan.source.get('truth_kind') or 'images'}, and IMAGES now "
            f"has {catalog.truth_kind or 'images'}. To mend it: use another OUT"
        )
    before, (pairs, few) = plan.records, limited(plan)
    has_pairs = pairs.unit != plan.unit
    said = {"images": source["images"]} if source["images"] != plan.source.get("images") else {}
    # a run that has been about all is so still, however many are taken of what is new
    limit = {"limit": settings.limit if few else 0}
    most = settings.limit if settings.limit and not settings.extend else None
    if has_pairs:
        # those of the pairs that were listed, however many
        plan = _grown(plan, catalog.table, settings, said)
    else:
        listed = catalog.table.slice(0, settings.limit or None)
        plan = _grown(plan, listed, settings, said | limit, most)
    report.note(
        f"{counted(plan.records - before, 'new image')} in the run, which has {plan.records} now"
        if plan.records > before
        else "no new images: IMAGES has none that are not in the run"
    )
    if has_pairs and catalog.pairs is not None:
        numbered = catalog.pairs
        for side in ("source", "target"):
            # the images stand where they were planned first
            numbers = row_numbers(plan, numbered[side].to_pylist())
            place = numbered.schema.get_field_index(f"{side}_record")
            numbered = numbered.set_column(place, f"{side}_record", [numbers])
        grown = _grown(pairs, numbered, settings, limit, most)
        if grown.records > pairs.records:
            report.note(f"{counted(grown.records - pairs.records, 'new pair')}, of {grown.records} now")
    return plan


def _grown(
    plan: Plan, listed: pa.Table, settings: RunSettings, source: Mapping[str, Any], most: int | None = None
) -> Plan:
    """The plan with what it lacks of a list, but no more records in all than ``most``."""
    from simsam_batch.runs.plan import PlanGrownError, append_to_plan, as_grown, default_shard_size

    while True:
        new = _unplanned(plan, listed).slice(0, None if most is None else max(0, most - plan.records))
        if not new.num_rows:
            return plan
        size = settings.shard_size or max(plan.shard_size, default_shard_size(new.num_rows))
        try:
            return append_to_plan(plan, _of_one_kind(plan, new), size, source)
        except PlanGrownError:
            plan = as_grown(plan)


def _unplanned(plan: Plan, listed: pa.Table) -> pa.Table:
    """What the plan does not have, in the order of the list."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from simsam_batch.runs.plan import ids_of

    planned = pa.chunked_array([*ids_of(plan)], pa.string())
    return listed.filter(pc.invert(pc.is_in(listed[plan.unit].cast(pa.string()), planned)))


def _of_one_kind(plan: Plan, new: pa.Table) -> pa.Table:
    """The new records with the columns of the plan, in their types."""
    import pyarrow as pa

    wanted = [field for field in plan.shard(0).records.schema.remove_metadata() if field.name != "shard"]
    try:
        if extra := set(new.column_names) - {field.name for field in wanted}:
            raise ValueError(f"they have {', '.join(sorted(extra))} besides")
        columns = [
            new[field.name].cast(field.type) if field.name in new.column_names else pa.nulls(new.num_rows, field.type)
            for field in wanted
        ]
    except (ValueError, pa.ArrowException) as error:
        raise SettingsError(
            f"the columns of what is new in IMAGES are not those of the run in OUT: {error}. To mend it: give them the "
            "same columns, or use another OUT"
        ) from error
    return pa.Table.from_arrays(columns, schema=pa.schema(wanted))


def say_changes(plan: Plan, catalog: Catalog, settings: RunSettings, report: Reporter) -> None:
    """Tell what a new listing shows that the plan does not know: images that are new, gone, or have changed.

    A line for each with a few names, and what may be done.
    """
    limit = settings.limit or None
    planned: dict[str, tuple[int | None, str | None]] = {}
    for number in range(plan.shards):
        records = plan.shard(number).records.select(["image_id", "size", "etag"]).to_pydict()
        planned |= zip(records["image_id"], zip(records["size"], records["etag"], strict=True), strict=True)
    listed = catalog.table.select(["image_id", "size", "etag"]).to_pydict()
    new = [name for name in listed["image_id"][:limit] if name not in planned]
    if new:
        names = _named(new)
        report.note(
            f"{counted(len(new), 'image')} new, not part of this run: {names}. To have them: add --extend", to_do=True
        )
    facts = zip(listed["image_id"], zip(listed["size"], listed["etag"], strict=True), strict=True)
    there = set(listed["image_id"])
    if not (limit and catalog.pairs is not None):
        _say_gone(plan, [name for name in planned if name not in there], settings, report)
    elif settings.prune:
        report.note("what is gone is not looked for: the first few pairs do not name all images. Leave --limit out")
    pairs, _ = limited(plan)
    if pairs.unit != plan.unit and catalog.pairs is not None:
        further = _unplanned(pairs, catalog.pairs)[pairs.unit].to_pylist()
        if further:
            report.note(
                f"{counted(len(further), 'pair')} new, not part of this run: {_named(further)}. To have them: add "
                "--extend",
                to_do=True,
            )
    # a file of this machine that was only touched has another ETag
    changed = [
        n
        for n, fact in facts
        if (known := planned.get(n, fact)) != fact and (settings.check_input or known[0] != fact[0])
    ]
    if changed:
        report.note(
            f"{counted(len(changed), 'image')} changed since the plan was made: {_named(changed)}. To "
            "have them as they are now: use another OUT"
        )


def _say_gone(plan: Plan, gone: Sequence[str], settings: RunSettings, report: Reporter) -> None:
    from simsam_batch.runs.gone import gone_records, record_gone
    from simsam_batch.runs.plan import row_numbers

    if settings.prune:
        record_gone(plan, gone)
        if gone:
            report.note(
                f"{counted(len(gone), 'image')} gone, whose rows are marked: {_named(gone)}. Scores in "
                "results/ count them still; simsam score OUT does not"
            )
        return
    marked, numbers = set(gone_records(plan).tolist()), row_numbers(plan, gone)
    if unmarked := [name for name, number in zip(gone, numbers, strict=True) if number not in marked]:
        report.note(
            f"{counted(len(unmarked), 'image')} gone since the plan was made: {_named(unmarked)}. To mark their "
            "rows: add --prune"
        )
    if back := marked - set(numbers):
        report.note(
            f"{counted(len(back), 'image')} there again, whose rows are marked as gone. To take the marks away: add "
            "--prune"
        )


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")
