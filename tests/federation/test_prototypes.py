"""Federated k-means of memories: closed forms, sums alone, both engines, every byte."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from fedmm.data.types import Ragged
from fedmm.federation.centralized import run_epoch
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.prototypes import memory_vectors, move_prototypes, prototype_sums
from fedmm.federation.rounds import ServerState, run_round
from fedmm.federation.traffic import traffic
from fedmm.models.prototypes import is_prototype
from fedmm.utils.params import Params, select
from fedmm.utils.seeding import torch_stream
from fedmm.verification.world import ENGINES, make_federation, make_local, params_gap

EVERYBODY = np.arange(8)
MODALITIES = ("visual", "semantic")


def world(memory: Mapping[str, Any] | None = None, **federation: Any) -> tuple[LocalTraining, Params]:
    own = {"num_prototypes": 3, **(memory or {})}
    return make_local({"experts": "memory", "memory": own}, {"num_negatives": 7, **federation})


def rounds(local: LocalTraining, params: Params, number: int, engine: str = "vectorized") -> list[Params]:
    """The server's parameters after each round."""
    state, found = ServerState(params, {}, 0), []
    for _ in range(number):
        state, _, _ = run_round(state, NO_STATES, replace(make_federation(local), engine=ENGINES[engine]))
        found.append(state.params)
    return found


def test_one_step_is_lloyds_by_hand() -> None:
    """With room for all entries the memory is the window's last items; each goes to the nearest centre."""
    local, params = world({"size": 6})
    sums = prototype_sums(local, params, EVERYBODY, 1)
    moved = move_prototypes(params, sums)
    for name in MODALITIES:
        table, centres = local.recommender.tables[name], params[f"{name}.prototypes"]
        members: list[list[torch.Tensor]] = [[], [], []]
        for history in local.train:
            for item in history[-6:]:
                if table.present[int(item)]:
                    distances = [float((table.values[int(item)] - centre).square().sum()) for centre in centres]
                    members[int(np.argmin(distances))].append(table.values[int(item)])
        assert moved[f"{name}.prototype_counts"].tolist() == [len(own) for own in members]
        for place, own in enumerate(members):
            expected = torch.stack(own).mean(0) if own else centres[place]
            torch.testing.assert_close(moved[f"{name}.prototypes"][place], expected, rtol=0, atol=1e-12)


def test_a_prototype_is_the_mean_of_all_it_was_ever_given() -> None:
    """Mini-batch k-means with a rate of 1 / count; one that is given nothing does not move."""
    params = {
        "visual.prototypes": torch.tensor([[1.0, 1.0], [9.0, 9.0]]),
        "visual.prototype_counts": torch.tensor([0.0, 4.0]),
    }
    for vectors in ([[2.0, 0.0], [4.0, 6.0]], [[0.0, 3.0]]):
        given = torch.tensor(vectors)
        counts = torch.tensor([float(len(vectors)), 0.0])
        sums = {"visual.prototype_sums": torch.stack([given.sum(0), torch.zeros(2)]), "visual.prototype_counts": counts}
        params = move_prototypes(params, sums)
    assert params["visual.prototypes"].tolist() == [[2.0, 3.0], [9.0, 9.0]]
    assert params["visual.prototype_counts"].tolist() == [3.0, 4.0]


def test_no_more_than_the_memory_keeps_is_assigned_and_only_what_has_the_modality() -> None:
    local, params = world({"size": 2})
    for client in EVERYBODY:
        own = memory_vectors(local, params, np.array([client]))
        for name, vectors in own.items():
            table, recent = local.recommender.tables[name], torch.from_numpy(local.train[client][-6:])
            assert len(vectors) == min(2, int(table.present[recent].sum()))
            held = table.values[recent[table.present[recent]]]
            assert all((held == vector).all(1).any() for vector in vectors)


def test_what_the_server_reads_is_a_sum_over_clients() -> None:
    local, params = world()
    together = prototype_sums(local, params, EVERYBODY, 1)
    each = [prototype_sums(local, params, np.array([client]), 1) for client in EVERYBODY]
    for name, value in together.items():
        torch.testing.assert_close(value, torch.stack([own[name] for own in each]).sum(0), rtol=0, atol=1e-12)


def test_engines_agree_and_prototypes_find_members() -> None:
    local, params = world()
    left, right = (rounds(local, params, 3, engine)[-1] for engine in ENGINES)
    assert params_gap(left, right) < 1e-9
    for name in MODALITIES:
        assert left[f"{name}.prototype_counts"].sum() > 20
        assert params_gap(select(left, [f"{name}.prototypes"]), select(params, [f"{name}.prototypes"])) > 0.01


def test_training_hears_them_from_the_second_round_on() -> None:
    """In the first round none has a member; afterwards other prototypes are other updates."""
    local, params = world()
    moved = {name: value + 3.0 if name.endswith(".prototypes") else value for name, value in params.items()}
    left, right = rounds(local, params, 2), rounds(local, moved, 2)
    trained = [name for name in params if not is_prototype(name)]
    assert params_gap(select(left[0], trained), select(right[0], trained)) == 0.0
    assert params_gap(select(left[1], trained), select(right[1], trained)) > 1e-6


def test_in_the_warm_up_they_rest_and_do_not_travel() -> None:
    local, params = world(warmup_rounds=1)
    kept = [name for name in params if is_prototype(name)]
    first, second = rounds(local, params, 2)
    assert params_gap(select(first, kept), select(params, kept)) == 0.0
    assert params_gap(select(second, kept), select(params, kept)) > 0.0
    without, others = make_local({"experts": "memory"}, {"num_negatives": 7, "warmup_rounds": 1})
    assert traffic(make_federation(local), params, 1) == traffic(make_federation(without), others, 1)


def test_the_ledger_counts_them_both_ways() -> None:
    local, params = world(aggregation="mean", item_rows="all")
    uplink, downlink = traffic(make_federation(local), params, 1)
    trained = {name: value.contiguous() for name, value in params.items() if not is_prototype(name)}
    received = {name: value.contiguous() for name, value in params.items() if is_prototype(name)}
    sums = prototype_sums(local, params, EVERYBODY, 1)
    assert downlink == len(save(trained | received))
    assert uplink == len(save(trained | sums | {"weight_and_losses": torch.zeros(3)}))


def test_pooled_training_moves_them_too() -> None:
    local, params = world(mode="centralized")
    federation = make_federation(local)
    state, _ = run_epoch(ServerState(params, {}, 0), federation)
    expected = move_prototypes(params, prototype_sums(local, params, federation.clients, 1))
    kept = [name for name in params if is_prototype(name)]
    assert params_gap(select(state.params, kept), select(expected, kept)) == 0.0
    assert state.params["visual.prototype_counts"].any()


@pytest.mark.parametrize("number", [1, 2, 5])
def test_steps_never_make_the_clusters_worse(number: int) -> None:
    """Lloyd: with everybody's entries fixed, the first step from the catalogue lowers the squared distance, and so does
    a step that forgets what came before."""
    train = Ragged.from_rows(
        [torch.randperm(40, generator=torch_stream(c, "lloyd")).numpy()[:6] + 1 for c in range(30)]
    )
    model = {"experts": "memory", "memory": {"size": 6, "num_prototypes": 4}}
    local, params = make_local(model, {}, train=train)
    everybody = np.arange(30)
    vectors = memory_vectors(local, params, everybody)["visual"]

    def inertia(own: Params) -> float:
        return float(torch.cdist(vectors, own["visual.prototypes"]).square().min(1).values.sum())

    for _ in range(number):
        forgetful = {n: torch.zeros_like(v) if n.endswith("_counts") else v for n, v in params.items()}
        moved = move_prototypes(forgetful, prototype_sums(local, forgetful, everybody, 1))
        assert inertia(moved) <= inertia(params) + 1e-9
        params = moved
