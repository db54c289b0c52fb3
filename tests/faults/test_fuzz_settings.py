"""Settings files of any content are settings or one message, soon and without much memory."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simsam_batch.errors import SettingsError
from simsam_batch.settings import read_yaml, resolve
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.stages.semantic.settings import SemanticSettings

NAMES = [*SemanticSettings.model_fields, "preset", "nonsense", "max-pixels"]
LEAVES = ["1", "-1", "0", "1e400", ".nan", "-.inf", "true", "~", "''", "'x'", "*a", "&a 1", "!!bool x", "!!int ''"]
LEAVES += ["!!timestamp x", "!!binary x", "2020-99-99", "1:" * 300 + "1.5", "9" * 5000, "!!python/name:os.system"]
LEAVES += ["!!python/object/apply:os.system [exit 1]", "[1, [2, {}]]", "{a: b}", "? [k]\n: v", *SegmentSettings.presets]

documents = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(LEAVES)), max_size=6).map(
    lambda lines: "\n".join(f"{name}: {leaf}" for name, leaf in lines)
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def settings_of(content: bytes) -> Any:
    """The settings in a file of this content, or the message why there are none."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "settings.yaml"
        path.write_bytes(content)
        try:
            return resolve(SegmentSettings, {}, read_yaml(str(path)))
        except SettingsError as error:
            message = str(error)
    assert 0 < len(message) < 20_000
    return message


@settings(max_examples=150, deadline=None)
@given(documents)
@example("preset: [dsm]")
@example("seed: " + "[" * 20_000)
def test_every_document_is_settings_or_a_message(text: str) -> None:
    assert isinstance(settings_of(text.encode()), SegmentSettings | str)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_every_file_is_settings_or_a_message(content: bytes) -> None:
    assert isinstance(settings_of(content), SegmentSettings | str)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), values, max_size=4))
def test_every_value_is_taken_or_refused_by_name(given_values: dict[str, Any]) -> None:
    found: SemanticSettings | str
    try:
        found = resolve(SemanticSettings, given_values)
    except SettingsError as error:
        found = str(error)
    if isinstance(found, str):
        assert any(name in found for name in given_values)


@pytest.mark.parametrize(
    "form",
    [
        # nine to the ninth power values, written out in a message
        "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
        + "seed: *a8\n",
        # as many keys, merged into one mapping
        "a0: &a0 {x: 1}\n"
        + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 9))
        + "<<: *a8\n",
        "seed: &a [*a]\n",
    ],
    ids=["nested", "merged", "endless"],
)
def test_a_short_file_cannot_grow_without_bound(form: str) -> None:
    tracemalloc.start()
    start = time.process_time()
    found = settings_of(form.encode())
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "aliases" in found
    assert seconds < 2
    assert peak < 20_000_000


def test_no_tag_runs_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    found = settings_of(f"seed: !!python/object/apply:os.system ['touch {mark}']".encode())
    assert "cannot be read as YAML" in found
    assert not mark.exists()
