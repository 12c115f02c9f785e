"""The model that MLflow loads: this file is copied into the artifact and run there ("models from code").

It reads ``model.safetensors`` beside it; nothing is pickled. A row of the input has a ``history`` of item ids, the
newest last; a row of the output has ``item_ids``, ``scores`` and ``titles``, best first.
"""

from typing import Any

from fedmm.portable.ranker import Ranker


def predict(ranker: Ranker, table: Any, params: dict[str, Any] | None) -> Any:
    """The lists of all histories of ``table``, a DataFrame with the column ``history``."""
    import pandas as pd

    given = params or {}
    histories = list(table["history"])
    lists = ranker.recommend(histories, int(given.get("k", 10)), keep_seen=bool(given.get("keep_seen", False)))
    return pd.DataFrame(
        {
            "item_ids": [[one.item_id for one in found] for found in lists],
            "scores": [[one.score for one in found] for found in lists],
            "titles": [[one.title for one in found] for found in lists],
        }
    )


def _declare() -> None:
    import pandas as pd
    from mlflow.models import set_model
    from mlflow.pyfunc import PythonModel  # type: ignore[attr-defined]

    class FedmmModel(PythonModel):
        """Recommendations for histories."""

        def load_context(self, context: Any) -> None:
            self.ranker = Ranker.load(context.artifacts["weights"])

        def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
            del context
            return predict(self.ranker, model_input, params)

    set_model(FedmmModel())


if __name__ != "fedmm.portable.pyfunc_script":  # MLflow runs the copy under a name of its own
    _declare()
