"""Layers, their order, what is said when one is wrong, and TOML that reads back as it was written."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedmm.config import OLD_DEFAULTS, ExperimentConfig
from fedmm.config.describe import Setting, known_settings, nearest
from fedmm.config.load import dump_toml, load_config
from fedmm.errors import ConfigError

KEY = "model.hidden_dim"


def test_nothing_given_is_the_defaults() -> None:
    assert load_config() == ExperimentConfig()


@pytest.mark.parametrize("present", list(itertools.product([False, True], repeat=6)))
def test_the_highest_layer_that_is_given_wins(present: tuple[bool, ...], tmp_path: Path) -> None:
    implied, first, second, variable, assignment, flag = present
    files = []
    for there, value in ((first, 20), (second, 30)):
        if there:
            files.append(tmp_path / f"{value}.toml")
            files[-1].write_text(f"[model]\nhidden_dim = {value}\nnum_blocks = {value}\n")
    config = load_config(
        files,
        {"fedmm_Model__hidden_DIM": "40"} if variable else {},
        [f"{KEY}=50"] if assignment else [],
        {KEY: 60 if flag else None},
        implied={KEY: 10} if implied else None,
    )
    given_values = [value for there, value in zip(present, (10, 20, 30, 40, 50, 60), strict=True) if there]
    assert config.model.hidden_dim == (given_values[-1] if given_values else 64)
    assert config.model.num_blocks == (30 if second else 20 if first else 2)  # siblings of an overridden key stay


def values_of(setting: Setting) -> st.SearchStrategy[Any]:
    """Values that the setting might take; the tree's own bounds decide which of them it does."""
    text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
    simple: dict[str, st.SearchStrategy[Any]] = {
        "integer": st.integers(0, 10**20),
        "number": st.floats(allow_nan=False),
        "boolean": st.booleans(),
        "path": text.filter(lambda t: "\0" not in t).map(Path),
        "string": st.sampled_from(setting.choices) if setting.choices else text,
        "list": st.lists(st.sampled_from(setting.choices) if setting.choices else st.integers(1, 99), max_size=4),
    }
    return st.none() | simple[setting.kind] if setting.optional else simple[setting.kind]


def changed_tree(key: str, value: Any) -> ExperimentConfig | None:
    tree: Any = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    try:
        return ExperimentConfig.model_validate(tree)
    except ValidationError:
        return None


@pytest.mark.parametrize("key", list(known_settings()))
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_toml_reads_back_as_the_settings_it_was_written_from(
    key: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = changed_tree(key, data.draw(values_of(known_settings()[key])))
    if config is None:
        return
    path = tmp_path_factory.getbasetemp() / "dumped.toml"
    for options in ({}, {"comments": True}, {"only_non_default": True}):
        path.write_bytes(dump_toml(config, **options).encode())
        assert load_config([path]) == config


def test_settings_that_a_run_writes_are_its_own_below_the_defaults_of_before(tmp_path: Path) -> None:
    """Whatever is unset there was unset, and is not silent: a resumed run reads its file above ``OLD_DEFAULTS``."""
    path = tmp_path / "config.toml"
    path.write_text(dump_toml(ExperimentConfig()))
    assert load_config([path], implied=OLD_DEFAULTS) == ExperimentConfig() != load_config(implied=OLD_DEFAULTS)


def test_only_non_default_keeps_exactly_what_differs() -> None:
    config = load_config(assignments=["federation.clip_norm=none", "model.num_blocks=3", "model.dropout=0.2"])
    assert dump_toml(config, only_non_default=True) == '[model]\nnum_blocks = 3\n\n[federation]\nclip_norm = "none"\n'
    assert dump_toml(ExperimentConfig(), only_non_default=True).strip() == ""


def test_comments_show_every_key_with_its_description() -> None:
    text = dump_toml(ExperimentConfig(), comments=True)
    for key, setting in known_settings().items():
        leaf = key.rpartition(".")[2]
        assert setting.description
        assert f"# {setting.description}" in text
        assert f"\n{leaf} = " in text or f"\n# {leaf} =" in text


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("model.dropout=0.5", "model.dropout", 0.5),
        ("model.dropout = 1e-1", "model.dropout", 0.1),
        ("federation.rounds=1_000", "federation.rounds", 1000),
        ("tracking.enabled=false", "tracking.enabled", False),
        ("tracking.enabled=False", "tracking.enabled", False),
        ("evaluation.cutoffs=5,10", "evaluation.cutoffs", (5, 10)),
        ("evaluation.cutoffs=10", "evaluation.cutoffs", (10,)),
        ("evaluation.cutoffs=[10, 20]", "evaluation.cutoffs", (10, 20)),
        ("evaluation.protocols=full,uniform100", "evaluation.protocols", ("full", "uniform100")),
        ("evaluation.protocols=full", "evaluation.protocols", ("full",)),
        ("tracking.run_name=128", "tracking.run_name", "128"),
        ("tracking.run_name=1e3", "tracking.run_name", "1e3"),
        ("tracking.run_name=true", "tracking.run_name", "true"),
        ("tracking.run_name=a=b", "tracking.run_name", "a=b"),
        ("tracking.run_name=none", "tracking.run_name", None),
        ('tracking.run_name="none"', "tracking.run_name", "none"),
        ("data.visual_features=none", "data.visual_features", "none"),
        ("data.path=./a b.csv", "data.path", Path("a b.csv")),
        ("federation.clip_norm=None", "federation.clip_norm", None),
        ("data.min_rating=none", "data.min_rating", None),
    ],
)
def test_typed_texts_are_read_as_the_setting_means_them(text: str, key: str, value: Any) -> None:
    name, _, raw = text.partition("=")
    variable = known_settings()[name.strip()].variable
    for config in (load_config(assignments=[text]), load_config(environment={variable: raw.strip()})):
        section, _, leaf = key.partition(".")
        assert getattr(getattr(config, section), leaf) == value


def test_empty_and_reserved_variables_are_no_settings() -> None:
    environment = {
        "FEDMM_CACHE": "/somewhere",
        "FEDMM_PREPARED_GB": "0",
        "FEDMM_DATA__PATH": "",
        "HOME": "x",
        "_FEDMM_COMPLETE": "1",
    }
    assert load_config(environment=environment) == ExperimentConfig()


def test_every_setting_can_be_given_by_its_variable() -> None:
    for key, setting in known_settings().items():
        if setting.default is not None and setting.kind != "list":
            found = load_config(environment={setting.variable: str(setting.default)})
            implied = {"model.gate_start": "given"} if key == "model.gating_init" else {}
            assert found == ExperimentConfig().with_values(implied), key


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("rounds", "federation.rounds"),
        ("federation.round", "federation.rounds"),
        ("model.hiden_dim", "model.hidden_dim"),
        ("federation.hidden_dim", "model.hidden_dim"),
        ("memory.size", "model.memory.size"),
        ("lerning_rate", "federation.learning_rate"),
    ],
)
def test_the_nearest_known_name_is_offered(wrong: str, right: str) -> None:
    assert nearest(wrong) == right
    with pytest.raises(ConfigError) as caught:
        load_config(assignments=[f"{wrong}=1"])
    assert wrong in caught.value.message
    assert "--set" in caught.value.message
    assert right in caught.value.remedy
    variable = f"FEDMM_{wrong.replace('.', '__').upper()}"
    with pytest.raises(ConfigError) as caught:
        load_config(environment={variable: "1"})
    assert variable in caught.value.message
    assert known_settings()[right].variable in caught.value.remedy


BAD = [
    (KEY, "0", "an integer of at least 1"),
    (KEY, "lots", "an integer of at least 1"),
    (KEY, "2.5", "an integer of at least 1"),
    (KEY, "true", "an integer of at least 1"),
    (KEY, "nan", "an integer"),
    (KEY, "", "an integer"),
    (KEY, "9" * 5000, "an integer"),
    ("model.dropout", "1.0", "at least 0 and below 1"),
    ("model.gating_init", "inf", "a number"),
    ("federation.client_fraction", "nan", "above 0 and at most 1"),
    ("federation.learning_rate", "-1", "a number above 0"),
    ("model.fusion", "additive", "residual, competitive, backbone"),
    ("tracking.enabled", "maybe", "true or false"),
    ("evaluation.protocols", "full,half", "full, uniform100, popularity100"),
    ("evaluation.protocols", "", "a list"),
    ("evaluation.cutoffs", "5,zero", "a list"),
    ("evaluation.cutoffs", "[" * 3000, "a list"),
    ("runtime.device", "tpu", "cpu, cuda, cuda:N, mps or auto"),
    ("tracking.experiment", '""', "not empty"),
    ("model.scoring", "1979-05-27", "dot, cosine"),
]


@pytest.mark.parametrize(("key", "text", "allowed"), BAD)
def test_a_wrong_value_is_named_with_its_source_and_what_is_allowed(key: str, text: str, allowed: str) -> None:
    sources: list[tuple[str, dict[str, Any]]] = [
        ("--set", {"assignments": [f"{key}={text}"]}),
        ("--the-flag", {"flags": {key: text}, "flag_names": {key: "--the-flag"}}),
    ]
    if text:
        sources.append((known_settings()[key].variable, {"environment": {known_settings()[key].variable: text}}))
    for source, arguments in sources:
        with pytest.raises(ConfigError) as caught:
            load_config(**arguments)
        assert key in caught.value.message
        assert repr(text)[1:20] in caught.value.message
        assert f"(from {source})" in caught.value.message
        assert allowed in caught.value.remedy
        assert len(str(caught.value).splitlines()) == 1
        assert len(caught.value.message) < 250


def test_settings_that_contradict_each_other_are_named_with_their_sources(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[federation]\nrounds = 10\n")
    key = "federation.warmup_rounds"
    with pytest.raises(ConfigError) as caught:
        load_config([path], flags={key: "10"}, flag_names={key: "--warmup-rounds"})
    assert "warmup_rounds 10" in caught.value.message
    assert f"federation.rounds from {path}" in caught.value.message
    assert "federation.warmup_rounds from --warmup-rounds" in caught.value.message
    assert caught.value.remedy.startswith("Lower warmup_rounds")


def test_several_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(assignments=["model.dropout=2", "federation.rounds=none"])
    assert "model.dropout cannot be '2'" in caught.value.message
    assert "federation.rounds cannot be 'none'" in caught.value.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[model\nhidden_dim = 3", "is not TOML"),
        (b"hidden_dim 3", "is not TOML"),
        (b"\xff\xfe[model]", "not UTF-8"),
        (b"[model]\nhidden_dim = 3\nhidden_dim = 4", "is not TOML"),
        (b"model = 3", "group of settings"),
        (b"[model.fusion]\nname = 'residual'", "no setting 'model.fusion.name'"),
        (b"[modell]\nhidden_dim = 3", "no setting 'modell.hidden_dim'"),
        (b"[model]\nhidden_dim = true", "cannot be True"),
        (b"[model]\nhidden_dim = [1]", "cannot be [1]"),
        (b"[data]\npath = 3", "cannot be 3"),
        (b"[federation]\nrounds = 2024-01-01", "cannot be datetime.date"),
        (b"a" + b"[" * 5000, "is not TOML"),
        (b"[federation]\nrounds = " + b"[" * 5000, "is not TOML"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words.replace("[", r"\[")) as caught:
        load_config([path])
    assert "bad.toml" in caught.value.message
    assert caught.value.remedy
    assert len(str(caught.value).splitlines()) == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.toml", Path("a\0b"), tmp_path / ("x" * 300)):
        with pytest.raises(ConfigError) as caught:
            load_config([path])
        assert caught.value.exit_code == 2
        assert caught.value.remedy


def test_windows_line_ends_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xef\xbb\xbf[model]\r\nhidden_dim = 32\r\n")
    assert load_config([path]).model.hidden_dim == 32


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(flags={"data.path": "caf\udce9.csv"})


@given(st.floats(allow_nan=True))
def test_bounded_numbers_are_finite_or_refused(value: float) -> None:
    try:
        config = load_config(flags={"federation.heat_cap": value})
    except ConfigError:
        assert not value >= 1.0 or math.isinf(value)
    else:
        assert config.federation.heat_cap == value >= 1.0
