"""The folder that a federation's server leaves holds a model that can be used."""

import numpy as np
import pytest

from fedmm.deployment.flower import LogObserver
from fedmm.errors import CheckpointError, ConfigError, DataError
from fedmm.experiment import Experiment
from fedmm.federation.snapshot import Snapshot
from fedmm.recommendation.choosing import Chooser
from fedmm.runs.checkpoint import load_checkpoint
from fedmm.runs.evaluate import run_evaluation
from fedmm.runs.led import NAME
from fedmm.runs.trained import TrainedModel
from worlds.silo_world import lead_of, silo_settings, silos_of, write_world

SETTINGS = {"rounds": 1, "protocols": ("full",), "succession": 2.0, "transition": True, "hidden_dim": 4}


@pytest.fixture(scope="module")
def led(tmp_path_factory):
    folder = tmp_path_factory.mktemp("led")
    write_world(folder, {"a": 4, "b": 5})
    lead = lead_of(folder, silos_of(folder, ["a", "b"], **SETTINGS), kept=folder / "federation", **SETTINGS)
    lead.begin()
    list(lead.rounds())
    lead.finish()
    return folder, lead


def test_it_scores_as_the_simulation_does(led):
    folder, lead = led
    experiment = Experiment.prepare(silo_settings(folder, **SETTINGS))
    simulated = Chooser(experiment, Snapshot(lead.state.server.evaluated, 1))
    histories = [["item-0003", "item-0005"], ["item-0001", "item-0001", "item-0020"]]
    for path in (folder / "federation", folder / "federation" / "checkpoints" / "best"):
        model = TrainedModel.load(path)
        assert model.item_ids == tuple(experiment.dataset.interactions.item_ids[1:])
        np.testing.assert_allclose(model.score(histories=histories), simulated.score(histories, None), rtol=1e-6)
    assert list(model.experiment.additions) == ["succession"]


def test_who_would_need_users_is_told_so(led):
    folder, _ = led
    model = TrainedModel.load(folder / "federation")
    with pytest.raises(ConfigError, match="with their silos"):
        model.evaluate()
    with pytest.raises(ConfigError, match="with their silos"):
        run_evaluation(folder / "federation", LogObserver())
    with pytest.raises(DataError, match="user-0001"):
        model.recommend(user="user-0001")


def test_it_goes_into_files(led, tmp_path):
    folder, _ = led
    found = TrainedModel.load(folder / "federation").export("safetensors", tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size == sum(found.files.values())


def test_without_its_catalogue_it_is_refused_and_lead_writes_it_again(led):
    folder, _ = led
    before = load_checkpoint(folder / "federation" / NAME)
    (folder / "federation" / NAME).rename(folder / "away")
    with pytest.raises(CheckpointError, match="without its catalogue"):
        TrainedModel.load(folder / "federation")
    again = lead_of(folder, silos_of(folder, ["a", "b"], **SETTINGS), kept=folder / "federation", **SETTINGS)
    again.begin()
    after = load_checkpoint(folder / "federation" / NAME)
    assert before[1] == after[1]
    assert before[0].keys() == after[0].keys()


def test_a_silo_of_too_few_users_is_left_out(tmp_path):
    write_world(tmp_path, {"a": 12, "b": 5, "c": 1})
    silos = silos_of(tmp_path, ["a", "b", "c"], **SETTINGS)
    told = []
    lead = lead_of(tmp_path, silos, silos=2, min_users=2, **SETTINGS)
    lead.tell = told.append
    state = lead.begin()
    assert [own.name for own in state.silos] == ["a", "b"]
    assert [own.split(":")[0] for own in told] == ["b has 5 users", "c is left out"]
    lead.one_round()
    lead.one_round()
    assert lead.conversation.events.number["refused"] == 1
