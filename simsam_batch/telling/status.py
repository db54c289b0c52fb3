"""What `simsam_batch.operations.status` found, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simsam_batch.plain_text import counted

_KINDS_SHOWN = 5


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """A few lines for the run and for each of its stages."""
    lines = [f"{status['out']}: {counted(status['images'], 'image')} in {counted(status['shards'], 'shard')}"]
    if not status["stages"]:
        lines.append("no stage has begun; the command that made the plan begins it")
    for stage in status["stages"]:
        lines += _stage_lines(stage)
    return lines


def _stage_lines(stage: Mapping[str, Any]) -> list[str]:
    done, shards = stage["done_shards"], stage["shards"]
    # Rounded down: all but one of a million is not 100 %.
    noun = noun_of(stage["unit"])
    images = f"{stage['done_images']} of {counted(stage['images'], noun)}"
    percent = 100 * stage["done_images"] // stage["images"]
    lines = [f"{stage['stage']:9} {done} of {counted(shards, 'shard')}, {images} ({percent} %)"]
    if done < shards:
        rate = stage["images_per_second"]
        pace = [] if rate is None else [f"{rate:.2f} {noun}s/s", f"about {duration(stage['seconds_left'])} left"]
        last = stage["seconds_since_commit"]
        pace.append("nothing committed yet" if last is None else f"last commit {duration(last)} ago")
        lines.append("          " + ", ".join(pace))
        if stage["started_shards"]:
            started = f"{counted(stage['started_shards'], 'shard')} begun and not committed"
            again = f", one of them {stage['most_starts']} times" if stage["most_starts"] > 1 else ""
            lines.append(f"          {started}{again}")
        if stage["stalled"]:
            lines.append("          that is long for this run: if nothing works on it, run the same command again")
    if stage["failed"]:
        kinds = list(stage["errors_by_type"].items())
        shown = ", ".join(f"{kind} {count}" for kind, count in kinds[:_KINDS_SHOWN])
        more = f", and {len(kinds) - _KINDS_SHOWN} more kinds" if len(kinds) > _KINDS_SHOWN else ""
        lines.append(f"          {counted(stage['failed'], noun)} failed: {shown}{more}; simsam retry tries them again")
    if stage["tried_again"]:
        lines.append(f"          failed {noun}s of {counted(stage['tried_again'], 'shard')} were tried again")
    if done == shards:
        where = f"results/{stage['stage']}.json"
        mend = "not published: run the same command again"
        lines.append(f"          {'published in ' + where if stage['published'] else mend}")
    return lines


def duration(seconds: float) -> str:
    """A time for people: ``40 s``, ``12 min``, ``5 h 20 min``, ``3 d 4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def noun_of(unit: str) -> str:
    """What a record of a plan is called: that of ``image_id`` an image."""
    return unit.removesuffix("_id")
