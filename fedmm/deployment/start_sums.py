"""How the server asks for the sums before the first round: of all silos that were there, masked or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedmm.data.transitions import WINDOW, transition_weight
from fedmm.deployment import sums
from fedmm.deployment.astray import AstrayError
from fedmm.deployment.chained import SLACK, is_masked
from fedmm.deployment.hidden_sum import UnopenedError
from fedmm.deployment.masked_sums import MaskedSums
from fedmm.deployment.members import Facts, Members, gone
from fedmm.deployment.messages import Expected, Header, Message, RefusedError, require
from fedmm.deployment.sizes import require_counts_of
from fedmm.federation.private_start import CLIP
from fedmm.privacy.plan import SHARES_OF_NOISE

WEIGHT = sum(transition_weight(gap) for gap in range(1, WINDOW + 1))  # of an event's pairs with those before it


@dataclass(frozen=True, eq=False)
class StartSums:
    """Asks silos of these ``facts``."""

    members: Members
    masked: MaskedSums
    facts: Facts
    done: list[str] = field(default_factory=list)  # sums that were there

    def __call__(self, nodes: list[str], request: Message, expected: Expected) -> list[Mapping[str, Tensor]]:
        """As ``_asked``. An AstrayError says how many sums were there before, or were to be opened."""
        try:
            found = self._asked(nodes, request, expected)
        except AstrayError as error:
            error.sums += len(self.done)
            raise
        self.done.append(str(request.body.get("what")))
        return found

    def _asked(self, nodes: list[str], request: Message, expected: Expected) -> list[Mapping[str, Tensor]]:
        """What all ``nodes`` answer, in their order; the sum of all alone where it is masked. A silo that lost the
        offer is made it again. Raises GoneError where one is missing for longer than a round waits, AstrayError
        where one answers, and never with what was asked."""
        members = self.members
        requests = dict.fromkeys(nodes, request)
        if is_masked(members.config.federation):
            least = None if members.config.privacy.on else 0
            try:
                return [
                    self.masked.whole(
                        requests,
                        expected,
                        {node: self.facts[node]["users"] for node in nodes},
                        lambda: self._again(nodes),
                        least=least,
                    )
                ]
            except UnopenedError as error:
                raise gone(f"The start's masked sum was not opened: {error.message}", members.options) from None

        def accept(node: str, header: Header) -> Message:
            require(header, "sums")
            found, own = header.with_tensors(expected), self.facts[node]
            noisy = SHARES_OF_NOISE in members.config.federation.update_transforms
            require_possible(found.tensors, members.catalogue.num_items, own["users"], own["events"], noisy=noisy)
            return found

        answers = members.gather(
            requests, accept, lambda answered: len(answered) == len(nodes), lambda: self._again(nodes), bounded=True
        )
        return [answers[node].tensors for node in nodes]

    def _again(self, nodes: list[str]) -> None:
        there = set(self.members.conversation.transport.nodes())
        self.members.introductions([node for node in nodes if node in there])


def require_possible(
    tensors: Mapping[str, Tensor], num_items: int, users: int, events: int, *, noisy: bool = False
) -> None:
    """Raises RefusedError for counts that a silo of so many ``users`` and ``events`` cannot have: it is one silo's
    message that is refused, where the sum of all would be nonsense for all. ``noisy``: the silo added noise."""
    most_paired = events * WEIGHT * (1 + SLACK)
    if tensors.keys() == sums.COUNTED.keys():
        sums.told_counts(tensors, num_items)
        _require(float(tensors["counts"].sum()), most_paired, "counts of pairs")
    if "popularity" in tensors:
        require_counts_of(tensors["popularity"])
        _require(float(tensors["popularity"].double().sum()), events, "counts of items")
    if "degrees" in tensors:
        require_counts_of(tensors["degrees"])
        _require(float(tensors["degrees"].sum()), 2 * most_paired, "counts of pairs by item")
    if "sketch" in tensors:  # a pair has at most the root of what its two items have
        _require(float(tensors["sketch"].abs().max()), num_items + 1, "numbers of a sketch")
    if "sum" in tensors and not noisy:
        require_counts_of(tensors["sum"])
        _require(float(tensors["sum"].max()) if len(tensors["sum"]) else 0.0, users * CLIP, "counts by user")


def _require(found: float, most: float, what: str) -> None:
    if not found <= most:
        raise RefusedError(f"{what} that come to {found:.3g}, where {most:.3g} are the most.")
