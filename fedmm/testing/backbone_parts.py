"""Laws of what the backbone is made of: transformer blocks and position encodings."""

from __future__ import annotations

import torch
from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.models.blocks import Block
from fedmm.models.layers import Dropout, no_dropout
from fedmm.models.positions import PositionEncoding
from fedmm.models.sasrec import ITEM_TABLE, PREFIX, encode, init_backbone
from fedmm.testing.laws import all_finite, close, require, same
from fedmm.testing.model_parts import CLIENTS, NUM_ITEMS, UNDER_TEST, WINDOWS, check_engines
from fedmm.testing.worlds import registered
from fedmm.utils.params import Params
from fedmm.utils.seeding import torch_stream

LENGTH = 6  # of a window, two longer than what stands in it
STEP = 1e-5  # of finite differences


def check_block(block: Block) -> None:
    """Checks the laws of a kind of transformer block, inside a backbone of two: parameters begin in float64, the same
    from the same stream; states keep their shape, are finite, and read no later item, no padding, no other window and
    no other client; dropout is asked at most twice a block; every parameter trains, by gradients that are those of
    finite differences; and both engines train it alike.

    ``block`` is what ``fedmm.register_block`` takes. Raises AssertionError with the law that is broken.

    >>> from fedmm.models.blocks import BLOCKS
    >>> from fedmm.testing import check_block
    >>> check_block(BLOCKS["ligr"])
    """
    with registered("block", UNDER_TEST, block):
        config = _config(block=UNDER_TEST)
        _check_states(config, "block")
        asked = 0

        def counting(x: Tensor) -> Tensor:
            nonlocal asked
            require(x.shape[-1] == config.hidden_dim, "the block drops out something else than states")
            asked += 1
            return x

        _encoded(config, _begun(config), dropout=counting)
        require(asked <= 1 + 2 * config.num_blocks, "the block asks for dropout more than twice")
        check_engines({"fusion": "backbone", "block": UNDER_TEST}, {}, "the block")


def check_position_encoding(encoding: PositionEncoding) -> None:
    """Checks the laws of a position encoding, inside a backbone of two blocks: those of ``check_block``, and that the
    order of earlier items moves what one block says of a later one.

    ``encoding`` is what ``fedmm.register_position_encoding`` takes. Raises AssertionError with the law that is broken.

    >>> from fedmm.models.positions import POSITION_ENCODINGS
    >>> from fedmm.testing import check_position_encoding
    >>> check_position_encoding(POSITION_ENCODINGS["rotary"])
    """
    with registered("position_encoding", UNDER_TEST, encoding):
        config = _config(positions=UNDER_TEST)
        _check_states(config, "position encoding")
        config = config.model_copy(update={"num_blocks": 1})  # of two, the second sees what the first saw
        params, items = _begun(config), torch.tensor(WINDOWS)
        swapped = items.clone()
        swapped[:, :, [0, 1]] = items[:, :, [1, 0]]
        last, other = (_encoded(config, params, own)[:, :, -1] for own in (items, swapped))
        require(not close(last, other), "the position encoding does not tell orders apart")
        check_engines({"fusion": "backbone", "positions": UNDER_TEST}, {}, "the position encoding")


def _check_states(config: ModelConfig, what: str) -> None:
    fresh = init_backbone(config, NUM_ITEMS, torch_stream(0, "backbone laws"))
    again = init_backbone(config, NUM_ITEMS, torch_stream(0, "backbone laws"))
    require(all(name.startswith(PREFIX) for name in fresh), f"the {what} has a parameter outside the backbone")
    require(all(value.dtype == torch.float64 for value in fresh.values()), f"the {what} does not begin in float64")
    require(same(fresh, again), f"the {what} begins otherwise from the same stream")
    params, items = _begun(config), torch.tensor(WINDOWS)
    before = {name: value.clone() for name, value in params.items()}
    states = _encoded(config, params)
    require(states.shape == (*items.shape, config.hidden_dim), f"the {what} changes the shape of states")
    require(torch.isfinite(states).all(), f"the {what} gives states that are not finite")
    require(same(params, before), f"the {what} changes its arguments")
    for place in range(1, items.shape[2]):
        later = items.clone()
        later[:, :, place:] = later[:, :, place:] % NUM_ITEMS + 1
        found = _encoded(config, params, later)
        require(close(found[:, :, :place], states[:, :, :place]), f"the {what} reads items after a position")
    padded = torch.nn.functional.pad(items, (0, LENGTH - items.shape[2]))
    found = _encoded(config, params, padded)[:, :, : items.shape[2]]
    require(close(found, states), f"the {what} reads padding")
    for c in range(CLIENTS):
        own = {name: value[c : c + 1] for name, value in params.items()}
        require(close(_encoded(config, own, items[c : c + 1]), states[c : c + 1]),
                f"the {what} mixes clients")  # fmt: skip
    require(close(_encoded(config, params, items.flip(1)).flip(1), states), f"the {what} mixes windows")
    _check_gradients(config, params, what)


def _check_gradients(config: ModelConfig, params: Params, what: str) -> None:
    """Of a sum of states with random weights, along a random direction of each parameter."""
    weights = torch.randn(_encoded(config, params).shape, generator=torch_stream(1, "backbone laws")).double()

    def total(values: Params) -> Tensor:
        return (weights * _encoded(config, values)).sum()

    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    found = torch.autograd.grad(total(leaves), list(leaves.values()), allow_unused=True, materialize_grads=True)
    slopes = dict(zip(leaves, found, strict=True))
    require(all_finite(slopes), f"the {what} has gradients that are not finite")
    stream = torch_stream(2, "backbone laws")
    for name, value in params.items():
        if name.startswith(f"{PREFIX}norm"):
            continue  # comes after the states
        require(slopes[name].any(), f"the {what}'s parameter {name} does not train")
        way = torch.randn(value.shape, generator=stream, dtype=value.dtype)
        ahead, behind = (total({**params, name: value + sign * STEP * way}) for sign in (1, -1))
        slope, exact = (ahead - behind) / (2 * STEP), (slopes[name] * way).sum()
        fits = torch.isclose(slope, exact, rtol=1e-4, atol=1e-4)
        require(fits, f"the {what}'s gradients are not those of finite differences")


def _config(**part: str) -> ModelConfig:
    return ModelConfig.model_validate(
        {"hidden_dim": 8, "num_blocks": 2, "num_heads": 2, "max_length": LENGTH, "dropout": 0.0, **part}
    )


def _begun(config: ModelConfig) -> Params:
    """Each client's own parameters, off the identities and zeros that they begin at."""
    stream = torch_stream(3, "backbone laws")
    fresh = init_backbone(config, NUM_ITEMS, torch_stream(0, "backbone laws"))
    return {
        name: torch.stack([value + 0.1 * torch.randn(value.shape, generator=stream).double() for _ in range(CLIENTS)])
        for name, value in fresh.items()
    }


def _encoded(
    config: ModelConfig,
    params: Params,
    items: Tensor | None = None,
    dropout: Dropout = no_dropout,
) -> Tensor:
    items = torch.tensor(WINDOWS) if items is None else items
    return encode(params, items.clamp(max=params[ITEM_TABLE].shape[1] - 1), config, dropout)
