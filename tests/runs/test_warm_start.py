"""A warm start: a run's data are kept, known events are ignored, users and items are mapped by id, new ones come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fedmm
from fedmm.config import DataConfig
from fedmm.data.datasets import extended_dataset, load_dataset
from fedmm.data.types import Dataset
from fedmm.errors import CheckpointError, ConfigError, DataError
from fedmm.experiment import Experiment
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.runs.warm import warm_start
from fedmm_cli.app import main

Event = tuple[str, str, int]
OLD = [(f"u{u}", f"i{(3 * u + 7 * n) % 20}", 1000 + n) for u in range(12) for n in range(6)]
NEW = [*((f"u{u}", f"j{u % 3}", 2000 + u) for u in range(6)), *((f"n{u}", f"i{u + n}", 2000) for u in range(4)
       for n in range(4))]  # fmt: skip


def write(path: Path, events: list[Event]) -> Path:
    path.write_text("user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in events))
    return path


def events_of(dataset: Dataset) -> set[Event]:
    own = dataset.interactions
    users, items = own.user_ids[own.histories.row_of_value], own.item_ids[own.histories.values]
    return set(zip(users.tolist(), items.tolist(), own.timestamps.astype(int).tolist(), strict=True))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """old.csv, new.csv (which repeats some of the old events), and run/, trained on the first."""
    folder = tmp_path_factory.mktemp("warm")
    write(folder / "old.csv", OLD)
    write(folder / "new.csv", [*OLD[:9], *NEW])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fedmm.train(fedmm.load_config(set={"data.path": "old.csv", **SMALL}), output="run")
    return folder


SMALL = {
    "federation.rounds": 1,
    "model.hidden_dim": 8,
    "runtime.threads": 1,
    "tracking.enabled": False,
    "evaluation.bootstrap_samples": 10,
    "evaluation.protocols": ["full"],
}


def warm_config(folder: Path, **more: object) -> fedmm.ExperimentConfig:
    given = {"start_from": str(folder / "run"), "path": str(folder / "new.csv"), "output": str(folder / "next")}
    return fedmm.load_config(folder / "run" / "config.toml", **{**given, **more})


def test_what_was_trained_is_kept_by_id(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = warm_config(project)
    warm = warm_start(config, config.data, lambda _: None)
    assert warm is not None
    experiment = Experiment.prepare(config, warm=warm)
    assert events_of(experiment.dataset) == {*OLD, *NEW}
    assert any("ignored 9 of 31 new events" in note for note in experiment.notes)
    assert any("22 new events, 4 new users and 3 new items join" in note for note in experiment.notes)
    trained, begun = fedmm.load_run(project / "run").model, experiment.initial_state().server.params
    names = experiment.dataset.interactions.item_ids.tolist()
    for name, value in trained.snapshot.params.items():
        if name != ITEM_TABLE:
            assert torch.equal(begun[name], value)
            continue
        for at, item in enumerate(trained.experiment.dataset.interactions.item_ids.tolist()):
            assert torch.equal(begun[name][names.index(item)], value[at])
    fresh = [names.index(f"j{n}") for n in range(3)]
    assert begun[ITEM_TABLE][fresh].abs().sum(1).min() > 0
    assert experiment.initial_state().ledger.uplink_bytes == 0


def test_one_command_trains_on_the_next_weeks_events(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice, each from the run before; what it came to is evaluated from elsewhere, and rounds are added to it."""
    monkeypatch.chdir(project)
    assert main(["train", "--start-from", "run", "--data", "new.csv", "--output", "second", "--quiet"]) == 0
    write(project / "newer.csv", [("u1", "k", 3000), ("u2", "k", 3001), ("x", "k", 3), ("x", "i1", 4), ("x", "i2", 5)])
    assert main(["train", "--start-from", "second", "--data", "newer.csv", "--output", "third", "--quiet"]) == 0
    capsys.readouterr()
    monkeypatch.chdir("/")
    run = fedmm.load_run(project / "third")
    assert {"k", "j0", "i0"} <= set(run.model.item_ids)
    assert run.model.dataset.num_users == 17
    again = fedmm.evaluate(run, protocols=["full"]).metrics.test.full.ndcg_at_10
    assert again == run.result.metrics.test.full.ndcg_at_10
    config = fedmm.load_config(project / "third" / "config.toml", rounds=2, output=str(project / "third"))
    assert fedmm.train(config, resume=True).result.rounds == 2


def test_what_cannot_be_started_from_is_said(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"another model: .* has shape"):
        fedmm.train(warm_config(project, hidden_dim=4))
    with pytest.raises(DataError, match="no event that the run does not know"):
        fedmm.train(warm_config(project, path=str(project / "old.csv")))
    with pytest.raises(ConfigError, match="not accounted"):
        warm_config(project, privacy__noise_multiplier=1.0)
    with pytest.raises(ConfigError, match="needs new events"):
        fedmm.load_config(start_from="run")
    untimed = tmp_path / "untimed.csv"
    untimed.write_text("user,item\nu1,z\n")
    with pytest.raises(DataError, match=r"have timestamps and .* none"):
        fedmm.train(warm_config(project, path=str(untimed)))
    assert main(["train", "--start-from", str(tmp_path), "--data", str(untimed)]) == 2
    assert "There is no run in" in capsys.readouterr().err


EVENT = st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 3))


@settings(max_examples=40, deadline=None)
@given(old=st.lists(EVENT, min_size=1, max_size=12), new=st.lists(EVENT, min_size=1, max_size=12))
def test_old_and_new_together_are_one_file_of_both(
    old: list[Event], new: list[Event], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("both")
    limits = {"min_user_interactions": 1, "repeats": "keep"}
    before = DataConfig.model_validate({"path": write(folder / "old.csv", list(dict.fromkeys(old))), **limits})
    after = DataConfig.model_validate({"path": write(folder / "new.csv", list(dict.fromkeys(new))), **limits})
    loaded = load_dataset(before)
    if set(new) <= set(old):
        with pytest.raises(DataError, match="no event"):
            extended_dataset(loaded, before, after)
        return
    found = extended_dataset(loaded, before, after)
    whole = DataConfig.model_validate({"path": write(folder / "all.csv", sorted({*old, *new})), **limits})
    assert found.digest == load_dataset(whole).digest


def test_without_times_new_events_come_after_all_others(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("user,item\na,x\na,y\nb,x\n")
    (tmp_path / "new.csv").write_text("user,item\nb,y\na,x\na,z\n")
    before, after = (DataConfig(path=tmp_path / name, min_user_interactions=1) for name in ("old.csv", "new.csv"))
    found = extended_dataset(load_dataset(before), before, after).interactions
    rows = [found.item_ids[row].tolist() for row in found.histories]
    assert rows == [["x", "y", "z"], ["x", "y"]]
    assert np.diff(found.timestamps[:3]).min() > 0


KINDS = {
    "frozen table": {"federation.item_table": "frozen"},
    "frozen backbone": {"federation.backbone": "frozen"},
    "personal": {"model.personal_gate": True, "model.user_vector": True},
    "competitive": {"model.fusion": "competitive"},
    "memory": {"model.experts": "memory"},
    "transition": {"model.transition": True},
    "counts added": {"model.succession": 2.0},
    "SCAFFOLD": {"federation.local_algorithm": "scaffold"},
}


FAST = ("personal",)


def features(path: Path, items: list[str], width: int = 4) -> Path:
    rows = {name: np.random.default_rng(list(name.encode())).normal(size=width) for name in items}
    np.savez(path, item_id=np.array(items), features=np.stack([rows[name] for name in items]))
    return path


SLOWER = [pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind not in FAST]


@pytest.mark.parametrize("kind", [*FAST, *SLOWER])
def test_every_kind_of_model_goes_on(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With features of new items: what was trained stands at its ids, what clients keep stays with them and with nobody
    else, round 0 is scored with it, and the result is evaluated again to the same number."""
    monkeypatch.chdir(tmp_path)
    old_items, new_items = sorted({i for _, i, _ in OLD}), sorted({i for _, i, _ in [*OLD, *NEW]})
    write(tmp_path / "old.csv", OLD)
    write(tmp_path / "new.csv", NEW)
    features(tmp_path / "old.npz", old_items)
    features(tmp_path / "all.npz", new_items)
    own = {"data.visual_features": "old.npz", **SMALL, **KINDS[kind]}
    first = fedmm.train(fedmm.load_config(set={"data.path": "old.csv", **own}), output="run").model
    given = {"start_from": "run", "path": "new.csv", "visual_features": "all.npz", "output": "next"}
    config = fedmm.load_config("run/config.toml", **given)
    warm = warm_start(config, config.data, lambda _: None)
    assert warm is not None
    experiment = Experiment.prepare(config, warm=warm)
    begun = experiment.initial_state()
    names, before = (
        experiment.dataset.interactions.item_ids.tolist(),
        first.experiment.dataset.interactions.item_ids.tolist(),
    )
    for name, value in first.snapshot.params.items():
        there = begun.server.params[name]
        if name == ITEM_TABLE:
            there = there[[names.index(item) for item in before]]
        assert torch.equal(there, value), name
    users = experiment.dataset.interactions.user_ids.tolist()
    kept = {users[at]: state for at, state in begun.clients.entries.items()}
    had = first.snapshot.clients.personal().entries
    assert kept.keys() == {first.experiment.dataset.interactions.user_ids[at] for at in had}
    assert bool(kept) == (kind == "personal")
    for at, state in had.items():
        assert all(
            torch.equal(kept[first.experiment.dataset.interactions.user_ids[at]][name], state[name]) for name in state
        )
    grown = fedmm.train(config)
    again = fedmm.evaluate(fedmm.load_run("next"), protocols=["full"]).metrics.test.full.ndcg_at_10
    assert again == grown.result.metrics.test.full.ndcg_at_10


def test_files_of_items_come_along_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run has relative paths; the one that starts from it is called and evaluated in other folders."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(project)
    write(project / "old.csv", OLD)
    write(project / "new.csv", NEW)
    items = sorted({i for _, i, _ in [*OLD, *NEW]})
    features(project / "f.npz", items)
    (project / "titles.csv").write_text("item_id,title\n" + "".join(f"{name},The {name}\n" for name in items))
    own = {"data.path": "old.csv", "data.visual_features": "f.npz", "data.titles": "titles.csv", **SMALL}
    fedmm.train(fedmm.load_config(set=own), output="run")
    monkeypatch.chdir(elsewhere)
    command = ["train", "--start-from", str(project / "run"), "--data", str(project / "new.csv"), "--output", "next"]
    assert main([*command, "--quiet"]) == 0
    monkeypatch.chdir("/")
    dataset = fedmm.load_run(elsewhere / "next").model.experiment.dataset
    assert set(dataset.features) == {"visual"}
    assert "The j0" in dataset.titles.tolist()
    (project / "f.npz").unlink()
    monkeypatch.chdir(elsewhere)
    assert main([*command[:-1], "third", "--quiet"]) == 2


def test_a_split_that_was_made_is_given_up_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Old and new events are split together: a run on made files says so, and goes on under another split."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.csv", [event for event in OLD if event[2] < 1004])
    write(tmp_path / "valid.csv", [event for event in OLD if event[2] == 1004])
    write(tmp_path / "test.csv", [event for event in OLD if event[2] > 1004])
    write(tmp_path / "new.csv", NEW)
    made = {"data.path": "train.csv", "data.validation": "valid.csv", "data.test": "test.csv"}
    fedmm.train(fedmm.load_config(set={**made, **SMALL}), output="run")
    command = ["train", "--start-from", "run", "--data", "new.csv", "--output", "next", "--quiet"]
    assert main(command) == 2
    assert 'Set data.split "leave_one_out" or "temporal"' in " ".join(capsys.readouterr().err.split())
    unset = ["data.split=leave_one_out", "data.validation=none", "data.test=none"]
    assert main([*command, *(word for own in unset for word in ("--set", own))]) == 0
    assert events_of(fedmm.load_run(tmp_path / "next").model.experiment.dataset) == {*OLD, *NEW}
