"""The fused cross-entropy and the dense one, beside torch's own on plainly written logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.models.losses.softmax import Exclusions, Questions, cross_entropy, masked_logits
from fedmm.models.scores import Scores, Term
from fedmm.utils.seeding import torch_stream
from worlds.model_world import FUSED, VARIANTS, batch_of, build, differentiable, name_of, score, shaken, tiny_config

CLOSE = {"rtol": 1e-9, "atol": 1e-11}


@st.composite
def worlds(draw):
    """Scores of one to three terms and questions with padded rows, masks and exclusions, all optional."""
    stream = torch_stream(draw(st.integers(0, 2**32)), "losses")
    C, R, N, K = (draw(st.integers(*bounds)) for bounds in ((1, 3), (1, 4), (3, 7), (1, 3)))

    def normal(*shape):
        return torch.randn(*shape, generator=stream, dtype=torch.float64)

    terms = []
    for place in range(draw(st.integers(1, 3))):
        keys = normal(N, K) if draw(st.booleans()) else normal(C, N, K)
        queries, scale = normal(C, R, K), normal(C, N) if draw(st.booleans()) else None
        constants = normal(C, R, N) if draw(st.booleans()) else None
        if place and constants is not None and draw(st.booleans()):
            queries, keys = None, None
        terms.append(Term(queries, keys, scale, constants))
    targets = torch.randint(1, N, (C, R), generator=stream)
    real = torch.arange(R) < torch.randint(0, R + 1, (C, 1), generator=stream)
    weights = torch.rand(C, R, generator=stream, dtype=torch.float64) + 0.1
    mask = None
    if draw(st.booleans()):  # the targets' columns always exist
        mask = (torch.rand(C, N, generator=stream) < 0.6).scatter(1, targets, True)
    exclusions = None
    if draw(st.booleans()):
        index = torch.stack([torch.randperm(N, generator=stream)[:2] for _ in range(C)])
        rows = torch.rand(C, R, 2, generator=stream) < 0.5
        rows &= index.unsqueeze(1) != targets.unsqueeze(-1)
        exclusions = Exclusions(index, rows)
    return terms, Questions(targets * real, weights * real, mask, exclusions)


def plain_value(term, c, r):
    """<query, key> + constant of one row, [N]."""
    value = torch.zeros(()) if term.constants is None else term.constants[c, r]
    if term.queries is None:
        return value
    return value + (term.queries[c, r] * (term.keys if term.keys.ndim == 2 else term.keys[c])).sum(-1)


def plain_losses(terms, questions):
    """Row by row: torch's cross-entropy over the candidates that the row has."""
    losses = []
    for c in range(len(questions.targets)):
        total = torch.zeros((), dtype=torch.float64)
        for r in torch.nonzero(questions.row_weights[c]).flatten().tolist():
            logits = sum(plain_value(t, c, r) * (1.0 if t.scale is None else t.scale[c]) for t in terms)
            allowed = set(range(1, len(logits)))
            if questions.candidate_mask is not None:
                allowed = set(torch.nonzero(questions.candidate_mask[c]).flatten().tolist())
            if questions.exclusions is not None:
                allowed -= set(questions.exclusions.index[c][questions.exclusions.rows[c, r]].tolist())
            columns = sorted(allowed)
            target = torch.tensor(columns.index(int(questions.targets[c, r])))
            loss = torch.nn.functional.cross_entropy(logits[columns], target)
            total = total + questions.row_weights[c, r] * loss
        losses.append(total)
    return torch.stack(losses)


def trained_tensors(terms):
    """Everything but keys that clients share: those are item features, which never train."""
    queries = [t.queries for t in terms if t.queries is not None]
    keys = [t.keys for t in terms if t.keys is not None and t.keys.ndim == 3]
    scales = [t.scale for t in terms if t.scale is not None]
    return [tensor.requires_grad_() for tensor in [*queries, *keys, *scales]]


def gradients(losses, leaves):
    slopes = torch.arange(1.0, len(losses) + 1, dtype=torch.float64)  # each client's own incoming gradient
    total = (losses * slopes).sum()
    if not total.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)


@settings(max_examples=80, deadline=None)
@given(worlds())
def test_fused_and_dense_losses_and_gradients_equal_torchs(world):
    terms, questions = world
    leaves = trained_tensors(terms)
    expected = plain_losses(terms, questions)
    fused = cross_entropy(Scores(tuple(terms)), questions)
    dense = cross_entropy(Scores((), Scores(tuple(terms)).materialise()), questions)
    torch.testing.assert_close(fused, expected, **CLOSE)
    torch.testing.assert_close(dense, expected, **CLOSE)
    wanted = gradients(expected, leaves)
    for losses in (fused, dense):
        for found, own in zip(gradients(losses, leaves), wanted, strict=True):
            torch.testing.assert_close(found, own, **CLOSE)


def test_fused_loss_passes_gradcheck():
    stream = torch_stream(0, "gradcheck")
    queries, keys, scale = (
        torch.randn(*shape, generator=stream, dtype=torch.float64).requires_grad_()
        for shape in ((2, 3, 2), (2, 5, 2), (2, 5))
    )
    features = torch.randn(5, 3, generator=stream, dtype=torch.float64)
    pools = torch.randn(2, 3, 3, generator=stream, dtype=torch.float64).requires_grad_()
    questions = Questions(
        torch.tensor([[1, 4, 2], [3, 0, 0]]), torch.tensor([[0.5, 0.2, 0.3], [1.0, 0.0, 0.0]]).double()
    )

    def losses(*leaves):
        queries, keys, scale, pools = leaves
        return cross_entropy(Scores((Term(queries, keys), Term(pools, features, scale))), questions)

    assert torch.autograd.gradcheck(losses, (queries, keys, scale, pools))


@pytest.mark.parametrize("dense", [False, True], ids=["fused", "dense"])
def test_padded_rows_weigh_nothing_and_get_no_gradient(dense):
    queries = torch.randn(1, 3, 2, generator=torch_stream(0, "padding"), dtype=torch.float64).requires_grad_()
    keys = torch.randn(1, 4, 2, generator=torch_stream(1, "padding"), dtype=torch.float64)
    scores = Scores((Term(queries, keys),))
    scores = Scores((), scores.materialise()) if dense else scores
    short = Questions(torch.tensor([[2, 0, 0]]), torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64))
    loss = cross_entropy(scores, short)
    (gradient,) = torch.autograd.grad(loss.sum(), [queries])
    alone = Questions(short.targets[:, :1], short.row_weights[:, :1])
    torch.testing.assert_close(loss, cross_entropy(Scores((Term(queries[:, :1], keys),)), alone))
    assert (gradient[:, 1:] == 0).all()


def test_large_logits_do_not_overflow():
    scores = Scores((Term(torch.tensor([[[1e4]], [[-1e4]]]), torch.tensor([[[0.0], [1.0], [2.0]]] * 2)),))
    questions = Questions(torch.tensor([[1], [1]]), torch.ones(2, 1))
    torch.testing.assert_close(cross_entropy(scores, questions), torch.tensor([1e4, 0.0]))


def questions_of(batch, columns=None):
    """Each row's target is the item after it, among ``columns`` [C][N] where given; real rows stand first."""
    C, B, L = batch.items.shape
    following = torch.zeros_like(batch.items)
    following[:, :, :-1] = batch.items[:, :, 1:]
    rows, targets, weights = [], [], []
    for c in range(C):
        real = torch.nonzero(following[c].flatten()).flatten()
        row = torch.zeros(B * L, dtype=torch.long)
        row[: len(real)] = real
        index = following[c].flatten()[row]
        if columns is not None:
            index = torch.tensor([columns[c].index(int(t)) for t in index])
        rows.append(row)
        weights.append((torch.arange(B * L) < len(real)).double() / len(real))
        targets.append(torch.where(weights[-1] > 0, index, 0))
    return type(batch)(batch.items, torch.stack(rows), batch.candidates, batch.candidate_mask), (
        torch.stack(targets),
        torch.stack(weights),
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_loss_over_sampled_candidates_is_the_dense_one_restricted_to_those_columns(variant):
    columns = [[4, 12, 7, 1, 9, 2, 11, 3, 0], [5, 6, 1, 10, 8, 2, 12, 9, 3]]
    mask = [[True] * 8 + [False], [True] * 9]
    recommender = build(tiny_config(**variant))
    batch, (targets, weights) = questions_of(batch_of(candidates=columns, mask=mask), columns)
    full, (items, _) = questions_of(batch_of())
    params = differentiable(shaken(recommender))
    sampled = recommender.forward(params, batch)
    losses = cross_entropy(sampled.scores, Questions(targets, weights, batch.candidate_mask))
    logits = recommender.forward(params, full).scores.materialise()
    expected = []
    for c, own in enumerate(columns):
        kept = [item for item, real in zip(own, mask[c], strict=True) if real]
        restricted = torch.full_like(logits[c], -torch.inf)
        restricted[:, kept] = logits[c][:, kept]
        real = weights[c] > 0
        expected.append(torch.nn.functional.cross_entropy(restricted[real], items[c][real]))
    torch.testing.assert_close(losses, torch.stack(expected), **CLOSE)
    found, wanted = (
        torch.autograd.grad(loss.sum(), list(params.values()), allow_unused=True, materialize_grads=True)
        for loss in (losses, torch.stack(expected))
    )
    for name, own, other in zip(params, found, wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-7, atol=1e-10, msg=name)


@pytest.mark.parametrize("variant", FUSED, ids=name_of)
def test_load_balance_counts_the_batchs_real_candidates_alone(variant):
    recommender = build(tiny_config(**variant))
    params = shaken(recommender)
    table = params["backbone.item_embedding"]
    columns, mask = [[3, 1, 5, 0], [12, 2, 11, 7]], [[True, True, True, False], [True, True, False, True]]
    found = recommender.forward(params, batch_of(candidates=columns, mask=mask)).load_balance_loss
    weights = recommender.router_weights(params, None, table)
    for c, own in enumerate(columns):
        kept = [weights[c, item] for item, real in zip(own, mask[c], strict=True) if real]
        counted = torch.stack([w for w in kept if w.sum() > 0])
        torch.testing.assert_close(found[c], (counted.mean(0) - 1 / counted.shape[1]).square().sum())
    whole = recommender.forward(params, batch_of()).load_balance_loss
    everything = batch_of(candidates=[list(range(1, 13))] * 2)
    torch.testing.assert_close(whole, recommender.forward(params, everything).load_balance_loss)


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_masked_logits_keep_scores_and_leave_padding_out(variant):
    recommender = build(tiny_config(**variant))
    params, batch = shaken(recommender), batch_of()
    R = batch.rows.shape[1]
    questions = Questions(torch.ones(2, R, dtype=torch.long), torch.ones(2, R).double())
    logits = masked_logits(recommender.forward(params, batch).scores, questions)
    assert (logits[..., 0] == -torch.inf).all()
    assert torch.equal(logits[..., 1:], score(recommender, params, batch).flatten(1, 2)[..., 1:])
