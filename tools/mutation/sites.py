"""Where a function can be changed a little, and how: read off its syntax tree.

A site is one change of one node: a comparison flipped, a constant off by one, a term dropped, arguments swapped, a sign
turned. What is said to people (raises, asserts, formatted text, docstrings), what types say and a strict zip, which
asserts, are left alone.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
COMPUTED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
SWAPPED_NAMES = {
    "min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any",
    "argmin": "argmax", "argmax": "argmin", "cos": "sin", "mean": "sum", "append": "extend", "floor": "ceil", "argsort": "sort",  # noqa: E501
}  # fmt: skip
SYMMETRIC = (
    "isinstance",
    "zip",
    "min",
    "max",
    "minimum",
    "maximum",
    "array_equal",
    "equal",
    "intersect1d",
    "logical_and",
)
SILENT = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Mutant:
    """One change: where it is, what it was and what it becomes. Equal keys are equal changes, whatever the line."""

    module: str
    function: str  # qualified by its class
    line: int
    kind: str
    before: str
    after: str
    number: int  # among changes of this module
    repeat: int  # among equal changes of this function
    lines: tuple[int, int]  # first and last of the statement (of its head, where it holds others)
    text: str = field(repr=False)  # the function's, without its layout
    statement: str = ""  # that it stands in

    @property
    def key(self) -> str:
        """What a file of equivalents names it by."""
        again = f" #{self.repeat + 1}" if self.repeat else ""
        return f"{self.module}:{self.function}: {self.before}  ->  {self.after}{again}"


@dataclass(frozen=True, eq=False)
class _Change:
    """``new`` in place of what ``parent`` has in ``field`` (at ``place``, where that is a list)."""

    kind: str
    parent: ast.AST
    field: str
    place: int | None
    old: ast.AST
    new: ast.AST
    statement: ast.stmt

    def apply(self) -> None:
        ast.copy_location(self.new, self.old)
        if self.place is None:
            setattr(self.parent, self.field, self.new)
        else:
            getattr(self.parent, self.field)[self.place] = self.new


def mutants(module: str, path: Path) -> list[Mutant]:
    """Every change of every function and method of a module, in the order of its text."""
    found: list[Mutant] = []
    seen: Counter[tuple[str, str, str]] = Counter()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {name: ast.dump(node) for name, node in _functions(tree)}
    for number, (function, change) in enumerate(_changes(tree)):
        before, after = _text(change.old), _text(change.new)
        repeat = seen[function, before, after]
        seen[function, before, after] += 1
        line = getattr(change.old, "lineno", 0)
        own = (_lines(change.statement), texts[function], _text(change.statement))
        found.append(Mutant(module, function, line, change.kind, before, after, number, repeat, *own))
    return found


def mutated(path: Path, mutant: Mutant) -> ast.Module:
    """The module's tree with the change made."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for number, (_, change) in enumerate(_changes(tree)):
        if number == mutant.number:
            change.apply()
            return ast.fix_missing_locations(tree)
    raise LookupError(f"{mutant.key} is not in {path}")


def _text(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())


def _changes(tree: ast.Module) -> list[tuple[str, _Change]]:
    return [(name, change) for name, function in _functions(tree) for change in _of_body(function)]


def _functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Functions and methods, by name."""
    for node in tree.body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for member in members:
            if isinstance(member, Function):
                yield f"{prefix}{member.name}", member


def _of_body(function: Function) -> Iterator[_Change]:
    for place, statement in enumerate(function.body):
        yield from _walk(statement, function, "body", place, statement)


def _lines(statement: ast.stmt) -> tuple[int, int]:
    """Where a statement stands; only its head, where it holds others."""
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if body else statement.end_lineno
    return statement.lineno, max(statement.lineno, last or 0)


def _walk(node: ast.AST, parent: ast.AST, field: str, place: int | None, statement: ast.stmt) -> Iterator[_Change]:
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return
    if isinstance(node, SILENT) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return
    statement = node if isinstance(node, ast.stmt) else statement
    for kind, new in _alternatives(node):
        yield _Change(kind, parent, field, place, node, new, statement)
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "args") and not isinstance(node, ast.Call):
            continue  # what types say, and defaults, which are not in a function's code
        if isinstance(value, ast.AST):
            yield from _walk(value, node, name, None, statement)
        elif isinstance(value, list):
            for at, item in enumerate(value):
                if isinstance(item, ast.AST):
                    yield from _walk(item, node, name, at, statement)


def _alternatives(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARED:
        yield "comparison", _with(node, ops=[COMPARED[type(node.ops[0])]()])
    elif isinstance(node, ast.BinOp) and type(node.op) in COMPUTED:
        yield "operator", _with(node, op=COMPUTED[type(node.op)]())
        if isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
            yield "dropped term", copy.deepcopy(node.left)
    elif isinstance(node, ast.AugAssign) and type(node.op) in COMPUTED and not isinstance(node.op, ast.BitOr):
        yield "operator", _with(node, op=COMPUTED[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield "and, or", _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        yield "sign", copy.deepcopy(node.operand)
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, (ast.If, ast.IfExp)):
        yield "condition", _with(node, test=ast.UnaryOp(ast.Not(), copy.deepcopy(node.test)))
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 2:
        yield "swapped results", _with(node, value=ast.Tuple(node.value.elts[::-1], ast.Load()))


def _constants(node: ast.Constant) -> Iterator[tuple[str, ast.AST]]:
    value = node.value
    if isinstance(value, bool):
        yield "constant", ast.Constant(not value)
    elif isinstance(value, int):
        yield "constant", ast.Constant(value + 1)
    elif isinstance(value, float):
        yield "constant", ast.Constant(value * 1.5 + 0.25)


def _calls(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    starred = any(isinstance(own, ast.Starred) for own in node.args[:2])
    apart = len(node.args) >= 2 and ast.dump(node.args[0]) != ast.dump(node.args[1])
    if apart and not starred and _named(node) not in SYMMETRIC:
        yield "swapped arguments", _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
    name = _named(node)
    if name in SWAPPED_NAMES:
        other = SWAPPED_NAMES[name]
        func = node.func
        if isinstance(func, ast.Name):
            yield "name", _with(node, func=ast.Name(other, ast.Load()))
        elif isinstance(func, ast.Attribute):
            yield "name", _with(node, func=ast.Attribute(copy.deepcopy(func.value), other, ast.Load()))


def _named(node: ast.Call) -> str:
    return getattr(node.func, "id", getattr(node.func, "attr", ""))


def _with(node: ast.AST, **changes: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in changes.items():
        setattr(new, name, copy.deepcopy(value))
    return new
