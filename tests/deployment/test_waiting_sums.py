"""A masked sum that waits to be opened is opened by whoever leads on, whoever has come since."""

import json
import time

import pytest
import torch

from fedmm.deployment.astray import GoneError
from fedmm.deployment.hidden_sum import HiddenSum
from fedmm.runs.checkpoint import META_FILE
from worlds.lying_server import hasty
from worlds.masked_world import BY_USERS, MASKED, NAMES
from worlds.silo_world import lead_of, silos_of, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("waiting")
    write_world(folder, {"a": 7, "b": 9, "c": 5, "d": 6})
    return folder


class Killed(BaseException):
    pass


@pytest.mark.parametrize("when", ["while it waits", "before the server leads on"])
def test_who_joins_a_round_that_waits_to_be_opened_does_not_keep_it_shut(world, tmp_path, when):
    calm = lead_of(world, silos_of(world, NAMES, **MASKED), **MASKED)
    calm.begin()
    calm.one_round()
    silos = silos_of(world, [*NAMES, "d"], **MASKED)
    there = {name: silos[name] for name in NAMES}
    first = lead_of(world, there, kept=tmp_path, **MASKED)
    first.begin()
    opened = first._masked._opened
    there = first.conversation.transport.silos

    def shut(hidden):  # silos answer, and the server is killed before it hears of it
        opened(hidden)
        if when == "while it waits":
            there["d"] = silos["d"].answer
            first._welcome()
            first._welcome()
        raise Killed

    first._masked.__dict__["_opened"] = shut
    with pytest.raises(Killed):
        first.one_round()
    second = lead_of(world, silos, kept=tmp_path, silos=3, **MASKED)
    second.begin()
    report = second.one_round()
    assert report.num_clients > 0
    assert [own.name for own in second.state.silos] == NAMES
    for name, value in calm.state.server.params.items():
        assert torch.equal(second.state.server.params[name], value), name
    assert second.conversation.events.number["round left out"] == 0
    second.one_round()
    assert [own.name for own in second.state.silos] == [*NAMES, "d"]


def test_a_start_that_was_to_be_opened_is_over_the_silos_of_then(world, tmp_path):
    """Who came since joins once it has begun: the others open their counts over no other silos."""
    settings = {**MASKED, "protocols": ("full", "popularity100")}
    silos = silos_of(world, [*NAMES, "d"], **settings)
    first = lead_of(world, {name: silos[name] for name in NAMES}, kept=tmp_path, **settings)
    opened = first._masked._opened

    def shut(hidden):
        opened(hidden)
        raise Killed

    first._masked.__dict__["_opened"] = shut
    with pytest.raises(Killed):
        first.begin()
    rest, told = {name: silos[name] for name in ("a", "b", "d")}, []
    without = hasty(lead_of(world, rest, kept=tmp_path, silos=2, **settings), 0.3)
    without.tell = told.append
    with pytest.raises(GoneError, match="of its silos c did not come back"):
        without.begin()
    assert "the start was to be opened, of c too: waiting for them" in told
    second = lead_of(world, silos, kept=tmp_path, silos=3, **settings)
    assert [own.name for own in second.begin().silos] == NAMES
    second.one_round()
    assert [own.name for own in second.state.silos] == [*NAMES, "d"]


@pytest.mark.parametrize("part", ["asked", "near", "public"])
def test_a_sum_that_lacks_a_part_is_none(world, tmp_path, part):
    lead = lead_of(world, silos_of(world, NAMES, **MASKED), kept=tmp_path, **MASKED)
    lead.begin()
    lead.one_round()
    assert lead._masked.round_to_open == 1
    path = tmp_path / "masked" / META_FILE
    found = json.loads(path.read_bytes())
    del found["meta"][part]
    path.write_text(json.dumps(found))
    assert lead._masked.round_to_open == 0
    assert HiddenSum.load(tmp_path, "any") is None


def test_a_sum_that_silos_have_left_for_the_next_is_begun_anew(world, tmp_path):
    """The server was killed while they gave their parts of the start's second sum, with the first one on its disk."""
    silos = silos_of(world, NAMES, **BY_USERS)
    first = lead_of(world, silos, kept=tmp_path, **BY_USERS)
    hidden, sums = first._masked._hidden, []

    def shut(*given):
        sums.append(hidden(*given))
        if len(sums) == 2:
            raise Killed
        return sums[-1]

    first._masked.__dict__["_hidden"] = shut
    with pytest.raises(Killed):
        first.begin()
    second = lead_of(world, silos, kept=tmp_path, silos=3, **BY_USERS)
    began = time.monotonic()
    assert [own.name for own in second.begin().silos] == NAMES
    assert time.monotonic() - began < second.options.deadline / 2
    assert second.one_round().num_clients > 0
