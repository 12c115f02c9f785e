"""States that stay with clients from round to round: personal parameters and SCAFFOLD's control variates.

State in, state out: a round takes all clients' states and gives them back with those of its cohort changed. Nothing in
a state is part of a message. A simulation holds them in one place; in a deployment each would lie on its own device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.federation import scaffold
from fedmm.models import personal
from fedmm.utils.params import Params, stack_for_clients, subtract

CLIENTS = "clients"  # among the tensors of a checkpoint: whose states the others are
Kept = tuple[IntArray, Params]  # clients [C] and their states, stacked


@dataclass(frozen=True, eq=False)
class ClientStates:
    """Every client's state by client (its index in the data), "personal.<name>", "control/<parameter>" and
    "residual/<parameter>" (``largest_updates``). A client or a name that is absent never trained and stands at zero."""

    entries: Mapping[int, Params] = field(default_factory=dict)

    def of(self, clients: IntArray, zeros: Params) -> Params:
        """The states of ``clients`` under the names of ``zeros``, stacked [C, ...], as memory of their own; the tensor
        in ``zeros`` where a client has none."""
        own = [self.entries.get(int(client), {}) for client in clients]
        return {name: torch.stack([state.get(name, zero) for state in own]) for name, zero in zeros.items()}

    def after(self, kept: Iterable[Kept]) -> ClientStates:
        """With what a cohort's clients keep in place of what they had; all others stay as they are."""
        entries = dict(self.entries)
        for clients, states in kept:
            for place, client in enumerate(map(int, clients) if states else ()):
                own = {name: value[place].clone() for name, value in states.items()}
                entries[client] = {**entries.get(client, {}), **own}
        return ClientStates(entries)

    def personal(self) -> ClientStates:
        """Personal parameters alone: all of a state that a model's scores depend on."""
        entries = {client: _personal(state) for client, state in self.entries.items()}
        return ClientStates({client: state for client, state in entries.items() if state})

    def to_tensors(self) -> Params:
        """Stacked over the clients, "clients" [n] ascending beside "<name>" [n, ...], a name that a client lacks as
        zeros; nothing where nobody has a state."""
        if not self.entries:
            return {}
        clients = np.array(sorted(self.entries), dtype=np.int64)
        zeros: Params = {}
        for state in self.entries.values():
            zeros |= {name: torch.zeros_like(value) for name, value in state.items() if name not in zeros}
        return {CLIENTS: torch.from_numpy(clients), **self.of(clients, dict(sorted(zeros.items())))}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ClientStates:
        """The states that ``to_tensors`` wrote."""
        if not tensors:
            return cls()
        states = {name: value for name, value in tensors.items() if name != CLIENTS}
        return cls().after([(tensors[CLIENTS].numpy(), states)])


NO_STATES = ClientStates()


@dataclass(frozen=True, eq=False)
class Carried:
    """What C clients bring into a round's local training, stacked [C, ...]."""

    personal: Params  # memory of its own: local steps change it in place
    controls: Params  # c_i by parameter; empty without SCAFFOLD
    correction: Params  # c - c_i, likewise

    @classmethod
    def collect(
        cls, states: ClientStates, clients: IntArray, personal_zeros: Params, control: Mapping[str, Tensor] | None
    ) -> Carried:
        """What ``clients`` have in ``states``; ``control`` is the server's c over the parameters that train, None
        without SCAFFOLD."""
        own = states.of(clients, personal_zeros)
        if control is None:
            return cls(own, {}, {})
        zeros = scaffold.named({name: torch.zeros_like(value) for name, value in control.items()})
        controls = scaffold.unnamed(states.of(clients, zeros))
        return cls(own, controls, subtract(stack_for_clients(control, len(clients)), controls))

    def correct(self, gradients: Mapping[str, Tensor], num_active: int) -> None:
        """Adds c - c_i to the first ``num_active`` clients' gradients [C', ...], in place."""
        for name, value in self.correction.items():
            gradients[name].add_(value[:num_active])

    def states(self, own: Mapping[str, Tensor], deltas: Params, num_steps: IntArray, rate: float) -> Params:
        """What the clients keep: their personal parameters as training left them in ``own``, and their new control
        variates, from what they send, the steps they took [C] and the round's learning rate."""
        kept = {name: own[name].detach() for name in self.personal}
        if not self.correction:
            return kept
        return kept | scaffold.named(scaffold.new_controls(self.correction, deltas, num_steps, rate))

    def control_deltas(self, states: Params) -> Params:
        """What the clients send of their new ``states``: c_i+ - c_i by parameter. Nothing without SCAFFOLD, and nothing
        personal ever."""
        return subtract(scaffold.unnamed(states), self.controls)


def _personal(state: Params) -> Params:
    return {name: value for name, value in state.items() if name.startswith(personal.PREFIX)}
