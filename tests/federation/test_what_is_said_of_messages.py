"""Laws of what is said of messages before they are sent: about how long, of whom, and by which protocol."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch

from fedmm.config import ExperimentConfig, FederationConfig
from fedmm.data.types import Ragged
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.compression import coded, coded_message
from fedmm.federation.count_sums import CountSums
from fedmm.federation.count_uses import count_notes
from fedmm.federation.private_rounds import FACT_SHARE, PrivateRounds, layout_of
from fedmm.federation.private_start import leading_factor, sum_pairs
from fedmm.federation.rice import coded_length
from fedmm.federation.rounds import ServerState, run_round, smaller_clip
from fedmm.federation.step_updates import expected_lengths, stepped
from fedmm.federation.traffic import traffic
from fedmm.federation.transforms.contract import TransformRound
from fedmm.federation.versions import expected_length
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.privacy.plan import PrivacyPlan
from fedmm.verification.world import make_federation, make_local, watched_round


@pytest.mark.parametrize("share", [0.05, 0.2, 1.0, 3.0])
@pytest.mark.parametrize("rows", [None, 90])
def test_codes_are_about_as_long_as_expected(share: float, rows: int | None) -> None:
    stream = torch.Generator().manual_seed(0)
    table, layer, small = (torch.randn(size, generator=stream) for size in ((300, 32), (64, 16), (8,)))
    sent = [table if rows is None else table[:rows], layer]
    numbers, exponents = zip(*(stepped(v, share, torch.rand(v.shape, generator=stream)) for v in sent), strict=True)
    found = expected_lengths({ITEM_TABLE: table, "layer": layer, "small": small}, rows, share)
    real = coded_length(np.concatenate([n.numpy().ravel() for n in numbers])), sum(map(len, exponents)) / 4
    assert found == pytest.approx(real, rel=0.3)


def test_versions_are_about_as_long_as_expected() -> None:
    stream = torch.Generator().manual_seed(0)
    table = torch.randn(300, 32, generator=stream)
    for share in (0.05, 0.2, 1.0):
        whole = torch.round(table / share).to(torch.int64).numpy().ravel()
        assert expected_length({ITEM_TABLE: table}, share) == pytest.approx(coded_length(whole), rel=0.2)


@pytest.mark.parametrize("shape", [(100, 1), (70, 9), (5, 4, 8), (129,)])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_messages_of_few_bits_have_the_bytes_of_their_packed_numbers(shape: tuple[int, ...], bits: int) -> None:
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    numbers, steps = coded(value, bits)
    message = coded_message({"layer": value}, bits)
    assert message["layer.numbers"].numel() == -(-numbers.numel() * bits // 8)
    assert message["layer.steps"].numel() == steps.numel()


def test_a_step_is_no_larger_than_it_must_be() -> None:
    """3 / 3 is a number of bfloat16: nothing is rounded upwards."""
    _, steps = coded(torch.tensor([[0.0, 1.0, -3.0], [0.0, 0.5, 1.5]]), bits=3)
    assert steps.tolist() == [1.0, 0.5]


def test_a_power_of_two_is_its_own_step() -> None:
    numbers, exponents = stepped(torch.tensor([[2.0, -2.0, 0.0], [0.25, 0.0, -0.25]]), 1.0, torch.tensor(0.0))
    assert exponents.tolist() == [1, -2]
    assert numbers.tolist() == [[1, -1, 0], [1, 0, -1]]


def test_vectors_that_arrive_are_counted() -> None:
    turn = TransformRound(FederationConfig(), 0, 1, np.arange(5), ())
    assert turn.num_present == 5
    assert TransformRound(FederationConfig(), 0, 1, np.arange(5), (), present=np.array([4, 2])).num_present == 2


@pytest.mark.parametrize(("start", "sketch"), [(False, None), (True, None), (True, 8)])
@pytest.mark.parametrize("received", [False, True])
def test_a_protocol_is_named_where_counts_are_summed_by_it(start: bool, received: bool, sketch: int | None) -> None:
    settings = {"federation.spectral_start": start, "federation.spectral_sketch_size": sketch, "model.succession": 0.0}
    config = ExperimentConfig().with_values(settings)
    sums = CountSums(Ragged.from_rows([[1, 2, 3]] * 4), 9, "open", 0)
    assert (sums.note in list(count_notes(config, config, sums, received=received))) == (
        received or (start and sketch is None)
    )


@pytest.mark.parametrize("aggregation", ["mean", "heat"])
def test_what_a_client_is_said_to_send_in_steps_is_about_what_it_sends(aggregation: str) -> None:
    local, params = make_local(
        {"hidden_dim": 16}, {"upload_step": 0.5, "download_step": 0.4, "aggregation": aggregation}
    )
    federation = make_federation(local)
    up, down = traffic(federation, params, 1)
    _, _, told = run_round(ServerState(params, {}, 0), NO_STATES, federation)
    assert up * federation.cohort_size == pytest.approx(told.uplink_bytes, rel=0.3)
    assert down * federation.cohort_size == pytest.approx(told.downlink_bytes, rel=0.3)


def test_the_remedy_for_large_steps_names_what_is_set() -> None:
    assert smaller_clip(FederationConfig(clip_norm=None)) == "set federation.clip_norm"
    assert smaller_clip(FederationConfig(clip_norm=2.0)) == "lower federation.clip_norm (now 2.0)"


def test_without_noise_everything_stands_out() -> None:
    exact = np.diag([0.2, 0.1, 0.0])
    factor = leading_factor(exact, 0.0, 3)
    np.testing.assert_allclose(factor @ factor.T, exact, atol=1e-12)
    assert leading_factor(exact, 1.0, 3).shape == (3, 0)


def test_after_the_warm_up_experts_travel_in_steps_like_the_backbone() -> None:
    settings = {"download_step": 0.4, "upload_step": 1.0, "warmup_rounds": 1, "aggregation": "mean"}
    local, params = make_local({"hidden_dim": 16}, settings)
    _, _, _, starts = watched_round(make_federation(local), ServerState(params, {}, 1))
    large = [name for name in local.trainable(params, 2) if params[name].numel() >= 64 or name == ITEM_TABLE]
    assert any(not name.startswith("backbone") for name in large)
    for name in large:
        size = 0.4 * max(float(params[name].square().mean()) ** 0.5, 0.02)
        steps = starts[0][name].detach() / size
        torch.testing.assert_close(steps, steps.round(), rtol=0.0, atol=1e-6)
        assert not torch.equal(starts[0][name], params[name])


def test_losses_are_a_share_of_the_bound_beside_the_update() -> None:
    private = PrivateRounds(cast(PrivacyPlan, None), 3, np.zeros(3))  # of which nothing is read here
    for bound in (0.5, 2.0):
        config = FederationConfig(update_transforms=("clip",), update_clip=bound)
        assert layout_of(config, {}, private).fact_scale == FACT_SHARE * bound
        assert layout_of(config, {}, None).fact_scale == 0.0


def test_items_beyond_the_head_add_no_pairs() -> None:
    head = np.array([1, 5, 2])
    assert not sum_pairs(Ragged.from_rows([[3, 4, 6], [4, 3]]), 6, head).any()
    total = sum_pairs(Ragged.from_rows([[3, 1, 4, 2]]), 6, head)
    assert total[0, 2] > 0
    assert np.count_nonzero(total) == 1
