"""Faults of what stands between a client and the server's rule, of noisy starts, other splits, lists and summands."""

from __future__ import annotations

from worlds.planting import Fault, constant, edited

STAGES = "each stage does to a vector and to sums what it says"
CHAIN = "a chain of stages gives back the sum of clipped updates, at its bytes"
START = "a noisy start is, without its noise, what was counted"
KINDS = "a start over kinds is, without its noise, what was counted"
ALIKE = "items of one kind have features alike"
KIND_NOISE = "the noise of a start over kinds is of its size, by server or clients"
KEPT = "of noisy pairs that is kept which stands out of the noise"
BILL = "the bill of a noisy start equals its messages"
SPLITS = "splits by shares and by given moments ask what they say"
SEVERAL = "counts of several clients at once, with items met twice, are as by hand"
LISTS = "lists of best items are those that sorting gives"
POOLED = "yardsticks of pooled data equal their definitions"
SHORT = "who leaves too few candidates is not asked"
DROPOUT = "dropout leaves what it says, entry by entry"
SUMMANDS = "what each part adds is what it says, and all parts sum to the score"
ROUNDING, NOISY = "fedmm.federation.transforms.rounding", "fedmm.federation.private_start"
FAULTS = (
    Fault("halves are always rounded up", (STAGES,), edited(f"{ROUNDING}:_rounded", "< row - below", "< 1.0")),
    Fault(
        "every client rounds with the same luck",
        (STAGES,),
        edited(f"{ROUNDING}:_rounded", '"rounding", turn.number, client', '"rounding", turn.number'),
    ),
    Fault(
        "few directions come back as they are, and not as many times as there are columns to each",
        (STAGES,),
        edited("fedmm.federation.transforms.low_rank:low_rank", "* (columns / rank)", "* 1.0"),
    ),
    Fault("rotations turn without signs", (STAGES,), edited(f"{ROUNDING}:rotate", "* 2.0 - 1.0", "* 0.0 + 1.0")),
    Fault("whatever is too long is sent", (STAGES,), edited(f"{ROUNDING}:_rounded", "<= longest", "<= 1e300")),
    Fault(
        "masks have no room for noise",
        (STAGES,),
        edited("fedmm.federation.transforms.masks:mask", "+ ROOM * deviation", "+ 0 * deviation"),
    ),
    Fault(
        "the sum of a chain is a mean",
        (CHAIN,),
        edited("fedmm.federation.transforms.chain:sent_sum", "summed + vectors.sum(0)", "summed + vectors.mean(0)"),
    ),
    Fault(
        "bytes of a stage before it packs",
        (CHAIN,),
        edited("fedmm.federation.transforms.chain:vector_bytes", "bound.width * bound.bits", "bound.width * 32"),
    ),
    Fault(
        "clients send without their noise",
        (STAGES,),
        edited(
            "fedmm.federation.transforms.noise_share:noise_share", "* bound.norm * turn", "* 0.0 * bound.norm * turn"
        ),
    ),
    Fault(
        "shares of noise as if all had to send",
        (STAGES,),
        edited("fedmm.federation.transforms.noise_share:noise_share", "turn.senders_share)\n    dev", "1.0)\n    dev"),
    ),
    Fault(
        "a sum of too little noise is opened",
        (STAGES,),
        edited("fedmm.federation.transforms.noise_share:noise_share", "turn.num_present < least", "False"),
    ),
    Fault(
        "clients share one noise",
        (STAGES,),
        edited("fedmm.federation.transforms.noise_share:noise_share", "turn.number, int(client)", "turn.number, 0"),
    ),
    Fault(
        "kinds that follow are counted without a bound",
        (KINDS,),
        edited("fedmm.federation.kind_start:client_kind_pairs", "CLIP / max(norm, CLIP)", "1.0"),
    ),
    Fault(
        "the clients' noise on counts is that of all where some suffice",
        (KIND_NOISE,),
        edited(f"{NOISY}:OwnNoise.drawn", "math.sqrt(self.number / self.least)", "1.0"),
    ),
    Fault(
        "items are of the kind that is farthest",
        (ALIKE,),
        edited("fedmm.federation.item_kinds:_nearest", ".argmax(", ".argmin("),
    ),
    Fault("a client says all of every item", (START,), constant(NOISY, "CLIP", 100.0)),
    Fault(
        "popular items are not said",
        (START,),
        edited("fedmm.models.noisy_counts:NoisyCounts.scores", "HOLDERS_WEIGHT * np.log", "0 * np.log"),
    ),
    Fault(
        "negative eigenvalues are kept",
        (KEPT,),
        edited(f"{NOISY}:leading_factor", "np.flatnonzero(values >", "np.flatnonzero(np.abs(values) >"),
    ),
    Fault(
        "the smallest that stand out are kept",
        (KEPT,),
        edited(f"{NOISY}:leading_factor", "[::-1][:rank]", "[:rank]"),
    ),
    Fault(
        "what stands out of the noise counts once more whatever the noise",
        (START,),
        edited(f"{NOISY}:PrivateStart.told", "self.loudness * (factor", "1.0 * (factor"),
    ),
    Fault(
        "scores tell apart what is noise",
        (START,),
        edited(f"{NOISY}:PrivateStart.told", "(1 + self.loudness) * self.pairs_deviation", "0.0"),
    ),
    Fault(
        "pairs are billed once for two",
        (BILL,),
        edited(f"{NOISY}:PrivateStart.uplink_bytes", "size * (size - 1) // 2", "size * (size - 1) // 4"),
    ),
    Fault(
        "shares of the shortest",
        (SPLITS,),
        edited("fedmm.data.splits:_user_ratio", "np.rint(fraction * lengths)", "np.floor(fraction * lengths)"),
    ),
    Fault(
        "given moments are not read",
        (SPLITS,),
        edited("fedmm.data.splits:_cuts", "config.validation_from is not None", "config.validation_from is None"),
    ),
    Fault(
        "a block's first client is taken out for all",
        (SEVERAL,),
        edited("fedmm.models.experts.transition_rows:_without_own", "owners * V + ends", "0 * owners * V + ends"),
    ),
    Fault(
        "candidates named twice are said once",
        (SEVERAL,),
        edited("fedmm.models.experts.transition_rows:_repeated", "if not repeated.any()", "if repeated.any()"),
    ),
    Fault(
        "level items stand as in the catalogue",
        (LISTS,),
        edited("fedmm.evaluation.ranking:_top", "order[items].argsort(dim=1, descending=True)", "items.argsort(dim=1)"),
    ),
    Fault(
        "stretches of a large catalogue by their means",
        (LISTS,),
        edited("fedmm.utils.largest:largest", ".amax(2)", ".mean(2)"),
    ),
    Fault(
        "items recommend themselves",
        (POOLED,),
        edited(
            "fedmm.models.regression:ridge_coefficients",
            "weights.fill_diagonal_(0.0)",
            "weights.fill_diagonal_(1.0)",
        ),
    ),
    Fault(
        "what is named twice counts twice",
        (POOLED,),
        edited("fedmm.evaluation.pooled_yardsticks:_met", "np.minimum(met.data, 1.0)", "met.data"),
    ),
    Fault(
        "one user's candidates decide for all",
        (SHORT,),
        edited("fedmm.data.negatives:_num_drawn", "max(1.0, median / 2)", "1.0"),
    ),
    Fault(
        "all that is left is drawn",
        (SHORT,),
        edited("fedmm.data.negatives:_num_drawn", "median >= num_negatives", "median > 1e9"),
    ),
    Fault(
        "dropout keeps its share",
        (DROPOUT,),
        edited(
            "fedmm.federation.dropout:ClientDropout.__init__", ">= dropped - LEVELS // 2", "< dropped - LEVELS // 2"
        ),
    ),
    Fault(
        "every place drops the same",
        (DROPOUT,),
        edited("fedmm.federation.dropout:ClientDropout.__call__", "self._site += 1", "self._site += 0"),
    ),
    Fault(
        "explanations forget the router",
        (SUMMANDS,),
        edited("fedmm.models.shares:_fused", "coefficients[name], given.get(name)", "None, given.get(name)"),
    ),
)
