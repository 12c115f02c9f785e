"""An aggregation of your own: the mean of the clients' updates, scaled to a norm of at most 0.1."""

import sys

import fedmm


def clipped_mean(total, config):
    mean = {name: value / total.weight for name, value in total.deltas.items()}
    norm = sum(value.square().sum() for value in mean.values()).sqrt()
    return {name: value / (10 * norm).clamp(min=1.0) for name, value in mean.items()}


fedmm.register_aggregation("clipped_mean", clipped_mean)

if __name__ == "__main__":
    own = fedmm.load_config(sys.argv[1:], aggregation="clipped_mean")
    plain = fedmm.load_config(sys.argv[1:], aggregation="mean")
    runs = [fedmm.train(own, output="runs/clipped"), fedmm.train(plain, output="runs/mean")]
    fedmm.train(own, output="runs/clipped", resume=True)  # goes on where a run was stopped; this one had finished
    space = {"federation.aggregation": ["mean", "clipped_mean"]}
    best = fedmm.sweep(space=space, sampler="grid", config=own, output="sweeps/aggregation").best
    print("the sweep's best:", dict(best.params))
    for pair in fedmm.compare(*runs, metrics=["full/ndcg_at_10"]).pairs:
        print(f"{pair.metric}: {pair.difference:+.4f}, {pair.verdict}")
