"""The server: it leads rounds among silos that it knows by name and by how many users they have.

It holds parameters and sums, never a user's data; it knows nothing of how messages travel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmm.config import ExperimentConfig
from fedmm.data.types import Ragged
from fedmm.deployment import start, sums
from fedmm.deployment.building import build_local, counts_wanted
from fedmm.deployment.catalogue import Catalogue
from fedmm.deployment.conversation import Conversation
from fedmm.deployment.lead_state import LeadState, load_lead, save_lead
from fedmm.deployment.members import LeadOptions, Members, accept_ready
from fedmm.deployment.messages import Expected, Header, Message, RefusedError, require
from fedmm.deployment.server_step import SiloSums, StepStatistics, require_plausible, step
from fedmm.deployment.silo import PARAMS
from fedmm.deployment.terms import joined_settings, require_supported, settled_terms, terms_of
from fedmm.errors import CheckpointError, DataError
from fedmm.federation import scaffold
from fedmm.federation.cohorts import COHORT_SAMPLERS, cohort_size
from fedmm.federation.compression import downloaded
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.reports import RoundReport
from fedmm.federation.snapshot import Best, Snapshot
from fedmm.runs.led import NAME, save_catalogue
from fedmm.utils.params import Params
from fedmm.utils.seeding import torch_stream

Tell = Callable[[str], None]


@dataclass(eq=False)
class Lead:
    """One federation. ``rounds()`` yields a report after each round, which is on disk by then."""

    given: ExperimentConfig
    catalogue: Catalogue
    conversation: Conversation
    options: LeadOptions = field(default_factory=LeadOptions)
    folder: Path | None = None
    tell: Tell = lambda _: None
    on_save: Callable[[LeadState], LeadState] = lambda state: state
    _state: LeadState | None = None

    def __post_init__(self) -> None:
        require_supported(self.given)

    @cached_property
    def members(self) -> Members:
        """Who takes part."""
        return Members(self.given, self.catalogue, self.conversation, self.options, self.tell, self.given)

    @property
    def config(self) -> ExperimentConfig:
        """The settings as the data settled them."""
        return self.members.config

    @property
    def state(self) -> LeadState:
        """The state after the last round."""
        assert self._state is not None, "the federation has not begun"
        return self._state

    @property
    def reached(self) -> LeadState | None:
        """The state after the last round; None before the federation began."""
        return self._state

    @cached_property
    def local(self) -> LocalTraining:
        """Local training as silos do it, on nobody's data: the server reads from it what trains and travels."""
        nobody = Ragged(np.zeros(0, np.int64), np.zeros(1, np.int64))
        counts = None
        if counts_wanted(self.config):
            counts = sums.counts_from_tensors(start.counts_part(self.state.begin), self.catalogue.num_items)
        return build_local(self.config, self.catalogue, nobody, counts)

    # Beginning ------------------------------------------------------------------------------------------------------

    def begin(self) -> LeadState:
        """Goes on from what is on disk, or waits for silos and makes the start of their sums. Raises CheckpointError
        where the folder is of another federation."""
        found = None if self.folder is None else load_lead(self.folder, torch.device("cpu"))
        if found is not None:
            self._resume(*found)
            self._keep_catalogue()
            return self.state
        facts = self.members.first()
        users, events = (sum(own[name] for own in facts.values()) for name in ("users", "events"))
        self.members.config = settled_terms(self.given, self.catalogue.num_items, users, events)
        state = start.first_state(self.config, self.catalogue, self._sums, sorted(facts))
        for name, own in sorted(facts.items()):
            state = state.joined(name, own["users"], own["trainable"], own["events"])
        self._state = state
        self._state = replace(state, server=replace(state.server, params=self._first_params(state)))
        self._keep_catalogue()
        self.members.begin([silo.name for silo in state.silos], self.state)
        self._save()
        return self.state

    def _keep_catalogue(self) -> None:
        """Writes what the model needs to be opened later, where it is not there yet."""
        if self.folder is not None and not (self.folder / NAME).exists():
            own = self.catalogue
            save_catalogue(self.folder, own.to_tensors(), own.titles, self.state.begin, own.digest)

    def _first_params(self, state: LeadState) -> Params:
        params = self.local.recommender.init(torch_stream(self.config.runtime.seed, "parameters"), self.local.dtype)
        return {**params, **{name: value.to(self.local.dtype) for name, value in state.server.params.items()}}

    def _resume(self, state: LeadState, meta: Mapping[str, Any]) -> None:
        """Takes up a stored state, where it is of these settings and this catalogue."""
        terms = {**meta["terms"], "federation": {**meta["terms"]["federation"], "rounds": self.given.federation.rounds}}
        same = meta["catalogue"] == self.catalogue.digest and meta["offer"] == _without_rounds(self.members.offer_terms)
        if not same:
            raise CheckpointError(
                f"{self.folder} holds a federation of other settings or another catalogue.",
                "Give those it began with, or another --folder.",
            )
        self.members.config = joined_settings(terms, self.given)
        self._state = state
        self.tell(f"going on after round {state.server.round}")

    def _sums(self, nodes: list[str], request: Message, expected: Expected) -> list[Mapping[str, Tensor]]:
        """What all ``nodes`` answer to a request for sums, in their order."""

        def accept(node: str, header: Header) -> Message:
            del node
            require(header, "sums")
            return header.with_tensors(expected)

        found = self.members.gather(dict.fromkeys(nodes, request), accept, lambda answered: len(answered) == len(nodes))
        return [found[node].tensors for node in nodes]

    def _welcome(self) -> None:
        self._state = self.members.welcome(self.state)

    # Rounds ---------------------------------------------------------------------------------------------------------

    def rounds(self) -> Iterator[RoundReport]:
        """Leads rounds until the last one, or until patience runs out."""
        own = self.config
        while self.state.server.round < own.federation.rounds and not self._exhausted:
            yield self.one_round()

    @property
    def _exhausted(self) -> bool:
        patience = self.config.evaluation.patience
        return patience > 0 and self.state.stale >= patience

    def one_round(self) -> RoundReport:
        """One round, validated where that is due, and saved."""
        began = time.perf_counter()
        sent, received = self.conversation.sent_bytes, self.conversation.received_bytes
        self._welcome()
        statistics = self._train()
        validation = self._validate()
        conversation = self.conversation
        ledger = self.state.ledger.add(conversation.received_bytes - received, conversation.sent_bytes - sent)
        seconds = time.perf_counter() - began
        self._state = replace(self.state, ledger=ledger, seconds=self.state.seconds + seconds)
        report = self._report(statistics, validation, seconds)
        self._save()
        self.conversation.events.add(
            "round", round=report.round, clients=report.num_clients, loss=report.loss, seconds=round(seconds, 3),
            validation=None if validation is None else validation.get(self.config.evaluation.selection_metric),
        )  # fmt: skip
        return report

    def _train(self) -> StepStatistics:
        """The round's training, until enough of its clients counted."""
        state, local = self.state, self.local
        number = state.server.round + 1
        chosen = self._chosen(number)
        received = downloaded(
            state.server.params, local.trainable(state.server.params, number), local.config.download_bits
        )
        sent = {f"{PARAMS}{name}": value for name, value in received.items()}
        if local.uses_controls:
            zeros = {name: torch.zeros_like(value) for name, value in received.items()}
            sent |= scaffold.named({**zeros, **state.server.control})
        silos = {silo.name: silo for silo in state.silos}
        requests = {
            name: Message(
                "train", {"counted": silos[name].counted}, {**sent, "clients": torch.from_numpy(places)},
                round=number, settings=self.members.digest,
            )
            for name, places in chosen.items()
        }  # fmt: skip
        expected = sums.expected_sums(local, state.server.params, number)

        def accept(node: str, header: Header) -> Message:
            require(header, "sums", self.members.digest)
            found = header.with_tensors(expected)
            if header.message.round != number or found.body.get("clients") != len(chosen[node]):
                raise RefusedError(f"sums of round {header.message.round} over {found.body.get('clients')} clients.")
            require_plausible(found.tensors, len(chosen[node]), local, number)
            return found

        cohort = sum(map(len, chosen.values()))

        def enough(answered: set[str]) -> bool:
            return bool(answered) and sum(len(chosen[node]) for node in answered) >= self.options.quorum * cohort

        answers = self.members.gather(requests, accept, enough, self._welcome)
        counted = [
            SiloSums(answers[silo.name].tensors, len(chosen[silo.name])) for silo in state.silos if silo.name in answers
        ]
        server, statistics = step(state.server, counted, local, state.num_trainable)
        facts = tuple(replace(silo, counted=number) if silo.name in answers else silo for silo in self.state.silos)
        self._state = replace(self.state, server=server, silos=facts)
        return statistics

    def _chosen(self, number: int) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
        """The round's clients by silo, as places among its trainable users, ascending; silos without any are left
        out."""
        config, total = self.local.config, self.state.num_trainable
        sample = COHORT_SAMPLERS[config.cohort_sampler]
        everyone = np.arange(total, dtype=np.int64)
        cohort = sample(everyone, cohort_size(config, total), self.config.runtime.seed, number)
        own = {
            silo.name: cohort[(cohort >= silo.first) & (cohort < silo.first + silo.trainable)] - silo.first
            for silo in self.state.silos
        }
        return {name: places for name, places in own.items() if len(places)}

    # Evaluation -----------------------------------------------------------------------------------------------------

    def evaluate(self, snapshot: Snapshot, split: str, *, of_best: bool = False) -> dict[str, float]:
        """Metrics of ``split`` over the users of all silos that answer."""
        best = 0 if self.state.best is None else self.state.best.snapshot.round
        tensors = {f"{PARAMS}{name}": value for name, value in snapshot.params.items()}
        requests = {
            silo.name: Message(
                "evaluate", {"split": split, "counted": silo.counted, "best": best, "of_best": of_best}, tensors,
                round=snapshot.round, settings=self.members.digest,
            )
            for silo in self.state.silos
        }  # fmt: skip
        expected = sums.expected_metrics(self.config)

        def accept(node: str, header: Header) -> Message:
            require(header, "metrics", self.members.digest)
            found = header.with_tensors(expected)
            most = next(silo.users for silo in self.state.silos if silo.name == node)
            sums.require_possible(found.tensors, most, self.config)
            return found

        answers = self.members.gather(requests, accept, self._enough_users, self._welcome)
        ordered = [answers[silo.name].tensors for silo in self.state.silos if silo.name in answers]
        return sums.means(ordered, self.config)

    def _enough_users(self, answered: set[str]) -> bool:
        there = sum(silo.users for silo in self.state.silos if silo.name in answered)
        return bool(answered) and there >= self.options.quorum * sum(silo.users for silo in self.state.silos)

    def _validate(self) -> dict[str, float] | None:
        """The validation of this round where it is due; the best round is kept."""
        state, own = self.state, self.config.evaluation
        number = state.server.round
        if number % own.interval and number != self.config.federation.rounds:
            return None
        snapshot = Snapshot(state.server.evaluated, number)
        found = self.evaluate(snapshot, "validation")
        value = found.get(own.selection_metric)
        if value is None:
            raise DataError(
                f"No user of any silo could be asked for {own.selection_metric}.",
                "Silos need users who leave 100 items they have not met, or --eval full.",
            )
        if state.best is not None and value <= state.best.value:
            self._state = replace(state, stale=state.stale + 1)
        else:
            self._state = replace(state, best=Best(snapshot, value), stale=0)
        return found

    def finish(self) -> dict[str, dict[str, float]]:
        """Evaluates the best round on both splits and tells silos that it is over."""
        self._welcome()
        best = self.state.best
        snapshot = Snapshot(self.state.server.evaluated, self.state.server.round) if best is None else best.snapshot
        metrics = {split: self.evaluate(snapshot, split, of_best=best is not None) for split in ("validation", "test")}
        asked = {silo.name: Message("finish", settings=self.members.digest) for silo in self.state.silos}
        there = set(self.conversation.transport.nodes())
        self.conversation.ask({name: own for name, own in asked.items() if name in there}, accept_ready, 10.0)
        return metrics

    # Records --------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        self._state = self.on_save(self.state)
        if self.folder is not None:
            about = {
                "terms": terms_of(self.config),
                "offer": _without_rounds(self.members.offer_terms),
                "catalogue": self.catalogue.digest,
            }
            save_lead(self.folder, self.state, about)

    def _report(self, statistics: StepStatistics, validation: dict[str, float] | None, seconds: float) -> RoundReport:
        state, model = self.state, self.local.recommender
        params, number = state.server.evaluated, state.server.round
        return RoundReport(
            round=number,
            rounds=self.config.federation.rounds,
            loss=statistics.loss,
            validation=validation,
            gating_weight=model.gating_weight(params),
            expert_weights=model.expert_weights(params),
            load_balance_loss=statistics.load_balance_loss,
            update_norm=statistics.update_norm,
            uplink_bytes=state.ledger.uplink_bytes,
            downlink_bytes=state.ledger.downlink_bytes,
            num_clients=statistics.num_clients,
            seconds=seconds,
            is_best=state.best is not None and state.best.snapshot.round == number,
            warmup=number <= self.config.federation.warmup_rounds,
        )


def _without_rounds(terms: Mapping[str, Any]) -> dict[str, Any]:
    """The terms but for how many rounds there are, which may grow."""
    return {**terms, "federation": {**terms["federation"], "rounds": None}}
