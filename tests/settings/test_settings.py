"""Settings: one declaration, clear refusals, presets that are what was published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from simsam_batch.errors import SettingsError
from simsam_batch.settings import FeatureSettings, RunSettings, presets_of, read_yaml, resolve
from simsam_batch.stages.features.settings import FeaturesSettings
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: 1\nk: 5\nseed: 2\n", "line 3: 'seed' is there twice"),
        ("seed: 1\n'seed': 2\n", "line 2: 'seed' is there twice"),
        ("{seed: 1, seed: 1}", "line 1: 'seed' is there twice"),
        ("seed: {a: 1, b: [{c: 1, c: 2}]}", "line 1: 'c' is there twice"),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(SettingsError, match=rf"run\.yaml: .*{message}"):
        read_yaml(str(path))


def test_the_same_key_in_several_mappings_is_no_key_twice(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("seed: {a: 1, b: a}\nk: {a: 1, b: {a: 1}}\na: [a, a, {a: a}, {a: a}]\n")
    assert read_yaml(str(path)) == {
        "seed": {"a": 1, "b": "a"},
        "k": {"a": 1, "b": {"a": 1}},
        "a": ["a", "a"] + [{"a": "a"}] * 2,
    }


def test_one_setting_under_two_spellings_is_there_twice() -> None:
    with pytest.raises(SettingsError, match=r"run\.yaml: shard_size is there twice"):
        resolve(SegmentSettings, {}, {"shard-size": 16, "shard_size": 32}, "run.yaml")


def test_a_settings_file_without_an_end_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"--config /dev/zero: .* more than 1048576 bytes"):
        read_yaml("/dev/zero")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"facet": "kee"}, r"it is key \| .*; did you mean 'key'\?"),
        ({"head": "Trained"}, r"; did you mean 'trained'\?"),
        ({"preset": "dms"}, r"preset: 'dms' is not one of .*; did you mean 'dsm'\?"),
        ({"max_pixel": 3}, r"'max_pixel': unknown setting; did you mean 'max_pixels'\?"),
    ],
)
def test_what_was_probably_meant_is_said(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        resolve(SegmentSettings, values)


def test_settings_made_in_python_are_refused_like_those_of_a_file() -> None:
    with pytest.raises(SettingsError, match="k: 1 is not allowed; it is a whole number, at least 2"):
        SegmentSettings(k=1)
    with pytest.raises(SettingsError, match=r"'epoch': unknown setting; did you mean 'epochs'\?"):
        SegmentSettings(epoch=3)
    with pytest.raises(SettingsError, match="knows no head"):
        SegmentSettings.model_validate({"affinity": "binary"})


@pytest.mark.parametrize(
    ("model", "values", "named"),
    [
        (SegmentSettings, {"ray_address": "head:6379"}, "ray_address: it has no effect with engine 'auto'"),
        (SegmentSettings, {"ray_address": "head:6379", "engine": "local"}, "no effect with engine 'local'"),
        (
            SegmentSettings,
            {"block": 8, "backbone": "descriptors"},
            "block: it has no effect with backbone 'descriptors'",
        ),
        (SegmentSettings, {"weights": "dino.pth", "backbone": "descriptors"}, "weights: it has no effect"),
        (SegmentSettings, {"epochs": 9, "head": "none"}, "epochs: it has no effect with head 'none'"),
        (SegmentSettings, {"kappa": 0.5, "head": "none"}, "kappa: it has no effect with head 'none'"),
        (SegmentSettings, {"tau": 0.5}, "tau: it has no effect with affinity 'cosine'"),
        (SegmentSettings, {"color": "random-walk"}, "color: it has no effect with color_weight 0.0"),
        (
            SegmentSettings,
            {"refine": "none", "refine_max_side": 99},
            "refine_max_side: it has no effect with refine 'none'",
        ),
        (SegmentSettings, {"split_regions": True}, "split_regions: it has no effect with regions -1"),
        (SemanticSettings, {"crop_size": 96}, "crop_size: it has no effect with region_feature 'patches'"),
        (HierarchySettings, {"sigma": 2.0, "tree": "split"}, "sigma: it has no effect with adjacency 'minmax'"),
        (HierarchySettings, {"max_depth": 4}, "max_depth: it has no effect with tree 'merge'"),
        (HierarchySettings, {"leaves": 9, "tree": "split"}, "leaves: it has no effect with tree 'split'"),
        (HierarchySettings, {"pca_dim": 8}, "pca_dim: it has no effect with clusters 0"),
        (FeaturesSettings, {"class_token": True, "backbone": "descriptors"}, "class_token: it has no effect"),
    ],
)
def test_a_setting_that_does_nothing_is_named(model: type[RunSettings], values: dict[str, Any], named: str) -> None:
    (found,) = model(**values).without_effect()
    assert named in found
    assert "To mend it: leave it out" in found


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (SegmentSettings, {"ray_address": "head:6379", "engine": "ray"}),
        (SegmentSettings, {"block": 8}),
        # what stands in a printed file, and what a preset brings for a method that is then changed
        (SegmentSettings, {"block": -1, "facet": "key", "backbone": "descriptors"}),
        (SegmentSettings, {"preset": "simsam-paper", "head": "none"}),
        (HierarchySettings, {"preset": "hierarchy-paper", "backbone": "descriptors"}),
        (HierarchySettings, {"facet": "key", "backbone": "descriptors"}),
        (SemanticSettings, {"split_regions": True, "region_feature": "class-token", "crop_size": 96}),
        *((model, {"preset": name}) for model in (SegmentSettings, SemanticSettings) for name in presets_of(model)),
    ],
)
def test_settings_that_do_something_are_left_alone(model: type[RunSettings], values: dict[str, Any]) -> None:
    assert resolve(model, values).without_effect() == []
