"""Whether an exception came out of a part of a user's own, and which: it is then no bug of fedmm's."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

from fedmm.config.parts import KINDS
from fedmm.errors import PartError
from fedmm.utils.registry import OwnPart

EXPECTED = {
    "aggregation": "rule(total, config), or rule(blocks, train, num_items, config) with single_updates, returns one "
    "tensor for each parameter of total.deltas",
    "server_optimizer": "step(value, gradient, key, state, config) returns the new value and the state that changed",
    "local_optimizer": "optimizer(params, config) returns update(value, gradient, key, num_active, step)",
    "learning_rate_schedule": "schedule(progress) returns the factor of the learning rate",
    "loss": "loss(logits [R, N], targets [R]) returns each row's loss [R]",
    "cohort_sampler": "sampler(clients, size, seed, round_number) returns size of the clients, each once",
    "update_transform": "transform(turn, bound) returns a fedmm.federation.transforms.Stage",
    "fusion": "a fedmm.models.fusion.Fusion has init(config) and mix(params, weights), which returns a Mixture",
    "expert": "a class made from fedmm.models.experts.Expert has init, and term or constants",
    "block": "a fedmm.models.blocks.Block has init(config, normal) and apply(params, name, x, config, dropout), which "
    "returns states [C, B, L, D] like x",
    "position_encoding": "a fedmm.models.positions.PositionEncoding has init(config, normal), embed(params, x) and "
    "turn(heads), which return tensors shaped like what they get",
    "metric": "gain(places [n]) returns float64 [n] in 0 to 1",
    "image_encoder": "encode(pictures), a list of n RGB pictures of PIL, returns finite numbers [n, F]",
    "text_encoder": "encode(texts), a list of n texts, returns finite numbers [n, F]",
}
HOME = Path(__file__).parents[1]
REGISTERED_BY = {  # where the function is not called register_<kind>
    "learning_rate_schedule": "schedule",
    "image_encoder": "encoder",
    "text_encoder": "encoder",
}


def part_error(error: BaseException) -> PartError | None:
    """What to say of ``error`` where it came out of a registered part, or out of calling one: the part's name, the file
    and line, and what fedmm expects of its kind. None where no part is to blame, as far as the error's trace shows."""
    for kind, name, own in _registered():
        where = _passed_through(error, own) or _not_called(error, own)
        if where is not None:
            text = f"{type(error).__name__}: {str(error).rstrip('.')}"
            return PartError(f"Your {KINDS[kind].word} {name!r} failed in {where}: {text}.", expected(kind))
    return None


def suspects() -> str:
    """The registered parts in words, "aggregation 'mine' (mine.py)"; empty where there is none."""
    named = (f"{KINDS[kind].word} {name!r} ({_place(own)})" for kind, name, own in _registered())
    return ", ".join(named)


def expected(kind: str) -> str:
    """What a part of ``kind`` gets and returns, and where it stands in whole."""
    told = EXPECTED[kind]
    return (
        f"Expected: {told}. fedmm.register_{REGISTERED_BY.get(kind, kind)} says it in whole; fedmm.testing checks it."
    )


def _place(own: OwnPart) -> str:
    return own.origin.file or own.origin.module


def _registered() -> Iterator[tuple[str, str, OwnPart]]:
    for key, kind in KINDS.items():
        for name, own in kind.own().items():
            yield key, name, own


def _passed_through(error: BaseException, own: OwnPart) -> str | None:
    """The innermost line of the part, or of what it calls in its file, that the error passed through; a script's own
    line, from which fedmm was called, is none of them."""
    codes, inside, found = _codes(own.part), False, None
    for frame, line in traceback.walk_tb(error.__traceback__):
        inside = inside or frame.f_code in codes
        if inside and (frame.f_code in codes or _same_file(frame.f_code.co_filename, own.origin.file)):
            found = f"{frame.f_code.co_filename}, line {line}"
    return found


def _not_called(error: BaseException, own: OwnPart) -> str | None:
    """The line where a part begins that could not even be called: other arguments than it takes."""
    if not isinstance(error, TypeError):
        return None
    for code in _codes(own.part):
        if str(error).startswith(f"{code.co_qualname}()"):
            return f"{code.co_filename}, line {code.co_firstlineno}"
    return None


def _codes(part: Any) -> set[CodeType]:
    """The code that belongs to a part, fedmm's own left out: of a function what it calls its own, of a class or an
    object its methods, of a Fusion or RowLoss the functions that it holds."""
    functions = [part]
    if isinstance(part, type) or not (callable(part) and hasattr(part, "__code__")):
        kind = part if isinstance(part, type) else type(part)
        functions += [value for base in kind.__mro__ if not _ours(base) for value in vars(base).values()]
        functions += [] if isinstance(part, type) else list(getattr(part, "__dict__", {}).values())
    waiting = [code for one in functions for code in _codes_of_function(one)]
    found = set[CodeType]()
    while waiting:
        code = waiting.pop()
        found.add(code)
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return {code for code in found if not Path(code.co_filename).is_relative_to(HOME)}


def _codes_of_function(one: Any) -> list[CodeType]:
    """The code of a function, method or property, and of what a decorator or functools.partial stands before."""
    inner = [getattr(one, name, None) for name in ("__func__", "__wrapped__", "fget", "func")]
    own = getattr(one, "__code__", None)
    return [code for each in inner if each is not None for code in _codes_of_function(each)] + (
        [own] if isinstance(own, CodeType) else []
    )


def _ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("fedmm", "builtins", "torch", "functools")


def _same_file(file: str, other: str | None) -> bool:
    return other is not None and str(Path(file).resolve()) == other


def returned(kind: str, name: str, what: str) -> PartError:
    """The error of a part that returned ``what`` it may not."""
    own = KINDS[kind].own()[name]
    return PartError(f"Your {KINDS[kind].word} {name!r} ({_place(own)}) returned {what}.", expected(kind))
