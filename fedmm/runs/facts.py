"""Facts about a run: its data, its model, its sizes."""

from __future__ import annotations

import resource
import sys

from fedmm.experiment import Experiment, TrainState
from fedmm.federation.ledger import Ledger
from fedmm.federation.rounds import traffic
from fedmm.privacy.accountant import ACCOUNTANT
from fedmm.runs.result import DatasetFacts, ModelFacts, PrivacyResult, ReleaseFacts
from fedmm.utils.params import num_parameters
from fedmm.utils.text import in_bytes

SHORT_NAMES = {"visual": "w_vis", "semantic": "w_sem", "transition": "w_trans"}


def dataset_facts(experiment: Experiment) -> DatasetFacts:
    """Name, sizes and digest of the data."""
    interactions = experiment.dataset.interactions
    return DatasetFacts(
        name=experiment.dataset.name,
        digest=experiment.dataset.digest,
        num_users=interactions.num_users,
        num_items=interactions.num_items,
        num_interactions=len(interactions.histories.values),
    )


def model_facts(experiment: Experiment, state: TrainState) -> ModelFacts:
    """Size, gate and router weights of the best round; None where the model has no such part."""
    params = (state.snapshot if state.best is None else state.best.snapshot).params
    weights = experiment.recommender.expert_weights(params)
    return ModelFacts(
        num_parameters=num_parameters(params),
        gating_weight=experiment.recommender.gating_weight(params),
        **{short: weights.get(name) for name, short in SHORT_NAMES.items()},
    )


def privacy_result(experiment: Experiment, rounds_done: int) -> PrivacyResult | None:
    """What a private run has spent, and on what; None where the run is not private."""
    plan = experiment.federation.plan
    if plan is None:
        return None
    return PrivacyResult(
        epsilon=plan.spent(rounds_done),
        delta=plan.delta,
        noise_multiplier=plan.noise_multiplier,
        accountant=ACCOUNTANT,
        neighbouring=plan.neighbouring,
        releases=tuple(ReleaseFacts(**vars(release)) for release in plan.releases(rounds_done)),
    )


def expected_traffic(experiment: Experiment) -> Ledger:
    """The bytes of a whole run, the start included, from the shapes of its messages: those of the ledger at its end,
    or more where clients ask for rows of the item table, since all rows are taken to travel. Nothing where one trainer
    sees all data."""
    state, federation = experiment.initial_state(), experiment.federation
    ledger = state.ledger
    if experiment.centralized:
        return ledger
    config = experiment.config.federation
    for first, last in ((1, config.warmup_rounds), (config.warmup_rounds + 1, config.rounds)):
        up, down = traffic(federation, state.server.params, first)
        clients = federation.cohort_size * max(0, last - first + 1)
        ledger = ledger.add(up * clients, down * clients)
    return ledger


def announce_sizes(experiment: Experiment) -> str:
    """A sentence before a run: parameters, memory, and the bytes that will travel."""
    params = experiment.initial_state().server.params
    held = f"{num_parameters(params):,} parameters, memory so far {in_bytes(peak_rss_bytes())}"
    rounds = experiment.config.federation.rounds
    if experiment.centralized:
        return f"sizes: {held}; nothing travels in {rounds} rounds"
    total, start = expected_traffic(experiment), experiment.initial_state().ledger
    bound = "at most " if experiment.config.federation.num_negatives else ""
    begins = start.uplink_bytes + start.downlink_bytes
    first = f", {in_bytes(begins)} of them before the first" if begins else ""
    return (
        f"sizes: {held}; {rounds} rounds of {experiment.federation.cohort_size:,} clients send {bound}"
        f"{in_bytes(total.uplink_bytes)} up and {in_bytes(total.downlink_bytes)} down{first}"
    )


def peak_rss_bytes() -> int:
    """Most memory this process has held: ``ru_maxrss`` is in kilobytes on Linux and in bytes on macOS."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
