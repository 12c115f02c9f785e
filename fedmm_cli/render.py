"""Last screens, on stdout: what a run or an evaluation came to, readable at 60 columns and more, colour or none.

The verdict and the model stand last, where the eye is when a command ends; what else was measured is shown by
``--details``.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedmm.utils.text import (
    as_measured,
    called,
    counted,
    in_bytes,
    in_time,
    listed,
    probability,
    share,
    signed,
    told_apart,
)
from fedmm_cli.lines import clients_sentence, hanging, print_facts

if TYPE_CHECKING:
    from fedmm.evaluation.measured import Metrics, Protocols
    from fedmm.runs.result import Advice, ColdItems, EvaluateResult, ModelFacts, PairedTests, Seconds, TrainResult

Own = TypeVar("Own")
PROTOCOLS = {"full": "full ranking", "uniform100": "100 uniform negatives", "popularity100": "100 popular negatives"}
BASELINES = {name: called(name) for name in ("popularity", "transition_counts", "ease", "item_knn", "round_0")}
JUDGES = ("round_0", "transition_counts", "backbone")  # whom the verdict names
METRICS = ("hr", "ndcg", "mrr")
PREFERRED_CUTOFF = 10
DEFAULT_STORE = "sqlite:///mlflow.db"
PART_NAMES = {"start_up": "start-up", "other": "rest"}
SMALL_PART = 0.04  # of the time: what is less is in the rest
FUSION = (("gating_weight", "gate"), ("w_vis", "w_vis"), ("w_sem", "w_sem"), ("w_trans", "w_trans"))


def print_result(result: TrainResult, *, details: bool = False) -> None:
    """The end of ``fedmm train``: cost and places, the model below its baselines, advice, and the verdict last."""
    console = make_console()
    console.print()
    print_facts(console, _run_facts(result, details=details))
    print_facts(console, _places(result, details=details), wrap=False)
    print_cold_items(console, result.cold_items)
    _print_measured(console, result, "test", result.model, result.advice, details=details)


def print_evaluation(result: EvaluateResult, split: str, *, details: bool = False) -> None:
    """The end of ``fedmm evaluate``."""
    console = make_console()
    console.print()
    print_facts(console, {"round": str(result.round), "checkpoint": result.checkpoint}, wrap=False)
    print_cold_items(console, result.cold_items)
    _print_measured(console, result, split, details=details)


def _print_measured(
    console: Console,
    result: TrainResult | EvaluateResult,
    split: str,
    model: ModelFacts | None = None,
    advice: Sequence[Advice] = (),
    *,
    details: bool,
) -> None:
    own = result.metrics[split]
    paired: Mapping[str, PairedTests] = result.paired.get(split, {})
    for protocol in reversed(list(own)) if details else list(own)[:1]:  # the one that decides comes last
        _print_metrics(console, result, split, protocol)
    console.print(Text(_legend(model), style="dim"))
    if details:
        _print_paired(console, paired)
    for item in advice:
        warning = item.level == "warning"
        console.print(hanging("!" if warning else "-", item.text, "bold yellow" if warning else ""))
    if split in result.clients:  # which runs of before did not measure
        console.print(hanging("-", clients_sentence([result.clients[split]])))
    if len(own) > 1 and not details:
        console.print(hanging("-", f"Also {_elsewhere(own)}: --details."))
    console.print(hanging("=", verdict(own, paired), "bold"))


def verdict(own: Protocols, paired: Mapping[str, PairedTests]) -> str:
    """One sentence: the model's number, whom it is better or worse than, and whom it cannot be told from."""
    protocol, values = next(iter(own.items()))
    deciding = next((metric for tests in paired.values() for metric in tests), None)
    name = deciding.partition("/")[2] if deciding else shown_metrics(values)[1]
    said: dict[str, list[str]] = {}
    for opponent in JUDGES:
        tests = paired.get(opponent)
        test = None if tests is None else tests.get(f"{protocol}/{name}")
        if test is not None:
            difference, p = _number(test.difference), _number(test.p_value)
            word, _, why = told_apart(difference, _ends(test.ci95), p).partition(" (")
            figures = f"{signed(difference)}, p {probability(p)}"
            aside = f"; {why.removesuffix(')')}" if why else ""
            said.setdefault(word, []).append(f"{_called(opponent)} ({figures}{aside})")
    words = {"better": "better than", "worse": "worse than", "cannot be told apart": "cannot be told from"}
    found = [f"{lead} {listed(said[word])}" for word, lead in words.items() if word in said]
    claims = f": {'; '.join(found)}" if found else ""
    return f"The model's {metric_label(name)} is {_share(values[name])} in {protocol_label(protocol, values)}{claims}."


def reference_rows(baselines: Mapping[str, Own], parts: Mapping[str, Own]) -> dict[str, Own]:
    """Label -> what belongs to it: the baselines that are known by name, then each part of the model alone."""
    known = {label: baselines[key] for key, label in BASELINES.items() if key in baselines}
    return known | {f"{name.replace('_', ' ')} alone": own for name, own in parts.items()}


def _print_metrics(console: Console, result: TrainResult | EvaluateResult, split: str, protocol: str) -> None:
    """The reference models under one protocol, and the model below."""
    values = result.metrics[split][protocol]
    rows = {
        label: found[split][protocol]
        for label, found in reference_rows(result.baselines, result.parts).items()
        if protocol in found.get(split, {})
    }
    what = f"{split.capitalize()}, {protocol_label(protocol, values)}: {counted(int(values.num_users or 0), 'user')}"
    console.print()
    console.print(Text(f"{what}, with 95% intervals"))
    print_rows(console, rows | {"model": values})


def print_rows(console: Console, rows: Mapping[str, Metrics], after: Sequence[Sequence[str]] = ()) -> None:
    """A table of metrics with intervals, the last of ``rows`` in bold; as many metrics as the width allows."""
    *_, values = rows.values()
    names = shown_metrics(values)
    label_width = max(len(label) for label in (*rows, *(cells[0] for cells in after)))
    width = {name: max(len(_cell(row, name)) for row in rows.values()) for name in names}
    while len(names) > 1 and label_width + sum(2 + width[name] for name in names) > console.width:
        names.remove(names[-1] if len(names) > 2 else names[0])  # MRR goes first, then HR
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(metric_label(name), justify="right", no_wrap=True)
    *others, last = rows
    for label in others:
        table.add_row(label, *(_cell(rows[label], name) for name in names))
    for first, *cells in after:
        table.add_row(first, *cells[: len(names)])
    table.add_row(last, *(_cell(rows[last], name) for name in names), style="bold")
    console.print(table)


def _print_paired(console: Console, paired: Mapping[str, PairedTests]) -> None:
    """A line an opponent, on the metric that decides."""
    for opponent, tests in paired.items():
        metric, test = next(iter(tests.items()))
        (low, high), difference, p = _ends(test.ci95), _number(test.difference), _number(test.p_value)
        text = (
            f"{signed(difference)} {metric_label(metric.partition('/')[2])} against {_called(opponent)} "
            f"[{signed(low)}, {signed(high)}], p {probability(p)}, paired by user: "
            f"{told_apart(difference, (low, high), p)}"
        )
        console.print(hanging("-", text))


def print_cold_items(console: Console, section: ColdItems | None) -> None:
    """Items that never trained, ranked among themselves; nothing where there are none."""
    if section is None:
        return
    rows = {
        label if label in BASELINES else f"{label} alone": values
        for label, values in section.rows.items()
        if label != "model"
    }
    names = shown_metrics(section.rows.model)
    title = (
        f"Cold items: {section.num_items:,} items never trained, ranked among themselves, "
        f"{section.num_queries:,} times by {section.num_users:,} users, with 95% intervals"
    )
    console.print()
    console.print(Text(title))
    chance = ["chance", *(_share(section.chance[name]) for name in names)]
    print_rows(console, {**rows, "model": section.rows.model}, after=[chance])


def shown_metrics(values: Metrics) -> list[str]:
    """HR, NDCG and MRR at 10, or at the first cutoff where 10 was not measured."""
    cutoffs = [int(name.removeprefix("hr_at_")) for name in values if name.startswith("hr_at_")]
    cutoff = PREFERRED_CUTOFF if PREFERRED_CUTOFF in cutoffs else cutoffs[0]
    return [f"{metric}_at_{cutoff}" for metric in METRICS]


def protocol_label(protocol: str, values: Metrics) -> str:
    """A protocol in words, by as many negatives as were measured.

    >>> from fedmm.evaluation.measured import Metrics
    >>> protocol_label("uniform100", Metrics(num_negatives=7))
    '7 uniform negatives'
    """
    return as_measured(PROTOCOLS.get(protocol, protocol), values.num_negatives)


def metric_label(name: str) -> str:
    """``hr_at_10`` as ``HR@10``."""
    return name.replace("_at_", "@").upper()


def _called(opponent: str) -> str:
    return BASELINES.get(opponent, f"{opponent} alone")


def _elsewhere(own: Protocols) -> str:
    """The model under the protocols that do not decide."""
    first, *others = own
    names = shown_metrics(own[first])[:2]
    known = {protocol: protocol_label(protocol, own[protocol]).removesuffix(" negatives") for protocol in others}
    values = {
        label: ", ".join(f"{metric_label(name)} {_share(own[protocol][name])}" for name in names)
        for protocol, label in known.items()
    }
    return listed([f"{shown} with {label}" for label, shown in values.items()]) + " negatives"


def _legend(model: ModelFacts | None) -> str:
    """One line for words that a newcomer meets here."""
    parts = ["round 0: untrained"]
    weights: Mapping[str, float] = {} if model is None else fusion_weights(model)
    if "gate" in weights:
        parts.append("gate: the experts' weight")
    shares = [label for label in weights if label != "gate"]
    if len(shares) > 1:
        parts.append(f"{', '.join(shares)}: router's shares")
    return "; ".join(parts)


def fusion_weights(model: ModelFacts) -> dict[str, float]:
    """The gate and the router's shares by the names of the screen, those that the model has."""
    return {label: model[key] for key, label in FUSION if model.get(key) is not None}


def _cell(values: Metrics, name: str) -> str:
    if values.ci95 is None or name not in values.ci95:
        return _share(values[name])
    low, high = values.ci95[name]
    return f"{_share(values[name])} [{_share(low)}, {_share(high)}]"


def _share(value: float | None) -> str:
    """Three decimals; the zero before the point is left out, as metrics lie between 0 and 1."""
    return share(_number(value), 3)


def _number(value: float | None) -> float:
    """A result has None for what is not finite."""
    return math.nan if value is None else value


def _ends(interval: Sequence[float | None]) -> tuple[float, float]:
    low, high = interval
    return _number(low), _number(high)


def _run_facts(result: TrainResult, *, details: bool) -> dict[str, str]:
    seconds, sent, data = result.seconds, result.communication, result.dataset
    facts = (
        {
            "data": f"{data.name}: {data.num_users:,} users, {data.num_items:,} items, "
            f"{data.num_interactions:,} interactions"
        }
        if details
        else {}
    )
    facts |= {
        "model": f"{result.model.num_parameters:,} parameters, best round {result.best_round} of {result.rounds}",
    }
    fusion = [f"{label} {weight:.3f}" for label, weight in fusion_weights(result.model).items()]
    if fusion:
        facts["fusion"] = ", ".join(fusion)
    up, down = in_bytes(sent.uplink_bytes), in_bytes(sent.downlink_bytes)
    facts["sent"] = f"up {up}, down {down}, all clients together"
    facts["time"] = f"{in_time(seconds.total)} ({', '.join(time_parts(seconds, all_parts=details))})"
    if details and result.peak_rss_bytes is not None:
        facts["memory"] = f"{in_bytes(result.peak_rss_bytes)} at most"
    return facts


def time_parts(seconds: Seconds, *, all_parts: bool = False) -> Iterable[str]:
    """``rounds 10.1 s``, ...: parts that add up to the total; the small ones are together in the rest."""
    found = dict(seconds.parts) or {name: seconds[name] for name in ("data", "train", "evaluation")}
    rest = found.pop("other", max(0.0, seconds.total - sum(found.values())))
    for name, value in sorted(found.items(), key=lambda entry: -entry[1]):
        if all_parts or value >= SMALL_PART * seconds.total:
            yield f"{PART_NAMES.get(name, name)} {in_time(value)}"
        else:
            rest += value
    yield f"rest {in_time(rest)}"


def _places(result: TrainResult, *, details: bool) -> dict[str, str]:
    places = {"output": result.output}
    if details:
        from fedmm.runs.own_parts import parts_words_of

        again = f"fedmm evaluate {shlex.quote(result.output)}{parts_words_of(result.output)}"
        places |= {"checkpoint": result.checkpoint, "again": again}
    if result.run_id:
        uri = result.tracking_uri or DEFAULT_STORE
        if details or not uri.startswith("sqlite:"):
            places["tracking"] = f"run {result.run_id} in {uri}"
        if uri.startswith("sqlite:"):
            places["see it"] = "fedmm ui" + ("" if uri == DEFAULT_STORE else f" --store {uri}")
    return places


def make_console() -> Console:
    """The console of every last screen: stdout, nothing coloured by itself."""
    return Console(highlight=False)
