"""The catalogue of commands and stages: what one entry makes of a folder, wherever it is asked for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from simsam_batch import cli
from simsam_batch.errors import SettingsError
from simsam_batch.stages import registry

PACKAGE = Path(cli.__file__).parent


def test_every_stage_is_declared_once_and_found_by_its_name() -> None:
    names = registry.stage_names()
    assert len(names) == len(set(names))
    for name in names:
        assert registry.stage_class(name).name == name
        assert name in registry.command_of(name).stages


def test_a_stage_comes_after_what_it_reads_in_a_command_that_has_both() -> None:
    for command in registry.COMMANDS:
        order = list(command.stages)
        for name in order:
            reads = registry.stage_class(name).reads
            assert all(order.index(read) < order.index(name) for read in reads if read in order), name


def test_every_folder_has_the_parts_that_are_asked_for() -> None:
    for command in registry.COMMANDS:
        assert issubclass(registry.stage_class(command.steps().result), registry.stage_class(command.steps().result))
        assert command.steps().result in command.stages
        assert callable(command.chapter())
        assert command.settings()().values_of("result")


def test_stages_that_look_at_no_image_hold_no_gpu_and_fits_have_one_worker() -> None:
    needs = {name: registry.stage_class(name).needs for name in registry.stage_names()}
    without = {"semantic", "labels", "patch-labels", "subsets", "probe-table"}
    assert {name for name, each in needs.items() if not each.gpu} == without
    alone = {"clusters", "node-clusters", "patch-clusters", "subsets", "probe-table", "style-networks"}
    assert {name for name, each in needs.items() if each.workers == 1} == alone


def test_what_no_command_has_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="no stage 'segments'; there are segment, regions"):
        registry.command_of("segments")
    with pytest.raises(SettingsError, match="no command 'segmentate'"):
        registry.command("segmentate")
    assert registry.shown("segments") is None


def test_names_of_stages_stand_in_their_folders_alone() -> None:
    """What else knows one by its name would have to be found and changed with it.

    Some are words of other things as well (a setting, a kind of truth), so that of these only uses as a stage count.
    """
    words = {"clusters", "features", "hierarchy", "labels", "regions", "semantic"}
    # matches are a layer of a picture as well
    own = [name for name in registry.stage_names() if name not in {*words, "matches"}]
    used = re.compile(
        rf'(?:StageRows|Ledger|stage_class|shown|command_of)\([^()]*"({"|".join(words)})"|results/({"|".join(words)})'
    )
    for path in PACKAGE.rglob("*.py"):
        # the package has a function for each command, and the demo is of one
        if path.relative_to(PACKAGE).parts[0] in {"stages", "demo.py", "__init__.py"}:
            continue
        text = path.read_text(encoding="utf-8")
        assert not [name for name in own if f'"{name}"' in text], path
        assert not used.findall(text), path


def test_the_catalogue_and_the_help_of_the_program_import_nothing_heavy() -> None:
    code = "import sys, simsam_batch.cli as c; c.run(['--help']); print(*sys.modules, file=sys.stderr)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "pydantic", "pyarrow", "numpy", "PIL"}.isdisjoint(told.stderr.split())
    for command in registry.COMMANDS:
        assert command.summary in " ".join(told.stdout.split()) or command.name in told.stdout


def test_workers_that_run_no_network_start_without_timm() -> None:
    code = (
        "import sys; from simsam_batch.stages.registry import COMMANDS, stage_class\n"
        "for name in {name for each in COMMANDS for name in each.stages}: stage_class(name)\n"
        "print(*sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = told.stdout.split()
    assert "simsam_batch.stages.matches.stage" in loaded
    assert {"timm", "torchvision", "torch._dynamo", "diffusers", "ray"}.isdisjoint(loaded)
