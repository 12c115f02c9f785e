"""Faults of what happens over rounds: selection, averages, schedules, weights, the server and bills."""

from __future__ import annotations

from worlds.planting import Fault, edited

KEPT = "the best validated round is kept, and patience ends a run"
AVERAGE = "the moving average equals its definition"
IN_RUNS = "a run validates and reports the average of its rounds"
SCHEDULES = "learning rates follow their schedules"
CENTRAL = "centralised training is plain training on all data"
SERVER = "rounds equal a server in plain loops, warm-up and after"
WEIGHTS = "clients weigh as the settings say"
PROTOTYPES = "prototypes are means of what was nearest to them"
BILL = "every round's bill equals its messages, up and down"
START = "the bill of the start equals its messages, up and down"
WHOLE_BILL = "the run's bill is the start and all rounds, up and down"
BEST = "a run keeps and reports its best round"
FAULTS = (
    Fault(
        "the worst round is kept as the best",
        (KEPT, BEST),
        edited("fedmm.experiment:Experiment._keep_best", "value <= state.best.value", "value >= state.best.value"),
    ),
    Fault(
        "the last of equal rounds is kept",
        (KEPT,),
        edited("fedmm.experiment:Experiment._keep_best", "value <= state.best.value", "value < state.best.value"),
    ),
    Fault(
        "patience is never reset",
        (KEPT,),
        edited("fedmm.experiment:Experiment._keep_best", "stale=0", "stale=state.stale"),
    ),
    Fault(
        "patience ends a round late",
        (KEPT,),
        edited("fedmm.experiment:TrainState.exhausted", "self.stale >= patience", "self.stale > patience"),
    ),
    Fault(
        "the last round is not validated",
        (KEPT, BEST),
        edited("fedmm.experiment:Experiment._validates", " or round_number == ", " or 0 == "),
    ),
    Fault(
        "the newest parameters are kept, not those validated",
        (KEPT, BEST),
        edited(
            "fedmm.experiment:Experiment._keep_best",
            "replace(state.snapshot, ",
            "replace(state.snapshot, params=state.server.params, ",
        ),
    ),
    Fault(
        "the best round's clients are left behind",
        (KEPT,),
        edited("fedmm.experiment:Experiment._keep_best", "state.clients.personal()", "type(state.clients)()"),
    ),
    Fault(
        "the average leans on its start",
        (AVERAGE,),
        edited("fedmm.federation.averaging:moved", " / (1 - decay**number)", ""),
    ),
    Fault(
        "experts are averaged from the first round on",
        (AVERAGE, IN_RUNS),
        edited("fedmm.federation.averaging:averaged", " - config.warmup_rounds", ""),
    ),
    Fault(
        "the average begins a round late",
        (AVERAGE, IN_RUNS),
        edited("fedmm.federation.averaging:averaged", "trained > 1", "trained > 2"),
    ),
    Fault(
        "the average forgets the new",
        (AVERAGE,),
        edited("fedmm.federation.averaging:moved", "lerp(value, average, share)", "lerp(average, value, share)"),
    ),
    Fault(
        "the newest parameters are validated, not the average",
        (IN_RUNS, BEST),
        edited(
            "fedmm.experiment:Experiment.rounds",
            "self.validate(state.snapshot)",
            "self.validate(replace(state.snapshot, params=state.server.params))",
        ),
    ),
    Fault(
        "schedules begin a round early",
        (SCHEDULES,),
        edited("fedmm.federation.schedules:scheduled", "(round_number - 1)", "(round_number)"),
    ),
    Fault(
        "a whole cosine",
        (SCHEDULES,),
        edited("fedmm.federation.schedules:cosine", "math.pi * progress", "2 * math.pi * progress"),
    ),
    Fault(
        "linear is constant",
        (SCHEDULES,),
        edited("fedmm.federation.schedules:linear", "1.0 - progress", "1.0 - 0 * progress"),
    ),
    Fault(
        "the optimizer of centralised training forgets",
        (CENTRAL,),
        edited("fedmm.federation.centralized:_optimizer", "if name in trained", "if name in ()"),
    ),
    Fault(
        "centralised training weighs clients alike",
        (CENTRAL,),
        edited("fedmm.federation.centralized:_shares", "counts / counts.sum()", "counts.clamp(max=1) / len(counts)"),
    ),
    Fault(
        "minibatches overlap",
        (CENTRAL,),
        edited(
            "fedmm.federation.centralized:minibatches", "order[begin : begin + ", "order[max(0, begin - 1) : begin + "
        ),
    ),
    Fault(
        "client weights swapped",
        (WEIGHTS, SERVER),
        edited("fedmm.federation.local_training:LocalTraining.weights", '== "uniform"', '!= "uniform"'),
    ),
    Fault(
        "weights of windows, not of positions",
        (WEIGHTS,),
        edited(
            "fedmm.federation.client_data:Windows.num_positions",
            "np.cumsum(self.length[own])",
            "np.cumsum(self.length[own] > 0)",
        ),
    ),
    Fault(
        "the server's rate is one after warm-up",
        (SERVER,),
        edited(
            "fedmm.federation.rounds:run_round",
            "negate(aggregate), state.optimizer, config)",
            "negate(aggregate), state.optimizer, config if number <= config.warmup_rounds or "
            "config.server_learning_rate else config.model_copy(update={'server_learning_rate': 1.0}))",
        ),
    ),
    Fault(
        "heat divides by everybody that sent",
        (SERVER,),
        edited(
            "fedmm.federation.aggregation:heat_normalised_mean",
            "total.holders > 0, factor",
            "total.holders < 0, factor",
        ),
    ),
    Fault(
        "momentum of a server is lost",
        (SERVER,),
        edited(
            "fedmm.federation.server_optimizers:_momentum",
            "config.server_beta1 * state.get(key, torch.zeros_like(gradient)) + ",
            "",
        ),
    ),
    Fault(
        "the median takes one vote too few",
        (SERVER,),
        edited("fedmm.federation.robust_aggregation:median", "(votes - 1) // 2", "(votes - 2) // 2"),
    ),
    Fault(
        "the loss told is unweighted",
        (SERVER,),
        edited(
            "fedmm.federation.rounds:run_round",
            "float(total.loss / total.weight)",
            "float(total.loss / total.num_clients)",
        ),
    ),
    Fault(
        "the server's control moves by the cohort's share",
        (SERVER,),
        edited("fedmm.federation.scaffold:moved", "change / num_clients", "change / (num_clients - 1)"),
    ),
    Fault(
        "clients keep the server's control",
        (SERVER,),
        edited("fedmm.federation.scaffold:new_controls", ".add_(own)", ".add_(0 * own)"),
    ),
    Fault(
        "prototypes are means of one round",
        (PROTOTYPES,),
        edited("fedmm.federation.prototypes:move_prototypes", "after = before + added", "after = 0 * before + added"),
    ),
    Fault(
        "warm-up moves prototypes",
        (PROTOTYPES,),
        edited(
            "fedmm.federation.prototypes:prototype_sums", "local.warming_up(round_number) or not names", "not names"
        ),
    ),
    Fault(
        "the ledger's directions are swapped",
        (BILL,),
        edited("fedmm.federation.traffic:traffic_of_all", "return uplink, downlink", "return downlink, uplink"),
    ),
    Fault(
        "the run adds its rounds the wrong way round",
        (WHOLE_BILL,),
        edited(
            "fedmm.experiment:Experiment.rounds",
            "statistics.uplink_bytes, statistics.downlink_bytes",
            "statistics.downlink_bytes, statistics.uplink_bytes",
        ),
    ),
    Fault(
        "requests are free",
        (BILL,),
        edited("fedmm.federation.traffic:_begun", "0 if rows is None else message_bytes(request_message(rows))", "0"),
    ),
    Fault(
        "control variates are free",
        (BILL,),
        edited("fedmm.federation.traffic:traffic", "if federation.local.uses_controls else", "if False else"),
    ),
    Fault(
        "prototypes are paid for in warm-up",
        (BILL,),
        edited(
            "fedmm.federation.traffic:traffic", "if federation.local.warming_up(round_number) else", "if False else"
        ),
    ),
    Fault(
        "holders are eight bytes each",
        (BILL,),
        edited(
            "fedmm.federation.ledger:update_message",
            "zeros(length, dtype=torch.int32)",
            "zeros(length, dtype=torch.int64)",
        ),
    ),
    Fault(
        "all rows come down to everybody",
        (BILL,),
        edited("fedmm.federation.traffic:_begun", "None if local.reads_all_rows(round_number) else rows", "None"),
    ),
    Fault(
        "only trainable clients send counts",
        (START,),
        edited("fedmm.federation.count_uses:start_ledger", "len(sums.train)", "len(sums.train) - 1"),
    ),
    Fault(
        "the sum of counts comes back for free",
        (START,),
        edited("fedmm.federation.count_uses:start_ledger", "sums.downlink_bytes(counts=received)", "0"),
    ),
    Fault(
        "centralised training is billed",
        (START,),
        edited("fedmm.federation.count_uses:start_ledger", 'config.federation.mode == "centralized"', "False"),
    ),
    Fault(
        "bytes reported of the round, not so far",
        (WHOLE_BILL, BEST),
        edited("fedmm.federation.reports:report_of", "state.ledger.uplink_bytes", "statistics.uplink_bytes"),
    ),
    Fault(
        "the gate reported is the newest",
        (IN_RUNS,),
        edited(
            "fedmm.federation.reports:report_of",
            "params, number, own = state.server.evaluated",
            "params, number, own = state.server.params",
        ),
    ),
)
