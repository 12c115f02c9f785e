"""Faults of reports and losses."""

from __future__ import annotations

from worlds.planting import Fault, edited

WORTH = "a run reports what its kept parameters are worth"
BESIDE = "a run reports what stands beside its model, and the gain"
BEST = "a run keeps and reports its best round"
COLD = "a run reports cold items, files and tracked names alike"
LOSSES = "losses and their slopes equal their definitions"
CALIBRATED = "sampled losses are calibrated by what is drawn"
ALIGNED = "the alignment loss equals its definition"
FAULTS = (
    Fault(
        "metrics are cut one place early",
        (WORTH,),
        edited(
            "fedmm.evaluation.results:evaluate",
            "per_query(ranking.counts[protocol], cutoffs, extra_metrics)",
            "{f'{n.rsplit(chr(95), 1)[0]}_{int(n.rsplit(chr(95), 1)[1]) + 1}': v for n, v in "
            "per_query(ranking.counts[protocol], [k - 1 for k in cutoffs]).items()}",
        ),
    ),
    Fault(
        "histories are read from their start",
        (WORTH,),
        edited(
            "fedmm.evaluation.model_scorer:last_windows",
            "(histories.offsets[1:] - lengths)",
            "(histories.offsets[:-1])",
        ),
    ),
    Fault(
        "other items of the user are candidates",
        (WORTH,),
        edited(
            "fedmm.evaluation.ranking:_mask",
            "_on(excluded.values, scores)] = -torch.inf",
            "_on(excluded.values, scores)] -= 0.0",
        ),
    ),
    Fault(
        "cold items are ranked among the others",
        (WORTH,),
        edited("fedmm.evaluation.ranking:_mask", "if candidates is not None", "if False"),
    ),
    Fault(
        "lists show too much of the catalogue",
        (WORTH,),
        edited(
            "fedmm.evaluation.results:evaluate",
            "item_coverage(ranking.top_items, ranking.num_items",
            "item_coverage(ranking.top_items, ranking.num_items - 1",
        ),
    ),
    Fault(
        "validation is reported as test",
        (WORTH,),
        edited(
            "fedmm.experiment:Experiment.queries",
            'self.split.test if split == "test"',
            'self.split.validation if split == "test"',
        ),
    ),
    Fault(
        "the gain has the wrong sign",
        (BESIDE,),
        edited("fedmm.runs.references:_test", "for found in (model, other)", "for found in (other, model)"),
    ),
    Fault(
        "the backbone alone has its experts",
        (BESIDE,),
        edited(
            "fedmm.experiment:Experiment.parts", '"backbone": build(experts=False)', '"backbone": build(experts=True)'
        ),
    ),
    Fault(
        "an expert alone is weighed",
        (BESIDE,),
        edited(
            "fedmm.models.recommender:Recommender._alone",
            "expand(item_keys.shape[:-1])",
            "expand(item_keys.shape[:-1]) * -1.0",
        ),
    ),
    Fault(
        "round 0 is the last one",
        (BESIDE,),
        edited(
            "fedmm.experiment:Experiment.baselines",
            "self.initial_state().server.params",
            "{k: 1.5 * v for k, v in self.initial_state().server.params.items()}",
        ),
    ),
    Fault(
        "weights of experts count items without any",
        (BEST,),
        edited("fedmm.models.recommender:Recommender.expert_weights", "shares.sum(-1) > 0", "shares.sum(-1) > -1"),
    ),
    Fault(
        "cold popularity is better than chance",
        (COLD,),
        edited("fedmm.runs.cold:chance", "lengths - 1)", "lengths - 2)"),
    ),
    Fault(
        "tracked numbers are of the other split",
        (COLD,),
        edited("fedmm.runs.metrics:flat_metrics", 'entry["test"]', 'entry["validation"]'),
    ),
    Fault(
        "train losses are logged as load balance",
        (BEST,),
        edited("fedmm.runs.train:round_metrics", '"train/loss": report.loss', '"train/loss": report.load_balance_loss'),
    ),
    Fault(
        "softmax forgets the target",
        (LOSSES,),
        edited(
            "fedmm.models.losses.softmax:cross_entropy",
            "torch.logsumexp(logits, dim=-1) - taken",
            "torch.logsumexp(logits, dim=-1)",
        ),
    ),
    Fault(
        "gBCE divides by its negatives alone",
        (LOSSES,),
        edited("fedmm.models.losses.pairwise:_gbce", "(1.0 + _count", "(0.0 + _count"),
    ),
    Fault(
        "BPR the wrong way round",
        (LOSSES,),
        edited("fedmm.models.losses.pairwise:_bpr", "target - negatives", "negatives - target"),
    ),
    Fault(
        "catalogues skip nothing",
        (LOSSES,),
        edited("fedmm.models.losses.batched:CatalogueQuestions.mask_logits", "if self.met_at is not None", "if False"),
    ),
    Fault(
        "gBCE is never calibrated",
        (CALIBRATED,),
        edited("fedmm.models.losses.pairwise:gbce_power", "calibration *", "0 * calibration *"),
    ),
    Fault(
        "log-Q with the other sign",
        (CALIBRATED,),
        edited("fedmm.federation.local_training:StepStream.offsets", "return -self._shares", "return self._shares"),
    ),
    Fault(
        "alignment in one direction",
        (ALIGNED,),
        edited("fedmm.models.alignment:contrast", "(similarities, similarities.mT)", "(similarities, similarities)"),
    ),
)
