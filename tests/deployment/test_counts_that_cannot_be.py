"""Counts of the start that a silo of so many users and events cannot have are refused: they would end it for all."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmm.data.splits import make_split
from fedmm.data.types import Dataset, Interactions, Ragged
from fedmm.deployment import messages, noisy_start, sums
from fedmm.deployment.messages import RefusedError, encode, read_header
from fedmm.deployment.start_sums import WEIGHT, require_possible
from worlds.lying_server import SEAL
from worlds.silo_world import lead_of, silo_settings, silos_of, write_world

ITEMS = 12
PLAIN = {"rounds": 1, "hidden_dim": 4, "local_steps": 1, "protocols": ("full",), "spectral_start": False}


def split_of(seed):
    stream = np.random.default_rng(seed)
    lengths = stream.integers(3, 40, size=6)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = stream.integers(1, ITEMS + 1, size=offsets[-1])
    ids = np.array(["", *(f"i{place}" for place in range(ITEMS))])
    whole = Interactions(np.array([f"u{place}" for place in range(6)]), ids, Ragged(values, offsets), None)
    return whole, ids


@pytest.mark.parametrize("seed", range(5))
def test_what_a_silo_counts_is_let_through(seed, tmp_path):
    (tmp_path / "all.csv").touch()
    whole, ids = split_of(seed)
    split = make_split(Dataset("silo", whole, {}, ids, ""), silo_settings(tmp_path).data)
    users, events = len(split.train), int(split.train.lengths.sum())
    degrees = sums.degrees_of(split)
    told = [
        sums.counted(split),
        {"popularity": torch.from_numpy(sums.popularity_of(split))},
        {"degrees": torch.from_numpy(degrees)},
        {"sketch": torch.from_numpy(sums.sketched(split, degrees, 4, seed))},
        {"sum": noisy_start.silo_holders(split.train, ITEMS, whole=False)},
        {"sum": noisy_start.silo_pairs(split.train, ITEMS, np.arange(1, ITEMS + 1), whole=False)},
    ]
    for own in told:
        require_possible(own, ITEMS, users, events)
        name = "counts" if "counts" in own else next(iter(own))
        for lie in (torch.full_like(own[name], 1e300 if own[name].is_floating_point() else 2**62), -own[name] - 1):
            if name != "sketch" or bool((lie > 1e9).all()):
                with pytest.raises(RefusedError):
                    require_possible({**own, name: lie}, ITEMS, users, events)
    require_possible({"sum": torch.full((3,), -5.0)}, ITEMS, users, events, noisy=True)
    require_possible({"sum": torch.zeros(0)}, ITEMS, users, events)
    assert 4.5 < WEIGHT < 5.5


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [({"protocols": ("full", "popularity100")}, "popularity", 2**63 - 1), ({"succession": 2.0}, "counts", 1e308)],
)
def test_one_that_lies_in_the_start_does_not_end_it(tmp_path, settings, name, value):
    """Sums that overflow were told to all silos, who refused to begin by them, or ended the server."""
    write_world(tmp_path, {"a": 7, "b": 9, "c": 5})
    settings = {**PLAIN, **settings}
    silos = silos_of(tmp_path, ["a", "b", "c"], **settings)
    good = silos["b"].answer

    def answer(data):
        sealed = good(data)
        header = read_header(SEAL.open(sealed, "b"))
        if header.message.kind != "sums" or read_header(SEAL.open(data, "server")).message.kind != "count":
            return sealed
        kinds = {n: (messages._TYPES[kind], shape) for n, (kind, shape) in messages._described(header.content).items()}
        found = header.with_tensors(kinds)
        lie = {**found.tensors, name: torch.full_like(found.tensors[name], value)}
        return SEAL.close(encode(replace(found, tensors=lie)))

    silos["b"].answer = answer
    lead = lead_of(tmp_path, silos, silos=2, **settings)
    assert [own.name for own in lead.begin().silos] == ["a", "c"]
    assert lead.members.named.keys() == {"b"}
    assert lead.one_round().num_clients > 0
