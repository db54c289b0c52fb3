"""What runs recorded so far: a run goes on only with equal settings, so a difference here is a change of results."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from simsam_batch.regions.splitting import SplitRules
from simsam_batch.regions.superpixels import OverClustering
from simsam_batch.settings import FeatureSettings, Superpixels, Tree, presets_of, resolve
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.clusters.stage import ClustersStage, NodeClustersStage
from simsam_batch.stages.hierarchy.settings import HierarchySettings
from simsam_batch.stages.hierarchy.stage import HierarchyStage
from simsam_batch.stages.regions.stage import RegionsStage
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.stages.segment.stage import SegmentStage
from simsam_batch.stages.semantic.settings import SemanticSettings
from simsam_batch.stages.semantic.stage import SemanticStage

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("recorded_by_runs.json").read_text())
COMMANDS: dict[str, type[FeatureSettings]] = {
    "segment": SegmentSettings,
    "semantic": SemanticSettings,
    "hierarchy": HierarchySettings,
}


def identities() -> dict[str, tuple[FeatureSettings, dict[str, Any]]]:
    """By what is identified: a command's settings, none of them a default, and what identifies a result of them."""
    objects = SegmentSettings(seed=7, kappa=0.5, regions=4, eigenvectors="none", side="smaller", background=False)
    labels = SemanticSettings(seed=7, k=9, erode=1, clusters=3, repeats=2, ignore_label=255, refine="crf")
    trees = HierarchySettings(seed=7, sigma=2.0, max_ncut=0.0, clusters=5, baselines=True, numbering="upstream")
    stages: dict[str, CommandStage[Any]] = {
        "segment": SegmentStage(objects, {}),
        "regions": RegionsStage(labels, {}),
        "clusters": ClustersStage(labels, {}),
        "semantic": SemanticStage(labels, {}),
        "hierarchy": HierarchyStage(trees, {}),
        "node-clusters": NodeClustersStage(trees, {}),
    }
    of = {name: stage.options for name, stage in stages.items()}
    return {name: (of[name], stage.settings) for name, stage in stages.items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_are_what_runs_recorded(command: str) -> None:
    found = COMMANDS[command]().model_dump(mode="json")
    assert found == RECORDED["commands"][command]["defaults"]
    assert list(found) == list(RECORDED["commands"][command]["defaults"]), "--print-config has an order"


@pytest.mark.parametrize("command", COMMANDS)
def test_presets_are_what_runs_recorded(command: str) -> None:
    model, recorded = COMMANDS[command], RECORDED["commands"][command]
    assert presets_of(model) == list(recorded["presets"])
    for preset, values in recorded["presets"].items():
        assert resolve(model, {"preset": preset}).model_dump(mode="json") == recorded["defaults"] | values, preset


@pytest.mark.parametrize("identified", RECORDED["identified_by"])
def test_results_are_identified_by_what_runs_recorded(identified: str) -> None:
    settings, found = identities()[identified]
    values = settings.model_dump(mode="json")
    assert found == {name: values[name] for name in RECORDED["identified_by"][identified]}


@pytest.mark.parametrize(
    "together",
    [("segment",), ("regions", "clusters", "semantic"), ("hierarchy", "node-clusters")],
    ids=COMMANDS,
)
def test_no_result_setting_of_a_command_is_left_out_of_all_its_identities(together: tuple[str, ...]) -> None:
    found = identities()
    named = {name for identified in together for name in found[identified][1]}
    assert named == set(found[together[0]][0].fields_of("result"))


def test_the_settings_of_trees_have_the_names_and_defaults_of_the_pure_functions() -> None:
    for pure, component in ((OverClustering, Superpixels), (SplitRules, Tree)):
        defaults = {field.name: field.default for field in fields(pure)}
        settings = HierarchySettings().values_of("result", (component,))
        assert settings == {name: defaults[name] for name in settings}
