"""Which parts settings may name: those that ship, kind by kind, and those that users register. Nothing heavy loads.

A setting that names a part takes any known name. Before an unknown one is refused, the parts of installed packages
(entry points of the group ``fedmm.parts``) and of ``FEDMM_PARTS`` are loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import AfterValidator, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from fedmm.config.part_files import load_outside_parts
from fedmm.errors import ConfigError
from fedmm.utils.registry import Origin, OwnPart, callers_origin, own_parts

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Kind:
    """One kind of part: what it is called, which setting names it, and what ships."""

    word: str  # "server optimizer"
    setting: str  # the setting that names it
    built_in: Mapping[str, str]  # name -> what it is
    stores: tuple[str, ...]  # the registries that hold registered parts of the kind
    reserved: tuple[str, ...] = ()  # names with another meaning
    families: tuple[str, ...] = ()  # names that a setting follows by a colon and a model

    def own(self) -> dict[str, OwnPart]:
        """The registered parts by name."""
        return {name: part for store in self.stores for name, part in own_parts(store).items()}

    def names(self) -> tuple[str, ...]:
        """All known names, those that ship first."""
        return (*self.built_in, *self.own())


def _kind(
    word: str,
    setting: str,
    built_in: Mapping[str, str],
    *more_stores: str,
    reserved: tuple[str, ...] = (),
    families: tuple[str, ...] = (),
) -> Kind:
    return Kind(word, setting, built_in, (word.replace(" ", "_"), *more_stores), reserved, families)


KINDS: Mapping[str, Kind] = {
    kind.word.replace(" ", "_"): kind
    for kind in (
        _kind(
            "aggregation",
            "federation.aggregation",
            {
                "mean": "weighted mean of the clients' updates (FedAvg)",
                "heat": "the mean, an item's row divided by the clients that hold the item (FedSubAvg)",
                "median": "coordinate-wise median of single updates",
                "trimmed_mean": "coordinate-wise mean without the extremes of single updates",
            },
            "robust_aggregation",
        ),
        _kind(
            "server optimizer",
            "federation.server_optimizer",
            {
                "sgd": "a step along the aggregate",
                "momentum": "FedAvgM",
                "adam": "FedAdam",
                "yogi": "FedYogi",
                "adagrad": "FedAdagrad",
            },
        ),
        _kind(
            "local optimizer",
            "federation.local_optimizer",
            {"sgd": "plain steps", "adam": "Adam", "adamw": "Adam with decoupled weight decay"},
        ),
        _kind(
            "learning rate schedule",
            "federation.learning_rate_schedule",
            {
                "constant": "the same rate in every round",
                "linear": "falls in a line to zero",
                "cosine": "falls by half a cosine to zero",
            },
        ),
        _kind(
            "loss",
            "federation.loss",
            {
                "softmax": "cross-entropy over the candidates",
                "gbce": "generalised binary cross-entropy against each negative",
                "bpr": "Bayesian personalised ranking against each negative",
            },
        ),
        _kind(
            "cohort sampler",
            "federation.cohort_sampler",
            {
                "uniform": "without replacement, each client as likely as any other",
                "rotation": "in one random order, everyone once before anyone twice",
            },
        ),
        _kind(
            "update transform",
            "federation.update_transforms",
            {
                "clip": "bounds the norm of a client's update",
                "low_rank": "sends the item table's part in update_rank random directions of its columns",
                "rotate": "spreads it evenly by a random rotation",
                "round": "rounds it by chance to whole numbers of a few bits",
                "noise": "adds the noise of a private run",
                "noise_share": "adds the client's share of that noise, so that nobody sums up without it",
                "mask": "hides it in a secure sum",
            },
        ),
        _kind(
            "block",
            "model.block",
            {
                "sasrec": "attention and a ReLU layer of width D, each added (SASRec)",
                "ligr": "attention and SwiGLU of width 4 D, each added through a gate of its own (LiGR, eSASRec)",
            },
        ),
        _kind(
            "position encoding",
            "model.positions",
            {
                "learned": "a vector for each position of the window",
                "rotary": "queries and keys turned by their positions: attention sees distances (RoPE)",
            },
        ),
        _kind(
            "fusion",
            "model.fusion",
            {
                "residual": "the backbone, and the experts' mixture times a learnable gate",
                "competitive": "a mixture of backbone and experts",
                "backbone": "the backbone alone",
            },
        ),
        _kind(
            "expert",
            "model.experts",
            {
                "hybrid": "pooled and neighbors added up",
                "pooled": "recency-weighted pooling of the history's features",
                "neighbors": "whether a candidate is like what the history holds",
                "memory": "attention over a client's memory",
            },
            reserved=("transition", "backbone", "visual", "semantic"),
        ),
        _kind(
            "metric",
            "evaluation.extra_metrics",
            {
                "hr": "hit rate",
                "ndcg": "normalised discounted cumulative gain",
                "mrr": "mean reciprocal rank",
                "recall": "recall, the hit rate where there is one target",
            },
        ),
        _kind(
            "image encoder",
            "data.image_encoder",
            {
                "efficientnet-lite0": "1,280 numbers; weights in a package, Apache-2.0",
                "timm": "any model of timm: timm:NAME or timm:FOLDER; the model's own licence",
                "open_clip": "any of open_clip: open_clip:MODEL/WEIGHTS or open_clip:FOLDER; the model's own licence",
            },
            families=("timm", "open_clip"),
        ),
        _kind(
            "text encoder",
            "data.text_encoder",
            {
                "minilm": "384 numbers (all-MiniLM-L6-v2); weights in a package, Apache-2.0",
                "sentence-transformers": "any of its models: sentence-transformers:NAME or "
                "sentence-transformers:FOLDER; the model's own licence",
                "open_clip": "any of open_clip: open_clip:MODEL/WEIGHTS or open_clip:FOLDER; the model's own licence",
            },
            families=("sentence-transformers", "open_clip"),
        ),
    )
}


@dataclass(frozen=True)
class PartName:
    """Marks a setting that names a part: its schema lists the names known by now, and an unknown name is refused."""

    kind: str

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema of a choice among the known names."""
        kind = KINDS[self.kind]
        names = list(kind.own() if self.kind == "metric" else kind.names())  # the metrics that ship are always measured
        if kind.families:  # what stands behind the colon is free, so that there is no closed choice
            known = {"known": [f"{name}:MODEL" if name in kind.families else name for name in names]}
        else:
            known = {"enum": names} if names else {}
        return {**handler(core), **known, "part": self.kind}


def named(kind: str) -> tuple[PartName, AfterValidator]:
    """What makes a text setting one that names a part of ``kind``: ``Annotated[str, *named("loss")]``."""

    def check(name: str) -> str:
        if not is_known(kind, name):
            raise ValueError(f"there is no {KINDS[kind].word} {name!r}")
        return name

    return PartName(kind), AfterValidator(check)


def is_known(kind: str, name: str) -> bool:
    """Whether there is such a part, after loading what is registered outside where it is not known yet. A family's name
    must be followed by a colon and a model, others by nothing."""
    name, colon, model = name.partition(":")
    if bool(model.strip()) != (name in KINDS[kind].families) or bool(colon) != bool(model.strip()):
        return False
    if name not in KINDS[kind].names():
        load_outside_parts()
    return name in KINDS[kind].names()


def register_part(kind: str, name: str, part: Any, *, store: str | None = None) -> None:
    """Makes ``part`` known by ``name`` to settings and to the registry of ``kind`` (or its other ``store``).

    The same module may register a name again, as a notebook does when a cell runs twice. Raises ConfigError for a
    name that is taken or is no name.
    """
    word = KINDS[kind].word
    if not NAME.fullmatch(name) and name not in KINDS[kind].built_in:
        raise ConfigError(
            f"{name!r} cannot name a part ({word}).", "Give small letters, digits and underscores, a letter first."
        )
    origin = callers_origin()
    taken = KINDS[kind].own().get(name)
    if name in KINDS[kind].built_in or name in KINDS[kind].reserved:
        raise ConfigError(f"The {word} {name!r} ships with fedmm.", "Give yours another name.")
    if taken is not None and not _same_place(taken.origin, origin):
        raise ConfigError(
            f"The {word} {name!r} is registered already, by {taken.origin.file or taken.origin.module}.",
            "Give yours another name.",
        )
    unregister_part(kind, name)
    own_parts(store or KINDS[kind].stores[0])[name] = OwnPart(part, origin)


def unregister_part(kind: str, name: str) -> None:
    """Forgets a registered part; nothing happens where there is none of that name."""
    for store in KINDS[kind].stores:
        own_parts(store).pop(name, None)


def sees_single_updates(aggregation: str) -> bool:
    """Whether a rule reads single updates, so that every client has one vote and no secure sum can serve it."""
    return aggregation in ("median", "trimmed_mean") or aggregation in own_parts("robust_aggregation")


def own_parts_of(flat: Mapping[str, Any]) -> dict[str, dict[str, OwnPart]]:
    """The registered parts that settings name: ``{"aggregation": {"mine": ...}}``. ``flat`` has dotted keys."""
    found: dict[str, dict[str, OwnPart]] = {}
    for key, kind in KINDS.items():
        value = flat.get(kind.setting)
        named_here = value if isinstance(value, (list, tuple)) else [value]
        own = {name: part for name, part in kind.own().items() if name in named_here}
        if own:
            found[key] = own
    return found


def _same_place(one: Origin, other: Origin) -> bool:
    """Whether the same module is being read again, under its own name or as a file of parts."""
    return one.file == other.file if one.file and other.file else one.module == other.module and one.file == other.file
