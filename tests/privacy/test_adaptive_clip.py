"""Laws of a bound that follows the norms: it finds the quantile, costs no privacy, and goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedmm
from fedmm.config import FederationConfig
from fedmm.federation.local_training import UpdateBlock
from fedmm.federation.private_rounds import share_within
from fedmm.federation.transforms.chain import Layout
from fedmm.federation.transforms.clipping import next_bound
from fedmm.runs.folder import Progress, load_state, save_state
from fedmm.testing import tiny_config

ADAPTIVE: dict[str, Any] = {"update_transforms": ("clip",), "update_clip_quantile": 0.5}


@pytest.mark.parametrize("wanted", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("start", [0.01, 100.0])
def test_the_bound_finds_the_quantile_of_the_norms(wanted: float, start: float) -> None:
    norms = np.random.default_rng(0).lognormal(0.0, 0.7, 4000)
    config, bound = FederationConfig(update_transforms=("clip",), update_clip_quantile=wanted), start
    for _ in range(300):
        found = next_bound(bound, float((norms <= bound).mean()), config)
        assert found is not None
        bound = found
    assert (norms <= bound).mean() == pytest.approx(wanted, abs=0.02)


def test_a_bit_says_who_is_within_and_the_vector_stays_bounded() -> None:
    deltas = {"a": torch.diag(torch.tensor([0.5, 1.0, 3.0, 4.0], dtype=torch.float64))}
    zeros = torch.zeros(4, dtype=torch.float64)
    layout = Layout({"a": torch.Size([4])}, bound=2.0)
    vectors = layout.pack(UpdateBlock(np.arange(4), deltas, zeros + 1, zeros, zeros), 3)
    assert vectors.shape == (4, sum(layout.parts))
    _, facts, more = layout.unpack(vectors.sum(0))
    assert facts is None
    assert share_within(more, 4) == 0.5
    assert share_within(None, 4) is None


def reports(**given: Any) -> list[fedmm.RoundReport]:
    experiment = fedmm.Experiment.prepare(tiny_config(dtype="float64", **given))
    return [report for _, report in experiment.rounds(experiment.initial_state())]


def test_the_bound_moves_towards_the_norms_under_masks_as_well() -> None:
    high, low = (reports(rounds=4, **ADAPTIVE, update_clip=clip) for clip in (100.0, 1e-3))
    assert [report.update_clip for report in high] == sorted((report.update_clip for report in high), reverse=True)
    assert [report.update_clip for report in low] == sorted(report.update_clip for report in low)
    chain = {**ADAPTIVE, "update_transforms": ("clip", "rotate", "round", "mask"), "update_bits": 16}
    assert reports(rounds=2, **chain)[-1].update_clip == pytest.approx(
        reports(rounds=2, **ADAPTIVE)[-1].update_clip, rel=0.01
    )
    assert reports(rounds=1)[0].update_clip is None


def test_it_costs_no_epsilon_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    chain = {"update_clip_quantile": 0.5, "epsilon": 8.0, "rounds": 4, "cohorts": "all"}
    experiment = fedmm.Experiment.prepare(tiny_config(**chain))
    whole = list(experiment.rounds(experiment.initial_state()))
    assert whole[-1][1].epsilon == pytest.approx(8.0, rel=1e-6)
    save_state(tmp_path, experiment, whole[1][0], Progress(None, 0.0))
    loaded = load_state(tmp_path, experiment, lambda _: None)
    assert loaded is not None
    rest = [report.update_clip for _, report in experiment.rounds(loaded[0])]
    assert rest == [report.update_clip for _, report in whole[2:]]


def test_parts_have_no_norm_of_the_whole() -> None:
    with pytest.raises(fedmm.ConfigError, match="update_clip_quantile"):
        tiny_config(**ADAPTIVE, update_clip_by="part")
