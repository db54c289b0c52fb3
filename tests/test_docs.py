"""What the documents say is what the code does: links, commands, flags, tables, the snippet, the picture."""

from __future__ import annotations

import io
import json
import re
import runpy
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from simsam_batch import __version__, cli, planning
from simsam_batch.runs.publish import ARRAY_FIELDS
from simsam_batch.runs.schema import ROW_FIELDS, SCHEMA_VERSION, row_fields
from simsam_batch.settings import presets_of
from simsam_batch.stages.clusters.rows import CLUSTERS_FIELDS
from simsam_batch.stages.embeddings.rows import EMBEDDINGS_FIELDS
from simsam_batch.stages.features.rows import FEATURES_FIELDS
from simsam_batch.stages.hierarchy.rows import HIERARCHY_FIELDS
from simsam_batch.stages.labels.rows import LABELS_FIELDS
from simsam_batch.stages.matches.rows import MATCHES_FIELDS
from simsam_batch.stages.patch_labels.rows import PATCH_LABELS_FIELDS
from simsam_batch.stages.probe_fits.rows import PROBE_FITS_FIELDS
from simsam_batch.stages.probe_maps.rows import PROBE_MAPS_FIELDS
from simsam_batch.stages.probe_table.rows import PROBE_TABLE_FIELDS
from simsam_batch.stages.regions.rows import REGIONS_FIELDS
from simsam_batch.stages.registry import COMMANDS
from simsam_batch.stages.segment.rows import SEGMENT_FIELDS
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.stages.semantic.rows import SEMANTIC_FIELDS
from simsam_batch.stages.style_networks.rows import NETWORK_FIELDS
from simsam_batch.stages.stylize.rows import STYLIZE_FIELDS
from simsam_batch.stages.subsets.rows import SUBSETS_FIELDS
from simsam_batch.stages.transfer.rows import TRANSFER_FIELDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROBES = (ROOT / "docs" / "probes.md").read_text(encoding="utf-8")
CORRESPOND = (ROOT / "docs" / "correspond.md").read_text(encoding="utf-8")
STYLIZE = (ROOT / "docs" / "stylize.md").read_text(encoding="utf-8")
OUTPUT = (ROOT / "docs" / "output.md").read_text(encoding="utf-8")
METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
WORDS = (ROOT / "docs" / "words.md").read_text(encoding="utf-8")
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
PAPER = re.compile(
    r"https://(arxiv\.org/abs/\d{4}\.\d{4,5}|doi\.org/10\.\d{4,}/[\w./-]+|openreview\.net/forum\?id=\w+)"
)
PAGES = sorted(path for pattern in ("*.md", "docs/*.md", "jobs/*.md", ".github/**/*.md") for path in ROOT.glob(pattern))


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def table(text: str, heading: str) -> list[list[str]]:
    """Cells of the rows of the first table whose head begins so; backticks are taken off."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def after(heading: str) -> str:
    """The part of docs/output.md below a heading."""
    return OUTPUT[OUTPUT.index(f"## {heading}\n") :]


def simsam_commands() -> list[Any]:
    """What follows the simsam command in every line of a shell block; no line is left out because it is wrong."""
    found = []
    for page in PAGES:
        for block in code_blocks(page, "sh"):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                for start, word in enumerate(words):
                    # `docker build -t simsam` names an image
                    if word in ("simsam", "simsam_batch") and words[start - 1 : start] != ["-t"]:
                        found.append(pytest.param(words[start + 1 :], id=f"{page.name}: {' '.join(words)[:60]}"))
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run ``out`` of four images with truth, of which one is no image and one has truth of another size."""
    home = tmp_path_factory.mktemp("documented")
    for folder in ("photos", "masks"):
        (home / folder).mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(80, 120, (96, 128, 3)).astype(np.uint8)
        pixels[32:64, 48:96] = (210, 40, 40)
        Image.fromarray(pixels).save(home / "photos" / f"{i}.png")
        truth = np.zeros((96, 128) if i else (96, 96), np.uint8)
        truth[32:64, 48:96] = 255
        Image.fromarray(truth).save(home / "masks" / f"{i}.png")
    (home / "photos" / "words.jpg").write_text("no picture")
    Image.new("RGB", (64, 64), "red").save(home / "photos" / "one colour.png")
    arguments = ["segment", str(home / "photos"), str(home / "out"), "--truth", str(home / "masks")]
    arguments += ["--backbone", "descriptors", "--resize", "native", "--epochs", "1", "--engine", "inline", "--quiet"]
    assert cli.run(arguments) == cli.EXIT_TOO_MANY_FAILED
    return home / "out"


@pytest.fixture(scope="module")
def labelled(run: Path) -> Path:
    """The run ``labels`` of `simsam semantic` over the same images, the truth of one of which is of another size."""
    home = run.parent
    (home / "ids").mkdir()
    for path in (home / "masks").iterdir():
        Image.fromarray((np.array(Image.open(path)) > 0).astype(np.uint8)).save(home / "ids" / path.name)
    arguments = ["semantic", str(home / "photos"), str(home / "labels"), "--truth", str(home / "ids"), "--quiet"]
    arguments += ["--backbone", "descriptors", "--resize", "native", "--head", "none", "--engine", "inline"]
    assert (
        cli.run([*arguments, "--regions", "2", "--clusters", "2", "--repeats", "2", "--baselines"])
        == cli.EXIT_TOO_MANY_FAILED
    )
    return home / "labels"


@pytest.fixture(scope="module")
def parsed(labelled: Path) -> Path:
    """The run ``trees`` of `simsam hierarchy` over the same images, the truth of one of which is of another size."""
    home = labelled.parent
    arguments = ["hierarchy", str(home / "photos"), str(home / "trees"), "--truth", str(home / "ids"), "--quiet"]
    arguments += ["--backbone", "descriptors", "--resize", "native", "--superpixels", "8", "--engine", "inline"]
    arguments += ["--baselines", "--clusters", "2"]
    assert cli.run(arguments) == cli.EXIT_TOO_MANY_FAILED
    return home / "trees"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if page.name == "methods.md" and target.startswith("https://"):
            assert PAPER.fullmatch(target), f"{page.name} links to {target}, which is no paper"
            continue
        path, _, heading = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), f"{page.name} links to {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in slugs, f"{page.name} links to {target}"


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) <= 100
    assert max(map(len, README.splitlines())) <= 120


@pytest.mark.parametrize("arguments", simsam_commands())
def test_documented_commands_are_accepted(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT / "jobs")
    names = [each.name for each in COMMANDS]
    if {arguments[0], " ".join(arguments[:2])} & {*names}:
        assert cli.run([*arguments, "--print-config"]) == 0, capsys.readouterr().err
        assert yaml.safe_load(capsys.readouterr().out)["engine"]
        return
    command = cli.simsam.get_command(click.Context(cli.simsam), arguments[0])
    assert command is not None, f"there is no command {arguments[0]}"
    command.make_context(arguments[0], arguments[1:])


def test_the_commands_of_the_readme_are_found() -> None:
    assert len(simsam_commands()) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_in_running_text_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    settings = {name for each in COMMANDS for name in each.settings().model_fields}
    known = {f"--{no}{name.replace('_', '-')}" for name in settings for no in ("", "no-")}
    made = (
        *(cli._status_command, cli._score_command, cli._export_command, cli._report_command),
        *(cli._verify_command, cli._doctor_command, cli._compare_command, cli._matrix_command),
        cli._view_command,
    )
    others = [parameter for command in made for parameter in command().params]
    known |= {name for option in others for name in (*option.opts, *option.secondary_opts)}
    known |= {"--preset", "--config", "--print-config", "--changed", "--debug", "--help", "--help-all", "--version"}
    of_others = {
        "--gpus",  # docker run
        "--max-restarts",  # torchrun
        "--working-dir",  # ray job submit
        "--runtime-env-json",
        "--address",  # ray start
        "--metrics-export-port",
        "--log-dir",  # torchrun
        "--strict",  # mypy
        "--only",  # the benchmarks
    }
    quoted = re.findall(r"`([^`]+)`", text)
    flags = {flag for code in quoted for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", code)}
    assert flags <= known | of_others


def test_make_targets_exist() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in PAGES:
        for named in re.findall(r"`make (\w+)`|^make (\w+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert "".join(named) in targets


def test_files_and_names_that_contributors_are_sent_to_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## The house")[2]
    inside = [path for folder in ("simsam_batch", "tests", "docs") for path in (ROOT / folder).rglob("*")]
    there = [f"/{path.relative_to(ROOT).as_posix()}" for path in [*inside, *ROOT.iterdir()]]
    source = "".join(path.read_text(encoding="utf-8") for path in inside if path.suffix == ".py")
    for name in re.findall(r"`([\w./]+)`", text):
        if "/" in name or name.endswith((".py", ".toml")):
            assert any(path.endswith(f"/{name.rstrip('/')}") for path in there), f"there is no {name}"
        else:
            assert re.search(rf"\b{name.rpartition('.')[2]}\b", source), f"nothing is called {name}"


def test_the_settings_page_is_what_is_declared() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "write_settings.py"))["settings_page"]()
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == written, "run make docs"
    parts = re.split(r"^# Settings of `simsam [\w ]+` alone$", written, flags=re.MULTILINE)
    first, *others = (re.findall(r"^\| `(\w+)` \| `--", part, re.MULTILINE) for part in parts)
    base, *models = (each.settings() for each in COMMANDS)
    assert sorted(first) == sorted(base.model_fields)
    for then, model in zip(others, models, strict=True):
        fields = {name: field for name, field in model.model_fields.items() if name not in model.not_given()}
        assert set(fields) <= {*first, *then}
        assert set(then) <= set(fields)
        # a setting of both stands twice only where it is not the same
        for name in set(first) & set(then):
            one, other = base.model_fields[name], fields[name]
            assert (one.default, one.description) != (other.default, other.description)


def methods_of(command: str) -> str:
    """The section of docs/methods.md about a command."""
    return METHODS.split(f"\n## {command}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.name != "probe apply"], ids=lambda of: of.name)
def test_the_methods_name_every_preset_and_the_real_defaults(command: Any) -> None:
    fields = command.settings().model_fields
    section = methods_of(command.name)
    named = re.findall(r"`(?:--preset )?([a-z-]+)`", section)
    shared = set() if command.name == "segment" else {*presets_of(SegmentSettings)}
    assert {*presets_of(command.settings())} - shared <= {*named}
    checked = 0
    for *_, cell in table(section, "symbol"):
        for flag, shown in re.findall(r"`--([a-z0-9-]+)(?: ([^`]+))?`", f"`{cell}`"):
            name = flag.removeprefix("no-").replace("-", "_")
            default = fields[name].default
            value = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
            expected = ("", not flag.startswith("no-")) if isinstance(default, bool) else (value, default)
            assert (shown, default) == expected, f"--{flag} of {command.name}"
            checked += 1
    assert checked >= 2


def test_every_page_is_in_the_index_once() -> None:
    linked = re.findall(r"\]\(([^)#]+)\)", (ROOT / "docs" / "README.md").read_text(encoding="utf-8"))
    there = [path.name for pattern in ("*.md", "*.ipynb") for path in (ROOT / "docs").glob(pattern)]
    assert sorted([*linked, "README.md"]) == sorted(there)


def test_the_vocabulary_is_complete() -> None:
    words = [row[0] for row in table(WORDS, "word")]
    assert sorted(words) == sorted(
        [
            *("image record", "archive member", "catalog", "shard", "plan", "extend", "unit", "stage", "worker"),
            *("attachment", "fold", "ledger", "engine", "run", "done", "gone", "grid", "facet", "head", "region"),
            *("cluster", "label map", "refinement"),
        ]
    )


def test_the_guarantees_are_numbered_and_say_what_a_resume_lists() -> None:
    promised = GUARANTEES.split("## Guarantees\n")[1].split("\n## ")[0]
    assert [int(number) for number in re.findall(r"^(\d+)\. ", promised, re.MULTILINE)] == list(range(1, 8))
    assert f"{planning._CHEAP:,} images" in promised


def test_the_exit_codes_are_the_programs() -> None:
    codes = [int(row[0]) for row in table(GUARANTEES, "code")]
    assert codes == [0, cli.EXIT_COULD_NOT_RUN, cli.EXIT_TOO_MANY_FAILED, cli.EXIT_INTERRUPTED]


def test_every_column_of_the_rows_is_described_with_its_type(run: Path) -> None:
    described = [(name, kind) for name, kind, _ in table(OUTPUT, "column")]
    fields = [*ROW_FIELDS, *SEGMENT_FIELDS, *ARRAY_FIELDS]
    assert described == [(field.name, str(field.type)) for field in fields]
    written = pq.read_schema(run / "results" / "segment" / "part-00000.parquet")
    assert [name for name, _ in described if name != "objects"] == written.names


@pytest.mark.parametrize(
    ("stage", "heading", "own"),
    [("regions", "column of regions", REGIONS_FIELDS), ("semantic", "column of label maps", SEMANTIC_FIELDS)],
)
def test_every_column_of_the_stages_of_semantic_is_described_with_its_type(
    labelled: Path, stage: str, heading: str, own: list[Any]
) -> None:
    described = [(name, kind) for name, kind, _ in table(OUTPUT, heading)]
    fields = [*ROW_FIELDS, *own, *ARRAY_FIELDS]
    assert described == [(field.name, str(field.type)) for field in fields]
    written = pq.read_schema(labelled / "results" / stage / "part-00000.parquet")
    assert [name for name, _ in described] == written.names


def test_every_column_and_metric_of_features_is_described(run: Path) -> None:
    home = run.parent
    arguments = ["features", str(home / "photos"), str(home / "described"), "--resize", "native", "--quiet"]
    assert cli.run([*arguments, "--backbone", "descriptors", "--engine", "inline"]) == cli.EXIT_TOO_MANY_FAILED
    described = [(name, kind) for name, kind, _ in table(OUTPUT, "column of features")]
    assert described == [(field.name, str(field.type)) for field in [*ROW_FIELDS, *FEATURES_FIELDS, *ARRAY_FIELDS]]
    assert pq.read_schema(home / "described/results/features/part-00000.parquet").names == [n for n, _ in described]
    result = json.loads((home / "described/results/features.json").read_text())
    assert {name for name, _, _ in table(OUTPUT, "metric of features")} == set(result["metrics"])


def test_every_column_and_metric_of_trees_is_described(parsed: Path) -> None:
    described = [(name, kind) for name, kind, _ in table(OUTPUT, "column of trees")]
    assert described == [(field.name, str(field.type)) for field in [*ROW_FIELDS, *HIERARCHY_FIELDS, *ARRAY_FIELDS]]
    result = json.loads((parsed / "results" / "hierarchy.json").read_text())
    assert {name for name, _, _ in table(OUTPUT, "metric of trees")} == set(result["metrics"])
    assert all(
        name in ("grid", "kmeans", "kmeans_all") or name.startswith("kmeans_")
        for name in result["metrics"]["baselines"]
    )


def test_every_column_and_metric_of_the_labels_of_nodes_is_described(parsed: Path) -> None:
    described = [(name, kind) for name, kind, _ in table(OUTPUT, "column of labels")]
    assert described == [(field.name, str(field.type)) for field in [*ROW_FIELDS, *LABELS_FIELDS, *ARRAY_FIELDS]]
    result = json.loads((parsed / "results" / "labels.json").read_text())
    assert {name for name, _, _ in table(OUTPUT, "metric of labels")} == set(result["metrics"])


PROBE_FIELDS = {
    "patch-labels": PATCH_LABELS_FIELDS,
    "subsets": SUBSETS_FIELDS,
    "probe-fits": PROBE_FITS_FIELDS,
    "probe-maps": PROBE_MAPS_FIELDS,
    "probe-table": PROBE_TABLE_FIELDS,
}
PAIR_FIELDS = {"embeddings": EMBEDDINGS_FIELDS, "matches": MATCHES_FIELDS, "transfer": TRANSFER_FIELDS}


WITH_COLUMNS = [
    (PROBES, PROBE_FIELDS),
    (CORRESPOND, PAIR_FIELDS),
    (STYLIZE, {"style-networks": NETWORK_FIELDS, "stylize": STYLIZE_FIELDS}),
]


@pytest.mark.parametrize(
    ("page", "stage", "fields"),
    [(page, stage, of[stage]) for page, of in WITH_COLUMNS for stage in of],
    ids=lambda of: "",
)
def test_every_column_of_the_stages_with_pages_of_their_own_is_described_with_its_type(
    page: str, stage: str, fields: list[pa.Field]
) -> None:
    described = [row[:2] for row in table(page, f"column of {stage}")]
    assert described == [[field.name, str(field.type)] for field in fields]


@pytest.mark.parametrize(("stage", "heading"), [("regions", "metric of regions"), ("semantic", "metric of label maps")])
def test_every_metric_of_the_stages_of_semantic_is_described(labelled: Path, stage: str, heading: str) -> None:
    result = json.loads((labelled / "results" / f"{stage}.json").read_text())
    assert {name for name, _, _ in table(OUTPUT, heading)} == set(result["metrics"])
    assert set(result) == {name for name, _, _ in table(after("`results/segment.json`"), "key")}


def test_every_column_and_metric_of_clusters_is_described(labelled: Path, parsed: Path) -> None:
    described = [(name, kind) for name, kind, _ in table(OUTPUT, "column of clusters")]
    fields = [*row_fields("repeat"), *CLUSTERS_FIELDS, *ARRAY_FIELDS]
    assert described == [(field.name, str(field.type)) for field in fields]
    metrics = [name for name, _, _ in table(OUTPUT, "metric of clusters")]
    for home, stage, things in ((labelled, "clusters", "regions"), (parsed, "node-clusters", "nodes")):
        assert pq.read_schema(home / "results" / stage / "part-00000.parquet").names == [name for name, _ in described]
        result = json.loads((home / "results" / f"{stage}.json").read_text())
        assert set(result["metrics"]) == {things, *metrics[1:]}


def test_the_codebook_is_read_as_described(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(labelled.parent)
    names: dict[str, Any] = {}
    (snippet,) = (code for code in code_blocks(ROOT / "docs" / "output.md", "python") if "codebook" in code)
    exec(compile(snippet, "output.md", "exec"), names)
    assert names["centers"].dtype == np.float32
    assert len(names["centers"]) == 2
    assert all(f"`{name}`" in after("Clusters") for name in names["codebook"].files)


def test_what_a_stage_records_is_described(run: Path, parsed: Path) -> None:
    kinds = {int: "integer", str: "string", dict: "object"}
    described = {name: kind for name, kind, _ in table(OUTPUT, "key of `stage.json`")}
    for home, stage in ((run, "segment"), (parsed, "node-clusters")):
        record = json.loads((home / stage / "stage.json").read_text())
        assert described == {name: kinds[type(value)] for name, value in record.items()}
        assert record["schema_version"] == SCHEMA_VERSION
    stages = {command: re.findall(r"`([\w-]+)`", f"`{cell}`") for command, cell in table(OUTPUT, "command")}
    for each in COMMANDS:
        assert [name for name in stages[each.name] if not name.startswith("--")] == list(each.stages)


@pytest.mark.parametrize(
    ("heading", "file"),
    [("`results/segment.json`", "results/segment.json"), ("Manifests", "segment/manifests/0000000.0.json")],
)
def test_every_key_of_the_json_files_is_described_with_its_type(run: Path, heading: str, file: str) -> None:
    held = json.loads((run / file).read_text())
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "list", dict: "object"}
    described = {name: kind for name, kind, _ in table(after(heading), "key")}
    assert described == {name: kinds[type(value)] for name, value in held.items()}


def test_every_metric_is_described(run: Path) -> None:
    metrics = json.loads((run / "results" / "segment.json").read_text())["metrics"]
    assert {name for name, _, _ in table(OUTPUT, "metric")} == set(metrics)
    assert (metrics["degenerate"], metrics["truth_errors"], metrics["images_scored"]) == (1, 1, 2)


def test_every_file_of_a_run_is_described(run: Path, labelled: Path) -> None:
    described = "\n".join(row[0] for row in table(OUTPUT, "path"))
    for path in [*run.rglob("*"), *labelled.rglob("*")]:
        if path.is_file():
            home = run if path.is_relative_to(run) else labelled
            # the stages of semantic have what segment has
            name = re.sub(r"\b(regions|(patch-)?clusters|semantic)\b", "segment", path.relative_to(home).as_posix())
            name = re.sub(r"[0-9a-f]{64}", "<digest>", name)
            name = re.sub(r"^events/[^/]+/", "events/<driver>/", name)
            pattern = re.sub(r"\d+", r"\\d+", re.escape(name.removesuffix(path.suffix)))
            assert re.search(pattern, described), name


def test_every_described_cause_of_failure_is_one_of_the_programs() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "simsam_batch").rglob("*.py"))
    described = {kind for kind, _ in table(OUTPUT, "`error_type` | cause")}
    assert all(f'"{kind}"' in source for kind in described)
    named = set(re.findall(r'ImageError\(\s*"(\w+)"', source)) | set(re.findall(r'_Trouble\(\s*"(\w+)"', source))
    # a storage that does not answer fails the attempt, not the image
    assert named - {"storage"} <= described


def test_the_readmes_snippet_reads_a_run(
    run: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (objects,) = code_blocks(ROOT / "README.md", "python")
    monkeypatch.chdir(run.parent)
    names: dict[str, Any] = {}
    exec(compile(objects, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "iou_per_image_mean" in printed
    assert (names["image_id"], names["mask"].shape, names["mask"].dtype) == ("one colour.png", (64, 64), np.bool_)
    maps = dict(names["simsam_batch"].open_run("labels").masks())
    assert (maps["0.png"].shape, maps["0.png"].dtype) == ((96, 128), np.int32)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from simsam_batch.demo import run_demo

    folder = tmp_path_factory.mktemp("demo")
    run_demo(str(folder))
    return folder / "run"


@pytest.mark.slow
def test_the_readmes_score_is_the_demos(demo: Path) -> None:
    result = json.loads((demo / "results" / "segment.json").read_text())
    (shown,) = re.findall(r"Mean IoU with masks drawn by hand: (\.\d\d)\.", README)
    assert float(shown) == pytest.approx(result["metrics"]["iou_per_image_mean"], abs=0.005)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine: apt-get install chromium")
def test_the_readmes_picture_is_of_the_demos_page(demo: Path) -> None:
    photographed = runpy.run_path(str(ROOT / "docs" / "write_report_picture.py"))["photographed"]
    picture = ROOT / "docs" / "report.png"
    assert picture.stat().st_size < 400_000
    with Image.open(picture) as ours, Image.open(io.BytesIO(photographed(demo / "report" / "index.html"))) as made:
        again = made.convert("RGB").resize(ours.size, Image.Resampling.LANCZOS)
        difference = np.abs(np.asarray(ours.convert("RGB"), np.int16) - np.asarray(again, np.int16))
    # pace and time of the commit are others each time
    assert difference.mean() < 4, "docs/report.png is of another page: python docs/write_report_picture.py"


def test_the_version_is_the_same_everywhere() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_pre_commit_fetches_nothing_and_calls_tools_that_exist() -> None:
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    declared = (ROOT / "pyproject.toml").read_text()
    for repository in configuration["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            tool = hook["entry"].split()[0].removeprefix(".venv/bin/").replace("lint-imports", "import-linter")
            assert tool == "python" or f'"{tool}>=' in declared


def test_the_container_copies_what_there_is_and_runs_as_nobody_special() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    ]
    assert set(copied) == let_through
    assert all((ROOT / name).exists() for name in copied)
    extras = re.findall(r"^ARG EXTRAS=(.*)$", "\n".join(lines), re.MULTILINE)[0].split(",")
    assert all(f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text() for extra in extras)
    assert lines.index("USER 1000") < lines.index('ENTRYPOINT ["simsam"]')
