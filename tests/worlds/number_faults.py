"""Faults of draws, counts and questions."""

from __future__ import annotations

from worlds.planting import Fault, constant, edited

PROTOCOLS = "each protocol's negatives follow the distribution that it names"
RARE = "negatives: the rare last, never one's own, each draw its own"
TRAINING = "training negatives are uniform over what is outside"
OFTEN = "negatives are drawn as often as the settings say"
COHORTS = "everybody is in cohorts equally often"
COUNTS = "counts, popularity and the yardstick equal counting by hand"
OWN = "a client in training sees no count of its own"
SUCCESSION = "what has followed recent items is added by definition"
SUMS = "counts are summed alike in all three ways, at the price of their messages"
SPECTRAL = "the spectral start equals its definition, whole and sketched"
HELD_OUT = "popularity counts training histories alone"
SPLITS = "both splits ask what they say, question by question"
COLD = "cold items are asked about among themselves, and nowhere else"
COLD_IDS = "cold items are chosen by their ids alone"
GROUPS = "groups hold whom they say, and their means"
FAULTS = (
    Fault(
        "popular negatives are uniform",
        (PROTOCOLS,),
        edited("fedmm.data.negatives:_weighted", "- log_weights", "- 0 * log_weights"),
    ),
    Fault(
        "popular negatives are too popular",
        (PROTOCOLS,),
        edited("fedmm.data.negatives:_weighted", "- log_weights", "- 2 * log_weights"),
    ),
    Fault(
        "uniform negatives with replacement",
        (PROTOCOLS, RARE),
        edited("fedmm.data.negatives:_uniform", "replace=False", "replace=True"),
    ),
    Fault(
        "negatives may be the target",
        (PROTOCOLS, RARE),
        edited(
            "fedmm.data.negatives:evaluation_negatives",
            "[queries.excluded[q], queries.targets[q : q + 1], barred]",
            "[queries.excluded[q], barred]",
        ),
    ),
    Fault(
        "negatives may be met later",
        (PROTOCOLS, RARE),
        edited(
            "fedmm.data.negatives:evaluation_negatives",
            "[queries.excluded[q], queries",
            "[queries.histories[q], queries",
        ),
    ),
    Fault(
        "items nobody trains on are as popular as those one does",
        (RARE,),
        constant("fedmm.data.negatives", "NEVER_TRAINED", 0.0),
    ),
    Fault(
        "validation and test share their draws",
        (RARE,),
        edited("fedmm.data.negatives:evaluation_negatives", "protocol, split.name,", "protocol,"),
    ),
    Fault(
        "negatives regardless of their seed",
        (RARE,),
        edited("fedmm.data.negatives:evaluation_negatives", "numpy_stream(seed,", "numpy_stream(0,"),
    ),
    Fault(
        "training negatives with replacement",
        (TRAINING,),
        edited("fedmm.federation.candidates:draw_negatives", "replace=False", "replace=True"),
    ),
    Fault(
        "training negatives are never the last item",
        (TRAINING,),
        edited(
            "fedmm.federation.candidates:draw_negatives",
            "stream.choice(num_outside, size",
            "stream.choice(num_outside - 1, size",
        ),
    ),
    Fault(
        "the share drawn is of the catalogue",
        (TRAINING,),
        edited("fedmm.federation.candidates:shares_drawn", "np.maximum(outside, 1)", "num_items"),
    ),
    Fault(
        "negatives of the first step for ever",
        (OFTEN,),
        edited("fedmm.federation.local_training:StepStream.negatives", '== "step"', '== "round"'),
    ),
    Fault(
        "cohorts do not change",
        (COHORTS,),
        edited("fedmm.federation.cohorts:sample_cohort", '"cohort", round_number', '"cohort"'),
    ),
    Fault(
        "cohorts with replacement",
        (COHORTS,),
        edited("fedmm.federation.cohorts:sample_cohort", "replace=False", "replace=True"),
    ),
    Fault(
        "cohorts rounded down",
        (COHORTS,),
        edited("fedmm.federation.cohorts:cohort_size", "round(config", "int(0.999 * config"),
    ),
    Fault(
        "counts reach nine places",
        (COUNTS,),
        edited("fedmm.data.transitions:sum_transition_counts", "min(window, len", "min(window - 1, len"),
    ),
    Fault(
        "a client counts its neighbours alone",
        (COUNTS,),
        edited("fedmm.data.transitions:client_transition_counts", "min(window, len", "min(1, len"),
    ),
    Fault(
        "near pairs count as far ones",
        (COUNTS,),
        edited("fedmm.data.transitions:transition_weight", "(0.5 ** (gap / half_life))", "(0.5 ** (half_life / gap))"),
    ),
    Fault("the yardstick reads nine items", (COUNTS,), constant("fedmm.evaluation.baselines", "RECENT", 9)),
    Fault(
        "the yardstick is not normalised",
        (COUNTS,),
        edited(
            "fedmm.evaluation.baselines:transition_scorer", "np.divide(1.0, np.sqrt(totals)", "np.divide(1.0, totals"
        ),
    ),
    Fault(
        "popularity counts users once",
        (COUNTS, HELD_OUT),
        edited("fedmm.data.splits:training_popularity", "split.train.values", "split.train.values[:-1]"),
    ),
    Fault(
        "a client's own counts stay",
        (OWN,),
        edited("fedmm.models.experts.transition:TransitionTable.of_items", "own is not None", "False"),
    ),
    Fault(
        "a client's own totals stay",
        (OWN,),
        edited(
            "fedmm.models.experts.transition:TransitionTable.of_items",
            "totals - np.bincount(first",
            "totals - 0 * np.bincount(first",
        ),
    ),
    Fault(
        "a client's own counts go one way",
        (OWN,),
        edited(
            "fedmm.models.experts.transition:TransitionTable.of_items",
            "((first, second), (second, first))",
            "((first, second),)",
        ),
    ),
    Fault("PMI without smoothing", (SPECTRAL,), constant("fedmm.federation.spectral_start", "CONTEXT_SMOOTHING", 1.0)),
    Fault(
        "eigenvectors without their values",
        (SPECTRAL,),
        constant("fedmm.federation.spectral_start", "SINGULAR_VALUE_POWER", 0.0),
    ),
    Fault(
        "sketches are not normalised",
        (SPECTRAL,),
        edited("fedmm.federation.spectral_sketch:sketch_of", "@ counts @ sparse.diags(roots)", "@ counts"),
    ),
    Fault(
        "test does not know the validation item",
        (SPLITS,),
        edited(
            "fedmm.data.splits:_queries",
            "Queries(users, prefixes(own, places), ",
            "Queries(users, prefixes(own, places - (places == own.lengths - 1)), ",
        ),
    ),
    Fault(
        "the last two items train",
        (SPLITS,),
        edited("fedmm.data.splits:_leave_one_out", "lengths - 2, lengths)", "lengths - 1, lengths)"),
    ),
    Fault(
        "events at a cut lie before it",
        (SPLITS,),
        edited("fedmm.data.splits:_temporal", "timestamps < cut", "timestamps <= cut"),
    ),
    Fault(
        "one cut at twice the share",
        (SPLITS,),
        edited("fedmm.data.splits:_cuts", "ordered[-share]", "ordered[-share - 1]"),
    ),
    Fault(
        "cold items train",
        (COLD,),
        edited("fedmm.data.splits:make_split", "without_items(interactions, cold)", "interactions"),
    ),
    Fault(
        "cold questions know what came after",
        (COLD,),
        edited(
            "fedmm.data.cold_items:cold_queries", "np.minimum(before, train.lengths[owner])", "train.lengths[owner]"
        ),
    ),
    Fault(
        "cold items by the order of the catalogue",
        (COLD_IDS,),
        edited(
            "fedmm.data.cold_items:choose_cold_items",
            "sorted(range(num_items), key=keys.__getitem__)",
            "sorted(range(num_items))",
        ),
    ),
    Fault(
        "edges belong to the group below",
        (GROUPS,),
        edited("fedmm.evaluation.groups:groups", 'side="right"', 'side="left"'),
    ),
    Fault(
        "a group's means are everybody's",
        (GROUPS,),
        edited("fedmm.evaluation.groups:_entry", "row[metric][members]", "row[metric]"),
    ),
    Fault(
        "what followed is added as it is",
        (SUCCESSION,),
        edited("fedmm.models.succession:Succession.scores", "np.log1p(found.data)", "found.data"),
    ),
    Fault(
        "what followed is softened by a tenth whatever is asked",
        (SUCCESSION, "a run reports what stands beside its model, and the gain"),
        edited("fedmm.models.succession:Succession.build", "softening * typical", "SOFTENING * typical"),
    ),
    Fault(
        "what preceded counts in full",
        (SUCCESSION, "a run reports what its kept parameters are worth"),
        constant("fedmm.models.succession", "BACKWARD", 1.0),
    ),
    Fault(
        "cohorts take turns by the catalogue",
        ("cohorts that take turns leave nobody out",),
        edited(
            "fedmm.federation.cohorts:rotating_cohort",
            'numpy_stream(seed, "cohort order").permutation(clients)',
            "clients",
        ),
    ),
    Fault(
        "turns overlap",
        ("cohorts that take turns leave nobody out",),
        edited(
            "fedmm.federation.cohorts:rotating_cohort", "(round_number - 1) * size", "(round_number - 1) * (size - 1)"
        ),
    ),
    Fault(
        "a client pays for one try of its table",
        (SUMS,),
        edited(
            "fedmm.federation.count_sums:sum_in_groups",
            "len(clients) * table_message_bytes(form)",
            "table_message_bytes(form)",
        ),
    ),
    Fault(
        "the farthest pairs are sent",
        (SUMS,),
        edited("fedmm.federation.count_sums:client_pairs", "range(1, WINDOW + 1)", "range(WINDOW, 0, -1)"),
    ),
    Fault(
        "counts come back in single precision",
        (SUMS,),
        edited("fedmm.federation.count_sums:sparse_message_bytes", "torch.float16", "torch.float32"),
    ),
    Fault(
        "large catalogues are summed densely",
        ("how counts are summed goes by the size of the catalogue",),
        constant("fedmm.federation.count_sums", "DENSE_ITEMS", 10**9),
    ),
    Fault(
        "everybody is scored as the first user",
        ("users are scored with what is theirs",),
        edited(
            "fedmm.federation.client_states:ClientStates.of",
            "self.entries.get(int(client), {})",
            "self.entries.get(1, {})",
        ),
    ),
    Fault(
        "personal vectors are not scored",
        ("users are scored with what is theirs",),
        edited("fedmm.evaluation.model_scorer:model_scorer", "if zeros and personal.entries", "if False"),
    ),
    Fault(
        "shuffled features come twice",
        ("corrupted features are what they say",),
        edited("fedmm.data.corruption:shuffle", "stream.permutation(places)", "stream.choice(places, len(places))"),
    ),
    Fault(
        "noise at the wrong scale",
        ("corrupted features are what they say",),
        edited("fedmm.data.corruption:noise", "* own.std(axis=0)", "* own.var(axis=0)"),
    ),
    Fault(
        "a checkpoint is evaluated on the other split",
        ("a run reports cold items, files and tracked names alike",),
        edited(
            "fedmm.runs.evaluate:run_evaluation",
            "experiment.evaluate(snapshot, split)",
            "experiment.evaluate(snapshot, 'validation')",
        ),
    ),
)
