"""Silos behind a post office, as Flower's SuperLink is one: who they are, who comes back, and what is lost."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from fedmm.deployment import greeting
from fedmm.deployment.flower_settings import SiloSettings, lead_settings, silo_settings, write_part
from fedmm.deployment.keys import make_node_keys, make_server_keys, node_identity, server_identity
from fedmm.deployment.mail import MailTransport
from fedmm.deployment.members import LeadOptions
from fedmm.deployment.messages import Message, RefusedError
from fedmm.deployment.seals import Checksums
from fedmm.deployment.sequences import Sequences
from fedmm.deployment.silo_data import read_silo
from fedmm.errors import ConfigError
from worlds.silo_world import catalogue, lead_of, silos_of, write_world
from worlds.silo_world import silo_settings as world_settings


@dataclass(eq=False)
class Office:
    """Nodes in this process. What ``lost`` names is delivered and never answered; ``fails`` is answered by nothing."""

    nodes: dict[int, Callable[[bytes], bytes]]
    lost: set[int] = field(default_factory=set)
    fails: set[int] = field(default_factory=set)
    kept: dict[str, bytes | None] = field(default_factory=dict)
    questions: list[int] = field(default_factory=list)
    sent: int = 0

    def there(self):
        return list(self.nodes)

    def send(self, letters, seconds):
        assert seconds > 0
        return [self._deliver(number, data) for number, data in letters]

    def _deliver(self, number, data):
        if number not in self.nodes:
            return None
        self.sent += 1
        if greeting.is_question(data):
            self.questions.append(number)
        elif number in self.lost:
            return f"letter-{self.sent}"
        self.kept[f"letter-{self.sent}"] = None if number in self.fails else self.nodes[number](data)
        return f"letter-{self.sent}"

    def fetch(self, letters):
        return [(own, self.kept.pop(own)) for own in list(letters) if own in self.kept]


def node(name, work=lambda data: data, seal=None):
    own = seal or Checksums()
    return lambda data: greeting.answer(data, name, own) if greeting.is_question(data) else work(data)


def transport(office, **more):
    found = MailTransport(office, poll=0.001, look=0.0, **more)
    found.nodes()  # asks
    return found


def test_each_node_is_asked_for_its_name_once():
    office = Office({7: node("b"), 3: node("a")})
    found = transport(office)
    assert [found.nodes() for _ in range(3)] == [["a", "b"]] * 3
    assert sorted(office.questions) == [3, 7]
    assert dict(found.exchange([("a", b"1"), ("b", b"2"), ("nobody", b"3")], 5.0)) == {"a": b"1", "b": b"2"}
    del office.nodes[7]
    assert found.nodes() == ["a"]
    assert [own["event"] for own in found.events.last] == ["connected", "connected", "left"]


def test_who_proves_no_name_is_nobody(tmp_path):
    make_server_keys(tmp_path, "127.0.0.1")
    for name in ("a", "b"):
        make_node_keys(tmp_path, name)
    (tmp_path / "a.pub").rename(tmp_path / "nodes" / "a.pub")
    friend, stranger = (node_identity(tmp_path, name).seal for name in ("a", "b"))
    recorded = node("a", seal=friend)(greeting.question("drawn before"))
    office = Office(
        {1: node("a", seal=friend), 2: node("b", seal=stranger), 3: node("a", seal=stranger), 4: node("a"),
         5: lambda _: recorded, 6: lambda _: b"nothing", 7: node("a", seal=friend)},
        fails={7},
    )  # fmt: skip
    found = transport(office, seal=server_identity(tmp_path).seal)
    assert found.nodes() == ["a"]
    assert dict(found.exchange([("a", b"1")], 5.0)) == {"a": b"1"}
    assert found.events.number["refused"] == 6
    assert sorted(office.questions) == [1, 2, 3, 4, 5, 6, 7]  # nobody is pestered


def test_who_comes_back_under_another_number_is_not_waited_for_under_the_old():
    office = Office({1: node("a"), 2: node("b")}, lost={2})
    found = transport(office)
    assert found.nodes() == ["a", "b"]
    answers = found.exchange([("a", b"1"), ("b", b"2")], 60.0)
    assert next(answers) == ("a", b"1")
    office.nodes[9] = node("b")  # the SuperLink does not know yet that node 2 is dead
    assert list(answers) == []
    assert dict(found.exchange([("b", b"3")], 5.0)) == {"b": b"3"}
    del office.nodes[2]
    assert found.nodes() == ["a", "b"]


def test_what_never_comes_is_not_waited_for():
    office = Office({1: node("a"), 2: node("b"), 3: node("c")})
    found = transport(office)
    assert found.nodes() == ["a", "b", "c"]
    office.fails.add(1)
    office.lost.add(2)
    answers = found.exchange([("a", b"1"), ("b", b"2"), ("c", b"3")], 60.0)
    assert next(answers) == ("c", b"3")
    del office.nodes[2]
    assert list(answers) == []


def settings_of(folder, name, **settings):
    return SiloSettings(name, world_settings(folder, name, **settings), folder / f"{name}.flower", Checksums())


def test_a_process_for_every_message_learns_what_one_process_learns(tmp_path):
    write_world(tmp_path, {"a": 3, "b": 4})
    settings = {"local_algorithm": "scaffold", "personal_gate": True, "rounds": 2, "protocols": ("full",)}
    good = lead_of(tmp_path, silos_of(tmp_path, ["a", "b"], **settings), **settings)
    good.begin()
    list(good.rounds())
    told = []
    silos = [settings_of(tmp_path, name, **settings) for name in "ab"]
    nodes = {place: lambda data, own=own: own.answer(data, told.append) for place, own in enumerate(silos)}
    lead = lead_of(tmp_path, transport(Office(nodes)), silos=2, **settings)
    lead.begin()
    list(lead.rounds())
    for name, value in good.state.server.params.items():
        torch.testing.assert_close(lead.state.server.params[name], value, rtol=1e-12, atol=1e-12)
    assert lead.finish().keys() == good.finish().keys()
    assert lead.conversation.events.number["refused"] == 0
    assert sum(own.startswith("read ") for own in told) == 2


def test_so_it_does_where_sums_are_masked(tmp_path):
    write_world(tmp_path, {"a": 3, "b": 4})
    chain = ("clip", "rotate", "round", "mask")
    settings = {"update_transforms": chain, "rounds": 1, "protocols": ("full",), "fusion": "backbone", "hidden_dim": 4}
    good = lead_of(tmp_path, silos_of(tmp_path, ["a", "b"], **settings), **settings)
    good.begin()
    list(good.rounds())
    silos = [settings_of(tmp_path, name, **settings) for name in "ab"]
    nodes = {place: lambda data, own=own: own.answer(data, lambda _: None) for place, own in enumerate(silos)}
    lead = lead_of(tmp_path, transport(Office(nodes)), silos=2, **settings)
    lead.begin()
    list(lead.rounds())
    for name, value in good.state.server.params.items():
        assert torch.equal(lead.state.server.params[name], value), name
    assert lead.conversation.events.number["refused"] == 0


def test_what_was_taken_is_not_taken_again_by_a_later_process(tmp_path):
    first = Sequences(tmp_path)
    first.take(Message("train", session="one", sequence=4))
    with pytest.raises(RefusedError, match="late, or repeated"):
        Sequences(tmp_path).take(Message("train", session="one", sequence=4))
    Sequences(tmp_path).take(Message("train", session="one", sequence=5))
    Sequences(tmp_path).take(Message("train", session="two", sequence=1))
    with pytest.raises(RefusedError, match="session that is over"):
        Sequences(tmp_path).take(Message("train", session="one", sequence=6))
    (tmp_path / "sequence.json").write_bytes(b"{")
    Sequences(tmp_path).take(Message("train", session="three", sequence=1))


def test_a_run_and_a_node_are_given_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDMM_CACHE", str(tmp_path / "cache"))
    text = "federation.rounds=7 'data.titles=a b.csv' runtime.threads=1"
    lead = lead_settings({"set": text, "silos": 3, "quorum": 1, "output": "", "keys": "", "catalogue": "x.csv"}, 12)
    assert (lead.config.federation.rounds, lead.options) == (7, LeadOptions(3, 1.0, 600.0))
    assert lead.config.runtime.output == tmp_path / "cache" / "flower" / "12" / "server"
    assert lead_settings({"set": text, "take-back": "north, south"}, 12).options.take_back == ("north", "south")
    assert (str(lead.catalogue), lead.keys) == ("x.csv", None)
    silo = silo_settings({"data": "north.csv", "set": text, "folder": str(tmp_path)}, 12)
    assert (silo.name, silo.folder, str(silo.config.data.path)) == ("north", tmp_path, "north.csv")
    parts = [silo_settings({"partition-id": place, "num-partitions": 11}, 12) for place in (0, 10)]
    assert [own.name for own in parts] == ["silo-00", "silo-10"]
    rows = [own.config.data.path.read_text().splitlines() for own in parts]
    users = [{row.split(",")[0] for row in own[1:]} for own in rows]
    assert len(users[0]) == 55
    assert len(users[1]) == 54
    assert not users[0] & users[1]
    assert write_part(parts[0].config.data.path, 1, 2).read_text().splitlines() == rows[0]  # what is there stays


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"silos": 0}, "silos is 0"),
        ({"silos": True}, "silos is True"),
        ({"quorum": 1.5}, "quorum is 1.5"),
        ({"min-users": 0}, "min-users is 0"),
        ({"deadline": "soon"}, "deadline is 'soon'"),
        ({"output": 3}, "output is 3, not a text"),
        ({"outptu": "x"}, "outptu"),
        ({"set": "'federation.rounds=3"}, "set cannot be read"),
        ({"set": "federation.rouns=3"}, "rouns"),
    ],
    ids=lambda own: str(own)[:20],
)
def test_what_flower_was_given_wrongly_is_named(given, named):
    with pytest.raises(ConfigError, match=named):
        lead_settings(given, 1)


@pytest.mark.parametrize(
    ("given", "named"), [({}, "data of its own"), ({"data": "a b.csv"}, "no name of a silo"), ({"dat": "x"}, "dat")]
)
def test_what_a_node_was_given_wrongly_is_named(given, named):
    with pytest.raises(ConfigError, match=named):
        silo_settings(given, 1)


def test_files_are_read_again_only_when_they_change(tmp_path):
    write_world(tmp_path, {"a": 3})
    config, items = world_settings(tmp_path, "a"), catalogue(tmp_path)
    first = read_silo(config, items, tmp_path / "kept")
    content = (tmp_path / "a.csv").read_bytes()
    about = (tmp_path / "a.csv").stat()
    (tmp_path / "a.csv").write_bytes(b"x" * len(content))  # as large and as old: it is not looked into
    os.utime(tmp_path / "a.csv", ns=(about.st_atime_ns, about.st_mtime_ns))
    again = read_silo(config, items, tmp_path / "kept")
    assert (again.user_ids.tolist(), again.notes) == (first.user_ids.tolist(), first.notes)
    for own, other in ((again.split.train, first.split.train), (again.queries("test", 0), first.queries("test", 0))):
        assert repr(own) == repr(other)
    assert np.array_equal(again.split.train.values, first.split.train.values)
    met = {row.split(",")[1] for row in content.decode().splitlines() if row.startswith("user-0000")}
    new = next(item for item in items.item_ids[1:].tolist() if item not in met)
    (tmp_path / "a.csv").write_bytes(content + f"user-0000,{new},1934567890\n".encode())
    assert len(read_silo(config, items, tmp_path / "kept").split.train.values) == len(first.split.train.values) + 1
    (next((tmp_path / "kept").rglob("*.safetensors"))).write_bytes(b"damaged")
    assert len(read_silo(config, items, tmp_path / "kept").split.train.values) == len(first.split.train.values) + 1
