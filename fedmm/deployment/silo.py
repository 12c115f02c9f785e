"""A silo: it holds the data of any number of users and answers the server's requests with sums over them.

It knows nothing of how messages travel: ``Silo.answer`` makes bytes of bytes. A request that it has answered already is
answered in the same way, so that what was lost on the way can be asked for again, and nothing is trained twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmm.config import ExperimentConfig
from fedmm.data.types import IntArray
from fedmm.deployment import masked_answers, noisy_start, sums
from fedmm.deployment.agreed import (
    name_of_offer,
    require_no_weaker,
    require_own_delta,
    require_own_demands,
    require_planned,
    require_same_data,
    require_same_plan,
)
from fedmm.deployment.building import PARAMS, build_local, counts_wanted, engine_of, parameter_shapes, private_rounds
from fedmm.deployment.catalogue import Catalogue
from fedmm.deployment.chained import Chain, hides_cohorts, is_masked
from fedmm.deployment.counting import counted_openly, require_agreed
from fedmm.deployment.hidden import hidden_seed
from fedmm.deployment.masks import SiloMasks
from fedmm.deployment.messages import Expected, Header, Message, RefusedError, encode, read_header, require, text, whole
from fedmm.deployment.seals import Checksums, Seal
from fedmm.deployment.sequences import Sequences
from fedmm.deployment.silo_data import SiloData, read_silo
from fedmm.deployment.silo_states import SiloStates, StateStore
from fedmm.deployment.sizes import clients_in, lacks_memory, require_counts_of, require_followable
from fedmm.deployment.terms import digest_of, joined_settings, terms_of
from fedmm.errors import FedmmError
from fedmm.evaluation.model_scorer import Addition, model_scorer, with_additions
from fedmm.evaluation.ranking import Scorer
from fedmm.federation import scaffold
from fedmm.federation.count_uses import regression_of, succession_of
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.private_rounds import PrivateRounds
from fedmm.federation.rounds import Engine
from fedmm.privacy.plan import SHARES_OF_NOISE
from fedmm.utils.files import write_atomically
from fedmm.utils.params import Params
from fedmm.utils.seeding import derive
from fedmm.utils.text import one_line

SERVER = "server"

OFFER_FILE, BEGIN_FILE = "offer.message", "begin.message"
Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Offered:
    """What a silo knows once it was told terms and catalogue."""

    digest: str
    config: ExperimentConfig
    catalogue: Catalogue
    data: SiloData
    name: str  # by which this silo keeps promises, whatever the server calls its federation


@dataclass(frozen=True, eq=False)
class Begun:
    """What a silo knows once the federation has begun."""

    digest: str
    config: ExperimentConfig
    base: int
    local: LocalTraining
    popularity: IntArray  # [V] of all clients
    additions: tuple[Addition, ...]  # of counts
    shapes: Expected  # of the model's parameters
    store: StateStore
    federation: str  # its name
    engine: Engine
    private: PrivateRounds | None  # None: rounds are not private


@dataclass(eq=False)
class Silo:
    """One silo. ``failure`` is what ends it: whoever carries its messages raises it once the answer is sent."""

    name: str
    config: ExperimentConfig  # its own: where its data are, and on what it computes
    folder: Path | None = None
    seal: Seal = field(default_factory=Checksums)
    tell: Tell = lambda _: None
    failure: FedmmError | None = None
    finished: bool = False
    secret: int | None = None  # seed of the noise that its users add; None: drawn, and kept in the folder
    _hidden_seed: int | None = None
    _offered: Offered | None = None
    _begun: Begun | None = None
    _states: SiloStates = field(default_factory=SiloStates)
    _last: tuple[str, Message] | None = None  # a federation and a request, and the answer

    def __post_init__(self) -> None:
        """Goes on where an earlier process of this silo was."""
        self._sequences = Sequences(self.folder)
        self._masks = SiloMasks(self.name, self.folder)
        for name in (OFFER_FILE, BEGIN_FILE):
            path = None if self.folder is None else self.folder / name
            if path is not None and path.exists():
                try:
                    header = read_header(path.read_bytes())
                    (self._offer if name == OFFER_FILE else self._begin)(header, keep=False)
                except RefusedError as error:  # damaged, or of another version: the server says it anew
                    self.tell(f"{path} is not used: {error}")

    def answer(self, data: bytes) -> bytes:
        """The answer to a request, sealed. Never raises for what a request holds: what cannot be followed is refused in
        one line, and what is wrong with the silo's own data is not told, but ends it (``failure``)."""
        request = Message("none")
        try:
            header = read_header(self.seal.open(data, SERVER))
            request = header.message
            self._sequences.take(request)
            found = self._answer(header)
        except RefusedError as error:
            found = self._refused(str(error))
        except FedmmError as error:
            self.failure = error
            found = Message("refused", {"why": f"the silo cannot go on ({error.code})"})
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            found = self._refused("what needs more memory than this silo has.")
        settings = self._begun.digest if self._begun is not None else ""
        stamped = replace(
            found, node=self.name, session=request.session, sequence=request.sequence, round=request.round,
            settings=settings,
        )  # fmt: skip
        return self.seal.close(encode(stamped))

    def _refused(self, why: str) -> Message:
        self.tell(f"refused {one_line(why, len(why))}")
        return Message("refused", {"why": one_line(why)})

    def _answer(self, header: Header) -> Message:
        kind = header.message.kind
        if kind == "hello":
            return self._introduction()
        if kind == "offer":
            return self._offer(header)
        if kind == "count":
            return self._count(header)
        if kind == "begin":
            return self._begin(header)
        if kind in ("keys", "roster", "agree", "open"):
            offered = self._require_offer()
            config, trainable = (self._begun or offered).config, len(offered.data.trainable)
            return masked_answers.answer(self._masks, header.message, config, trainable)
        if self._begun is None:
            return Message("unready")
        require(header, kind, self._begun.digest)
        if kind == "train":
            return self._train(header, self._begun)
        if kind == "evaluate":
            return self._evaluate(header, self._begun)
        if kind == "finish":
            self.finished = True
            self._masks.forget()
            self.tell("the federation has ended")
            return Message("ready")
        raise RefusedError(f"a request of kind {kind[:40]!r}, which this fedmm does not know.")

    def _introduction(self) -> Message:
        offered, begun = self._offered, self._begun
        body: dict[str, Any] = {"offered": offered.digest if offered else "", "begun": begun.digest if begun else ""}
        body |= {"base": begun.base, "federation": begun.federation} if begun else {}
        if offered is not None:
            train = offered.data.split.train
            body |= {
                "users": len(train),
                "trainable": len(offered.data.trainable),
                "events": int(train.lengths.sum()),
            }
        return Message("introduction", body)

    def _offer(self, header: Header, *, keep: bool = True) -> Message:
        body = header.message.body
        modalities = body.get("modalities")
        if not isinstance(modalities, dict) or not all(isinstance(own, int) for own in modalities.values()):
            raise RefusedError("an offer without the widths of its features.")
        catalogue = Catalogue.from_tensors(header.with_tensors(Catalogue.expected(modalities)).tensors)
        digest = digest_of(body.get("terms", {}), catalogue.digest)
        if digest != header.message.settings:
            raise RefusedError(f"an offer whose digest is {header.message.settings[:16]!r} and should be {digest!r}.")
        if self._offered is None or self._offered.digest != digest:
            config = joined_settings(body.get("terms", {}), self.config)
            require_followable(config, catalogue.num_items)
            require_own_demands(self.config, config)
            require_same_data(self._masks.promises, config, body["terms"], catalogue.item_ids.tolist())
            data = read_silo(config, catalogue, self.folder)
            require_own_delta(self.config, config, len(data.trainable))
            self._offered = Offered(digest, config, catalogue, data, name_of_offer(body["terms"], catalogue.digest))
            self._begun = None
            if keep:
                for note in (f"read {config.data.path}", *self._offered.data.notes):
                    self.tell(note)
                self._keep(OFFER_FILE, header, catalogue.to_tensors())
        return self._introduction()

    def _count(self, header: Header) -> Message:
        """The sums of the rounds before the first."""
        offered = self._require_offer()
        split, what = offered.data.split, text(header.message.body, "what")
        if not offered.config.privacy.on:
            require_agreed(offered.config, what)
        if offered.config.privacy.on or is_masked(offered.config.federation):
            return self._count_hidden(header, offered, what)
        return counted_openly(header, offered.config, split, what)

    def _count_hidden(self, header: Header, offered: Offered, what: str) -> Message:
        """The same where sums are masked or noisy."""
        config, split = offered.config, offered.data.split
        secret = self._noise_of(config, "start", offered.digest)
        own = masked_answers.Start(config, offered.catalogue, split, len(offered.data.trainable), secret)
        answer, words, least = masked_answers.counted(header, own, what)
        if words is None:
            return answer
        private, most = config.privacy.on, 0
        # Numbers that no noise covers are the same in whichever federation: they are opened for one list, ever.
        name, settings = (f"count {offered.name} {what}", offered.digest) if private else (f"count {what}", "")
        if least:
            most = clients_in(header.message.body, "trainable")
            self._masks.promises.hold(f"plan of {offered.name}", str(most))
        trainable = len(offered.data.trainable)
        part = masked_answers.Part(len(split.train) if trainable else 0, trainable, least, most)
        purpose = masked_answers.purpose_of(header, config, name, part, settings)
        return masked_answers.hidden(self._masks, header, answer, words, purpose)

    def _begin(self, header: Header, *, keep: bool = True) -> Message:
        offered = self._require_offer()
        body = header.message.body
        config = joined_settings(body.get("terms", {}), self.config)
        require_followable(config, offered.catalogue.num_items)
        digest = digest_of(body["terms"], offered.catalogue.digest)
        if digest != header.message.settings:
            raise RefusedError(f"terms whose digest is {header.message.settings[:16]!r} and should be {digest!r}.")
        trainable, federation = clients_in(body, "trainable"), text(body, "federation")
        if self._begun is not None and self._begun.federation != federation:
            self._begun = None  # what follows is not meant for the one before
        require_no_weaker(terms_of(offered.config), body["terms"])
        require_same_plan(
            self._masks.promises, offered.name, config, len(offered.data.trainable), trainable, federation
        )
        expected: dict[str, Any] = {"popularity": (torch.int64, (offered.catalogue.num_items + 1,))}
        if counts_wanted(config):
            expected |= sums.COUNTED
        if config.privacy.on and config.federation.spectral_start:
            expected |= noisy_start.expected_counts(offered.catalogue.num_items)
        tensors = header.with_tensors(expected).tensors
        require_counts_of(tensors["popularity"])
        base = clients_in(body, "base")
        counts = None
        if counts_wanted(config):
            counts = sums.told_counts(tensors, offered.catalogue.num_items)
        local = build_local(config, offered.catalogue, offered.data.train_of(base), counts)
        store = StateStore(self.folder, offered.data.user_ids, base, federation)
        self._states = store.load()
        noisy = noisy_start.noisy_addition(config, noisy_start.told_counts(tensors))
        of_counts = (succession_of(config, counts), regression_of(config, counts)) if not config.privacy.on else ()
        added = tuple(one for one in (*of_counts, noisy) if one)
        nobody = np.zeros(offered.catalogue.num_items + 1)
        private = private_rounds(config, local, trainable, nobody) if config.privacy.on else None
        self._begun = Begun(
            digest, config, base, local, tensors["popularity"].numpy(), added,
            parameter_shapes(local.recommender, local.dtype), store, federation, engine_of(config), private,
        )  # fmt: skip
        if keep:
            self._keep(BEGIN_FILE, header, tensors)
        return Message("ready")

    def _train(self, header: Header, begun: Begun) -> Message:
        request, local = header.message, begun.local
        expected: dict[str, Any] = {"clients": (torch.int64, (None,)), **begun.shapes}
        if local.uses_controls:
            expected |= {f"{scaffold.PREFIX}{name.removeprefix(PARAMS)}": own for name, own in begun.shapes.items()}
        tensors = header.with_tensors(expected).tensors
        assert self._offered is not None
        clients = self._chosen(tensors["clients"].numpy(), self._offered.data, begun.base)
        params = _on_device(_part(tensors, PARAMS), local)
        # A request says nothing of the settings or of the federation: the same one of another has another answer.
        key = f"{begun.federation} {begun.digest} {masked_answers.request_of(header)}"
        chain = self._chain(header, params, begun)
        if self._last is not None and self._last[0] == key:
            return self._hidden(header, self._last[1], chain, begun)
        states = self._states.before(request.round, whole(request.body, "counted"))
        control = _on_device(scaffold.unnamed(tensors), local)
        found = sums.trained_sums(local, begun.engine, params, clients, request.round, states.settled, control, chain)
        self._states = states.after(request.round, found.kept)
        begun.store.save(self._states)  # before anyone hears of it
        self.tell(f"round {request.round}: trained {len(clients)} of {len(self._offered.data.user_ids)} users")
        answer = Message("sums", {"clients": len(clients)}, found.tensors)
        self._last = key, answer
        return self._hidden(header, answer, chain, begun)

    def _hidden(self, header: Header, answer: Message, chain: Chain | None, begun: Begun) -> Message:
        """The answer as it is sent: with masks where there are any."""
        if chain is None or not is_masked(chain.turn.config):
            return answer
        name = f"train {self._require_offer().name} {header.message.round}"
        clients, least = whole(answer.body, "clients"), chain.least_senders
        part = masked_answers.Part(clients, len(self._require_offer().data.trainable), least, len(chain.turn.clients))
        purpose = masked_answers.purpose_of(header, begun.config, name, part, begun.digest)
        return masked_answers.hidden(self._masks, header, answer, chain.words(answer.tensors), purpose)

    def _chain(self, header: Header, params: Params, begun: Begun) -> Chain | None:
        """What the round's updates go through; None where they are sent as they are."""
        request = header.message
        if not begun.local.config.update_transforms:
            return None
        clip = request.body.get("clip")
        if clip is not None and not (isinstance(clip, float) and 0 < clip < math.inf):
            raise RefusedError(f"a bound on updates of {str(clip)[:40]!r}.")
        cohort = clients_in(request.body, "cohort")
        require_planned(request.round, cohort, begun.config, begun.private)
        secret = self._noise_of(begun.config, begun.federation, masked_answers.request_of(header, begun.digest))
        return Chain.of(begun.local, params, request.round, cohort, clip, begun.private, secret)

    def _noise_of(self, config: ExperimentConfig, *purpose: str) -> int | None:
        """The seed of the noise that this silo's users add to one sum; None where they add none. The same request has
        the same noise, another has its own: one noise over two sums would hide neither."""
        if self.secret is not None or SHARES_OF_NOISE not in config.federation.update_transforms:
            return self.secret
        self._hidden_seed = self._hidden_seed or hidden_seed(self.folder, new=True)
        assert self._offered is not None
        return derive(self._hidden_seed, *purpose, self._offered.data.digest)

    def _evaluate(self, header: Header, begun: Begun) -> Message:
        request, local = header.message, begun.local
        name, counted = text(request.body, "split"), whole(request.body, "counted")
        best, of_best = whole(request.body, "best"), bool(request.body.get("of_best"))
        if name not in ("validation", "test"):
            raise RefusedError(f"a request to evaluate {name[:40]!r}.")
        params = _on_device(_part(header.with_tensors(begun.shapes).tensors, PARAMS), local)
        if of_best:
            self._states = self._states.promoted(best)
            states = self._states.best
        else:
            states = self._states.now(counted)
            self._states = self._states.validated(request.round, counted, best)
        begun.store.save(self._states)
        assert self._offered is not None
        queries = self._offered.data.queries(name, begun.base)
        negatives = self._offered.data.negatives(queries, begun.popularity, begun.config)
        experts = request.round > begun.config.federation.warmup_rounds
        exact = replace(local.recommender, rounded=False)  # as the simulation scores
        scorer: Scorer = model_scorer(exact, params, local.device, experts=experts, clients=states)
        scorer = with_additions(scorer, begun.additions)
        return Message("metrics", tensors=sums.measured(scorer, queries, negatives, begun.config, local.device))

    def _chosen(self, places: IntArray, data: SiloData, base: int) -> IntArray:
        """The clients at these places among the trainable ones, ascending."""
        trainable = data.trainable
        own = None if self._begun is None else self._begun.config
        if not len(places) and own is not None and is_masked(own.federation) and hides_cohorts(own):
            return trainable[:0]  # of a masked sum: other silos cannot tell whose clients were drawn
        if not len(places) or places.min() < 0 or places.max() >= len(trainable) or (np.diff(places) <= 0).any():
            raise RefusedError(f"{len(places)} clients that are not among the {len(trainable)} of this silo.")
        return trainable[places] + base

    def _require_offer(self) -> Offered:
        if self._offered is None:
            raise RefusedError("a request before the offer.")
        return self._offered

    def _keep(self, name: str, header: Header, tensors: Mapping[str, Tensor]) -> None:
        if self.folder is not None:
            write_atomically(self.folder / name, encode(replace(header.message, tensors=tensors)))


def _part(tensors: Mapping[str, Tensor], prefix: str) -> Params:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _on_device(params: Params, local: LocalTraining) -> Params:
    return {name: value.to(local.device) for name, value in params.items()}
