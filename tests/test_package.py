"""What the package asks an installation for is what it imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent

OF_A_GPU = {"cupy": ["cupy-cuda13x", "cupy-cuda12x"], "cupyx": ["cupy-cuda13x", "cupy-cuda12x"]}
"""Packages that machines without a GPU have no wheel installed of."""


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> set[str]:
    """Top-level names of all imports, also those inside of functions."""
    found = set()
    for path in (ROOT / "simsam_batch").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"simsam_batch"}


def test_every_imported_package_is_a_declared_dependency() -> None:
    """Published code imports packages that its requirements do not name, and one that it carries along in part."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: asked for name, asked in project["optional-dependencies"].items() if name != "dev"}
    asked = {normalised(re.split(r"[\[<>=! ]", each)[0]) for each in sum(extras.values(), project["dependencies"])}
    provided = {**packages_distributions(), **OF_A_GPU}
    modules = imported()
    assert {"torch", "timm", "PIL"} <= modules
    assert {name for name in modules if not asked & set(map(normalised, provided.get(name, [])))} == set()
