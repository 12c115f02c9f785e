"""An expert of your own: how alike the last item of the history and a candidate are, by their features."""

import sys

import torch

import fedmm
from fedmm.models.experts import Expert
from fedmm.models.features import rows_of
from fedmm.models.layers import pick_rows


class LastItem(Expert):
    """scale * <features of the last item, features of the candidate>; a modality each."""

    local_tables = True  # reads items' features through ``asked.tables`` alone

    def init(self, generator):
        return {f"{self.name}.scale": torch.ones((), dtype=torch.float64)}

    def term(self, params, asked):
        table = asked.tables[self.name]
        last = pick_rows(table.at(asked.items).values, asked.rows)
        scale = params[f"{self.name}.scale"].view(-1, 1, 1)
        return scale * last, rows_of(table.values, asked.candidates)


fedmm.register_expert("last_item", LastItem)

if __name__ == "__main__":
    own = fedmm.load_config(sys.argv[1:], experts="last_item")
    pooled = fedmm.load_config(sys.argv[1:], experts="pooled")
    runs = [fedmm.train(own, output="runs/last_item"), fedmm.train(pooled, output="runs/pooled")]
    fedmm.train(own, output="runs/last_item", resume=True)
    space = {"model.experts": ["pooled", "last_item"]}
    best = fedmm.sweep(space=space, sampler="grid", config=own, output="sweeps/experts").best
    print("the sweep's best:", dict(best.params))
    for pair in fedmm.compare(*runs, metrics=["full/ndcg_at_10"]).pairs:
        print(f"{pair.metric}: {pair.difference:+.4f}, {pair.verdict}")
