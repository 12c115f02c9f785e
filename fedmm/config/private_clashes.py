"""What a private run must not release: settings whose releases no noise covers, refused by name with the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedmm.config.chain_order import refuse_disorder
from fedmm.config.parts import sees_single_updates

if TYPE_CHECKING:
    from fedmm.config.schema import ExperimentConfig

CHAIN = ("clip", "noise")
NOISES = ("noise", "noise_share")  # by whoever sums up, or by the clients
BY_CLIENTS = ("clip", "rotate", "round", "noise_share", "mask")


def refuse_unaccounted(config: ExperimentConfig) -> None:
    """Raises ValueError for the first setting of a private run that would release more than is accounted for, and for
    a chain whose order does not do what it promises."""
    refuse_disorder(config)
    if config.privacy.on:
        for sentence in _clashes(config):
            raise ValueError(f"a private run (privacy.{_switch(config)}) {sentence}")
    elif config.privacy.rounds is not None:
        raise ValueError("privacy.rounds has no effect without privacy: set privacy.epsilon, or unset privacy.rounds")
    elif found := [name for name in NOISES if name in config.federation.update_transforms]:
        raise ValueError(
            f'federation.update_transforms has "{found[0]}", whose size privacy decides: set privacy.epsilon or '
            "privacy.noise_multiplier, or leave it out"
        )


def refuse_nothing_to_train(config: ExperimentConfig) -> None:
    """Raises ValueError where what is frozen leaves nothing to train."""
    own = config.federation
    if config.model.fusion == "backbone" and (own.item_table, own.backbone) == ("frozen", "frozen"):
        raise ValueError(
            'federation.item_table "frozen" and federation.backbone "frozen" leave model.fusion "backbone" nothing '
            'to train: set one of them to "trained"'
        )
    if own.warmup_rounds and (own.item_table, own.backbone) == ("frozen", "frozen"):
        raise ValueError(
            f"federation.warmup_rounds {own.warmup_rounds} train the backbone alone, which federation.item_table "
            '"frozen" and federation.backbone "frozen" keep as it is: set warmup_rounds 0'
        )


def _switch(config: ExperimentConfig) -> str:
    privacy = config.privacy
    if privacy.epsilon is not None:
        return f"epsilon {privacy.epsilon:g}"
    return f"noise_multiplier {privacy.noise_multiplier:g}"


def _clashes(config: ExperimentConfig) -> Iterator[str]:
    own, model = config.federation, config.model
    if own.mode == "centralized":
        yield 'protects clients, and federation.mode "centralized" has none: set federation.mode "federated"'
    if own.local_algorithm == "scaffold":
        yield (
            'does not account for the control variates that clients of federation.local_algorithm "scaffold" send: '
            'set it to "fedavg"'
        )
    if model.memory.num_prototypes:
        yield (
            f"does not account for the sums behind model.memory.num_prototypes {model.memory.num_prototypes}: "
            "set it to 0"
        )
    if sees_single_updates(own.aggregation):
        yield (
            f"releases sums, not the single updates that federation.aggregation {own.aggregation!r} reads: "
            'set it to "mean"'
        )
    if own.client_weighting != "uniform":
        yield (
            f"weighs clients alike, and federation.client_weighting {own.client_weighting!r} would tell how long "
            'histories are: set it to "uniform"'
        )
    if model.transition:
        yield "does not release the whole transition counts that model.transition reads: set it to false"
    if model.succession:
        yield f"does not release the whole transition counts that model.succession {model.succession:g} adds: unset it"
    if own.spectral_sketch_size is not None:
        yield (
            f"starts from noisy counts, not from federation.spectral_sketch_size {own.spectral_sketch_size}: unset it"
        )
    if own.count_sums not in ("auto", "dense"):
        yield f'sums counts in whole, not by federation.count_sums {own.count_sums!r}: set it to "auto"'
    if own.cohort_sampler != "uniform":
        yield (
            f'knows no bound for cohorts of federation.cohort_sampler {own.cohort_sampler!r}: set it to "uniform" '
            "(privacy.cohorts says who takes part)"
        )
    if config.evaluation.patience:
        yield (
            f"does not account for the validation metrics that evaluation.patience {config.evaluation.patience} reads: "
            "set it to 0"
        )
    if own.warmup_rounds and own.backbone != "trained":
        yield (
            f"leaves the backbone as it started, which alone trains in federation.warmup_rounds {own.warmup_rounds}: "
            'set federation.backbone "trained", or warmup_rounds 0'
        )
    yield from _of_messages(config)
    yield from _of_bands(config)
    if config.privacy.accountant == "pld":
        yield from _of_losses(config)
    chain = own.update_transforms
    if "noise_share" in chain:
        yield from _of_shares(config)
    elif chain and not set(CHAIN) <= set(chain):
        missing = next(name for name in CHAIN if name not in chain)
        yield f"needs {missing!r} in federation.update_transforms {list(chain)}: add it, or unset update_transforms"


def _of_shares(config: ExperimentConfig) -> Iterator[str]:
    """What clashes where the clients add the noise: then whoever sums up is not trusted, and sees who takes part."""
    chain = config.federation.update_transforms
    if "noise" in chain:
        yield 'has both "noise" and "noise_share" in federation.update_transforms: leave out the one or the other'
    order = [name for name in chain if name in BY_CLIENTS and name != "rotate"]
    if order != ["clip", "round", "noise_share", "mask"] or chain[-1] != "mask":
        yield (
            f"adds noise at the clients, which hides a client only in a masked sum of whole numbers, and "
            f"federation.update_transforms is {list(chain)}: set it to {list(BY_CLIENTS)}"
        )
    if config.privacy.cohorts != "all":
        yield (
            f"adds noise at the clients, so that nobody is trusted who sees who takes part, and privacy.cohorts "
            f'"{config.privacy.cohorts}" hides a client by not asking it: set privacy.cohorts "all"'
        )


def _of_bands(config: ExperimentConfig) -> Iterator[str]:
    """What clashes where the noise of one round is taken back by the next ones."""
    own = config.federation
    if config.privacy.mechanism != "banded":
        return
    if config.privacy.cohorts != "poisson":
        yield (
            f'has clients take turns for privacy.mechanism "banded", which privacy.cohorts "{config.privacy.cohorts}" '
            'do not: set privacy.cohorts "poisson", or privacy.mechanism "gaussian"'
        )
    if others := [name for name in own.update_transforms if name not in CHAIN]:
        yield (
            f'takes noise back number by number with privacy.mechanism "banded", and federation.update_transforms '
            f'{list(own.update_transforms)} have "{others[0]}": set it to {list(CHAIN)}, or privacy.mechanism '
            '"gaussian"'
        )
    if own.day_rounds:
        yield (
            f'has clients take turns for privacy.mechanism "banded", and with federation.day_rounds {own.day_rounds} '
            "some would have all of theirs at night: unset day_rounds"
        )
    if own.warmup_rounds:
        yield (
            f'takes noise back number by number with privacy.mechanism "banded", and federation.warmup_rounds '
            f"{own.warmup_rounds} send other numbers than the rounds after them: set warmup_rounds 0"
        )


def _of_losses(config: ExperimentConfig) -> Iterator[str]:
    """What has no privacy loss distribution that is known."""
    if config.privacy.cohorts == "fixed":
        yield (
            'has no account by privacy.accountant "pld" for privacy.cohorts "fixed": set privacy.cohorts "poisson" or '
            '"all", or privacy.accountant "rdp"'
        )
    if "round" in config.federation.update_transforms:
        yield (
            'adds noise of whole numbers after "round" in federation.update_transforms, of which privacy.accountant '
            '"pld" has no account: leave out "round", or set privacy.accountant "rdp"'
        )


def _of_messages(config: ExperimentConfig) -> Iterator[str]:
    """What clashes about how updates are rounded, and about who is there."""
    own = config.federation
    if own.upload_bits is not None:
        yield (
            f'rounds updates by "round" in federation.update_transforms, not by federation.upload_bits '
            f"{own.upload_bits}: unset upload_bits"
        )
    if own.upload_share is not None and own.upload_share < 1:
        yield (
            f"covers no places, by which federation.upload_share {own.upload_share:g} would tell which numbers are "
            "large: unset upload_share"
        )
    if own.upload_step is not None:
        yield (
            f'rounds updates by "round" in federation.update_transforms, not by federation.upload_step '
            f"{own.upload_step:g}: unset upload_step"
        )
    if own.over_selection > 1.0:
        yield (
            f"would let one client take another's place among the first of federation.over_selection "
            f"{own.over_selection:g}: set it to 1 (a federation.deadline goes by each client's own time)"
        )
    if own.day_rounds is not None and config.privacy.cohorts == "fixed":
        yield (
            f'draws privacy.cohorts "fixed" from fewer clients where federation.day_rounds {own.day_rounds} keep some '
            'away, which hides each of them less: set privacy.cohorts "poisson", or unset day_rounds'
        )
