"""Corrections for sampled negatives: log-Q makes the sample stand for the catalogue, gBCE's power undoes
overconfidence."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmm.engines import vectorized
from fedmm.federation.candidates import draw_negatives, shares_drawn
from fedmm.federation.local_training import MEMORY_NEGATIVES, PAIRWISE_NEGATIVES
from fedmm.models.losses.pairwise import gbce, gbce_power
from fedmm.models.losses.softmax import Questions, cross_entropy
from fedmm.models.scores import Scores, Term
from fedmm.utils.seeding import numpy_stream, torch_stream
from fedmm.verification.subject import SMALL_ITEMS, shaken
from fedmm.verification.world import ENGINES, by_client, make_local, update_gap


def test_shares_are_how_often_an_item_outside_is_drawn():
    histories = [np.array([1, 2, 2, 3]), np.arange(1, 13), np.array([5])]
    assert shares_drawn(histories, 12, 3).tolist() == [3 / 9, 1.0, 3 / 11]
    assert shares_drawn(histories, 12, 0).tolist() == [1.0, 1.0, 1.0]
    assert shares_drawn(histories, 12, 100).tolist() == [1.0, 1.0, 1.0]


def test_the_corrected_sample_stands_for_the_whole_catalogue():
    """Over many draws the candidates' corrected mass is the catalogue's; uncorrected it falls short by the share."""
    scores = torch.randn(13, generator=torch_stream(0, "logq"), dtype=torch.float64)
    history, draws = np.array([2, 5, 7]), 4000
    (share,) = shares_drawn([history], 12, 4)
    outside = scores[np.setdiff1d(np.arange(1, 13), history)].exp()
    masses = []
    for number in range(draws):
        drawn = draw_negatives(history, 12, 4, numpy_stream(0, "logq", number))
        masses.append(float((scores[drawn] - math.log(share)).exp().sum()))
    error = np.std(masses) / math.sqrt(draws)
    assert abs(np.mean(masses) - float(outside.sum())) < 5 * error
    assert np.mean(masses) * share < float(outside.sum()) - 5 * error


@pytest.mark.parametrize("dense", [False, True], ids=["products", "dense"])
def test_offsets_are_added_to_the_scores_of_every_row(dense):
    stream = torch_stream(0, "offsets")
    shapes = ((2, 3, 2), (2, 5, 2), (2, 5))
    queries, keys, offsets = (torch.randn(*shape, generator=stream, dtype=torch.float64) for shape in shapes)
    targets, weights = torch.tensor([[1, 4, 2], [3, 1, 1]]), torch.full((2, 3), 1 / 3).double()
    scores = Scores((Term(queries, keys),))
    scores = Scores((), scores.materialise()) if dense else scores
    found = cross_entropy(scores, Questions(targets, weights, offsets=offsets))
    by_hand = Scores((), Scores((Term(queries, keys),)).materialise() + offsets.unsqueeze(1))
    torch.testing.assert_close(found, cross_entropy(by_hand, Questions(targets, weights)))


@pytest.mark.parametrize(
    "model", [{"experts": "pooled"}, {"experts": "neighbors"}, {"experts": "hybrid"}, {"experts": "memory"}], ids=str
)
@pytest.mark.parametrize("per", ["step", "round"])
def test_engines_agree_under_log_q_and_with_everything_drawn_it_is_nothing(model, per):
    given = {"negatives_per": per, "local_steps": 2, "num_negatives": 5}
    updates = []
    for changes in ({}, {"logq_correction": True}):
        local, params = make_local(model, {**given, **changes})
        both = [by_client(engine(local, shaken(params), np.arange(2, 5), 1)) for engine in ENGINES.values()]
        assert update_gap(*both) < 1e-9
        updates.append(both[0])
    assert update_gap(*updates) > 1e-4
    everything = []
    for changes in ({}, {"logq_correction": True}):
        local, params = make_local(model, {**given, **changes, "num_negatives": SMALL_ITEMS})
        everything.append(by_client(vectorized.train_cohort(local, params, np.arange(2, 5), 1)))
    assert update_gap(*everything) < 1e-14


@given(share=st.floats(0.01, 1.0), calibration=st.floats(0.0, 1.0))
def test_the_power_runs_from_one_to_the_share(share, calibration):
    alpha = torch.tensor([share], dtype=torch.float64)
    assert float(gbce_power(alpha, 0.0)) == pytest.approx(1.0)
    assert float(gbce_power(alpha, 1.0)) == pytest.approx(share)
    assert float(gbce_power(alpha, calibration)) == pytest.approx(1 - calibration * (1 - share))


def test_at_full_calibration_gbce_is_lowest_at_the_true_probability():
    """Binary cross-entropy over a sample overstates: with the power it is minimal at p, without at p / (p + share (1 -
    p)) (Petrov & Macdonald, RecSys 2023)."""
    p, share = 0.05, 0.1
    logits = torch.linspace(-8.0, 8.0, 16001, dtype=torch.float64)
    for calibration, expected in ((1.0, p), (0.0, p / (p + share * (1 - p)))):
        power = gbce_power(torch.tensor([share]).double(), calibration)
        # An item that is the target with probability p, and else drawn with probability ``share``.
        as_target = [float(_loss(logit, power, target=True)) for logit in logits[::40]]
        as_negative = [float(_loss(logit, power, target=False)) for logit in logits[::40]]
        expectation = p * np.array(as_target) + (1 - p) * share * np.array(as_negative)
        found = torch.sigmoid(logits[::40][int(expectation.argmin())])
        assert float(found) == pytest.approx(expected, abs=0.01)


def _loss(logit, power, *, target):
    """The part of a row's gBCE that one item's score decides."""
    other = torch.zeros_like(logit)
    pair = torch.stack([torch.zeros_like(logit), logit, other] if target else [torch.zeros_like(logit), other, logit])
    questions = Questions(torch.tensor([[1]]), torch.ones(1, 1).double(), target_power=power)
    return 2 * gbce(Scores((), pair.view(1, 1, 3)), questions)


@pytest.mark.parametrize(
    ("model", "federation", "expected"),
    [
        ({"experts": "pooled"}, {}, 0),
        ({"experts": "neighbors"}, {}, 0),
        ({"experts": "memory"}, {}, MEMORY_NEGATIVES),
        ({}, {"loss": "gbce"}, PAIRWISE_NEGATIVES),
        ({"experts": "memory"}, {"loss": "bpr"}, PAIRWISE_NEGATIVES),
        ({}, {"loss": "bpr", "num_negatives": 0}, 0),
        ({}, {"loss": "gbce", "num_negatives": 3}, 3),
    ],
    ids=str,
)
def test_how_many_negatives_where_nothing_is_said(model, federation, expected):
    local, _ = make_local(model, federation)
    assert local.num_negatives == expected
