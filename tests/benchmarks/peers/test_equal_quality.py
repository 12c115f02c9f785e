"""Times to equal quality: what is counted, what is exported, and that fedmm's metrics measure what others scored."""

import numpy as np
import pytest
import reaching
from central import export, measure
from equal_quality import row, taken_by
from reaching import GRID, Reached, Taken, best_settings

from fedmm.experiment import Experiment
from fedmm.testing import tiny_config


def test_a_systems_time_is_its_start_up_and_its_rounds_each_by_its_best_way():
    def way(system: str, ms: float, cpu: float, start: float, start_cpu: float) -> dict[str, object]:
        times = {"ms_per_client": {"median": ms}, "cpu_ms_per_client": {"median": cpu}}
        return {"system": system, "start_up_seconds": {"median": start}, "start_up_cpu_seconds": start_cpu, **times}

    ways = [way("pfl", 10, 20, 3.0, 5.0), way("pfl", 14, 14, 2.0, 1.0), way("flower", 1, 1, 0.0, 0.0)]
    runs = [Reached(5, 0.1, 100), Reached(None, 0.05, 100)]
    assert taken_by(ways, "pfl", runs, 20) == [Taken(3.0 + 5.0, 1.0 + 7.0), Taken(3.0 + 20.0, 1.0 + 28.0)]
    ours = [Taken(1.0, 2.0), Taken(2.0, 4.0), Taken(9.0, 9.0)]
    found = row("pfl", [5, None], [Taken(8.0, 8.0), Taken(24.0, 40.0)], ours)
    assert (found["seconds"], found["ratio"], found["cpu_ratio"], found["missed"]) == (16.0, 8.0, 6.0, True)


@pytest.mark.parametrize(
    ("needed", "chosen"), [((30, 20, None, 25), 1), ((None, None, None, None), 2), ((None, 40, 45, 10), 3)]
)
def test_the_best_settings_need_the_fewest_rounds_and_others_are_not_run_on_for_longer(monkeypatch, needed, chosen):
    allowed = []

    def run(target: float, values: dict[str, object], seed: int, most: int) -> Reached:
        place = len(allowed)
        allowed.append(most)
        rounds = needed[place]
        best = (0.01, 0.02, 0.05, 0.03)[place]
        return Reached(None, best, 94) if rounds is None or rounds > most else Reached(rounds, target, 94)

    monkeypatch.setattr(reaching, "rounds_to", run)
    values, reached = best_settings(0.1, 0, 50)
    _, rate, share = GRID[chosen]
    assert (values["federation.learning_rate"], values["federation.client_fraction"]) == (rate, share)
    assert reached.rounds == needed[chosen]
    best = 50
    for most, rounds in zip(allowed, needed, strict=True):
        assert most == best
        best = best if rounds is None else min(best, rounds)


def test_scores_in_the_order_of_the_questions_are_measured_as_the_model_that_gave_them(tmp_path):
    experiment = Experiment.prepare(tiny_config().with_values({"evaluation.protocols": ["full"]}))
    queries, split = experiment.queries("validation"), experiment.split
    export(tmp_path / "histories.npz", split, queries, 3)
    with np.load(tmp_path / "histories.npz", allow_pickle=False) as file:
        rows = [file["values"][file["offsets"][user] : file["offsets"][user + 1]] for user in file["users"]]
        assert (int(file["num_items"]), int(file["seed"])) == (split.num_items, 3)
    assert [own.tolist() for own in rows] == [queries.histories[place].tolist() for place in range(len(queries))]
    state = experiment.initial_state()
    scores = experiment.scorer(state.snapshot)(queries.users, queries.histories).numpy().astype(np.float32)
    found = measure(experiment, queries, scores)
    assert found == pytest.approx(experiment.validate(state.snapshot)["full/ndcg_at_10"], abs=1e-6)
    assert 0 < found < 1
    with pytest.raises(ValueError, match="another history"):
        export(tmp_path / "histories.npz", split, experiment.queries("test"), 3)
