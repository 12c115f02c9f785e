"""Faults of intervals, tests, comparisons and studies."""

from __future__ import annotations

from worlds.planting import Fault, edited

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
            "len(matrix) if sizes is None else",
            "len(matrix) if True else",
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
)
