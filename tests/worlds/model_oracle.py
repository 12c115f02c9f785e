"""The model as DESIGN.md defines it, in NumPy loops: one client, one position, one head, one item at a time."""

import math

import numpy as np


def oracle_scores(recommender, params, history, candidates):
    """[len(history), len(candidates)]: after each prefix, the score of each candidate."""
    model = Oracle(recommender, {name: value.numpy() for name, value in params.items()})
    return np.array([[model.score(history[: position + 1], t) for t in candidates] for position in range(len(history))])


class Oracle:
    def __init__(self, recommender, params):
        self.config, self.num_items, self.params = recommender.config, recommender.num_items, params
        self.values = {name: table.values.numpy() for name, table in recommender.tables.items()}
        self.present = {name: table.present.numpy() for name, table in recommender.tables.items()}
        self.item = params["backbone.item_embedding"]
        self.known = {}  # states of a prefix, so that slow is not hopeless
        self.graphs = {m: near_items(self.values[m], self.present[m], self.config.neighbors) for m in self.values}

    def score(self, prefix, t):
        config, backbone = self.config, self.state(prefix)
        if config.fusion == "backbone":
            return self.similarity(backbone, t)
        weights = self.router(t)
        gate = self.params["fusion.gate"] if config.fusion == "residual" else 1.0
        own = 1.0 if config.fusion == "residual" else weights["backbone"]
        if config.experts != "memory":
            parts = {"pooled": [self.pooled], "neighbors": [self.neighbors], "hybrid": [self.pooled, self.neighbors]}
            said = parts[config.experts]
            experts = sum(weights[m] * part(m, prefix, t) for m in self.values for part in said)
            return own * (backbone @ self.item[t]) + gate * experts
        final = own * backbone + gate * sum(weights[m] * self.memory(m, prefix, t) for m in self.values)
        return self.similarity(final, t)

    def similarity(self, final, t):
        dot = final @ self.item[t]
        if self.config.scoring == "dot":
            return dot
        return math.sqrt(self.config.hidden_dim) * dot / (np.linalg.norm(final) * np.linalg.norm(self.item[t]))

    def router(self, t):
        """A softmax over what candidate t has; the rest weighs 0."""
        if self.config.experts == "memory":
            inputs = self.item[t]
        else:
            inputs = np.concatenate([values[t] for values in self.values.values()])
            inputs = inputs / math.sqrt(len(inputs))
        logits = self.params["router.weight"] @ inputs + self.params["router.bias"]
        outputs = [*(["backbone"] if self.config.fusion == "competitive" else []), *self.values]
        has = [name == "backbone" or self.present[name][t] for name in outputs]
        parts = [math.exp(logit) if there else 0.0 for logit, there in zip(logits, has, strict=True)]
        return {name: part / max(sum(parts), 1e-300) for name, part in zip(outputs, parts, strict=True)}

    def pooled(self, m, prefix, t):
        """Decaying mean of the history's features against the candidate's, through one projection."""
        decay = 1 / (1 + math.exp(-self.params[f"{m}.decay_logit"]))
        entries = [(decay ** (len(prefix) - 1 - j), self.values[m][i]) for j, i in enumerate(prefix)]
        entries = [entry for entry, i in zip(entries, prefix, strict=True) if self.present[m][i]]
        if not entries or not self.present[m][t]:
            return 0.0
        pool = sum(weight * vector for weight, vector in entries) / sum(weight for weight, _ in entries)
        W = self.params[f"{m}.projection.weight"]
        return self.norm(W @ pool, f"{m}.norm") @ (W @ self.values[m][t]) / math.sqrt(len(W))

    def neighbors(self, m, prefix, t):
        """What the history's items are to t in the graph, by how long ago they were met."""
        decay, last = self.config.neighbors.decay, len(prefix) - 1
        return 16 * sum(decay ** (last - j) * self.graphs[m][i, t] for j, i in enumerate(prefix))

    def memory(self, m, prefix, t):
        """LN of what candidate t reads in the K best entries; 0 where there is nothing to read."""
        config, D = self.config, self.config.hidden_dim
        entries = [self.values[m][prefix[j]] for j in self.kept(m, prefix) if prefix[j] != t]
        if config.memory.num_prototypes:
            counts = self.params[f"{m}.prototype_counts"]
            entries += [self.params[f"{m}.prototypes"][p] for p in range(len(counts)) if counts[p] > 0]
        if not entries:
            return np.zeros(D)
        query = self.params[f"{m}.query.weight"] @ (self.values[m][t] if m == "visual" else self.item[t])
        keys = [self.params[f"{m}.key.weight"] @ entry for entry in entries]
        values = [self.params[f"{m}.value.weight"] @ entry for entry in entries]
        out = np.zeros(D)
        for h in np.split(np.arange(D), config.memory.num_heads):
            attention = softmax([key[h] @ query[h] / math.sqrt(len(h)) for key in keys])
            out[h] = sum(a * value[h] for a, value in zip(attention, values, strict=True))
        return self.norm(self.params[f"{m}.output.weight"] @ out, f"{m}.norm")

    def kept(self, m, prefix):
        """Places of the K entries of highest utility; of two equals the later."""
        memory, last = self.config.memory, len(prefix) - 1
        utility = {
            j: memory.surprise_weight * self.surprise(prefix, j) + memory.recency_weight * 0.5 ** ((last - j) / 10)
            for j, i in enumerate(prefix)
            if self.present[m][i]
        }
        return sorted(utility, key=lambda j: (utility[j], j), reverse=True)[: memory.size]

    def surprise(self, prefix, j):
        """The backbone's own loss on entry j, in units of ln V; the first entry counts as a uniform guess."""
        if j == 0:
            return 1.0
        state = self.state(prefix[:j])
        scores = [self.similarity(state, t) for t in range(1, self.num_items + 1)]
        return -math.log(softmax(scores)[prefix[j] - 1]) / math.log(self.num_items)

    def state(self, prefix):
        """LN(H) at the end of the prefix."""
        key = tuple(prefix)
        if key not in self.known:
            self.known[key] = self.norm(self.encode(prefix)[-1], "backbone.norm")
        return self.known[key]

    def encode(self, prefix):
        """Pre-norm blocks of SASRec or LiGR; attention looks back only, and keys have no bias."""
        config, p = self.config, self.params
        D, L = config.hidden_dim, len(prefix)
        x = [math.sqrt(D) * self.item[i] for i in prefix]
        if config.positions == "learned":
            x = [row + p["backbone.position_embedding"][position] for position, row in enumerate(x)]
        for b in range(config.num_blocks):
            name = f"backbone.block{b}"
            normed = [self.norm(row, f"{name}.attention_norm") for row in x]
            q, k, v = ([self.affine(row, f"{name}.{part}") for row in normed] for part in ("query", "key", "value"))
            for position in range(L):
                mixed = np.zeros(D)
                for h in np.split(np.arange(D), config.num_heads):
                    logits = [self.match(q[position][h], k[j][h], position - j) for j in range(position + 1)]
                    attention = softmax(np.array(logits) / math.sqrt(len(h)))
                    mixed[h] = sum(attention[j] * v[j][h] for j in range(position + 1))
                x[position] = x[position] + self.passed(
                    x[position], self.affine(mixed, f"{name}.output"), name, "attention"
                )
            for position in range(L):
                said = self.feedforward(self.norm(x[position], f"{name}.feedforward_norm"), name)
                x[position] = x[position] + self.passed(x[position], said, name, "feedforward")
        return x

    def match(self, query, key, distance):
        """Their product; rotary: as complex numbers, the key's turned back by the distance."""
        if self.config.positions == "learned":
            return query @ key
        angles = distance * 10_000.0 ** (-np.arange(0, len(query), 2) / len(query))
        query, key = (own[0::2] + 1j * own[1::2] for own in (query, key))
        return (query * np.exp(1j * angles) @ key.conj()).real

    def feedforward(self, normed, name):
        if self.config.block == "sasrec":
            return self.affine(np.maximum(self.affine(normed, f"{name}.inner"), 0), f"{name}.outer")
        swish, inner = self.affine(normed, f"{name}.swish"), self.affine(normed, f"{name}.inner")
        return self.affine(swish * inner / (1 + np.exp(-swish)), f"{name}.outer")

    def passed(self, x, said, name, part):
        """What LiGR's gate lets through; it reads what stood there before the norm."""
        return said if self.config.block == "sasrec" else said / (1 + np.exp(-self.affine(x, f"{name}.{part}_gate")))

    def affine(self, x, name):
        return self.params[f"{name}.weight"] @ x + self.params.get(f"{name}.bias", 0.0)

    def norm(self, x, name):
        scaled = (x - x.mean()) / math.sqrt(x.var() + 1e-6)
        return scaled * self.params[f"{name}.weight"] + self.params[f"{name}.bias"]


def near_items(values, present, config):
    """A [V, V] of neighbour experts, pair by pair: both directions' mean over the roots of both items' sums."""
    held = [int(i) for i in np.flatnonzero(present)]
    K = np.zeros((len(values), len(values)))
    for i in held:
        cosine = {t: cosine_of(values[i], values[t]) for t in held if t != i}
        for t in sorted(cosine, key=cosine.get, reverse=True)[: config.count]:
            K[i, t] = max(cosine[t], 0.0) ** config.sharpness
    both = [[(K[i, t] + K[t, i]) / 2 for t in range(len(K))] for i in range(len(K))]
    sums = [sum(row) for row in both]
    return np.array(
        [
            [link / math.sqrt(sums[i] * sums[t]) if link else 0.0 for t, link in enumerate(row)]
            for i, row in enumerate(both)
        ]
    )


def cosine_of(left, right):
    return sum(left * right) / math.sqrt(sum(left * left) * sum(right * right))


def softmax(logits):
    exponentials = np.exp(np.array(logits) - max(logits))
    return exponentials / exponentials.sum()
