"""The laws that a part owes, as functions: who writes a part inherits the battery that fedmm's own parts pass.

Each ``check_...`` takes a part, tries it in small worlds and raises AssertionError with the law that it breaks. They
need no test framework; in a test suite one call is one test.

>>> import fedmm.testing
>>> fedmm.testing.check_metric(lambda places: 0.8**places)
>>> fedmm.testing.check_metric(lambda places: 1.0 + places)
Traceback (most recent call last):
AssertionError: the metric earns more than 1 or less than 0 at a place
"""

from fedmm.testing.backbone_parts import check_block, check_position_encoding
from fedmm.testing.encoder_parts import check_encoder
from fedmm.testing.federation_parts import (
    check_aggregation,
    check_cohort_sampler,
    check_local_optimizer,
    check_schedule,
    check_server_optimizer,
    check_update_transform,
)
from fedmm.testing.model_parts import check_expert, check_fusion, check_loss
from fedmm.testing.worlds import check_metric, registered, tiny_config, tiny_run

__all__ = [
    "check_aggregation",
    "check_block",
    "check_cohort_sampler",
    "check_encoder",
    "check_expert",
    "check_fusion",
    "check_local_optimizer",
    "check_loss",
    "check_metric",
    "check_position_encoding",
    "check_schedule",
    "check_server_optimizer",
    "check_update_transform",
    "registered",
    "tiny_config",
    "tiny_run",
]
