"""Prototypes are part of a run's checkpoints: what is evaluated from one is what the run itself evaluated."""

from pathlib import Path

from safetensors.torch import load_file

from fedmm.runs.evaluate import run_evaluation
from worlds.run_world import Watcher, tiny, train


def test_a_checkpoint_is_evaluated_with_the_prototypes_it_was_trained_with(data: Path, tmp_path: Path) -> None:
    settings = {"model.experts": "memory", "model.memory": {"num_prototypes": 3}, "federation.rounds": 3}
    result = train(tiny(data, tmp_path / "run", settings))
    (file,) = Path(result["checkpoint"]).glob("*.safetensors")
    assert load_file(file)["params/semantic.prototype_counts"].any()
    found = run_evaluation(Path(result["checkpoint"]), Watcher(), split="validation")
    assert found["metrics"]["validation"] == result["metrics"]["validation"]
