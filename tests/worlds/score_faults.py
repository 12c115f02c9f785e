"""Faults of scores as sums of terms, and of what moves between rounds."""

from __future__ import annotations

from worlds.planting import Fault, edited

FORMS = "every kind of term has the loss and slopes of its definition, rounded or not"
LEVELS = "losses know no level of the scores, rounded or not"
PIECES = "rows whose logits are formed some at a time have the loss of all together"
FAULTS = (
    Fault(
        "rounded losses forget the totals in their slopes",
        (FORMS,),
        edited("fedmm.models.losses.rounded:RoundedClient.loss", "self.asked.weights / totals", "self.asked.weights"),
    ),
    Fault(
        "rounded losses leave out dense constants",
        (FORMS,),
        edited("fedmm.models.losses.rounded:_add", "given[: len(total)], scale", "0 * given[: len(total)], scale"),
    ),
    Fault(
        "scales of sparse constants get no slope where products are rounded",
        (FORMS,),
        edited("fedmm.models.losses.rounded:RoundedClient._write_gradients", "into[2].add_(", "into[2].add_(0 * "),
    ),
    Fault(
        "rows rank what they must not",
        (FORMS,),
        edited("fedmm.models.losses.softmax:_client_loss", "asked.index is not None", "False"),
    ),
    Fault(
        "totals that overflow stay as they are",
        (LEVELS,),
        edited("fedmm.models.losses.rounded:RoundedClient.loss", "not _in_range(totals)", "False"),
    ),
    Fault(
        "every piece has the rows of the first",
        (PIECES,),
        edited("fedmm.models.losses.pieces:_piece", "part[:, some]", "part[:, : some.stop - some.start]"),
    ),
)
