"""What every way trains: read from one file with numpy and torch alone, so that a peer's environment needs no fedmm."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PARTS = ("items", "rows", "targets", "candidates")
Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Settings:
    """Of the model and of local training; each local step takes all windows of its client."""

    num_items: int
    width: int
    max_length: int
    num_blocks: int
    num_heads: int
    local_steps: int
    learning_rate: float
    clip_norm: float
    num_negatives: int = 0  # that a local step ranks its targets among; 0: all items


@dataclass(frozen=True, eq=False)
class Client:
    """One client's windows, collated by fedmm."""

    items: Tensor  # [B, L] items of the history, padded on the right with 0
    rows: Tensor  # [R] positions that predict, flat over B * L
    targets: Tensor  # [R] the next item, counted from 0: item 1 is class 0; sampled: [S, R] places among the candidates
    candidates: Tensor  # [S, N] the items that each of S local steps ranks; [0, 0]: all of them


@dataclass(frozen=True, eq=False)
class Problem:
    """The clients of every round, those with most predictions first, and the server's first parameters."""

    settings: Settings
    clients: list[Client]
    start: dict[str, Tensor]  # by torch.nn's names
    history_values: NDArray[np.int64]  # the clients' training histories, end to end: what fedmm itself starts from
    history_offsets: NDArray[np.int64]

    def save(self, path: Path) -> None:
        """Writes everything into one .npz."""
        arrays: dict[str, NDArray[np.generic]] = {
            "settings": np.array(json.dumps(asdict(self.settings))),
            "history_values": self.history_values,
            "history_offsets": self.history_offsets,
        }
        for number, client in enumerate(self.clients):
            for part in PARTS:
                arrays[f"client/{number}/{part}"] = getattr(client, part).numpy()
        arrays |= {f"start/{name}": value.numpy() for name, value in self.start.items()}
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Problem":
        """Reads what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as file:
            settings = Settings(**json.loads(str(file["settings"])))
            offsets = file["history_offsets"]
            clients = [
                Client(*(torch.from_numpy(file[f"client/{number}/{part}"]) for part in PARTS))
                for number in range(len(offsets) - 1)
            ]
            start = {key[len("start/") :]: torch.from_numpy(file[key]) for key in file if key.startswith("start/")}
            return cls(settings, clients, start, file["history_values"], offsets)
