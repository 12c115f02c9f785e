"""The item-centric router: how much each expert may say about a candidate, read off the candidate alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedmm.utils.params import Params


def init_router(num_inputs: int, num_outputs: int) -> Params:
    """Zeros: every expert that is present starts with an equal weight. Without inputs there is the bias alone."""
    params: Params = {"router.bias": torch.zeros(num_outputs, dtype=torch.float64)}
    if num_inputs:
        params = {"router.weight": torch.zeros(num_outputs, num_inputs, dtype=torch.float64)} | params
    return params


def route(params: Mapping[str, Tensor], inputs: Tensor, present: Tensor) -> Tensor:
    """Router weights of N candidates over M outputs, [C, N, M].

    ``inputs`` [N, I] or [C, N, I] describe the candidates; ``present`` [N, M] or [C, N, M] says which outputs exist for
    each. Weights are a softmax over what is present, 0 elsewhere, and all 0 for a candidate with nothing present.
    """
    if present.shape[-1] == 1 and "router.weight" not in params:
        # One output is all there is to choose, and what it is derived by is 0 everywhere.
        weights = present.to(params["router.bias"].dtype)
        return weights.expand(len(params["router.bias"]), *weights.shape[-2:])
    # In memory each output's N numbers lie together, [C, M, N]: a softmax over M neighbours is many times as slow.
    logits = params["router.bias"].unsqueeze(2).expand(-1, -1, present.shape[-2])
    if "router.weight" in params:
        logits = _project(inputs, params["router.weight"]) + logits
    absent = ~present.mT.expand(logits.shape)
    logits = logits.masked_fill(absent, torch.finfo(logits.dtype).min)
    return torch.softmax(logits, dim=1).masked_fill(absent, 0.0).mT


def _project(inputs: Tensor, weight: Tensor) -> Tensor:
    """weight [C, M, I] times inputs transposed, [C, M, N]."""
    if inputs.ndim == 3:
        return torch.bmm(weight, inputs.mT)
    # Inputs that all clients share meet all clients' weights in one product, not in C thin ones.
    return (weight.flatten(0, 1) @ inputs.mT).view(*weight.shape[:2], -1)


def load_balance_loss(weights: Tensor, mask: Tensor) -> Tensor:
    """sum_m (mean_t w_m(t) - 1/M)^2 over the candidates ``mask`` [C, N] keeps, of ``weights`` [C, N, M]: [C].

    Candidates with no modality carry no weight and are not counted. Zero where all experts are used equally.
    """
    if weights.shape[-1] == 1 and not weights.requires_grad:
        return 1.0 - (mask & (weights[..., 0] > 0)).any(1).to(weights.dtype)
    counted = (mask & (weights.detach().sum(-1) > 0)).to(weights.dtype)
    mean = torch.bmm(counted.unsqueeze(1), weights).squeeze(1) / counted.sum(1).clamp(min=1.0).unsqueeze(-1)
    return (mean - 1.0 / weights.shape[-1]).square().sum(-1)
