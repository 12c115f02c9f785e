"""Layers with a client axis: each client's slice is torch's own layer with that client's parameters."""

import pytest
import torch
import torch.nn.functional as F

from fedmm.models.experts.pooled import decay_matrix
from fedmm.models.layers import NORM_EPSILON, layer_norm, linear, lookup, pick_rows
from fedmm.models.scores import Scores, Term
from fedmm.utils.seeding import torch_stream

CLIENTS = pytest.mark.parametrize("C", [1, 3])


def normal(name, *shape):
    return torch.randn(*shape, generator=torch_stream(0, "layers", name), dtype=torch.float64)


@CLIENTS
@pytest.mark.parametrize("shape", [(5,), (2, 4)])
def test_each_clients_linear_and_norm_are_torchs(C, shape):
    x, weight, bias = normal("x", C, *shape, 6), normal("w", C, 3, 6), normal("b", C, 3)
    norm = {"n.weight": normal("g", C, 6), "n.bias": normal("h", C, 6)}
    for c in range(C):
        torch.testing.assert_close(linear(x, weight, bias)[c], F.linear(x[c], weight[c], bias[c]))
        torch.testing.assert_close(linear(x, weight)[c], F.linear(x[c], weight[c]))
        expected = F.layer_norm(x[c], (6,), norm["n.weight"][c], norm["n.bias"][c], NORM_EPSILON)
        torch.testing.assert_close(layer_norm(x, norm, "n")[c], expected)


@CLIENTS
def test_lookups_read_each_clients_own_rows(C):
    table, indices = normal("t", C, 7, 2), torch.randint(0, 7, (C, 3, 4), generator=torch_stream(0, "i"))
    found = lookup(table, indices)
    picked = pick_rows(normal("p", C, 3, 4, 2), indices[:, 0])
    for c in range(C):
        assert torch.equal(found[c], table[c][indices[c]])
        assert torch.equal(picked[c], normal("p", C, 3, 4, 2)[c].flatten(0, 1)[indices[c, 0]])


def test_decay_matrix_holds_the_powers_of_each_clients_decay():
    logits = torch.logit(torch.tensor([0.8, 0.3], dtype=torch.float64))
    found = decay_matrix(logits, 4)
    expected = [[[d ** (row - j) if j <= row else 0.0 for j in range(4)] for row in range(4)] for d in (0.8, 0.3)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_scores_add_their_terms():
    queries, keys, shared = normal("q", 2, 3, 4), normal("k", 2, 5, 4), normal("s", 5, 4)
    scale, dense = normal("c", 2, 5), normal("d", 2, 3, 5)
    terms = (Term(queries, keys, scale), Term(queries, shared))
    expected = torch.einsum("crk,cnk,cn->crn", queries, keys, scale) + torch.einsum("crk,nk->crn", queries, shared)
    torch.testing.assert_close(Scores(terms).materialise(), expected)
    torch.testing.assert_close(Scores(terms, dense).materialise(), expected + dense)
    more = (Term(None, None, None, dense), Term(None, None, scale, dense), Term(queries, keys, scale, dense))
    added = dense + 2 * dense * scale.unsqueeze(1) + torch.einsum("crk,cnk,cn->crn", queries, keys, scale)
    before = dense.clone()
    torch.testing.assert_close(Scores(more).materialise(), added)
    assert torch.equal(dense, before)
    assert Scores((), dense).materialise() is dense
    with pytest.raises(ValueError, match="without a single term"):
        Scores(()).materialise()


@pytest.mark.parametrize("biased", [False, True])
def test_gradients_of_a_linear_layer_are_torchs_and_lie_as_its_parameters_do(biased: bool) -> None:
    stream = torch_stream(0, "linear")
    x, weight, bias, slope = (
        torch.randn(shape, generator=stream, requires_grad=True)
        for shape in ((3, 2, 5, 4), (3, 6, 4), (3, 6), (3, 2, 5, 6))
    )
    leaves = [x, weight, bias] if biased else [x, weight]
    found = torch.autograd.grad(linear(x, weight, bias if biased else None), leaves, slope.detach())
    each = [torch.nn.functional.linear(x[c], weight[c], bias[c] if biased else None) for c in range(3)]
    expected = torch.autograd.grad(torch.stack(each), leaves, slope.detach())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(gradient.is_contiguous() for gradient in found)
    frozen = linear(x, weight.detach(), bias.detach() if biased else None)
    torch.testing.assert_close(torch.autograd.grad(frozen, x, slope.detach())[0], expected[0])
