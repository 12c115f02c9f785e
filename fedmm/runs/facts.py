"""Facts about a run: its data, its model, its sizes."""

from __future__ import annotations

import resource
import sys

import numpy as np

from fedmm.experiment import Experiment, TrainState
from fedmm.federation.availability import loses_clients
from fedmm.federation.largest_updates import is_off
from fedmm.federation.ledger import Ledger
from fedmm.federation.traffic import traffic
from fedmm.privacy.accountant import NAMES
from fedmm.privacy.plan import PrivacyPlan
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
    return None if plan is None else privacy_of(plan, rounds_done)


def privacy_of(plan: PrivacyPlan, rounds_done: int) -> PrivacyResult:
    """What the rounds of a plan have spent, and on what."""
    return PrivacyResult(
        epsilon=plan.spent(rounds_done),
        delta=plan.delta,
        noise_multiplier=plan.noise_multiplier,
        accountant=NAMES[plan.accountant],
        neighbouring=plan.neighbouring,
        releases=tuple(ReleaseFacts(**vars(release)) for release in plan.releases(rounds_done)),
        mechanism=plan.mechanism,
        bands=plan.bands,
    )


def expected_traffic(experiment: Experiment) -> Ledger:
    """The bytes of a whole run, the start included, from the shapes of its messages: those of the ledger at its end,
    or about those where clients ask for rows of the item table, since every client is taken to ask for as many as they
    do on average, and where messages are coded, of which it is a guess. Nothing where one trainer sees all data."""
    state, federation = experiment.initial_state(), experiment.federation
    ledger = state.ledger
    if experiment.centralized:
        return ledger
    config, rows = experiment.config.federation, _mean_rows(experiment)
    for first, last in ((1, config.warmup_rounds), (config.warmup_rounds + 1, config.rounds)):
        up, down = traffic(federation, state.server.params, first, rows)
        clients = federation.cohort_size * max(0, last - first + 1)
        ledger = ledger.add(up * clients, down * clients)
    return ledger


def _mean_rows(experiment: Experiment) -> int | None:
    """How many rows of the item table a client asks for in a round, on average over clients, where it draws no negative
    twice; None where all travel."""
    local, clients = experiment.federation.local, experiment.federation.clients
    if not local.sends_touched_rows:
        return None
    config, num_items = local.config, experiment.split.num_items
    windows = np.diff(local.windows.first)[clients]
    batches = -(-windows // config.batch_size)
    steps = config.steps_per_round if config.local_epochs is None else config.local_epochs * batches
    draws = 1 if config.negatives_per == "round" else steps
    own = np.array([len(np.unique(local.train[client])) for client in clients])
    return round(float(np.minimum(own + draws * local.num_negatives, num_items).mean()))


def announce_sizes(experiment: Experiment) -> str:
    """A sentence before a run: parameters, memory, and the bytes that will travel."""
    params = experiment.initial_state().server.params
    held = f"{num_parameters(params):,} parameters, memory so far {in_bytes(peak_rss_bytes())}"
    rounds = experiment.config.federation.rounds
    if experiment.centralized:
        return f"sizes: {held}; nothing travels in {rounds} rounds"
    total, start = expected_traffic(experiment), experiment.initial_state().ledger
    config = experiment.config.federation
    in_codes = not is_off(config.upload_share) or config.upload_step is not None or config.download_step is not None
    come_and_go = loses_clients(config) or config.day_rounds is not None
    bound = "about " if experiment.federation.local.sends_touched_rows or in_codes or come_and_go else ""
    begins = start.uplink_bytes + start.downlink_bytes
    first = f", {in_bytes(begins)} of them before the first round" if begins else ""
    return (
        f"sizes: {held}; {rounds} rounds of {experiment.federation.cohort_size:,} clients send {bound}"
        f"{in_bytes(total.uplink_bytes)} up and {in_bytes(total.downlink_bytes)} down{first}"
    )


def peak_rss_bytes() -> int:
    """Most memory this process has held: ``ru_maxrss`` is in kilobytes on Linux and in bytes on macOS."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
