"""What a federation agrees on: every setting is followed or refused, and both sides mean the same."""

import pytest

from fedmm.config import ExperimentConfig, FederationConfig
from fedmm.deployment.agreed import BY_DATA, SETTLED, require_no_weaker
from fedmm.deployment.messages import RefusedError
from fedmm.deployment.terms import SIMULATED, digest_of, joined_settings, require_supported, settled_terms, terms_of
from fedmm.errors import ConfigError
from fedmm.utils.trees import flatten

# Read by local training, by the server's step or by the start of a deployment, each where the simulation reads it.
FOLLOWED = {
    "rounds", "client_fraction", "cohort_size", "cohort_sampler", "local_steps", "local_epochs", "batch_size",
    "local_algorithm", "local_optimizer", "learning_rate", "learning_rate_schedule", "weight_decay", "clip_norm",
    "proximal_mu", "loss", "gbce_calibration", "num_negatives", "logq_correction", "negatives_per", "item_rows",
    "exclude_seen", "warmup_rounds", "aggregation", "heat_cap", "client_weighting", "server_optimizer",
    "server_learning_rate", "server_beta1", "server_beta2", "server_epsilon", "ema_decay", "spectral_start",
    "spectral_sketch_size", "item_table", "backbone", "trained_size", "upload_bits", "download_bits", "recipe",
    "count_sums", "counts_received", "update_transforms", "update_clip", "update_clip_by", "update_clip_quantile",
    "update_bits", "update_rank",
}  # fmt: skip
REFUSED = {
    "federation.mode": "centralized",
    "federation.aggregation": "median",
    "federation.update_transforms": ("mask", "clip"),
    "federation.absence_rate": 0.1,
    "federation.upload_step": 1.0,
    "federation.upload_share": 0.1,
    "federation.day_rounds": 4,
    "privacy.kinds": 8,
    "privacy.mechanism": "banded",
    "data.split": "temporal",
    "data.cold_item_fraction": 0.1,
    "data.attributes": "brands.json",
    "runtime.start_from": "runs/x",
}
# Of no effect beside what is refused.
IDLE = {"mode", "trim_fraction", "speed_spread"}


def test_every_setting_of_the_federation_is_followed_or_refused():
    assert set(FederationConfig.model_fields) == FOLLOWED | IDLE | set(SIMULATED)


def test_a_chain_that_cannot_be_is_refused_before_silos_come():
    config = ExperimentConfig().with_values({"data.path": "x.csv", "federation.update_transforms": ("clip", "mask")})
    with pytest.raises(ConfigError, match="nothing before it rounds"):
        require_supported(config)
    chain = ("low_rank", "clip", "rotate", "round", "mask")
    require_supported(config.with_values({"federation.update_transforms": chain}))


@pytest.mark.parametrize("key", REFUSED)
def test_what_silos_cannot_follow_is_refused_by_name(key):
    more = {"privacy.epsilon": 8.0} if key.startswith("privacy") else {}
    config = ExperimentConfig().with_values({"data.path": "x.csv", key: REFUSED[key], **more})
    with pytest.raises(ConfigError, match=key.partition(".")[0]):
        require_supported(config)


@pytest.mark.parametrize("events", [20, 2_000, 400_000])
@pytest.mark.parametrize("private", [False, True])
def test_what_the_data_settle_is_what_a_federation_may_begin_with(events, private):
    """Every choice of the data's is let through, and none that noise is planned by is among them."""
    open_ones = ({"model.transition": True}, {"federation.spectral_sketch_size": 8})
    for more in ({}, {"model.fusion": "backbone"}, *(() if private else open_ones)):
        config = ExperimentConfig().with_values({"privacy.epsilon": 8.0, **more} if private else more)
        for items in (40, 60_000):
            begun = settled_terms(config, items, 50, events)
            require_no_weaker(terms_of(config), terms_of(begun))
            before, after = flatten(terms_of(config)), flatten(terms_of(begun))
            changed = {name for name, value in before.items() if after[name] != value}
            assert changed <= {*BY_DATA, *SETTLED}
    assert not any(name.startswith("privacy") for name in BY_DATA)


def test_terms_say_nothing_of_where_data_are():
    config = ExperimentConfig().with_values({"data.path": "secret/ratings.csv", "runtime.output": "secret/run"})
    assert "secret" not in str(terms_of(config))


def test_a_silo_takes_the_terms_and_keeps_what_is_its_own():
    given = ExperimentConfig().with_values({"model.hidden_dim": 32, "runtime.seed": 7, "data.min_rating": 3.0})
    own = ExperimentConfig().with_values({"data.path": "mine.csv", "runtime.engine": "sequential"})
    joined = joined_settings(terms_of(given), own)
    assert (joined.model.hidden_dim, joined.runtime.seed, joined.data.min_rating) == (32, 7, 3.0)
    assert (str(joined.data.path), joined.runtime.engine) == ("mine.csv", "sequential")
    assert digest_of(terms_of(joined), "c") == digest_of(terms_of(given), "c") != digest_of(terms_of(given), "d")


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"path": "/etc/passwd"}},
        {"runtime": {"output": "/"}},
        {"more": {}},
        {"model": {"hidden_dim": -1}},
        {"model": []},
    ],
)
def test_terms_that_reach_further_are_refused(change):
    with pytest.raises(RefusedError):
        joined_settings({**terms_of(ExperimentConfig()), **change}, ExperimentConfig())
