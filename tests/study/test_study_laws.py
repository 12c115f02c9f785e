"""What holds for every study: written and read, counted, configured and seeded."""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm import config as config_module
from fedmm.config import ExperimentConfig, buffer_clashes, chain_order, private_clashes
from fedmm.config.base import Section
from fedmm.config.load import load_config
from fedmm.errors import ConfigError
from fedmm.study import Changes, Choices, Range, Study, dump_study, parse_search, read_study
from fedmm.study.checking import INTERACTING
from worlds.study_world import SPACE, studies, study_of, values_of

TESTED = "sampler = 'grid'\npruner = 'none'\ntest_every_run = true"
LAWS = settings(max_examples=40, deadline=None)


@LAWS
@given(studies())
def test_a_study_reads_back_as_it_was_written(study: Study) -> None:
    again = read_study(tomllib.loads(dump_study(study)), "again")
    assert again == study
    assert again.digest == study.digest
    assert dump_study(again) == dump_study(study)


@LAWS
@given(st.data())
def test_every_point_is_a_configuration_with_its_values_and_nothing_else_changed(data: st.DataObject) -> None:
    study = data.draw(studies())
    values = data.draw(values_of(study))
    flat = study.configure(values, 7).flat()
    expected = {**study.base.flat(), **study.settings(values), "runtime.seed": 7}
    assert flat == expected
    for name, value in values.items():
        assert name == "variant" or flat[name] == value


@LAWS
@given(studies())
def test_trial_0_is_the_base(study: Study) -> None:
    values = study.default_values()
    assert study.settle(values) == values
    base, defaults = study.base.flat(), ExperimentConfig().flat()
    for parameter in study.space:
        if parameter.name == "variant":
            assert values["variant"] == "plain"
        elif not parameter.when:
            assert values[parameter.name] == base[parameter.name]
        else:
            assert base[parameter.name] == defaults[parameter.name]
    outside = {name for name, value in values.items() if name != "variant" and base[name] != value}
    assert all(parameter.when for parameter in study.space if parameter.name in outside)
    if not outside:
        assert study.configure(values, study.base.runtime.seed) == study.base


@LAWS
@given(st.data())
def test_a_trials_seed_knows_its_values_and_not_their_order(data: st.DataObject) -> None:
    study = data.draw(studies())
    values = data.draw(values_of(study))
    shuffled = dict(data.draw(st.permutations(list(values.items()))))
    assert study.trial_seed(shuffled) == study.trial_seed(values)
    other = data.draw(values_of(study))
    assert (study.trial_seed(other) == study.trial_seed(values)) == (study.settle(other) == study.settle(values))
    reseeded = read_study({**tomllib.loads(dump_study(study)), "study": {"name": "x", "seed": 100}}, "x")
    assert reseeded.trial_seed(values) != study.trial_seed(values)
    assert 0 <= study.trial_seed(values) < 2**63


def test_a_trials_seed_does_not_know_how_a_number_was_written() -> None:
    study = study_of('[space."model.gating_init"]\nlow = -0.5\nhigh = 0.5\nstep = 0.1\n')
    seed = study.trial_seed({"model.gating_init": 0.3})
    assert study.trial_seed({"model.gating_init": 0.1 + 0.2}) == seed
    assert study.trial_seed({"model.gating_init": -0.0}) == study.trial_seed({"model.gating_init": 0})
    assert study.configure({"model.gating_init": 0.1 + 0.2}, 0).model.gating_init == 0.3


def test_a_first_seed_gives_every_configuration_the_same_seeds() -> None:
    study = study_of(f"[study]\nseeds = 3\nfirst_seed = 11\n{SPACE}")
    assert {study.run_seeds({"model.gating_init": value}) for value in (0, 0.1)} == {(11, 12, 13)}
    with pytest.raises(ConfigError):
        study.run_seeds({"model.gating_init": 0.7})


def test_variants_of_a_study_that_selects_nothing_may_have_data_of_their_own() -> None:
    settings = {
        "data.name": "ml-100k", "data.feature_corruption": "noise", "federation.mode": "centralized",
        "federation.rounds": 60, "model.transition": True,
    }  # fmt: skip
    tree = {**tomllib.loads(f"[study]\n{TESTED}"), "variants": [{"name": "a"}, {"name": "b", "settings": settings}]}
    study = read_study(tree, "my.toml", "my")
    flat = study.configure({"variant": "b"}, 0).flat()
    assert {key: flat[key] for key in settings} == settings
    assert study.configure({"variant": "a"}, 0) == ExperimentConfig()


def test_the_runs_of_a_trial_have_seeds_of_their_own() -> None:
    study = study_of(f"[study]\nseeds = 5\n{SPACE}")
    seeds = [seed for value in (0, 0.1) for seed in study.run_seeds({"model.gating_init": value})]
    assert len(set(seeds)) == 10
    assert seeds[0] == study.trial_seed({"model.gating_init": 0})


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(2, 4), min_size=1, max_size=4), st.booleans())
def test_the_size_of_a_grid_is_the_product_of_the_choices(sizes: list[int], conditional: bool) -> None:
    keys = ["model.num_blocks", "federation.local_steps", "federation.batch_size", "model.memory.size"][: len(sizes)]
    space: dict[str, Any] = {
        key: {"choices": list(range(1, size + 1))} if size % 2 else {"low": 1, "high": size}
        for key, size in zip(keys, sizes, strict=True)
    }
    expected = math.prod(sizes)
    if conditional:  # three rates where the optimizer is adam, none where it is not
        space["federation.weight_decay"] = {
            "low": 0, "high": 0.2, "step": 0.1, "when": {"federation.local_optimizer": ["adam", "adamw"]}
        }  # fmt: skip
        space["federation.local_optimizer"] = {"choices": ["sgd", "adam", "adamw"]}
        expected *= 1 + 2 * 3
    study = read_study({"study": {"sampler": "grid"}, "space": space}, "grid", "grid")
    grid = study.grid()
    assert len(grid) == expected == study.plan.trials
    assert len({study.configure(values, 0).digest for values in grid}) == expected
    assert all(study.settle(values) == values for values in grid)
    assert study.conditional == conditional


@LAWS
@given(studies())
def test_no_grid_has_a_point_twice(study: Study) -> None:
    if all(parameter.domain.discrete for parameter in study.space) and len(study.space) < 4:
        grid = study.grid()
        assert len({repr(sorted(values.items(), key=str)) for values in grid}) == len(grid)
        assert len({study.configure(values, 0).digest for values in grid}) == len(grid)
        assert study.default_values() in grid
    else:
        continuous = [parameter.name for parameter in study.space if not parameter.domain.discrete]
        if continuous:
            with pytest.raises(ConfigError, match=continuous[0]):
                study.grid()


@pytest.mark.parametrize(
    ("text", "warmup", "rounds"),
    [
        (SPACE, 0, 30),
        (f"[base.federation]\nwarmup_rounds = 4\n{SPACE}", 4, 30),
        ('[space."federation.warmup_rounds"]\nchoices = [2, 9, 0]', 9, 30),
        ('[space."federation.warmup_rounds"]\nlow = 1\nhigh = 7\n[base.federation]\nrounds = 8', 7, 8),
        ('[space."federation.rounds"]\nchoices = [40, 50]\n[base.federation]\nwarmup_rounds = 35', 35, 50),
        (
            '[space."federation.aggregation"]\nchoices = ["heat", "mean"]\n[space."federation.warmup_rounds"]\n'
            'choices = [2, 3]\nwhen = { federation.aggregation = "mean" }',
            3,
            30,
        ),
        (
            "[base.federation]\nwarmup_rounds = 8\n"
            '[[variants]]\nname = "a"\nsettings = { federation.warmup_rounds = 2 }\n'
            '[[variants]]\nname = "b"\nsettings = { federation.warmup_rounds = 5, federation.rounds = 70 }',
            5,
            70,
        ),
    ],
)
def test_the_pruner_waits_for_the_longest_warmup(text: str, warmup: int, rounds: int) -> None:
    study = study_of(text)
    assert (study.largest_warmup(), study.largest_rounds()) == (warmup, rounds)


def _named_in(tree: ast.AST, owner: str) -> set[str]:
    """What code reads of ``owner``: by attribute, or by a name in quotes."""
    found = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    quoted = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text.removeprefix(owner) for text in found if text.startswith(owner)} | quoted


def test_settings_whose_values_are_tried_together_are_those_that_validators_read_together() -> None:
    """Else a combination that is not possible would be met by a trial."""
    prefixes = {"DataConfig": "data.", "ModelConfig": "model.", "FederationConfig": "federation."}
    prefixes |= {
        "EvaluationConfig": "evaluation.",
        "RuntimeConfig": "runtime.",
        "ExperimentConfig": "",
        "PrivacyConfig": "privacy.",
    }
    read: set[str] = set()
    for name, section in inspect.getmembers(config_module, inspect.isclass):
        validators = section.__pydantic_decorators__.model_validators if issubclass(section, Section) else {}
        refusing = [validator for validator, own in validators.items() if own.info.mode == "after"]
        for validator in refusing:
            tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(section, validator))))
            named = {text for text in _named_in(tree, "self.") if text.partition(".")[0] in section.model_fields}
            read |= {prefixes[name] + text for text in named}
    clashes = [ast.parse(inspect.getsource(own)) for own in (private_clashes, buffer_clashes, chain_order)]
    under_others = {"federation." + name for tree in clashes for name in _named_in(tree, "own.")}
    under_others |= {name for tree in clashes for name in _named_in(tree, "config.")}
    together = {key for group in INTERACTING for key in group}
    searchable = {key for key in read if key in ExperimentConfig().flat() and not key.startswith("evaluation.")}
    assert searchable <= together
    assert together <= searchable | under_others


def test_searches_replace_parameters_and_take_over_what_the_base_fixed() -> None:
    text = f"[base.model]\nhidden_dim = 512\nnum_blocks = 3\n{SPACE}"
    changes = Changes(plan={"trials": 5, "seeds": None}, search=["model.hidden_dim=32,64", "model.gating_init=0:1"])
    study = study_of(text, changes)
    assert [parameter.name for parameter in study.space] == ["model.gating_init", "model.hidden_dim"]
    assert study.space[0].domain == Range(0.0, 1.0, log=False, step=None, integer=False)
    assert study.space[1].domain == Choices((32, 64))
    assert (study.base.model.hidden_dim, study.base.model.num_blocks) == (64, 3)
    assert (study.plan.trials, study.plan.seeds) == (5, 1)
    assert parse_search("model.hidden_dim=32,64") == study.space[1]


def test_settings_of_the_command_line_stand_above_the_base_but_do_not_fix_what_is_searched() -> None:
    def overlay(flags: dict[str, Any]) -> Changes:
        return Changes(overlay=lambda implied: load_config(flags=flags, implied=implied))

    text = f"[base.federation]\nrounds = 9\nclip_norm = 'none'\n{SPACE}"
    study = study_of(text, overlay({"federation.batch_size": 8}))
    assert study.base == load_config(
        flags={
            "federation.rounds": 9,
            "federation.clip_norm": "none",
            "federation.batch_size": 8,
            "model.gating_init": 0.1,
        }
    )
    with pytest.raises(ConfigError, match=r"model\.gating_init is fixed at 0\.7"):
        study_of(text, overlay({"model.gating_init": 0.7}))
    with pytest.raises(ConfigError, match=r"runtime\.seed"):
        study_of(text, overlay({"runtime.seed": 3}))
    narrowed = {"evaluation.protocols": "uniform100", "evaluation.selection_metric": "uniform100/hr_at_10"}
    assert (
        study_of(text, overlay(narrowed)).metric
        == study_of(text, overlay(narrowed)).plan.metric
        == "uniform100/hr_at_10"
    )


def test_the_digest_is_over_what_decides_the_trials() -> None:
    study = study_of(SPACE)
    same = ["trials = 7", "description = 'x'", "name = 'other'", "test_winner = false"]
    others = ["seed = 1", "seeds = 2", "sampler = 'random'", "pruner = 'none'", "metric = 'full/hr_at_10'"]
    others += ["first_seed = 0", "sampler = 'grid'\npruner = 'none'", f"{TESTED}"]
    assert {study_of(f"[study]\n{line}\n{SPACE}").digest for line in same} == {study.digest}
    digests = [study_of(f"[study]\n{line}\n{SPACE}").digest for line in others]
    digests += [study_of(f"{SPACE}{line}").digest for line in ("[base.model]\ndropout = 0.5", "when = {}")]
    digests += [study_of(SPACE.replace("0.1", "0.2")).digest]
    assert len({*digests, study.digest}) == len(digests)  # an empty condition is no condition


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model.dropout": 0.1}, "'model.dropout'"),
        ({"federation.local_optimizer": "lbfgs"}, "'lbfgs'"),
        ({"federation.local_optimizer": "sgd", "federation.weight_decay": 0.1}, "not searched here"),
        ({"federation.weight_decay": 0.1}, "not searched here"),
        ({"federation.local_optimizer": "adam", "federation.weight_decay": 0.3}, "0.3"),
        ({"federation.local_optimizer": "adam", "federation.weight_decay": True}, "True"),
        ({"federation.local_optimizer": True}, "True"),
        ({"model.num_blocks": 2.5}, "2.5"),
    ],
)
def test_values_out_of_the_space_are_refused(values: dict[str, Any], words: str) -> None:
    study = study_of(
        '[space."federation.weight_decay"]\nlow = 0\nhigh = 0.2\nwhen = { federation.local_optimizer = "adam" }\n'
        '[space."federation.local_optimizer"]\nchoices = ["sgd", "adam"]\n[space."model.num_blocks"]\nlow = 1\nhigh = 4'
    )
    with pytest.raises(ConfigError, match=words) as caught:
        study.configure(values, 0)
    assert caught.value.remedy
    assert study.configure({}, 3).flat() == {**study.base.flat(), "runtime.seed": 3}
    with pytest.raises(ConfigError, match=r"runtime\.seed"):
        study.configure({}, -1)
