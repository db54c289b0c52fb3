"""Methods by datasets: every cell a run of its own, and for each dataset a table of the methods with intervals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simsam_batch.errors import SettingsError, SimsamError, did_you_mean

if TYPE_CHECKING:
    from simsam_batch.settings import NetworkSettings
    from simsam_batch.telling.console import Reporter

TABLES = "tables"
"""The folder of the comparisons, beside those of the datasets."""

_KEYS = ("command", "out", "settings", "methods", "datasets")
_OF_DATASET = ("images", "by")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True, slots=True)
class Cell:
    """One method on one dataset.

    Attributes:
        dataset, method: their names.
        images, out: IMAGES and OUT of its run.
        settings: of the command.
    """

    dataset: str
    method: str
    images: str
    out: str
    settings: NetworkSettings


@dataclass(frozen=True, slots=True)
class Matrix:
    """What a file of methods and datasets says.

    Attributes:
        command: what is run.
        out: folder that holds everything.
        cells: dataset by dataset, the methods of each in the order of the file; the first is what others are compared
            with.
        by: of some datasets what images belong to, see `simsam_batch.results.comparing.CompareOptions`.
    """

    command: str
    out: str
    cells: Sequence[Cell]
    by: Mapping[str, str]


def read_matrix(file: str) -> Matrix:
    """Read a YAML file of methods and datasets, and check the settings of every cell; nothing is run or written.

    Args:
        file: path; see ``docs/compare.md``.

    Raises:
        SettingsError: the file cannot be read, a key is unknown or missing, or the settings of a cell are refused; the
            message names it.
    """
    from simsam_batch.settings import read_yaml, resolve
    from simsam_batch.stages.registry import COMMANDS
    from simsam_batch.stages.registry import command as command_named

    held = read_yaml(file, file)
    for key in held:
        if key not in _KEYS:
            raise SettingsError(
                f"{file}: unknown key {key!r}{did_you_mean(str(key), _KEYS)}; known are {', '.join(_KEYS)}"
            )
    command = held.get("command", COMMANDS[0].name)
    if not isinstance(command, str):
        raise SettingsError(f"{file}: command is the name of one, such as segment")
    out = held.get("out")
    if not isinstance(out, str) or not out:
        raise SettingsError(f"{file}: out is missing: the folder for all runs and tables, as a path or URL")
    common = _mapping(held.get("settings", {}), f"{file}: settings")
    methods = _named(held, "methods", file, 2)
    datasets = _named(held, "datasets", file, 1)
    model = command_named(command).settings()
    cells, by = [], {}
    for dataset, about in datasets.items():
        if not isinstance(about.get("images"), str):
            raise SettingsError(f"{file}: datasets: {dataset} has no images: the IMAGES of simsam {command}")
        if "by" in about:
            by[dataset] = str(about["by"])
        of_dataset = {key: value for key, value in about.items() if key not in _OF_DATASET}
        for method, of_method in methods.items():
            settings = _overlaid(common, of_dataset, of_method)
            where = f"{file}: {method} on {dataset}"
            try:
                resolved = resolve(model, {}, settings, where)
            except SettingsError as error:
                text = str(error)
                raise SettingsError(text if text.startswith(where) else f"{where}: {text}") from error
            cells.append(Cell(dataset, method, about["images"], f"{out.rstrip('/')}/{dataset}/{method}", resolved))
    return Matrix(command, out, cells, by)


def run_matrix(matrix: Matrix, report: Reporter) -> dict[str, Any]:
    """Run every cell, or go on with it, then compare the methods on each dataset and write the tables.

    A cell that is finished costs a look at its results. One that cannot be run is said, and the others go on. Written
    are ``OUT/DATASET/METHOD/``, the runs; ``OUT/tables/DATASET/``, as ``simsam compare --to`` writes it; and
    ``OUT/tables/all.md``, ``all.csv``, ``all.tex``.

    Args:
        matrix: from `read_matrix`.
        report: is told what happens.

    Returns:
        ``cells``: of each ``dataset``, ``method``, ``out``, ``images``, ``failed``, ``too_many_failed`` and ``error``,
        None where there is none. ``comparisons``: by dataset, see `simsam_batch.operations.compare`.
        ``not_compared``: by dataset why.

    Raises:
        StorageError: the tables cannot be written.
    """
    from simsam_batch import operations
    from simsam_batch.results.comparing import CompareOptions
    from simsam_batch.storage import Folder, absolute_url

    cells: list[dict[str, Any]] = []
    for at, cell in enumerate(matrix.cells, 1):
        report.note(f"cell {at} of {len(matrix.cells)}: {cell.method} on {cell.dataset}")
        cells.append(_run(matrix.command, cell, report))
        if cells[-1]["error"] is not None:
            report.note(f"{cell.method} on {cell.dataset} failed: {cells[-1]['error']}")
    comparisons: dict[str, dict[str, Any]] = {}
    not_compared: dict[str, str] = {}
    for dataset in dict.fromkeys(cell.dataset for cell in matrix.cells):
        held = [each for each in cells if each["dataset"] == dataset and each["error"] is None]
        options = CompareOptions(by=matrix.by.get(dataset), names=tuple(each["method"] for each in held))
        try:
            if len(held) < 2:
                raise SettingsError(f"{dataset}: two methods at least must have run to be compared")
            if held[0]["method"] != matrix.cells[0].method:
                base = matrix.cells[0].method
                raise SettingsError(f"{dataset}: {base}, which the others are compared with, has not run")
            to = f"{matrix.out.rstrip('/')}/{TABLES}/{dataset}"
            comparisons[dataset] = operations.compare([each["out"] for each in held], options, report, to)
        except SimsamError as error:
            not_compared[dataset] = str(error)
            report.note(f"{dataset} is not compared: {error}")
    out = Folder(absolute_url(matrix.out))
    if comparisons:
        for name, text in all_tables(comparisons).items():
            out.replace(f"{TABLES}/{name}", text.encode("utf-8", "replace"))
    return {"cells": cells, "comparisons": comparisons, "not_compared": not_compared}


def all_tables(comparisons: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The tables of all datasets in one file of each format, by its name."""
    from simsam_batch.telling.compare import latex, markdown, table_csv

    lines: list[str] = []
    for dataset, record in comparisons.items():
        head, *rows = table_csv(record).splitlines()
        lines += [] if lines else [f"dataset,{head}"]
        lines += [f"{dataset},{row}" for row in rows]
    return {
        "all.md": "\n".join(f"## {dataset}\n\n{markdown(record)}" for dataset, record in comparisons.items()),
        "all.csv": "\n".join([*lines, ""]),
        "all.tex": "\n".join(f"% {dataset}\n{latex(record)}" for dataset, record in comparisons.items()),
    }


def _run(command: str, cell: Cell, report: Reporter) -> dict[str, Any]:
    """One cell; whatever keeps it from being run is its error."""
    from simsam_batch import operations

    said: dict[str, Any] = {"dataset": cell.dataset, "method": cell.method, "out": cell.out, "error": None}
    said |= {"images": 0, "failed": 0, "too_many_failed": False}
    try:
        result = operations.run(command, cell.images, cell.out, cell.settings, report)
        if result is None:
            raise SettingsError("a matrix runs on its own. To mend it: start it without torchrun")
        said |= {name: result[name] for name in ("images", "failed")}
        said["too_many_failed"] = result["failed"] > cell.settings.allow_failed * result["images"]
    except Exception as error:  # noqa: BLE001  it is said, written down, and makes the command's exit code
        said["error"] = str(error) if isinstance(error, SimsamError) else f"{type(error).__name__}: {error}"
    return said


def _overlaid(*several: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of which later ones win, ``-`` and ``_`` in their names being the same."""
    found: dict[str, Any] = {}
    for each in several:
        found |= {str(key).replace("-", "_"): value for key, value in each.items()}
    return found


def _named(held: Mapping[str, Any], key: str, file: str, least: int) -> dict[str, dict[str, Any]]:
    """The methods or datasets of a file by their names, which are names of folders."""
    found = _mapping(held.get(key, {}), f"{file}: {key}")
    if len(found) < least:
        raise SettingsError(f"{file}: {key} needs {least} at least, as 'NAME: settings' lines; there are {len(found)}")
    for name in found:
        if not (isinstance(name, str) and _NAME.fullmatch(name)) or name == TABLES:
            raise SettingsError(
                f"{file}: {key}: {name!r} cannot be the name of a folder here. To mend it: letters, digits, '.', '_', "
                f"'+' and '-', and not {TABLES}"
            )
    return {name: _mapping(value or {}, f"{file}: {key}: {name}") for name, value in found.items()}


def _mapping(value: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise SettingsError(f"{where}: expected 'name: value' lines, found {type(value).__name__}")
    return value
