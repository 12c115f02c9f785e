"""The settings of the data: which interactions and item features, and how they are split."""

from __future__ import annotations

import codecs
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from fedmm.config.base import Count, Finite, Fraction, Positive, Section
from fedmm.config.parts import named

ROLES = ("user", "item", "rating", "timestamp")  # of the columns of a file of interactions


def moment(text: str) -> float:
    """Seconds since 1970 of a number of them or of an ISO date, UTC where it names no zone. Raises ValueError.

    >>> moment("2020-01-01"), moment("1577836800")
    (1577836800.0, 1577836800.0)
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        date = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is neither seconds nor a date such as 2020-01-31") from None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


class DataConfig(Section):
    """Which interactions and item features, and how they are split."""

    name: str = Field(
        "movielens-small",
        description="a named dataset, such as movielens-small, ml-100k, ml-1m, amazon-toys (all: fedmm data list)",
    )
    path: Path | None = Field(None, description="your own interactions file, in place of a named dataset")
    visual_features: str | None = Field(None, description="file of visual features; none = without; unset = what ships")
    text_features: str | None = Field(None, description="file of text features; none = without; unset = what ships")
    attributes: Path | None = Field(
        None, description="file of item attributes (categories, brands): .json of lists, or a .csv or .tsv table"
    )
    images: Path | None = Field(
        None, description="pictures of items: a folder, files named by item id, or a table of id and path"
    )
    texts: Path | None = Field(None, description="texts of items: a table of id and columns of text")
    text_columns: tuple[str, ...] = Field(
        (), description="columns of data.texts to read, in order (empty: all that hold words)"
    )
    image_encoder: Annotated[str, *named("image_encoder")] = Field(
        "efficientnet-lite0",
        description="what makes features of data.images: efficientnet-lite0, timm:NAME, open_clip:MODEL/WEIGHTS, or "
        "either with a folder",
    )
    text_encoder: Annotated[str, *named("text_encoder")] = Field(
        "minilm",
        description="what makes features of data.texts: minilm, sentence-transformers:NAME, open_clip:MODEL/WEIGHTS, "
        "or either with a folder",
    )
    feature_dims: Count | None = Field(
        None,
        description="principal components kept of features made from images and texts; 0 = all that the encoder gives "
        "(unset: 64 in training, 0 in a file of features)",
    )
    feature_order: Literal["auto", "sorted", "appearance", "by_kind"] = Field(
        "auto",
        description="order of the items in feature files without ids: sorted by id; appearance, as they first come in "
        "the data; by_kind, sorted where ids are whole numbers, else appearance; auto: where only one fits",
    )
    titles: Path | None = Field(None, description="file of item titles: a .csv or .tsv table, or a .json object")
    user_column: str | None = Field(None, description="name of the user column (unset: recognised)")
    item_column: str | None = Field(None, description="name of the item column (unset: recognised)")
    rating_column: str | None = Field(None, description="name of the rating column (unset: recognised)")
    timestamp_column: str | None = Field(None, description="name of the timestamp column (unset: recognised)")
    repeats: Literal["first", "last", "keep"] = Field(
        "first",
        description="of a user's events with one item the first, the last, or all (targets may then be repeated)",
    )
    columns: str | None = Field(
        None,
        description="what each column is, in order, such as user,item,-,timestamp (- is not read; unset: recognised)",
    )
    where: str | None = Field(
        None, description="which rows to read, such as event == 'purchase' and price > 10 (unset: all)"
    )
    sql: str | None = Field(
        None, description="query whose answer is read: of a database, or of a file, called data (unset: all rows)"
    )
    encoding: str | None = Field(None, description="how text is encoded, such as latin-1 (unset: UTF-8)")
    decimal: Literal[".", ","] = Field(".", description="what stands before the decimals of a number")
    header: bool | None = Field(None, description="whether the first line holds names of columns (unset: recognised)")
    min_rating: Finite | None = Field(None, description="drop ratings below this")
    exclude_users: tuple[str, ...] = Field((), description="ids of users whose rows are left out from the start")
    min_user_interactions: Positive = Field(
        3, description="drop users with fewer interactions (repeated until none has)"
    )
    min_item_interactions: Positive = Field(
        1, description="drop items with fewer interactions (repeated until none has)"
    )
    feature_corruption: Literal["none", "noise", "shuffle"] = Field(
        "none", description="features replaced by noise, or by those of other items: a fail-safe's test"
    )
    tie_order: Literal["hash", "file"] = Field("hash", description="order of equal timestamps within a user")
    tie_seed: Count = Field(0, description="which of the fixed hash orders")
    split: Literal["leave_one_out", "temporal", "user_ratio", "files"] = Field(
        "leave_one_out",
        description="how held-out items are chosen; files: whoever made the files did (data.validation, data.test)",
    )
    validation: Path | None = Field(
        None,
        description="file of the validation events of your own split (unset: x.valid.csv beside x.train.csv)",
    )
    test: Path | None = Field(
        None, description="file of the test events of your own split (unset: x.test.csv beside x.train.csv)"
    )
    temporal_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = Field(
        0.1, description="share of all events (user_ratio: of each user's) after each of the split's two cuts"
    )
    validation_from: str | None = Field(
        None, description="first moment of validation in a temporal split: seconds or a date (unset: by the fraction)"
    )
    test_from: str | None = Field(None, description="first moment of test in a temporal split (unset: by the fraction)")
    cold_item_fraction: Fraction = Field(
        0.0, description="share of the items held out of training entirely and asked about by themselves"
    )
    cold_item_seed: Count = Field(0, description="which of the fixed draws of cold items")

    @property
    def source(self) -> str:
        """What screens call the data: the dataset's name, or the file's path without detours."""
        return self.name if self.path is None else os.path.normpath(self.path)

    @model_validator(mode="after")
    def _columns_are_roles(self) -> Self:
        if self.columns is None:
            return self
        roles = [role.strip() for role in self.columns.split(",")]
        wrong = [role for role in roles if role not in (*ROLES, "-")]
        if wrong:
            raise ValueError(f"columns {self.columns!r}: {wrong[0]!r} is none of {', '.join(ROLES)} or -")
        twice = [role for role in ROLES if roles.count(role) > 1]
        if twice or not {"user", "item"} <= set(roles):
            fault = f"{twice[0]} twice" if twice else "no user" if "user" not in roles else "no item"
            raise ValueError(f"columns {self.columns!r} has {fault}: give for example user,item,-,timestamp")
        given = (self.user_column, self.item_column, self.rating_column, self.timestamp_column)
        named = next((role for role, column in zip(ROLES, given, strict=True) if column is not None), None)
        if named:
            raise ValueError(f"columns {self.columns!r} and {named}_column both say which column is which: give one")
        return self

    @model_validator(mode="after")
    def _encoding_is_known(self) -> Self:
        if self.encoding is not None:
            try:
                text = codecs.lookup(self.encoding)._is_text_encoding
            except LookupError:
                text = False
            if not text:
                raise ValueError(f"encoding {self.encoding!r} is not known: give for example latin-1, cp1252, utf-16")
        return self

    @model_validator(mode="before")
    @classmethod
    def _files_are_the_split(cls, given: Any) -> Any:
        """Files of validation and test events say how the data are split, where nothing else is said."""
        named = isinstance(given, Mapping) and (given.get("validation") or given.get("test"))
        return {**given, "split": "files"} if named and "split" not in given else given

    @model_validator(mode="after")
    def _split_has_files(self) -> Self:
        for name, own in (("validation", self.validation), ("test", self.test)):
            if own is not None and self.split != "files":
                raise ValueError(f'{name} {own} has no effect beside split "{self.split}": set split "files"')
        if self.sql is not None and self.path is None:
            raise ValueError("sql needs a database or a file to ask: set path")
        if self.split == "files" and self.path is None:
            raise ValueError('split "files" needs a file of training events: set path')
        if self.split == "files" and self.cold_item_fraction:
            raise ValueError(
                f'cold_item_fraction {self.cold_item_fraction:g} and split "files" exclude each other: '
                "items cannot be held out of a split that is made"
            )
        return self

    @model_validator(mode="after")
    def _cuts_are_moments(self) -> Self:
        given = (self.validation_from, self.test_from)
        if given == (None, None):
            return self
        if self.split != "temporal" or None in given:
            fault = 'need split "temporal"' if self.split != "temporal" else "go together"
            raise ValueError(f"validation_from {given[0]} and test_from {given[1]} {fault}")
        first, second = (moment(one) for one in given if one is not None)
        if not first < second:
            raise ValueError(f"validation_from {given[0]} does not lie before test_from {given[1]}")
        return self

    @model_validator(mode="after")
    def _features_are_given_once(self) -> Self:
        for raw, given, made, file in (
            ("images", self.images, "visual_features", self.visual_features),
            ("texts", self.texts, "text_features", self.text_features),
        ):
            if given is not None and file is not None and file.lower() != "none":
                raise ValueError(f"{raw} {given} and {made} {file} exclude each other: give one")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cold_item_seed and not self.cold_item_fraction:
            raise ValueError(
                f"cold_item_seed {self.cold_item_seed} has no effect without cold items: set cold_item_fraction"
            )
        return self
