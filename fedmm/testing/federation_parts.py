"""Laws of what the federation is made of: aggregations, optimizers, schedules and samplers of cohorts."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fedmm.config import FederationConfig
from fedmm.data.types import Ragged
from fedmm.federation.aggregation import Aggregation, sum_updates
from fedmm.federation.cohorts import CohortSampler
from fedmm.federation.local_training import UpdateBlock
from fedmm.federation.optimizers import LocalOptimizer
from fedmm.federation.robust_aggregation import RobustAggregation
from fedmm.federation.schedules import Schedule
from fedmm.federation.server_optimizers import State, Step
from fedmm.federation.transforms import Bound, TransformRound, UpdateTransform
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.testing.laws import all_finite, require, same
from fedmm.utils.params import Params
from fedmm.utils.seeding import numpy_stream, torch_stream

NUM_ITEMS = 6
SHAPES = {ITEM_TABLE: (NUM_ITEMS + 1, 2), "fusion.gate": (), "router.weight": (2, 3)}
CLOSE = 1e-9
ROUNDING = 0.2  # of vectors of norm 1 that come back from whole numbers


def check_aggregation(
    rule: Aggregation | RobustAggregation, *, single_updates: bool = False, mean: bool = False
) -> None:
    """Checks the laws of an aggregation: a finite tensor for each parameter that travelled and for no other, of its
    shape; arguments left alone; no order of clients and no cut into blocks matters; equal calls give equal results.

    With ``mean`` also that it is one: identical clients give that client's update, and scaling all updates scales the
    aggregate. ``rule`` and ``single_updates`` are what ``fedmm.register_aggregation`` takes. Raises AssertionError with
    the law that is broken.

    >>> from fedmm.testing import check_aggregation
    >>> def halved_mean(total, config):
    ...     return {name: value / total.weight / 2 for name, value in total.deltas.items()}
    >>> check_aggregation(halved_mean)
    >>> check_aggregation(halved_mean, mean=True)
    Traceback (most recent call last):
    AssertionError: identical clients do not give that client's update
    """
    for seed, num_clients in ((0, 5), (1, 2), (2, 1)):
        block, train = _updates(seed, num_clients)
        before = copy.deepcopy(block)
        found = _join(rule, [block], train, single_updates=single_updates)
        require(same(block.deltas, before.deltas), "the aggregation changes the updates that it is given")
        require(found.keys() == SHAPES.keys(), "the aggregate has other parameters than those that travelled")
        for name, value in found.items():
            require(value.shape == SHAPES[name], f"the aggregate of {name} has another shape than the parameter")
            require(value.dtype == torch.float64, f"the aggregate of {name} has another precision than the updates")
        require(all_finite(found), "the aggregate is not finite")
        again = _join(rule, [block], train, single_updates=single_updates)
        require(same(found, again), "equal updates give different aggregates")
        order = numpy_stream(seed, "order").permutation(num_clients).tolist()
        cut = [_some(block, places) for places in (order[:1], order[1:]) if places]
        parted = _join(rule, cut, train, single_updates=single_updates)
        require(same(found, parted, CLOSE), "the order of clients, or the cut into blocks, changes the aggregate")
        warm = replace(block, deltas={ITEM_TABLE: block.deltas[ITEM_TABLE]})
        some = _join(rule, [warm], train, single_updates=single_updates)
        require(some.keys() == {ITEM_TABLE}, "parameters that did not travel are in the aggregate")
        if mean:
            _check_mean(rule, block, train, found, single_updates=single_updates)


def check_server_optimizer(step: Step) -> None:
    """Checks the laws of a server optimizer: state in, state out; no push from a fresh state moves nothing; the first
    step goes against the pseudo-gradient; the state is flat tensors named after their parameter, which checkpoints can
    keep; no parameter reads another's.

    ``step`` is what ``fedmm.register_server_optimizer`` takes. Raises AssertionError with the law that is broken.

    >>> from fedmm.testing import check_server_optimizer
    >>> check_server_optimizer(lambda value, gradient, key, state, config: (value - config.server_rate * gradient, {}))
    """
    config = FederationConfig(server_learning_rate=0.3)
    params, gradients = (_drawn(what) for what in ("params", "gradients"))
    nothing = {name: torch.zeros_like(value) for name, value in params.items()}
    still, _ = _stepped(step, params, nothing, {}, config)
    require(same(still, params), "the server optimizer moves parameters that nothing pushes")
    moved, state = _stepped(step, params, gradients, {}, config)
    against = all(torch.equal(torch.sign(params[n] - moved[n]), torch.sign(gradients[n])) for n in params)
    require(against, "the first step does not go against the pseudo-gradient")
    for key, value in state.items():
        known = isinstance(value, torch.Tensor) and key.partition("/")[2] in params
        require(known, f"the state {key!r} is no tensor named '<word>/<parameter>'")
    before = copy.deepcopy((params, gradients, state))
    second, after = _stepped(step, moved, gradients, state, config)
    unchanged = all(same(tree, old) for tree, old in zip((params, gradients, state), before, strict=True))
    require(unchanged, "the server optimizer changes its arguments")
    require(all_finite(second) and all_finite(after), "the server optimizer gives numbers that are not finite")
    shapes = all(second[n].shape == params[n].shape and second[n].dtype == params[n].dtype for n in params)
    require(shapes, "a parameter has another shape or precision after a step")
    alone = {name: _stepped(step, {name: moved[name]}, {name: gradients[name]},
                            {k: v for k, v in state.items() if k.endswith(f"/{name}")}, config)[0][name]
             for name in params}  # fmt: skip
    require(same(second, alone), "a parameter's step reads the state of another")


def check_local_optimizer(optimizer: LocalOptimizer) -> None:
    """Checks the laws of a local optimizer: it changes values in place, step by step the same for equal calls; clients
    together are each client alone; the first step goes against the gradient.

    ``optimizer`` is what ``fedmm.register_local_optimizer`` takes. Raises AssertionError with the law that is broken.

    >>> from fedmm.federation.optimizers import adam
    >>> from fedmm.testing import check_local_optimizer
    >>> check_local_optimizer(adam)
    """
    config = FederationConfig(learning_rate=0.05)
    start = torch.randn(3, 4, 2, generator=torch_stream(0, "local start"), dtype=torch.float64)
    steps = [torch.randn(3, 4, 2, generator=torch_stream(i, "local steps"), dtype=torch.float64) for i in range(3)]

    def run(values: torch.Tensor, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        own = {"a": values.clone()}
        update = optimizer(own, config)
        for number, gradient in enumerate(gradients, start=1):
            update(own["a"], gradient.clone(), "a", len(values), number)
        return own["a"]

    first = run(start, steps[:1])
    require(torch.equal(torch.sign(start - first), torch.sign(steps[0])), "the first step does not go downhill")
    together = run(start, steps)
    require(torch.isfinite(together).all(), "the local optimizer gives numbers that are not finite")
    require(torch.equal(together, run(start, steps)), "equal calls give different steps: state outlives a round")
    alone = torch.cat([run(start[c : c + 1], [step[c : c + 1] for step in steps]) for c in range(3)])
    require(torch.allclose(together, alone, rtol=CLOSE, atol=CLOSE), "a client's steps depend on the clients beside it")


def check_schedule(schedule: Schedule, *, falling: bool = False) -> None:
    """Checks the laws of a schedule: a finite factor above 0 for every share of the rounds that may be done, the same
    for equal calls. With ``falling`` also that it begins at 1 and never rises.

    ``schedule`` is what ``fedmm.register_schedule`` takes. Raises AssertionError with the law that is broken.

    >>> from fedmm.testing import check_schedule
    >>> check_schedule(lambda progress: (1.0 - progress) ** 0.5, falling=True)
    """
    factors = [schedule(done / 60) for done in range(60)]
    require(all(math.isfinite(factor) for factor in factors), "the schedule gives a factor that is not finite")
    require(all(factor > 0 for factor in factors), "the schedule gives a factor of 0 or below before the last round")
    require(factors == [schedule(done / 60) for done in range(60)], "the schedule gives two factors for one round")
    if falling:
        require(factors[0] == 1.0, "the schedule does not begin at the full rate")
        require(factors == sorted(factors, reverse=True), "the schedule rises")


def check_cohort_sampler(sampler: CohortSampler) -> None:
    """Checks the laws of a sampler of cohorts: so many of the clients, each once, by seed and round alone; everybody
    where the cohort is everybody.

    ``sampler`` is what ``fedmm.register_cohort_sampler`` takes. Raises AssertionError with the law that is broken.

    >>> from fedmm.testing import check_cohort_sampler
    >>> check_cohort_sampler(lambda clients, size, seed, round_number: clients[:size])
    """
    clients = np.arange(3, 40, 2, dtype=np.int64)
    before = clients.copy()
    for size in (1, 7, len(clients)):
        for number in (1, 2, 30):
            cohort = np.asarray(sampler(clients, size, 5, number))
            require(np.array_equal(clients, before), "the sampler changes its argument")
            require(np.issubdtype(cohort.dtype, np.integer), "the cohort is no array of client indices")
            require(cohort.shape == (size,), "the cohort has another size than asked for")
            require(len(np.unique(cohort)) == size, "a client is in the cohort twice")
            require(bool(np.isin(cohort, clients).all()), "the cohort has someone who is no client")
            again = np.asarray(sampler(clients, size, 5, number))
            require(np.array_equal(cohort, again), "one seed and round give two cohorts")


def check_update_transform(transform: UpdateTransform, *, integers: bool = False) -> None:
    """Checks the laws of a stage of ``federation.update_transforms``: what is small enough comes back as it was
    sent, on the sum; no vector that leaves a client is longer than the stage's bound says; no client touches another.

    With ``integers`` the stage stands behind one that rounds. ``transform`` is what
    ``fedmm.register_update_transform`` takes. Raises AssertionError with the law that is broken.

    >>> from fedmm.federation.transforms import Stage
    >>> from fedmm.testing import check_update_transform
    >>> check_update_transform(lambda turn, bound: Stage(bound))
    """
    width, clients = 24, np.arange(5, dtype=np.int64)
    turn = TransformRound(FederationConfig(), 3, 1, clients, (16, 8))
    size = 100.0 if integers else 1.0
    stage = transform(turn, Bound(width, norm=size, integers=integers, largest=size if integers else math.inf))
    send = stage.send or (lambda own, _: own)
    receive = stage.receive or (lambda own: own)
    own = torch.randn(len(clients), width, generator=torch_stream(0, "vectors"), dtype=torch.float64)
    own = own / torch.linalg.vector_norm(own, dim=1, keepdim=True)
    own = (90.0 * own).round().to(torch.int64) if integers else own
    before = own.clone()
    sent = send(own, clients)
    require(bool((own == before).all()), "the stage changes its argument")
    require(sent.shape == (len(clients), stage.bound.width), "what is sent has another width than the bound says")
    norms = torch.linalg.vector_norm(sent.to(torch.float64), dim=1)
    hidden = stage.bound.modulus is not None
    require(hidden or bool((norms <= stage.bound.norm * (1 + CLOSE)).all()), "a vector is longer than the bound says")
    apart = torch.cat([send(own[place : place + 1], clients[place : place + 1]) for place in range(len(clients))])
    require(bool(torch.isclose(apart, sent, atol=CLOSE).all()), "a client's vector depends on those beside it")
    total = stage.on_sum(sent.sum(0)) if stage.on_sum is not None else sent.sum(0)
    found = receive(total).to(torch.float64)
    require(found.shape == (width,), "what comes back has another width than what was sent")
    off = float(torch.linalg.vector_norm(found - own.sum(0)) / len(clients))
    require(off < ROUNDING * size, "the sum does not come back")


def _updates(seed: int, num_clients: int) -> tuple[UpdateBlock, Ragged]:
    """One block of clients with random deltas and equal weights, and their training histories."""
    stream = torch_stream(seed, "updates")
    deltas = {n: torch.randn(num_clients, *s, generator=stream, dtype=torch.float64) for n, s in SHAPES.items()}
    losses = torch.rand(num_clients, generator=stream, dtype=torch.float64) + 0.1
    lengths = numpy_stream(seed, "lengths").integers(1, NUM_ITEMS, num_clients)
    items = [numpy_stream(seed, "items", c).permutation(NUM_ITEMS)[:n] + 1 for c, n in enumerate(lengths)]
    weights = torch.ones(num_clients, dtype=torch.float64)
    return UpdateBlock(np.arange(num_clients), deltas, weights, losses, losses / 2), Ragged.from_rows(items)


def _some(block: UpdateBlock, places: list[int]) -> UpdateBlock:
    return UpdateBlock(
        block.clients[places],
        {name: value[places] for name, value in block.deltas.items()},
        block.weights[places],
        block.losses[places],
        block.load_balance_losses[places],
    )


def _join(rule: Any, blocks: Sequence[UpdateBlock], train: Ragged, *, single_updates: bool) -> Params:
    config = FederationConfig()
    found: Params = (
        rule(blocks, train, NUM_ITEMS, config) if single_updates
        else rule(sum_updates(iter(blocks), train, NUM_ITEMS), config)
    )  # fmt: skip
    return found


def _check_mean(rule: Any, block: UpdateBlock, train: Ragged, found: Params, *, single_updates: bool) -> None:
    one = {name: value[0] for name, value in block.deltas.items()}
    everything = Ragged.from_rows([np.arange(NUM_ITEMS + 1)] * len(train))  # so that no item is rare
    joined = _join(rule, [_some(block, [0, 0, 0])], everything, single_updates=single_updates)
    require(same(joined, one, CLOSE), "identical clients do not give that client's update")
    for factor in (-3.0, 0.0, 4.0):
        scaled = replace(block, deltas={name: factor * value for name, value in block.deltas.items()})
        expected = {name: factor * value for name, value in found.items()}
        joined = _join(rule, [scaled], train, single_updates=single_updates)
        require(same(joined, expected, CLOSE), "scaling all updates does not scale the aggregate")


def _drawn(what: str) -> Params:
    stream = torch_stream(0, what)
    shapes = {"backbone.a": (3, 2), "router.b": (), "visual.c": (4,)}
    return {name: torch.randn(shape, generator=stream, dtype=torch.float64) for name, shape in shapes.items()}


def _stepped(
    step: Step, params: Params, gradients: Params, state: State, config: FederationConfig
) -> tuple[Params, State]:
    """All parameters after one step, and the state then."""
    found, after = {}, dict(state)
    for name, gradient in gradients.items():
        found[name], changed = step(params[name], gradient, name, state, config)
        after |= changed
    return found, after
