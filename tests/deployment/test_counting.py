"""A silo counts what the agreed settings have a use for, and nothing else that it is asked for."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest

from fedmm.deployment.catalogue import Catalogue
from fedmm.deployment.counting import require_agreed
from fedmm.deployment.messages import Message, RefusedError, encode, read_header
from fedmm.deployment.silo import Silo
from fedmm.deployment.terms import digest_of
from worlds.lying_server import SEAL
from worlds.masked_world import BY_USERS, MASKED
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


@pytest.mark.parametrize("settings", [MASKED, BY_USERS, {"epsilon": 8.0, "protocols": ("full",)}])
def test_a_server_hears_of_no_other_items_how_many_users_met_them(tmp_path, settings):
    """Of the users with four interactions among four items it would hear who met them all, without noise or mask."""
    write_world(tmp_path, {"a": 5, "b": 6})
    silos = silos_of(tmp_path, ["a", "b"], keep=True, **settings)
    lead = lead_of(tmp_path, silos, **settings)
    lead.members.first()
    terms = lead.members.offer_terms
    fewer = copy.deepcopy(terms)
    fewer["data"]["min_user_interactions"] = 4
    items = lead.catalogue.item_ids.tolist()

    def offered(silo, told, items, number):
        catalogue = Catalogue(np.array(items))
        asked = Message(
            "offer", {"terms": told, "modalities": {}}, catalogue.to_tensors(), lead.conversation.session, number,
            settings=digest_of(told, catalogue.digest),
        )  # fmt: skip
        return read_header(SEAL.open(silo.answer(SEAL.close(encode(asked))), "a")).message

    again = Silo("a", silos["a"].config, silos["a"].folder)
    for number, (told, own) in enumerate([(terms, items[:5]), (fewer, items), (fewer, items[:5])], 10**6):
        answer = offered(again, told, own, number)
        assert (answer.kind, "users" in answer.body) == ("refused", False)
        assert "what the two differ by could be single users" in str(again.failure)
    assert offered(again, terms, items, 10**6 + 3).body["users"] == 5
