"""A private federation spends and learns what a private simulation does, and its noise is nobody else's."""

import json

import numpy as np
import pytest
import torch

from fedmm.deployment.hidden import FILE, hidden_seed
from fedmm.deployment.leading import result_of
from fedmm.deployment.masked_answers import require_countable
from fedmm.deployment.messages import Message, encode, read_header
from fedmm.deployment.seals import Checksums
from fedmm.errors import CheckpointError, ConfigError
from fedmm.experiment import Experiment
from fedmm.federation.snapshot import Snapshot
from fedmm.recommendation.choosing import Chooser
from fedmm.runs.facts import privacy_result
from fedmm.runs.trained import TrainedModel
from fedmm.utils.trees import plain
from worlds.silo_world import lead_of, silo_settings, silos_of, write_world

WHOLE = ("clip", "rotate", "round")
PRIVATE = {"epsilon": 8.0, "protocols": ("full",), "rounds": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("private")
    write_world(folder, {"a": 7, "b": 9, "c": 5})
    return folder


def both(folder, kept=None, **settings):
    """A simulation's states and reports, and a lead after as many rounds with the simulation's seed for its noise."""
    experiment = Experiment.prepare(silo_settings(folder, **settings))
    found = list(experiment.rounds(experiment.initial_state()))
    lead = lead_of(folder, silos_of(folder, ["a", "b", "c"], **settings), kept=kept, **settings)
    lead.secret = lead.given.runtime.seed
    lead.begin()
    return experiment, found, lead, list(lead.rounds())


def assert_same(found, lead, reports, tolerance=0.0):
    state = found[-1][0]
    for name, value in state.server.params.items():
        torch.testing.assert_close(lead.state.server.params[name], value, rtol=0, atol=tolerance)
    assert len(reports) == len(found)
    for report, (_, other) in zip(reports, found, strict=True):
        assert (report.num_clients, report.epsilon, report.is_best) == (
            other.num_clients, other.epsilon, other.is_best,
        )  # fmt: skip
        assert report.update_clip == pytest.approx(other.update_clip)
        assert report.loss == pytest.approx(other.loss, rel=1e-9)
        for name, value in report.validation.items():
            assert value == pytest.approx(other.validation[name], abs=1e-9)


def test_a_private_federation_spends_and_learns_what_a_simulation_does(world, tmp_path):
    experiment, found, lead, reports = both(world, tmp_path, **PRIVATE)
    assert_same(found, lead, reports, 1e-9)
    told = result_of(lead, lead.finish(), world)["privacy"]
    expected = privacy_result(experiment, len(found))
    assert json.dumps(plain(told), sort_keys=True) == json.dumps(plain(expected), sort_keys=True)
    assert 0 < told["epsilon"] <= 8.0
    asked = [["item-0003", "item-0005"], ["item-0020"]]
    scores = Chooser(experiment, Snapshot(lead.state.server.evaluated, 2)).score(asked, None)
    np.testing.assert_allclose(TrainedModel.load(tmp_path).score(histories=asked), scores, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"update_transforms": ("clip",)},
        {"update_transforms": WHOLE, "update_clip": 0.3, "update_clip_quantile": 0.5, "aggregation": "heat"},
        {**PRIVATE, "cohorts": "fixed", "update_transforms": (*WHOLE, "noise"), "backbone": "trained"},
        {**PRIVATE, "cohorts": "all", "spectral_start": False, "update_clip_quantile": 0.5, "item_table": "trained"},
    ],
    ids=["clipped", "rounded", "fixed", "without a start"],
)
def test_so_it_is_with_other_chains(world, settings):
    _, found, lead, reports = both(world, **{"protocols": ("full",), "rounds": 2, **settings})
    whole = "round" in lead.local.config.update_transforms
    assert_same(found, lead, reports, 0.0 if whole and "epsilon" not in settings else 1e-9)


def test_a_cohort_of_nobody_is_a_round_of_noise(world):
    lead = lead_of(world, silos_of(world, ["a", "b", "c"], **PRIVATE), **PRIVATE)
    lead.begin()
    lead.__dict__["_cohort"] = lambda everyone, number: everyone[:0]
    before = lead.state.server.params
    report = lead.one_round()
    assert report.num_clients == 0
    assert any(not torch.equal(before[name], value) for name, value in lead.state.server.params.items())


def test_the_seed_that_silos_know_does_not_draw_the_noise(world):
    ends = []
    for _ in range(2):
        lead = lead_of(world, silos_of(world, ["a", "b", "c"], **PRIVATE), **PRIVATE)
        lead.begin()
        ends.append(lead.state.begin["noisy/holders"])
    assert not torch.equal(*ends)


def test_a_silo_sends_no_count_that_no_noise_covers(world):
    silos = silos_of(world, ["a", "b", "c"], **PRIVATE)
    lead_of(world, silos, **PRIVATE).begin()
    for what in ("counts", "popularity", "degrees", "sketch"):
        asked = Message("count", {"what": what}, session="another", sequence=len(what))
        answer = silos["a"].answer(Checksums().close(encode(asked)))
        assert read_header(Checksums().open(answer, "a")).message.kind == "refused"


def test_it_goes_on_with_the_noise_that_it_had_and_opens_as_a_model(world, tmp_path):
    silos = silos_of(world, ["a", "b", "c"], **PRIVATE)
    first = lead_of(world, silos, kept=tmp_path / "federation", **PRIVATE)
    first.begin()
    first.one_round()
    path = tmp_path / "federation" / FILE
    assert path.stat().st_mode & 0o077 == 0
    second = lead_of(world, silos, kept=tmp_path / "federation", **PRIVATE)
    second.begin()
    assert second.secret == first.secret != first.given.runtime.seed
    second.one_round()
    whole = lead_of(world, silos_of(world, ["a", "b", "c"], **PRIVATE), **PRIVATE)
    whole.secret = first.secret
    whole.begin()
    list(whole.rounds())
    for name, value in whole.state.server.params.items():
        assert torch.equal(second.state.server.params[name], value), name
    scores = TrainedModel.load(tmp_path / "federation").score(histories=[["item-0003", "item-0005"]])
    assert np.isfinite(scores).all()
    assert TrainedModel.load(tmp_path / "federation").experiment.additions.keys() == {"noisy_counts"}
    more = lead_of(world, silos, kept=tmp_path / "federation", **{**PRIVATE, "rounds": 5})
    with pytest.raises(CheckpointError, match="its noise was set for 2"):
        more.begin()
    path.write_text("nonsense")
    with pytest.raises(CheckpointError, match="noise of this federation"):
        hidden_seed(path.parent, new=True)


def test_who_comes_after_it_began_is_not_in_the_account(world):
    silos = silos_of(world, ["a", "b", "c"], **PRIVATE)
    some = {name: silos[name] for name in ("a", "b")}
    lead = lead_of(world, some, **PRIVATE)
    lead.begin()
    lead.conversation.transport.silos["c"] = silos["c"].answer
    lead.one_round()
    lead.one_round()
    assert [own.name for own in lead.state.silos] == ["a", "b"]
    assert lead.conversation.events.number["refused"] == 1


def test_popularity_that_nothing_covers_is_refused(world):
    with pytest.raises(ConfigError, match="popularity100"):
        lead_of(world, {}, epsilon=8.0, spectral_start=False)


def killed():
    raise KeyboardInterrupt


def test_what_was_shown_to_silos_is_never_made_again_with_the_same_noise(world, tmp_path):
    """Made again with other silos it would differ by a silo's own."""
    silos, kept = silos_of(world, ["a", "b", "c"], **PRIVATE), tmp_path / "federation"
    starting = lead_of(world, silos, kept=kept, **PRIVATE)
    starting.members.begin = lambda names, state: killed()
    with pytest.raises(KeyboardInterrupt):
        starting.begin()
    first = lead_of(world, silos, kept=kept, **PRIVATE)
    start = first.begin()
    assert torch.equal(start.begin["noisy/holders"], starting.state.begin["noisy/holders"])
    first.__dict__["_validate"] = killed  # silos have the round's parameters by then
    with pytest.raises(KeyboardInterrupt):
        first.one_round()
    second = lead_of(world, silos, kept=kept, **PRIVATE)
    assert second.begin().server.round == 0
    second.__dict__["_train"] = killed
    report = second.one_round()
    assert report.round == 1
    assert report.validation is not None
    for name, value in first.state.server.params.items():
        assert torch.equal(second.state.server.params[name], value), name
    with pytest.raises(KeyboardInterrupt):  # the next round is trained
        second.one_round()


def test_pairs_of_too_many_items_are_not_asked_under_masks(world):
    config = silo_settings(world, update_transforms=(*WHOLE, "mask"))
    with pytest.raises(ConfigError, match="12,000 items"):
        require_countable(config, 12_000)
    require_countable(config.with_values({"federation.spectral_start": False, "model.succession": 0.0}), 12_000)
    require_countable(config, 9_999)
