"""A federation whose silos mask their sums learns what the plain integers make it learn, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmm.deployment.chained import Chain
from fedmm.deployment.messages import Message, _described, encode, read_header
from fedmm.deployment.seals import Checksums
from fedmm.errors import ConfigError
from fedmm.experiment import Experiment
from worlds.silo_world import lead_of, silo_settings, silos_of, write_world

WHOLE = ("clip", "rotate", "round")
SETTINGS = {
    "update_transforms": (*WHOLE, "mask"), "spectral_start": False, "succession": 0.0, "protocols": ("full",),
    "rounds": 2, "hidden_dim": 4, "fusion": "backbone",
}  # fmt: skip
PRIVATE = {"epsilon": 8.0, "protocols": ("full",), "rounds": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    write_world(folder, {"a": 7, "b": 9, "c": 5})
    return folder


def led(folder, silos=None, **settings):
    silos = silos or silos_of(folder, ["a", "b", "c"], **settings)
    lead = lead_of(folder, silos, **settings)
    seed = lead.given.runtime.seed
    lead.secret = seed
    lead.begin()
    return lead, list(lead.rounds())


def simulated(folder, **settings):
    experiment = Experiment.prepare(silo_settings(folder, **settings))
    return list(experiment.rounds(experiment.initial_state()))


def assert_equal(lead, params):
    for name, value in params.items():
        assert torch.equal(lead.state.server.params[name], value), name


def test_masked_integers_are_the_simulations_bit_for_bit(world):
    found = simulated(world, **SETTINGS)
    lead, reports = led(world, **SETTINGS)
    assert_equal(lead, found[-1][0].server.params)
    for report, (_, other) in zip(reports, found, strict=True):
        assert report.num_clients == other.num_clients
        assert report.loss == pytest.approx(other.loss, rel=1e-5)  # losses are masked in small whole steps
        assert all(value == pytest.approx(other.validation[name]) for name, value in report.validation.items())
    assert lead.conversation.events.number["masked sum not opened"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "exact"),
    [
        ({**SETTINGS, "aggregation": "mean", "update_clip_quantile": 0.5, "user_vector": True}, True),
        ({**SETTINGS, "update_transforms": ("low_rank", *WHOLE, "mask"), "update_rank": 2}, True),
        ({"update_transforms": (*WHOLE, "mask"), "succession": 2.0, "rounds": 2}, False),  # counts in steps of 2^-12
        ({**PRIVATE, "update_transforms": (*WHOLE, "mask", "noise")}, True),
        ({**PRIVATE, "update_transforms": (*WHOLE, "noise", "mask"), "spectral_start": False}, True),
    ],
    ids=["mean", "few directions", "counts", "private", "private without a start"],
)
def test_so_it_is_under_other_settings(world, settings, exact):
    found = simulated(world, **settings)
    lead, _ = led(world, **settings)
    for name, value in found[-1][0].server.params.items():
        tolerance = 0.0 if exact else 2e-3
        torch.testing.assert_close(lead.state.server.params[name], value, rtol=0, atol=tolerance)


def test_users_that_add_the_noise_make_the_simulations_rounds(world):
    settings = {**PRIVATE, "cohorts": "all", "update_transforms": (*WHOLE, "noise_share", "mask"), "rounds": 1}
    settings["spectral_start"] = False
    found = simulated(world, **settings)
    silos = silos_of(world, ["a", "b", "c"], **settings)
    for own in silos.values():
        own.secret = own.config.runtime.seed
    lead, reports = led(world, silos, **settings)
    assert_equal(lead, found[-1][0].server.params)
    assert reports[0].epsilon == found[0][1].epsilon
    unknown, _ = led(world, silos_of(world, ["a", "b", "c"], **settings), **settings)
    assert any(not torch.equal(unknown.state.server.params[n], v) for n, v in found[-1][0].server.params.items())


@pytest.mark.slow
def test_the_start_has_the_noise_of_its_users(world):
    settings = {**PRIVATE, "cohorts": "all", "update_transforms": (*WHOLE, "noise_share", "mask"), "epsilon": 2.0}
    begun = []
    for _ in range(2):
        lead = lead_of(world, silos_of(world, ["a", "b", "c"], **settings), **settings)
        begun.append(lead.begin().begin["noisy/pairs"].numpy())
    assert begun[0].shape != begun[1].shape or not np.array_equal(*begun)


def test_sums_travel_masked_alone(world):
    silos = silos_of(world, ["a", "b", "c"], **SETTINGS)
    kinds = {name: [] for name in silos}
    good = {name: own.answer for name, own in silos.items()}
    for name, own in silos.items():

        def answer(data, name=name):
            found = good[name](data)
            kinds[name].append(read_header(Checksums().open(found, name)).message.kind)
            return found

        own.answer = answer
    led(world, silos, **SETTINGS)
    for own in kinds.values():
        assert own.count("masked") == own.count("opening") == 2
        assert "sums" not in own


def test_a_silo_gives_no_sum_in_the_open(world):
    silos = silos_of(world, ["a", "b", "c"], **SETTINGS)
    lead, _ = led(world, silos, **SETTINGS)
    params = {f"params/{name}": value for name, value in lead.state.server.params.items()}
    body = {"counted": 2, "cohort": 1, "clip": None}
    for number, more in enumerate([{}, {"attempt": "x", "shares": {}}, {"attempt": 3}, {"shares": {"b": "00"}}]):
        asked = Message(
            "train", {**body, **more}, {**params, "clients": torch.tensor([0])},
            session="other", sequence=number + 1, round=3, settings=lead.members.digest,
        )  # fmt: skip
        answer = silos["a"].answer(Checksums().close(encode(asked)))
        assert read_header(Checksums().open(answer, "a")).message.kind == "refused"


def test_a_silo_that_dies_in_a_masked_round_is_recovered(world):
    silos = silos_of(world, ["a", "b", "c"], **SETTINGS)
    good, dead = silos["b"].answer, []

    def answer(data):
        kind = read_header(Checksums().open(data, "server")).message.kind
        if kind == "train":
            dead.append(1)
        return b"lost" if dead and kind != "hello" else good(data)

    silos["b"].answer = answer
    settings = {**SETTINGS, "rounds": 1}
    lead = lead_of(world, silos, quorum=0.3, **settings)
    lead.begin()
    report = lead.one_round()
    assert [own.counted for own in lead.state.silos] == [1, 0, 1]
    silos = silos_of(world, ["a", "b", "c"], **settings)
    chosen = lead._chosen(1)
    assert report.num_clients == len(chosen["a"]) + len(chosen["c"])
    assert lead.conversation.events.number["masked sum not opened"] == 0


@pytest.mark.parametrize("shift", [0, 5])
def test_words_come_back_as_they_went(world, shift):
    settings = {**SETTINGS, "aggregation": "heat"}
    lead, _ = led(world, **{**settings, "rounds": 1})
    chain = Chain.of(lead.local, lead.state.server.params, 2, 9, None, None)
    sums = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in chain.expected().items()}
    sums["vector"] = torch.arange(chain.bound.width) - chain.bound.width // 2 - shift
    sums["holders"] = torch.arange(len(sums["holders"]), dtype=torch.float64) % 4
    sums |= {"weight": torch.tensor(4.0), "loss": torch.tensor(9.25), "load_balance_loss": torch.tensor(-0.5)}
    words = chain.words(sums)
    assert len(words) == chain.num_words
    found = chain.from_words(words + words, 8)
    assert all(torch.equal(found[name], 2 * value) for name, value in sums.items())


def test_one_silo_alone_cannot_be_masked(world):
    with pytest.raises(ConfigError, match="hides nothing"):
        lead_of(world, silos_of(world, ["a"], **SETTINGS), **SETTINGS)


def test_a_masked_sum_that_cannot_be_is_not_used(world):
    expected = led(world, **{**SETTINGS, "rounds": 1})[0].state.server.params
    silos = silos_of(world, ["a", "b", "c"], **SETTINGS)
    good, lies = silos["b"].answer, []

    def answer(data):
        sealed = good(data)
        header = read_header(Checksums().open(sealed, "b"))
        if header.message.kind != "masked" or lies:
            return sealed
        lies.append(1)
        ((_, (shape,)),) = _described(header.content).values()
        found = header.with_tensors({"masked": (torch.int32, (shape,))})
        return Checksums().close(encode(replace(found, tensors={"masked": found.tensors["masked"] + 2**30})))

    silos["b"].answer = answer
    lead, _ = led(world, silos, **{**SETTINGS, "rounds": 1})
    assert lies
    assert lead.conversation.events.number["masked sum not used"] == 1
    assert_equal(lead, expected)


BODIES = [
    {}, {"attempt": None}, {"attempt": "x" * 201}, {"attempt": "x"}, {"attempt": "x", "roster": [1]},
    {"attempt": "x", "roster": {"b": {"mask": 1}}}, {"attempt": "x", "roster": {"b": [None, None]}},
    {"attempt": "x", "sent": "all"}, {"attempt": "x", "sent": [1, None]}, {"attempt": "x", "sent": ["a", "b"]},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["keys", "roster", "open", "count", "train"])
def test_a_silo_answers_hostile_requests_in_one_line(world, kind):
    silos = silos_of(world, ["a", "b", "c"], **SETTINGS)
    lead, _ = led(world, silos, **{**SETTINGS, "rounds": 1})
    stream = np.random.default_rng(1)
    for number, body in enumerate(BODIES):
        asked = Message(
            kind, {"what": "popularity", **body}, session="z", sequence=2 * number + 1, settings=lead.members.digest
        )
        fuzzed = bytearray(encode(asked))
        fuzzed[int(stream.integers(len(fuzzed)))] = int(stream.integers(256))
        for data in (encode(asked), bytes(fuzzed)):
            found = read_header(Checksums().open(silos["a"].answer(Checksums().close(data)), "a")).message
            assert found.kind in ("refused", "unready") or (kind, found.kind) == ("keys", "keys")
            assert "\n" not in found.body.get("why", "")
    assert silos["a"].failure is None
