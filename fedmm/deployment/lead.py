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

from fedmm.config import ExperimentConfig
from fedmm.data.types import IntArray, Ragged
from fedmm.deployment import noisy_start, start, sums
from fedmm.deployment.building import PARAMS, build_local, counts_wanted, drawn, private_rounds
from fedmm.deployment.catalogue import Catalogue
from fedmm.deployment.chained import Chain, is_masked
from fedmm.deployment.conversation import Conversation
from fedmm.deployment.evaluating import evaluated, value_of
from fedmm.deployment.hidden import hidden_seed
from fedmm.deployment.hidden_rounds import HiddenRound, alone, hiding, require_company
from fedmm.deployment.hidden_sum import UnopenedError
from fedmm.deployment.lead_state import (
    LeadState,
    load_lead,
    released,
    require_same,
    save_lead,
    save_released,
    without_rounds,
)
from fedmm.deployment.masked_answers import require_countable
from fedmm.deployment.masked_sums import MaskedSums, require_silos
from fedmm.deployment.members import Facts, LeadOptions, Members, accept_ready, lacks_noise, too_few_drawn
from fedmm.deployment.messages import Header, Message, RefusedError, require
from fedmm.deployment.server_step import SiloSums, nothing_learnt, require_plausible, step, training_requests
from fedmm.deployment.start_sums import StartSums
from fedmm.deployment.terms import joined_settings, require_supported, settled_terms, terms_of
from fedmm.federation import scaffold
from fedmm.federation.compression import downloaded
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.private_rounds import PrivateRounds
from fedmm.federation.reports import RoundReport, report_of
from fedmm.federation.rounds import RoundStatistics
from fedmm.federation.snapshot import Best, Snapshot
from fedmm.privacy.plan import PrivacyPlan
from fedmm.runs.led import NAME, save_catalogue

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
    secret: int | None = None  # seed of the noise and of private cohorts; None: drawn, and kept in the folder
    _state: LeadState | None = None
    _waiting: int = 0  # the round whose masked sum silos were asked to open before a kill

    def __post_init__(self) -> None:
        require_supported(self.given)
        if is_masked(self.given.federation):
            require_silos(self.options.silos)
            require_countable(self.given, self.catalogue.num_items)

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

    @cached_property
    def private(self) -> PrivateRounds | None:
        """What private rounds need; None where they are not private."""
        if not self.config.privacy.on:
            return None
        counts = noisy_start.told_counts(self.state.begin)
        holders = np.zeros(self.catalogue.num_items + 1) if counts is None else counts.holders
        return private_rounds(self.config, self.local, self.state.num_trainable, holders)

    @property
    def plan(self) -> PrivacyPlan | None:
        """What is released, and with how much noise; None where rounds are not private."""
        return None if self.private is None else self.private.plan

    @property
    def last_round(self) -> int:
        """The last round that was asked for, and that the privacy budget pays."""
        rounds = self.config.federation.rounds
        return rounds if self.plan is None else min(rounds, self.plan.rounds)

    # Beginning ------------------------------------------------------------------------------------------------------

    def begin(self) -> LeadState:
        """Goes on from what is on disk, or waits for silos and makes the start of their sums. Raises CheckpointError
        where the folder is of another federation."""
        found = None if self.folder is None else load_lead(self.folder, torch.device("cpu"))
        if found is not None:
            self._resume(*found)
            self._keep_catalogue()
            return self.state
        sent, received = self.conversation.sent_bytes, self.conversation.received_bytes
        facts, state = self.members.started(self._made, self._masked.start_to_open)
        for name, own in sorted(facts.items()):
            state = state.joined(name, own["users"], own["trainable"], own["events"])
        self._state = state
        self._state = replace(
            state, server=replace(state.server, params=start.first_params(self.config, self.local, state))
        )
        self._keep_catalogue()
        self._save()  # before anyone is told: a start that was told is never made again, with the same noise
        self.members.begin([silo.name for silo in state.silos], self.state)
        conversation = self.conversation
        ledger = self.state.ledger.add(conversation.received_bytes - received, conversation.sent_bytes - sent)
        self._state = replace(self.state, ledger=ledger)
        self._save()
        return self.state

    def _made(self, facts: Facts) -> LeadState:
        self.__dict__.pop("local", None)  # of a start that was given up
        users, events = (sum(own[name] for own in facts.values()) for name in ("users", "events"))
        self.members.config = settled_terms(self.given, self.catalogue.num_items, users, events)
        require_company(self.config, {name: own["trainable"] for name, own in facts.items()}, self.tell)
        if self.config.privacy.on:
            return self._private_state(facts, users)
        return start.first_state(self.config, self.catalogue, self._ask(facts), sorted(facts))

    def _private_state(self, facts: Facts, users: int) -> LeadState:
        self._draw_secret(new=True)
        nobody = np.zeros(self.catalogue.num_items + 1)
        trainable = sum(own["trainable"] for own in facts.values())
        private = private_rounds(self.config, self.local, trainable, nobody)
        assert private is not None, "privacy is on"
        assert self.secret is not None, "it was drawn"
        ask, nodes = self._ask(facts), sorted(facts)
        return start.private_state(self.config, self.local, private, users, self.secret, ask, nodes, trainable)

    def _ask(self, facts: Facts) -> StartSums:
        return StartSums(self.members, self._masked, facts)

    def _draw_secret(self, *, new: bool) -> None:
        if self.config.privacy.on and self.secret is None:
            self.secret = hidden_seed(self.folder, new=new)

    def _keep_catalogue(self) -> None:
        """Writes what the model needs to be opened later, where it is not there yet."""
        if self.folder is not None and not (self.folder / NAME).exists():
            own = self.catalogue
            save_catalogue(self.folder, own.to_tensors(), own.titles, self.state.begin, own.digest)

    def _resume(self, state: LeadState, meta: Mapping[str, Any]) -> None:
        """Takes up a stored state, where it is of these settings and this catalogue."""
        terms = {**meta["terms"], "federation": {**meta["terms"]["federation"], "rounds": self.given.federation.rounds}}
        require_same(self.folder, meta, self.given, self.catalogue.digest, self.members.offer_terms)
        self.members.resume(state.named)
        self.members.config = joined_settings(terms, self.given)
        self._state = state
        self._draw_secret(new=False)
        self._waiting = self._masked.round_to_open
        self.tell(f"going on after round {state.server.round}")

    @cached_property
    def _masked(self) -> MaskedSums:
        return MaskedSums(self.members, self.folder)

    def _welcome(self, *, new: bool = False) -> None:
        """``new`` silos join between rounds: a masked round that is repeated after a kill has to be over the same."""
        before = self.state.silos
        self._state = self.members.welcome(self.state, new=new)
        if self.state.silos != before and is_masked(self.config.federation):
            self._save()

    # Rounds ---------------------------------------------------------------------------------------------------------

    def rounds(self) -> Iterator[RoundReport]:
        """Leads rounds until the last one, or until patience runs out."""
        while self.state.server.round < self.last_round and not self._exhausted:
            yield self.one_round()

    @property
    def _exhausted(self) -> bool:
        patience = self.config.evaluation.patience
        return patience > 0 and self.state.stale >= patience

    def one_round(self) -> RoundReport:
        """One round, validated where that is due, and saved."""
        began = time.perf_counter()
        sent, received = self.conversation.sent_bytes, self.conversation.received_bytes
        self._welcome(new=self.state.server.round + 1 != self._waiting)
        while why := self.members.too_few(self.state):
            self.members.tell_seldom(why)
            self.members.pause()
            self._welcome(new=True)
        statistics = self._released()
        validation = self._validate()
        conversation = self.conversation
        ledger = self.state.ledger.add(conversation.received_bytes - received, conversation.sent_bytes - sent)
        seconds = time.perf_counter() - began
        self._state = replace(self.state, ledger=ledger, seconds=self.state.seconds + seconds)
        report = report_of(self.state, statistics, self.local, self.plan, validation, seconds)
        self._save()
        self.conversation.events.add(
            "round", round=report.round, clients=report.num_clients, loss=report.loss, seconds=round(seconds, 3),
            validation=None if validation is None else validation.get(self.config.evaluation.selection_metric),
        )  # fmt: skip
        return report

    def _released(self) -> RoundStatistics:
        """The round's training. What a private round releases is on disk before silos are shown it: trained again with
        other silos it would get the same noise, and the difference would be a silo's own."""
        kept = self.folder if self.config.privacy.on else None
        found = released(kept, self.state)
        if found is not None:
            self._state, statistics = found
            self.members.know(self.state.named)
        else:
            statistics = self._train()
            self._state = replace(self.state, named=tuple(self.members.named.values()))
            save_released(kept, self.state, statistics)
        return statistics

    def _train(self) -> RoundStatistics:
        """The round's training, until enough of its clients counted."""
        state, local, number = self.state, self.local, self.state.server.round + 1
        chosen = self._chosen(number)
        if is_masked(local.config) and not chosen:
            return self._left_out(alone(number))
        there = sum(map(len, chosen.values()))
        chain = self._chain(number, cohort := there + self._absent(number))
        about = {} if chain is None else {"cohort": cohort, "clip": state.server.clip}
        received = downloaded(
            state.server.params, local.trainable(state.server.params, number), local.config.download_bits
        )
        sent = {f"{PARAMS}{name}": value for name, value in received.items()}
        if local.uses_controls:
            zeros = {name: torch.zeros_like(value) for name, value in received.items()}
            sent |= scaffold.named({**zeros, **state.server.control})
        last = {silo.name: silo.counted for silo in state.silos}
        requests = training_requests(chosen, last, about, sent, number, self.members.digest)
        expected = sums.expected_sums(local, state.server.params, number, chain)

        def accept(node: str, header: Header) -> Message:
            require(header, "sums", self.members.digest)
            found = header.with_tensors(expected)
            if header.message.round != number or found.body.get("clients") != len(chosen[node]):
                raise RefusedError(f"sums of round {header.message.round} over {found.body.get('clients')} clients.")
            require_plausible(found.tensors, len(chosen[node]), local, number, chain)
            return found

        needed = 0 if chain is None else chain.least_senders
        if there < needed <= cohort:
            raise lacks_noise(there, needed)
        least = max(self.options.quorum * there, needed)

        def enough(answered: set[str]) -> bool:
            return bool(answered) and sum(len(chosen[node]) for node in answered) >= least

        if chain is not None and is_masked(local.config):
            hidden = HiddenRound(self._masked, chosen, chain, local, self.members.digest)
            try:
                return self._step(state, *hidden.total(requests, enough, self._welcome), chain)
            except UnopenedError as error:
                return self._left_out(f"its masked sum was to be opened, and could not be: {error.message}")
        answers = self.members.gather(requests, accept, enough, self._welcome) if requests else {}
        counted = [
            SiloSums(answers[silo.name].tensors, len(chosen[silo.name])) for silo in state.silos if silo.name in answers
        ]
        return self._step(state, counted, set(answers), chain)

    def _left_out(self, why: str) -> RoundStatistics:
        """A round in which nothing is learnt, and nothing seen."""
        state, number = self.state, self.state.server.round + 1
        self.tell(f"round {number} is left out: {why}")
        self.conversation.events.add("round left out", round=number, why=why[:200])
        server, statistics = nothing_learnt(state.server, self.local.config)
        self._state = replace(state, server=server)
        return statistics

    def _step(
        self, begun: LeadState, counted: list[SiloSums], answered: set[str], chain: Chain | None
    ) -> RoundStatistics:
        """The server's step, from where the round has ``begun``, with the sums of those who ``answered``."""
        server, statistics = step(begun.server, counted, self.local, begun.num_trainable, chain)
        number, silos = server.round, self.state.silos
        facts = tuple(replace(silo, counted=number) if silo.name in answered else silo for silo in silos)
        self._state = replace(self.state, server=server, silos=facts)
        return statistics

    def _chosen(self, number: int) -> dict[str, IntArray]:
        """The round's clients by silo, as places among its trainable users; silos of too few sit the round out."""
        out = self.members.out_of(number)
        cohort = self._cohort(self.state.places(out if self.private is None else ()), number)
        own = {name: places for name, places in self.state.by_silo(cohort).items() if name not in out}
        if is_masked(self.local.config):
            return hiding(self.config, own)
        # In a private round whether a client counts may not depend on who else was drawn.
        fewest = 1 if self.private is not None else self.options.min_users
        chosen = {name: places for name, places in own.items() if len(places) >= fewest}
        if not chosen and self.private is None:
            raise too_few_drawn(fewest, number, len(cohort))
        return chosen

    def _absent(self, number: int) -> int:
        """How many clients of silos that are left out a private round draws: the account is that of all."""
        out = self.members.out_of(number) if self.private is not None else ()
        own = self.state.by_silo(self._cohort(self.state.places(()), number)) if out else {}
        return sum(len(own[name]) for name in out if name in own)

    def _cohort(self, everyone: IntArray, number: int) -> IntArray:
        seed = self.config.runtime.seed if self.private is None or self.secret is None else self.secret
        return drawn(self.local.config, self.private, everyone, number, seed)

    def _chain(self, number: int, cohort: int) -> Chain | None:
        """What the round's updates go through; None where they are sent as they are."""
        if not self.local.config.update_transforms:
            return None
        server = self.state.server
        return Chain.of(self.local, server.params, number, cohort, server.clip, self.private, self.secret)

    # Evaluation -----------------------------------------------------------------------------------------------------

    def evaluate(self, snapshot: Snapshot, split: str, *, of_best: bool = False) -> dict[str, float]:
        """Metrics of ``split`` over the users of all silos that answer."""
        return evaluated(self.members, self.state, snapshot, split, self._welcome, of_best=of_best)

    def _validate(self) -> dict[str, float] | None:
        """The validation of this round where it is due; the best round is kept."""
        state, own = self.state, self.config.evaluation
        number = state.server.round
        if number % own.interval and number != self.last_round:
            return None
        snapshot = Snapshot(state.server.evaluated, number)
        found = self.evaluate(snapshot, "validation")
        value = value_of(found, own.selection_metric)
        if state.best is not None and value <= state.best.value and not self.config.privacy.on:  # else: the last
            self._state = replace(state, stale=state.stale + 1)
        else:
            self._state = replace(state, best=Best(snapshot, value), stale=0)
        return found

    def finish(self) -> dict[str, dict[str, float]]:
        """Evaluates the best round on both splits and tells silos that it is over."""
        self._welcome(new=True)
        best = self.state.best
        snapshot = Snapshot(self.state.server.evaluated, self.state.server.round) if best is None else best.snapshot
        metrics = {split: self.evaluate(snapshot, split, of_best=best is not None) for split in ("validation", "test")}
        asked = {silo.name: Message("finish", settings=self.members.digest) for silo in self.state.silos}
        there = set(self.conversation.transport.nodes())
        self.conversation.ask({name: own for name, own in asked.items() if name in there}, accept_ready, 10.0)
        return metrics

    # Records --------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        self._state = self.on_save(replace(self.state, named=tuple(self.members.named.values())))
        if self.folder is not None:
            about = {
                "terms": terms_of(self.config),
                "offer": without_rounds(self.members.offer_terms),
                "catalogue": self.catalogue.digest,
            }
            save_lead(self.folder, self.state, about)
