"""Explains scores: every part's share, the router's weights, and which entries of the history mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmm.data.ragged import take_rows
from fedmm.data.types import FloatArray, IntArray, Ragged
from fedmm.evaluation.model_scorer import last_windows
from fedmm.evaluation.ranking import Scorer
from fedmm.experiment import Experiment
from fedmm.federation.snapshot import Snapshot
from fedmm.models.fusion import GATE
from fedmm.models.personal import GATE_OFFSET, personal_zeros
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.models.shares import Shares, shares
from fedmm.models.succession import RECENT
from fedmm.recommendation.explanations import Entry, Explanation, in_words
from fedmm.recommendation.recommend import Names, blocks_of
from fedmm.utils.params import Params, expand_for_clients
from fedmm.utils.records import Named

AT_ONCE = 64  # histories without one entry


@dataclass(frozen=True, eq=False)
class Explainer:
    """A model that is asked why."""

    experiment: Experiment
    snapshot: Snapshot
    scorer: Scorer
    names: Names

    def explain(self, user: int, history: IntArray, items: Sequence[int]) -> list[Explanation]:
        """One explanation for each of ``items``, after ``history`` of ``user`` (-1: nobody, without personal
        parameters)."""
        row = Ragged.from_rows([history])
        params = self._params(user)
        with torch.no_grad():
            total = self.scorer(np.array([user]), row)[0].double().cpu().numpy()
            found = self._shares(params, row)
        parts, weights = self._parts(found, row), {name: own[0] for name, own in found.weights.items()}
        places, changes = self._changes(user, history, total, items)
        real = self._real()
        means = {name: float(own[real].mean()) for name, own in parts.items()}
        gate = self._gate(params)
        explained = []
        for column, item in enumerate(items):
            entries = self._entries(history, places, changes[:, column])
            own = {name: float(part[item]) for name, part in parts.items()}
            lifts = {name: value - means[name] for name, value in own.items()}
            item_id, title = self._called(item)
            score = float(total[item])
            explained.append(
                Explanation(
                    item_id=item_id,
                    title=title,
                    score=score,
                    reason=max(lifts, key=lambda part: lifts[part]),
                    shares=Named[float](own),
                    lifts=Named[float](lifts),
                    weights=Named[float]({name: float(one[item]) for name, one in weights.items()}),
                    gate=gate,
                    entries=entries,
                    linear=found.linear,
                    words=in_words(title or item_id, score, lifts, entries, linear=found.linear),
                )
            )
        return explained

    def _params(self, user: int) -> Params:
        """Parameters with a client axis of one, the user's personal ones among them."""
        shared, own = self.snapshot.params, self.snapshot.clients.personal()
        recommender = self.experiment.recommender
        zeros = personal_zeros(recommender.config, shared[ITEM_TABLE], gate=recommender.has_gate)
        personal = own.of(np.array([user]), zeros) if zeros and own.entries else {}
        return expand_for_clients(shared) | personal

    def _shares(self, params: Mapping[str, Tensor], row: Ragged) -> Shares:
        items, last = last_windows(row, self.experiment.config.model.max_length)
        place = self.experiment.device
        windows = torch.from_numpy(items).unsqueeze(0).to(place)
        rows = torch.from_numpy(last).unsqueeze(0).to(place)
        experts = self.snapshot.round > self.experiment.config.federation.warmup_rounds
        return shares(self.experiment.recommender, params, windows, rows, experts=experts)

    def _parts(self, found: Shares, row: Ragged) -> dict[str, FloatArray]:
        """Every part's share of every item [V], what is added to the scores among them."""
        parts = {name: own[0, 0].double().cpu().numpy() for name, own in found.parts.items()}
        added = {name: part.scores(row).toarray()[0] for name, part in self.experiment.additions.items()}
        return parts | added

    def _changes(
        self, user: int, history: IntArray, total: FloatArray, items: Sequence[int]
    ) -> tuple[IntArray, NDArray[np.float64]]:
        """Places of the entries that scores can depend on [n], and what leaving each out takes from the scores of
        ``items`` [n, items]. The only entry of a history cannot be left out: nothing would be asked."""
        reach = max(self.experiment.config.model.max_length, RECENT)
        places = np.arange(max(0, len(history) - reach), len(history))
        if len(history) < 2:
            return places[:0], np.zeros((0, len(items)))
        without = Ragged.from_rows([np.delete(history, place) for place in places])
        scores = np.zeros((len(places), len(items)))
        for rows in blocks_of(len(places), AT_ONCE):
            with torch.no_grad():
                found = self.scorer(np.full(len(rows), user), take_rows(without, rows))
            scores[rows] = found[:, list(items)].double().cpu().numpy()
        return places, total[list(items)] - scores

    def _entries(self, history: IntArray, places: IntArray, changes: FloatArray) -> tuple[Entry, ...]:
        order = np.argsort(-np.abs(changes), kind="stable")
        called = {int(place): self._called(int(history[place])) for place in places}
        return tuple(
            Entry(item_id=called[at][0], title=called[at][1], place=at + 1, change=float(change))
            for at, change in zip(places[order].tolist(), changes[order].tolist(), strict=True)
        )

    def _gate(self, params: Mapping[str, Tensor]) -> float | None:
        if not self.experiment.recommender.has_gate:
            return None
        offset = float(params[GATE_OFFSET]) if GATE_OFFSET in params else 0.0
        return float(params[GATE]) + offset

    def _real(self) -> NDArray[np.bool_]:
        trained = self.experiment.split.candidates
        real = np.ones(self.experiment.split.num_items + 1, dtype=bool) if trained is None else trained.copy()
        real[0] = False
        return real

    def _called(self, item: int) -> tuple[str, str]:
        dataset = self.names.dataset
        return str(dataset.interactions.item_ids[item]), str(dataset.titles[item])
