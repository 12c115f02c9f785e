"""Claims about what is decided between rounds and before them: bounds that follow updates, devices and their times,
where the gate starts, splits that files make, and lists among chosen items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fedmm.config import DataConfig, FederationConfig
from fedmm.data.splits import make_split
from fedmm.data.types import Dataset, Interactions, Ragged
from fedmm.evaluation.gate_start import choose_gate
from fedmm.evaluation.ranking import best_among, best_items
from fedmm.federation.availability import staying, visit_times
from fedmm.federation.client_data import Windows
from fedmm.federation.local_training import UpdateBlock
from fedmm.federation.private_rounds import share_within
from fedmm.federation.transforms.chain import Layout
from fedmm.federation.transforms.clipping import next_bound
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.questions import asked
from fedmm.verification.subject import Subject
from fedmm.verification.wire import TABLE

PARTS: Sequence[tuple[int, int, int]] = (  # a user's events of training, validation and test
    (3, 1, 1), (2, 3, 2), (4, 0, 2), (0, 2, 1), (0, 0, 3), (2, 1, 0), (1, 0, 0), (5, 2, 4), (0, 1, 0),
)  # fmt: skip
DEVICES = 1500
GATE_QUESTIONS = 400


def made_splits(subject: Subject) -> Finding:
    """A split that files make: everybody trains on the training file; asked is the first event of another file, where
    the files before it hold any, all of which are known; what else the user met is excluded."""
    del subject
    rows = [[10 * user % 17 + 1 + at for at in range(sum(parts))] for user, parts in enumerate(PARTS)]
    flat = [item for row in rows for item in row]
    ids, users = np.array(["", *map(str, range(1, 40))]), np.array([f"u{user}" for user in range(len(rows))])
    times = np.arange(len(flat), dtype=np.float64)
    given = Interactions(users, ids, Ragged.from_rows(rows), times, np.array(PARTS, dtype=np.int64))
    split = make_split(
        Dataset("files", given, {}, ids, ""),
        DataConfig(split="files", path=Path("train.csv"), validation=Path("v.csv"), test=Path("t.csv")),
    )
    wanted: dict[str, list[tuple[int, tuple[int, ...], int, frozenset[int]]]] = {"validation": [], "test": []}
    for user, (row, (train, validation, test)) in enumerate(zip(rows, PARTS, strict=True)):
        for name, before, own in (("validation", train, validation), ("test", train + validation, test)):
            if before and own:
                wanted[name].append((user, tuple(row[:before]), row[before], frozenset(row) - {row[before]}))
    gaps = [("training", float([own.tolist() for own in split.train] != [row[: parts[0]] for row, parts in
                                                                        zip(rows, PARTS, strict=True)]))]  # fmt: skip
    gaps += [(name, float(asked(getattr(split, name)) != wanted[name])) for name in wanted]
    value, label = worst(gaps)
    return at_most(value, 0.0, f"{len(rows)} users; largest: {label}")


def bounds(subject: Subject) -> Finding:
    """What clients say of their norms sums to the share within the bound, and the bound moves by the rule of Andrew et
    al. (NeurIPS 2021): round after round it comes to the quantile that was asked for."""
    del subject
    stream = numpy_stream(0, "verify bounds")
    many, gaps = 400, []
    norms = np.exp(stream.normal(size=many))
    sent = torch.from_numpy(norms / 3)[:, None, None].expand(many, 3, 3).contiguous()  # nine equal numbers each
    zeros = torch.zeros(many, dtype=torch.float64)
    block = UpdateBlock(np.arange(many), {TABLE: sent}, zeros + 1, zeros, zeros)
    for quantile in (0.25, 0.5, 0.9):
        config = FederationConfig(update_transforms=("clip",), update_clip_quantile=quantile, update_clip=5.0)
        bound = 5.0
        for turn in range(60):
            layout = Layout({TABLE: torch.Size((3, 3))}, bound=bound)
            _, _, more = layout.unpack(layout.pack(block, 2).sum(0))
            within = share_within(more, many)
            share = float((norms <= bound).mean())
            if within is None:
                return at_most(math.inf, 1e-9, "nothing is said of the norms")
            if turn < 3:
                gaps.append((f"share within {bound:.3g}", abs(within - share)))
            now = next_bound(None if turn == 0 else bound, within, config)
            if now is None:
                return at_most(math.inf, 1e-9, "the bound does not move")
            gaps.append((f"bound after {bound:.3g}", abs(now / bound / math.exp(0.2 * (quantile - share)) - 1.0)))
            bound = now
        ends = np.quantile(norms, (quantile - 0.08, min(quantile + 0.08, 1.0)))
        gaps.append((f"quantile {quantile}", 0.0 if ends[0] <= bound <= ends[1] else math.inf))
    largest = FederationConfig(update_transforms=("clip",), update_clip_quantile=0.5, update_clip=2.0)
    for said, factor in ((50.0, 1 / 8), (-50.0, 8.0)):  # noise on the share carries the bound no further
        gaps.append(("far shares", abs((next_bound(None, said, largest) or 0.0) / 2.0 - factor)))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{many} norms, three quantiles; largest: {label}")


def devices(subject: Subject) -> Finding:
    """Times of visits: their logarithms have the deviation of devices and rounds, one device's times of two rounds the
    correlation 1 / 1.25; who is in time is there, and where more were asked the quickest are."""
    del subject
    spread, windows = 0.8, Windows(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64),
                                   3 * np.arange(DEVICES + 1))  # fmt: skip
    config = FederationConfig(speed_spread=spread, deadline=4.0, local_epochs=None, batch_size=2)
    everybody = np.arange(DEVICES)
    logs = [np.log(visit_times(everybody, windows, config, 0, number) / 2) / spread for number in (1, 2)]
    error = 5 / math.sqrt(DEVICES)
    gaps = [("mean", abs(float(logs[0].mean())) / (error * math.sqrt(1.25)))]
    gaps.append(("variance", abs(float(logs[0].var()) - 1.25) / (error * 1.25 * math.sqrt(2))))
    gaps.append(("of two rounds", abs(float(np.corrcoef(logs[0], logs[1])[0, 1]) - 0.8) / (error * 0.36)))
    whole = visit_times(everybody, windows, config.model_copy(update={"local_epochs": 1}), 0, 1)
    gaps.append(("all windows are trained", float(np.abs(whole / 3 / np.exp(spread * logs[0]) - 1).max()) / 1e-9))
    there = staying(everybody, windows, config, DEVICES, 0, 1)
    gaps.append(("in time", float((there != (2 * np.exp(spread * logs[0]) <= 4.0)).sum()) * 2))
    absent = FederationConfig(absence_rate=0.3, speed_spread=spread)
    share = 1 - float(staying(everybody, windows, absent, DEVICES, 0, 1).mean())
    gaps.append(("absent", abs(share - 0.3) / (error * math.sqrt(0.21))))
    more = FederationConfig(over_selection=1.5, speed_spread=spread, local_epochs=None, batch_size=2)
    kept = staying(everybody, windows, more, 100, 0, 1)
    slowest = float(logs[0][kept].max()) <= float(np.sort(logs[0])[99])
    gaps.append(("the quickest", 0.0 if kept.sum() == 100 and slowest else math.inf))
    value, label = worst(gaps)
    return at_most(value, 1.0, f"{DEVICES} devices; shares of five standard errors; largest: {label}")


def gates(subject: Subject) -> Finding:
    """A louder start is taken only where it is better by more than two standard errors, the better one of two such; on
    few questions none is."""
    del subject
    stream = numpy_stream(0, "verify gates")
    noise = stream.normal(size=GATE_QUESTIONS)
    noise -= noise.mean()
    noise *= math.sqrt(GATE_QUESTIONS) / float(np.std(noise, ddof=1))  # a standard error of 1
    gaps = []
    for one, three, best in ((1.9, 1.8, 0.1), (2.1, 1.9, 1.0), (2.1, 2.3, 3.0), (2.3, 2.1, 1.0), (-3.0, 2.1, 3.0)):
        base = {0.1: 0.0, 1.0: one, 3.0: three}
        chosen, met = choose_gate(0.1, lambda gate, base=base: base[gate] + noise * (gate != 0.1))  # type: ignore[misc]
        gaps.append((f"{one} and {three}", float(chosen != best)))
        gaps.append(
            ("averages", max(abs(met[gate] - base[gate]) for gate in base) if set(met) == set(base) else math.inf)
        )
    gaps.append(("few questions", float(choose_gate(0.1, lambda gate: np.full(199, gate)) != (0.1, {}))))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{len(gaps)} choices; largest: {label}")


def among(subject: Subject) -> Finding:
    """The best of some items are those that the best of all are where the others are left out, level ones alike."""
    del subject
    stream = numpy_stream(0, "verify among")
    gaps = []
    for size, some, keep in ((30, 12, 5), (30, 12, 12), (9, 8, 8), (5000, 40, 10)):
        items = np.stack([stream.choice(np.arange(1, size), some, replace=False) for _ in range(6)])
        scores = stream.integers(0, 4, items.shape).astype(np.float64)
        scores[0, : some - 2] = -np.inf
        whole = np.full((6, size), -np.inf)
        np.put_along_axis(whole, items, scores, 1)
        items = np.concatenate([items, [[size], [size + 7]] * 3], 1)  # beyond the catalogue, as ends of stretches are
        scores = np.concatenate([scores, np.full((6, 1), -np.inf)], 1)
        wanted = best_items(torch.from_numpy(whole), Ragged.from_rows([[]] * 6), None, keep)
        found, values = best_among(torch.from_numpy(scores), torch.from_numpy(items), size, keep)
        gaps.append((f"{some} of {size}", float((found != wanted).sum())))
        real = found > 0
        told = torch.from_numpy(whole).gather(1, found)
        gaps.append((f"scores, {some} of {size}", float((told != values)[real].sum())))
    value, label = worst(gaps)
    return at_most(value, 0.0, f"{len(gaps) // 2} catalogues; largest: {label}")


CHECKS: Sequence[Check] = (
    Check("honesty", "splits that files make ask about the first event of each file", made_splits),
    Check("honesty", "where the gate starts is surely better or as given", gates),
    Check("honesty", "the best of some items are those of all without the others", among),
    Check("federation", "clipping bounds follow the share of updates within them", bounds),
    Check("federation", "devices take the times that the settings say, and the quickest count", devices),
)
