"""A metric of your own: rank-biased precision (Moffat and Zobel, TOIS 2008)."""

import sys

import fedmm


def rank_biased(places):  # a reader goes on to the next item with probability .8
    return 0.8**places


fedmm.register_metric("rbp", rank_biased)

if __name__ == "__main__":
    measured = {"evaluation.extra_metrics": ["rbp"], "evaluation.selection_metric": "full/rbp_at_10"}
    first, second = (fedmm.load_config(sys.argv[1:], measured, learning_rate=rate) for rate in (0.3, 0.1))
    runs = [fedmm.train(first, output="runs/fast"), fedmm.train(second, output="runs/slow")]
    fedmm.train(first, output="runs/fast", resume=True)
    space = {"federation.learning_rate": [0.1, 0.3]}
    best = fedmm.sweep(space=space, sampler="grid", config=first, output="sweeps/rates").best
    print("the sweep's best:", dict(best.params))
    for pair in fedmm.compare(*runs, metrics=["full/rbp_at_10"]).pairs:
        print(f"{pair.metric}: {pair.difference:+.4f}, {pair.verdict}")
