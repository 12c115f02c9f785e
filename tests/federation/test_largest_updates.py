"""Laws of updates whose largest numbers travel alone: nothing is lost, places are billed, all numbers are as off."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fedmm
from fedmm.federation.client_states import NO_STATES, ClientStates, Kept
from fedmm.federation.largest_updates import PREFIX, largest, number_of, sent_largest
from fedmm.federation.local_training import UpdateBlock
from fedmm.federation.rice import decode, encode
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.testing import tiny_config

NUMBERS = st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=20)


@given(NUMBERS, st.data())
@settings(max_examples=60, deadline=None)
def test_what_travels_is_the_largest(numbers: list[float], data: st.DataObject) -> None:
    """By sorting, the first of equal ones first; what is left is at most (1 - k / n) of the squared norm."""
    number = data.draw(st.integers(1, len(numbers)))
    values = torch.tensor([numbers], dtype=torch.float64)
    found = largest(values, number)[0].tolist()
    order = sorted(range(len(numbers)), key=lambda place: (-abs(numbers[place]), place))[:number]
    assert found == [place in order and numbers[place] != 0 for place in range(len(numbers))]
    left = sum(value**2 for value, there in zip(numbers, found, strict=True) if not there)
    assert left <= (1 - number / len(numbers)) * sum(value**2 for value in numbers) + 1e-12


def block_of(round_number: int, clients: np.ndarray) -> UpdateBlock:
    stream = np.random.default_rng(round_number)
    deltas = {
        ITEM_TABLE: stream.standard_normal((4, 6, 16)),
        "w": stream.standard_normal((4, 80)),
        "b": np.ones((4, 3)),
    }
    ones = torch.ones(len(clients), dtype=torch.float64)
    own = {name: torch.from_numpy(value[clients]) for name, value in deltas.items()}
    return UpdateBlock(clients, own, ones, ones, ones)


def test_what_was_sent_and_what_is_held_back_add_up_to_all_updates() -> None:
    """Over rounds of changing clients, against one client after the other in plain loops; a small parameter is sent."""
    states, share = NO_STATES, 0.1
    sent = {
        client: {
            name: torch.zeros(value.shape[1:], dtype=torch.float64)
            for name, value in block_of(1, np.arange(4)).deltas.items()
        }
        for client in range(4)
    }
    made = {client: {name: value.clone() for name, value in own.items()} for client, own in sent.items()}
    held = {client: {name: np.zeros(value.numel()) for name, value in own.items()} for client, own in sent.items()}
    for number in range(1, 6):
        clients, kept = np.array([0, 1, 3] if number % 2 else [1, 2]), list[Kept]()
        (block,) = sent_largest([block_of(number, clients)], share, states, 5, kept.append)
        states = states.after(kept)
        for place, client in enumerate(clients):
            for name, value in block_of(number, clients).deltas.items():
                sent[client][name] += block.deltas[name][place]
                made[client][name] += value[place]
                whole = held[client][name] + value[place].numpy().ravel()
                most = len(whole) if name == "b" else math.ceil(share * len(whole))
                order = np.argsort(-np.abs(whole), kind="stable")[:most]
                expected = np.zeros(len(whole))
                expected[order] = whole[order]
                held[client][name] = whole - expected
                np.testing.assert_array_equal(block.deltas[name][place].numpy().ravel(), expected)
    for client in range(4):
        for name, value in made[client].items():
            left = states.entries[client].get(f"{PREFIX}{name}", torch.zeros_like(value))
            torch.testing.assert_close(sent[client][name] + left, value, atol=1e-12, rtol=0)


def test_places_are_billed_by_a_code_that_can_be_read() -> None:
    (block,) = sent_largest([block_of(1, np.arange(3))], 0.2, NO_STATES, 5, lambda _: None)
    assert block.coded is not None
    for place in range(3):
        flat = np.concatenate([block.deltas[name][place].numpy().ravel() for name in (ITEM_TABLE, "w")])
        own = np.flatnonzero(flat)
        code = encode(np.diff(own, prepend=-1) - 1)
        assert block.coded[place].tolist() == [number_of(96, 0.2) + number_of(80, 0.2), len(code)]
        np.testing.assert_array_equal(np.cumsum(decode(code, len(own)) + 1) - 1, own)


def test_an_update_that_is_not_finite_travels_whole() -> None:
    assert largest(torch.tensor([[math.nan, 1.0, math.inf]]), 1).all()
    assert largest(torch.tensor([[math.nan, 3.0, 1.0, 0.0]]), 2).all()


def reports(**given: Any) -> list[tuple[Any, ...]]:
    experiment = fedmm.Experiment.prepare(tiny_config(dtype="float64", **given))
    found = [report for _, report in experiment.rounds(experiment.initial_state())]
    return [(own.loss, own.update_norm, own.uplink_bytes, own.downlink_bytes) for own in found]


def test_all_numbers_are_as_off_engines_agree_and_fewer_are_fewer_bytes() -> None:
    off = reports()
    assert reports(upload_share=1.0) == off
    assert tiny_config(upload_share=1.0).digest == tiny_config().digest
    some = reports(upload_share=0.05)
    other = reports(upload_share=0.05, engine="sequential")
    assert np.array(some)[:, :2] == pytest.approx(np.array(other)[:, :2], rel=1e-6)
    assert all(few[2] < 0.75 * all_of[2] and few[3] == all_of[3] for few, all_of in zip(some, off, strict=True))
    assert reports(upload_share=0.05, num_negatives=3)[0][2] > 0


@pytest.mark.slow
def test_what_is_held_back_is_there_again_after_a_resume(tmp_path: Path) -> None:
    given = {"upload_share": 0.05, "client_fraction": 0.5}
    whole = fedmm.train(tiny_config(tmp_path / "whole", rounds=4, **given), quiet=True)
    half = tiny_config(tmp_path / "half", rounds=2, **given)
    folder = fedmm.train(half, quiet=True).folder
    more = half.with_values({"federation.rounds": 4, "runtime.output": str(folder)})
    again = fedmm.train(more, resume=True, quiet=True)
    assert Path(again.folder) == Path(folder)
    assert whole.result.metrics == again.result.metrics
    assert whole.result.communication == again.result.communication


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"upload_bits": 4}, "upload_bits 4 rounds them"),
        ({"upload_step": 1.0}, "upload_step 1 rounds them"),
        ({"update_transforms": ("clip",)}, "update_transforms"),
        ({"update_transforms": ("clip", "round", "mask")}, "update_transforms"),
        ({"aggregation": "median", "client_weighting": "uniform"}, "mostly nothing"),
        ({"local_algorithm": "scaffold", "local_optimizer": "sgd"}, "control variates"),
        ({"epsilon": 8.0}, "covers no places"),
    ],
)
def test_what_cannot_be_joined_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(fedmm.ConfigError, match=told):
        tiny_config(upload_share=0.1, **given)


def test_what_is_held_back_is_no_part_of_a_snapshot() -> None:
    states = ClientStates({1: {f"{PREFIX}w": torch.ones(2), "personal.gate": torch.ones(1)}})
    assert set(states.personal().entries[1]) == {"personal.gate"}
