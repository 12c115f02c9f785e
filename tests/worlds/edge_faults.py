"""Faults at edges of statistics, of what the data's shape decides, and of starts."""

from __future__ import annotations

from worlds.planting import Fault, constant, edited

TIES = "what ties with what was seen counts, however it is rounded"
BLOCKS = "tests of many users are those of a normal"
VERDICTS = "verdicts at an interval's end, and names of groups"
AGAIN = "users asked again are resampled whole in a result"
BY_DATA = "what the data's shape decides is as documented, and said"
UNSET = "a private run leaves out what it cannot afford"
WARM = "a warm start goes by ids"
SURPRISE = "surprise is a loss among the items that training knows"
DRAWS = "draws are new for every seed, round and client"
EVENTS = "events are kept and ordered as the settings say"
PREPARING = "fedmm.data.preparation"
TEST, RULES = "fedmm.evaluation.significance", "fedmm.federation.data_rules"
FAULTS = (
    Fault("ties of flips are lost to rounding", (TIES,), constant(TEST, "ROUNDING", -1e-12)),
    Fault(
        "ties of shuffles are lost",
        (TIES,),
        edited("fedmm.study.marginals:permutation_p", "observed - slack", "observed + slack"),
    ),
    Fault(
        "every block resamples the first users",
        (BLOCKS,),
        edited(f"{TEST}:_resampled_means", "stream.integers(num_users,", "stream.integers(num_users // 2,"),
    ),
    Fault(
        "users of equal values count once",
        (BLOCKS,),
        edited(f"{TEST}:_resampled_means", "holders / num_users", "np.full(len(holders), 1 / len(holders))"),
    ),
    Fault(
        "touching contradicts",
        (VERDICTS,),
        edited("fedmm.comparison.claims:_verdict", "ci95[0] > high", "ci95[0] >= high"),
    ),
    Fault(
        "group Z has two letters", (VERDICTS,), edited("fedmm.comparison.grouping:letter", "place - 1, 26", "place, 26")
    ),
    Fault(
        "questions are resampled, not users",
        (AGAIN,),
        edited("fedmm.evaluation.results:evaluate", "users=repeated", "users=None"),
    ),
    Fault(
        "a validation a round, however large",
        (BY_DATA,),
        edited(
            f"{RULES}:settled", "len(train) * num_items > MANY_SCORES else 1\n    return", "False else 1\n    return"
        ),
    ),
    Fault("few negatives for many items", (BY_DATA,), constant(RULES, "SPARSE_NEGATIVES", 64)),
    Fault(
        "what was given is said to be chosen",
        (BY_DATA,),
        edited(f"{RULES}:training_notes", 'given.federation.recipe == "auto" and', "True and"),
    ),
    Fault(
        "private runs train the backbone",
        (UNSET,),
        edited("fedmm.federation.private_parts:private_federation", '"frozen" if experts else "trained"', '"trained"'),
    ),
    Fault(
        "private runs ask for rows by their numbers",
        (UNSET,),
        edited("fedmm.federation.private_parts:private_federation", '"item_rows": "all"', '"item_rows": "touched"'),
    ),
    Fault(
        "rows of a warm start go by their places",
        (WARM,),
        edited(
            "fedmm.federation.warm_start:WarmStart.begin",
            "value.index_copy(0, rows,",
            "value.index_copy(0, rows.sort().values,",
        ),
    ),
    Fault(
        "the same batches every round",
        (DRAWS,),
        edited("fedmm.federation.client_data:plan_cohort", '"batches", round_number,', '"batches",'),
    ),
    Fault(
        "streams know no round",
        (DRAWS,),
        edited("fedmm.federation.local_training:StepStream.__init__", "(round_number, *occasion, ", "(*occasion, "),
    ),
    Fault(
        "half as many join by chance",
        (DRAWS,),
        edited("fedmm.federation.private_rounds:draw_poisson", "< rate", "< rate / 2"),
    ),
    Fault(
        "ratings at the limit go",
        (EVENTS,),
        edited(f"{PREPARING}:drop_ratings", "raw.ratings >= config", "raw.ratings > config"),
    ),
    Fault(
        "whoever has too few goes once",
        (EVENTS,),
        edited(f"{PREPARING}:_core", "lost = np.concatenate(found)", "break"),
    ),
    Fault(
        "the latest of a repeated pair stays",
        (EVENTS,),
        edited(f"{PREPARING}:_drop_repeats", '(config.repeats == "last")', '(config.repeats != "last")'),
    ),
    Fault(
        "what was met is barred though it repeats",
        (EVENTS,),
        edited("fedmm.data.splits:_queries", "if repeats else", "if False else"),
    ),
    Fault(
        "cold items are surprising",
        (SURPRISE,),
        edited("fedmm.models.surprise:_log_probabilities", "masked_fill(~trained", "masked_fill(trained"),
    ),
)
