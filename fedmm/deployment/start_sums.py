"""How the server asks for the sums before the first round: of all silos that were there, masked or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedmm.deployment import sums
from fedmm.deployment.astray import AstrayError
from fedmm.deployment.chained import is_masked
from fedmm.deployment.hidden_sum import UnopenedError
from fedmm.deployment.masked_sums import MaskedSums
from fedmm.deployment.members import Members, gone
from fedmm.deployment.messages import Expected, Header, Message, require
from fedmm.deployment.sizes import require_counts_of


@dataclass(frozen=True, eq=False)
class StartSums:
    """Asks silos of so many ``users`` each."""

    members: Members
    masked: MaskedSums
    users: Mapping[str, int]
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
                        {node: self.users[node] for node in nodes},
                        lambda: self._again(nodes),
                        least=least,
                    )
                ]
            except UnopenedError as error:
                raise gone(f"The start's masked sum was not opened: {error.message}", members.options) from None

        def accept(node: str, header: Header) -> Message:
            del node
            require(header, "sums")
            found = header.with_tensors(expected)
            _require_counts(found.tensors, members.catalogue.num_items)
            return found

        answers = members.gather(
            requests, accept, lambda answered: len(answered) == len(nodes), lambda: self._again(nodes), bounded=True
        )
        return [answers[node].tensors for node in nodes]

    def _again(self, nodes: list[str]) -> None:
        there = set(self.members.conversation.transport.nodes())
        self.members.introductions([node for node in nodes if node in there])


def _require_counts(tensors: Mapping[str, Tensor], num_items: int) -> None:
    """Raises RefusedError for counts below 0, or of no items: it is one silo's message that is refused."""
    if tensors.keys() == sums.COUNTED.keys():
        sums.told_counts(tensors, num_items)
    elif "popularity" in tensors:
        require_counts_of(tensors["popularity"])
