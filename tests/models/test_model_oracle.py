"""The factorised scores beside the definition, computed one position and one item at a time."""

import numpy as np
import pytest
import torch

from worlds.model_oracle import oracle_scores
from worlds.model_world import (
    NUM_ITEMS,
    VARIANTS,
    WINDOWS,
    batch_of,
    build,
    features,
    name_of,
    of_client,
    score,
    shaken,
    tiny_config,
)

ITEMS = list(range(1, NUM_ITEMS + 1))


def largest_gap(recommender, params, windows, columns, found):
    """Between the scores of real positions and the oracle's; ``columns`` [C][N] names what stands in each column."""
    gaps = []
    for c, own in enumerate(windows):
        for b, window in enumerate(own):
            expected = oracle_scores(recommender, of_client(params, c), window, columns[c])
            gaps.append(np.abs(found[c, b, : len(window)].numpy() - expected).max())
    return max(gaps)


@pytest.mark.parametrize("num_clients", [1, 2])
@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_scores_of_the_catalogue_equal_the_definition(variant, num_clients):
    recommender = build(tiny_config(**variant))
    params, windows = shaken(recommender, num_clients), WINDOWS[:num_clients]
    found = score(recommender, params, batch_of(windows))[..., 1:]
    assert largest_gap(recommender, params, windows, [ITEMS] * num_clients, found) < 1e-9


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_scores_of_sampled_candidates_equal_the_definition(variant):
    columns = [[9, 1, 12, 4], [2, 6, 3, 1]]
    recommender = build(tiny_config(**variant))
    params = shaken(recommender)
    found = score(recommender, params, batch_of(candidates=columns))
    assert largest_gap(recommender, params, WINDOWS, columns, found) < 1e-9


@pytest.mark.parametrize("memory", [{"surprise_weight": 0.0}, {"recency_weight": 0.0}])
def test_memory_utilities_equal_the_definition(memory):
    config = tiny_config(experts="memory", memory={"size": 2, "num_heads": 4, **memory})
    recommender = build(config)
    params = shaken(recommender)
    found = score(recommender, params, batch_of())[..., 1:]
    assert largest_gap(recommender, params, WINDOWS, [ITEMS] * 2, found) < 1e-9


@pytest.mark.parametrize("names", [("visual",), ("semantic",)])
@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_one_modality_alone_equals_the_definition(variant, names):
    recommender = build(tiny_config(**variant), names)
    params = shaken(recommender)
    found = score(recommender, params, batch_of(WINDOWS))[..., 1:]
    assert largest_gap(recommender, params, WINDOWS, [ITEMS] * 2, found) < 1e-9


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_single_precision_is_close_to_double(variant):
    recommender = build(tiny_config(**variant))
    tables = {name: features(name) for name in recommender.tables}
    single = type(recommender).build(recommender.config, NUM_ITEMS, tables)
    params = shaken(recommender)
    found = score(single, {name: value.float() for name, value in params.items()}, batch_of())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), score(recommender, params, batch_of()), rtol=1e-3, atol=1e-3)
