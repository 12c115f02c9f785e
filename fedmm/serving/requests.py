"""What the server is asked, and what it answers: the shapes of the OpenAPI page."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MOST_ITEMS = 1000  # of a list that is given or asked for
MOST_MET = 10 * MOST_ITEMS  # of a history
Id = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Ids = Annotated[tuple[Id, ...], Field(max_length=MOST_ITEMS)]
Count = Annotated[int, Field(ge=1, le=MOST_ITEMS)]


class Body(BaseModel):
    """A request: unknown fields are refused, numbers pass as ids."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False)


class Whom(Body):
    """Somebody: a user of the data, or somebody new by a history."""

    user_id: Id | None = Field(None, description="a user of the data")
    history: Annotated[tuple[Id, ...], Field(max_length=MOST_MET)] | None = Field(
        None, description="item ids met so far, the newest last"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.user_id is None) == (self.history is None):
            raise ValueError("give user_id or history")
        if self.history is not None and not self.history:
            raise ValueError("history is empty")
        return self


class RecommendBody(Whom):
    """Whom to recommend what."""

    k: Count = Field(10, description="so many items")
    exclude: Ids = Field((), description="item ids that are left out")
    only: Annotated[tuple[Id, ...], Field(max_length=50 * MOST_ITEMS)] | None = Field(
        None, description="choose from these item ids alone"
    )
    keep_seen: bool = Field(False, description="items of the history may come again")
    min_score: float | None = Field(None, description="only items that score so much")


class ExplainBody(Whom):
    """Why items are recommended."""

    items: Annotated[tuple[Id, ...], Field(max_length=10, min_length=1)] | None = Field(
        None, description="the items to explain; by default the best"
    )
    k: Annotated[int, Field(ge=1, le=10)] = Field(3, description="so many of the best, where no items are given")


class Item(BaseModel):
    """One item of a list; ranks begin with 1."""

    item_id: str
    rank: int
    score: float
    title: str


class ListAnswer(BaseModel):
    """A list, best first."""

    user_id: str | None = None
    items: list[Item]
    unknown: list[str] = Field(default_factory=list, description="ids of the request that the data do not have")
    round: int = Field(description="of the model that answered")


class Health(BaseModel):
    """That the server answers, and by which model."""

    status: str
    run: str
    round: int
    num_items: int
    num_pictures: int = Field(description="items of which /picture has one")
    since: float = Field(description="when the model was loaded, in seconds since 1970")


class Fault(BaseModel):
    """What is wrong with a request, and the remedy."""

    code: str
    message: str
    remedy: str = ""


class FaultAnswer(BaseModel):
    """The body of every answer that is no success."""

    error: Fault
