"""Laws of what the model is made of and trains by: fusions, experts and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.config.registering import RowLoss
from fedmm.data.types import ItemFeatures
from fedmm.models.experts import Expert
from fedmm.models.fusion import Fusion
from fedmm.models.losses.registry import LOSSES, Loss
from fedmm.models.losses.softmax import Questions
from fedmm.models.recommender import Batch, Recommender
from fedmm.models.router import route
from fedmm.models.scores import Scores, Term
from fedmm.models.workspace import Workspace
from fedmm.testing.laws import all_finite, close, require
from fedmm.testing.worlds import registered
from fedmm.utils.params import Params
from fedmm.utils.seeding import numpy_stream, torch_stream
from fedmm.verification.subject import shaken
from fedmm.verification.world import ENGINES, by_client, make_local, update_gap

CLIENTS, CANDIDATES, MODALITIES, NUM_ITEMS = 2, 5, 2, 12
WINDOWS = (((3, 7, 1, 9), (2, 5, 4, 11)), ((8, 1, 6, 2), (12, 10, 3, 1)))
UNDER_TEST = "part_under_test"


def check_fusion(fusion: Fusion) -> None:
    """Checks the laws of a fusion: coefficients [C, N], finite, exactly 0 for what an item does not have; the backbone
    is always heard; coefficients belong to their client and candidate; what it adds is learnable.

    ``fusion`` is what ``fedmm.register_fusion`` takes. Raises AssertionError with the law that is broken.

    >>> from fedmm.models.fusion import FUSIONS
    >>> from fedmm.testing import check_fusion
    >>> check_fusion(FUSIONS["competitive"])
    """
    params, weights, present = _routed(fusion)
    before = weights.clone()
    mixture = fusion.mix(params, weights)
    require(torch.equal(weights, before), "the fusion changes the router's weights")
    require(len(mixture.experts) == MODALITIES, "the fusion does not give one coefficient an expert")
    for m, own in enumerate(mixture.experts):
        require(own.shape == (CLIENTS, CANDIDATES), "a coefficient is not [C, N]")
        require(torch.isfinite(own).all(), "a coefficient is not finite")
        require(not own[:, ~present[:, m]].any(), "an expert has a coefficient where an item lacks its modality")
    if mixture.backbone is not None:
        require((mixture.backbone > 0).all(), "the backbone is silenced")
    order = torch.tensor([3, 0, 4, 1, 2])
    params = {name: value + torch.arange(CLIENTS).view(-1, *[1] * (value.ndim - 1)) for name, value in params.items()}
    plain = fusion.mix(params, weights)
    moved = fusion.mix({name: value.flip(0) for name, value in params.items()}, weights.flip(0)[:, order])
    for own, other in zip(plain.experts, moved.experts, strict=True):
        require(torch.equal(own.flip(0)[:, order], other), "a coefficient reads other clients or candidates")
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    total = sum((own.sum() for own in fusion.mix(leaves, weights).experts), torch.zeros(()))
    for name, leaf in leaves.items():
        (slope,) = torch.autograd.grad(total, [leaf], retain_graph=True, allow_unused=True, materialize_grads=True)
        require((slope != 0).all(), f"the fusion's parameter {name} does not train")


def check_expert(kind: type[Expert]) -> None:
    """Checks the laws of a kind of expert, inside a model: nothing of an item that lacks the modality; scores at a
    position read no later item; clients together are each client alone; chosen candidates score as in the whole
    catalogue; finite gradients; and both engines train it alike, with all candidates and with sampled ones.

    ``kind`` is what ``fedmm.register_expert`` takes. Raises AssertionError with the law that is broken.

    >>> from fedmm.models.experts import EXPERTS
    >>> from fedmm.testing import check_expert
    >>> check_expert(EXPERTS["neighbors"])
    """
    with registered("expert", UNDER_TEST, kind):
        recommender, params = _with_expert()
        whole = _scores(recommender, params, _batch())
        require(torch.isfinite(whole).all(), "the expert gives scores that are not finite")
        require(torch.equal(whole, _scores(recommender, params, _batch())), "equal calls give different scores")
        for name, part in recommender.parts.items():
            absent = ~part.present(recommender.tables)
            require(absent[0], "the expert speaks of padding, item 0")
            alone = _scores(recommender, params, _batch(), only=name)
            require(not alone[..., absent].any(), "the expert speaks of an item that lacks its modality")
        _check_causal(recommender, params, whole)
        for c in range(CLIENTS):
            own = {name: value[c : c + 1] for name, value in params.items()}
            batch = _batch()
            alone = _scores(recommender, own, Batch(batch.items[c : c + 1], batch.rows[c : c + 1]))
            require(close(whole[c : c + 1], alone), "a client's scores depend on those beside it")
        chosen = torch.tensor([[3, 12, 1, 7], [8, 2, 4, 4]])
        batch = _batch()
        some = _scores(recommender, params, Batch(batch.items, batch.rows, chosen))
        picked = whole.gather(2, chosen.unsqueeze(1).expand(-1, whole.shape[1], -1))
        require(close(some, picked), "chosen candidates score otherwise than in the whole catalogue")
        leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
        _scores(recommender, leaves, _batch()).sum().backward()  # type: ignore[no-untyped-call]
        slopes = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
        require(all_finite(slopes), "the expert has gradients that are not finite")
        for negatives in (0, 6):
            check_engines({"experts": UNDER_TEST}, {"num_negatives": negatives}, "the expert")


def check_loss(loss: Loss | Callable[[Tensor, Tensor], Tensor], *, pairwise: bool = False) -> None:
    """Checks the laws of a loss: finite, also for huge scores; exact gradients; no say for padded rows and excluded
    candidates; clients together are each client alone; and both engines train by it alike.

    ``loss`` and ``pairwise`` are what ``fedmm.register_loss`` takes. Raises AssertionError with the law that is broken.

    >>> from torch.nn.functional import cross_entropy
    >>> from fedmm.testing import check_loss
    >>> check_loss(lambda logits, targets: cross_entropy(logits, targets, reduction="none"))
    """
    part: Any = RowLoss(loss, pairwise) if not isinstance(loss, Loss) else loss
    with registered("loss", UNDER_TEST, part):
        whole = LOSSES[UNDER_TEST]
        stream = torch_stream(0, "loss laws")
        queries, keys = (torch.randn(2, n, 2, generator=stream, dtype=torch.float64) for n in (3, 6))
        weights = torch.tensor([[0.5, 0.2, 0.3], [1.0, 0.0, 0.0]], dtype=torch.float64)
        mask = torch.tensor([[False, True, True, True, True, False], [False, True, True, False, True, True]])
        power = torch.tensor([0.3, 0.8], dtype=torch.float64)
        questions = Questions(torch.tensor([[1, 4, 2], [4, 0, 0]]), weights, mask, target_power=power)

        def losses(logits: Tensor) -> Tensor:
            return whole.over_rows(Scores((), logits), questions, Workspace())

        logits = queries @ keys.mT
        found = losses(logits)
        require(found.shape == (2,), "the loss does not give one number a client")
        require(torch.isfinite(found).all(), "the loss is not finite")
        products = whole.over_rows(Scores((Term(queries, keys),)), questions, Workspace())
        require(close(found, products), "the loss differs between products and numbers")
        silent = ~mask.unsqueeze(1).expand_as(logits) | (weights == 0).unsqueeze(-1)
        loud = torch.where(silent, torch.tensor(1e3, dtype=torch.float64), logits)
        require(close(losses(loud), found), "padded rows or excluded candidates have a say")
        require(torch.isfinite(losses(1e3 * logits)).all(), "huge scores give a loss that is not finite")
        for c in range(2):
            own = Questions(questions.targets[c : c + 1], weights[c : c + 1], mask[c : c + 1],
                            target_power=power[c : c + 1])  # fmt: skip
            alone = whole.over_rows(Scores((), logits[c : c + 1]), own, Workspace())
            require(close(alone, found[c : c + 1]), "a client's loss depends on those beside it")
        exact = torch.autograd.gradcheck(losses, [logits.requires_grad_()], raise_exception=False)
        require(exact, "the loss's gradients are not those of finite differences")
        for model in ({"experts": "pooled"}, {"experts": "hybrid"}, {"fusion": "backbone"}):
            for negatives in (0, 5):
                check_engines(model, {"loss": UNDER_TEST, "num_negatives": negatives}, "the loss")


def _routed(fusion: Fusion) -> tuple[Params, Tensor, Tensor]:
    """A fusion's parameters for the clients, router weights and what candidates have."""
    stream = torch_stream(1, "fusion laws")
    params = {k: v.repeat(CLIENTS, *[1] * v.ndim) for k, v in fusion.init(ModelConfig(gating_init=0.4)).items()}
    outputs = MODALITIES + fusion.routes_backbone
    present = torch.rand(CANDIDATES, outputs, generator=stream) < 0.6
    if fusion.routes_backbone:
        present[:, 0] = True
    router = {
        "router.weight": torch.randn(CLIENTS, outputs, 3, generator=stream, dtype=torch.float64),
        "router.bias": torch.zeros(CLIENTS, outputs, dtype=torch.float64),
    }
    weights = route(router, torch.randn(CANDIDATES, 3, generator=stream, dtype=torch.float64), present)
    return params, weights, present[:, -MODALITIES:]


def _with_expert() -> tuple[Recommender, Params]:
    """A tiny model with the expert under test, and parameters of each client's own."""
    features = {}
    for name, width in (("visual", 4), ("semantic", 3)):
        stream = numpy_stream(0, "expert laws", name)
        present = stream.random(NUM_ITEMS + 1) < 0.7
        present[0] = False
        values = stream.normal(size=(NUM_ITEMS + 1, width)).astype("float32")
        features[name] = ItemFeatures(values * present[:, None], present)
    config = ModelConfig(
        hidden_dim=8, num_blocks=1, num_heads=2, max_length=4, dropout=0.0, experts=UNDER_TEST, gating_init=0.5
    )
    recommender = Recommender.build(config, NUM_ITEMS, features, torch.float64)
    params = recommender.init(torch_stream(0, "expert laws"), torch.float64)
    stream_of = torch_stream(1, "expert laws")
    moved = {
        name: torch.stack(
            [value + 0.1 * torch.randn(value.shape, generator=stream_of, dtype=torch.float64) for _ in range(CLIENTS)]
        )
        for name, value in params.items()
    }
    return recommender, moved


def _batch() -> Batch:
    items = torch.tensor(WINDOWS)
    rows = torch.arange(items.shape[1] * items.shape[2]).expand(CLIENTS, -1)
    return Batch(items, rows)


def _scores(recommender: Recommender, params: Params, batch: Batch, only: str | None = None) -> Tensor:
    return recommender.forward(params, batch, only=only).scores.materialise()


def _check_causal(recommender: Recommender, params: Params, before: Tensor) -> None:
    batch = _batch()
    items = batch.items.clone()
    items[:, :, -1] = torch.tensor([[5, 8], [9, 4]])
    after = _scores(recommender, params, Batch(items, batch.rows))
    length = items.shape[2]
    earlier = [row for row in range(before.shape[1]) if row % length < length - 1]
    require(close(before[:, earlier], after[:, earlier]), "a score reads items after its position")


def check_engines(model: dict[str, Any], federation: dict[str, Any], what: str) -> None:
    """Both engines train alike under these settings; ``what`` names the part under test."""
    local, params = make_local({**model, "dropout": 0.2}, {"local_steps": 2, "clip_norm": 0.5, **federation})
    start, cohort = shaken(params), local.windows.trainable[:4]
    expected, found = (by_client(engine(local, start, cohort, 1)) for engine in ENGINES.values())
    require(update_gap(expected, found) < 1e-9, f"the engines train {what} differently")
