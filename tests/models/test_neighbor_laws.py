"""The neighbour expert against its definition, item by item, and the laws that a graph of items obeys."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.config import NeighborsConfig
from fedmm.models.experts import neighbors
from fedmm.models.experts.neighbors import SCALE, NeighborTable, neighbor_scores
from fedmm.models.features import FeatureTable
from fedmm.utils import largest as quick
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.world import make_local
from worlds.model_oracle import near_items
from worlds.model_world import LACKING, NUM_ITEMS, WINDOWS, batch_of, build, fresh, of_client, shaken, tiny_config

V, WIDTH = 13, 4  # rows of the catalogue, padding included, and of features
F64 = torch.float64
SEEDS = st.integers(0, 10**6)
OWN = st.builds(
    NeighborsConfig,
    count=st.integers(1, V + 1),
    sharpness=st.sampled_from([0.5, 1.0, 3.0]),
    decay=st.sampled_from([0.3, 0.95, 1.0]),
)
LAWS = settings(max_examples=25, deadline=None)


def random_table(seed, share=0.8):
    """Features of about ``share`` of the items."""
    stream = numpy_stream(seed, "neighbour laws")
    present = stream.random(V) < share
    present[0] = False
    values = stream.normal(size=(V, WIDTH)) * present[:, None]
    return FeatureTable(torch.from_numpy(values), torch.from_numpy(present))


def table_of(vectors):
    """Items 1, 2, ... with these features."""
    values = torch.tensor([[0.0] * len(vectors[0]), *vectors], dtype=F64)
    return FeatureTable(values, torch.arange(len(values)) > 0)


def graph_of(table, own):
    """16 A, dense."""
    return NeighborTable.build(table, own).graph.toarray()


def random_windows(seed, C=2, B=2, L=5):
    """Histories with repeats, padded at the end; every row once, in any order."""
    stream = numpy_stream(seed, "neighbour windows")
    items = stream.integers(1, V, (C, B, L))
    items[np.arange(L) >= stream.integers(1, L + 1, (C, B))[..., None]] = 0
    rows = np.stack([stream.permutation(B * L) for _ in range(C)])
    return torch.from_numpy(items), torch.from_numpy(rows), stream


@pytest.mark.parametrize("copies", [1, 4], ids=["distinct", "copies"])
def test_many_items_have_the_neighbours_that_comparing_all_gives(monkeypatch, copies):
    """By blocks of rows and the maxima of stretches of columns, also where items are level with each other."""
    size = 1500
    values = torch.from_numpy(numpy_stream(1, "many").normal(size=(size // copies, WIDTH))).repeat(copies, 1)
    table = FeatureTable(values, torch.arange(size) % 7 > 0)
    own = NeighborsConfig(count=3, sharpness=2.0)
    monkeypatch.setattr(quick, "MANY_COLUMNS", 10**9)
    plain = NeighborTable.build(table, own).graph
    monkeypatch.setattr(quick, "MANY_COLUMNS", 1)
    monkeypatch.setattr(neighbors, "SIMILARITIES_AT_ONCE", 100 * size)
    found = NeighborTable.build(table, own).graph
    assert abs(found - plain).max() < 1e-12
    assert (found.indices == plain.indices).all()


@LAWS
@given(SEEDS, OWN, st.booleans())
def test_scores_are_the_definition(seed, own, sampled):
    """For the whole catalogue and for sampled candidates, the same one twice and padding among them."""
    table = random_table(seed)
    items, rows, stream = random_windows(seed)
    candidates = torch.from_numpy(stream.integers(0, V, (len(items), V + 4))) if sampled else None
    found = neighbor_scores(NeighborTable.build(table, own), items, rows, candidates)
    A = near_items(table.values.numpy(), table.present.numpy(), own)
    for c, window in enumerate(items.tolist()):
        columns = range(V) if candidates is None else candidates[c].tolist()
        for r, place in enumerate(rows[c].tolist()):
            b, last = divmod(place, items.shape[2])
            history = window[b][: last + 1]
            expected = [sum(16 * own.decay ** (last - j) * A[i, t] for j, i in enumerate(history)) for t in columns]
            assert found[c, r].numpy() == pytest.approx(expected, abs=1e-9)


@LAWS
@given(SEEDS, OWN, st.permutations(range(1, V)))
def test_other_numbers_for_the_items_permute_the_scores(seed, own, order):
    number = torch.tensor([0, *order])
    table, (items, rows, _) = random_table(seed), random_windows(seed)
    renamed = FeatureTable(torch.empty_like(table.values), torch.empty_like(table.present))
    renamed.values[number], renamed.present[number] = table.values, table.present
    found = neighbor_scores(NeighborTable.build(table, own), items, rows, None)
    others = neighbor_scores(NeighborTable.build(renamed, own), number[items], rows, None)
    torch.testing.assert_close(others[..., number], found, rtol=1e-9, atol=1e-12)


@LAWS
@given(SEEDS, OWN)
def test_only_directions_count(seed, own):
    table = random_table(seed)
    lengths = torch.from_numpy(numpy_stream(seed, "lengths").uniform(1e-3, 1e3, (V, 1)))
    longer = FeatureTable(table.values * lengths, table.present)
    np.testing.assert_allclose(graph_of(longer, own), graph_of(table, own), rtol=1e-9, atol=1e-12)


@LAWS
@given(SEEDS, OWN)
def test_the_graph_is_symmetric_normalised_and_without_loops(seed, own):
    graph = graph_of(random_table(seed), own)
    np.testing.assert_allclose(graph, graph.T, rtol=1e-12)
    assert not graph.diagonal().any()
    assert (graph >= 0).all()
    assert np.count_nonzero(graph) <= 2 * own.count * V
    # D^(-1/2) S D^(-1/2) of a symmetric S >= 0 has the largest eigenvalue 1, at D^(1/2) 1.
    if graph.any():
        assert np.linalg.eigvalsh(graph).max() == pytest.approx(SCALE, rel=1e-9)


@LAWS
@given(SEEDS, OWN)
def test_an_absent_item_has_no_neighbors_and_is_nobodys(seed, own):
    """As if the catalogue had no such item: what stands in its row is never read."""
    table = random_table(seed, share=0.7)
    absent = ~table.present
    graph = graph_of(table, own)
    assert not graph[absent.numpy()].any()
    assert not graph[:, absent.numpy()].any()
    nonsense = FeatureTable(table.values.masked_fill(absent.unsqueeze(1), float("nan")), table.present)
    assert np.array_equal(graph_of(nonsense, own), graph)
    kept = table.present.numpy()
    alone = FeatureTable(table.values[table.present], torch.ones(int(kept.sum()), dtype=torch.bool))
    np.testing.assert_allclose(graph_of(alone, own), graph[np.ix_(kept, kept)], rtol=1e-9, atol=1e-12)


@LAWS
@given(SEEDS, OWN)
def test_one_more_item_of_history_adds_its_row_to_what_has_decayed(seed, own):
    table = NeighborTable.build(random_table(seed), own)
    history = torch.from_numpy(numpy_stream(seed, "history").integers(1, V, 9))
    scores = neighbor_scores(table, history.view(1, 1, -1), torch.arange(9).view(1, -1), None)[0]
    rows = torch.from_numpy(table.graph.toarray())[history]
    torch.testing.assert_close(scores[0], rows[0])
    torch.testing.assert_close(scores[1:], own.decay * scores[:-1] + rows[1:])


@LAWS
@given(SEEDS, st.permutations(range(8)))
def test_without_decay_the_order_of_a_history_does_not_matter(seed, order):
    table = NeighborTable.build(random_table(seed), NeighborsConfig(decay=1.0))
    history = torch.from_numpy(numpy_stream(seed, "history").integers(1, V, 8))
    last = torch.tensor([[7]])
    whole, shuffled = (neighbor_scores(table, own.view(1, 1, -1), last, None) for own in (history, history[[*order]]))
    torch.testing.assert_close(whole, shuffled)


@pytest.mark.parametrize("num_alike", [2, 3, 6])
def test_items_that_are_all_alike_share_one(num_alike):
    """K is 1 between any two, so each of n - 1 neighbours is worth 16 / (n - 1); fewer items than ``count`` are all."""
    table = NeighborTable.build(table_of([[0.3, -2.0]] * num_alike), NeighborsConfig(count=9))
    scores = neighbor_scores(table, torch.tensor([[[1]]]), torch.tensor([[0]]), None)[0, 0]
    expected = [0.0, 0.0, *[16 / (num_alike - 1)] * (num_alike - 1)]
    assert scores.tolist() == pytest.approx(expected)


def test_what_points_away_is_no_neighbor():
    """Right angles and more weigh nothing, though they are the nearest there are."""
    graph = graph_of(table_of([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 0.0]]), NeighborsConfig())
    assert not graph.any()


def test_sharpness_prefers_the_nearest():
    """Items at 0, 30 and 60 degrees: of the middle one's neighbours both are alike, of the first one's the nearer."""
    angles = np.radians([0.0, 30.0, 60.0])
    table = table_of([[float(np.cos(angle)), float(np.sin(angle))] for angle in angles])
    shares = []
    for sharpness in (1.0, 3.0, 9.0):
        graph = graph_of(table, NeighborsConfig(sharpness=sharpness))
        assert graph[2, 1] == pytest.approx(graph[2, 3])
        near, far = np.cos(angles[1]) ** sharpness, np.cos(angles[2]) ** sharpness
        assert graph[1, 2] == pytest.approx(16 * near / np.sqrt((near + far) * 2 * near))
        shares.append(graph[1, 3] / graph[1, 2])
    assert shares[0] > shares[1] > shares[2]


@pytest.mark.parametrize("present", [(), (5,)])
def test_one_item_and_none_have_no_neighbors(present):
    """Nothing to compare with: no division by zero, no score."""
    table = random_table(0, share=2.0)
    mask = torch.zeros(V, dtype=torch.bool)
    mask[list(present)] = True
    items, rows, _ = random_windows(0)
    scores = neighbor_scores(NeighborTable.build(replace(table, present=mask), NeighborsConfig()), items, rows, None)
    assert scores.shape == (2, 10, V)
    assert not scores.any()


def test_blocks_and_threads_do_not_change_the_graph(monkeypatch):
    table = random_table(3)
    whole = graph_of(table, NeighborsConfig(count=4))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert np.array_equal(graph_of(table, NeighborsConfig(count=4)), whole)
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(neighbors, "SIMILARITIES_AT_ONCE", 1)
    np.testing.assert_allclose(graph_of(table, NeighborsConfig(count=4)), whole, rtol=1e-12)


@pytest.mark.parametrize("fusion", ["residual", "competitive"])
def test_nothing_in_it_trains(fusion):
    """Its parameters are the router's and the gate, whatever its settings; they start as beside any expert."""
    params = fresh(build(tiny_config(fusion=fusion, experts="neighbors")))
    names = {name for name in params if not name.startswith("backbone.")}
    assert names == {"router.weight", "router.bias"} | ({"fusion.gate"} if fusion == "residual" else set())
    other = fresh(build(tiny_config(fusion=fusion, experts="neighbors", neighbors={"count": 1, "decay": 0.5})))
    pooled = fresh(build(tiny_config(fusion=fusion, experts="pooled")))
    for name, value in params.items():
        assert torch.equal(value, other[name])
        assert torch.equal(value, pooled[name])


def test_alone_it_is_its_scores_and_given_constants_are_those_it_makes():
    recommender = build(tiny_config(experts="neighbors"))
    params, batch = shaken(recommender), batch_of()
    constants = recommender.constant_scores(batch.items, batch.rows, None, None)
    assert set(constants) == set(recommender.constants) == {"visual", "semantic"}
    for name, expected in constants.items():
        alone = recommender.forward(params, batch, only=name).scores.materialise()
        assert torch.equal(alone, expected)
        assert not alone[..., list(LACKING[name])].any()
        assert alone.any()
    made, given_them = (
        recommender.forward(params, own).scores.materialise() for own in (batch, replace(batch, constants=constants))
    )
    assert torch.equal(made, given_them)


def test_no_clients_data_are_in_it():
    """The same for everybody, whatever they hold: a client's own history has nothing to be taken out."""
    recommender = build(tiny_config(experts="neighbors"))
    batch = batch_of()
    histories = [np.array(sorted({item for window in own for item in window})) for own in WINDOWS]
    without, whole = (recommender.constant_scores(batch.items, batch.rows, None, own) for own in (histories, None))
    assert all(torch.equal(value, whole[name]) for name, value in without.items())
    worlds = [make_local({"experts": "neighbors"}, {}, train=train)[0] for train in (None, short_histories())]
    for name, part in worlds[0].recommender.parts.items():
        assert (part.graph.graph != worlds[1].recommender.parts[name].graph.graph).nnz == 0


def short_histories():
    local, _ = make_local()
    return replace(local.train, values=local.train.values[::-1].copy())


@pytest.mark.parametrize("negatives", [0, 5])
def test_steps_carry_its_scores_and_a_warm_ups_do_not(negatives):
    local, _ = make_local({"experts": "neighbors"}, {"warmup_rounds": 1, "num_negatives": negatives})
    clients = np.array([2, 4])
    warm, later = (local.steps(clients, number).step(0, 2).batch for number in (1, 2))
    assert warm.constants == {}
    expected = local.recommender.constant_scores(later.items, later.rows, later.candidates, None)
    assert later.constants.keys() == expected.keys() == {"visual", "semantic"}
    assert all(torch.equal(value, expected[name]) for name, value in later.constants.items())


def test_it_reaches_items_that_were_never_trained():
    """A cold item's embedding says nothing; its features bring it as near to a history as any other's."""
    recommender = build(tiny_config(experts="neighbors"))
    batch = batch_of([[[7, 1, 10]]])
    cold = 5
    trained = torch.ones(NUM_ITEMS + 1, dtype=torch.bool)
    trained[[0, cold]] = False
    params = {name: value.unsqueeze(0) for name, value in of_client(shaken(recommender), 0).items()}
    known = recommender.forward(params, batch, only="semantic").scores.materialise()[..., cold]
    unknown = replace(recommender, trained=trained).forward(params, batch, only="semantic").scores.materialise()
    assert (known[0, -1] > 0).all()
    assert torch.equal(unknown[..., cold], known)


def test_what_training_forms_for_a_row_is_one_number_a_candidate_and_modality():
    for names in (("visual",), ("visual", "semantic")):
        recommender = build(tiny_config(experts="neighbors"), names)
        assert recommender.factorises
        assert recommender.formed_per_row(0) == len(names) * NUM_ITEMS
        assert recommender.formed_per_row(5) == len(names) * 5


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_scores_have_the_models_precision(dtype):
    table = random_table(1)
    table = FeatureTable(table.values.to(dtype), table.present)
    items, rows, _ = random_windows(1)
    assert neighbor_scores(NeighborTable.build(table, NeighborsConfig()), items, rows, None).dtype == dtype
