"""Whatever is wrong with a study is one line before the first trial: the value, where it stands, and the remedy."""

from __future__ import annotations

import pytest

from fedmm.errors import ConfigError
from fedmm.study import Changes
from worlds.study_world import SPACE, study_of


def parameter(entry: str, key: str = "model.gating_init") -> str:
    return f'[space."{key}"]\n{entry}\n'


def variants(*settings: str) -> str:
    entries = [
        f'[[variants]]\nname = "{letter}"\nsettings = {{ {text} }}\n'
        for letter, text in zip("abc", settings, strict=False)
    ]
    return "".join(entries)


HIDDEN, WARMUP = "model.hidden_dim", "federation.warmup_rounds"
OPTIMIZERS = parameter('choices = ["sgd", "adam"]', "federation.local_optimizer")
ADAM = SPACE + "when = { federation.local_optimizer = 'adam' }"
TESTED = "[study]\nsampler = 'grid'\npruner = 'none'\ntest_every_run = true\n"

# What is written, words of the message (the value among them), words of the remedy.
MALFORMED = {
    # tables and keys
    "unknown table": ("[spaces]\n" + SPACE, ["'spaces'"], "space"),
    "unknown key of study": ("[study]\ntrails = 3\n" + SPACE, ["'trails'", "[study]"], "trials"),
    "unknown key of a parameter": (parameter("choises = [1, 2]"), ["'choises'", "model.gating_init"], "choices"),
    "unknown key of a variant": (variants("model.dropout = 0.1") + "setings = 3", ["'setings'"], "settings"),
    "study no table": ("study = 3\n" + SPACE, ["study cannot be 3"], "[study]"),
    "base no table": ("base = 'x'\n" + SPACE, ["base cannot be 'x'"], "[base]"),
    "space no table": ("space = [1]", ["space cannot be [1]"], "[space]"),
    "variants no tables": ("variants = [1]\n" + SPACE, ["variants cannot be [1]"], "[[variants]]"),
    "one variant as a table": ("[variants]\nname = 'a'\n" + SPACE, ["variants cannot be"], "[[variants]]"),
    "parameter no table": ('[space]\n"model.gating_init" = 3', ["model.gating_init cannot be 3"], "choices"),
    "group as a parameter": ("[space]\nmodel = 3", ["'model'"], "model.hidden_dim"),
    "nothing searched": ("[study]\nname = 'x'", ["searches nothing"], "[space]"),
    # [study]
    "no trials": ("[study]\ntrials = 0\n" + SPACE, ["study.trials cannot be 0"], "at least 1"),
    "half a trial": ("[study]\ntrials = 1.5\n" + SPACE, ["study.trials cannot be 1.5"], "an integer"),
    "true trials": ("[study]\ntrials = true\n" + SPACE, ["study.trials cannot be True"], "an integer"),
    "negative seed": ("[study]\nseed = -1\n" + SPACE, ["study.seed cannot be -1"], "at least 0"),
    "no seeds": ("[study]\nseeds = 0\n" + SPACE, ["study.seeds cannot be 0"], "at least 1"),
    "sampler": ("[study]\nsampler = 'bayes'\n" + SPACE, ["'bayes'"], "tpe, grid, random"),
    "pruner": ("[study]\npruner = 'asha'\n" + SPACE, ["'asha'"], "hyperband, median, none"),
    "direction": ("[study]\ndirection = 'minimize'\n" + SPACE, ["'minimize'"], "maximize"),
    "second objective": ("[study]\nminimize = 'seconds'\n" + SPACE, ["'seconds'"], "communication"),
    "name": ("[study]\nname = 'a/b'\n" + SPACE, ["'a/b'"], "letters"),
    "description": ("[study]\ndescription = \"a\\nb\"\n" + SPACE, ["'a\\nb'"], "one line"),
    "metric": ("[study]\nmetric = 'full/ndcg_at_7'\n" + SPACE, ["'full/ndcg_at_7'", "study.metric"], "cutoffs 5, 10"),
    "metric of no protocol": (
        "[base.evaluation]\nprotocols = ['uniform100']\n" + SPACE,
        ["'full/ndcg_at_10'", "study.metric"],
        "uniform100/ndcg_at_5",
    ),
    "two metrics": (
        "[base.evaluation]\nselection_metric = 'full/hr_at_10'\n" + SPACE,
        ["'full/hr_at_10'", "'full/ndcg_at_10'"],
        "study.metric alone",
    ),
    "pruning by two objectives": (
        "[study]\nminimize = 'communication'\npruner = 'median'\n" + SPACE,
        ["'median'", "'communication'"],
        'pruner = "none"',
    ),
    "first seed": ("[study]\nfirst_seed = -1\n" + SPACE, ["study.first_seed cannot be -1"], "at least 0"),
    "test of a search": (TESTED.replace("grid", "tpe") + SPACE, ["study.sampler", "'tpe'", "test"], 'sampler = "grid"'),
    "test and pruning": (TESTED.replace("none", "median") + SPACE, ["study.pruner", "'median'"], 'pruner = "none"'),
    "test and confirmation": (TESTED + "confirm = 3\n" + SPACE, ["study.confirm cannot be 3"], "confirm = 0"),
    "test and a front": (TESTED + "minimize = 'communication'\n" + SPACE, ["'communication'"], "Leave it out"),
    "test without the winner": (TESTED + "test_winner = false\n" + SPACE, ["test_winner cannot be False"], "= true"),
    "test no truth": ("[study]\ntest_every_run = 1\n" + SPACE, ["test_every_run cannot be 1"], "true or false"),
    "grid of a range": (
        "[study]\nsampler = 'grid'\n" + parameter("low = 0\nhigh = 1"),
        ["model.gating_init", "continuous"],
        "choices or a step",
    ),
    "trials of a grid": ("[study]\nsampler = 'grid'\ntrials = 3\n" + SPACE, ["cannot be 3", "2 points"], "Leave"),
    "huge grid": (
        "[study]\nsampler = 'grid'\n" + parameter("low = 1\nhigh = 99999", "federation.batch_size"),
        ["more than 10000 points"],
        "fewer choices",
    ),
    # [base]
    "unknown setting in base": ("[base.model]\nhiden_dim = 3\n" + SPACE, ["'model.hiden_dim'", "[base]"], HIDDEN),
    "impossible base": ("[base.model]\nhidden_dim = 0\n" + SPACE, ["hidden_dim cannot be 0"], "at least 1"),
    "contradicting base": ("[base.federation]\nwarmup_rounds = 30\n" + SPACE, ["warmup_rounds 30", "[base]"], "raise"),
    "seed in base": ("[base.runtime]\nseed = 3\n" + SPACE, ["runtime.seed"], "[study]"),
    "folder in base": ("[base.runtime]\noutput = 'x'\n" + SPACE, ["runtime.output"], "leave it out"),
    "run name in base": ("[base.tracking]\nrun_name = 'x'\n" + SPACE, ["tracking.run_name"], "leave it out"),
    "fixed and searched": ("[base.model]\ngating_init = 0.3\n" + SPACE, ["fixed at 0.3"], "Take it out of one"),
    # [space]: which settings
    "unknown setting": (parameter("choices = [1, 2]", "model.hiden_dim"), ["'model.hiden_dim'", "[space]"], HIDDEN),
    "unknown nested setting": ("[space.model.hiden_dim]\nchoices = [1, 2]", ["'model.hiden_dim'"], HIDDEN),
    "seed": (parameter("choices = [1, 2]", "runtime.seed"), ["runtime.seed"], "seeds in [study]"),
    "output": (parameter("choices = ['a', 'b']", "runtime.output"), ["runtime.output"], "leave it out"),
    "threads": (parameter("choices = [1, 2]", "runtime.threads"), ["runtime.threads"], "fix it in [base]"),
    "tracking": (parameter("choices = ['a', 'b']", "tracking.experiment"), ["tracking.experiment"], "[base]"),
    "measurement": (parameter("choices = [1, 2]", "evaluation.every"), ["evaluation.every"], "measured alike"),
    "data": (parameter("choices = ['a', 'b']", "data.name"), ["data.name"], "cannot be compared"),
    # [space]: choices
    "choice of another type": (parameter("choices = [32, 'big']", HIDDEN), ["cannot be 'big'"], "an integer"),
    "choice out of bounds": (parameter("choices = [32, 0]", HIDDEN), ["cannot be 0"], "at least 1"),
    "true as a number": (parameter("choices = [1, true]", HIDDEN), ["cannot be True"], "an integer"),
    "number as truth": (parameter("choices = [1, 0]", "federation.exclude_seen"), ["cannot be 1"], "true or false"),
    "date": (parameter("choices = [1, 2024-01-01]", HIDDEN), ["datetime.date"], "an integer"),
    "unset": (parameter("choices = [1, 'none']", HIDDEN), ["cannot be 'none'"], "an integer"),
    "infinite": (parameter("choices = [0, inf]"), ["cannot be inf"], "a number"),
    "unknown word": (parameter("choices = ['sum', 'heat']", "federation.aggregation"), ["'sum'"], "mean, heat"),
    "choice twice": (parameter("choices = [0, 0.1, 0.0]"), ["0.0 twice"], "Take one out"),
    "no choice": (parameter("choices = []"), ["no choices", "[]"], "two or more"),
    "one choice": (parameter("choices = [0.1]"), ["1 choice", "[0.1]"], "[base]"),
    "choices no list": (parameter("choices = 3"), ["choices of model.gating_init cannot be 3"], "a list"),
    # [space]: ranges
    "choices and a range": (parameter("choices = [1, 2]\nlow = 0"), ["choices and low"], "Give choices, or"),
    "no high": (parameter("low = 0"), ["no high"], "low and high"),
    "nothing": (parameter(""), ["no low and no high"], "low and high"),
    "empty range": (parameter("low = 1\nhigh = 0.5"), ["1 to 0.5"], "high above low"),
    "range of one value": (parameter("low = 1\nhigh = 1"), ["1 to 1"], "high above low"),
    "range out of bounds": (parameter("low = 0.5\nhigh = 1", "model.dropout"), ["cannot be 1"], "below 1"),
    "range of another type": (parameter("low = 0.5\nhigh = 8", HIDDEN), ["cannot be 0.5"], "an integer"),
    "range of words": (parameter("low = 1\nhigh = 2", "model.fusion"), ["from 1 to 2"], "residual, competitive"),
    "unset range": (parameter("low = 'none'\nhigh = 2", "federation.clip_norm"), ["none"], "a number"),
    "log from 0": (parameter("low = 0\nhigh = 1\nlog = true"), ["log scale from 0"], "above 0"),
    "log no truth": (parameter("low = 1\nhigh = 2\nlog = 1"), ["model.gating_init cannot be 1"], "true or false"),
    "log and step": (parameter("low = 1\nhigh = 2\nlog = true\nstep = 1"), ["log and step 1"], "Leave one"),
    "no step": (parameter("low = 1\nhigh = 2\nstep = 0"), ["cannot be 0"], "above 0"),
    "endless step": (parameter("low = 1\nhigh = 2\nstep = inf"), ["cannot be inf"], "above 0"),
    "half a step": (parameter("low = 1\nhigh = 9\nstep = 0.5", "model.num_blocks"), ["cannot be 0.5"], "at least 1"),
    "steps that miss the end": (parameter("low = 8\nhigh = 30\nstep = 8", HIDDEN), ["30 from 8 by", "8"], "high = 24"),
    "step beyond the end": (parameter("low = 0\nhigh = 1\nstep = 3"), ["1 from 0 by steps of 3"], "high = 3"),
    "tiny step": (parameter("low = 0\nhigh = 1\nstep = 1e-9"), ["1e-09"], "larger step"),
    "huge integers": (parameter(f"low = 1\nhigh = {'9' * 400}", "federation.batch_size"), ["99999"], "at most"),
    # conditions
    "condition on an unknown setting": (SPACE + "when = { model.fuson = 'x' }", ["'model.fuson'"], "model.fusion"),
    "condition on what is not searched": (SPACE + "when = { model.fusion = 'residual' }", ["model.fusion"], "search"),
    "condition on itself": (SPACE + "when = { model.gating_init = 0 }", ["itself"], "condition out"),
    "condition on no variant": (SPACE + "when = { variant = 'a' }", ["variant"], "search"),
    "condition on no choice": (OPTIMIZERS + ADAM.replace("adam", "adamw"), ["adamw"], "sgd, adam"),
    "impossible condition": (OPTIMIZERS + ADAM.replace("'adam'", "3"), ["cannot be 3"], "adamw"),
    "condition without values": (OPTIMIZERS + ADAM.replace("'adam'", "[]"), ["[]"], "values"),
    "condition no table": (SPACE + "when = 'always'", ["'always'"], "a table"),
    "condition on a range": (
        parameter("low = 0\nhigh = 0.9", "model.dropout") + SPACE + "when = { model.dropout = 0.5 }",
        ["which is a range"],
        "choices",
    ),
    "conditions in a circle": (
        parameter("choices = [1, 2]\nwhen = { model.num_heads = 1 }", "model.num_blocks")
        + parameter("choices = [1, 2]\nwhen = { model.num_blocks = 1 }", "model.num_heads"),
        ["model.num_blocks and model.num_heads"],
        "one condition out",
    ),
    "never searched": (
        OPTIMIZERS
        + parameter("choices = [1, 2]\nwhen = { federation.local_optimizer = 'sgd' }", "model.num_blocks")
        + SPACE
        + "when = { model.num_blocks = 1, federation.local_optimizer = 'adam' }",
        ["never so", "adam"],
        "conditions",
    ),
    # combinations
    "width and heads": (
        parameter("choices = [32, 48]", HIDDEN) + parameter("choices = [2, 32]", "model.num_heads"),
        ["hidden_dim 48", "num_heads 32", "[space]"],
        "Change",
    ),
    "width of a range and heads": (parameter("low = 32\nhigh = 128", HIDDEN), ["hidden_dim 33"], "a step"),
    "width and heads of the base": (
        parameter("choices = [32, 50]", HIDDEN) + "[base.model]\nnum_heads = 4",
        ["hidden_dim 50", "num_heads 4", "[base]"],
        "Change",
    ),
    "warm-up of all rounds": (
        parameter("choices = [5, 20]", WARMUP) + parameter("choices = [20, 40]", "federation.rounds"),
        ["warmup_rounds 20"],
        "raise rounds",
    ),
    "warm-up range of all rounds": (parameter("low = 0\nhigh = 30", WARMUP), ["warmup_rounds 30"], "Lower"),
    "steps and epochs": (
        parameter("choices = ['none', 3]", "federation.local_steps")
        + parameter("choices = ['none', 1]", "federation.local_epochs"),
        ["local_steps 3", "local_epochs 1"],
        "one",
    ),
    "scoring without memory experts": (parameter("choices = ['dot', 'cosine']", "model.scoring"), ["cosine"], "Change"),
    "scoring of some experts": (
        parameter("choices = ['dot', 'cosine']", "model.scoring")
        + parameter("choices = ['memory', 'neighbors', 'pooled']", "model.experts"),
        ["cosine", "memory"],
        "Change",
    ),
    "too many combinations": (
        parameter("low = 2\nhigh = 20000\nstep = 2", HIDDEN) + parameter("choices = [1, 2]", "model.num_heads")
        + parameter("choices = [1, 2]", "model.memory.num_heads"),
        ["more than 20000 combinations"],
        "larger step",
    ),
    # variants
    "one variant": (variants("model.dropout = 0.1"), ["one variant only, 'a'"], "[base]"),
    "variants alike": (variants("model.dropout = 0.2", "model.num_blocks = 2"), ["'a'", "'b'"], "Take one out"),
    "variant twice": (variants("model.dropout = 0.1") + variants("model.dropout = 0.3"), ["'a'", "twice"], "Take one"),
    "variant without name": ("[[variants]]\nname = ''\n", ["''"], "line of text"),
    "variant with no settings": ("[[variants]]\nname = 'a'\nsettings = 3", ["settings", "3"], "for example"),
    "unknown setting of a variant": (variants("model.droput = 0.1", ""), ["'model.droput'"], "model.dropout"),
    "impossible variant": (variants("model.dropout = 1.0", ""), ["model.dropout cannot be 1.0"], "below 1"),
    "seed of a variant": (variants("runtime.seed = 1", ""), ["runtime.seed"], "[study]"),
    "data of a variant that may win": (variants("data.name = 'ml-100k'", ""), ["data.name"], "test_every_run"),
    "measurement of a variant": (TESTED + variants("evaluation.every = 2", ""), ["evaluation.every"], "[base]"),
    "contradicting variant": (variants("federation.warmup_rounds = 30", ""), ["warmup_rounds 30"], "Lower"),
    "NUL in a variant": (variants('data.text_features = "a\\u0000"', ""), ["data", "NUL"], "."),
    "variant and parameter": (variants("model.gating_init = 0.3", "") + SPACE, ["set by a variant"], "one of the two"),
    "variant against a choice": (
        variants("federation.warmup_rounds = 10", "") + parameter("choices = [9, 20]", "federation.rounds"),
        ["warmup_rounds 10", "rounds"],
        "Lower",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if "too many" in name else name for name in MALFORMED]
)
def test_a_malformed_study_is_one_line_with_value_and_remedy(name: str) -> None:
    text, words, remedy = MALFORMED[name]
    with pytest.raises(ConfigError) as caught:
        study_of(text)
    error = caught.value
    assert all(word in error.message for word in words), error.message
    assert remedy in error.remedy, error.remedy
    assert len(str(error).splitlines()) == 1
    assert len(error.message) < 300
    assert error.message.endswith(".")
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (Changes(plan={"trials": 0}), "study.trials cannot be 0 (from --trials)"),
        (Changes(plan={"name": "a b"}), "study.name cannot be 'a b' (from --name)"),
        (Changes(plan={"minimize": "communication"}), "two objectives"),
        (
            Changes(search=["model.dropout=0,.1", "model.dropout=0,.2"]),
            "'model.dropout' is there twice (from --search)",
        ),
        (Changes(search=["model.hidden_dim=33,64"]), "hidden_dim 33 is not a multiple of num_heads 2"),
        (Changes(search=["model.dropout=0,1"]), "model.dropout cannot be '1' (from --search)"),
    ],
)
def test_what_the_command_line_changes_is_checked_as_well(changes: Changes, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study_of(SPACE, changes)
    assert words in caught.value.message
    assert caught.value.remedy


def test_a_combination_that_conditions_keep_apart_is_no_contradiction() -> None:
    experts = parameter("choices = ['memory', 'neighbors', 'pooled']", "model.experts")
    scoring = parameter("choices = ['dot', 'cosine']\nwhen = { model.experts = 'memory' }", "model.scoring")
    study = study_of(scoring + experts)
    assert [values.get("model.scoring") for values in study.grid()] == ["dot", "cosine", None, None]
    heads = parameter("choices = [48, 96]", HIDDEN) + "[base.model]\nnum_heads = 3"
    assert study_of(heads).base.model.hidden_dim == 48  # the default, 64, is in no trial
