"""What a run makes of the summed transition counts, and what the round before the first costs for it."""

from __future__ import annotations

from collections.abc import Iterator

from scipy.sparse import csr_matrix

from fedmm.config import ExperimentConfig
from fedmm.data.types import Ragged
from fedmm.federation.count_sums import PAIRS_PER_ITEM, CountSums, largest_counts
from fedmm.federation.ledger import Ledger, counts_message_bytes, degrees_message_bytes, sketch_message_bytes
from fedmm.models.kinship import Kinship
from fedmm.models.regression import Regression
from fedmm.models.succession import Succession, is_sparse
from fedmm.utils.text import in_bytes


def count_sums(config: ExperimentConfig, train: Ragged, num_items: int) -> CountSums:
    """The sums by the protocol of the settings; pooled data need none."""
    own, seed = config.federation, config.runtime.seed
    if own.mode == "centralized":
        return CountSums.of(train, num_items, "dense", seed)
    return CountSums.of(
        train, num_items, own.count_sums, seed, "largest" if own.counts_received == "largest" else "all"
    )


def received_counts(config: ExperimentConfig, counts: csr_matrix) -> csr_matrix:
    """What all clients receive of the summed ``counts`` [V, V], by settled settings."""
    own = config.federation
    all_of_them = own.count_sums == "dense" and own.counts_received != "largest"
    return counts if all_of_them else largest_counts(counts, config.runtime.seed)


def added_succession(config: ExperimentConfig, sums: CountSums) -> Succession | None:
    """What is added when the model scores; None where its weight is 0, or the model is to be the backbone alone."""
    return succession_of(config, sums.clients) if _adds_counts(config) else None


def succession_of(config: ExperimentConfig, counts: csr_matrix | None) -> Succession | None:
    """What is added of the ``counts`` [V, V] that clients received, by settled settings; None where nothing is."""
    weight = config.model.succession
    if counts is None or not weight or not _adds_counts(config):
        return None
    return Succession.build(counts, weight, config.model.succession_softening)


def added_regression(config: ExperimentConfig, sums: CountSums) -> Regression | None:
    """A regression that is added when the model scores; None where its weight is 0, or no counts are added."""
    return regression_of(config, sums.clients) if config.model.regression and _adds_counts(config) else None


def regression_of(config: ExperimentConfig, counts: csr_matrix | None) -> Regression | None:
    """The regression of the ``counts`` [V, V] that clients received, by settled settings; None where none is added."""
    weight = config.model.regression
    return Regression.build(counts, weight) if weight and counts is not None and _adds_counts(config) else None


def _adds_counts(config: ExperimentConfig) -> bool:
    return bool(config.model.succession) and config.model.fusion != "backbone"


def added_kinship(config: ExperimentConfig, attributes: csr_matrix | None) -> Kinship | None:
    """What items have in common; None without attributes, or at weight 0."""
    weight = config.model.kinship
    if attributes is None or config.model.fusion == "backbone":
        return None
    return Kinship.build(attributes, weight) if weight else None


def start_ledger(config: ExperimentConfig, sums: CountSums, *, received: bool) -> Ledger:
    """The bytes of the round that sums transition counts: all clients send theirs once, for all uses, and where the
    counts are ``received`` all clients get the sum. Before a sketch of them the items' degrees travel, both ways."""
    num_items, num_clients = sums.num_items, len(sums.train)
    size = config.federation.spectral_sketch_size
    if config.federation.mode == "centralized" or config.privacy.on:
        return Ledger()  # a private run has counts of its own
    if size is not None:
        degrees = degrees_message_bytes(num_items) * num_clients
        return Ledger().add(degrees + sketch_message_bytes(num_items, size) * num_clients, degrees)
    if not (config.federation.spectral_start or received):
        return Ledger()
    return Ledger().add(sums.uplink_bytes, sums.downlink_bytes(counts=received))


def count_notes(given: ExperimentConfig, config: ExperimentConfig, sums: CountSums, *, received: bool) -> Iterator[str]:
    """One sentence for each choice about counts that the data's shape made: ``config`` from what was ``given``."""
    if config.privacy.on:
        return  # a private run has counts of its own
    start = config.federation.spectral_start and config.federation.spectral_sketch_size is None
    if (start or received) and sums.note:
        yield sums.note
    chosen = config.federation.counts_received
    if received and chosen == "largest" != given.federation.counts_received:
        each, every = (in_bytes(own) for own in (sums.received_message_bytes, counts_message_bytes(sums.num_items)))
        yield (
            f"clients receive the largest counts, {PAIRS_PER_ITEM} an item: {each} each instead of {every} "
            "(federation.counts_received)"
        )
    weight = config.model.succession
    if weight and given.model.succession is None:
        short = is_sparse(sums.train, sums.num_items)
        why = f"histories are short for {sums.num_items:,} items" if short else f"there are {sums.num_items:,} items"
        yield f"what followed recent items is added to the scores at weight {weight:g}: {why} (model.succession)"
