"""The rules between a block's gradients and its optimizer, each against its definition, and their order."""

import pytest
import torch

from fedmm.config import FederationConfig
from fedmm.federation.client_states import Carried
from fedmm.federation.gradient_rules import clipping, gradient_rules, proximal_pull
from fedmm.utils.seeding import torch_stream

SHAPES = {"backbone.a": (4, 3), "backbone.b": (), "personal.gate": ()}
C = 3


def tree(name, names=tuple(SHAPES), scale=1.0):
    stream = torch_stream(0, name)
    return {n: scale * torch.randn(C, *SHAPES[n], generator=stream, dtype=torch.float64) for n in names}


def config(**changes):
    return FederationConfig.model_validate({"clip_norm": None, **changes})


@pytest.mark.parametrize("num_active", [1, C])
def test_the_pull_is_the_gradient_of_its_distance_and_spares_what_is_personal(num_active):
    start, values, before = tree("start", ("backbone.a", "backbone.b")), tree("values"), tree("gradients")
    values, before = ({n: v[:num_active] for n, v in part.items()} for part in (values, before))
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    distance = sum((leaves[name] - value[:num_active]).square().sum() for name, value in start.items())
    (0.3 / 2 * distance).backward()
    after = dict(before)
    proximal_pull(0.3, start)(after, values, num_active)
    for name in start:
        torch.testing.assert_close(after[name], before[name] + leaves[name].grad)
    assert torch.equal(after["personal.gate"], before["personal.gate"])


def test_each_client_is_clipped_as_torch_clips_it_alone():
    gradients = tree("gradients")
    gradients = {
        name: value * torch.tensor([0.01, 1.0, 9.0]).view(C, *[1] * (value.ndim - 1))
        for name, value in gradients.items()
    }
    expected = []
    for c in range(C):
        leaves = [torch.zeros_like(value[c]).requires_grad_() for value in gradients.values()]
        for leaf, value in zip(leaves, gradients.values(), strict=True):
            leaf.grad = value[c].clone()
        torch.nn.utils.clip_grad_norm_(leaves, 0.5)
        expected.append([leaf.grad for leaf in leaves])
    clipping(0.5)(gradients, {}, C)
    for place, value in enumerate(gradients.values()):
        torch.testing.assert_close(value, torch.stack([own[place] for own in expected]))


def test_the_pull_is_clipped_and_the_correction_is_not():
    start = {"backbone.a": torch.zeros(C, 4, 3, dtype=torch.float64)}
    far = {"backbone.a": torch.full((C, 4, 3), 1e6, dtype=torch.float64)}
    correction = tree("correction", ("backbone.a",))
    rules = gradient_rules(config(clip_norm=0.5, proximal_mu=1.0), start, Carried({}, {}, correction))
    gradients = tree("gradients", ("backbone.a",))
    for rule in rules:
        rule(gradients, far, C)
    norms = (gradients["backbone.a"] - correction["backbone.a"]).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((C,), 0.5, dtype=torch.float64))


def test_without_settings_there_are_no_rules():
    assert gradient_rules(config(), {}, Carried({}, {}, {})) == ()
    assert len(gradient_rules(config(clip_norm=1.0), {}, Carried({}, {}, {}))) == 1
