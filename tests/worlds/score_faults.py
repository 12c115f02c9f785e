"""Faults of scores as sums of terms, and of what moves between rounds."""

from __future__ import annotations

from worlds.planting import Fault, edited

FORMS = "every kind of term has the loss and slopes of its definition, rounded or not"
LEVELS = "losses know no level of the scores, rounded or not"
PIECES = "rows whose logits are formed some at a time have the loss of all together"
MADE = "splits that files make ask about the first event of each file"
GATES = "where the gate starts is surely better or as given"
AMONG = "the best of some items are those of all without the others"
BOUNDS = "clipping bounds follow the share of updates within them"
DEVICES = "devices take the times that the settings say, and the quickest count"
OBJECTIVE = "a client's step follows its loss, load balance and alignment"
EVENTS = "events are kept and ordered as the settings say"
ENGINES_AGREE = "vectorized equals sequential"
FAULTS = (
    Fault(
        "who has too few goes once, not over and over",
        (EVENTS,),
        edited("fedmm.data.preparation:_core", "        lost = np.concatenate(found)", "        break"),
    ),
    Fault(
        "clients learn to disagree with their features",
        (OBJECTIVE,),
        edited("fedmm.models.recommender:Output.penalty", "load_balance_loss + config", "load_balance_loss - config"),
    ),
    Fault(
        "alignment has no weight of its own",
        (OBJECTIVE,),
        edited("fedmm.models.recommender:Output.penalty", "config.alignment_weight *", "1.0 *"),
    ),
    Fault(
        "test questions of made splits skip an event",
        (MADE,),
        edited("fedmm.data.splits:_premade", "places = train, train + validation", "places = train, train + test"),
    ),
    Fault(
        "any better gate is surely better",
        (GATES,),
        edited("fedmm.evaluation.gate_start:choose_gate", "SURE * error", "0 * error"),
    ),
    Fault(
        "level items stand by their place in a list",
        (AMONG,),
        edited("fedmm.evaluation.ranking:best_among", "order.argsort(dim=1, descending=True)", "order.argsort(dim=1)"),
    ),
    Fault(
        "bounds shrink where fewer are within",
        (BOUNDS,),
        edited(
            "fedmm.federation.transforms.clipping:next_bound",
            "update_clip_quantile - within",
            "update_clip_quantile + within",
        ),
    ),
    Fault(
        "clients beyond the bound say nothing",
        (BOUNDS,),
        edited("fedmm.federation.transforms.chain:Layout.pack", ".to(norms) - 0.5)", ".to(norms) - 0.0)"),
    ),
    Fault(
        "a round's conditions are all alike",
        (DEVICES,),
        edited("fedmm.federation.availability:visit_times", "number, int(client)", "int(client)"),
    ),
    Fault(
        "the slowest count",
        (DEVICES,),
        edited("fedmm.federation.availability:staying", "[size:]", "[:size]"),
    ),
    Fault(
        "rounded losses forget the totals in their slopes",
        (FORMS,),
        edited("fedmm.models.losses.rounded:RoundedClient.loss", "self.asked.weights / totals", "self.asked.weights"),
    ),
    Fault(
        "rounded losses leave out dense constants",
        (FORMS,),
        edited("fedmm.models.losses.rounded:_add", "given[: len(total)], scale", "0 * given[: len(total)], scale"),
    ),
    Fault(
        "scales of sparse constants get no slope where products are rounded",
        (FORMS,),
        edited("fedmm.models.losses.rounded:RoundedClient._write_gradients", "into[2].add_(", "into[2].add_(0 * "),
    ),
    Fault(
        "rows rank what they must not",
        (FORMS,),
        edited("fedmm.models.losses.softmax:_client_loss", "asked.index is not None", "False"),
    ),
    Fault(
        "totals that overflow stay as they are",
        (LEVELS,),
        edited("fedmm.models.losses.rounded:RoundedClient.loss", "not _in_range(totals)", "False"),
    ),
    Fault(
        "every piece has the rows of the first",
        (PIECES,),
        edited("fedmm.models.losses.pieces:_piece", "part[:, some]", "part[:, : some.stop - some.start]"),
    ),
    Fault(
        "few rows: later steps read the server's table",
        (ENGINES_AGREE,),
        edited(
            "fedmm.engines.kept_slopes:KeptSlopes.differentiate",
            "factors.mT), before, alpha=-1",
            "factors.mT), before, alpha=0",
        ),
    ),
    Fault(
        "few rows: queries learn from the server's table",
        (ENGINES_AGREE,),
        edited(
            "fedmm.engines.kept_slopes:KeptSlopes.differentiate",
            "before.mT), factors, alpha=-1",
            "before.mT), factors, alpha=0",
        ),
    ),
    Fault(
        "few rows: the norm is that of the client's own rows",
        (ENGINES_AGREE,),
        edited("fedmm.engines.kept_slopes:KeptSlopes.differentiate", "gram.sum((1, 2))", "0 * gram.sum((1, 2))"),
    ),
)
