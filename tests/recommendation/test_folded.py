"""Laws of folded scores: those of the evaluator's scorer to rounding, and used only where they can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmm.data.types import Ragged
from fedmm.recommendation import folded
from fedmm.recommendation.choosing import Choice, Chooser
from fedmm.runs.model import TrainedModel
from fedmm.runs.train import run_training
from worlds.run_world import Watcher, tiny, write_data

FOLDS: dict[str, tuple[dict[str, Any], bool]] = {
    "pooled": ({"model.experts": "pooled", "model.succession": 2.0}, True),
    "competitive": ({"model.experts": "pooled", "model.fusion": "competitive"}, True),
    "backbone": ({"model.fusion": "backbone"}, True),
    "hybrid": ({"model.experts": "hybrid"}, True),
    "transition": ({"model.transition": True, "model.succession": 2.0}, True),
    "memory": ({"model.experts": "memory"}, False),
    "personal": ({"model.experts": "pooled", "model.user_vector": True}, False),
}


@pytest.mark.parametrize("kind", sorted(FOLDS))
def test_folded_scores_are_the_models(kind: str, tmp_path: Path) -> None:
    write_data(tmp_path)
    settings, folds = FOLDS[kind]
    run = run_training(tiny(tmp_path, tmp_path / "run", {"federation.rounds": 1, **settings}), Watcher()).output
    model = TrainedModel.load(run)
    experiment, snapshot = model.experiment, model.snapshot
    found = folded.fold(experiment, snapshot)
    assert (found is not None) == folds
    histories = Ragged.from_rows([[3, 4, 5], [7], list(range(1, 12))])
    plain = experiment.scorer(snapshot)(np.full(3, -1), histories)
    if found is not None:
        torch.testing.assert_close(found.scorer(np.full(3, -1), histories), plain, rtol=1e-5, atol=1e-5)
    lists = model.recommend(["i3", "i4"], k=5)
    chooser = Chooser(experiment, snapshot, fold_from=0)
    (again,) = chooser.each(chooser.asked(["i3", "i4"], None, None, None, None), Choice(5), None)
    assert [one.score for one in again] == pytest.approx([one.score for one in lists], abs=1e-5)
    assert [one.item_id for one in again] == [one.item_id for one in lists]
