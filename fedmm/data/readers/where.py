"""Which rows to read, as a small expression over the file's columns: ``event == 'purchase' and price > 10``.

Names, texts, numbers, comparisons, ``in`` with a list, ``and``, ``or``, ``not`` and brackets are all there is; nothing
is called and nothing runs. Python's own parser reads it. A comparison with a number compares numbers, any other
compares texts as they stand in the file.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmm.config.names import nearest_name, suggestion
from fedmm.data.preparation import RawInteractions
from fedmm.data.readers.encoding import by_first_appearance
from fedmm.data.types import BoolArray
from fedmm.errors import ConfigError, DataError

Value = str | float | Sequence["Value"]
COMPARE: Mapping[type[ast.cmpop], Callable[..., BoolArray]] = {
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}
EXAMPLE = "Write for example --where \"event == 'purchase'\" or --where \"price > 10 and kind in ['a', 'b']\"."


def parse_where(text: str) -> ast.expr:
    """The expression ``text``. Raises ConfigError where it is none, or holds more than comparisons of columns.

    >>> sorted(names_of(parse_where("event == 'buy' and not (price < 2.5)")))
    ['event', 'price']
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ConfigError(f"data.where {text!r} is no expression.", EXAMPLE) from None
    _check(tree, text)
    return tree


def names_of(tree: ast.expr) -> set[str]:
    """The columns that an expression reads."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def rows_where(tree: ast.expr, columns: Mapping[str, NDArray[np.str_]], source: str) -> BoolArray:
    """[n]: where the expression holds, of columns as texts [n] by name.

    Raises DataError naming the columns that there are where it names another, and where none of a column's values is a
    number that one compares with.
    """
    for name in sorted(names_of(tree)):
        if name not in columns:
            hint = suggestion(nearest_name(name, columns), "Name one of them.")
            raise DataError(f"{source} has no column {name!r} for data.where; it has {', '.join(columns)}.", hint)
    return _holds(tree, columns, source)


def _check(node: ast.expr, text: str) -> None:
    if isinstance(node, ast.BoolOp):
        for value in node.values:
            _check(value, text)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check(node.operand, text)
    elif isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        known = all(isinstance(op, (ast.In, ast.NotIn, *COMPARE)) for op in node.ops)
        one = sum(isinstance(side, ast.Name) for side in sides) == 1 and len(node.ops) in (1, 2)
        listed = [isinstance(op, (ast.In, ast.NotIn)) for op in node.ops]
        if not known or not one or (any(listed) and (len(node.ops) > 1 or not isinstance(node.left, ast.Name))):
            raise ConfigError(f"data.where {text!r}: {ast.unparse(node)} compares no column with a value.", EXAMPLE)
        for side in sides:
            if not isinstance(side, ast.Name):
                _constant(side, text, many=listed[0])
    else:
        raise ConfigError(f"data.where {text!r}: {ast.unparse(node)} is no comparison of a column.", EXAMPLE)


def _constant(node: ast.expr, text: str, *, many: bool) -> Value:
    if many and isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return [_constant(one, text, many=False) for one in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _constant(node.operand, text, many=False)
        if isinstance(value, float):
            return -value
    if not many and isinstance(node, ast.Constant) and not isinstance(node.value, bool):
        if isinstance(node.value, str):
            return node.value
        if isinstance(node.value, (int, float)):
            return float(node.value)
    raise ConfigError(f"data.where {text!r}: {ast.unparse(node)} is no text, number or list of them.", EXAMPLE)


def _holds(node: ast.expr, columns: Mapping[str, NDArray[np.str_]], source: str) -> BoolArray:
    if isinstance(node, ast.BoolOp):
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        found: BoolArray = join.reduce([_holds(value, columns, source) for value in node.values])
        return found
    if isinstance(node, ast.UnaryOp):
        return ~_holds(node.operand, columns, source)
    assert isinstance(node, ast.Compare)
    sides = [node.left, *node.comparators]
    pairs = zip(sides, node.ops, sides[1:], strict=False)
    held: BoolArray = np.logical_and.reduce([_compare(left, op, right, columns, source) for left, op, right in pairs])
    return held


def _compare(
    left: ast.expr, op: ast.cmpop, right: ast.expr, columns: Mapping[str, NDArray[np.str_]], source: str
) -> BoolArray:
    if isinstance(op, (ast.In, ast.NotIn)):
        assert isinstance(left, ast.Name)
        listed = _constant(right, "", many=True)
        assert not isinstance(listed, (str, float))
        alike = [_pair(left.id, value, columns, source) for value in listed]
        held = np.zeros(len(columns[left.id]), np.bool_)
        for values, value in alike:
            held |= values == value
        return ~held if isinstance(op, ast.NotIn) else held
    compare = COMPARE[type(op)]
    if isinstance(left, ast.Name):
        return compare(*_pair(left.id, _constant(right, "", many=False), columns, source))
    assert isinstance(right, ast.Name)
    values, value = _pair(right.id, _constant(left, "", many=False), columns, source)
    return compare(value, values)


def _pair(
    name: str, value: Value, columns: Mapping[str, NDArray[np.str_]], source: str
) -> tuple[NDArray[np.generic], str | float]:
    """A column, as numbers where the value is one, and the value; a text that is no number is equal to none."""
    texts = columns[name]
    if isinstance(value, str):
        return texts, value
    assert isinstance(value, float)
    import pandas as pd

    numbers = np.asarray(pd.to_numeric(pd.Series(texts), errors="coerce"), dtype=np.float64)
    if len(numbers) and not np.isfinite(numbers).any():
        raise DataError(
            f"{source}: data.where compares column {name!r} with {value:g}, and it holds no number "
            f"({str(texts[0])!r}).",
            f"Compare it with a text: {name} == '{value:g}'.",
        )
    return numbers, value


def only_where(
    raw: RawInteractions, tree: ast.expr, columns: Mapping[str, NDArray[np.str_] | None], text: str
) -> RawInteractions:
    """``raw`` with only the rows where the expression holds, counted in a note; ``columns`` are all by name, as texts
    where the expression reads them. Raises DataError where no row is left."""
    known = {name: np.zeros(0, np.str_) if column is None else column for name, column in columns.items()}
    held = rows_where(tree, known, raw.source)
    if not held.any():
        raise DataError(f"{raw.source}: data.where {text!r} holds for none of {len(raw)} rows.", "Change it.")
    notes = (*raw.notes, f"read {int(held.sum())} of {len(raw)} rows: data.where {text}")
    kept = raw.take(held)
    there = (kept.users >= 0) & (kept.items >= 0)
    if not there.all():  # missing ids are counted later
        return replace(kept, notes=notes)
    user_ids, users = by_first_appearance(kept.user_ids, kept.users)
    item_ids, items = by_first_appearance(kept.item_ids, kept.items)
    return replace(kept, user_ids=user_ids, users=users, item_ids=item_ids, items=items, notes=notes)


def identifier(name: str) -> str:
    """A column's name as an expression can have it: without RecBole's ``:type``, other signs as ``_``.

    >>> identifier("Event type:token")
    'Event_type'
    """
    found = re.sub(r"\W+", "_", name.split(":")[0].strip())
    return f"_{found}" if found[:1].isdigit() or keyword.iskeyword(found) else found


def as_texts(column: Any) -> NDArray[np.str_]:
    """[n] the values of a pyarrow chunked array as texts, stripped; "" where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    texts = pc.fill_null(pc.utf8_trim_whitespace(column.cast(pa.string())), "")
    return np.array(texts.to_pylist(), dtype=np.str_)
