"""Who takes part: silos are told what was agreed as they come, and again when they come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fedmm.config import ExperimentConfig
from fedmm.deployment.astray import AstrayError, GoneError, Strikes
from fedmm.deployment.catalogue import Catalogue
from fedmm.deployment.chained import is_masked
from fedmm.deployment.conversation import Accept, Conversation
from fedmm.deployment.lead_state import LeadState, Named
from fedmm.deployment.masks import FEWEST
from fedmm.deployment.messages import Header, Message, RefusedError, require, text, whole
from fedmm.deployment.sizes import MOST_CLIENTS, MOST_EVENTS, clients_in
from fedmm.deployment.terms import Terms, digest_of, terms_of
from fedmm.errors import ConfigError
from fedmm.privacy.plan import SHARES_OF_NOISE
from fedmm.utils.text import counted, listed

SAID_EVERY = 60.0  # seconds
FEW_USERS = 10  # sums over fewer say much of each one
Facts = dict[str, dict[str, int]]  # by silo: users, trainable, events


@dataclass(frozen=True)
class LeadOptions:
    """How rounds are led; nothing here decides what is learnt from the same answers."""

    silos: int = 1  # that have to be there before the first round
    quorum: float = 0.5  # share of a round's clients whose sums have to count
    deadline: float = 600.0  # seconds that a round waits for its silos
    wait: float = 0.5  # seconds before a round that lacks its quorum asks again
    min_users: int = 1  # one with fewer is left out; of whom fewer are drawn sits out, where nothing hides a sum
    take_back: tuple[str, ...] = ()  # silos that were named as lying, and take part again


def gone(what: str, options: LeadOptions) -> GoneError:
    """The error of a start that lacks silos, with its remedy."""
    return GoneError(
        f"{what} Waited {options.deadline:g} s.",
        "Bring all silos back and give the same command, or begin in another --output with silos that join from "
        "new folders; --deadline waits longer, and events.jsonl has what was refused.",
    )


@dataclass(eq=False)
class Members:
    """The silos of one federation, as the server speaks with them."""

    given: ExperimentConfig
    catalogue: Catalogue
    conversation: Conversation
    options: LeadOptions
    tell: Callable[[str], None]
    config: ExperimentConfig  # as the data settled it
    _said: float = float("-inf")
    _ready: dict[str, bool] = field(default_factory=dict)
    _why: dict[str, str] = field(default_factory=dict)  # silos do not begin, as it was told last
    _small: set[str] = field(default_factory=set)  # silos that are left out, until they come again
    named: dict[str, Named] = field(default_factory=dict)  # silos that lied, and are left out
    _few: set[str] = field(default_factory=set)  # silos of few users that were told of

    @cached_property
    def offer_terms(self) -> Terms:
        """What silos are told before anybody knows how much data there is."""
        return terms_of(self.given)

    @property
    def offer_digest(self) -> str:
        """Of the offer."""
        return digest_of(self.offer_terms, self.catalogue.digest)

    @property
    def digest(self) -> str:
        """Of what was agreed."""
        return digest_of(terms_of(self.config), self.catalogue.digest)

    def first(self, again: Collection[str] = ()) -> Facts:
        """Waits until as many silos are there as are asked for, and makes the offer. A start that silos were asked to
        open before a kill is over these silos ``again``: they open it over no others, who join later. Raises GoneError
        where they do not come back within the time that a round waits."""
        until = time.monotonic() + self.options.deadline
        while True:
            there = self._large(self.conversation.transport.nodes())
            if again:
                there = [node for node in there if node in again]
            least = len(again) or self.options.silos
            facts = self.introductions(there) if len(there) >= least else {}
            if facts and len(facts) >= least:
                return facts
            if again:
                missing = ", ".join(sorted(set(again) - (facts.keys() or set(there))))
                if time.monotonic() > until:
                    raise gone(
                        f"The start was to be opened, and of its silos {missing} did not come back.", self.options
                    )
                self.tell_seldom(f"the start was to be opened, of {missing} too: waiting for them")
            time.sleep(self.options.wait)

    def started(self, made: Callable[[Facts], LeadState], again: Collection[str] = ()) -> tuple[Facts, LeadState]:
        """What the start has ``made`` of the silos that are there, and of which: those who never give what is asked
        are left out. ``again``: as in ``first``. Raises what it raises, AstrayError where it cannot go on without
        them."""
        facts = self.first(again)
        while True:
            try:
                return facts, made(facts)
            except AstrayError as error:
                facts = self._without(facts, error)

    def introductions(self, nodes: Sequence[str], state: LeadState | None = None) -> Facts:
        """How much data each of ``nodes`` has; who does not know the terms and the catalogue is told them. ``state`` is
        that of the federation, once it has begun."""
        bases = {} if state is None else {silo.name: silo.base for silo in state.silos}
        asked = {node: Message("hello", settings=self.offer_digest) for node in nodes}
        known = self.conversation.ask(asked, _introduction, self.options.deadline)
        told = {node: own for node, own in known.items() if own.body.get("offered") == self.offer_digest}
        offer = Message(
            "offer",
            {"terms": self.offer_terms, "modalities": self.catalogue.modalities},
            self.catalogue.to_tensors(),
            settings=self.offer_digest,
        )
        rest = {node: offer for node in known if node not in told}
        answered = told | self.conversation.ask(rest, _introduction, self.options.deadline)
        facts: Facts = {}
        total = 0 if state is None else sum(silo.users for silo in state.silos)
        for node, own in answered.items():
            try:
                facts[node] = _amounts(own)
            except RefusedError as error:
                self.conversation.events.add("refused", node=node, why=str(error))
                continue
            if is_masked(self.given.federation) and not facts[node]["trainable"]:
                self._leave_out(node, "none of its users can be trained, so that it hides nobody in a masked sum")
                del facts[node]
                continue
            if self._too_small(node, facts[node]["users"], known=node in bases):
                del facts[node]
                continue
            total += 0 if node in bases else facts[node]["users"]
            if total > MOST_CLIENTS:
                self._leave_out(node, f"with its users there are {total:,}, and {MOST_CLIENTS:,} are the most")
                total -= facts.pop(node)["users"]
                continue
            agreed = state is not None and own.body.get("federation") == state.name
            same = own.body.get("begun") == self.digest and own.body.get("base") == bases.get(node)
            self._ready[node] = agreed and same
        return facts

    def _large(self, there: Sequence[str]) -> list[str]:
        """Those of ``there`` that are not left out. Who leaves and comes back is asked again, unless it lied."""
        self._small &= set(there)
        return [node for node in there if node not in self._small and node not in self.named]

    def _too_small(self, node: str, users: int, *, known: bool) -> bool:
        """Whether a silo is left out for its size; one of few users that is not is told of when it is new."""
        if users < self.options.min_users:
            self._leave_out(node, f"{users} of the {self.options.min_users} users that a silo has to have")
            return True
        if users < FEW_USERS and not known and node not in self._few:
            self._few.add(node)
            self.tell(
                f"{node} has {counted(users, 'user')}: sums over so few say much of each (--min-users leaves it out)"
            )
        return False

    def _without(self, facts: Facts, error: AstrayError) -> Facts:
        """The ``facts`` of a start that is made anew, without silos that went astray. Raises the error where it cannot
        be, or too few remain."""
        config = self.given
        noisy = SHARES_OF_NOISE in config.federation.update_transforms
        secret = config.privacy.on or is_masked(config.federation)
        rest = {node: own for node, own in facts.items() if node not in error.why}
        if not error.can_be_left(secret=secret, noise_of_silos=noisy) or len(rest) < self.options.silos:
            raise error
        for node, why in sorted(error.why.items()):
            self._leave_out(node, f"the start goes on without it: {why}")
            if node in error.lied:
                self.name(node, f"in the start: {why}", 0)
        return rest

    def name(self, node: str, why: str, number: int) -> None:
        """Notes that ``node`` lied in round ``number`` (0: in the start), and leaves it out from then on."""
        if node not in self.named:
            self.named[node] = Named(node, why[:200], number, round(time.time(), 3))
            self.conversation.events.add("named", node=node, why=why[:200], round=number)
            self.tell(f"{node} is left out from now on (lead --take-back {node} ends that)")

    def resume(self, named: Iterable[Named]) -> None:
        """As ``know``, of a federation that goes on; says who is to be taken back, and was not left out."""
        known = list(named)
        for node in sorted(set(self.options.take_back) - {own.silo for own in known}):
            self.tell(f"{node} is not taken back: it was not left out")
        self.know(known)

    def know(self, named: Iterable[Named]) -> None:
        """Leaves those out who were ``named`` before, but for who is taken back."""
        for own in named:
            if own.silo in self.options.take_back:
                self.conversation.events.add("taken back", node=own.silo)
                self.tell(f"{own.silo} is taken back: it was named in round {own.round}")
            else:
                self.named.setdefault(own.silo, own)

    def out_of(self, number: int) -> set[str]:
        """Who takes no part in round ``number``, since it lied in an earlier one: what a round asks for stays."""
        return {node for node, own in self.named.items() if own.round < number}

    def too_few(self, state: LeadState) -> str:
        """What is missing where too few silos are left beside those who lied; else nothing. Raises GoneError where
        nobody can join."""
        masked = is_masked(self.config.federation)
        left = [silo for silo in state.silos if silo.name not in self.named and silo.trainable]
        if not self.named or len(left) >= (FEWEST if masked else 1):
            return ""
        why = f"Without {listed(sorted(self.named))} {counted(len(left), 'silo')} of the federation can go on."
        if self.config.privacy.on:
            raise GoneError(why, "Give the same command with --take-back NAME, or begin in another --output.")
        return f"{why} Waiting for another to join (--take-back NAME takes one back)"

    def _leave_out(self, node: str, why: str) -> None:
        self.conversation.events.add("refused", node=node, why=why)
        self.tell(f"{node} is left out: {why}")
        self._small.add(node)

    def welcome(self, state: LeadState, *, new: bool = True) -> LeadState:
        """Tells silos that came, or came back, what was agreed, and takes new ones in; without ``new`` they wait."""
        known = {silo.name for silo in state.silos}
        for node in self.conversation.unready:
            self._ready.pop(node, None)
        self.conversation.unready.clear()
        there = self._large(self.conversation.transport.nodes())
        for node in [own for own in self._ready if own not in there]:
            del self._ready[node]
        strangers = [node for node in there if not self._ready.get(node) and (new or node in known)]
        if not strangers:
            return state
        for node, own in sorted(self.introductions(strangers, state).items()):
            silo = next((known for known in state.silos if known.name == node), None)
            if silo is None and self.config.privacy.on:
                self._leave_out(node, "the account is that of the users who were there as it began")
                self._ready[node] = False
                continue
            if silo is None:
                state = state.joined(node, own["users"], own["trainable"], own["events"])
                self.conversation.events.add("joined", node=node, users=own["users"])
                self.tell(f"{node} joins with {own['users']:,} users")
            elif (silo.users, silo.trainable) != (own["users"], own["trainable"]):
                why = f"{own['users']} users now, {silo.users} when it joined"
                self.conversation.events.add("refused", node=node, why=why)
                self.tell(f"{node} is left out: {why}")
                self._ready[node] = False
                continue
            if not self._ready[node]:
                self.begin([node], state)
        return state

    def begin(self, nodes: Sequence[str], state: LeadState) -> None:
        """Tells ``nodes`` the settled terms, and which clients are theirs."""
        bases = {silo.name: silo.base for silo in state.silos}
        terms = terms_of(self.config)
        asked = {
            node: Message(
                "begin",
                {"terms": terms, "base": bases[node], "federation": state.name, "trainable": state.num_trainable},
                state.begin,
                settings=self.digest,
            )
            for node in nodes
        }
        for node in self.conversation.ask(asked, accept_ready, self.options.deadline):
            self._ready[node] = True
        for node, why in sorted(self.conversation.cannot.items()):
            if self._why.get(node) != why:
                self.tell(f"{node} does not begin: {why}")
            self._why[node] = why

    def tell_seldom(self, sentence: str) -> bool:
        """Tells it, unless something was told so within the last minute; gives whether it did."""
        if time.monotonic() - self._said <= SAID_EVERY:
            return False
        self.tell(sentence)
        self._said = time.monotonic()
        return True

    def pause(self) -> None:
        """Waits before silos are asked again."""
        time.sleep(self.options.wait)

    def gather(
        self,
        requests: Mapping[str, Message],
        accept: Accept,
        enough: Callable[[set[str]], bool],
        again: Callable[[], None] = lambda: None,
        *,
        bounded: bool = False,
    ) -> dict[str, Message]:
        """Answers until they are enough; ``again`` is done before who is missing is asked again. ``bounded``: raises
        GoneError where they are not within the time that a round waits,
        AstrayError where one answers, and never with what was asked."""
        found: dict[str, Message] = {}
        strikes = Strikes()
        until = time.monotonic() + self.options.deadline
        while True:
            missing = {node: own for node, own in requests.items() if node not in found}
            found |= self.conversation.ask(missing, accept, self.options.deadline)
            if enough(set(found)):
                return found
            if self.tell_seldom(f"{len(found)} of {len(requests)} silos have answered: waiting for more"):
                self.conversation.events.add("waiting", answered=len(found), asked=len(requests))
            if bounded:
                strikes.note(self.conversation.astray, self.conversation.wrong)
                strikes.require()
            if bounded and time.monotonic() > until:
                missing_ones = ", ".join(sorted(requests.keys() - found.keys()))
                raise gone(f"The start lacks what {missing_ones} should send.", self.options)
            self.pause()
            again()


def too_few_drawn(fewest: int, number: int, cohort: int) -> ConfigError:
    """What is wrong where all silos would sit a round out."""
    return ConfigError(
        f"Of no silo {fewest} users are drawn in round {number}, of {cohort} in all.",
        "Raise federation.client_fraction, lower --min-users, or mask the sums (federation.update_transforms).",
    )


def lacks_noise(there: int, needed: int) -> GoneError:
    """What is wrong where silos that are left out would have to add their noise."""
    return GoneError(
        f"Without the silos that were named as lying {there:,} clients are left, and the noise takes {needed:,}.",
        "Give the same command with --take-back NAME, or begin in another --output.",
    )


def _amounts(message: Message) -> dict[str, int]:
    found = {name: clients_in(message.body, name) for name in ("users", "trainable")}
    found["events"] = whole(message.body, "events", MOST_EVENTS)
    if found["trainable"] > found["users"]:
        raise RefusedError("more users that train than there are.")
    return found


def _introduction(node: str, header: Header) -> Message:
    del node
    require(header, "introduction")
    for name in ("offered", "begun"):
        text(header.message.body, name)
    return header.with_tensors({})


def accept_ready(node: str, header: Header) -> Message:
    """Takes the answer to what needs none. Raises RefusedError."""
    del node
    require(header, "ready")
    return header.with_tensors({})
