"""A silo counts what the agreed settings have a use for, and nothing else that it is asked for."""

from contextlib import nullcontext

import pytest

from fedmm.deployment.counting import require_agreed
from fedmm.deployment.messages import Message, RefusedError, encode, read_header
from worlds.lying_server import SEAL
from worlds.silo_world import lead_of, silo_settings, silos_of, write_world

NOTHING = {"spectral_start": False, "protocols": ("full",), "succession": 0.0, "hidden_dim": 4, "rounds": 1}
SKETCHED = {"spectral_start": True, "spectral_sketch_size": 8}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, set()),
        ({"protocols": ("full", "popularity100")}, {"popularity"}),
        ({"spectral_start": True}, {"counts"}),
        ({"succession": 2.0}, {"counts"}),
        ({"succession": None}, {"counts"}),  # the data settle it
        ({"succession": 2.0, "fusion": "backbone"}, set()),
        ({"succession": None, "fusion": "backbone"}, set()),
        ({"transition": True}, {"counts"}),
        (SKETCHED, {"degrees", "sketch"}),
        ({**SKETCHED, "succession": None}, {"degrees", "sketch"}),
    ],
)
def test_what_is_counted_is_what_the_settings_use(tmp_path, settings, wanted):
    (tmp_path / "all.csv").touch()
    config = silo_settings(tmp_path, **{**NOTHING, **settings})
    for what in ("popularity", "counts", "degrees", "sketch"):
        with nullcontext() if what in wanted else pytest.raises(RefusedError, match="no use for"):
            require_agreed(config, what)
    with pytest.raises(RefusedError, match="does not count"):
        require_agreed(config, "users")


@pytest.mark.parametrize("masked", [False, True])
def test_a_server_gets_no_counts_that_were_not_offered(tmp_path, masked):
    write_world(tmp_path, {"a": 5, "b": 6})
    settings = {**NOTHING, "fusion": "backbone"}
    settings |= {"update_transforms": ("clip", "rotate", "round", "mask")} if masked else {}
    silos = silos_of(tmp_path, ["a", "b"], **settings)
    lead = lead_of(tmp_path, silos, **settings)
    lead.begin()
    for number, what in enumerate(("counts", "popularity", "degrees", "sketch"), 10**6):
        asked = Message("count", {"what": what}, session=lead.conversation.session, sequence=number)
        answer = read_header(SEAL.open(silos["a"].answer(SEAL.close(encode(asked))), "a")).message
        assert answer.kind == "refused"
        assert "no use for" in answer.body["why"]
