"""Laws of messages in steps: codes without loss, updates without bias, versions that add up, bills of what is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import fedmm
from fedmm.experiment import TrainState
from fedmm.federation.ledger import message_bytes
from fedmm.federation.rice import coded_length, decode, encode
from fedmm.federation.step_updates import stepped, unstepped
from fedmm.federation.versions import Versions, changes_message, next_version
from fedmm.runs.folder import Progress, load_state, save_state
from fedmm.testing import tiny_config

STEPS = {"upload_step": 1.0, "download_step": 0.4}
WHOLE = st.lists(st.one_of(st.just(0), st.integers(-3, 3), st.integers(-(10**6), 10**6)), max_size=60)


@given(WHOLE)
def test_codes_lose_nothing_and_are_as_long_as_they_are_billed(values: list[int]) -> None:
    array = np.array(values, dtype=np.int64)
    code = encode(array)
    assert len(code) == coded_length(array)
    np.testing.assert_array_equal(decode(code, len(array)), array)


def test_codes_are_near_the_entropy() -> None:
    stream = np.random.default_rng(0)
    for share, spread in ((0.02, 1.0), (0.3, 1.0), (1.0, 4.0)):
        values = np.where(stream.random(20_000) < share, np.rint(stream.normal(size=20_000) * spread), 0).astype(int)
        _, counts = np.unique(values, return_counts=True)
        entropy = -(counts / 20_000 * np.log2(counts / 20_000)).sum()
        assert entropy <= coded_length(values) * 8 / 20_000 <= entropy * 1.12 + 0.02


@given(
    arrays(np.float64, (4, 5), elements=st.floats(-1e6, 1e6).map(lambda x: round(x, 6))),
    st.floats(0.3, 8.0),
    st.floats(0, 0.999),
)
@settings(max_examples=50)
def test_rows_come_back_within_a_step(rows: np.ndarray, share: float, chance: float) -> None:
    value = torch.from_numpy(rows)
    numbers, exponents = stepped(value, share, torch.full_like(value, chance))
    step = torch.ldexp(torch.ones(4, dtype=torch.float64), exponents)
    largest = value.abs().amax(-1) * share
    assert bool(((step >= largest) & ((step / 2 < largest) | (largest == 0) | (exponents == -40))).all())
    assert bool(((unstepped(numbers, exponents, torch.float64) - value).abs() <= step.unsqueeze(-1)).all())
    assert not numbers[largest == 0].any()
    if share >= 1.0:
        assert int(numbers.abs().max()) <= 1


def test_updates_in_steps_have_the_update_as_their_mean() -> None:
    value = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chances = torch.rand(20_000, 3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    numbers, exponents = stepped(value.expand(20_000, 3, 6), 2.0, chances)
    mean = unstepped(numbers, exponents, torch.float64).mean(0)
    step = torch.ldexp(torch.ones(3, dtype=torch.float64), exponents[0]).unsqueeze(-1)
    assert bool(((mean - value).abs() < 5 * step / np.sqrt(20_000)).all())


def reports(**given: Any) -> list[fedmm.RoundReport]:
    experiment = fedmm.Experiment.prepare(tiny_config(dtype="float64", **given))
    return [report for _, report in experiment.rounds(experiment.initial_state())]


@pytest.mark.parametrize("more", [{}, {"num_negatives": 4, "absence_rate": 0.3}, {"aggregation": "median"}], ids=str)
def test_both_engines_send_alike(more: dict[str, Any]) -> None:
    found = [reports(engine=engine, **STEPS, **more) for engine in ("sequential", "vectorized")]
    for left, right in zip(*found, strict=True):
        assert left.loss == pytest.approx(right.loss, abs=1e-9)
        assert (left.uplink_bytes, left.downlink_bytes) == (right.uplink_bytes, right.downlink_bytes)


def test_changes_make_a_version_of_any_earlier_one_and_are_billed_to_who_lacks_them() -> None:
    params = {"table": torch.randn(40, 8, dtype=torch.float64), "small": torch.ones(3, dtype=torch.float64)}
    step = 0.5 * float(params["table"].square().mean().sqrt())
    versions: Versions | None = None
    history = list[np.ndarray]()
    for number in (1, 2, 3, 4):
        versions, received = next_version(versions, params, ("table", "small"), 0.5, 9)
        assert float((received["table"] - params["table"]).abs().max()) <= step / 2 * (1 + 1e-9)
        assert torch.equal(received["small"], params["small"])
        own = np.rint(params["table"].flatten().numpy() / step).astype(np.int64)
        np.testing.assert_array_equal(versions.kept[-1]["table"].flatten().numpy(), own)
        lacking = [encode(own - version) for version in history]  # client n was there in round n, and never again
        for version, change in zip(history, lacking, strict=True):
            np.testing.assert_array_equal(version + decode(change, 320), own)
        history.append(own)
        first = len(encode(own))
        due = [min(len(missed), first) for missed in lacking]
        assert versions.bytes_for(np.arange(9)).tolist() == [first, *due, *[first] * (9 - number)]
        versions = versions.after(np.array([number]))
        params = {"table": params["table"] + 0.1 * torch.randn(40, 8, dtype=torch.float64), "small": params["small"]}
    assert message_bytes(changes_message(params, 100)) == message_bytes(
        {"small": params["small"], "changes": torch.zeros(100, dtype=torch.uint8), "steps": torch.zeros(1)}
    )


def test_steps_cost_fewer_bytes_the_larger_they_are() -> None:
    costs = [
        [found[-1].uplink_bytes - found[0].uplink_bytes, found[-1].downlink_bytes - found[0].downlink_bytes]
        for found in (reports(), *(reports(upload_step=s, download_step=s / 2) for s in (0.25, 1.0, 4.0)))
    ]
    assert costs == sorted(costs, reverse=True)


def test_a_run_goes_on_with_its_versions(tmp_path: Path) -> None:
    experiment = fedmm.Experiment.prepare(tiny_config(rounds=4, absence_rate=0.2, **STEPS))
    states: list[TrainState] = [state for state, _ in experiment.rounds(experiment.initial_state())]
    save_state(tmp_path, experiment, states[1], Progress(None, 0.0))
    loaded = load_state(tmp_path, experiment, lambda _: None)
    assert loaded is not None
    last = [state for state, _ in experiment.rounds(loaded[0])][-1]
    assert last.ledger == states[-1].ledger
    for name, value in states[-1].server.params.items():
        assert torch.equal(value, last.server.params[name])


def test_one_message_is_rounded_once() -> None:
    for clash, told in (
        ({"upload_step": 1.0, "upload_bits": 4}, "upload_bits 4 and upload_step 1 round the same"),
        ({"download_step": 1.0, "download_bits": 4}, "download_bits 4 and download_step 1 round the same"),
        ({"upload_step": 1.0, "update_transforms": ("clip",)}, "upload_step 1 rounds single updates"),
        ({"upload_step": 1.0, "epsilon": 8.0}, "Unset upload_step"),
    ):
        with pytest.raises(fedmm.ConfigError, match=told):
            tiny_config(**clash)
