"""A size in a message that cannot be is refused in one line, before memory is taken for it."""

import copy
import os
import stat
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmm.deployment import hidden, sizes, sums
from fedmm.deployment.hidden import FILE, hidden_seed
from fedmm.deployment.lead_state import LeadState
from fedmm.deployment.masks import FILE as MASKS_FILE
from fedmm.deployment.masks import SiloMasks
from fedmm.deployment.members import _amounts
from fedmm.deployment.messages import Message, RefusedError, encode, read_header
from fedmm.deployment.terms import digest_of, settled_terms, terms_of
from fedmm.federation.rounds import ServerState
from worlds.lying_server import SEAL
from worlds.masked_world import BY_USERS, MASKED, NAMES, led
from worlds.silo_world import lead_of, silo_settings, silos_of, write_world

HUGE = 2**40
PLAIN = {"spectral_start": False, "protocols": ("full", "popularity100"), "rounds": 2, "hidden_dim": 4}
SKETCHED = {**PLAIN, "spectral_start": True, "spectral_sketch_size": 8, "protocols": ("full",)}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    write_world(folder, {"a": 7, "b": 9, "c": 5})
    return folder


class Asked:
    """A silo that has begun, and what it was asked last of each kind."""

    def __init__(self, folder, settings):
        silos = silos_of(folder, NAMES, **settings)
        self.silo, self.requests, self.number = silos["a"], {}, 0
        inner = self.silo.answer

        def answer(data):
            header = read_header(SEAL.open(data, "server"))
            what = header.message.body.get("what", "")
            self.requests.setdefault(f"{header.message.kind} {what}".strip(), header)
            return inner(data)

        self.silo.answer = answer
        lead = led(folder, silos, **settings)
        lead.one_round()
        self.silo.answer, self.lead = inner, lead

    def again(self, kind, body=None, tensors=None, settings=None):
        """The answer to that request with other numbers."""
        header, self.number = self.requests[kind], self.number + 1
        told = header.message
        changed = replace(
            told, body={**told.body, **(body or {})}, session="z", sequence=self.number,
            settings=told.settings if settings is None else settings,
        )  # fmt: skip
        data = encode(changed) + header.content if tensors is None else encode(replace(changed, tensors=tensors))
        answer = read_header(SEAL.open(self.silo.answer(SEAL.close(data)), "a")).message
        assert self.silo.failure is None
        return answer


@pytest.fixture(scope="module")
def asked(world):
    kinds = {"plain": PLAIN, "masked": MASKED, "noise": BY_USERS, "sketch": SKETCHED}
    return {name: Asked(world, settings) for name, settings in kinds.items()}


@pytest.mark.parametrize(
    ("world_name", "kind", "body"),
    [
        ("plain", "begin", {"base": HUGE}),
        ("plain", "begin", {"trainable": HUGE}),
        ("plain", "begin", {"base": sizes.MOST_CLIENTS + 1}),
        ("masked", "train", {"cohort": HUGE}),
        ("masked", "roster", {"clients": HUGE}),
        ("noise", "train", {"cohort": HUGE}),
        ("noise", "count holders", {"number": HUGE, "least": HUGE}),
        ("noise", "count holders", {"number": HUGE, "trainable": HUGE}),
        ("noise", "begin", {"base": HUGE}),
        ("sketch", "count sketch", {"size": 2**20}),
        ("sketch", "count sketch", {"size": HUGE}),
        ("sketch", "count sketch", {"size": 0}),
    ],
)
def test_a_number_that_cannot_be_is_refused(asked, world_name, kind, body):
    answer = asked[world_name].again(kind, body)
    assert answer.kind == "refused"
    assert "\n" not in answer.body["why"]
    assert asked[world_name].again(kind).kind != "none"  # the silo lives on


def test_counts_by_the_trillion_take_no_memory_and_none_below_0_are_taken(asked):
    own = copy.copy(asked["plain"])
    items = own.lead.catalogue.num_items + 1
    expected = {"popularity": (torch.int64, (items,))} | (sums.COUNTED if len(own.lead.state.begin) > 1 else {})
    told = own.requests["begin"].with_tensors(expected).tensors
    lie = {**told, "popularity": told["popularity"] - 1}
    assert "below 0" in own.again("begin", tensors=lie).body["why"]
    many = {**told, "popularity": torch.full((items,), HUGE)}
    assert own.again("begin", tensors=many).kind == "ready"
    assert own.again("evaluate").kind == "metrics"
    assert own.again("begin").kind == "ready"


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"hidden_dim": 2**30}},
        {"model": {"num_blocks": HUGE}},
        {"model": {"max_length": 2**30}},
        {"model": {"memory": {"size": 2**40}}},
        {"model": {"experts": "memory", "memory": {"num_prototypes": 2**40}}},
    ],
)
def test_terms_of_a_model_that_no_message_carries_are_refused(world, change):
    for kind in ("offer", "begin"):
        silo = silos_of(world, NAMES, **PLAIN, fusion="residual")["a"]
        lead = lead_of(world, {"a": silo}, **PLAIN, fusion="residual")
        if kind == "begin":
            lead.members.first()
        terms = terms_of(lead.given)
        for name, value in change["model"].items():
            own = terms["model"]
            own[name] = {**own[name], **value} if isinstance(value, dict) else value
        request = Message(
            kind, {"terms": terms, "modalities": lead.catalogue.modalities, "base": 0, "federation": "f",
            "trainable": 7}, lead.catalogue.to_tensors() if kind == "offer" else {}, session="z", sequence=99,
            settings=digest_of(terms, lead.catalogue.digest),
        )  # fmt: skip
        answer = read_header(SEAL.open(silo.answer(SEAL.close(encode(request))), "a")).message
        assert answer.kind == "refused"
        assert "a message" in answer.body["why"]
        assert silo.failure is None


def test_memory_that_runs_out_all_the_same_is_said_in_one_line(world, monkeypatch):
    silo = silos_of(world, NAMES, **PLAIN)["a"]
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes")):
        monkeypatch.setattr(silo, "_answer", lambda header, error=error: (_ for _ in ()).throw(error))
        answer = silo.answer(SEAL.close(encode(Message("hello", session="s", sequence=silo._sequences._last + 1))))
        assert "more memory" in read_header(SEAL.open(answer, "a")).message.body["why"]
    monkeypatch.setattr(silo, "_answer", lambda header: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        silo.answer(SEAL.close(encode(Message("hello", session="s", sequence=9))))


def test_pairs_are_counted_among_as_many_items_as_the_plan_may_have():
    sizes.require_head(1000)
    with pytest.raises(RefusedError, match="1000 are the most"):
        sizes.require_head(1001)


def test_a_silo_of_more_users_than_there_are_is_refused_by_the_server(world):
    for name in ("users", "trainable"):
        with pytest.raises(RefusedError, match="100000000"):
            _amounts(Message("introduction", {"users": 3, "trainable": 3, "events": 9, name: HUGE}))
    lead = lead_of(world, silos_of(world, NAMES, **PLAIN), **PLAIN)
    state = LeadState(ServerState({}, {}, 0), (), {}).joined("z", sizes.MOST_CLIENTS - 10, 10, 10)
    assert lead.members.introductions(NAMES, state).keys() == {"a"}
    refused = [own["node"] for own in lead.conversation.events.last if own["event"] == "refused"]
    assert refused == ["b", "c"]


def test_events_by_the_trillion_take_no_memory_of_the_server(world):
    config = silo_settings(world, "a", rounds=1)
    assert settled_terms(config, 160, 3, HUGE) == settled_terms(config, 160, 3, 3 * 10**6)


# What is on the disk is there after a crash of the machine


@pytest.mark.parametrize("what", [FILE, MASKS_FILE])
def test_the_folder_of_a_secret_is_synced_after_its_name_is_there(tmp_path, monkeypatch, what):
    seen, sync = [], os.fsync

    def watched(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            seen.append((tmp_path / what).exists())
        sync(descriptor)

    monkeypatch.setattr(hidden.os, "fsync", watched)
    if what == FILE:
        hidden_seed(tmp_path, new=True)
    else:
        SiloMasks("a", tmp_path).keys("one")
    assert seen == [True]


def test_popularity_of_all_clients_draws_what_their_histories_draw(world):
    """It was a history of every event before."""
    from fedmm.data.negatives import evaluation_negatives
    from fedmm.data.types import Ragged

    silo = silos_of(world, NAMES, **PLAIN)["a"]
    lead_of(world, {"a": silo}, **PLAIN).members.first()
    data = silo._offered.data
    popularity = np.arange(data.split.num_items + 1) % 7
    popularity[0] = 0
    everyone = Ragged(np.repeat(np.arange(len(popularity)), popularity), np.array([0, popularity.sum()]))
    queries = data.queries("validation", 3)
    found = evaluation_negatives(queries, data.split, "popularity100", 1, 20, popularity=popularity)
    expected = evaluation_negatives(queries, replace(data.split, train=everyone), "popularity100", 1, 20)
    assert np.array_equal(found, expected)
