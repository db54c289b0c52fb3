"""``simsam_batch.segment`` and its siblings: the commands that compute, as functions with the same settings."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import runpy
import subprocess
import sys
import threading
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

import simsam_batch
from simsam_batch import calling, cli
from simsam_batch.errors import SettingsError
from simsam_batch.stages.registry import COMMANDS

ROOT = Path(__file__).parent.parent
QUICK = {"backbone": "descriptors", "resize": "native", "head": "none", "k": 4, "engine": "inline", "quiet": True}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(80, 120, (64, 96, 3)).astype(np.uint8)
        pixels[16:48, 16:64] = (210, 40, 40)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_every_command_that_computes_is_a_function_with_its_options() -> None:
    assert [each.name for each in calling.functions().values()] == [each.name for each in COMMANDS]
    assert {*calling.functions(), "Run", "open_run", "__version__"} == {*simsam_batch.__all__}
    for name, command in calling.functions().items():
        function = getattr(simsam_batch, name)
        signature = inspect.signature(function)
        of_cli = cli.simsam.get_command(click.Context(cli.simsam), command.name)
        assert of_cli is not None
        shown = {each.name for each in of_cli.params if not getattr(each, "hidden", False)}
        assert {*signature.parameters} == shown - {"print_config", "changed", "help_all", "debug"}
        text = inspect.getdoc(function)
        assert text is not None
        assert all(f"    {each}: " in text for each in signature.parameters)
        assert function.__name__ == name
        assert pickle.loads(pickle.dumps(function)) is function
    assert inspect.signature(simsam_batch.segment).parameters["k"].default == 15
    with pytest.raises(AttributeError, match="has no attribute 'sgment'"):
        simsam_batch.sgment  # type: ignore[attr-defined]  # noqa: B018


def test_the_types_are_written_from_the_settings() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "write_signatures.py"))["stub"]()
    assert (ROOT / "simsam_batch" / "__init__.pyi").read_text(encoding="utf-8") == written, "make docs writes it"


def test_a_call_does_what_the_command_does(photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = simsam_batch.segment(photos, out=tmp_path / "called", **QUICK)
    assert isinstance(run, simsam_batch.Run)
    assert capfd.readouterr() == ("", "")
    words = [word for name, value in QUICK.items() if name != "quiet" for word in (f"--{name}", str(value))]
    assert cli.run(["segment", str(photos), str(tmp_path / "said"), *words, "--quiet"]) == 0
    said = json.loads((tmp_path / "said/results/segment.json").read_text())
    assert run.result("segment")["content_digest"] == said["content_digest"]
    assert [image_id for image_id, _ in run.masks()] == ["0.png", "1.png", "2.png"]
    again = simsam_batch.segment(photos, tmp_path / "called", **(QUICK | {"quiet": False}))
    assert len(again) == 3
    assert "segment: 3 images in 1 shard; going on, 1 shard done before" in capfd.readouterr().err


def test_several_paths_are_one_input(photos: Path, tmp_path: Path) -> None:
    run = simsam_batch.segment([photos / "0.png", photos / "2.png"], tmp_path / "out", **QUICK)
    assert [Path(image_id).name for image_id, _ in run.masks()] == ["0.png", "2.png"]


def test_what_is_given_wins_over_a_file_and_a_file_over_a_preset(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("preset: tokencut\nk: 3\nresize: native\nseed: 5\n")
    given = {name: QUICK[name] for name in ("backbone", "engine", "quiet")}
    run = simsam_batch.segment(photos, tmp_path / "out", config=tmp_path / "mine.yaml", seed=np.int64(7), **given)
    settings = run.rows("segment").settings
    assert (settings["affinity"], settings["k"], settings["seed"]) == ("binary", 3, 7)
    other = simsam_batch.segment(photos, tmp_path / "other", preset="dsm", **given)
    assert (other.rows("segment").settings["shift"], other.rows("segment").settings["k"]) == ("zero", 5)


def test_commands_of_two_words_and_lists_of_values(photos: Path, tmp_path: Path) -> None:
    given = {name: QUICK[name] for name in ("backbone", "resize", "engine", "quiet")}
    run = simsam_batch.extract_features(photos, tmp_path / "out", facets=["token"], blocks=[0], **given)
    assert {*run.features("0.png")} == {"token-0", "norm-0"}
    with pytest.raises(SettingsError, match=r"no stage features.*give the OUT of a finished simsam probe"):
        simsam_batch.probe_apply(tmp_path / "out" / "nothing", photos, tmp_path / "applied", quiet=True)


@pytest.mark.parametrize(
    ("places", "settings", "message"),
    [
        (["photos", "out"], {"epocs": 3}, "'epocs': unknown setting of segment; did you mean 'epochs'?"),
        (["photos"], {"ot": "out"}, "'ot': unknown setting of segment; did you mean 'out'?"),
        (["photos", "out"], {"zzz": 3}, "give another name or none; help(simsam_batch.segment) lists all"),
        (["photos"], {}, "segment: out is missing. To mend it: give it, simsam_batch.segment(images, out, ...)"),
        (["photos", "out", "dsm"], {}, "only images, out go without a name"),
        (["photos", "out"], {"out": "other"}, "out is given twice"),
        ([[], "out"], {}, "images [] is no path or URL"),
        ([["a.jpg", 7], "out"], {}, "images ['a.jpg', 7] is no path or URL"),
        (["photos", ["out"]], {}, "out ['out'] is no path or URL"),
        (["photos", ""], {}, "'' is no path or URL: it is empty"),
        (["photos\0", "out"], {}, "is no path or URL: it holds a null character"),
        (["photos", "out"], {"preset": "tokncut"}, "did you mean 'tokencut'?"),
        (["photos", "out"], {"shift": "mena", "k": "x"}, "k: 'x' is not allowed; it is a whole number, at least 2"),
        (["photos", "out"], {"config": "none.yaml"}, "config none.yaml: cannot be read as YAML"),
    ],
)
def test_what_is_given_wrongly_is_named_and_nothing_is_written(
    places: list[object], settings: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as raised:
        simsam_batch.segment(*places, **settings)  # type: ignore[arg-type]
    assert message in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_it_runs_while_an_event_loop_does_and_in_another_thread(photos: Path, tmp_path: Path) -> None:
    async def in_a_notebook() -> simsam_batch.Run:
        return simsam_batch.segment(photos, tmp_path / "loop", **QUICK)

    found = [asyncio.run(in_a_notebook())]
    thread = threading.Thread(target=lambda: found.append(simsam_batch.segment(photos, tmp_path / "thread", **QUICK)))
    thread.start()
    thread.join()
    first, second = (run.result("segment")["content_digest"] for run in found)
    assert first == second


@pytest.mark.soak
def test_a_type_checker_knows_the_settings(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(
        "from pathlib import Path\nimport simsam_batch\n"
        "run = simsam_batch.segment([Path('a'), 'b'], 'out', preset='dsm', k=3, truth=Path('t'))\n"
        "simsam_batch.extract_features('a', 'out', facets=['key'], blocks=1)\n"
        "reveal_type(run.scores)\n"
        "simsam_batch.segment('a', 'out', epocs=3)\n"
        "simsam_batch.segment('a', 'out', shift='mena')\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir=cache", "user.py"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert 'Revealed type is "dict[str, dict[str, float]]"' in said
    assert 'Unexpected keyword argument "epocs" for "segment"; did you mean "epochs"?' in said
    assert 'Argument "shift" to "segment" has incompatible type' in said
    assert "Found 2 errors" in said


@pytest.mark.slow
def test_worker_processes_need_no_main_guard(photos: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, simsam_batch\n"
        "print('begun')\n"
        "run = simsam_batch.segment(sys.argv[1], 'out', backbone='descriptors', resize='native', head='none', "
        "workers=2, shard_size=1)\n"
        "print(run.result('segment')['ok'])\n"
    )
    command = [sys.executable, str(script), str(photos)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    # once each: no worker has run the script again
    assert done.stdout.split() == ["begun", "3"]
    assert "3 images done, 0 of them failed" in done.stderr
