"""Under a mask no silo stands alone, and no sum is opened twice but for the same silos and the same request."""

import math

import numpy as np
import pytest
import torch

from fedmm.deployment import masks as masks_module
from fedmm.deployment.astray import GoneError
from fedmm.deployment.hidden_rounds import chance_of_one
from fedmm.deployment.masks import Purpose
from fedmm.deployment.messages import RefusedError
from fedmm.deployment.promises import FILE, Promises
from fedmm.errors import CheckpointError, ConfigError
from worlds.lying_server import Between, hasty, shared
from worlds.masked_world import MASKED, NAMES, WHOLE, WORDS, led
from worlds.silo_world import lead_of, silos_of, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refusing")
    write_world(folder, {"a": 7, "b": 9, "c": 5})
    return folder


def params_of(lead):
    return {name: value.clone() for name, value in lead.state.server.params.items()}


def assert_equal(one, other):
    assert all(torch.equal(one[name], value) for name, value in other.items())


# Company under a mask


def test_a_round_in_which_one_silo_alone_has_clients_is_left_out(world):
    settings = {**MASKED, "cohort_size": 2, "rounds": 6}
    silos = {name: Between(own) for name, own in silos_of(world, NAMES, **settings).items()}
    lead, told = lead_of(world, silos, **settings), []
    lead.tell = told.append
    lead.begin()
    told.clear()
    left_out = 0
    for number in range(1, 7):
        cohort = lead._cohort(np.arange(21), number)
        having = {name for name, places in lead.state.by_silo(cohort).items() if len(places)}
        before = params_of(lead)
        report = lead.one_round()
        counted = {silo.name for silo in lead.state.silos if silo.counted == number}
        if len(having) > 1:
            assert (report.num_clients, counted) == (2, having)
            continue
        left_out += 1
        assert (report.num_clients, counted, report.update_norm) == (0, set(), 0.0)
        assert math.isnan(report.loss)
        assert_equal(lead.state.server.params, before)
        assert "client_fraction" in told[-1]
        assert report.validation is not None
    assert 0 < left_out < 6
    assert len(told) == left_out
    assert not any(own.refusals() for own in silos.values())


@pytest.mark.parametrize(
    ("settings", "remedy"), [({"cohort_size": 1}, "client_fraction"), ({"min_user_interactions": 9}, "Wait for more")]
)
def test_masks_that_could_hide_nothing_in_any_round_do_not_begin(tmp_path, settings, remedy):
    write_world(tmp_path, {"a": 5, "b": 1})
    asked = {**MASKED, **settings}
    lead = lead_of(tmp_path, silos_of(tmp_path, ["a", "b"], **asked), silos=2, min_users=1, **asked)
    if "cohort_size" not in settings:
        lead.members.introductions = lambda nodes, state=None: {
            "a": {"users": 5, "trainable": 5, "events": 30}, "b": {"users": 1, "trainable": 0, "events": 1}
        }  # fmt: skip
    with pytest.raises(ConfigError, match=remedy):
        lead.begin()


def test_a_silo_masks_no_sum_without_clients(world):
    """A server that counts on it to hide the one that has some finds nobody to open the sum with."""
    silos = silos_of(world, NAMES, **MASKED)
    lead = led(world, silos, **MASKED)
    lead.__dict__["_cohort"] = lambda everyone, number: np.array([0, 1, 8])  # of a and b
    own = lead.state.by_silo(np.array([0, 1]))
    lead.__dict__["_chosen"] = lambda number: {"a": own["a"], "b": own["b"]}
    between = {name: Between(silo) for name, silo in silos.items()}
    lead.conversation.transport.silos.update({name: one.answer for name, one in between.items()})
    hasty(lead)
    tries = []

    def enough_of_it():
        tries.append(1)
        raise KeyboardInterrupt

    lead.members.pause = enough_of_it
    with pytest.raises(KeyboardInterrupt):
        lead.one_round()
    assert tries
    assert any("not among the 9" in why for why in between["b"].refusals())
    assert "opening" not in {message.kind for message in between["a"].heard}


@pytest.mark.parametrize(("clients", "opens"), [((3, 0, 0), False), ((3, 1, 0), True), ((1, 1, 1), True)])
def test_a_silo_opens_no_sum_in_which_it_alone_has_clients(clients, opens):
    own, shares = shared(NAMES, clients)
    own["a"].masked("one", Purpose("sum", "asked", clients[0]), shares["a"], WORDS)
    if opens:
        assert own["a"].opening("one", NAMES).keys() == set(NAMES)
    else:
        with pytest.raises(RefusedError, match="one silo alone has clients"):
            own["a"].opening("one", NAMES)
    for name, number in zip(NAMES[1:], clients[1:], strict=True):
        if not number:
            with pytest.raises(RefusedError, match="without clients"):
                own[name].masked("one", Purpose("sum", "asked", 0), shares[name], WORDS)
    with pytest.raises(RefusedError, match="spoken of"):
        own["b"].masked("one", Purpose("sum", "asked", clients[1] + 1), shares["b"], WORDS)


def test_a_private_cohort_says_nothing_of_who_was_drawn(world):
    """Its silos take part with or without clients, and the server says how often one has them alone."""
    settings = {"epsilon": 8.0, "protocols": ("full",), "rounds": 1, "update_transforms": (*WHOLE, "mask", "noise")}
    silos = silos_of(world, NAMES, **settings)
    lead, told = lead_of(world, silos, **settings), []
    lead.tell = told.append
    lead.begin()
    assert sum("one silo alone has clients" in line for line in told) == 1
    lead.__dict__["_cohort"] = lambda everyone, number: everyone[:3]  # of a
    lead.one_round()
    assert {silo.counted for silo in lead.state.silos} == {1}
    assert {masks_module._numbers(own._masks._kept["share"]) for own in silos.values()} == {(1, 0)}


@pytest.mark.parametrize("fixed", [True, False])
def test_the_chance_of_one_silo_alone_is_what_draws_show(fixed):
    silos, size = [5, 3, 1], 3
    stream = np.random.default_rng(2)
    owner = np.repeat(np.arange(3), silos)
    found = 0
    for _ in range(20_000):
        drawn = stream.permutation(9)[:size] if fixed else np.flatnonzero(stream.random(9) < size / 9)
        found += len(set(owner[drawn].tolist())) == 1
    assert chance_of_one(silos, size, fixed=fixed) == pytest.approx(found / 20_000, abs=0.012)


# One opening of one sum


def opened(name, purposes, attempt, folder, names=NAMES):
    """Silo ``name`` as a new process: it masks and opens a sum of ``names`` for each of the purposes."""
    own, shares = shared(names, [1] * len(names), attempt, folder)
    silo = own[name]
    silo.masked(attempt, purposes, shares[name], WORDS)
    return silo.opening(attempt, names)


def test_a_sum_is_opened_for_one_list_of_silos_and_one_request_whatever_happens(tmp_path):
    first, other = Purpose("round 1", "asked", 1), Purpose("round 1", "changed", 1)
    opened("a", first, "one", tmp_path)
    opened("a", first, "two", tmp_path)  # the same again: it differs by nobody's
    for attempt, purpose, names in (("x", first, ["a", "b"]), ("y", other, NAMES), ("z", first, [*NAMES, "d"])):
        with pytest.raises(RefusedError, match="other silos or another request"):
            opened("a", purpose, attempt, tmp_path, names)
    opened("a", Purpose("round 2", "asked", 1), "four", tmp_path, ["a", "b"])
    opened("b", first, "five", tmp_path / "elsewhere", ["a", "b"])


def again_under_another_name(folder, silos, names, **settings):
    """A server that makes the same offer anew to some silos, under a name of its choice, and leads one round."""
    lead = hasty(lead_of(folder, {name: silos[name] for name in names}, silos=len(names), **settings))
    heard = {name: Between(silos[name]) for name in names}
    lead.conversation.transport.silos.update({name: one.answer for name, one in heard.items()})
    return lead, heard


def test_the_same_offer_under_another_name_opens_no_round_over_other_silos(world):
    silos = silos_of(world, NAMES, **MASKED)
    first = led(world, silos, **MASKED)
    first.one_round()
    second, heard = again_under_another_name(world, silos, ["a", "b"], **MASKED)
    assert second.begin().name != first.state.name
    assert second.one_round().num_clients == 0
    assert any("other silos or another request" in why for why in heard["a"].refusals())
    assert "opening" not in {message.kind for message in heard["a"].heard}
    more = {**MASKED, "rounds": 3}  # of which there may be more
    third, heard = again_under_another_name(world, silos, ["a", "b"], **more)
    third.begin()
    assert third.one_round().num_clients == 0
    assert any("other silos or another request" in why for why in heard["b"].refusals())


def test_the_same_offer_over_the_same_silos_is_led_again(world):
    silos = silos_of(world, NAMES, **MASKED)
    ends = []
    for _ in range(2):
        lead = led(world, silos, **MASKED)
        lead.one_round()
        ends.append(params_of(lead))
    assert_equal(*ends)


@pytest.mark.parametrize("more", [{}, {"rounds": 7}, {"learning_rate": 0.011}])
def test_counts_that_no_noise_covers_are_opened_for_one_list_of_silos_ever(world, more):
    """They are the same numbers under whatever settings they are asked for."""
    settings = {**MASKED, "protocols": ("full", "popularity100")}
    silos = silos_of(world, NAMES, **settings)
    lead_of(world, silos, **settings).begin()
    second, heard = again_under_another_name(world, silos, ["a", "b"], **{**settings, **more})
    with pytest.raises(GoneError, match="start"):
        second.begin()
    assert any("other silos or another request" in why for why in heard["a"].refusals())
    assert "opening" not in {message.kind for message in heard["a"].heard}
    third = lead_of(world, silos, **{**settings, **more})
    assert [own.name for own in third.begin().silos] == NAMES


def test_what_was_masked_and_not_opened_may_be_begun_over_others(tmp_path):
    purpose = Purpose("round 1", "asked", 1)
    own, shares = shared(NAMES, (1, 1, 1), "one", tmp_path)
    own["a"].masked("one", purpose, shares["a"], WORDS)
    with pytest.raises(RefusedError, match="1 silos sent"):
        own["a"].opening("one", ["a"])
    opened("a", purpose, "two", tmp_path, ["a", "b"])


def test_promises_outlive_a_kill_at_any_byte(tmp_path):
    one = Promises(tmp_path)
    one.hold("first", "x")
    one.hold("second", "y")
    one.hold("second", "y")
    content = (tmp_path / FILE).read_bytes()
    assert content == b"x\tfirst\ny\tsecond\n"
    for length in range(len(content) + 1):
        (tmp_path / FILE).write_bytes(content[:length])
        again = Promises(tmp_path)
        whole = content[:length].count(b"\n")
        again.hold("third", "z")
        assert list(Promises(tmp_path)._held) == [*["first", "second"][:whole], "third"]
        for name in ["first", "second"][:whole]:
            with pytest.raises(RefusedError):
                again.require(name, "z")
    (tmp_path / FILE).write_bytes(b"nonsense\nx\tfirst\n")
    with pytest.raises(CheckpointError, match="was changed"):
        Promises(tmp_path)


def killed(*about):
    raise KeyboardInterrupt


def test_a_server_killed_after_opening_opens_the_same_sum_without_who_left(world, tmp_path):
    expected = led(world, **MASKED)
    expected.one_round()
    silos = silos_of(world, NAMES, **MASKED)
    first = led(world, silos, tmp_path, **MASKED)
    first.__dict__["_step"] = killed
    with pytest.raises(KeyboardInterrupt):
        first.one_round()
    rest = {name: silos[name] for name in ("a", "b")}
    second = lead_of(world, rest, kept=tmp_path, quorum=0.3, silos=2, **MASKED)
    second.begin()
    report = second.one_round()
    assert report.num_clients == expected._cohort(np.arange(21), 1).size
    assert [silo.counted for silo in second.state.silos] == [1, 1, 1]
    assert_equal(second.state.server.params, expected.state.server.params)


def test_a_sum_that_cannot_be_opened_again_is_left_out_and_the_next_round_is_led(world, tmp_path):
    """The server lost what it was to open, and one silo is gone for good: the others open no other sum of the round."""
    silos = silos_of(world, NAMES, **MASKED)
    first = led(world, silos, tmp_path, **MASKED)
    before = params_of(first)
    first.__dict__["_step"] = killed
    with pytest.raises(KeyboardInterrupt):
        first.one_round()
    (tmp_path / "masked" / "state.json").unlink()
    rest = {name: Between(silos[name]) for name in ("a", "b")}
    second = hasty(lead_of(world, rest, kept=tmp_path, quorum=0.3, silos=2, **MASKED))
    second.begin()
    assert second.one_round().num_clients == 0
    assert_equal(second.state.server.params, before)
    assert any("other silos or another request" in why for why in rest["a"].refusals())
    assert "opening" not in {message.kind for message in rest["a"].heard}
    assert second.one_round().num_clients > 0
