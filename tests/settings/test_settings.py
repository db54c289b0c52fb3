"""Settings: one declaration, clear refusals, presets that are what was published."""

from __future__ import annotations

import pytest
import yaml

from simsam_batch.errors import SettingsError
from simsam_batch.settings import FeatureSettings, presets_of, read_yaml, resolve
from simsam_batch.stages.hierarchy.settings import HierarchySettings
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.stages.semantic.settings import SemanticSettings


def test_flags_win_over_the_file_and_the_file_over_the_preset() -> None:
    settings = resolve(SegmentSettings, {"preset": "dsm", "seed": "7"}, {"seed": 3, "k": 9})
    assert (settings.head, settings.k, settings.seed) == ("none", 9, 7)


def test_a_file_may_name_the_preset_and_write_names_with_dashes() -> None:
    settings = resolve(SegmentSettings, {}, {"preset": "tokencut", "shard-size": 16})
    assert (settings.affinity, settings.side, settings.shard_size) == ("binary", "largest-entry", 16)


def test_an_unknown_key_is_refused_by_name_with_the_nearest_known_one() -> None:
    with pytest.raises(SettingsError, match=r"run\.yaml: unknown setting 'epoch'; did you mean 'epochs'\?"):
        resolve(SegmentSettings, {}, {"epoch": 3}, "run.yaml")


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("epochs", "ten", "a whole number, at least 1"),
        ("kappa", -1, "a number, at least 0"),
        ("facet", "keys", r"key \| query \| value \| token"),
        ("quiet", "perhaps", "true or false"),
        ("backbone", 3, "text"),
        ("keep_columns", 3, "a list of texts"),
        ("allow_failed", 1.5, "a number, at least 0, at most 1"),
    ],
)
def test_a_bad_value_is_refused_with_what_was_given_and_what_is_allowed(key: str, value: object, allowed: str) -> None:
    with pytest.raises(SettingsError, match=rf"{key}: {value!r} is not allowed; it is {allowed}"):
        resolve(SegmentSettings, {key: value})


def test_every_bad_value_is_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"(?s)epochs: 0 .*\nk: 1 "):
        resolve(SegmentSettings, {"epochs": 0, "k": 1})


def test_combinations_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SettingsError, match="affinity: 'binary' knows no head"):
        resolve(SegmentSettings, {"affinity": "binary"})
    with pytest.raises(SettingsError, match="takes no colour"):
        resolve(SegmentSettings, {"affinity": "binary", "head": "none", "color_weight": 1})
    with pytest.raises(SettingsError, match=r"outlier_ratio: 0\.5"):
        resolve(SegmentSettings, {"outlier_ratio": 0.5})
    with pytest.raises(SettingsError, match="center_head"):
        resolve(SegmentSettings, {"head": "upstream-cli"})


@pytest.mark.parametrize("model", [SegmentSettings, SemanticSettings, HierarchySettings])
def test_every_preset_is_a_valid_set_of_settings(model: type[FeatureSettings]) -> None:
    for preset in presets_of(model):
        settings = resolve(model, {"preset": preset})
        assert settings.outlier_ratio == 0, "no published method leaves tokens out"
        assert settings.precision == "fp32"


def test_a_preset_of_another_command_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"preset: 'dsm' is not one of hierarchy-paper \| hierarchy-code"):
        resolve(HierarchySettings, {"preset": "dsm"})


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"preset: 'dms' is not one of dsm \| tokencut"):
        resolve(SegmentSettings, {"preset": "dms"})


def test_printed_settings_read_back_as_the_same_settings() -> None:
    settings = resolve(SegmentSettings, {"preset": "simsam-paper", "keep_columns": ["a", "b"], "seed": 5})
    again = resolve(SegmentSettings, {}, yaml.safe_load(yaml.safe_dump(settings.model_dump(mode="json"))))
    assert again == settings


def test_kinds_part_the_settings_without_rest() -> None:
    names = [name for kind in ("result", "input", "operation") for name in SegmentSettings.fields_of(kind)]
    assert sorted(names) == sorted(SegmentSettings.model_fields)
    assert {"kappa", "seed", "threads", "precision"} <= set(SegmentSettings.fields_of("result"))
    assert {"engine", "workers", "log_format"} <= set(SegmentSettings.fields_of("operation"))


@pytest.mark.parametrize("content", ["- a\n- b\n", "seed: [1\n", "\x00"])
def test_a_settings_file_that_is_no_mapping_is_refused(tmp_path, content: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(SettingsError, match=r"run\.yaml"):
        read_yaml(str(path))


def test_a_missing_settings_file_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        read_yaml(str(tmp_path / "nowhere.yaml"))


def test_an_empty_settings_file_says_nothing(tmp_path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("# all defaults\n")
    assert read_yaml(str(path)) == {}
