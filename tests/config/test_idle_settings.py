"""Settings said to have no effect have none, and those that have none are said: the numbers of whole runs decide."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_config import NUMBERS
from typer.testing import CliRunner

from fedmm.config import ExperimentConfig
from fedmm.config.idle import READERS, idle_settings
from fedmm.config.load import load_config
from fedmm.data.datasets import load_dataset
from fedmm.errors import ConfigError
from fedmm_cli.app import app
from worlds.config_world import Given, differ, known_numbers, settings_of

pytestmark = pytest.mark.usefixtures("top_heavy")
BACKBONE = {"model.fusion": "backbone"}
COMPETITIVE = {"model.fusion": "competitive"}
CENTRALIZED = {"federation.mode": "centralized"}
SAMPLED = {"federation.num_negatives": 3}
PRIVATE = {"privacy.noise_multiplier": 1.0}
WHOLE = {**PRIVATE, "privacy.cohorts": "all"}


def experts(kind: str) -> Given:
    return {"model.experts": kind}


def server(optimizer: str) -> Given:
    return {"federation.server_optimizer": optimizer}


IDLE: dict[str, list[Given]] = {  # beside which settings nothing reads these, with a number's proof below
    "data.tie_seed": [{"data.tie_order": "file"}],
    "data.temporal_fraction": [{}],
    "model.gating_init": [COMPETITIVE, PRIVATE],
    "privacy.delta": [{}],
    "privacy.cohorts": [{}],
    "privacy.mechanism": [{}],
    "privacy.bands": [{}],
    "privacy.start_share": [{}, {**PRIVATE, "federation.spectral_start": False}],
    "privacy.kinds": [{}, {**PRIVATE, "federation.spectral_start": False}],
    "privacy.senders_share": [{}, PRIVATE],
    "privacy.gating_init": [{}, {**PRIVATE, **COMPETITIVE}],
    "privacy.counts_weight": [{}, {**PRIVATE, "federation.spectral_start": False}],
    "federation.late_updates": [{}],
    "federation.speed_spread": [{}, {"federation.absence_rate": 0.5}],
    "federation.update_clip": [{}],
    "federation.update_clip_by": [{}],
    "federation.update_rank": [{}, {"federation.update_transforms": ("clip",)}],
    "federation.update_bits": [{}, {"federation.update_transforms": ("clip",)}],
    "model.learn_gating": [COMPETITIVE],
    "model.router_bias_init": [{}],
    "model.pooling_decay": [experts("memory"), experts("neighbors")],
    "model.neighbors.count": [experts("memory"), experts("pooled")],
    "model.neighbors.sharpness": [experts("memory"), experts("pooled")],
    "model.neighbors.decay": [experts("memory"), experts("pooled")],
    "model.memory.size": [{}, experts("pooled")],
    "model.memory.num_heads": [{}, experts("pooled")],
    "model.memory.surprise_weight": [{}, experts("neighbors")],
    "model.memory.recency_weight": [{}, experts("neighbors")],
    "model.alignment_temperature": [{}],
    "federation.gbce_calibration": [{}, SAMPLED, {"federation.loss": "gbce", "federation.num_negatives": 0}],
    "federation.negatives_per": [{}, {**SAMPLED, **CENTRALIZED}],
    "federation.item_rows": [
        {},
        {**SAMPLED, **CENTRALIZED},
        {**SAMPLED, "federation.weight_decay": 0.1},
        {**SAMPLED, "federation.local_algorithm": "scaffold"},
        {**SAMPLED, "federation.item_table": "frozen"},
    ],
    "data.visual_features": [BACKBONE],
    "data.text_features": [BACKBONE],
    "data.feature_corruption": [BACKBONE],
    "data.attributes": [BACKBONE],
    "data.rating_column": [{}],
    "federation.warmup_rounds": [BACKBONE, {**BACKBONE, "model.user_vector": True}],
    "federation.client_fraction": [{"federation.cohort_size": 3}, WHOLE],
    "federation.cohort_size": [WHOLE],
    "federation.heat_cap": [
        PRIVATE,
        {"federation.item_table": "frozen"},
        {"federation.aggregation": "mean"},
        {"federation.aggregation": "median"},
    ],
    "federation.trim_fraction": [{}, {"federation.aggregation": "median"}],
    "federation.server_beta1": [server("sgd"), server("adagrad")],
    "federation.server_beta2": [server("sgd"), server("momentum"), server("adagrad")],
    "federation.server_epsilon": [server("sgd"), server("momentum")],
    "evaluation.negatives_seed": [{"evaluation.protocols": ("full",)}],
}
ALONE = ("data.name", "model.gate_start", "privacy.accountant")  # with tests of their own
NAMED = {
    "data.user_column": "other_user",
    "data.item_column": "other_item",
    "data.timestamp_column": "other_time",
    "data.rating_column": "other_rating",
}
MADE: Given = {  # features made of raw files; tests/data/test_made_features.py says what they are
    "data.images": "images",
    "data.texts": "texts.csv",
    "data.text_columns": ("title",),
    "data.image_encoder": "timm:any",
    "data.text_encoder": "open_clip:any",
    "data.feature_dims": 3,
}
EVERYWHERE = {"model.": BACKBONE, "federation.": CENTRALIZED}  # beside these, whole groups of settings fall silent


def accepted(world: Path, given: Given) -> ExperimentConfig | ConfigError:
    try:
        return settings_of(world, given)
    except ConfigError as error:
        return error


def is_told(key: str, config: ExperimentConfig) -> bool:
    return any(sentence.startswith(f"{key} ") for sentence in idle_settings(config))


def has_effect(world: Path, key: str, beside: Given) -> bool:
    return differ(known_numbers(world, beside), known_numbers(world, {**beside, key: NUMBERS[key].value}))


@pytest.mark.slow
@pytest.mark.parametrize(("key", "beside"), [(key, beside) for key in IDLE for beside in IDLE[key]])
def test_an_idle_setting_is_told_and_changes_no_number(key: str, beside: Given, world: Path) -> None:
    assert is_told(key, settings_of(world, {**beside, key: NUMBERS[key].value}))
    assert not has_effect(world, key, beside)


@pytest.mark.parametrize(
    ("key", "beside"),
    [
        (key, beside)
        for prefix, beside in EVERYWHERE.items()
        for key in NUMBERS
        if key.startswith(prefix) and key not in beside
    ],
)
def test_where_groups_fall_silent_the_told_are_those_without_effect(key: str, beside: Given, world: Path) -> None:
    """Both ways, for every setting of the section: with what it needs otherwise, and this in place."""
    together = {**NUMBERS[key].beside, **beside}
    with_it = {**together, key: NUMBERS[key].value}
    found = accepted(world, with_it)
    if isinstance(found, ConfigError):  # refused, which tells it too
        assert any(name.rpartition(".")[2] in str(found) for name in with_it if name not in beside)
    else:
        assert is_told(key, found) != has_effect(world, key, together)


@pytest.mark.parametrize("key", NUMBERS)
def test_a_setting_that_changes_numbers_is_not_told(key: str, world: Path) -> None:
    """``test_config`` proves that each changes a number beside these."""
    case = NUMBERS[key]
    assert not is_told(key, settings_of(world, {**case.beside, key: case.value}))


def test_defaults_are_never_told_and_every_reader_is_tried() -> None:
    assert idle_settings(ExperimentConfig()) == []
    told = {key for reader in READERS for key in reader.keys}
    silenced = {key for key in NUMBERS if key.startswith(tuple(EVERYWHERE))}
    assert told <= IDLE.keys() | silenced | NAMED.keys() | MADE.keys() | set(ALONE)
    assert IDLE.keys() <= told


def test_an_accountant_without_privacy_is_told(world: Path) -> None:
    assert is_told("privacy.accountant", settings_of(world, {"privacy.accountant": "pld"}))
    assert not is_told("privacy.accountant", settings_of(world, {**PRIVATE, "privacy.accountant": "pld"}))


@pytest.mark.parametrize("key", MADE)
def test_what_features_are_made_of_is_idle_without_experts_and_what_makes_them_without_files(key: str) -> None:
    assert not is_told(key, load_config(flags=MADE))
    assert is_told(key, load_config(flags={**MADE, **BACKBONE}))
    raw = {"data.images", "data.texts"}
    without = load_config(flags={name: value for name, value in MADE.items() if name not in raw or name == key})
    assert is_told(key, without) != (key in raw)


def test_a_cohort_that_nobody_forms_may_be_of_any_size(world: Path) -> None:
    given = {**CENTRALIZED, "federation.cohort_size": 999}
    assert not differ(known_numbers(world, given), known_numbers(world, CENTRALIZED))


def columns_of(config: ExperimentConfig) -> str:
    """What a named dataset is loaded as."""
    return load_dataset(config.data).digest


@pytest.mark.parametrize("key", NAMED)
def test_columns_are_idle_beside_a_named_dataset(key: str, world: Path) -> None:
    plain, given = (load_config(flags=flags) for flags in ({}, {key: NAMED[key]}))
    assert is_told(key, given)
    assert columns_of(plain) == columns_of(given)
    own = {**NUMBERS[key].beside, key: NAMED[key]}
    assert columns_of(settings_of(world, own)) != columns_of(settings_of(world, NUMBERS[key].beside))


def test_the_name_is_idle_beside_a_file(world: Path) -> None:
    config = settings_of(world, {"data.name": "ml-100k"})
    assert is_told("data.name", config)
    assert not is_told("data.name", load_config(flags={"data.name": "ml-100k"}))
    assert columns_of(config) == columns_of(settings_of(world, {}))


@pytest.mark.parametrize("command", ["show", "validate"])
def test_the_config_commands_tell(command: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[federation]\ntrim_fraction = 0.4\n")
    arguments = ["config", command, *(["--config"] if command == "show" else []), str(path)]
    ended = CliRunner().invoke(app, arguments)
    sentence = 'federation.trim_fraction 0.4 has no effect here: it needs federation.aggregation "trimmed_mean"'
    assert ended.exit_code == 0
    assert sentence in ended.stderr
    assert sentence not in ended.stdout
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)["idle"]
    assert told == [sentence]
