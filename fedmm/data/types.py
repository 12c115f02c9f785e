"""The shapes in which data travels through fedmm. Item 0 is padding everywhere; True in a mask means real."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedmm.config import DataConfig
from fedmm.encoders.reduction import Components

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of unequal length as one flat array and offsets: row r is ``values[offsets[r]:offsets[r + 1]]``."""

    values: IntArray  # [n]
    offsets: IntArray  # [rows + 1], starts at 0, never falls

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> IntArray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[IntArray]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> IntArray:
        """[rows]: how many values each row has."""
        return np.diff(self.offsets)

    @property
    def row_of_value(self) -> IntArray:
        """[n]: the row each value belongs to."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int] | IntArray]) -> Ragged:
        """Puts the rows end to end."""
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        filled = [np.asarray(row, dtype=np.int64) for row in rows if len(row)]
        return cls(np.concatenate(filled) if filled else np.zeros(0, np.int64), offsets)


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """One modality's vectors. An item without the modality has ``present`` False; its row is never read."""

    values: NDArray[np.float32]  # [V, F]; row 0 is padding
    present: BoolArray  # [V]; present[0] is False
    source: str = ""
    centre: FloatArray | None = None  # [F]: values are (those of the file - centre) / scale; None: as they were
    scale: float = 1.0
    reduction: Components | None = None  # what an encoder's rows went through before they were centred

    @property
    def widths(self) -> tuple[int, ...]:
        """How many numbers a row may have that ``standardised`` takes: those of the values, or of the encoder."""
        own = () if self.reduction is None else (len(self.reduction.mean),)
        return tuple(dict.fromkeys((*own, self.values.shape[1])))

    def standardised(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Rows [n, F] as they stand in a file, or as the encoder gave them, brought to what these values are."""
        if self.reduction is not None and rows.shape[1] == len(self.reduction.mean):
            rows = self.reduction.project(rows)
        centre = 0.0 if self.centre is None else self.centre
        return ((rows.astype(np.float64) - centre) / self.scale).astype(np.float32)

    @property
    def coverage(self) -> float:
        """The fraction of real items that have this modality."""
        return float(self.present[1:].mean()) if len(self.present) > 1 else 0.0


@dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    """Who met what, in time order within each user; every (user, item) pair once, unless repeats are kept."""

    user_ids: NDArray[np.str_]  # [U] original ids
    item_ids: NDArray[np.str_]  # [V] original ids; item_ids[0] is "" (padding)
    histories: Ragged  # [U] rows of item indices 1..V-1
    timestamps: FloatArray  # [n] aligned with histories.values
    parts: IntArray | None = None  # [U, 3] how many events are of training, validation and test, where files say so

    @property
    def num_users(self) -> int:
        """Users, U."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Real items, padding not counted: V - 1."""
        return len(self.item_ids) - 1

    def __repr__(self) -> str:
        return f"Interactions({self.sizes})"

    @property
    def sizes(self) -> str:
        """How much there is, in words."""
        return f"{self.num_users:,} users, {self.num_items:,} items, {len(self.histories.values):,} interactions"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Interactions with what is known about the items. ``notes`` name and count all that was dropped.

    >>> import fedmm
    >>> data = fedmm.load_dataset("movielens-small")
    >>> data
    Dataset(movielens-small: 597 users, 1,849 items, 56,166 interactions; features: semantic, visual)
    >>> data.features["visual"].values.shape, str(data.titles[1]), len(data.interactions.histories)
    ((1850, 64), 'Toy Story (1995)', 597)
    """

    name: str
    interactions: Interactions
    features: Mapping[str, ItemFeatures]  # modality ("visual", "semantic") -> features
    titles: NDArray[np.str_]  # [V]; "" where unknown
    digest: str  # of users, items, order and timestamps: equal digests mean equal interactions
    notes: tuple[str, ...] = field(default=())
    settings: DataConfig | None = None  # those it was loaded with, where ``fedmm.load_dataset`` did
    attributes: csr_matrix | None = None  # [V, A] of ones: which attributes items have; None: there is no file of them

    def __repr__(self) -> str:
        features = f"; features: {', '.join(sorted(self.features))}" if self.features else ""
        return f"Dataset({self.name}: {self.interactions.sizes}{features})"


@dataclass(frozen=True, eq=False)
class Queries:
    """Next-item questions: after ``histories[q]``, does ``users[q]`` meet ``targets[q]``?

    ``candidates`` holds all targets and all that is excluded.
    """

    users: IntArray  # [Q] client indices
    histories: Ragged  # [Q] the items known at that moment, in time order
    targets: IntArray  # [Q] item indices
    excluded: Ragged  # [Q] the user's items (of the candidates) but the target: never candidates; none of repeats
    candidates: BoolArray | None = None  # [V] the items that are asked about, padding not; None: all

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, eq=False)
class Split:
    """What clients train on and what they are asked about."""

    name: str
    num_items: int  # real items; V = num_items + 1
    train: Ragged  # [U] training histories, in time order
    validation: Queries
    test: Queries
    notes: tuple[str, ...] = field(default=())
    cold: Queries | None = None  # about items that no client trains on (cold_items.py); None: there are none

    @property
    def candidates(self) -> BoolArray | None:
        """[V]: the items that training and the ordinary questions know of; None: all."""
        return self.test.candidates
