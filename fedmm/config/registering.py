"""Parts of a user's own: registered here, known to settings, studies and commands as those that ship are.

Nothing heavy loads. A part must be a pure function of its arguments: it is called in several processes, and again where
a run is resumed. ``fedmm.testing`` holds the laws that every part of a kind owes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fedmm.config.parts import register_part
from fedmm.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from fedmm.federation.aggregation import Aggregation
    from fedmm.federation.cohorts import CohortSampler
    from fedmm.federation.optimizers import LocalOptimizer
    from fedmm.federation.robust_aggregation import RobustAggregation
    from fedmm.federation.schedules import Schedule
    from fedmm.federation.server_optimizers import Step
    from fedmm.federation.transforms import UpdateTransform
    from fedmm.models.blocks import Block
    from fedmm.models.experts import Expert
    from fedmm.models.fusion import Fusion
    from fedmm.models.losses.registry import Loss
    from fedmm.models.positions import PositionEncoding


@dataclass(frozen=True)
class RowLoss:
    """A loss given as one function of rows of logits."""

    function: Callable[[Tensor, Tensor], Tensor]
    pairwise: bool


@dataclass(frozen=True)
class OwnEncoder:
    """An encoder given as one function of a list of pictures or texts."""

    encode: Callable[[Sequence[Any]], Any]
    licence: str


def register_aggregation(name: str, rule: Aggregation | RobustAggregation, *, single_updates: bool = False) -> None:
    """Makes ``federation.aggregation = name`` join the clients' updates by ``rule``.

    ``rule(total, config)`` gets the cohort's sums (``fedmm.federation.aggregation.UpdateSum``: ``deltas`` by parameter,
    each sum_c w_c delta_c, ``weight`` = sum_c w_c, ``holders`` [V] the weight of the clients that hold an item) and
    returns the aggregate, one tensor a parameter in ``total.deltas``. A rule of that form could read a secure sum.
    With ``single_updates`` it is ``rule(blocks, train, num_items, config)`` and sees every client's update, as the
    median does. FedAvg (McMahan et al., AISTATS 2017) is the first of the examples.

    Raises ConfigError for a name that is taken or is no name (small letters, digits, underscores).

    >>> import fedmm
    >>> def plain_mean(total, config):
    ...     return {key: value / total.weight for key, value in total.deltas.items()}
    >>> fedmm.register_aggregation("plain_mean", plain_mean)
    >>> fedmm.load_config(set={"federation.aggregation": "plain_mean"}).federation.aggregation
    'plain_mean'
    """
    register_part("aggregation", name, rule, store="robust_aggregation" if single_updates else None)


def register_server_optimizer(name: str, step: Step) -> None:
    """Makes ``federation.server_optimizer = name`` turn the aggregate into new parameters by ``step``.

    ``step(value, gradient, key, state, config)`` gets one parameter, its pseudo-gradient (minus the aggregate) of the
    same shape, the parameter's name and all state so far, and returns the new value and the state that changed: flat
    tensors named ``"<word>/<key>"``, which checkpoints keep. Reddi et al., *Adaptive Federated Optimization*, ICLR
    2021, has the frame. The rate is ``config.server_rate``.

    Raises ConfigError for a name that is taken or is no name.

    >>> import fedmm
    >>> def sign_step(value, gradient, key, state, config):
    ...     return value - config.server_rate * gradient.sign(), {}
    >>> fedmm.register_server_optimizer("sign", sign_step)
    >>> fedmm.load_config(set={"federation.server_optimizer": "sign"}).federation.server_rate
    0.02
    """
    register_part("server_optimizer", name, step)


def register_local_optimizer(name: str, optimizer: LocalOptimizer) -> None:
    """Makes ``federation.local_optimizer = name`` train clients by ``optimizer``.

    ``optimizer(params, config)`` gets the parameters of C clients, each [C, ...], and returns
    ``update(value, gradient, key, num_active, step)``, which changes ``value`` [C', ...] of the first C' =
    ``num_active`` clients in place; ``step`` counts from 1. It starts afresh every round: no state stays with a client.
    The rate is ``config.learning_rate``. It serves both engines and pooled training (``mode = "centralized"``), where
    it starts afresh every epoch.

    Raises ConfigError for a name that is taken or is no name.

    >>> import fedmm
    >>> def sign_sgd(params, config):
    ...     def update(value, gradient, key, num_active, step):
    ...         value.sub_(config.learning_rate * gradient.sign())
    ...     return update
    >>> fedmm.register_local_optimizer("sign_sgd", sign_sgd)
    >>> fedmm.load_config(set={"federation.local_optimizer": "sign_sgd"}).federation.local_optimizer
    'sign_sgd'
    """
    register_part("local_optimizer", name, optimizer)


def register_loss(name: str, loss: Loss | Callable[[Tensor, Tensor], Tensor], *, pairwise: bool = False) -> None:
    """Makes ``federation.loss = name`` train clients by ``loss``.

    ``loss(logits, targets)`` gets a client's logits [R, N], -inf where a row has no such candidate, and the columns of
    the targets [R], and returns each row's loss [R], differentiable in the logits. ``pairwise`` says that it sets the
    target against single negatives: they are then drawn from outside the client's history, as for BPR (Rendle et al.,
    UAI 2009). A ``fedmm.models.losses.registry.Loss`` with fused forms of its own may stand in its place.

    Raises ConfigError for a name that is taken or is no name.

    >>> import fedmm
    >>> from torch.nn.functional import cross_entropy
    >>> def smoothed(logits, targets):
    ...     return cross_entropy(logits / 2.0, targets, reduction="none")
    >>> fedmm.register_loss("smoothed", smoothed)
    >>> fedmm.load_config(set={"federation.loss": "smoothed"}).federation.loss
    'smoothed'
    """
    from_rows = callable(loss)
    register_part("loss", name, RowLoss(loss, pairwise) if from_rows else loss)  # type: ignore[arg-type]


def register_block(name: str, block: Block) -> None:
    """Makes ``model.block = name`` build the backbone of blocks of one's own.

    A ``fedmm.models.blocks.Block`` gives the parameters of one block (float64, without a client axis) and turns states
    [C, B, L, D] into states, C clients at once, each with parameters of its own; ``fedmm.models.blocks.attention`` and
    ``fedmm.models.layers.linear`` take them so. Vaswani et al. (NeurIPS 2017) have the first of the kind.

    Raises ConfigError for a name that is taken or is no name.

    >>> import fedmm
    >>> from fedmm.models.blocks import Block, attention, init_attention
    >>> bare = Block(
    ...     init=lambda config, normal: init_attention(config.hidden_dim, normal, share=0.3),
    ...     apply=lambda params, name, x, config, dropout: x + dropout(attention(params, name, x, config)),
    ... )
    >>> fedmm.register_block("bare", bare)
    >>> fedmm.load_config(set={"model.block": "bare"}).model.block
    'bare'
    """
    register_part("block", name, block)


def register_position_encoding(name: str, encoding: PositionEncoding) -> None:
    """Makes ``model.positions = name`` tell the backbone the order of a history.

    A ``fedmm.models.positions.PositionEncoding`` may have parameters, adds to the embedded items [C, B, L, D], and may
    turn every head's queries and keys [N, H, L, K]. Positions count from the start of the window.

    Raises ConfigError for a name that is taken or is no name.

    >>> import fedmm
    >>> import torch
    >>> from fedmm.models.positions import PositionEncoding
    >>> def ramp(params, x):
    ...     return x + torch.linspace(0.0, 1.0, 50, dtype=x.dtype)[: x.shape[2], None]
    >>> fedmm.register_position_encoding("ramp", PositionEncoding(lambda config, normal: {}, ramp, lambda heads: heads))
    >>> fedmm.load_config(set={"model.positions": "ramp"}).model.positions
    'ramp'
    """
    register_part("position_encoding", name, encoding)


def register_fusion(name: str, fusion: Fusion) -> None:
    """Makes ``model.fusion = name`` join backbone and experts by ``fusion``.

    A ``fedmm.models.fusion.Fusion`` says whether the router weighs the backbone too, gives the parameters that it
    trains (float64, without a client axis), and turns the router's weights [C, N, M] into coefficients: None for a
    backbone that always counts 1, and [C, N] for each expert. A parameter ``fusion.gate`` of one number is reported as
    the gate, round by round.

    Raises ConfigError for a name that is taken or is no name.

    >>> import fedmm
    >>> from fedmm.models.fusion import Fusion, Mixture
    >>> halves = Fusion(
    ...     routes_backbone=False,
    ...     init=lambda config: {},
    ...     mix=lambda params, weights: Mixture(None, tuple(0.5 * own for own in weights.unbind(-1))),
    ... )
    >>> fedmm.register_fusion("halves", halves)
    >>> fedmm.load_config(set={"model.fusion": "halves"}).model.fusion
    'halves'
    """
    register_part("fusion", name, fusion)


def register_expert(name: str, kind: type[Expert]) -> None:
    """Makes ``model.experts = name`` add an expert of ``kind`` to the backbone, one a modality.

    ``kind`` is a class made from ``fedmm.models.experts.Expert``, whose docstring has a whole one: ``init`` gives its
    parameters, ``term`` queries [C, R, K] and keys [N, K] whose products are its scores, or ``constants`` scores
    [C, R, N] without parameters. The router weighs what it says, candidate by candidate.

    Raises ConfigError for a name that is taken or is no name.

    >>> import fedmm
    >>> from fedmm.models.experts import Expert
    >>> class Silent(Expert):
    ...     pass
    >>> fedmm.register_expert("silent", Silent)
    >>> fedmm.load_config(set={"model.experts": "silent"}).model.experts
    'silent'
    """
    register_part("expert", name, kind)


def register_metric(name: str, gain: Callable[[Any], Any]) -> None:
    """Makes the metric ``name`` known; ``evaluation.extra_metrics = [name]`` measures it.

    ``gain(places)`` gets places [n], 0 the top, and returns what a target there earns, float64 [n] in 0 to 1. Ties
    and cutoffs are no concern of it: a target that is tied earns the mean over the places it may stand at, and places
    from the cutoff on earn nothing. NDCG (Järvelin and Kekäläinen, 2002) is 1 / log2(place + 2).

    Raises ConfigError for a name that is taken or is no name.

    >>> import fedmm
    >>> fedmm.register_metric("rbp", lambda places: 0.8**places)
    >>> config = fedmm.load_config(
    ...     set={"evaluation.extra_metrics": ["rbp"], "evaluation.selection_metric": "full/rbp_at_10"}
    ... )
    >>> config.evaluation.selection_metric
    'full/rbp_at_10'
    """
    register_part("metric", name, gain)


def register_schedule(name: str, schedule: Schedule) -> None:
    """Makes ``federation.learning_rate_schedule = name`` scale the clients' learning rate over the rounds.

    ``schedule(progress)`` gets the share of the rounds that is done, from 0 up to below 1, and returns the factor.

    Raises ConfigError for a name that is taken or is no name.

    >>> import fedmm
    >>> fedmm.register_schedule("square_root", lambda progress: (1.0 - progress) ** 0.5)
    >>> fedmm.load_config(
    ...     set={"federation.learning_rate_schedule": "square_root"}
    ... ).federation.learning_rate_schedule
    'square_root'
    """
    register_part("learning_rate_schedule", name, schedule)


def register_cohort_sampler(name: str, sampler: CohortSampler) -> None:
    """Makes ``federation.cohort_sampler = name`` draw each round's clients by ``sampler``.

    ``sampler(clients, size, seed, round_number)`` gets the indices of all clients [n], ascending, and returns ``size``
    of them, each once; rounds count from 1. It must be a function of its arguments alone:
    ``fedmm.utils.seeding.numpy_stream`` gives random numbers by seed and name.

    Raises ConfigError for a name that is taken or is no name.

    >>> import fedmm
    >>> fedmm.register_cohort_sampler("first", lambda clients, size, seed, round_number: clients[:size])
    >>> fedmm.load_config(set={"federation.cohort_sampler": "first"}).federation.cohort_sampler
    'first'
    """
    register_part("cohort_sampler", name, sampler)


def register_update_transform(name: str, transform: UpdateTransform) -> None:
    """Makes ``name`` known as a stage of ``federation.update_transforms``, between a client and the server's sum.

    ``transform(turn, bound)`` gets the round (``fedmm.federation.transforms.TransformRound``: settings, seed, number,
    cohort) and what is known of a vector there (``Bound``: ``width``, ``norm``), and returns a ``Stage``: ``send``
    [C, P] at the clients, ``receive`` [P] that undoes it on their sum, ``on_sum`` before anyone reads the sum, and the
    ``bound`` of what leaves it, which the noise of a later stage goes by. McMahan et al. (ICLR 2018) clip so.

    Raises ConfigError for a name that is taken or is no name.

    >>> import fedmm
    >>> from fedmm.federation.transforms import Stage
    >>> def halved(turn, bound):
    ...     return Stage(bound, send=lambda vectors, clients: vectors / 2, receive=lambda total: total * 2)
    >>> fedmm.register_update_transform("halved", halved)
    >>> fedmm.load_config(set={"federation.update_transforms": ["halved"]}).federation.update_transforms
    ('halved',)
    """
    register_part("update_transform", name, transform)


def register_encoder(
    name: str,
    encode: Callable[[Sequence[Any]], Any],
    *,
    reads: Literal["images", "texts"],
    licence: str = "not stated",
) -> None:
    """Makes ``data.image_encoder = name`` (or ``data.text_encoder``, as ``reads`` says) turn items' pictures or texts
    into features by ``encode``.

    ``encode(batch)`` gets a list of n upright RGB pictures (``PIL.Image``) or of n texts and returns finite numbers
    [n, F], of one width always. Vectors are kept by content for as long as the file that registers the part does not
    change (those of a notebook are not kept); ``licence``, that of its weights, is stated where features are made.

    Raises ConfigError for a name that is taken or is no name, or where ``reads`` is neither.

    >>> import fedmm
    >>> import numpy as np
    >>> def mean_colour(pictures):
    ...     return np.stack([np.asarray(one, dtype=float).mean(axis=(0, 1)) for one in pictures])
    >>> fedmm.register_encoder("mean_colour", mean_colour, reads="images")
    >>> fedmm.load_config(set={"data.image_encoder": "mean_colour"}).data.image_encoder
    'mean_colour'
    """
    if reads not in ("images", "texts"):
        raise ConfigError(f"An encoder reads images or texts, not {reads!r}.", 'Give reads="images" or reads="texts".')
    register_part("image_encoder" if reads == "images" else "text_encoder", name, OwnEncoder(encode, licence))
