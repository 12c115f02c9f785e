"""What a silo holds the server to: the noise that was agreed, the offer that it took, and its own demands."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedmm.deployment import masks as masks_module
from fedmm.deployment.astray import GoneError
from fedmm.deployment.masks import Purpose, SiloMasks
from fedmm.deployment.messages import Message, RefusedError, encode, read_header
from fedmm.deployment.silo import Silo
from fedmm.deployment.terms import digest_of, terms_of
from fedmm.errors import ConfigError
from worlds.lying_server import SEAL, Between, hasty, shared
from worlds.masked_world import BY_USERS, MASKED, NAMES, WHOLE, WORDS, led
from worlds.silo_world import lead_of, silo_settings, silos_of, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refusing")
    write_world(folder, {"a": 7, "b": 9, "c": 5})
    return folder


def killed(*about):
    raise KeyboardInterrupt


# The agreed noise


@pytest.mark.parametrize(
    ("kind", "lie", "why"),
    [
        ("count", {"deviation": 0.1}, "the agreed plan has"),
        ("count", {"least": 2}, "the agreed plan has"),
        ("count", {"number": 10**6, "least": 10**6}, "noise of the|noise of|were agreed on"),
        ("count", {"trainable": 1}, "of whom train"),
        ("train", {"cohort": 10**6}, "the agreed noise is that of 21"),
    ],
)
def test_a_silo_adds_the_noise_of_the_plan_or_none(world, kind, lie, why):
    silos = {name: Between(own, kind, lambda body: {**body, **lie}) for name, own in world_of(world).items()}
    lead = hasty(lead_of(world, silos, **BY_USERS))
    if kind == "count":
        with pytest.raises(GoneError, match="start"):
            lead.begin()
    else:
        lead.begin()
        lead.members.pause = killed
        with pytest.raises(KeyboardInterrupt):
            lead.one_round()
    refused = silos["a"].refusals()
    assert refused
    assert all(re.search(why, own) and "\n" not in own for own in refused)
    assert kind != "count" or "opening" not in {message.kind for message in silos["a"].heard}


def world_of(world):
    return silos_of(world, NAMES, **BY_USERS)


def test_noise_of_fewer_users_than_were_told_is_not_opened():
    for least, opens in ((7, True), (8, False)):
        own, shares = shared(["a", "b"], (3, 4))
        own["a"].masked("one", Purpose("sum", "asked", 3, least), shares["a"], WORDS)
        if opens:
            own["a"].opening("one", ["a", "b"])
        else:
            with pytest.raises(RefusedError, match="the noise of 7"):
                own["a"].opening("one", ["a", "b"])


def test_noise_that_was_planned_for_fewer_clients_is_not_opened(world):
    """Fewer clients have a larger delta, and less noise: what silos tell each other shows the lie."""
    for most, opens in ((7, True), (6, False)):
        own, shares = shared(["a", "b"], (3, 4), trainable=(3, 4))
        own["a"].masked("one", Purpose("sum", "asked", 3, 7, most), shares["a"], WORDS)
        if opens:
            own["a"].opening("one", ["a", "b"])
        else:
            with pytest.raises(RefusedError, match="7 clients to train, where 6"):
                own["a"].opening("one", ["a", "b"])


def test_a_silo_begins_one_federation_of_an_offer_whose_noise_it_adds(world, tmp_path):
    """Another would be another epsilon, by the same users' leave."""
    silos = world_of(world)
    lead_of(world, silos, **BY_USERS).begin()
    second = lead_of(world, silos, **BY_USERS)
    second.begin()
    assert not any(second.members._ready.values())
    assert second.conversation.events.number["silo cannot follow"] == 3
    assert all(own._begun is None for own in silos.values())  # nor does it train for the one before


class Anew:
    """A silo that is a new process at each message, and whose first answer of each kind is lost."""

    def __init__(self, silo):
        self.silo, self.name, self.lost = silo, silo.name, set()

    def answer(self, data):
        found = Silo(self.name, self.silo.config, self.silo.folder).answer(data)
        kind = read_header(SEAL.open(data, "server")).message.kind
        if kind in self.lost:
            return found
        self.lost.add(kind)
        return b"lost"


@pytest.mark.slow
def test_a_silo_killed_at_each_message_sends_the_same_noise_again(tmp_path):
    """Other numbers under one mask would be refused."""
    write_world(tmp_path, {"a": 7, "b": 9, "c": 5})
    silos = silos_of(tmp_path, NAMES, keep=True, **BY_USERS)
    lead = lead_of(tmp_path, {name: Anew(own) for name, own in silos.items()}, **BY_USERS)
    lead.begin()
    assert [report.num_clients for report in lead.rounds()] == [21, 21]
    assert lead.conversation.events.number["silo cannot follow"] == 0
    assert lead.conversation.events.number["masked sum not opened"] == 0


def test_a_private_round_that_the_account_does_not_have_is_refused(world):
    settings = {"epsilon": 8.0, "protocols": ("full",), "rounds": 2, "spectral_start": False}
    silos = silos_of(world, NAMES, **settings)
    lead = led(world, silos, **settings)
    body = {"counted": 0, "cohort": 5, "clip": None}
    tensors = {f"params/{name}": value for name, value in lead.state.server.params.items()}
    for place, (number, kind) in enumerate(((2, "sums"), (3, "refused"), (0, "refused")), 1):
        asked = Message(
            "train", body, {**tensors, "clients": torch.tensor([0])}, session="other", sequence=place, round=number,
            settings=lead.members.digest,
        )  # fmt: skip
        assert read_header(SEAL.open(silos["a"].answer(SEAL.close(encode(asked))), "a")).message.kind == kind


def test_a_start_that_is_made_again_has_the_same_noise(world, tmp_path):
    """Else two sums would be shown, and one of them paid."""
    silos, before = world_of(world), []
    first = lead_of(world, silos, kept=tmp_path, **BY_USERS)
    masked = first._masked

    def whole(*given, **more):
        before.append(masked.whole(*given, **more)["sum"])
        raise KeyboardInterrupt

    first.__dict__["_masked"] = SimpleNamespace(whole=whole, start_to_open=frozenset())
    with pytest.raises(KeyboardInterrupt):
        first.begin()
    (tmp_path / "masked" / "state.json").unlink()  # what was to be opened is lost as well
    again = lead_of(world, silos, kept=tmp_path, **BY_USERS).begin().begin["noisy/holders"]
    expected = np.maximum(before[0].numpy() * (4.0 / 1024), 0.0)
    expected[0] = 0.0
    np.testing.assert_allclose(again.numpy(), expected)


# The offer that a silo took


@pytest.mark.parametrize(
    "weaker",
    [
        {"federation": {"update_transforms": [*WHOLE, "noise"]}},
        {"privacy": {"epsilon": 80.0}},
        {"privacy": {"epsilon": None}},
        {"federation": {"rounds": 200}},
        {"privacy": {"delta": 0.5}},
        {"privacy": {"start_share": 0.1}},
        {"privacy": {"rounds": 1}},
        {"privacy": {"senders_share": 0.1}},
        {"federation": {"item_table": "trained", "backbone": "trained"}},
        {"federation": {"update_clip_quantile": 0.5}},
        {"federation": {"cohort_size": 1}},
    ],
)
def test_a_federation_begins_by_the_offer(world, weaker):
    settings = {"epsilon": 8.0, "protocols": ("full",), "update_transforms": (*WHOLE, "mask", "noise")}
    silos = silos_of(world, NAMES, **settings)
    lead = lead_of(world, silos, **settings)
    lead.members.first()
    terms = terms_of(lead.given)
    ((section, change),) = weaker.items()
    if change == {"epsilon": None}:
        terms["federation"]["update_transforms"] = list(WHOLE)
    terms[section] = {**terms[section], **change}
    asked = Message(
        "begin", {"terms": terms, "base": 0, "federation": "f", "trainable": 21}, session="s", sequence=99,
        settings=digest_of(terms, lead.catalogue.digest),
    )  # fmt: skip
    answer = read_header(SEAL.open(silos["a"].answer(SEAL.close(encode(asked))), "a")).message
    assert answer.kind == "refused"
    assert "and the offer had" in answer.body["why"]
    assert silos["a"].failure is None


@pytest.mark.parametrize(
    ("own", "what"),
    [
        ({"update_transforms": (*WHOLE, "mask")}, "mask"),
        ({"epsilon": 2.0}, "epsilon 2 or less"),
        ({"noise_multiplier": 3.0}, "noise_multiplier 3"),
        ({"epsilon": 8.0, "delta": 1e-9}, "delta 1e-09"),
        ({"epsilon": 9.0, "cohorts": "all", "update_transforms": (*WHOLE, "noise_share", "mask")}, "noise_share"),
    ],
)
def test_a_silo_that_asks_for_more_than_is_offered_ends_with_one_line(world, own, what):
    offered = {"epsilon": 8.0, "protocols": ("full",)}
    silos = silos_of(world, NAMES, **offered)
    silos["a"].config = silo_settings(world, "a", **own)
    lead = lead_of(world, silos, silos=3, **offered)
    assert "a" not in lead.members.introductions(NAMES)
    failure = silos["a"].failure
    assert isinstance(failure, ConfigError)
    assert what in str(failure)
    assert "\n" not in str(failure)
    assert silos["b"].failure is None


@pytest.mark.parametrize(
    ("given", "own", "joins"), [(0.5, None, False), (0.5, 0.6, True), (1e-3, None, True), (None, None, True)]
)
def test_an_epsilon_of_its_own_asks_for_a_delta_too(world, given, own, joins):
    """Of 7 users: any epsilon is nothing where it may be passed half of the time."""
    offered = {"epsilon": 8.0, "protocols": ("full",), "delta": given}
    silos = silos_of(world, NAMES, **offered)
    silos["a"].config = silo_settings(world, "a", epsilon=9.0, delta=own)
    facts = lead_of(world, silos, silos=3, **offered).members.introductions(NAMES)
    assert ("a" in facts) == joins
    assert joins or "a silo of 7 users that asks for privacy.epsilon takes 0.12 or less" in str(silos["a"].failure)


def test_a_silo_that_asks_for_privacy_joins_none_without(world):
    silos = silos_of(world, NAMES, **MASKED)
    silos["a"].config = silo_settings(world, "a", epsilon=8.0)
    lead_of(world, silos, **MASKED).members.introductions(NAMES)
    assert "privacy, which this silo's own settings ask for" in str(silos["a"].failure)


def test_a_mask_hides_numbers_under_one_agreement(tmp_path):
    own, shares = shared(NAMES, (1, 1, 1), "one", tmp_path)
    silo = own["a"]
    hidden = silo.masked("one", Purpose("sum", "asked", 1), shares["a"], WORDS)
    assert np.array_equal(
        hidden, SiloMasks("a", tmp_path / "a").masked("one", Purpose("sum", "asked", 1), shares["a"], WORDS)
    )
    for purpose, words in ((Purpose("sum", "asked", 1), WORDS + np.uint32(1)), (Purpose("else", "asked", 1), WORDS)):
        with pytest.raises(RefusedError, match="second request under one mask"):
            silo.masked("one", purpose, shares["a"], words)


def test_masks_that_lost_a_part_are_as_none(tmp_path):
    own, shares = shared(NAMES, (1, 1, 1), "one", tmp_path)
    own["a"].masked("one", Purpose("sum", "asked", 1), shares["a"], WORDS)
    path = tmp_path / "a" / masks_module.FILE
    kept = json.loads(path.read_text())
    for name in kept:
        for changed in ({n: v for n, v in kept.items() if n != name}, {**kept, name: 7}, {**kept, name: "zz"}):
            path.write_text(json.dumps(changed))
            if changed.get("clients") == 7:
                continue  # a number like another, which the sum over clients is held against
            again = SiloMasks("a", tmp_path / "a")
            with pytest.raises(RefusedError):
                again.opening("one", NAMES)
            again.keys("two")


# A start that waits


def test_a_silo_that_lost_the_offer_is_made_it_again(world):
    for settings in (
        {"protocols": ("full", "popularity100"), "rounds": 1, "hidden_dim": 4},
        {**MASKED, "protocols": ("full", "popularity100")},
    ):
        silos = silos_of(world, NAMES, **settings)
        lead = lead_of(world, silos, **settings)
        first, forgot = lead.members.first, []

        def forgetting(again, silos=silos, first=first, forgot=forgot):
            found = first(again)
            silos["b"]._offered = None
            forgot.append(1)
            return found

        lead.members.first = forgetting
        assert [own.users for own in lead.begin().silos] == [7, 9, 5]
        assert forgot


@pytest.mark.parametrize("masked", [False, True])
def test_a_silo_that_is_gone_ends_the_start_with_one_line(world, masked):
    settings = {**MASKED, "protocols": ("full", "popularity100")}
    settings |= {} if masked else {"update_transforms": ()}
    silos = silos_of(world, NAMES, **settings)
    lead = hasty(lead_of(world, silos, **settings))
    answer = silos["c"].answer
    silos["c"].answer = None

    def gone(data):
        kind = read_header(SEAL.open(data, "server")).message.kind
        return answer(data) if kind in ("hello", "offer") else b"lost"

    lead.conversation.transport.silos["c"] = gone
    with pytest.raises(GoneError, match="Bring all silos back") as caught:
        lead.begin()
    assert masked or "what c should send" in str(caught.value)


def test_counts_below_0_are_one_silos_refused_message(world):
    settings = {"protocols": ("full", "popularity100"), "rounds": 1, "hidden_dim": 4, "fusion": "backbone"}
    lied = []

    def lie(sealed):
        header = read_header(SEAL.open(sealed, "b"))
        if header.message.kind != "sums" or lied:
            return sealed
        lied.append(1)
        found = header.with_tensors({"popularity": (torch.int64, (None,))})
        return SEAL.close(encode(replace(found, tensors={"popularity": found.tensors["popularity"] - 5})))

    silos = silos_of(world, NAMES, **settings)
    lead = led(world, {**silos, "b": Between(silos["b"], "count", answer=lie)}, **settings)
    assert lied
    assert lead.conversation.events.number["refused"] == 1
    expected = led(world, **settings).state.begin
    assert torch.equal(lead.state.begin["popularity"], expected["popularity"])


def test_masked_counts_below_0_are_not_used(world):
    settings = {**MASKED, "protocols": ("full", "popularity100")}
    expected = led(world, **settings).state.begin["popularity"]
    lied = []

    def lie(sealed):
        header = read_header(SEAL.open(sealed, "b"))
        if header.message.kind != "masked" or lied:
            return sealed
        lied.append(1)
        found = header.with_tensors({"masked": (torch.int32, (lead.catalogue.num_items + 1,))})
        return SEAL.close(encode(replace(found, tensors={"masked": found.tensors["masked"] - 2**20})))

    silos = silos_of(world, NAMES, **settings)
    lead = lead_of(world, {**silos, "b": Between(silos["b"], "count", answer=lie)}, **settings)
    lead.begin()
    assert lead.conversation.events.number["masked sum not used"] == len(lied) == 1
    assert torch.equal(lead.state.begin["popularity"], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_come_back_as_they_went(dtype):
    value = torch.randn(3, 2, generator=torch.Generator().manual_seed(1)).to(dtype)
    header = read_header(encode(Message("sums", tensors={"x": value})))
    assert torch.equal(header.with_tensors({"x": (dtype, (3, 2))}).tensors["x"], value)
    with pytest.raises(RefusedError, match="instead of F32"):
        header.with_tensors({"x": (torch.float32, (3, 2))})


def test_a_type_that_no_message_carries_is_said_so():
    with pytest.raises(RefusedError, match="complex64, which no message carries"):
        encode(Message("sums", tensors={"x": torch.zeros(2, dtype=torch.complex64)}))
