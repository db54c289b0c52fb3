"""What ran: settings against their defaults, what they came down to, versions, machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simsam_batch.report.page.work import Work
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.records import from_json
from simsam_batch.settings import RunSettings
from simsam_batch.stages.hierarchy.settings import HierarchySettings
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.stages.semantic.settings import SemanticSettings
from simsam_batch.storage import Folder, ObjectNotFound

MODELS: dict[str, type[RunSettings]] = {
    "segment": SegmentSettings,
    "regions": SemanticSettings,
    "semantic": SemanticSettings,
    "hierarchy": HierarchySettings,
    "labels": HierarchySettings,
}

_LONGEST = 400


@dataclass(frozen=True, slots=True)
class Settings:
    """What a chapter's stages ran with.

    Attributes:
        changed: name, value and default of settings that differ from it.
        same: name and value of the others.
        resolved: by stage what the settings came down to.
        versions: of packages.
        hosts: kind of machine, and shards it computed.
    """

    changed: list[tuple[str, str, str]]
    same: list[tuple[str, str]]
    resolved: list[tuple[str, list[tuple[str, str]]]]
    versions: list[tuple[str, str]]
    hosts: list[tuple[str, int]]


def settings_of(out: Folder, works: Mapping[str, Work]) -> Settings:
    """What is recorded of some stages.

    Args:
        out: the run's folder.
        works: by stage what its manifests say.
    """
    values: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    resolved: list[tuple[str, list[tuple[str, str]]]] = []
    for stage in works:
        record = Ledger(out, stage).record()
        defaults |= MODELS[stage]().model_dump(mode="json")
        values |= record["started_with"] | record["settings"]
        resolved.append((stage, [(key, _shown(value)) for key, value in flat(record["resolved"])]))
    if "regions" in works or "labels" in works:
        values |= cluster_settings(out)
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
    """Nested values under dotted keys."""
    found: list[tuple[str, Any]] = []
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            found += flat(inner, f"{above}{key}.")
        else:
            found.append((f"{above}{key}", inner))
    return found


def cluster_settings(out: Folder) -> dict[str, Any]:
    """The settings that the clusters were fitted with; none before that."""
    name = "clusters/clusters.json"
    try:
        return dict(from_json(out.read(name), f"{out.url}/{name}", "settings")["settings"])
    except ObjectNotFound:
        return {}


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}\N{HORIZONTAL ELLIPSIS}"


def sources(plan_source: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Where the images came from, as the plan says."""
    return [(key, _shown(value)) for key, value in plan_source.items() if value not in (None, [], 0, "auto")]
