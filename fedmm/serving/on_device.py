"""Recommends without fedmm, with onnxruntime and numpy alone: python recommend.py ID ID ... (the newest last)."""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

HERE = Path(__file__).parent


@functools.cache
def loaded() -> tuple[dict[str, list[str]], dict[str, int], onnxruntime.InferenceSession]:
    """Ids and titles, the row of each id (0 is padding), and the model."""
    items = json.loads((HERE / "items.json").read_text(encoding="utf-8"))
    rows = {name: at for at, name in enumerate(items["item_ids"]) if at}
    return items, rows, onnxruntime.InferenceSession(HERE / "model.onnx")


def recommend(history: list[str], k: int = 10) -> list[tuple[str, float, str]]:
    """The best k items for a history of item ids, best first: (item_id, score, title)."""
    items, rows, model = loaded()
    seen = [rows[str(one)] for one in history if str(one) in rows]
    scores = model.run(["scores"], {"history": np.array([seen or [0]], dtype=np.int64)})[0][0]
    scores[seen] = -np.inf
    best = [at for at in np.argsort(-scores, kind="stable")[:k] if np.isfinite(scores[at])]
    return [(items["item_ids"][at], float(scores[at]), items["titles"][at]) for at in best]


if __name__ == "__main__":
    for item_id, score, title in recommend(sys.argv[1:]):
        print(f"{item_id}\t{score:.4f}\t{title}")
