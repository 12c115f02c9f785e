"""Faults of draws, counts, questions, intervals, tests, comparisons and studies."""

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
ENDS = "95% intervals of users end where a binomial does"
UNEVEN = "users asked unequally often are resampled whole"
FLIPS = "p-values equal all sign flips, both sides"
PAIRED_ENDS = "the interval of a difference ends where it is known to"
SIZE = "where nothing differs, 5% are told apart at most"
COVERAGE = "95% intervals of differences hold the truth 95 times in 100"
POWER = "a large difference is found"
HOLM = "Holm's correction equals closed testing"
STUDY_TESTS = "a study's intervals and tests equal tables and enumeration"
COMPARED = "comparisons say what their runs' users say"
REPEATS = "repeats are no seeds, and untested pairs count"
CLAIMS = "claims are judged by their numbers"
STUDIES = "a study's readings are those of its trials"

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
        edited("fedmm.federation.spectral_sketch:_sketch", "@ counts @ sparse.diags(roots)", "@ counts"),
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
        edited("fedmm.data.splits:_temporal", "ordered[-share]", "ordered[-share - 1]"),
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
        "90% intervals called 95%",
        (ENDS, UNEVEN),
        edited("fedmm.evaluation.intervals:bootstrap_intervals", "(1.0 - confidence) / 2.0", "(1.0 - confidence)"),
    ),
    Fault(
        "queries are resampled, not users",
        (ENDS,),
        edited("fedmm.evaluation.intervals:bootstrap_intervals", "users is not None", "False"),
    ),
    Fault(
        "every user counts as one query",
        (UNEVEN,),
        edited(
            "fedmm.evaluation.intervals:bootstrap_intervals",
            "num_users if sizes is None else",
            "num_users * len(matrix) / num_users if True else",
        ),
    ),
    Fault(
        "one-sided p-values",
        (FLIPS, PAIRED_ENDS),
        edited(
            "fedmm.evaluation.significance:paired_test",
            "num_beyond = np.count_nonzero(flipped >= difference * (1 - ROUNDING))",
            "num_beyond = np.count_nonzero(flipped >= difference * (1 - ROUNDING)) / 2",
        ),
    ),
    Fault(
        "effect sizes of the population",
        (FLIPS,),
        edited("fedmm.evaluation.significance:paired_test", "std(ddof=1)", "std()"),
    ),
    Fault(
        "90% intervals of differences",
        (PAIRED_ENDS, COVERAGE),
        edited(
            "fedmm.evaluation.significance:_tails",
            "[(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]",
            "[1 - CONFIDENCE, CONFIDENCE]",
        ),
    ),
    Fault(
        "seeds are ignored",
        (SIZE, COVERAGE),
        edited("fedmm.evaluation.significance:_seed_draws", "if not effect.variance", "if effect.variance > -1"),
    ),
    Fault(
        "only one side's seeds count",
        (PAIRED_ENDS,),
        edited(
            "fedmm.evaluation.significance:paired_test",
            "share = sum(1 / len(values) for values in trained)",
            "share = 1 / len(a)",
        ),
    ),
    Fault(
        "a baseline has a seed effect",
        (PAIRED_ENDS,),
        edited("fedmm.evaluation.significance:paired_test", "(a,) if b_is_fixed else (a, b)", "(a, b)"),
    ),
    Fault(
        "nothing is ever found",
        (POWER, FLIPS),
        edited(
            "fedmm.evaluation.significance:paired_test", "difference * (1 - ROUNDING)", "-difference * (1 - ROUNDING)"
        ),
    ),
    Fault("Holm is not monotone", (HOLM,), edited("fedmm.utils.statistics:holm", "max(largest, ", "max(0.0, ")),
    Fault("Holm is Bonferroni", (HOLM,), edited("fedmm.utils.statistics:holm", "(len(order) - rank)", "len(order)")),
    Fault(
        "a study's Holm counts what is unknown",
        (HOLM,),
        edited(
            "fedmm.utils.statistics:holm_of_known",
            "[p for p in p_values if p is not None]",
            "[p or 1.0 for p in p_values]",
        ),
    ),
    Fault("90% intervals of a study", (STUDY_TESTS,), edited("fedmm.study.marginals:t_interval", "0.975", "0.95")),
    Fault(
        "normal intervals of a study",
        (STUDY_TESTS,),
        edited("fedmm.study.marginals:t_interval", "len(values) - 1, 0.975", "10**6, 0.975"),
    ),
    Fault(
        "permutations count their equals apart",
        (STUDY_TESTS,),
        edited("fedmm.study.marginals:permutation_p", ">= observed - slack", "> observed + slack"),
    ),
    Fault(
        "the worse group comes first",
        (COMPARED,),
        edited("fedmm.comparison.grouping:make_groups", "key=lambda one: -one", "key=lambda one: one"),
    ),
    Fault(
        "verdicts are turned",
        (COMPARED, REPEATS),
        edited("fedmm.comparison.compare:verdict_of", "if difference > 0", "if difference < 0"),
    ),
    Fault(
        "verdicts of uncorrected p-values",
        (REPEATS,),
        edited(
            "fedmm.comparison.compare:_pair",
            "verdict_of(test.difference, p_adjusted)",
            "verdict_of(test.difference, test.p_value)",
        ),
    ),
    Fault(
        "means of the best seed",
        (COMPARED,),
        edited("fedmm.comparison.grouping:make_groups", "float(value.mean())", "float(value.mean(1).max())"),
    ),
    Fault(
        "repeats are seeds",
        (REPEATS,),
        edited(
            "fedmm.comparison.grouping:per_user",
            "np.stack([np.mean(same, axis=0) for same in repeats])",
            "np.stack([own for same in repeats for own in same])",
        ),
    ),
    Fault(
        "untested pairs do not count",
        (REPEATS,),
        edited("fedmm.comparison.compare:_pairs", "[1.0] * (num_pairs - len(tests))", "[]"),
    ),
    Fault(
        "a claim's difference the wrong way round",
        (CLAIMS,),
        edited("fedmm.comparison.claims:_against", "pair.a == group.label", "pair.b == group.label"),
    ),
    Fault(
        "gains as differences",
        (CLAIMS,),
        edited("fedmm.comparison.claims:_against", 'claim.measure == "difference"', "True"),
    ),
    Fault(
        "claims fail by the point",
        (CLAIMS,),
        edited("fedmm.comparison.claims:_verdict", "ci95[1] < low or ci95[0] > high", "True"),
    ),
    Fault(
        "the later of equal trials is best",
        (STUDIES,),
        edited("fedmm.study.selection:best_trial", "-trial.number", "trial.number"),
    ),
    Fault(
        "superseded trials count",
        (STUDIES,),
        edited("fedmm.study.selection:complete_trials", "not t.superseded", "True"),
    ),
    Fault(
        "the front keeps what is beaten",
        (STUDIES,),
        edited("fedmm.study.selection:pareto_front", "if not front or", "if True or"),
    ),
    Fault(
        "pruned trials are complete ones",
        (STUDIES,),
        edited(
            "fedmm.study.marginals:_marginal",
            "Row(label, low, high, len(values), num_pruned",
            "Row(label, low, high, len(values) + num_pruned, 0",
        ),
    ),
    Fault(
        "what followed is added as it is",
        (SUCCESSION,),
        edited("fedmm.models.succession:Succession.scores", "np.log1p(found.data)", "found.data"),
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
