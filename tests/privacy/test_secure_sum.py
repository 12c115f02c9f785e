"""Laws of secure sums: equal to the plain sum bit for bit, also where clients drop out; closed below the threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedmm
from fedmm.federation.transforms import UPDATE_TRANSFORMS, Bound, TransformRound
from fedmm.privacy import shamir
from fedmm.privacy.secure_sum import SecureSum, SecureSumError
from fedmm.testing import tiny_config

SIZE = 50


def vectors_of(clients: tuple[int, ...], bits: int) -> dict[int, np.ndarray]:
    stream = np.random.default_rng(0)
    return {client: stream.integers(0, 1 << bits, SIZE, dtype=np.uint32) for client in clients}


def plain(vectors: dict[int, np.ndarray], present: list[int], bits: int) -> np.ndarray:
    total = sum((vectors[client].astype(object) for client in present), np.zeros(SIZE, dtype=object))
    return np.array([int(value) % (1 << bits) for value in total], dtype=np.uint32)


@given(st.integers(1, 30), st.sampled_from([8, 13, 32]), st.sampled_from([4, 20]), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_masked_sum_is_the_plain_sum(number: int, bits: int, degree: int, seed: int) -> None:
    clients = tuple(range(2, 2 + 3 * number, 3))
    session, vectors = SecureSum(clients, seed, 1, bits, degree), vectors_of(clients, bits)
    masked = {client: session.mask(client, vectors[client]) for client in clients}
    np.testing.assert_array_equal(session.open(masked), plain(vectors, list(clients), bits))


@given(st.data(), st.sampled_from([4, 8]))
@settings(max_examples=25, deadline=None)
def test_who_drops_out_is_left_out_up_to_the_threshold_and_nothing_is_opened_beyond(
    data: st.DataObject, degree: int
) -> None:
    clients = tuple(range(12))
    session, vectors = SecureSum(clients, 1, 2, 16, degree), vectors_of(clients, 16)
    gone = data.draw(st.sets(st.sampled_from(clients), max_size=8))
    masked = {client: session.mask(client, vectors[client]) for client in clients if client not in gone}
    closed = any(
        len(set(session.neighbours[client]) - gone) < session.threshold
        for client in clients
        if client not in gone or set(session.neighbours[client]) - gone
    )
    if closed:
        with pytest.raises(SecureSumError, match="Nothing was revealed"):
            session.open(masked)
    else:
        np.testing.assert_array_equal(session.open(masked), plain(vectors, list(masked), 16))


def test_what_is_sent_says_nothing_by_itself() -> None:
    session = SecureSum(tuple(range(6)), 0, 1)
    zeros, ones = np.zeros(40_000, dtype=np.uint32), np.ones(40_000, dtype=np.uint32)
    sent = session.mask(2, zeros)
    np.testing.assert_array_equal(session.mask(2, ones) - sent, ones)  # so masks are what hides it
    bits = np.unpackbits(sent.view(np.uint8)).mean()
    assert abs(bits - 0.5) < 5 * 0.5 / np.sqrt(32 * 40_000)
    assert abs(np.corrcoef(sent, session.mask(3, zeros))[0, 1]) < 0.03
    other = SecureSum(tuple(range(6)), 0, 2)
    assert (other.mask(2, zeros) != sent).mean() > 0.99


def test_the_graph_is_even_and_mutual() -> None:
    session = SecureSum(tuple(range(100)), 0, 1)
    for client, held in session.neighbours.items():
        assert len(set(held)) == 20
        assert client not in held
        assert all(client in session.neighbours[other] for other in held)
    assert session.threshold == 11


@given(st.integers(0, 2**256 - 1), st.integers(1, 6), st.integers(0, 4), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_any_shares_up_to_the_threshold_give_the_secret_back(secret: int, threshold: int, more: int, seed: int) -> None:
    stream = np.random.default_rng(seed)
    shares = shamir.split(secret, range(1, threshold + more + 1), threshold, stream)
    chosen = {int(place): shares[int(place)] for place in stream.permutation(list(shares))[:threshold]}
    assert shamir.join(chosen, threshold) == secret
    if threshold > 1:
        chosen.popitem()
        with pytest.raises(ValueError, match="do not give"):
            shamir.join(chosen, threshold)


def test_one_share_less_fits_any_secret() -> None:
    shares = shamir.split(7, [1, 2, 3], 3, np.random.default_rng(0))
    del shares[3]
    for secret in (0, 1, 2**200):  # a share for place 3 exists that gives it
        weights = [
            (-2) * -3 * pow((1 - 2) * (1 - 3), -1, shamir.PRIME),
            (-1) * -3 * pow((2 - 1) * (2 - 3), -1, shamir.PRIME),
        ]
        rest = secret - sum(share * weight for share, weight in zip(shares.values(), weights, strict=True))
        third = rest * pow((-1) * -2 * pow((3 - 1) * (3 - 2), -1, shamir.PRIME), -1, shamir.PRIME) % shamir.PRIME
        assert shamir.join({**shares, 3: third}, 3) == secret


def test_shares_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        shamir.split(1, [1, 2], 3, np.random.default_rng(0))


@pytest.mark.parametrize("noisy", [False, True])
def test_a_masked_run_is_the_plain_one(noisy: bool) -> None:
    plain_chain = ("clip", "rotate", "round", "noise") if noisy else ("clip", "rotate", "round")
    more = {"noise_multiplier": 0.5} if noisy else {}
    found = []
    for chain in (plain_chain, (*plain_chain, "mask")):
        experiment = fedmm.Experiment.prepare(
            tiny_config(dtype="float64", update_transforms=chain, update_bits=4, **more)
        )
        found.append(
            [
                value
                for _, report in experiment.rounds(experiment.initial_state())
                for value in (report.loss, report.update_norm)
            ]
        )
    assert found[0] == found[1]


def test_masks_need_whole_numbers_and_room() -> None:
    own = tiny_config().federation
    turn = TransformRound(own, 0, 1, np.arange(3), (4,))
    with pytest.raises(fedmm.ConfigError, match="round"):
        UPDATE_TRANSFORMS["mask"](turn, Bound(4, norm=1.0))
    with pytest.raises(fedmm.ConfigError, match="32"):
        UPDATE_TRANSFORMS["mask"](turn, Bound(4, norm=1.0, integers=True, largest=2.0**32))
