"""A block of clients that train together: what its steps share, and the end of each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.data.types import IntArray
from fedmm.federation.client_states import Carried
from fedmm.federation.gradient_rules import GradientRule, gradient_rules
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.optimizers import LOCAL_OPTIMIZERS, Update
from fedmm.federation.schedules import scheduled
from fedmm.kernels.steps import clipped_step
from fedmm.models.workspace import Workspace
from fedmm.utils.params import Params


@dataclass(frozen=True, eq=False)
class Block:
    """C clients in one round. The tensors of ``own`` change in place."""

    local: LocalTraining
    frozen: Params  # the server's parameters that do not train in this round
    start: Params  # those that train, stacked [C, ...], before the first step
    own: Params  # the clients' copies of them and their personal parameters, stacked
    carried: Carried
    rules: tuple[GradientRule, ...]
    update: Update
    learning_rate: float
    experts: bool  # False: only the backbone trains
    compiled: bool  # whether the compiled kernel ends a step
    workspace: Workspace = field(default_factory=Workspace)

    @classmethod
    def begin(cls, local: LocalTraining, server: Params, clients: IntArray, number: int, start: Params) -> Block:
        """The block before its first step of round ``number``. ``start`` are the parameters that train, stacked; a
        copy of them is the clients' own."""
        carried = local.carried(server, clients, number)
        own = {name: value.clone(memory_format=torch.contiguous_format) for name, value in start.items()}
        own |= carried.personal
        config = scheduled(local.config, number)
        return cls(
            local=local,
            frozen={name: value for name, value in server.items() if name not in start},
            start=start,
            own=own,
            carried=carried,
            rules=gradient_rules(config, start, carried),
            update=LOCAL_OPTIMIZERS[config.local_optimizer](own, config),
            learning_rate=config.learning_rate,
            experts=not local.warming_up(number),
            compiled=_ends_compiled(local, config, carried),
        )

    def advance(self, values: Mapping[str, Tensor], gradients: Params, index: int, num_active: int) -> None:
        """Ends step ``index`` (from 0): the rules change the gradients [C', ...] of the first C' clients, the
        optimizer the parameters ``values`` [C', ...] in place."""
        if self.compiled:
            clipped_step(values, gradients, self.local.config.clip_norm, self.learning_rate)
            return
        for rule in self.rules:
            rule(gradients, values, num_active)
        for name, gradient in gradients.items():
            self.update(values[name], gradient, name, num_active, index + 1)

    def states(self, deltas: Params, num_steps: IntArray) -> Params:
        """What the clients keep after ``num_steps`` [C] steps."""
        return self.carried.states(self.own, deltas, num_steps, self.learning_rate)


def _ends_compiled(local: LocalTraining, config: FederationConfig, carried: Carried) -> bool:
    """Whether a step is clipping and plain SGD, which the kernel has a form of."""
    plain = config.local_optimizer == "sgd" and not config.weight_decay and not config.proximal_mu
    return local.recommender.compiled and plain and not carried.correction
