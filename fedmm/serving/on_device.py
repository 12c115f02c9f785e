"""Recommends without fedmm, with onnxruntime and numpy alone: python recommend.py ID ID ... (the newest last)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

HERE = Path(__file__).parent
ITEMS = json.loads((HERE / "items.json").read_text(encoding="utf-8"))
INDEX = {name: at for at, name in enumerate(ITEMS["item_ids"]) if at}  # 0 is padding
MODEL = onnxruntime.InferenceSession(HERE / "model.onnx")


def recommend(history: list[str], k: int = 10) -> list[tuple[str, float, str]]:
    """The best k items for a history of item ids, best first: (item_id, score, title)."""
    seen = [INDEX[str(one)] for one in history if str(one) in INDEX]
    scores = MODEL.run(["scores"], {"history": np.array([seen or [0]], dtype=np.int64)})[0][0]
    scores[seen] = -np.inf
    best = [at for at in np.argsort(-scores, kind="stable")[:k] if np.isfinite(scores[at])]
    return [(ITEMS["item_ids"][at], float(scores[at]), ITEMS["titles"][at]) for at in best]


if __name__ == "__main__":
    for item_id, score, title in recommend(sys.argv[1:]):
        print(f"{item_id}\t{score:.4f}\t{title}")
