"""What ran: settings against their defaults, what they came down to, versions, machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simsam_batch.report.page.work import Work
from simsam_batch.results.label_maps import recorded_settings
from simsam_batch.runs.ledger import Ledger
from simsam_batch.stages.registry import Command
from simsam_batch.storage import Folder

_LONGEST, _MOST_LINES, _MOST_ITEMS = 400, 20, 12


@dataclass(frozen=True, slots=True)
class Settings:
    """What a chapter's stages ran with.

    Attributes:
        changed: name, value and default of settings that differ from it.
        same: name and value of the others.
        resolved: what the settings came down to, of stages for which something is recorded.
        versions: of packages.
        hosts: kind of machine, and shards it computed.
    """

    changed: list[tuple[str, str, str]]
    same: list[tuple[str, str]]
    resolved: list[tuple[str, list[tuple[str, str]]]]
    versions: list[tuple[str, str]]
    hosts: list[tuple[str, int]]


def settings_of(out: Folder, command: Command, works: Mapping[str, Work]) -> Settings:
    """What is recorded of the stages of a command.

    Args:
        out: the run's folder.
        command: whose they are.
        works: by stage what its manifests say, of those that have begun.
    """
    defaults = command.settings()().model_dump(mode="json")
    values: dict[str, Any] = {}
    resolved: list[tuple[str, list[tuple[str, str]]]] = []
    for stage in command.stages:
        if stage in works:
            record = Ledger(out, stage).record()
            values |= record["started_with"]
            if lines := [(key, _shown(value)) for key, value in flat(record["resolved"])]:
                resolved.append((stage, lines))
        values |= recorded_settings(out, stage)
    changed = [
        (name, _shown(value), _shown(defaults.get(name)))
        for name, value in values.items()
        if value != defaults.get(name, value)
    ]
    versions: dict[str, set[str]] = {}
    hosts: dict[str, int] = {}
    for work in works.values():
        for package, found in work.versions.items():
            versions.setdefault(package, set()).update(found)
        for host, shards in work.hosts.items():
            hosts[host] = hosts.get(host, 0) + shards
    return Settings(
        changed,
        [(name, _shown(value)) for name, value in values.items() if name not in {name for name, *_ in changed}],
        resolved,
        [(package, " | ".join(sorted(found))) for package, found in versions.items()],
        sorted(hosts.items(), key=lambda each: (-each[1], each[0])),
    )


def flat(value: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Nested values under dotted keys; a long table of them is one value."""
    found: list[tuple[str, Any]] = []
    for key, inner in value.items():
        if isinstance(inner, Mapping) and 0 < len(inner) <= _MOST_LINES:
            found += flat(inner, f"{above}{key}.")
        else:
            found.append((f"{above}{key}", inner))
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | Mapping) and len(value) > _MOST_ITEMS:
        first = dict(list(value.items())[:_MOST_ITEMS]) if isinstance(value, Mapping) else value[:_MOST_ITEMS]
        return f"{json.dumps(first, ensure_ascii=False)[:_LONGEST]} and {len(value) - _MOST_ITEMS:,} more"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}\N{HORIZONTAL ELLIPSIS}"


def sources(plan_source: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Where the images came from, as the plan says."""
    return [(key, _shown(value)) for key, value in plan_source.items() if value not in (None, [], 0, "auto")]
