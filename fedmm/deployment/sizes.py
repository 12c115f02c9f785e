"""Sizes that cannot be: what a message names is checked before memory is taken for it.

The other side may name any number. One that no federation has, or that no message could carry, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fedmm.config import ExperimentConfig
from fedmm.deployment.messages import MOST_BYTES, RefusedError, whole
from fedmm.deployment.terms import require_supported
from fedmm.federation.private_start import MOST_HELD

MOST_CLIENTS = 10**8  # of all silos of a federation
MOST_EVENTS = 2**40
MEMORY_WORDS = ("not enough memory", "can't allocate memory", "out of memory")


def clients_in(body: Mapping[str, Any], name: str) -> int:
    """The number of clients, or of users, ``name`` of a body. Raises RefusedError."""
    return whole(body, name, MOST_CLIENTS)


def require_followable(config: ExperimentConfig, num_items: int) -> None:
    """Raises ConfigError for terms that silos cannot follow, RefusedError for those of a model over ``num_items`` items
    that no message could carry."""
    require_supported(config)
    model, number_bytes = config.model, 8 if config.runtime.dtype == "float64" else 4
    width = model.hidden_dim
    least = (num_items + 1 + model.memory.num_prototypes) * width + 4 * model.num_blocks * width**2
    for what, size in (
        (f"a model of hidden_dim {width} and num_blocks {model.num_blocks}", least),
        (f"windows of max_length {model.max_length}", model.max_length**2),
        (f"memories of size {model.memory.size}", model.memory.size * model.max_length),
    ):
        if size * number_bytes > MOST_BYTES:
            raise RefusedError(f"terms with {what}, which is more than a message of {MOST_BYTES:,} bytes carries.")


def require_counts_of(popularity: Tensor) -> None:
    """Raises RefusedError for counts of items [V] below 0."""
    if bool((popularity < 0).any()):
        raise RefusedError("counts of items below 0.")


def sketch_size(body: Mapping[str, Any], config: ExperimentConfig, num_items: int) -> int:
    """How many columns of a sketch are asked for. Raises RefusedError for others than were agreed, or too many."""
    agreed = config.federation.spectral_sketch_size or 0
    size = whole(body, "size")
    if not size or size != agreed or size * (num_items + 1) * 8 > MOST_BYTES:
        raise RefusedError(f"a sketch of {size} columns, and {agreed} were agreed on; a message has to carry it.")
    return size


def require_head(size: int) -> None:
    """Raises RefusedError for more items than pairs are counted among."""
    if size > MOST_HELD:
        raise RefusedError(f"pairs among {size} items, and {MOST_HELD} are the most.")


def lacks_memory(error: Exception) -> bool:
    """Whether memory ran out, in NumPy, PyTorch or Python."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in MEMORY_WORDS)
