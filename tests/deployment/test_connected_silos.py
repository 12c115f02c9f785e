"""Silos that connect: over TLS with keys, from processes that are killed, and from those that may not."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import torch

from fedmm.deployment.events import Events
from fedmm.deployment.frames import receive_frame, send_frame
from fedmm.deployment.join import UnreachableError, Where, join
from fedmm.deployment.keys import make_node_keys, make_server_keys, node_identity, server_identity
from fedmm.deployment.messages import RefusedError
from fedmm.deployment.seals import Checksums
from fedmm.deployment.sockets import SocketTransport, connect
from fedmm.errors import ConfigError
from fedmm.runs.checkpoint import load_checkpoint
from worlds.silo_world import lead_of, silos_of, write_world

SETTINGS = {"spectral_start": False, "protocols": ("full",), "fusion": "backbone", "hidden_dim": 4, "rounds": 2}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Keys of a server and of two silos that it knows, and of one that it does not."""
    folder = tmp_path_factory.mktemp("keys")
    make_server_keys(folder, "127.0.0.1")
    for name in ("a", "b", "stranger"):
        make_node_keys(folder, name)
    for name in ("a", "b"):
        (folder / f"{name}.pub").rename(folder / "nodes" / f"{name}.pub")
    return folder


@contextmanager
def listening(keys):
    identity = server_identity(keys)
    with SocketTransport("127.0.0.1", 0, identity.seal, identity.tls, Events()) as transport:
        yield transport


def refused(transport):
    for _ in range(200):
        found = [own["why"] for own in transport.events.last if own["event"] == "refused"]
        if found:
            return found
        time.sleep(0.02)
    return []


def test_silos_over_tls_learn_what_silos_in_one_process_learn(tmp_path, keys):
    write_world(tmp_path, {"a": 3, "b": 3})
    good = lead_of(tmp_path, silos_of(tmp_path, ["a", "b"], **SETTINGS), **SETTINGS)
    good.begin()
    list(good.rounds())
    silos = silos_of(tmp_path, ["a", "b"], **SETTINGS)
    with listening(keys) as transport:
        threads = []
        for name, silo in silos.items():
            own = node_identity(keys, name)
            silo.seal = own.seal
            where = Where("127.0.0.1", transport.port, own.tls)
            threads.append(threading.Thread(target=join, args=(silo, where, lambda _: None), daemon=True))
            threads[-1].start()
        lead = lead_of(tmp_path, transport, silos=2, **SETTINGS)
        lead.conversation.seal = transport.seal
        lead.begin()
        list(lead.rounds())
        lead.finish()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    for name, value in good.state.server.params.items():
        assert torch.equal(lead.state.server.params[name], value), name
    assert lead.conversation.events.number["refused"] == 0


def test_a_stranger_a_liar_and_one_without_keys_are_not_let_in(keys):
    with listening(keys) as transport:
        stranger, friend = node_identity(keys, "stranger"), node_identity(keys, "a")
        for node, identity, tls in [
            ("stranger", stranger.seal, stranger.tls),  # a key that the server does not know
            ("b", friend.seal, friend.tls),  # the name of another silo
            ("a", Checksums(), friend.tls),  # no key at all
        ]:
            with pytest.raises(RefusedError, match="did not let"):
                connect("127.0.0.1", transport.port, node, identity, tls)
        assert transport.nodes() == []
        assert len(refused(transport)) >= 2


def test_a_wrong_certificate_is_named_in_one_line(tmp_path, keys):
    make_server_keys(tmp_path / "other", "127.0.0.1")
    make_node_keys(tmp_path / "other", "a")
    own = node_identity(tmp_path / "other", "a")
    with listening(keys) as transport:
        where = Where("127.0.0.1", transport.port, own.tls)
        silo = type("Nobody", (), {"finished": False, "name": "a", "seal": own.seal})()
        with pytest.raises(UnreachableError, match="certificate that is not the known one"):
            join(silo, where, lambda _: None)


def test_a_recorded_greeting_opens_nothing(keys):
    own = node_identity(keys, "a")

    def connected(port):
        return own.tls.wrap_socket(socket.create_connection(("127.0.0.1", port), 5), server_hostname="127.0.0.1")

    with listening(keys) as transport:
        with connected(transport.port) as stream:
            drawn = json.loads(receive_frame(stream))["drawn"]
            recorded = own.seal.close(json.dumps({"node": "a", "drawn": drawn}).encode())
            send_frame(stream, recorded)
            assert receive_frame(stream) == b"welcome"
        with connected(transport.port) as stream:
            receive_frame(stream)
            send_frame(stream, recorded)
            assert receive_frame(stream) == b"refused"
        assert any("not made for this connection" in why for why in refused(transport))


def test_who_sends_too_much_is_cut_off():
    with SocketTransport("127.0.0.1", 0, Checksums()) as transport:
        with connect("127.0.0.1", transport.port, "a", Checksums(), None) as stream:
            stream.sendall((2**50).to_bytes(8, "little"))
            assert stream.recv(1) == b""
        assert any("larger than" in why for why in refused(transport))


def test_keys_are_secret_and_made_once(tmp_path, keys):
    assert {path.stat().st_mode & 0o777 for path in keys.glob("*.key")} == {0o600}
    with pytest.raises(ConfigError, match="there already"):
        make_server_keys(keys, "127.0.0.1")
    with pytest.raises(ConfigError, match="cannot be read"):
        node_identity(tmp_path, "a")


def command(*words):
    return [sys.executable, "-m", "fedmm_cli", "federation", *map(str, words)]


class Party:
    """A server and its silos, each a process."""

    def __init__(self, folder, output, *more):
        self.folder, self.output, self.running = folder, output, {}
        self.more = more or ("--set", "federation.local_algorithm=scaffold")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def __enter__(self):
        return self

    def __exit__(self, *about):
        for process in self.running.values():
            if process.poll() is None:
                process.kill()
            for stream in (process.stdout, process.stderr):
                stream.close()
            process.wait()

    def start(self, name):
        if name == "lead":
            words = command(
                "lead", "--data", "all.csv", "--text-features", "text.npz", "--silos", 3, "--quorum", 1.0, "--port",
                self.port, "--output", self.output, "--rounds", 6, "--hidden-dim", 8, "--num-blocks", 1,
                "--no-tracking", "--threads", 1, "--eval", "full", "--set", "runtime.dtype=float64",
                "--set", "model.personal_gate=true", "--set", "federation.client_fraction=1.0", "--json", *self.more,
            )  # fmt: skip
        else:
            kept = self.output.with_name(f"{self.output.name}-{name}")
            words = command(
                "join", "--data", f"{name}.csv", "--server", f"127.0.0.1:{self.port}", "--folder", kept,
                "--threads", 1, "--quiet",
            )  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.running[name] = subprocess.Popen(
            words, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def kill(self, name):
        self.running[name].kill()
        self.running[name].communicate()

    def wait_for(self, number):
        for _ in range(1200):
            path = self.output / "events.jsonl"
            done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            if any(own["event"] == "round" and own["round"] >= number for own in done):
                return
            time.sleep(0.05)
        raise AssertionError("no round ended")

    def finish(self):
        for name, process in self.running.items():
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, (name, err)
            if name == "lead":
                result = json.loads(out)
        return result, load_checkpoint(self.output / "checkpoints", "last")[0]


@pytest.mark.slow
def test_processes_that_are_killed_learn_what_others_learn(tmp_path):
    write_world(tmp_path, {"a": 7, "b": 9, "c": 5})
    with Party(tmp_path, tmp_path / "calm") as calm:
        for name in ("lead", "a", "b", "c"):
            calm.start(name)
        told, expected = calm.finish()
    with Party(tmp_path, tmp_path / "rough") as rough:
        for name in ("lead", "a", "b", "c"):
            rough.start(name)
        rough.wait_for(1)
        rough.kill("b")
        rough.start("b")
        rough.wait_for(3)
        rough.kill("lead")
        rough.start("lead")
        rough.wait_for(4)
        rough.kill("a")
        rough.kill("lead")
        rough.start("a")
        rough.start("lead")
        result, found = rough.finish()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert result["metrics"] == told["metrics"]
    for name in "abc":
        kept = [load_checkpoint(tmp_path / f"{party}-{name}" / "states")[0] for party in ("calm", "rough")]
        assert kept[0].keys() == kept[1].keys()
        assert all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])


MASKED = ("--set", "federation.update_transforms=clip,rotate,round,mask")
PRIVATE = ("--epsilon", 8, "--set", "federation.update_transforms=clip,rotate,round,noise,mask")


@pytest.mark.slow
@pytest.mark.parametrize("more", [MASKED, PRIVATE], ids=["masked", "private and masked"])
def test_a_masked_sum_whose_server_and_silo_are_killed_is_made_again(tmp_path, more):
    write_world(tmp_path, {"a": 7, "b": 9, "c": 5})
    for name in ("calm", "rough"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "hidden.key").write_text("17" * 32)  # of the noise, which is drawn where there is none
    with Party(tmp_path, tmp_path / "calm", *more) as calm:
        for name in ("lead", "a", "b", "c"):
            calm.start(name)
        told, expected = calm.finish()
    with Party(tmp_path, tmp_path / "rough", *more) as rough:
        for name in ("lead", "a", "b", "c"):
            rough.start(name)
        for number, killed in ((1, ["lead"]), (2, ["a"]), (3, ["lead", "b"])):
            rough.wait_for(number)
            wait_for_a_sum(tmp_path / "rough-a" / "masks.json")
            for name in killed:
                rough.kill(name)
            for name in killed:
                rough.start(name)
        result, found = rough.finish()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert result["metrics"] == told["metrics"]
    assert result["privacy"] == told["privacy"]


def wait_for_a_sum(path):
    """Until a silo has told its neighbours and not opened the sum."""
    for _ in range(2000):
        kept = json.loads(path.read_text())
        if "roster" in kept and "sent" not in kept:
            return
        time.sleep(0.005)
    raise AssertionError("no masked sum was under way")


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_says_how_to_go_on(tmp_path):
    write_world(tmp_path, {"a": 7, "b": 9, "c": 5})
    with Party(tmp_path, tmp_path / "stopped") as party:
        for name in ("lead", "a", "b"):
            party.start(name)
        for _ in range(400):
            if (tmp_path / "stopped-a" / "lock").exists() and (tmp_path / "stopped" / "settings.toml").exists():
                break
            time.sleep(0.05)
        for name in ("a", "lead", "b"):
            process = party.running[name]
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
            assert process.returncode == 130, err
            assert "Traceback" not in err
            assert "Go on with the same command" in out + err or name != "lead"
