"""What happens to an update between a client and the server's rule: stages in a chain, undone on the sum."""

from fedmm.federation.transforms.contract import Bound, Stage, TransformRound, UpdateTransform
from fedmm.federation.transforms.registry import UPDATE_TRANSFORMS

__all__ = ["UPDATE_TRANSFORMS", "Bound", "Stage", "TransformRound", "UpdateTransform"]
