"""What every kind of expert owes, those that ship and one written as a user would write it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmm.config import ModelConfig
from fedmm.config.expert_kinds import EXPERT_TRAITS
from fedmm.config.parts import KINDS as KINDS_OF_SETTINGS
from fedmm.config.parts import register_part, unregister_part
from fedmm.data.transitions import sum_transition_counts
from fedmm.data.types import Ragged
from fedmm.engines import vectorized
from fedmm.errors import ConfigError
from fedmm.models.experts import EXPERTS, DenseScores, Expert
from fedmm.models.features import FeatureTable, rows_of
from fedmm.models.fusion import GATE
from fedmm.models.layers import pick_rows
from fedmm.models.recommender import Batch, Recommender
from fedmm.models.shares import shares
from fedmm.utils.seeding import torch_stream
from fedmm.verification import world as small
from fedmm.verification.subject import shaken as shaken_once
from fedmm.verification.subject import small_features
from worlds.model_world import LACKING, NUM_ITEMS, TINY, WINDOWS, batch_of, features, of_client, score, shaken

F64 = torch.float64
EXACT = {"rtol": 1e-12, "atol": 1e-12}


class LastItem(Expert):
    """How alike the last item and the candidate are; the example of ``Expert``."""

    local_tables = True

    def init(self, generator):
        return {f"{self.name}.scale": torch.ones((), dtype=F64)}

    def term(self, params, asked):
        table = asked.tables[self.name]
        last = pick_rows(table.at(asked.items).values, asked.rows)
        return params[f"{self.name}.scale"].view(-1, 1, 1) * last, rows_of(table.values, asked.candidates)


class FavouredItems(Expert):
    """One of the whole catalogue, by dense scores of its own: a learned number for every item, halved after item 1."""

    per_modality = False
    factorises = False

    def init(self, generator):
        return {f"{self.name}.favour": torch.randn(self.source.num_items + 1, generator=generator, dtype=F64)}

    def represent(self, params, asked):
        favour = params[f"{self.name}.favour"].unsqueeze(1)
        after = pick_rows(asked.items.unsqueeze(-1), asked.rows) == 1
        scores = torch.where(after, favour / 2, favour)
        if asked.candidates is None:
            return DenseScores(scores)
        return DenseScores(scores.gather(2, asked.candidates.unsqueeze(1).expand(-1, scores.shape[1], -1)))

    def formed_per_row(self, num_candidates):
        return num_candidates


OUTSIDE = {"last_item": LastItem, "favoured_items": FavouredItems}
KINDS = {**EXPERTS, **OUTSIDE}
EVERY = pytest.mark.parametrize("kind", sorted(KINDS))
FUSIONS = pytest.mark.parametrize("fusion", ["residual", "competitive"])


@pytest.fixture(autouse=True)
def outside_kinds():
    for name, kind in OUTSIDE.items():
        register_part("expert", name, kind)
    yield
    for name in OUTSIDE:
        unregister_part("expert", name)


def settings_of(kind, **changes):
    """Settings with experts of ``kind`` and no others."""
    further = kind in ModelConfig(transition=True).further_experts
    own = {"transition": True} if further else {"experts": kind}
    return ModelConfig.model_validate({**TINY, "memory": {"size": 3, "num_heads": 2}, **own, **changes})


def build(kind, **changes):
    """Experts of ``kind`` over the tiny catalogue; nothing else speaks beside the backbone."""
    config = settings_of(kind, **changes)
    tables = {name: features(name) for name in LACKING} if KINDS[kind].per_modality else {}
    histories = [np.array(window) for own in WINDOWS for window in own]
    counts = sum_transition_counts(Ragged.from_rows(histories), NUM_ITEMS) if config.transition else None
    return Recommender.build(config, NUM_ITEMS, tables, F64, transition_counts=counts)


def local_of(kind, federation):
    """Local training of the small federation with experts of ``kind``."""
    further = kind in ModelConfig(transition=True).further_experts
    model = {"transition": True} if further else {"experts": kind}
    local, _ = small.make_local({"dropout": 0.2, **model}, federation)
    config, num_items = local.recommender.config, local.recommender.num_items
    counts = sum_transition_counts(local.train, num_items) if further else None
    tables = small_features() if KINDS[kind].per_modality else {}
    recommender = Recommender.build(config, num_items, tables, F64, transition_counts=counts)
    return replace(local, recommender=recommender), shaken_once(recommender.init(torch_stream(0, "contract"), F64))


@EVERY
def test_it_has_an_expert_a_modality_or_one_under_its_own_name(kind):
    recommender = build(kind)
    assert recommender.experts == (tuple(LACKING) if KINDS[kind].per_modality else (kind,))
    assert all(isinstance(part, KINDS[kind]) and part.name == name for name, part in recommender.parts.items())


@EVERY
def test_its_parameters_bear_its_name_and_leave_the_backbones_draws_alone(kind):
    recommender = build(kind)
    params = recommender.init(torch_stream(0, "fresh"), F64)
    plain = build(kind, fusion="backbone").init(torch_stream(0, "fresh"), F64)
    assert all(torch.equal(params[name], value) for name, value in plain.items())
    owners = {name.split(".")[0] for name in params.keys() - plain.keys()}
    assert owners <= {*recommender.experts, "router", "fusion"}
    assert all(value.dtype == F64 for value in params.values())


@EVERY
def test_at_gate_zero_the_model_is_the_backbone_bit_for_bit(kind):
    recommender = build(kind)
    params = shaken(recommender, gate=0.0)
    batch = batch_of()
    assert torch.equal(score(recommender, params, batch), score(recommender, params, batch, experts=False))
    opened = {**params, GATE: torch.full_like(params[GATE], 0.5)}
    assert not torch.equal(score(recommender, opened, batch), score(recommender, params, batch))


@EVERY
@FUSIONS
def test_no_later_item_moves_an_earlier_score(kind, fusion):
    recommender = build(kind, fusion=fusion)
    params = shaken(recommender)
    before = score(recommender, params, batch_of())
    for cut in (1, 3, 5):
        other = [
            [[*window[:cut], *(1 + (i + 4) % NUM_ITEMS for i in window[cut:])] for window in own] for own in WINDOWS
        ]
        after = score(recommender, params, batch_of(other))
        torch.testing.assert_close(after[:, :, :cut], before[:, :, :cut], **EXACT)


@EVERY
def test_where_it_is_absent_it_says_nothing_and_gets_no_weight(kind):
    """Alone it scores 0 there; where no item has it the model is the backbone, bit for bit."""
    recommender = build(kind)
    params, batch = shaken(recommender), batch_of()
    table = params["backbone.item_embedding"]
    weights = recommender.router_weights(params, None, table)
    for m, (name, part) in enumerate(recommender.parts.items()):
        absent = ~part.present(recommender.tables)
        assert absent[0]
        assert not score(recommender, params, batch, only=name)[..., absent].any()
        assert not weights[:, absent, m].any()
    nothing = {n: FeatureTable(t.values * 0.0, t.present & False) for n, t in recommender.tables.items()}
    silent = recommender.with_tables(nothing)
    masked = {n: p if p.per_modality else replace(p, mask=p.present({}) & False) for n, p in silent.parts.items()}
    silent = replace(silent, parts=masked)
    assert torch.equal(score(silent, params, batch), score(recommender, params, batch, experts=False))


@EVERY
@FUSIONS
def test_router_weights_sum_to_one_over_what_is_present(kind, fusion):
    recommender = build(kind, fusion=fusion)
    params = shaken(recommender)
    weights = recommender.router_weights(params, None, params["backbone.item_embedding"])
    present = torch.stack([part.present(recommender.tables) for part in recommender.parts.values()], -1)
    someone = present.any(-1) | (fusion == "competitive")
    torch.testing.assert_close(weights.sum(-1), someone.to(F64).expand(len(weights), -1), **EXACT)
    assert not weights[..., -len(recommender.experts) :][:, ~present].any()


@EVERY
def test_the_last_position_alone_is_the_last_of_all_positions(kind):
    recommender = build(kind)
    params, batch = shaken(recommender), batch_of()
    ends = torch.tensor(
        [[len(window) - 1 + b * batch.items.shape[2] for b, window in enumerate(own)] for own in WINDOWS]
    )
    every = recommender.forward(params, batch).scores.materialise()
    last = recommender.forward(params, replace(batch, rows=ends)).scores.materialise()
    expected = every.gather(1, ends.unsqueeze(-1).expand(-1, -1, every.shape[2]))
    torch.testing.assert_close(last, expected, **EXACT)


@EVERY
@FUSIONS
def test_clients_together_are_each_client_alone(kind, fusion):
    recommender = build(kind, fusion=fusion)
    params = shaken(recommender, num_clients=3)
    batch = batch_of([*WINDOWS, [[9, 2, 5], [1, 8, 8, 3]]])
    together = score(recommender, params, batch)
    for c in range(3):
        own = {name: value.unsqueeze(0) for name, value in of_client(params, c).items()}
        alone = score(recommender, own, Batch(batch.items[c : c + 1], batch.rows[c : c + 1]))
        torch.testing.assert_close(together[c : c + 1], alone, **EXACT)


@EVERY
def test_chosen_candidates_are_scored_as_in_the_catalogue(kind):
    recommender = build(kind)
    params, candidates = shaken(recommender), [[3, 12, 1, 7], [8, 2, 4, 4]]
    some = score(recommender, params, batch_of(candidates=candidates))
    every = score(recommender, params, batch_of())
    for c, own in enumerate(candidates):
        torch.testing.assert_close(some[c], every[c][..., own], **EXACT)


@EVERY
@FUSIONS
def test_gradients_are_those_of_finite_differences(kind, fusion):
    """Along one direction of each parameter that is the experts', the router's or the fusion's."""
    recommender = build(kind, fusion=fusion)
    params, batch, stream = shaken(recommender), batch_of(), torch_stream(0, "directions")
    mix = torch.randn(score(recommender, params, batch).shape, generator=stream, dtype=F64)

    def value(own):
        return (score(recommender, own, batch) * mix).sum()

    for name in [name for name in params if not recommender.is_backbone(name)]:
        direction = torch.randn(params[name].shape, generator=stream, dtype=F64)
        leaf = params[name].clone().requires_grad_()
        # A parameter that nothing depends on has the gradient 0, which is held against differences, too.
        (gradient,) = torch.autograd.grad(value({**params, name: leaf}) + 0.0 * leaf.sum(), [leaf])
        ahead, behind = (value({**params, name: params[name] + step * direction}) for step in (1e-5, -1e-5))
        found = float((gradient * direction).sum())
        assert found == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-5, abs=1e-6), name


@EVERY
@pytest.mark.parametrize("negatives", [0, 6])
def test_the_engines_agree(kind, negatives):
    """Both ways of both engines: on dense item tables, and on tables of each client's own where the kind fits them."""
    local, params = local_of(kind, {"num_negatives": negatives, "local_steps": 2, "clip_norm": 0.5})
    cohort = local.windows.trainable[:4]
    expected, found = (small.by_client(engine(local, params, cohort, 1)) for engine in small.ENGINES.values())
    assert small.update_gap(expected, found) < 1e-9
    assert local.fits_local_tables == (bool(negatives) and KINDS[kind].local_tables)
    dense = (vectorized.train_block(local, params, block, 1) for block in vectorized.cut_blocks(local, cohort, 32, 1))
    assert small.update_gap(expected, small.by_client(dense)) < 1e-9


@pytest.mark.parametrize("kind", sorted(OUTSIDE))
@pytest.mark.parametrize("asked", [{"scoring": "cosine"}, {"alignment_weight": 0.1}], ids=str)
def test_what_an_outside_kind_cannot_do_is_refused_by_its_name(kind, asked):
    with pytest.raises(ConfigError, match=kind):
        build(kind, **asked)


@pytest.mark.parametrize("kind", sorted(EXPERT_TRAITS))
def test_settings_know_it_as_it_is(kind):
    traits = EXPERT_TRAITS[kind]
    for name in ("represents", "projects", "factorises"):
        assert getattr(traits, name) == getattr(EXPERTS[kind], name)
    assert set(EXPERT_TRAITS) == set(KINDS_OF_SETTINGS["expert"].built_in)


@EVERY
def test_it_says_of_itself_what_is_true(kind):
    recommender = build(kind)
    params, batch = shaken(recommender), batch_of()
    asked = recommender.asked(params, batch.items, batch.rows)
    for name, part in recommender.parts.items():
        constants = part.constants(batch.items, batch.rows, None, None)
        assert part.has_constants == (constants is not None)
        if part.factorises:
            with pytest.raises(NotImplementedError):
                part.represent(params, asked)
        elif part.represents:
            vectors, (basis, coefficients) = asked.item_keys, part.represent(params, asked).span()
            dots = (torch.einsum("crsd,cnd->crsn", basis, vectors) * coefficients).sum(2)
            torch.testing.assert_close(dots, part.represent(params, asked).dot(vectors))
        if part.projects:
            assert part.project(params, recommender.tables[name].values.expand(2, -1, -1)).shape == (
                2,
                NUM_ITEMS + 1,
                8,
            )
        else:
            with pytest.raises(NotImplementedError):
                part.project(params, torch.zeros(1, 1, 1))
        assert part.formed_per_row(10) == 10 * part.formed_per_row(1)
        assert bool(part.formed_per_row(1)) == (part.has_constants or not part.factorises)


@FUSIONS
@EVERY
def test_shares_sum_to_the_score(kind, fusion):
    recommender = build(kind, fusion=fusion)
    params, batch = shaken(recommender), batch_of()
    found = shares(recommender, params, batch.items, batch.rows)
    assert list(found.parts) == ["backbone", *recommender.experts]
    assert found.linear
    scores = recommender.forward(params, batch).scores.materialise()
    torch.testing.assert_close(sum(found.parts.values()), scores, **EXACT)
    total = sum(found.weights.values())
    torch.testing.assert_close(total, (total > 0).to(F64), **EXACT)
