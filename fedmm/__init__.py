"""fedmm: train and study federated multimodal sequential recommenders."""

__version__ = "0.1.0"
