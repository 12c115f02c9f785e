"""Laws of new events: each is one question with the history before it, and what is planted is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedmm.data.new_events import read_new_events
from fedmm.errors import DataError
from fedmm.runs.drift import measure_drift
from fedmm.runs.model import Run
from fedmm.testing import tiny_run
from fedmm_cli.app import main
from worlds.run_world import Watcher

HEAD = "user,item,rating,timestamp\n"


@pytest.fixture(scope="module")
def run() -> Run:
    return tiny_run()


def write(path: Path, rows: list[tuple[str, str, int]]) -> Path:
    path.write_text(HEAD + "".join(f"{user},{item},4,{time}\n" for user, item, time in rows))
    return path


def unmet(run: Run, user: str) -> list[str]:
    """Items that a user has not met, best first."""
    return [one.item_id for one in run.model.recommend(user=user, k=30)]


def test_every_event_is_asked_about_after_what_came_before(run: Run, tmp_path: Path) -> None:
    dataset = run.model.experiment.dataset
    one, two, *_ = unmet(run, "u1")
    met = str(dataset.interactions.item_ids[dataset.interactions.histories[0][0]])
    user = str(dataset.interactions.user_ids[0])
    rows = [("u1", two, 9000), ("u1", one, 8000), ("new", "i3", 100), ("new", "i4", 200), ("new", "zzz", 300)]
    path = write(tmp_path / "new.csv", [*rows, (user, met, 50)])
    found = read_new_events(path, run.config.data, dataset, None)
    queries, names = found.queries, dataset.interactions.item_ids
    assert (found.num_events, found.num_known, found.num_unknown_items, found.num_without_history) == (6, 1, 1, 1)
    assert (found.num_users, found.num_new_users) == (3, 1)
    assert [str(name) for name in names[queries.targets]] == ["i4", one, two]
    whole = dataset.interactions.histories[int(queries.users[1])].tolist()
    assert queries.histories[0].tolist() == [list(names).index("i3")]
    assert queries.histories[1].tolist() == whole
    assert queries.histories[2].tolist() == [*whole, queries.targets[1]]
    for row, target in enumerate(queries.targets.tolist()):
        assert target not in queries.excluded[row]
        assert set(queries.histories[row].tolist()) <= set(queries.excluded[row].tolist())
    assert queries.targets[2] in queries.excluded[1]  # the user's other items, as everywhere


def test_metrics_are_those_of_the_lists(run: Run, tmp_path: Path) -> None:
    """One new event a user: the model's own best item is a hit at 1, its worst none."""
    users = [str(name) for name in run.model.experiment.dataset.interactions.user_ids]
    rows = [(user, unmet(run, user)[0 if at % 2 else -1], 9000 + at) for at, user in enumerate(users)]
    found = measure_drift(run.folder, write(tmp_path / "new.csv", rows), Watcher())
    assert found.num_asked == len(users)
    assert found.metrics.new.ndcg_at_5 == pytest.approx(0.5)
    own = run.result.metrics.test.full
    assert found.metrics.test.ndcg_at_10 == pytest.approx(own.ndcg_at_10)
    metric = found.metric.partition("/")[2]
    assert found.change.difference == pytest.approx(found.metrics.new[metric] - own[metric])
    assert found.popularity.test[metric] == pytest.approx(run.result.baselines.popularity.test.full[metric])
    assert sum(period.num_events for period in found.periods) == len(users)


@pytest.mark.parametrize(("place", "words"), [(-1, "fallen behind"), (0, "easier than the test")])
def test_what_is_planted_is_told(place: int, words: str, run: Run, tmp_path: Path) -> None:
    users = [str(name) for name in run.model.experiment.dataset.interactions.user_ids]
    rows = [(user, unmet(run, user)[place], 9000) for user in users] + [("u1", f"new{at}", 9999) for at in range(9)]
    found = measure_drift(run.folder, write(tmp_path / "new.csv", rows), Watcher())
    assert any(words in warning for warning in found.warnings)
    assert any("does not know" in warning for warning in found.warnings)


def test_a_file_without_questions_is_refused(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "new.csv", [("u1", "zzz", 1), ("newcomer", "i3", 2)])
    with pytest.raises(DataError, match="none of its 2 events"):
        measure_drift(run.folder, path, Watcher())


def test_the_command_prints_draws_and_refuses(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = np.random.default_rng(0)
    rows = [(f"u{user}", item, 10**9 + 86_400 * at) for user in range(16)
            for at, item in enumerate(stream.permutation(unmet(run, f"u{user}"))[:6])]  # fmt: skip
    new, figure = write(tmp_path / "new.csv", rows), tmp_path / "drift.svg"
    asked = ["evaluate", str(run.folder), "--new-data", str(new), "--quiet"]
    assert main([*asked, "--figure", str(figure)]) == 0
    shown = capsys.readouterr().out
    assert "from 2001-09-09" in shown
    assert "New minus test" in shown
    assert figure.read_text().startswith("<?xml")
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == measure_drift(run.folder, new, Watcher()).to_json()
    for more, words in (
        (["--split", "validation"], "--split has no effect beside --new-data"),
        (["--eval", "full"], "--eval has no effect"),
        (["--figure", "drift.doc"], "no format"),
    ):
        assert main([*asked, *more]) == 2
        assert words in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", str(run.folder), "--figure", str(figure)]) == 2
    assert "without --new-data" in " ".join(capsys.readouterr().err.split())
