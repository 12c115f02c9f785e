"""Claims about the stages between a client and the server's rule: what each does to a vector, and to the sum of all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.errors import ConfigError
from fedmm.federation.traffic import traffic
from fedmm.federation.transforms.chain import Layout, chained_sum, final_bound
from fedmm.federation.transforms.contract import Bound, Stage, TransformRound
from fedmm.federation.transforms.registry import UPDATE_TRANSFORMS
from fedmm.privacy.secure_sum import SecureSumError
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.subject import SMALL_ITEMS, Subject
from fedmm.verification.wire import size_of
from fedmm.verification.world import by_client, make_federation, make_local

Gaps = list[tuple[str, float]]
CLIENTS = np.arange(600)
KNOWN_STAGES = ("clip", "low_rank", "rotate", "round", "noise", "noise_share", "mask")
CHAINS: Sequence[tuple[str, ...]] = ((), ("clip",), ("clip", "rotate", "round", "mask"), ("clip", "round"))


def _turn(number: int = 1, parts: tuple[int, ...] = (5,), clients: int = 4, **settings: Any) -> TransformRound:
    noise = settings.pop("noise", 0.0), settings.pop("contributions", 1)
    config = FederationConfig.model_validate(settings)
    return TransformRound(config, 3, number, CLIENTS[:clients], parts, *noise)


def _sent(stage: Stage, vectors: Tensor) -> Tensor:
    assert stage.send is not None
    return stage.send(vectors, CLIENTS[: len(vectors)])


def _received(stage: Stage, total: Tensor) -> Tensor:
    assert stage.receive is not None
    return stage.receive(total)


def _draw(*shape: int) -> Tensor:
    return torch.from_numpy(numpy_stream(0, "verify stages", *shape).normal(size=shape))


def _far(left: Tensor, right: Tensor) -> float:
    return float((left.double() - right.double()).abs().max()) if left.shape == right.shape else math.inf


def _clips() -> Gaps:
    """Each vector, or each part of it, is scaled down to its bound; what is short stays."""
    vectors = _draw(6, 5) * torch.tensor([0.01, 0.1, 0.3, 1.0, 3.0, 0.0]).double()[:, None]
    gaps = []
    for by, parts in (("whole", (5,)), ("part", (2, 3))):
        turn = _turn(parts=(2, 3), update_clip=0.5, update_clip_by=by)
        stage, limit = UPDATE_TRANSFORMS["clip"](turn, Bound(5)), 0.5 / math.sqrt(len(parts))
        expected = []
        for row in vectors:
            pieces = [piece * min(1.0, limit / max(float(piece.norm()), 1e-300)) for piece in row.split(parts)]
            expected.append(torch.cat(pieces))
        gaps.append((f"clipped by {by}", _far(_sent(stage, vectors), torch.stack(expected))))
        gaps.append((f"bound of {by}", abs(stage.bound.norm - 0.5)))
    return gaps


def _projects() -> Gaps:
    """The item table's part goes through r orthonormal columns, and comes back as D / r times its projection; at r = D
    as it was. What is beside it stays."""
    vectors = _draw(4, 15)
    gaps: Gaps = []
    for rank in (1, 2, 3):
        turn = replace(_turn(parts=(1, 12, 2), update_rank=rank), table=(1, 4, 3))
        stage = UPDATE_TRANSFORMS["low_rank"](turn, Bound(15, norm=2.0))
        sent = _sent(stage, vectors)
        found = _received(stage, sent.sum(0))
        middle, table = found[1:13].view(4, 3), vectors.sum(0)[1:13].view(4, 3)
        projector = torch.linalg.lstsq(table, middle).solution * rank / 3
        gaps.append((f"rank {rank}: width", abs(stage.bound.width - sent.shape[1]) + abs(sent.shape[1] - 3 - 4 * rank)))
        gaps.append((f"rank {rank}: projects", _far(projector @ projector, projector) + _far(projector, projector.T)))
        gaps.append((f"rank {rank}: directions", abs(float(projector.trace()) - rank)))
        beside = torch.cat([found[:1], found[13:]])
        gaps.append((f"rank {rank}: beside", _far(beside, torch.cat([vectors.sum(0)[:1], vectors.sum(0)[13:]]))))
        gaps.append((f"rank {rank}: norm", max(0.0, float((sent.norm(dim=1) / vectors.norm(dim=1)).max()) - 1.0)))
    return gaps


def _rotates() -> Gaps:
    """Unit vectors become columns of the Hadamard matrix, H[i, j] = (-1)^|i and j| / sqrt(n), each with a sign of its
    own, the same for all clients of a round; the sum comes back."""
    gaps = []
    for width, padded in ((1, 1), (2, 2), (5, 8), (13, 16)):
        turn = _turn()
        stage = UPDATE_TRANSFORMS["rotate"](turn, Bound(width, norm=2.0))
        matrix = torch.tensor([[(-1.0) ** (i & j).bit_count() for j in range(padded)] for i in range(padded)])
        matrix = matrix.double() / math.sqrt(padded)
        turned = _sent(stage, torch.eye(width).double())
        label = f"rotation of {width}"
        wide = (stage.bound.width, stage.bound.spread, stage.bound.norm) == (padded, True, 2.0)
        gaps.append((f"{label}: bound", 0.0 if wide and turned.shape == (width, padded) else math.inf))
        if turned.shape != (width, padded):
            continue
        signs = torch.sign(turned[:, 0])
        gaps.append((label, _far(turned, signs[:, None] * matrix[:width])))
        vectors = _draw(3, width)
        gaps.append((f"{label}: linear", _far(_sent(stage, vectors), vectors @ turned)))
        gaps.append((f"{label}: undone", _far(_received(stage, _sent(stage, vectors).sum(0)), vectors.sum(0))))
        gaps.append((f"{label}: again", _far(_sent(UPDATE_TRANSFORMS["rotate"](turn, Bound(width)), vectors),
                                             _sent(stage, vectors))))  # fmt: skip
    turns = [torch.sign(_sent(UPDATE_TRANSFORMS["rotate"](_turn(n), Bound(13)), torch.eye(13))[:, 0]) for n in (1, 2)]
    gaps += [("all signs are one", float(abs(float(own.sum())) == 13)) for own in turns]
    gaps.append(("two rounds have the same signs", float(torch.equal(*turns))))
    return gaps


def _rounds() -> Gaps:
    """Whole numbers within the bits, of the vector itself on average, each client's drawn anew; steps and the norm kept
    are those of Kairouz, Liu & Steinke (ICML 2021); what cannot be short enough is rounded towards zero."""
    gaps = []
    for bits, spread in ((4, False), (4, True), (8, True)):
        label, most = f"{bits} bits{', spread' if spread else ''}", 2 ** (bits - 1) - 1
        stage = UPDATE_TRANSFORMS["round"](_turn(update_bits=bits), Bound(64, norm=2.0, spread=spread))
        reach = min(2.0, (2 + bits / 2) * 2.0 / 8.0) if spread else 2.0
        step = float(_received(stage, torch.ones(1, dtype=torch.int64)))
        gaps.append((f"step of {label}", abs(step - reach / most)))
        norm = 2.0 / (reach / most)
        longest = min(norm + 8.0, math.sqrt(norm**2 + 64 / 4 + norm + 8.0 / 2))
        gaps.append((f"norm of {label}", abs(stage.bound.norm - longest)))
        held = (stage.bound.integers, stage.bound.largest, stage.bound.bits) == (True, most, bits)
        gaps.append((f"bound of {label}", 0.0 if held else math.inf))
        row = _draw(64)
        row = row / row.norm()
        whole = _sent(stage, row.expand(600, 64))
        gaps.append((f"{label}: no whole numbers", float(whole.dtype != torch.int64)))
        gaps.append((f"{label}: far", max(0.0, float((whole * step - row).abs().max()) - step - 1e-12)))
        above = row / step - (row / step).floor()
        deviation = (above * (1 - above) / 600).sqrt().clamp(min=1e-9)
        gaps.append((f"{label}: mean", max(0.0, float(((whole - row / step).mean(0) / deviation).abs().max()) - 5.0)))
        gaps.append((f"{label}: alike", float(torch.equal(whole[0], whole[1]))))
        spike = torch.zeros(1, 64).double()
        spike[0, 3] = 1.9
        found = float(_sent(stage, spike)[0, 3])
        gaps.append((f"{label}: largest", abs(found - most) if spread else max(0.0, abs(found - 1.9 / step) - 1)))
        low = float(_sent(stage, -spike)[0, 3])
        gaps.append((f"{label}: lowest", abs(low + most) if spread else max(0.0, abs(low + 1.9 / step) - 1)))
        long = torch.full((1, 64), 0.97 * reach).double()
        gaps.append((f"{label}: too long", _far(_sent(stage, long), (long / step).trunc())))
        gaps.append((f"{label}: nobody", float(_sent(stage, torch.zeros(0, 64)).shape != (0, 64))))
    return gaps


def _masks() -> Gaps:
    """Masked numbers say nothing, their sum says all; bits are those that the sum of all needs, noise included."""
    gaps = []
    for clients, largest, noise in ((4, 7.0, 0.0), (3, 100.0, 4.0), (1, 7.0, 0.0)):
        turn = _turn(clients=clients, noise=noise, contributions=2)
        stage = UPDATE_TRANSFORMS["mask"](turn, Bound(300, norm=5.0, integers=True, largest=largest))
        bits = math.ceil(math.log2(2 * (clients * largest + 10 * noise * 5.0 * 2) + 2))
        label = f"masks of {clients}"
        held = (stage.bound.bits, stage.bound.modulus) == (bits, 2**bits)
        gaps.append((f"{label}: {stage.bound.bits} bits", 0.0 if held else math.inf))
        stream = numpy_stream(0, "verify masks", clients)
        words = torch.from_numpy(stream.integers(-int(largest), int(largest) + 1, size=(clients, 300)))
        hidden = _sent(stage, words)
        assert stage.on_sum is not None
        gaps.append((f"{label}: sum", _far(_received(stage, stage.on_sum(hidden.sum(0))), words.sum(0))))
        shown = float((hidden == words.remainder(2**bits)).double().mean())
        gaps.append((f"{label}: shown", max(0.0, shown - 2.0**-bits - 5 * 2.0 ** (-bits / 2) / math.sqrt(300))))
        extreme = torch.full((clients, 300), -int(largest))
        back = _received(stage, stage.on_sum(_sent(stage, extreme).sum(0)))
        gaps.append((f"{label}: extremes", _far(back, extreme.sum(0))))
    return gaps


def _noises() -> Gaps:
    """Noise of the multiplier times the norm times the vectors that neighbours differ by; whole on whole numbers."""
    gaps = []
    for integers in (False, True):
        turn = _turn(noise=1.5, contributions=2)
        sums = []
        for number in (1, 2):
            own = TransformRound(turn.config, 3, number, turn.clients, turn.parts, 1.5, 2)
            stage = UPDATE_TRANSFORMS["noise"](own, Bound(4000, norm=4.0, integers=integers))
            total = torch.full((4000,), 7, dtype=torch.int64 if integers else torch.float64)
            assert stage.on_sum is not None
            sums.append(stage.on_sum(total) - total)
        sizes = [float(own.double().std()) / 12.0 for own in sums]
        gaps += [(f"size of noise, whole={integers}", max(0.0, abs(size - 1) * math.sqrt(8000) - 5)) for size in sizes]
        alike = float((sums[0] * sums[1]).double().mean()) / 144 * math.sqrt(4000)
        gaps.append((f"two rounds, whole={integers}", max(0.0, abs(alike) - 5)))
        gaps.append((f"whole={integers}", float((sums[0].dtype == torch.int64) != integers)))
    return gaps


def _shares() -> Gaps:
    """Each client's noise has the m-th part of the variance that the account goes by, m the fewest that must send; no
    two shares are one, and a sum of fewer is not opened."""
    gaps = []
    turn = _turn(noise=1.5, contributions=2, clients=8)
    for share, least in ((1.0, 8), (0.7, 6)):
        for number in (1, 2):
            own = replace(turn, number=number, senders_share=share, present=CLIENTS[:least])
            stage = UPDATE_TRANSFORMS["noise_share"](own, Bound(4000, norm=4.0, integers=True))
            found = (_sent(stage, torch.full((8, 4000), 7)) - 7).double()
            size = float((found**2).mean().sqrt()) / (12.0 / math.sqrt(least))
            gaps.append((f"size of shares of {share}", max(0.0, abs(size - 1) * math.sqrt(2 * 8 * 4000) - 5)))
            among = np.corrcoef(np.concatenate([found.numpy(), np.roll(found.numpy(), 1, axis=0)]))[:8, 8:]
            between = np.abs(among[np.arange(8), np.arange(8)]).max() * math.sqrt(4000)
            gaps.append((f"shares of {share} alike", max(0.0, float(between) - 6)))
            assert stage.on_sum is not None
            gaps.append((f"sum of {share}", _far(stage.on_sum(found.sum(0)), found.sum(0))))
        few = UPDATE_TRANSFORMS["noise_share"](replace(own, present=CLIENTS[: least - 1]), stage.bound)
        assert few.on_sum is not None
        try:
            few.on_sum(found.sum(0))
            gaps.append((f"{least - 1} of 8 are opened at {share}", math.inf))
        except SecureSumError:
            gaps.append((f"{least - 1} of 8 at {share}", 0.0))
    return gaps


def _refuses() -> Gaps:
    """Stages whose need nobody met."""
    cases: Sequence[tuple[str, str, Bound, dict[str, Any]]] = (
        ("noise without a bound", "noise", Bound(5), {}),
        ("rounding without a bound", "round", Bound(5), {}),
        ("shares without a bound", "noise_share", Bound(5, integers=True), {}),
        ("shares of numbers that are not whole", "noise_share", Bound(5, norm=1.0), {}),
        ("masks of numbers that are not whole", "mask", Bound(5, norm=1.0), {}),
        ("masks of more than 32 bits", "mask", Bound(5, norm=1.0, integers=True, largest=2.0**30), {}),
    )
    gaps = []
    for label, name, bound, settings in cases:
        try:
            UPDATE_TRANSFORMS[name](_turn(**settings), bound)
            gaps.append((f"{label}: not refused", math.inf))
        except ConfigError:
            gaps.append((label, 0.0))
    allowed = UPDATE_TRANSFORMS["mask"](_turn(), Bound(5, norm=1.0, integers=True, largest=2.0**29 - 1))
    gaps.append(("32 bits are refused", float(allowed.bound.bits != 32)))
    return gaps


def stages(subject: Subject) -> Finding:
    """Every stage by itself."""
    del subject
    unknown = [name for name in UPDATE_TRANSFORMS.built_in if name not in KNOWN_STAGES]
    parts: Sequence[Callable[[], Gaps]] = (_clips, _projects, _rotates, _rounds, _masks, _noises, _shares, _refuses)
    gaps = [gap for part in parts for gap in part()]
    value, label = worst([*gaps, (f"no definition of {unknown}", math.inf if unknown else 0.0)])
    return at_most(value, 1e-9, f"{len(gaps)} properties of {len(KNOWN_STAGES)} stages; largest: {label}")


def chain(subject: Subject) -> Finding:
    """A cohort's clipped updates through rotation, rounding and masks: the sum is that of the clipped updates within a
    step a client, a vector is as long as its bits, and the losses are the clients' own."""
    del subject
    gaps: Gaps = []
    for names in CHAINS:
        local, params = make_local({"fusion": "backbone"}, {"update_clip": 0.05, "update_bits": 16})
        settings = local.config.model_copy(update={"update_transforms": names})
        federation, cohort = make_federation(local), local.windows.trainable
        trained = local.trainable(params, 1)
        layout = Layout({name: params[name].shape for name in trained})
        turn = layout.known_to(TransformRound(settings, 0, 1, cohort, ()))
        blocks = list(federation.engine(local, params, cohort, 1))
        deltas, facts, _, beside, costs = chained_sum(iter(blocks), layout, turn, local)
        width, expected, losses = sum(layout.parts), torch.zeros(sum(layout.parts)).double(), 0.0
        for delta, loss, _ in by_client(iter(blocks)).values():
            flat = torch.cat([delta[name].flatten() for name in trained])
            expected += flat * (min(1.0, 0.05 / float(flat.norm())) if names else 1.0)
            losses += loss
        found = torch.cat([deltas[name].flatten() for name in trained])
        padded = 1 << (width - 1).bit_length() if "rotate" in names else width
        step = 0.0 if "round" not in names else (0.05 * min(1.0, 10 / math.sqrt(padded)) if "rotate" in names else 0.05)
        room = len(cohort) * step / (2**15 - 1) * (math.sqrt(padded) if "rotate" in names else 1.0)
        label = " ".join(names) or "no stage"
        gaps.append((f"{label}: sum", max(0.0, _far(found, expected) - room)))
        gaps.append((f"{label}: losses", abs(float(beside.loss) - losses) if beside and facts is None else math.inf))
        gaps.append((f"{label}: stages", float(list(costs) != list(names))))
        bits = {"clip": 32, "rotate": 32, "round": 16, "mask": math.ceil(math.log2(2 * len(cohort) * (2**15 - 1) + 2))}
        for name, cost in costs.items():
            numbers = width if name == "clip" else padded
            gaps.append((f"{label}: bytes after {name}", abs(cost.bytes - math.ceil(numbers * bits[name] / 8))))
        last = final_bound(turn)
        sent = math.ceil(padded * bits[names[-1]] / 8) if names else 4 * width
        gaps.append((f"{label}: bytes sent", abs(math.ceil(last.width * last.bits / 8) - sent)))
        if names:
            chained = replace(
                federation, config=settings, local=replace(local, config=settings), cohort_size=len(cohort)
            )
            message = {"update": torch.zeros(sent, dtype=torch.uint8), "weight_and_losses": torch.zeros(3)}
            holders = (
                {"holders": torch.zeros(SMALL_ITEMS + 1, dtype=torch.int32)} if settings.aggregation != "mean" else {}
            )
            up, _ = traffic(chained, params, 1)
            gaps.append((f"{label}: message", float(abs(up - size_of({**message, **holders})))))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{len(CHAINS)} chains over {SMALL_ITEMS} items; largest: {label}")


CHECKS: Sequence[Check] = (
    Check("federation", "each stage does to a vector and to sums what it says", stages),
    Check("federation", "a chain of stages gives back the sum of clipped updates, at its bytes", chain),
)
