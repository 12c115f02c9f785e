"""LiGR's blocks and rotary positions: closed forms, what is refused, and a whole run of both up to its graph."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import fedmm
from fedmm.config import ExperimentConfig, ModelConfig
from fedmm.models.layers import no_dropout
from fedmm.models.positions import rotate
from fedmm.models.sasrec import encode, init_backbone
from fedmm.portable.graphs import traced
from fedmm.runs.portable_model import portable_of
from fedmm.testing import tiny_config
from fedmm.utils.params import expand_for_clients
from fedmm.utils.seeding import torch_stream

BOTH = {"block": "ligr", "positions": "rotary"}
ITEMS = torch.tensor([[[3, 7, 1, 9], [2, 5, 4, 4]]])


def begun(**changes):
    config = ModelConfig(hidden_dim=8, max_length=6, **changes)
    return config, expand_for_clients(init_backbone(config, 12, torch_stream(0, "backbone parts")))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**20), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_products_of_what_is_turned_know_distances_alone(seed, first, second, shift):
    query, key = torch.randn(2, 6, generator=torch_stream(seed, "rotary"), dtype=torch.float64)
    queries, keys = (rotate(own.expand(1, 1, 61, 6))[0, 0] for own in (query, key))
    near, far = queries[first] @ keys[second], queries[first + shift] @ keys[second + shift]
    torch.testing.assert_close(near, far, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(queries.norm(dim=1), query.norm().expand(61))
    assert torch.equal(queries[0], query)


def test_the_fastest_pair_turns_by_a_radian_a_position():
    turned = rotate(torch.tensor([1.0, 0.0, 0.0, 2.0], dtype=torch.float64).expand(1, 1, 3, 4))[0, 0, 2]
    slow = 2 * 10_000**-0.5
    expected = [math.cos(2), math.sin(2), -2 * math.sin(slow), 2 * math.cos(slow)]
    np.testing.assert_allclose(turned.numpy(), expected, atol=1e-15)


def test_closed_gates_pass_the_embedded_history_alone():
    config, params = begun(block="ligr")
    for name in [name for name in params if name.endswith("_gate.bias")]:
        params[name] = torch.full_like(params[name], -800.0)
    embedded = params["backbone.item_embedding"][0, ITEMS] * math.sqrt(8)
    expected = embedded + params["backbone.position_embedding"][:, :4].unsqueeze(1)
    assert torch.equal(encode(params, ITEMS, config, no_dropout), expected)


def test_both_blocks_begin_with_the_same_share_of_the_past():
    """Round 0 ranks alike: states of fresh blocks differ by the small random part alone."""
    found = {
        block: encode(begun(block=block)[1], ITEMS, begun(block=block)[0], no_dropout) for block in ("sasrec", "ligr")
    }
    first = found["sasrec"].flatten(), found["ligr"].flatten()
    assert torch.corrcoef(torch.stack(first))[0, 1] > 0.97


@pytest.mark.parametrize(("hidden_dim", "num_heads"), [(6, 2), (5, 1), (9, 3)])
def test_heads_of_odd_width_cannot_be_turned(hidden_dim, num_heads):
    ModelConfig(hidden_dim=hidden_dim, num_heads=num_heads)
    with pytest.raises(ValidationError, match=f"multiple of twice num_heads {num_heads}"):
        ModelConfig(hidden_dim=hidden_dim, num_heads=num_heads, positions="rotary")


def test_digests_know_them_where_they_are_not_the_default():
    plain = ExperimentConfig()
    digests = {plain.with_values({key: value}).digest for key, value in (
        ("model.block", "ligr"), ("model.positions", "rotary"), ("model.block", "sasrec"))}  # fmt: skip
    assert len(digests) == 3
    assert plain.digest in digests


@pytest.mark.slow  # experts, exports and engines of both are tried part by part in the laws over VARIANTS and the kit
def test_a_run_of_both_resumes_recommends_and_is_exported(tmp_path: Path):
    """Partial aggregation first, stopped and gone on with bit for bit; the graph gives the scores of the module."""
    given = {**BOTH, "rounds": 3, "warmup_rounds": 1, "succession": 0}
    whole, stopped = (tiny_config(**given) for _ in range(2))

    def stop(report: fedmm.RoundReport) -> None:
        if report.round == 2:
            raise fedmm.StoppedEarly("enough")

    with pytest.raises(fedmm.StoppedEarly):
        fedmm.train(stopped, callbacks=[stop])
    runs = [fedmm.train(whole), fedmm.train(stopped, resume=True)]
    assert runs[0].result["metrics"] == runs[1].result["metrics"]
    model = fedmm.load_run(runs[0].folder).model
    assert (model.item_embeddings() == runs[1].model.item_embeddings()).all()
    assert model.experiment.config.model.block == "ligr"
    history = list(model.item_ids[:3])
    best = model.recommend(history=history, k=5)
    portable = portable_of(model.experiment, model.snapshot)
    index = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        scores = portable.model(index)[0]
        torch.testing.assert_close(traced(portable.model).module()(index)[0], scores, atol=1e-5, rtol=0)
    place = {name: at + 1 for at, name in enumerate(model.item_ids)}
    found = [float(scores[place[one.item_id]]) for one in best]
    np.testing.assert_allclose(found, [one.score for one in best], atol=1e-5)
