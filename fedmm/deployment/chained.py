"""Updates that go through a chain (``federation.update_transforms``) between silos and the server.

A silo clips, rotates and rounds each client's vector as a simulation does, and sends the sum; the server adds the sums,
adds noise where it is its own, and undoes the chain. Masks are over silos here (``masks.py``), not over clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedmm.config import ExperimentConfig, FederationConfig
from fedmm.deployment.messages import RefusedError
from fedmm.federation.aggregation import UpdateSum, sum_updates
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.private_rounds import PrivateRounds, layout_of, noisy_sums, share_within, turn_of
from fedmm.federation.transforms.chain import Layout, final_bound, opened_sum, sent_sum, stages_of
from fedmm.federation.transforms.contract import Bound, Stage, TransformRound
from fedmm.federation.transforms.noise_share import least_senders
from fedmm.privacy.plan import SHARES_OF_NOISE
from fedmm.privacy.secure_sum import Words
from fedmm.utils.params import Params

VECTOR, HOLDERS, MASK = "vector", "holders", "mask"
MOST_LOSS, WORD = 64.0, 0xFFFFFFFF  # a client's loss, where it is masked; 32 bits
SCALARS = ("weight", "loss", "load_balance_loss")
SLACK = 1e-3  # of a bound: sums are rounded


def is_masked(config: FederationConfig) -> bool:
    """Whether silos hide their sums from the server."""
    return MASK in config.update_transforms


def hides_cohorts(config: ExperimentConfig) -> bool:
    """Whether nobody but the server may know who is drawn: the account counts on it where private cohorts are drawn."""
    return config.privacy.on and config.privacy.cohorts != "all"


@dataclass(frozen=True, eq=False)
class Chain:
    """One round's chain, as both sides know it; the noise is of whoever adds it."""

    turn: TransformRound
    layout: Layout
    local: LocalTraining
    private: PrivateRounds | None

    @classmethod
    def of(
        cls,
        local: LocalTraining,
        params: Params,
        number: int,
        cohort: int,
        clip: float | None,
        private: PrivateRounds | None,
        secret: int | None = None,
    ) -> Chain:
        """Of round ``number`` with ``cohort`` clients. ``clip`` is the bound on a norm where it has moved, ``secret``
        the seed of the noise that this side adds. Raises ConfigError for a chain that cannot be."""
        config = local.config if clip is None else local.config.model_copy(update={"update_clip": clip})
        shapes = {name: params[name].shape for name in local.trainable(params, number)}
        layout = layout_of(config, shapes, private)
        turn = turn_of(config, local.seed, number, np.arange(cohort), private)
        turn = replace(layout.known_to(turn), secret=secret)
        final_bound(turn)
        return cls(turn, layout, local, private)

    @property
    def stages(self) -> list[tuple[str, Stage]]:
        """All stages but masks."""
        return stages_of([name for name in self.turn.config.update_transforms if name != MASK], self.turn)

    @property
    def bound(self) -> Bound:
        """What is known of one client's vector before masks."""
        stages = self.stages
        return stages[-1][1].bound if stages else Bound(sum(self.layout.parts))

    @property
    def least_senders(self) -> int:
        """Clients that must send where they add the noise; 0 where they do not."""
        by_clients = SHARES_OF_NOISE in self.turn.config.update_transforms
        return least_senders(len(self.turn.clients), self.turn.senders_share) if by_clients else 0

    @property
    def sends_holders(self) -> bool:
        """Whether the holders of each item are summed beside the vector."""
        return self.private is None and self.turn.config.aggregation != "mean"

    def summed(self, updates: Iterable[UpdateBlock]) -> Params:
        """A silo's side: the sums over its clients, as a message has them."""
        stages, local = self.stages, self.local
        total, beside = sent_sum(updates, self.layout, stages, local, {name: 0.0 for name, _ in stages})
        found = {VECTOR: total}
        if self.private is not None:
            return found
        if not beside:
            zeros = {name: torch.zeros(own[1], dtype=own[0]) for name, own in self.expected().items() if name != VECTOR}
            return {**found, **{name: value.to(total.device) for name, value in zeros.items()}}
        other = sum_updates(beside, local.train, local.recommender.num_items)
        found |= {name: getattr(other, name) for name in SCALARS}
        return {**found, HOLDERS: other.holders} if self.sends_holders else found

    def expected(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """What the message of ``summed`` holds."""
        bound, dtype = self.bound, self.local.dtype
        found: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            VECTOR: (torch.int64 if bound.integers else dtype, (bound.width,))
        }
        if self.private is None:
            found |= dict.fromkeys(SCALARS, (dtype, ()))
        if self.sends_holders:
            found[HOLDERS] = (dtype, (self.local.recommender.num_items + 1,))
        return found

    def require_plausible(self, tensors: Mapping[str, Tensor], num_clients: int) -> None:
        """Raises RefusedError where no ``num_clients`` clients can have sent this sum."""
        bound = self.bound
        if "noise_share" in self.turn.config.update_transforms:
            return
        length = float(torch.linalg.vector_norm(tensors[VECTOR].to(torch.float64)))
        most = bound.norm * num_clients
        if length > most * (1 + SLACK):
            raise RefusedError(f"vectors of norm {length:.3g}, where {num_clients} clients send {most:.3g} at most.")

    def opened(self, total: Mapping[str, Tensor], num_clients: int) -> UpdateSum:
        """The server's side: the cohort's sums, of what ``num_clients`` clients of all silos sent, with their noise.
        Raises SecureSumError where too few sent for the noise that they add."""
        stages = self.stages_with(num_clients)
        deltas, facts, more = opened_sum(
            total[VECTOR], self.layout, stages, self.local, {name: 0.0 for name, _ in stages}
        )
        if self.private is not None and facts is not None:
            return noisy_sums(deltas, facts, more, self.private, num_clients)
        weight, loss, balance = (total[name] for name in SCALARS)
        held = total.get(HOLDERS, torch.zeros(self.local.recommender.num_items + 1).to(weight))
        within = share_within(more, max(num_clients, 1))
        return UpdateSum(deltas, weight, held, loss, balance, num_clients, within)

    def stages_with(self, num_clients: int) -> list[tuple[str, Stage]]:
        """The stages as they are where ``num_clients`` of the cohort sent."""
        return replace(self, turn=replace(self.turn, present=np.arange(num_clients))).stages

    def words(self, tensors: Mapping[str, Tensor]) -> Words:
        """Sums as the numbers that are masked, modulo 2^32: the vector, holders, losses in small whole steps. How many
        clients there are is known."""
        parts = [tensors[VECTOR].to(torch.int64).cpu().numpy()]
        if self.sends_holders:
            parts.append(tensors[HOLDERS].to(torch.float64).cpu().numpy())
        if self.private is None:
            losses = np.array([float(tensors[name]) for name in SCALARS[1:]])
            most = MOST_LOSS * max(float(tensors[SCALARS[0]]), 1.0)
            parts.append(np.rint(losses.clip(-most, most) * self._loss_steps))
        return (np.concatenate([own.astype(np.int64) for own in parts]) & WORD).astype(np.uint32)

    def from_words(self, words: Words, num_clients: int) -> dict[str, Tensor]:
        """The sums of ``num_clients`` clients whose ``words`` these are."""
        found = torch.from_numpy(words.view(np.int32).astype(np.int64))
        sums = {VECTOR: found[: self.bound.width]}
        rest, dtype = found[self.bound.width :], self.local.dtype
        if self.sends_holders:
            sums[HOLDERS], rest = rest[: len(rest) - len(SCALARS) + 1].to(dtype), rest[len(rest) - len(SCALARS) + 1 :]
        if self.private is None:
            values = [torch.tensor(float(num_clients)), *(rest.double() / self._loss_steps)]
            sums |= {name: value.to(dtype) for name, value in zip(SCALARS, values, strict=True)}
        return sums

    @property
    def num_words(self) -> int:
        """How many numbers are masked."""
        held = self.local.recommender.num_items + 1 if self.sends_holders else 0
        return self.bound.width + held + (0 if self.private is not None else len(SCALARS) - 1)

    @property
    def _loss_steps(self) -> float:
        """In one: so many that the cohort's sum fits."""
        return float(2 ** max(24 - max(len(self.turn.clients) - 1, 0).bit_length(), 0))

    def nothing(self) -> dict[str, Tensor]:
        """The sum over nobody."""
        return {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in self.expected().items()}
