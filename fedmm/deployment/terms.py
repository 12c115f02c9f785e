"""What a federation agrees on before it begins: the settings that decide its numbers, and the catalogue, by digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from fedmm.config import ExperimentConfig
from fedmm.data.types import Ragged
from fedmm.deployment.messages import RefusedError
from fedmm.errors import ConfigError
from fedmm.federation.aggregation import AGGREGATIONS
from fedmm.federation.data_rules import settled
from fedmm.federation.transforms.chain import stages_of
from fedmm.federation.transforms.contract import TransformRound

# How each silo filters and splits its own data; how its files are written is its own affair.
DATA = (
    "min_rating", "min_user_interactions", "repeats", "tie_order", "tie_seed", "split", "temporal_fraction",
    "validation_from", "test_from",
)  # fmt: skip
RUNTIME = ("seed", "dtype")
SECTIONS = ("model", "federation", "privacy", "evaluation")
# Settings of the federation that a simulation alone follows, and the values that leave it to what really happens.
SIMULATED: Mapping[str, Any] = {
    "upload_share": None, "upload_step": None, "download_step": None, "absence_rate": 0.0, "over_selection": 1.0,
    "deadline": None, "day_rounds": None, "late_updates": "lost",
}  # fmt: skip
Terms = Mapping[str, Any]


def settled_terms(config: ExperimentConfig, num_items: int, num_users: int, num_events: int) -> ExperimentConfig:
    """The settings with a value wherever a rule reads the data: silos tell how many users and events they have, so
    every history counts as one of the mean length."""
    length = max(1, round(num_events / max(num_users, 1)))
    nothing = np.broadcast_to(np.int64(0), num_users * length)  # whose length alone is read: it takes no memory
    shape = Ragged(nothing, np.arange(num_users + 1, dtype=np.int64) * length)
    return settled(config, shape, num_items)


def terms_of(config: ExperimentConfig) -> dict[str, Any]:
    """What silos are told of the settings."""
    all_settings = config.model_dump(mode="json")
    terms = {name: all_settings[name] for name in SECTIONS}
    terms["data"] = {name: all_settings["data"][name] for name in DATA}
    terms["runtime"] = {name: all_settings["runtime"][name] for name in RUNTIME}
    return terms


def digest_of(terms: Terms, catalogue: str) -> str:
    """Sixteen hex digits over the terms and the catalogue's digest."""
    text = json.dumps([terms, catalogue], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def joined_settings(terms: Terms, own: ExperimentConfig) -> ExperimentConfig:
    """A silo's settings: the server's ``terms``, and for what they leave open its own. Raises RefusedError where this
    fedmm cannot read them."""
    whole = isinstance(terms, dict) and terms.keys() == {*SECTIONS, "data", "runtime"}
    if not whole or not all(isinstance(own, dict) for own in terms.values()):
        raise RefusedError("terms without all sections of settings.", "Use one version of fedmm on both sides.")
    local = own.model_dump(mode="python")
    wrong = [name for name in terms["data"] if name not in DATA] + [n for n in terms["runtime"] if n not in RUNTIME]
    if wrong:
        raise RefusedError(f"terms that set {wrong[0]!r}, which is a silo's own.", "Ask whoever leads the federation.")
    tree = {
        **{name: terms[name] for name in SECTIONS},
        "data": {**local["data"], **terms["data"]},
        "runtime": {**local["runtime"], **terms["runtime"]},
    }
    try:
        return ExperimentConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise RefusedError(f"terms that this fedmm cannot read ({what}).", "Use one version on both sides.") from None


def _of_chains(config: ExperimentConfig) -> dict[str, bool]:
    """What is refused of masks and of noise, and whether it is so."""
    own, chain = config.federation, config.federation.update_transforms
    masked, private = "mask" in chain, config.privacy.on
    at = chain.index("mask") if masked else len(chain)
    return {
        f"federation.update_transforms {list(chain)} change what is masked already": bool(
            set(chain[at + 1 :]) - {"noise"}
        ),
        f"federation.update_transforms {list(chain)} with federation.local_algorithm {own.local_algorithm!r}, whose "
        "changes of control variates no mask hides": masked and own.local_algorithm == "scaffold",
        f"federation.update_transforms {list(chain)} with model.memory.num_prototypes "
        f"{config.model.memory.num_prototypes}, whose sums no mask hides": masked
        and bool(config.model.memory.num_prototypes),
        f"federation.update_transforms {list(chain)} with federation.spectral_sketch_size, whose sums no mask hides":
        masked and own.spectral_sketch_size is not None,
        f"privacy.kinds {config.privacy.kinds} are not counted by silos yet": private and bool(config.privacy.kinds),
        f'privacy.mechanism "{config.privacy.mechanism}" draws again the noise of the rounds before, which a server '
        "that leads silos does not keep": private and config.privacy.mechanism != "gaussian",
        "evaluation.protocols with popularity100 would tell all silos how often each item was met, and without "
        "federation.spectral_start there are no noisy counts of it": private
        and not own.spectral_start
        and "popularity100" in config.evaluation.protocols,
    }  # fmt: skip


def require_supported(config: ExperimentConfig) -> None:
    """Raises ConfigError for settings that silos on machines of their own cannot follow, or no chain can."""
    own, data = config.federation, config.data
    refused = {
        f'federation.mode "{own.mode}" has no silos': own.mode != "federated",
        f"federation.aggregation {own.aggregation!r} looks at single updates, and silos send sums": own.aggregation
        not in AGGREGATIONS,
        **_of_chains(config),
        f'data.split "{data.split}" needs all data in one place': data.split == "files"
        or (data.split == "temporal" and data.validation_from is None),
        f"data.cold_item_fraction {data.cold_item_fraction:g} holds items out of all silos": bool(
            data.cold_item_fraction
        ),
        **{
            f"federation.{name} {getattr(own, name)} belongs to a simulation": getattr(own, name) != value
            for name, value in SIMULATED.items()
        },
        "data.attributes are not part of a catalogue yet": data.attributes is not None,
        "runtime.start_from continues a run of one machine": config.runtime.start_from is not None,
    }
    for what, is_so in refused.items():
        if is_so:
            raise ConfigError(f"{what}.", "Set another value, or simulate with fedmm train.")
    stages_of(own.update_transforms, TransformRound(own, 0, 1, np.arange(2), (4,), table=(0, 2, 2)))
