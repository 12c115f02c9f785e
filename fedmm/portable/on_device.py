"""Recommends without fedmm, with onnxruntime and numpy alone: python recommend.py ID ID ... (the newest last)."""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


@functools.cache
def _loaded() -> tuple[dict[str, list[str]], dict[str, int], onnxruntime.InferenceSession]:
    items = json.loads(Path(__file__).with_name("items.json").read_text(encoding="utf-8"))
    rows = {name: at for at, name in enumerate(items["item_ids"]) if at}
    return items, rows, onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"))


def recommend(history: list[str], k: int = 10) -> list[tuple[str, float, str]]:
    """The best k items for a history of item ids, best first: (item_id, score, title)."""
    items, rows, model = _loaded()
    seen = [rows[str(one)] for one in history if str(one) in rows]
    scores = model.run(["scores"], {"history": np.array([seen or [0]], dtype=np.int64)})[0][0]
    scores[seen] = -np.inf
    best = [at for at in np.argsort(-scores, kind="stable")[:k] if np.isfinite(scores[at])]
    return [(items["item_ids"][at], float(scores[at]), items["titles"][at]) for at in best]


if __name__ == "__main__":
    if not any(one in _loaded()[1] for one in sys.argv[1:]):
        sys.exit("No item of the history is known: python recommend.py ID ID ...")
    for item_id, score, title in recommend(sys.argv[1:]):
        print(f"{item_id}\t{score:.4f}\t{title}")
