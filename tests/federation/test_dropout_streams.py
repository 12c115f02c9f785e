"""Dropout's random streams: a client's, a round's and a step's own, and sound at both ends of the scale."""

import numpy as np
import pytest
import torch

from fedmm.config import ModelConfig
from fedmm.federation.dropout import step_dropout
from fedmm.federation.local_training import LocalTraining
from fedmm.utils.seeding import torch_stream
from fedmm.verification.world import make_local

WIDTH = 8


def mask(local: LocalTraining, clients: list[int], number: int, steps: int = 1, place: int = 0) -> torch.Tensor:
    """What the first site leaves of ones, for one client of the block in its last step."""
    stream = local.steps(np.array(clients), number)
    for index in range(steps):
        step = stream.step(index, len(clients))
    items = step.batch.items
    return step.dropout(torch.ones(*items.shape, WIDTH, dtype=torch.float64))[place]


@pytest.fixture(scope="module")
def local() -> LocalTraining:
    return make_local({"dropout": 0.3}, {"local_steps": 3})[0]


def own(found: torch.Tensor, local: LocalTraining, client: int) -> torch.Tensor:
    """Without the padding that company brings."""
    lengths = local.windows.length[slice(*local.windows.first[client : client + 2])]
    return found[: len(lengths), : lengths.max()]


def test_masks_do_not_know_the_company(local: LocalTraining) -> None:
    for steps in (1, 2, 3):
        alone = own(mask(local, [3], 1, steps), local, 3)
        together = own(mask(local, [6, 2, 3, 1], 1, steps, place=2), local, 3)
        assert torch.equal(alone, together)


def test_masks_are_drawn_anew_for_every_client_round_step_and_seed(local: LocalTraining) -> None:
    reseeded = LocalTraining.build(local.recommender, local.config, local.train, 1, torch.float64)
    ways = [
        mask(local, [2], 1),
        mask(local, [2], 2),
        mask(local, [2], 1, steps=2),
        mask(reseeded, [2], 1),
    ]
    for left in range(len(ways)):
        for right in range(left):
            # Independent masks agree on .7^2 + .3^2 = .58 of the entries.
            agreement = float((ways[left] == ways[right]).double().mean())
            assert abs(agreement - 0.58) < 5 * np.sqrt(0.58 * 0.42 / ways[left].numel())
    assert not torch.equal(mask(local, [0], 1), mask(local, [5], 1))  # two clients with histories of one shape


def test_the_sites_of_a_forward_pass_are_independent() -> None:
    generators = [torch_stream(0, "dropout sites")]
    drop = step_dropout(0.5, generators, np.array([30]), np.array([20]), 2, WIDTH, torch.float64, torch.device("cpu"))
    sites = torch.stack([drop(torch.ones(1, 30, 20, WIDTH, dtype=torch.float64)).flatten() for _ in range(5)])
    correlation = np.corrcoef(sites.numpy()) - np.eye(5)
    assert np.abs(correlation).max() < 5 / np.sqrt(sites.shape[1])


@pytest.mark.parametrize("rate", [1e-6, 0.5, 0.99, 0.9999, 0.999999])
def test_every_rate_the_settings_allow_can_be_drawn(rate: float) -> None:
    """The settings allow any rate below 1; whatever is kept is finite and the padding beyond a client's own is 0."""
    assert ModelConfig(dropout=rate).dropout == rate
    generators = [torch_stream(0, "dropout", client) for client in range(2)]
    drop = step_dropout(
        rate, generators, np.array([3, 2]), np.array([4, 6]), 1, WIDTH, torch.float32, torch.device("cpu")
    )
    left = drop(torch.ones(2, 3, 6, WIDTH))
    assert torch.isfinite(left).all()
    assert (left >= 0).all()
    assert not left[0, :, 4:].any()
    assert not left[1, 2:].any()
