"""The experts that add to the backbone: a kind is one class in one file, and one entry of ``EXPERTS``."""

from fedmm.models.experts.contract import Asked, DenseScores, Expert, Representation, Source
from fedmm.models.experts.registry import EXPERTS

__all__ = ["EXPERTS", "Asked", "DenseScores", "Expert", "Representation", "Source"]
