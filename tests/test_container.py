"""The Dockerfile: linted, and its own steps carried out in a clean virtual environment in place of a container.

There is no container engine in the suite. The steps of the build stage are read from the file and run as they stand,
but for two things: ``/opt/simsam`` and ``/source`` are folders of the test, and pip is told not to install what the
package needs (``PIP_NO_DEPS``), gigabytes that are there already: the packages of the environment that runs the tests
are put on the path of the clean one. ``pip check``, a step of the build, then compares the two.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@dataclass(frozen=True)
class Step:
    """One instruction: its word, and all its words behind it on one line."""

    word: str
    text: str


def steps() -> list[Step]:
    """The instructions in order, without comments, continued lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [Step(*line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def stage(number: int) -> list[Step]:
    """The instructions of one stage, behind its FROM."""
    starts = [index for index, step in enumerate(steps()) if step.word == "FROM"] + [len(steps())]
    return steps()[starts[number] + 1 : starts[number + 1]]


def test_the_dockerfile_is_clean() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_stage_has_the_python_that_the_pins_were_tested_with() -> None:
    bases = [step.text.split()[0] for step in steps() if step.word == "FROM"]
    assert set(bases) == {"python:${PYTHON}-slim"}
    assert f"ARG PYTHON={sys.version_info.major}.{sys.version_info.minor}\n" in DOCKERFILE
    assert "-c constraints.txt" in "".join(step.text for step in stage(0) if step.word == "RUN")


def test_everything_is_run_as_nobody_special() -> None:
    words = [step.word for step in stage(1)]
    user = words.index("USER")
    assert stage(1)[user].text == "1000"
    assert {"ENTRYPOINT", "CMD", "HEALTHCHECK"} <= set(words[user:])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The virtual environment that the build stage's steps have made."""
    home = tmp_path_factory.mktemp("container")
    environment, source = home / "simsam", home / "source"
    source.mkdir()
    variables = {"PATH": f"{Path(sys._base_executable).parent}:/usr/bin:/bin", "HOME": str(home), "PIP_NO_DEPS": "1"}
    variables |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_CONFIG", "PIP_INDEX"))}
    for step in stage(0):
        if step.word == "ARG":
            name, _, value = step.text.partition("=")
            variables[name] = value
        elif step.word == "WORKDIR":
            assert step.text == "/source"
        elif step.word == "COPY":
            *names, target = step.text.split()
            for name in names:
                if (ROOT / name).is_dir():
                    unbuilt = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(ROOT / name, source / target, ignore=unbuilt)
                else:
                    shutil.copy(ROOT / name, source / target)
        else:
            assert step.word == "RUN"
            command = re.sub(r"--mount=\S+", "", step.text).replace("/opt/simsam", str(environment))
            done = subprocess.run(
                ["sh", "-e", "-c", command], cwd=source, env=variables, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            assert "does not provide the extra" not in done.stderr
        inside = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        if inside.is_dir() and not (inside / "tests.pth").exists():
            (inside / "tests.pth").write_text(sysconfig.get_path("purelib"))
            # Python's own old one would stand before the one that torch needs
            shutil.rmtree(inside / "setuptools", ignore_errors=True)
            for record in inside.glob("setuptools-*.dist-info"):
                shutil.rmtree(record)
    return environment


def run_built(built: Path, *command: str, cwd: Path) -> str:
    """What a command prints in the container's environment, of which it must know nothing else."""
    variables = {"PATH": f"{built}/bin:/usr/bin:/bin", "HOME": str(cwd)}
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_what_the_steps_build_segments_the_demo(built: Path, tmp_path: Path) -> None:
    where = run_built(built, "python", "-c", "import simsam_batch; print(simsam_batch.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(built), "the package itself is the one that the steps have installed"
    run_built(built, "simsam", "demo", cwd=tmp_path)
    result = json.loads((tmp_path / "demo-output" / "run" / "results" / "segment.json").read_text())
    assert (result["ok"], result["failed"]) == (6, 0)


@pytest.mark.slow
def test_the_healthcheck_is_a_command_of_what_was_built(built: Path, tmp_path: Path) -> None:
    (check,) = [step.text for step in stage(1) if step.word == "HEALTHCHECK"]
    command = json.loads(check.partition("CMD ")[2])
    assert "FAILED" not in run_built(built, *command, cwd=tmp_path)


@pytest.mark.slow
def test_commands_are_found_by_login_shells_too(built: Path) -> None:
    (links,) = [step.text for step in stage(1) if step.word == "RUN" and step.text.startswith("ln -s")]
    linked = set(re.findall(r"/opt/simsam/bin/(\w+)(?= )", links))
    assert linked == {"simsam", "torchrun", "ray"}
    # torchrun and ray come with packages that are not installed a second time here
    assert (built / "bin" / "simsam").is_file()
    assert all((Path(sys.executable).parent / name).is_file() for name in linked)
