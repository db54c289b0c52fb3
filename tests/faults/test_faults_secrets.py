"""Credentials reach no file, no log and no message; nothing read is executed."""

from __future__ import annotations

import ast
import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

import simsam_batch
from simsam_batch.storage import redact

SECRET = "PLANTED/SECRET+KEY=="
SOURCES = sorted(Path(simsam_batch.__file__).parent.rglob("*.py"))
SETTINGS = ["--backbone", "descriptors", "--resize", "native", "--head", "none", "--k", "4", "--shard-size", "2"]


def traces(content: bytes) -> list[str]:
    """In which forms the planted key stands in something written."""
    forms = {"plain": SECRET, "quoted": quote(SECRET, safe=""), "base64": base64.b64encode(SECRET.encode()).decode()}
    forms["beginning"] = "PLANTED"
    return [name for name, form in forms.items() if form.encode() in content]


def simsam(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, bytes]:
    """A command's exit code, and all that it and its workers printed."""
    command = [sys.executable, "-m", "simsam_batch", *arguments]
    env = os.environ | (environment or {})
    done = subprocess.run(command, env=env, capture_output=True, timeout=200, check=False)
    return done.returncode, done.stdout + done.stderr


def written_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        yield str(path), str(path).encode()
        if path.is_file():
            yield str(path), path.read_bytes()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    (folder / "words.png").write_text("no picture")
    return folder


@pytest.mark.slow
def test_a_run_writes_no_credential_of_its_environment(
    pictures: Path, tmp_path: Path, s3_url: str, request: pytest.FixtureRequest
) -> None:
    """A run on object storage with a bad image, read back whole; then the same with a store that cannot be reached."""
    import fsspec

    if os.environ.get("SIMSAM_TEST_S3_URL"):
        pytest.skip("the real store would refuse the planted key")
    fs = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    fs.put(str(pictures), f"{s3_url}/pictures", recursive=True)
    # moto takes any key
    secrets = {
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": SECRET,
        "FSSPEC_S3_KEY": "test",
        "FSSPEC_S3_SECRET": SECRET,
    }
    segment = ["segment", f"{s3_url}/pictures", f"{s3_url}/out", *SETTINGS, "--workers", "1", "--engine", "local"]
    code, printed = simsam(*segment, "--log-format", "json", environment=secrets)
    assert (code, traces(printed)) == (3, []), printed.decode()
    assert b"words.png" in printed
    fs.get(f"{s3_url}/out", str(tmp_path / "copy"), recursive=True)
    files = dict(written_below(tmp_path / "copy"))
    assert len(files) > 8
    assert {name: traces(content) for name, content in files.items() if traces(content)} == {}

    endpoint = f"http://someone:{quote(SECRET, safe='')}@127.0.0.1:9"
    impatient = "from simsam_batch.storage import retrying; retrying.PAUSES_S = (); "
    command = [sys.executable, "-c", f"{impatient}from simsam_batch.cli import main; main({[*segment, '--debug']})"]
    env = os.environ | secrets | {"AWS_ENDPOINT_URL": endpoint, "AWS_MAX_ATTEMPTS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, timeout=100, check=False)
    assert (done.returncode, traces(done.stdout + done.stderr)) == (1, []), done.stderr.decode()
    assert b"Traceback" in done.stderr


URLS = {
    "user": f"http://someone:{quote(SECRET, safe='')}@127.0.0.1:9/place",
    "signed": f"http://127.0.0.1:9/place?X-Amz-Signature={quote(SECRET, safe='')}&X-Amz-Expires=60",
    "token": f"http://127.0.0.1:9/place#access_token={quote(SECRET, safe='')}",
}


@pytest.mark.parametrize("kind", URLS)
@pytest.mark.parametrize("where", ["images", "out", "truth", "weights", "list", "config"])
def test_a_url_with_a_credential_is_shown_without_it(
    pictures: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    where: str,
    kind: str,
) -> None:
    from simsam_batch.cli import run

    url, out = URLS[kind], tmp_path / "out"
    arguments = {
        "images": [f"{url}", str(out)],
        "out": [str(pictures), url],
        "truth": [str(pictures), str(out), "--truth", url],
        "weights": [str(pictures), str(out), "--weights", url],
        "list": [str(tmp_path / "list.txt"), str(out)],
        "config": [str(pictures), str(out), "--config", str(tmp_path / "settings.yaml")],
    }[where]
    (tmp_path / "list.txt").write_text(f"{pictures}/0.png\n{url}\n")
    (tmp_path / "settings.yaml").write_text(f"affinity: '{url}'\n")
    backbone = SETTINGS[2:] if where == "weights" else SETTINGS
    assert run(["segment", *arguments, *backbone, "--workers", "1", "--engine", "local", "--debug"]) == 1
    printed = "".join(capfd.readouterr())
    assert "Traceback" in printed
    assert traces((printed + caplog.text).encode()) == [], printed + caplog.text
    for name, content in written_below(out):
        assert traces(content) == [], name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://me:p@ss@word@bucket/key", "s3://bucket/key"),
        ("http://h/x#access_token=abc&scope=all", "http://h/x#access_token=***&scope=all"),
        ("https://h/x?pwd=abc&jwt=def&width=3", "https://h/x?pwd=***&jwt=***&width=3"),
        (f"https://{'u' * 1500}:x@h/x", "https://h/x"),
    ],
)
def test_rarer_places_of_a_credential_are_known_too(text: str, expected: str) -> None:
    assert redact(text) == expected


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, as ``module.function`` as far as it is written so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_nothing_is_unpickled_but_between_a_process_and_its_own_children() -> None:
    found = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        if names & {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}:
            found[path.name] = {name for name, _ in calls(tree) if re.search(r"pickle\.\w+$", name)}
    # a child reads what its parent wrote into the pipe between them; Ray's workers read what its driver sent
    assert set(found) == {"child.py", "ray.py"}
    assert found["child.py"] == {"pickle.dumps", "pickle.loads"}
    assert found["ray.py"] == {"ray.cloudpickle.dumps", "pickle.loads"}


def test_readers_that_could_run_code_are_called_safely() -> None:
    for path in SOURCES:
        for name, call in calls(ast.parse(path.read_text())):
            given = {word.arg: ast.unparse(word.value) for word in call.keywords}
            where = f"{path.name}:{call.lineno}: {name}"
            if name in {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"}:
                pytest.fail(where)
            if name.startswith("torch.") and name.endswith(".load"):
                assert given.get("weights_only") == "True", where
            if name in {"np.load", "numpy.load"}:
                assert given.get("allow_pickle") == "False", where
            assert name not in {"eval", "exec", "os.system", "os.popen", "compile"}, where
            assert given.get("shell") != "True", where


@pytest.mark.slow
def test_ids_and_names_that_climb_or_command_write_nothing_outside_out(pictures: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = [
        "../../escaped",
        "/tmp/escaped",
        "a\n\x1b[31mred",
        "<script>alert(1)</script>",
        "n" * 300,
    ]
    uris = [str(pictures / f"{number % 3}.png") for number in range(len(ids))]
    place = tmp_path / "place"
    place.mkdir()
    pq.write_table(pa.table({"image_id": ids, "uri": uris}), place / "table.parquet")
    out = place / "deep" / "out"
    before = set(tmp_path.rglob("*"))
    code, printed = simsam("segment", str(place / "table.parquet"), str(out), *SETTINGS, "--engine", "inline")
    assert code == 0, printed.decode()
    new = set(tmp_path.rglob("*")) - before
    assert all(path == out.parent or path.is_relative_to(out) for path in new)
    # files are named by shards and starts alone
    assert all(re.fullmatch(r"[\w.-]+", part) for path in new for part in path.relative_to(place).parts)
    assert pq.read_table(out / "results" / "segment")["image_id"].to_pylist() == ids
    assert b"\x1b[31m" not in printed


def test_the_container_does_not_run_as_root() -> None:
    lines = (Path(__file__).parents[2] / "Dockerfile").read_text().splitlines()
    final = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM")) :]
    users = [line.split()[1] for line in final if line.startswith("USER")]
    assert users
    assert users[-1] not in {"0", "root"}
    after = final[max(number for number, line in enumerate(final) if line.startswith("USER")) :]
    assert not any(line.startswith(("RUN", "COPY", "ADD")) for line in after)
    assert not any(re.search(r"(KEY|SECRET|TOKEN|PASSWORD)=", line) for line in lines)
