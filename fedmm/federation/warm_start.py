"""A warm start: a trained model's parameters for a catalogue that has grown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmm.data.types import Dataset
from fedmm.errors import CheckpointError
from fedmm.federation.client_states import NO_STATES, ClientStates
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params


@dataclass(frozen=True, eq=False)
class WarmStart:
    """The run that another one goes on from: its data with the new events, its best round's parameters, and what
    stays with its users."""

    dataset: Dataset
    params: Params
    item_ids: NDArray[np.str_]  # [V] of the run's own items, padding first
    user_ids: NDArray[np.str_] | None = None  # [U] of the run's own users
    states: ClientStates = NO_STATES  # what they keep to themselves, by their place there

    def clients(self, like: Tensor) -> ClientStates:
        """What users keep to themselves, by their place now, on the device and of the type of ``like``; nothing of new
        ones."""
        place = {name: at for at, name in enumerate(self.dataset.interactions.user_ids.tolist())}
        before = [] if self.user_ids is None else self.user_ids.tolist()
        own = {place[before[at]]: state for at, state in self.states.entries.items() if before[at] in place}
        return ClientStates({at: {name: value.to(like) for name, value in state.items()} for at, state in own.items()})

    def begin(self, fresh: Params) -> Params:
        """``fresh`` parameters of the grown model, in which everything that the run has trained has its values; rows of
        items go by their ids, and those of new items stay fresh.

        Raises CheckpointError where the model is another one.
        """
        place = {name: at for at, name in enumerate(self.dataset.interactions.item_ids.tolist())}
        kept = [at for at, name in enumerate(self.item_ids.tolist()) if name in place]
        rows = torch.tensor([place[str(self.item_ids[at])] for at in kept])
        found = {}
        for name, value in fresh.items():
            own = self.params.get(name)
            there, here = (None if one is None else tuple(one.shape) for one in (own, value))
            if own is not None and name == ITEM_TABLE and own.shape[1:] == value.shape[1:]:
                found[name] = value.index_copy(0, rows, own[kept].to(value))
            elif own is not None and there == here:
                found[name] = own.to(value)
            else:
                raise CheckpointError(
                    f"The run to start from has another model: {name} has shape {there} there, {here} here.",
                    "Use its model settings: fedmm train --start-from takes them unless told otherwise.",
                )
        return found


def kept_of(warm: WarmStart | None, like: Tensor) -> ClientStates:
    """What clients keep to themselves as a run begins: nothing but in a warm start."""
    return NO_STATES if warm is None else warm.clients(like)
