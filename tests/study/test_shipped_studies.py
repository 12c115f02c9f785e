"""The studies that ship: possible, as described, and found from a checkout and from a wheel."""

from __future__ import annotations

import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from fedmm.config import ExperimentConfig
from fedmm.config.load import load_config
from fedmm.errors import ConfigError
from fedmm.study import Changes, Study, dump_study, list_studies, load_study, read_study, searched_study
from fedmm.study.shipped import studies_folder

ROOT = Path(__file__).parents[2]
COUNTS_OFF = {"model.succession": 0.0}  # the default that all of these were measured under
SEARCHES = ["default", "capacity", "combined", "gating", "strategies"]
MEASURED = [
    "benchmarks",
    "claims",
    "claims_large",
    "films",
    "frugal",
    "halves",
    "privacy",
    "quality",
    "replication",
    "shops",
]
VALIDATED = ["backbones", "counts", "defaults", "defaults_ml100k", "parts", "shapes"]
NAMES = ["default", *sorted([*SEARCHES[1:], *MEASURED, *VALIDATED])]


def gate_given(config: ExperimentConfig) -> ExperimentConfig:
    """The settings as they are where the gate's start is named, as a study that searches it names it."""
    return config.with_values({"model.gate_start": "given"})


def trial_keys(study: Study) -> set[str]:
    """What trial 0 sets."""
    return set(study.settings(study.default_values()))


def test_all_are_listed_and_named_as_their_files() -> None:
    studies = list_studies()
    assert [study.name for study in studies] == NAMES
    assert {f"{study.name}.toml" for study in studies} == {path.name for path in (ROOT / "studies").iterdir()}
    assert all(study.plan.description for study in studies)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_its_file_and_its_trial_0_is_the_base(name: str) -> None:
    study = load_study(name)
    assert load_study(ROOT / "studies" / f"{name}.toml") == study
    assert load_study(str(ROOT / "studies" / f"{name}.toml")).digest == study.digest
    assert read_study(tomllib.loads(dump_study(study)), "again") == study
    trial = study.configure(study.default_values(), study.base.runtime.seed)
    assert gate_given(trial) == gate_given(study.base)
    assert trial.model.gate_start == ("given" if any("gating_init" in key for key in trial_keys(study)) else "auto")
    assert study.metric == "full/ndcg_at_10"
    assert study.largest_warmup() < study.largest_rounds()


@pytest.mark.parametrize("name", NAMES)
def test_who_sees_test_is_said_and_selects_nothing(name: str) -> None:
    plan = load_study(name).plan
    assert plan.test_every_run == (name in MEASURED)
    assert plan.test_winner == (name not in VALIDATED)
    assert (plan.first_seed is not None) == (name not in SEARCHES)
    if name in ("benchmarks", "films", "quality"):
        chosen = {seed for other in ("claims", *VALIDATED) for seed in load_study(other).run_seeds({})}
        assert not chosen & set(load_study(name).run_seeds({}))


def test_claims_stand_on_the_old_guides_settings_with_one_thing_changed_at_a_time() -> None:
    small, large = load_study("claims"), load_study("claims_large")
    old = {
        "data.name": "ml-100k", "federation.rounds": 30, "federation.client_fraction": 0.2,
        "federation.local_optimizer": "adam", "federation.learning_rate": 0.001, "federation.local_steps": 3,
        "federation.batch_size": 32, "model.gating_init": 0.1, "federation.spectral_start": False,
        "federation.aggregation": "mean", "federation.server_optimizer": "sgd", "model.experts": "pooled",
        "federation.ema_decay": 0.0, **COUNTS_OFF,
    }  # fmt: skip
    assert gate_given(small.base) == load_config(flags=old)
    wide = {"model.hidden_dim": 512, "model.num_blocks": 3, "federation.rounds": 50}
    assert gate_given(large.base) == load_config(flags=old | wide)
    gates = {values.settings.get("model.gating_init") for values in small.variants}
    assert gates == {None, 0, 0.01, 0.05, 0.1, 0.2, 0.5}


def test_every_part_is_one_variant_of_ten_rounds_with_pooled_experts() -> None:
    study = load_study("parts")
    flags = {
        "model.experts": "pooled", "federation.rounds": 10, "evaluation.every": 2, "federation.learning_rate": 0.5,
        "federation.server_optimizer": "sgd", "federation.server_beta1": 0.9, "federation.server_beta2": 0.99,
        "federation.ema_decay": 0.0, **COUNTS_OFF,
    }  # fmt: skip
    assert study.base == load_config(flags=flags)
    assert study.variants[0].settings == {}


def test_the_defaults_stand_before_what_they_were_chosen_over() -> None:
    bundled, ml100k = load_study("defaults"), load_study("defaults_ml100k")
    assert bundled.base == load_config(flags=COUNTS_OFF)
    assert ml100k.base == load_config(flags={"data.name": "ml-100k", **COUNTS_OFF})
    assert bundled.variants == ml100k.variants
    assert bundled.variants[0].settings == {}
    searched = {key for variant in bundled.variants for key in variant.settings}
    assert searched == {
        "model.experts", "federation.server_optimizer", "federation.learning_rate", "federation.ema_decay"
    }  # fmt: skip


@pytest.mark.parametrize(("name", "size"), [("gating", 6), ("capacity", 12), ("strategies", 5)])
def test_the_grids_have_their_sizes(name: str, size: int) -> None:
    study = load_study(name)
    assert len(study.grid()) == study.plan.trials == size
    assert study.default_values() in study.grid()


def test_default_is_fedmm_train_with_15_rounds() -> None:
    study = load_study("default")
    assert gate_given(study.base) == gate_given(load_config(flags={"federation.rounds": 15, **COUNTS_OFF}))
    assert {parameter.name.rpartition(".")[2] for parameter in study.space} == {
        "gating_init", "learning_rate", "hidden_dim", "warmup_rounds"
    }  # fmt: skip
    assert study.plan.trials == 50


def test_gating_and_strategies_start_from_the_defaults() -> None:
    assert load_study("strategies").base == load_config(flags=COUNTS_OFF)
    assert gate_given(load_study("gating").base) == gate_given(load_config(flags=COUNTS_OFF))
    values = [values["model.gating_init"] for values in load_study("gating").grid()]
    assert values == [0, 0.01, 0.05, 0.1, 0.2, 0.5]


def test_strategies_are_the_five_ways() -> None:
    study = load_study("strategies")
    ways = {values["variant"]: study.configure(values, 0).flat() for values in study.grid()}
    names = ("model.fusion", "model.router_bias_init", "federation.warmup_rounds")
    assert {name: tuple(flat[key] for key in names) for name, flat in ways.items()} == {
        "residual": ("residual", 0, 0),
        "competitive": ("competitive", 0, 0),
        "router bias": ("competitive", 2, 0),
        "partial aggregation": ("competitive", 0, 10),
        "both": ("competitive", 2, 10),
    }


def test_the_old_guides_large_run_is_a_point_of_combined() -> None:
    values = {
        "model.fusion": "residual",
        "model.gating_init": 0.1,
        "model.hidden_dim": 512,
        "model.num_blocks": 3,
        "federation.local_optimizer": "adam",
        "federation.learning_rate": 0.005,
        "federation.batch_size": 64,
        "federation.warmup_rounds": 35,
    }
    study = load_study("combined")
    assert study.configure(values, 0) == load_config(flags={**values, "federation.rounds": 50, **COUNTS_OFF})
    assert study.conditional


def test_they_are_found_inside_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for archive in ("a_wheel.zip", "folder"):
        package = f"studied_{archive[0]}"
        if archive.endswith("zip"):
            with zipfile.ZipFile(tmp_path / archive, "w") as file:
                file.writestr(f"{package}/__init__.py", "")
                file.writestr(f"{package}/studies/mine.toml", "x")
        else:
            (tmp_path / archive / package / "studies").mkdir(parents=True)
            (tmp_path / archive / package / "__init__.py").touch()
            (tmp_path / archive / package / "studies" / "mine.toml").write_text("x")
        monkeypatch.syspath_prepend(str(tmp_path / archive))
        assert [entry.name for entry in studies_folder(package).iterdir()] == ["mine.toml"]
        del sys.modules[package]
    shipped = {entry.name: entry.read_text(encoding="utf-8") for entry in studies_folder().iterdir()}
    assert shipped == {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "studies").iterdir()}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gatings", "Did you mean gating"),
        ("zzz", "Shipped are backbones"),
        ("missing.toml", "Give a study's file"),
        ("a\0b.toml", "Give a study's file"),
        (f"{'x' * 300}.toml", "Give a study's file"),
    ],
)
def test_a_study_that_is_not_there(name: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study(name)
    assert words in caught.value.remedy
    assert repr(name) in caught.value.message


@pytest.mark.parametrize(
    ("content", "words"), [(b"\xff\xfe", "not UTF-8"), (b"[study", "not TOML"), (b"a" + b"[" * 5000, "not TOML")]
)
def test_a_file_that_is_no_study(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        load_study(path)
    assert "bad.toml" in caught.value.message
    assert caught.value.remedy
    with pytest.raises(ConfigError, match="is a folder"):
        load_study(tmp_path)


def test_a_study_takes_its_files_name_and_a_search_needs_no_file(tmp_path: Path) -> None:
    path = tmp_path / "my-own.toml"
    path.write_bytes(b"\xef\xbb\xbf[space.model.gating_init]\r\nchoices = [0, 0.1]\r\n")
    assert load_study(path).name == "my-own"
    searched = searched_study(Changes(search=["model.gating_init=0,.1"]))
    assert searched.name == "search"
    assert searched.space == load_study(path).space
    assert gate_given(searched.base) == gate_given(ExperimentConfig())
    with pytest.raises(ConfigError, match="searches nothing"):
        searched_study(Changes())
