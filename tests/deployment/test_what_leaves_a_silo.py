"""Every byte that a silo sends is read: no id, no moment and no history is among them."""

import struct

import numpy as np

from fedmm.data.types import IntArray
from fedmm.deployment.catalogue import catalogue_of
from fedmm.deployment.silo_data import read_silo
from worlds.silo_world import FIRST_TIME, lead_of, rows_of, silo_settings, silos_of, write_world


class Tapped:
    """A silo whose answers are kept."""

    def __init__(self, silo):
        self.silo, self.sent = silo, []

    def answer(self, data):
        answer = self.silo.answer(data)
        self.sent.append(answer)
        return answer


def stretches(values: IntArray, kind: str, length: int = 5):
    """Bytes of each stretch of consecutive values as little-endian numbers of a kind. Those that fall once are
    left out: the columns of a sum of counts, row after row, are such."""
    found = [values[at : at + length] for at in range(len(values) - length + 1)]
    return [struct.pack(f"<{length}{kind}", *own) for own in found if (np.diff(own) <= 0).sum() > 1]


def test_no_id_no_moment_and_no_history_leaves_a_silo(tmp_path):
    parts = {"a": 6, "b": 6}
    write_world(tmp_path, parts)
    settings = {"local_algorithm": "scaffold", "personal_gate": True, "user_vector": True, "succession": 2.0}
    tapped = {name: Tapped(own) for name, own in silos_of(tmp_path, list(parts), **settings).items()}
    lead = lead_of(tmp_path, tapped, rounds=2, **settings)
    lead.begin()
    list(lead.rounds())
    lead.finish()
    rows = rows_of(sum(parts.values()))
    catalogue = catalogue_of(silo_settings(tmp_path))
    for name, tap in tapped.items():
        sent = b"".join(tap.sent)
        assert len(tap.sent) > 8
        assert len(sent) > 50_000
        data = read_silo(silo_settings(tmp_path, name), catalogue)
        forbidden = {text.encode() for user, item, _ in rows for text in (user, item)}
        forbidden |= {user.encode() for user in data.user_ids.tolist()} | {f"{name}.csv".encode()}
        for _, _, time in rows:
            forbidden |= {str(time).encode(), struct.pack("<q", time), struct.pack("<i", time), struct.pack("<d", time)}
        for queries in (data.queries("validation", 0), data.queries("test", 0)):
            for history, target in zip(queries.histories, queries.targets, strict=True):
                whole = np.append(history, target)
                for kind in "qihd":
                    forbidden |= set(stretches(whole, kind))
        assert struct.pack("<q", FIRST_TIME) in forbidden
        assert len(forbidden) > 200
        assert not [found for found in forbidden if found in sent]


def test_the_reader_of_bytes_would_find_them(tmp_path):
    write_world(tmp_path, {"a": 6})
    data = read_silo(silo_settings(tmp_path, "a"), catalogue_of(silo_settings(tmp_path)))
    history = max(data.split.train, key=len)
    assert stretches(history, "i")
    assert all(found in history.astype("<i4").tobytes() for found in stretches(history, "i"))
