"""What every training loss owes: its definition, exact gradients, no say for rows and candidates that do not exist."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from fedmm.config.parts import register_part, unregister_part
from fedmm.engines import vectorized
from fedmm.federation.centralized import run_epoch
from fedmm.federation.rounds import ServerState
from fedmm.models.losses.batched import CatalogueQuestions
from fedmm.models.losses.registry import LOSSES, Loss
from fedmm.models.losses.softmax import Questions, masked_logits
from fedmm.models.scores import Scores, Term
from fedmm.models.workspace import Workspace
from fedmm.utils.seeding import torch_stream
from fedmm.verification.subject import shaken
from fedmm.verification.world import ENGINES, by_client, make_federation, make_local, params_gap, update_gap
from worlds.loss_world import SHIFT_INVARIANT, candidates_of, forms, leaves_of, of_client, slow_losses, worlds

EVERY = pytest.mark.parametrize("name", sorted(LOSSES))
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def losses_of(name, scores, questions):
    return LOSSES[name].over_rows(scores, questions, Workspace())


def gradients(losses, leaves):
    slopes = torch.arange(1.0, len(losses) + 1, dtype=torch.float64)  # each client's own incoming gradient
    return torch.autograd.grad((losses * slopes).sum(), leaves, allow_unused=True, materialize_grads=True)


@EVERY
@settings(max_examples=25, deadline=None)
@given(world=worlds())
def test_it_is_its_definition_in_every_form(name, world):
    terms, questions = world
    leaves = leaves_of(terms)
    expected = slow_losses(name, Scores(terms).materialise().detach(), questions)
    wanted = None
    for scores in forms(terms):
        found = losses_of(name, scores, questions)
        torch.testing.assert_close(found.detach(), expected, **CLOSE)
        own = gradients(found, leaves)
        wanted = wanted or own
        for left, right in zip(own, wanted, strict=True):
            torch.testing.assert_close(left, right, **CLOSE)


@EVERY
@settings(max_examples=20, deadline=None)
@given(world=worlds())
def test_the_reference_engines_text_agrees_row_by_row(name, world):
    terms, questions = world
    logits = masked_logits(Scores(terms), questions)
    for c in torch.nonzero(questions.row_weights.sum(1)).flatten().tolist():
        real = questions.row_weights[c] > 0
        power = float(questions.target_power[c])
        rows = LOSSES[name].plain(logits[c][real], questions.targets[c][real], power)
        expected = slow_losses(name, Scores(terms).materialise(), questions)[c]
        assert float((rows * questions.row_weights[c][real]).sum()) == pytest.approx(float(expected), abs=1e-10)


@EVERY
@pytest.mark.parametrize("dense", [False, True], ids=["products", "dense"])
def test_gradients_are_those_of_finite_differences(name, dense):
    stream = torch_stream(0, "finite differences")
    shapes = ((2, 3, 2), (2, 5, 2), (2, 5))
    leaves = [torch.randn(*s, generator=stream, dtype=torch.float64).requires_grad_() for s in shapes]
    weights = torch.tensor([[0.5, 0.2, 0.3], [1.0, 0.0, 0.0]]).double()
    power = torch.tensor([0.3, 0.8]).double()
    questions = Questions(torch.tensor([[1, 4, 2], [3, 0, 0]]), weights, target_power=power)

    def losses(*own):
        return losses_of(name, forms((Term(*own),))[dense], questions)

    assert torch.autograd.gradcheck(losses, leaves)


@EVERY
@settings(max_examples=20, deadline=None)
@given(world=worlds())
def test_a_level_of_all_scores_matters_only_where_it_should(name, world):
    terms, questions = world
    logits = Scores(terms).materialise()
    level = 3.0 * torch.arange(1, logits.shape[1] + 1).double().view(1, -1, 1)  # each row its own
    before, after = (losses_of(name, Scores((), own), questions) for own in (logits, logits + level))
    real = (questions.row_weights > 0).any(1)
    if name in SHIFT_INVARIANT:
        torch.testing.assert_close(before, after, **CLOSE)
    else:
        assert (before[real] != after[real]).all()


@EVERY
@settings(max_examples=20, deadline=None)
@given(world=worlds())
def test_padded_rows_and_excluded_candidates_have_no_influence(name, world):
    """Whatever they score, the loss stays, and they get no gradient."""
    terms, questions = world
    logits = Scores(terms).materialise()
    silent = torch.ones_like(logits, dtype=torch.bool)
    for c, r in torch.nonzero(questions.row_weights).tolist():
        silent[c, r, list(candidates_of(questions, logits.shape[2], c, r))] = False
    loud = torch.where(silent, 1e3, logits).requires_grad_()
    before, after = (losses_of(name, Scores((), own), questions) for own in (logits, loud))
    torch.testing.assert_close(before, after.detach(), **CLOSE)
    (gradient,) = gradients(after, [loud])
    assert not gradient[silent].any()


@EVERY
@pytest.mark.parametrize("dense", [False, True], ids=["products", "dense"])
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_scores_give_finite_losses_and_gradients(name, dense, size):
    queries = torch.tensor([[[size], [-size]]], requires_grad=True)
    keys = torch.tensor([[[0.0], [1.0], [-1.0], [0.5]]], requires_grad=True)
    questions = Questions(torch.tensor([[2, 1]]), torch.full((1, 2), 0.5), target_power=torch.tensor([0.5]))
    losses = losses_of(name, forms((Term(queries, keys),))[dense], questions)
    assert torch.isfinite(losses).all()
    assert float(losses.detach()) > size / 10
    assert all(torch.isfinite(own).all() for own in torch.autograd.grad(losses.sum(), [queries, keys]))


@EVERY
@settings(max_examples=20, deadline=None)
@given(world=worlds())
def test_a_block_of_clients_is_one_client_after_the_other(name, world):
    terms, questions = world
    together = losses_of(name, Scores(terms), questions)
    for c in range(len(together)):
        own = tuple(Term(*(None if t is None else t[c : c + 1] for t in (m.queries, m.keys, m.scale))) for m in terms)
        torch.testing.assert_close(together[c : c + 1], losses_of(name, Scores(own), of_client(questions, c)), **CLOSE)


@EVERY
@pytest.mark.parametrize("excludes", [True, False])
@pytest.mark.parametrize("negatives", [0, 7])
def test_what_a_row_is_set_against(name, excludes, negatives):
    """Pairwise: items outside the client's history alone; softmax: what is not met yet. Without exclude_seen, all."""
    local, _ = make_local({}, {"loss": name, "num_negatives": negatives, "exclude_seen": excludes})
    clients = local.windows.trainable[:3]
    step = local.steps(clients, 1).step(0, len(clients))
    everything = torch.arange(local.recommender.num_items + 1).expand(len(clients), -1)
    columns = everything if step.batch.candidates is None else step.batch.candidates
    for c, client in enumerate(clients):
        history = local.train[client].tolist()
        for r in torch.nonzero(step.questions.row_weights[c]).flatten().tolist():
            kept = candidates_of(step.questions, columns.shape[1], c, r)
            items = {int(columns[c, column]) for column in kept}
            target = int(columns[c, step.questions.targets[c, r]])
            assert target in items
            own = items & set(history) - {target}
            later = set(history[history.index(target) + 1 :])
            if not excludes:
                assert later <= own
            elif LOSSES[name].pairwise:
                assert not own
            else:
                assert own == later
            outside = items - set(history)
            num_outside = local.recommender.num_items - len(history)
            assert len(outside) == (min(negatives, num_outside) if negatives else num_outside)


@EVERY
@settings(max_examples=20, deadline=None)
@given(world=worlds())
def test_a_loss_from_its_plain_form_alone_is_the_same(name, world):
    """What a user's own loss is made by: values and gradients in both batched forms."""
    terms, questions = world
    leaves = leaves_of(terms)
    known = LOSSES[name]
    made = Loss.from_plain(known.plain, pairwise=known.pairwise, calibrated=known.calibrated)
    columns = CatalogueQuestions(
        questions.targets,
        questions.row_weights,
        torch.arange(Scores(terms).materialise().shape[2]).expand(len(questions.targets), -1) > 0,
        None,
        torch.zeros_like(questions.targets),
        target_power=questions.target_power,
    )
    for asked, form in ((questions, "over_rows"), (columns, "over_catalogues")):
        expected, found = (getattr(loss, form)(Scores(terms), asked, Workspace()) for loss in (known, made))
        torch.testing.assert_close(found, expected, **CLOSE)
        if not found.requires_grad:
            assert not questions.row_weights.any()  # nobody asks anything
            continue
        for left, right in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
            torch.testing.assert_close(left, right, **CLOSE)


@EVERY
@settings(max_examples=5, deadline=None)
@given(world=worlds())
def test_without_a_power_it_is_1(name, world):
    terms, questions = world
    known = LOSSES[name]
    single = Loss.from_plain(known.plain, pairwise=known.pairwise, calibrated=known.calibrated)
    ones = replace(questions, target_power=torch.ones(len(questions.targets), dtype=questions.row_weights.dtype))
    bare = replace(questions, target_power=None)
    for loss in (known, single):
        expected, found = (loss.over_rows(Scores(terms), asked, Workspace()) for asked in (ones, bare))
        torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("negatives", [0, 5])
def test_a_loss_of_ones_own_trains_alike_in_both_engines(negatives):
    def margin(logits, targets, power):
        own = logits.gather(1, targets.unsqueeze(1))
        others = logits.scatter(1, targets.unsqueeze(1), -torch.inf)
        return torch.relu(1 + others - own).sum(1) / torch.isfinite(others).sum(1).clamp(min=1)

    register_part("loss", "margin", Loss.from_plain(margin))
    try:
        local, params = make_local({"experts": "hybrid"}, {"loss": "margin", "num_negatives": negatives})
        params, cohort = shaken(params), local.windows.trainable[:4]
        expected, found = (by_client(engine(local, params, cohort, 1)) for engine in ENGINES.values())
    finally:
        unregister_part("loss", "margin")
    assert update_gap(expected, found) < 1e-9
    assert all(loss > 0 and delta["backbone.item_embedding"][1:].any() for delta, loss, _ in found.values())


MODELS = [
    {"experts": "pooled"},
    {"experts": "neighbors"},
    {"experts": "hybrid"},
    {"experts": "memory"},
    {"fusion": "competitive", "experts": "pooled", "transition": True},
    {"fusion": "backbone"},
]


@EVERY
@pytest.mark.parametrize("negatives", [0, 5])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_engines_agree(name, model, negatives):
    settings = {"loss": name, "num_negatives": negatives, "local_steps": 2, "clip_norm": 0.5}
    local, params = make_local({**model, "dropout": 0.2}, settings)
    params, cohort = shaken(params), local.windows.trainable[:4]
    expected, found = (by_client(engine(local, params, cohort, 1)) for engine in ENGINES.values())
    assert update_gap(expected, found) < 1e-9
    assert all(delta["backbone.item_embedding"][1:].any() for delta, _, _ in found.values())


@EVERY
def test_local_tables_train_as_dense_ones_do(name):
    local, params = make_local({"experts": "pooled"}, {"loss": name, "num_negatives": 5})
    clients = vectorized.cut_blocks(local, local.windows.trainable[:4], 32, 1)[0]
    assert local.fits_local_tables
    whole = vectorized.train_block(local, shaken(params), clients, 1)
    blocks = vectorized.train_cohort(local, shaken(params), clients, 1)
    expected, found = by_client(iter([whole])), by_client(blocks)
    assert update_gap(expected, found) < 1e-12


@EVERY
def test_an_epoch_of_pooled_data_has_the_clients_mean_loss(name):
    """At a rate of almost nothing, over everybody at once; and a real rate moves the parameters."""
    fixed = {"loss": name, "num_negatives": 0, "batch_size": 1000, "local_steps": 1}
    local, params = make_local({}, {**fixed, "learning_rate": 1e-12})
    cohort = local.windows.trainable
    losses = np.array([loss for _, loss, _ in by_client(ENGINES["sequential"](local, params, cohort, 1)).values()])
    counts = local.windows.num_positions(cohort)
    _, statistics = run_epoch(ServerState(params, {}, 0), make_federation(local))
    assert statistics.loss == pytest.approx(float((losses * counts).sum() / counts.sum()), rel=1e-9)
    moving = replace(local, config=local.config.model_copy(update={"learning_rate": 0.5}))
    state, _ = run_epoch(ServerState(params, {}, 0), make_federation(moving))
    assert params_gap(state.params, params) > 1e-3


def test_bpr_against_one_negative_is_not_shared_out() -> None:
    found = LOSSES["bpr"].plain(
        torch.tensor([[-torch.inf, 1.0, 0.0], [-torch.inf, 1.0, -torch.inf]]), torch.tensor([1, 1]), 1.0
    )
    assert torch.allclose(found, torch.tensor([math.log1p(math.exp(-1.0)), 0.0]))
