"""Memory prototypes: k-means centres of many clients' memories, global entries in addition to a client's own.

They are constants of the model beside its parameters: no gradient moves them, only the server does, once a round
(``federation/prototypes.py``). A prototype that no entry was ever assigned to stands for nothing and is not attended.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedmm.errors import ConfigError
from fedmm.models.features import FeatureTable
from fedmm.utils.params import Params

CENTRES, COUNTS = "prototypes", "prototype_counts"


def is_prototype(name: str) -> bool:
    """Whether an entry of the parameter dict belongs to the prototypes, which do not train."""
    return name.rpartition(".")[2] in (CENTRES, COUNTS)


def init_prototypes(name: str, number: int, table: FeatureTable, generator: torch.Generator) -> Params:
    """Where k-means begins: the features [P, F] of items drawn from the catalogue, which tell of no client, and counts
    [P] of zero.

    Raises ConfigError where fewer items have the modality.
    """
    items = torch.nonzero(table.present.cpu()).flatten()
    if number > len(items):
        raise ConfigError(
            f"model.memory.num_prototypes {number} is more than the {len(items)} items with {name} features.",
            "Lower model.memory.num_prototypes.",
        )
    drawn = items[torch.randperm(len(items), generator=generator)[:number]]
    centres = table.values.cpu()[drawn].to(torch.float64)
    return {f"{name}.{CENTRES}": centres, f"{name}.{COUNTS}": torch.zeros(number, dtype=torch.float64)}


def global_entries(params: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor] | None:
    """A modality's prototypes [C, P, F] and which of them stand for something [C, P]; None where there are none."""
    if f"{name}.{CENTRES}" not in params:
        return None
    return params[f"{name}.{CENTRES}"], params[f"{name}.{COUNTS}"] > 0


def nearest(vectors: Tensor, centres: Tensor) -> Tensor:
    """[n]: the place of the centre [P, F] nearest to each of ``vectors`` [n, F]; the first of equals."""
    squared = centres.square().sum(1) - 2 * torch.matmul(vectors, centres.T)
    return squared.argmin(1)
