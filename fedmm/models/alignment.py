"""The modality-alignment loss: an item's embedding should be nearest to its own projected features.

InfoNCE (van den Oord et al., 2018) in both directions, as between images and texts (Radford et al., ICML 2021), over
the n distinct items of a client's step that have the modality. With e_i the ID embedding, z_i the projection of the
features to D and S_ij = cos(e_i, z_j) / temperature:

    1/2n sum_i [ln sum_j exp S_ij + ln sum_j exp S_ji - 2 S_ii]

averaged over the modalities. Equal similarities give ln n; agreement gives less. One item alone loses nothing, nor does
none. The items are those a client reads as input anyway, so nothing new is touched or sent. Projections are the
experts' own: W of a pooled expert; output times value of a memory expert, which is its representation, before the norm,
of a memory that holds the item alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.errors import ConfigError
from fedmm.models.experts.contract import Expert
from fedmm.models.features import FeatureTable
from fedmm.models.layers import pick_rows

NORM_FLOOR = 1e-6  # under the root: a row of zeros, as the spectral start may leave, has a finite slope


def alignment_loss(
    params: Mapping[str, Tensor],
    experts: Mapping[str, Expert],
    tables: Mapping[str, FeatureTable],
    items: Tensor,
    embedded: Tensor,
    temperature: float,
) -> Tensor:
    """[C]: over the histories ``items`` [C, B, L] (0 is padding), whose ID embeddings are ``embedded`` [C, B, L, D],
    by the projections of ``experts``, one for each of the modalities ``tables``.

    Raises ValueError without a modality.
    """
    if not tables:
        raise ValueError("without a modality there is nothing to align")
    first = first_places(items.flatten(1))
    losses = []
    for name, table in tables.items():
        places, mask = _packed(first & table.at(items).present.flatten(1))
        features = table.at(items.flatten(1).gather(1, places)).values
        projected = experts[name].project(params, features)
        losses.append(contrast(pick_rows(embedded, places), projected, mask, temperature))
    return torch.stack(losses).mean(0)


def contrast(left: Tensor, right: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """[C]: the symmetric InfoNCE loss of the pairs (left_i, right_i), [C, n, D] each, of which ``mask`` [C, n] are
    real."""
    similarities = torch.matmul(_unit(left), _unit(right).mT) / temperature
    absent = ~mask
    agreement = similarities.diagonal(dim1=1, dim2=2)
    # The finite minimum, not minus infinity: a client without a single item would give NaN.
    lowest = torch.finfo(similarities.dtype).min
    total = torch.zeros_like(agreement)
    for own in (similarities, similarities.mT):
        total = total + torch.logsumexp(own.masked_fill(absent.unsqueeze(1), lowest), dim=-1) - agreement
    return total.masked_fill(absent, 0.0).sum(1) / (2 * mask.sum(1).clamp(min=1))


def first_places(items: Tensor) -> Tensor:
    """[C, P] bool: where in ``items`` [C, P] an item stands for the first time; padding (0) never does."""
    ordered, order = torch.sort(items, dim=1, stable=True)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.zeros_like(new).scatter(1, order, new & (ordered > 0))


def _packed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The places [C, n] where ``chosen`` [C, P] is True, in order and padded at the end, and which of them are real."""
    counts = chosen.sum(1)
    width = max(1, int(counts.max()))
    places = torch.argsort(~chosen, dim=1, stable=True)[:, :width]
    return places, torch.arange(width, device=chosen.device) < counts.unsqueeze(1)


def _unit(vectors: Tensor) -> Tensor:
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + NORM_FLOOR)


def check_alignment(config: ModelConfig, tables: Mapping[str, FeatureTable]) -> None:
    """Raises ConfigError where alignment is asked for and there are no item features."""
    if config.alignment_weight and not tables:
        raise ConfigError(
            f"model.alignment_weight {config.alignment_weight} has nothing to align: there are no item features.",
            "Give visual or text features, or set model.alignment_weight 0.",
        )
