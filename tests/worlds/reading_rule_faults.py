"""Faults of seed effects, tables of pairs, beginnings, centralised objectives, and of what may stand side by side."""

from __future__ import annotations

from worlds.planting import Fault, constant, edited

SEEDS = "what seeds add is estimated by mean squares"
WIDTHS = "seeds widen tests and intervals by Student's law"
ORDER = "neither order nor direction shows in a test"
TABLES = "tables of pairs give back what was added, or say that they cannot"
PLACES = "a pair lies in one cell of each third, where its hash says"
KINSHIP = "attributes in common are added by definition"
SCALES = "parameters begin at their scales"
EXACT = "norms, biases, router and gate begin where they are said to"
OBJECTIVE = "centralised training minimises the whole objective"
DIVERGED = "training that diverges is stopped"
REFUSED = "what cannot be compared is refused"
WARNED = "comparisons warn where it is due"
RANGES = "a study's ranges are cut into rows as they say"
TERMS = "sums of terms and their slopes equal the plain sum"
PARTS = "parts of sparse scores, and routers of several clients, are as by hand"
TEST, COMPARE, TABLE = "fedmm.evaluation.significance", "fedmm.comparison.compare", "fedmm.federation.pair_tables"
FAULTS = (
    Fault(
        "residuals are no part of seeds' means",
        (SEEDS,),
        edited(f"{TEST}:_seed_effect", "seeds - residuals / num_users", "seeds"),
    ),
    Fault(
        "residuals have a degree of freedom more",
        (SEEDS,),
        edited(f"{TEST}:_seed_effect", "df * (num_users - 1)", "df * num_users"),
    ),
    Fault(
        "doubt about seeds is forgotten",
        (WIDTHS,),
        edited(f"{TEST}:_seed_draws", "np.sqrt(df / doubt.chisquare(df, size))", "np.ones(size)"),
    ),
    Fault(
        "a difference of 0 has twice its interval",
        (WIDTHS,),
        edited(f"{TEST}:paired_test", "(low - high) / 2, (high - low) / 2", "low - high, high - low"),
    ),
    Fault("users' order shows", (ORDER,), edited(f"{TEST}:_oriented", "np.sort(np.round(", "np.array(np.round(")),
    Fault(
        "one user is enough for a test",
        (ORDER,),
        edited(f"{TEST}:paired_test", "values.shape[1] < 2", "values.shape[1] < 1"),
    ),
    Fault(
        "pairs of several clients are no pairs",
        (TABLES,),
        edited(f"{TABLE}:PairTable._pure", "number % MODULUS == left[4]", "1 % MODULUS == left[4]"),
    ),
    Fault("tables are filled to the brim", (TABLES,), constant(TABLE, "FILL", 1.0)),
    Fault("another hash", (PLACES,), edited(f"{TABLE}:PairTable._hash", "np.uint64(27)", "np.uint64(28)")),
    Fault(
        "all attributes weigh alike",
        (KINSHIP,),
        edited("fedmm.models.kinship:Kinship.build", "np.maximum(rarity, 0.0)", "np.ones_like(rarity)"),
    ),
    Fault(
        "the oldest items are the recent ones",
        (KINSHIP,),
        edited("fedmm.models.succession:recency", "histories.offsets[1:]", "(histories.offsets[1:] + 1)"),
    ),
    Fault(
        "items begin too large",
        (SCALES,),
        edited("fedmm.models.sasrec:init_backbone", "table = normal(num_items + 1, D, scale=1 / math.sqrt(D))",
               "table = normal(num_items + 1, D, scale=1.0)"),
    ),
    Fault("attention begins whole", (SCALES,), constant("fedmm.models.blocks", "ATTENTION_SHARE", 1.0)),
    Fault(
        "the router's bias begins on an expert",
        (EXACT,),
        edited("fedmm.models.recommender:Recommender.init", '["router.bias"][0]', '["router.bias"][1]'),
    ),
    Fault(
        "centralised training does not align",
        (OBJECTIVE,),
        edited("fedmm.federation.centralized:_run_epoch", "model.alignment_weight * alignment", "0 * alignment"),
    ),
    Fault(
        "an epoch's loss is of its last minibatch",
        (OBJECTIVE,),
        edited("fedmm.federation.centralized:_run_epoch", "totals += rows", "totals = rows"),
    ),
    Fault(
        "a diverged epoch goes on",
        (DIVERGED,),
        edited("fedmm.federation.centralized:_run_epoch", ".all():", ".any() and False:"),
    ),
    Fault(
        "a diverged round goes on",
        (DIVERGED,),
        edited("fedmm.federation.rounds:run_round", ".all():", ".any() and False:"),
    ),
    Fault(
        "samples need not be the same",
        (REFUSED,),
        edited(f"{COMPARE}:compare", 'if any(not metric.startswith("full/")', 'if all(not metric.startswith("full/")'),
    ),
    Fault(
        "other users are compared",
        (REFUSED,),
        edited(f"{COMPARE}:require_comparable", "if not np.array_equal", "if False and np.array_equal"),
    ),
    Fault(
        "single seeds are not told",
        (WARNED,),
        edited(f"{COMPARE}:_warnings", "if single and len(groups) > 1", "if not single and len(groups) > 1"),
    ),
    Fault(
        "repeated trials count twice",
        (RANGES,),
        edited("fedmm.study.selection:measured_trials", "(key, trial)", "(f'{key} {trial.number}', trial)"),
    ),
    Fault(
        "sparse constants are not scaled",
        (TERMS,),
        edited("fedmm.models.scores:SparseScores.scaled", "if scale is None", "if True"),
    ),
    Fault(
        "a scale's slope is of all rows alike",
        (TERMS,),
        edited("fedmm.models.losses.softmax:_sparse_scale_gradient", "constants.rows", "0 * constants.rows"),
    ),
    Fault(
        "another client's entries",
        (PARTS,),
        edited("fedmm.models.scores:SparseScores.some", "self.ends[first]), int(", "self.ends[0]), int("),
    ),
    Fault(
        "the balance is of all clients together",
        (PARTS,),
        edited("fedmm.models.router:load_balance_loss", "counted.sum(1)", "counted.sum(1).mean(0, keepdim=True)"),
    ),
    Fault(
        "quarters are thirds",
        (RANGES,),
        constant("fedmm.study.marginals", "NUM_BINS", 3),
    ),
    Fault(
        "seeds of a trial are trials",
        (RANGES,),
        edited("fedmm.study.marginals:_marginal", "len(measured) if by_seed else 0", "0 if by_seed else len(measured)"),
    ),
)  # fmt: skip
