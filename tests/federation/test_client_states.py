"""The states of all clients as a value: what goes in comes out, and what is absent is zero."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmm.federation.client_states import CLIENTS, NO_STATES, ClientStates

ZEROS = {"personal.gate": torch.zeros(()), "personal.user_vector": torch.zeros(3), "control/x": torch.zeros(2, 2)}
Some = st.dictionaries(st.integers(0, 9), st.sets(st.sampled_from(sorted(ZEROS)), min_size=1), max_size=6)


def states_of(some: dict[int, set[str]], seed: int = 0) -> ClientStates:
    """The named states of some clients, at random."""
    generator = torch.Generator().manual_seed(seed)
    return ClientStates(
        {
            client: {name: torch.randn(ZEROS[name].shape, generator=generator) for name in sorted(names)}
            for client, names in some.items()
        }
    )


def same(left: ClientStates, right: ClientStates) -> bool:
    everybody = np.arange(10)
    found, others = left.of(everybody, ZEROS), right.of(everybody, ZEROS)
    return all(torch.equal(value, others[name]) for name, value in found.items())


def test_who_never_trained_stands_at_zero() -> None:
    found = states_of({2: {"personal.user_vector"}}).of(np.array([1, 2]), ZEROS)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "personal.gate": (2,), "personal.user_vector": (2, 3), "control/x": (2, 2, 2)
    }  # fmt: skip
    assert [bool(value.any()) for value in found["personal.user_vector"]] == [False, True]
    assert not found["personal.gate"].any()
    assert not found["control/x"].any()


@given(Some)
def test_tensors_hold_all_of_it(some: dict[int, set[str]]) -> None:
    states = states_of(some)
    tensors = states.to_tensors()
    assert same(ClientStates.from_tensors(tensors), states)
    if some:
        assert tensors[CLIENTS].tolist() == sorted(some)
        assert tensors.keys() - {CLIENTS} == set().union(*some.values())
    else:
        assert tensors == {}
    again = ClientStates.from_tensors(tensors).to_tensors()
    assert list(again) == list(tensors)
    assert all(torch.equal(value, again[name]) for name, value in tensors.items())


@given(Some, st.sets(st.integers(0, 9), min_size=1))
def test_a_cohort_replaces_its_own_states_and_nobody_elses(some: dict[int, set[str]], cohort: set[int]) -> None:
    states = states_of(some)
    clients = np.array(sorted(cohort))
    kept = {"personal.gate": torch.arange(1.0, 1.0 + len(clients))}
    halves = [(clients[:1], {"personal.gate": kept["personal.gate"][:1]}),
              (clients[1:], {"personal.gate": kept["personal.gate"][1:]})]  # fmt: skip
    after = states.after([(clients, kept)])
    assert same(after, states.after(halves))
    assert same(after, states.after(halves[::-1]))
    assert same(states, states_of(some))
    assert after.of(clients, ZEROS)["personal.gate"].tolist() == kept["personal.gate"].tolist()
    for client in set(range(10)) - cohort:
        assert after.entries.get(client) is states.entries.get(client)
    rest = {name: zero for name, zero in ZEROS.items() if name != "personal.gate"}
    assert all(torch.equal(v, states.of(clients, rest)[name]) for name, v in after.of(clients, rest).items())


def test_a_state_does_not_keep_its_block_alive() -> None:
    block = {"personal.user_vector": torch.ones(4, 3)}
    own = NO_STATES.after([(np.array([7, 1, 2, 3]), block)]).entries[7]["personal.user_vector"]
    assert own.untyped_storage().nbytes() == 3 * own.element_size()
    block["personal.user_vector"].zero_()
    assert own.tolist() == [1.0, 1.0, 1.0]


def test_what_scores_depend_on_is_personal() -> None:
    states = states_of({1: {"personal.gate", "control/x"}, 2: {"control/x"}})
    assert {client: set(own) for client, own in states.personal().entries.items()} == {1: {"personal.gate"}}
    assert states.personal().personal().entries.keys() == {1}


def test_clients_that_keep_nothing_get_no_entry() -> None:
    assert NO_STATES.after([(np.array([1, 2]), {})]).entries == {}
    assert NO_STATES.to_tensors() == {}
