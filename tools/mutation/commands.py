"""``python -m tools.mutation``: samples or all mutants of the scope, tried one by one, resumable, with a report.

python -m tools.mutation --sample 150 --seed 1 --out mutants.jsonl     # a random sample
python -m tools.mutation --only fedmm.evaluation --out mutants.jsonl   # all of one part
python -m tools.mutation --report --out mutants.jsonl                  # what is known so far

It needs coverage (pip install coverage), which tells whose checks and tests run which line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .forks import BROKEN, CAUGHT, SURVIVED, path_of, tried
from .judges import Verify
from .reach import Kept
from .sites import Mutant, mutants
from .suite import ROOT, Tests, test_files, with_tests

EQUIVALENTS = Path(__file__).with_name("equivalents.toml")
# Evaluation, federation, models, splits and negatives, statistics, ledger and selection.
SCOPE = ("fedmm/evaluation", "fedmm/federation", "fedmm/models", "fedmm/experiment.py", "fedmm/data/splits.py",
         "fedmm/data/negatives.py", "fedmm/data/transitions.py", "fedmm/data/cold_items.py", "fedmm/data/ragged.py",
         "fedmm/study/marginals.py", "fedmm/study/selection.py", "fedmm/comparison/compare.py",
         "fedmm/comparison/grouping.py", "fedmm/comparison/claims.py")  # fmt: skip


def modules(only: str = "") -> list[str]:
    """The modules in scope, in order."""
    paths: list[Path] = []
    for part in SCOPE:
        path = ROOT / part
        paths += [path] if path.is_file() else sorted(path.rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name for name in names if not name.endswith("__init__") and name.startswith(only)]


def equivalents(all_: Iterable[Mutant]) -> dict[str, str]:
    """Key -> reason, of mutants that are named, and of all mutants of statements that are."""
    entries = tomllib.loads(EQUIVALENTS.read_text(encoding="utf-8")).get("equivalent", [])
    reasons = {entry.get("mutant") or entry["statement"]: entry["reason"] for entry in entries}
    found = {}
    for one in all_:
        place = f"{one.module}:{one.function}: {one.statement}"
        if one.key in reasons or place in reasons:
            found[one.key] = reasons.get(one.key) or reasons[place]
    return found


def sampled(all_: Iterable[Mutant], number: int, seed: int) -> list[Mutant]:
    """So many, drawn by a hash of their keys: what is drawn stays drawn while code is added elsewhere."""
    return sorted(all_, key=lambda one: hashlib.sha256(f"{seed} {one.key}".encode()).digest())[:number]


def digest(mutant: Mutant) -> str:
    """Changes with the function's text: what was found of another text counts for nothing."""
    return hashlib.sha256(f"{mutant.key}\n{mutant.text}".encode()).hexdigest()[:16]


def known(out: Path) -> dict[str, dict[str, Any]]:
    """Digest -> what was found; the last word counts."""
    if not out.exists():
        return {}
    lines = (json.loads(line) for line in out.read_text(encoding="utf-8").splitlines() if line)
    return {line["digest"]: line for line in lines}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs or reports; 1 where a mutant survived that is not named equivalent."""
    options = _parser().parse_args(arguments)
    chosen = [m for name in modules(options.only) for m in mutants(name, path_of(name))]
    total = len(chosen)
    if options.sample:
        chosen = sampled(chosen, options.sample, options.seed)
    print(f"{len(chosen)} of {total} mutants of {len(modules(options.only))} modules", flush=True)
    if not options.report:
        _run(chosen, options)
    found = known(options.out)
    entries = [found[digest(m)] for m in chosen if digest(m) in found]
    return report(entries, equivalents(chosen))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description="Who notices small changes?")
    parser.add_argument("--sample", type=int, default=0, help="so many mutants, drawn at random; 0 = all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", default="", help="modules whose names begin so")
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"), help="what was found, one line a mutant")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long; go on with the same command")
    least = "of {} on one mutant, those likeliest to catch it; what is left out makes the share smaller, never larger"
    parser.add_argument("--check-seconds", type=float, default=15.0, help=least.format("checks"))
    parser.add_argument("--test-seconds", type=float, default=45.0, help=least.format("tests"))
    parser.add_argument("--no-tests", action="store_true", help="verify alone")
    parser.add_argument("--again", action="store_true", help="try survivors once more")
    parser.add_argument("--report", action="store_true", help="run nothing")
    return parser


def _run(chosen: Sequence[Mutant], options: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    named, until = equivalents(chosen), time.monotonic() + 60 * options.minutes
    work = [m for m in chosen if m.key not in named]
    found = known(options.out)
    left = [m for m in work if digest(m) not in found or (options.again and not found[digest(m)]["verify"])]
    if left:
        _verify(left, options.out, until, options.check_seconds)
    found = known(options.out)
    passed = [found[digest(m)] | {"mutant": m} for m in work if digest(m) in found and not found[digest(m)]["verify"]]
    left = [
        one["mutant"] for one in passed if one["word"] == SURVIVED and (one["suite"] is None or _again(one, options))
    ]
    if left and not options.no_tests:
        with_tests(test_files(), lambda items: _tests(left, items, options.out, until, options.test_seconds))


def _again(entry: Mapping[str, Any], options: argparse.Namespace) -> bool:
    return bool(options.again and not entry["suite"])


def _place(entry: Mapping[str, Any]) -> tuple[str, str]:
    module, function, _ = entry["key"].split(":", 2)
    return module, function


def _write(out: Path, line: Mapping[str, Any]) -> None:
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _tell(text: str, file: int = os.dup(2)) -> None:
    """Past pytest's capture."""
    os.write(file, f"{time.strftime('%H:%M:%S')} {text}\n".encode())


def _verify(left: Sequence[Mutant], out: Path, until: float, seconds: float) -> None:
    """By the checks of verify."""
    verify = Verify(modules(), Kept(out.with_suffix(".reach.jsonl")), budget=seconds)
    verify.survey(_tell)
    for entry in known(out).values():
        if entry["verify"]:
            verify.proved.add(*_place(entry), entry["who"])
    for number, mutant in enumerate(left, 1):
        if time.monotonic() > until:
            return _tell(f"{len(left) - number + 1} are left: go on with the same command")
        began, checks = time.monotonic(), len(verify.reach.of(mutant))
        word, who = tried(mutant, verify.judge(mutant), verify.limit(mutant))
        caught = word not in (SURVIVED, BROKEN)
        if caught and who in verify.reach.seconds:
            verify.proved.add(mutant.module, mutant.function, who)
        line = {
            "digest": digest(mutant), "key": mutant.key, "line": mutant.line, "kind": mutant.kind, "word": word,
            "checks": checks, "verify": caught, "suite": True if caught else None, "who": who,
            "seconds": round(time.monotonic() - began, 2),
        }  # fmt: skip
        _write(out, line)
        if word == SURVIVED:
            _tell(f"{number}/{len(left)} passed verify: {mutant.key} (line {mutant.line})")
    return None


def _tests(left: Sequence[Mutant], items: Sequence[Any], out: Path, until: float, budget: float) -> None:
    """By the tests, what verify lets pass."""
    tests = Tests(modules(), {item.nodeid: item for item in items}, Kept(out.with_suffix(".reach.jsonl")))
    tests.survey(_tell)
    found = known(out)
    for entry in found.values():
        if entry.get("test") in tests.items:
            tests.proved.add(*_place(entry), entry["test"])
    for number, mutant in enumerate(left, 1):
        if time.monotonic() > until:
            return _tell(f"{len(left) - number + 1} are left: go on with the same command")
        began, chosen = time.monotonic(), tests.of(mutant, budget)
        limit = 120.0 + 10.0 * sum(tests.reach.seconds[item.nodeid] for item in chosen)
        word, who = tried(mutant, tests.judge(chosen), limit) if chosen else (SURVIVED, "")
        if word == CAUGHT and who in tests.items:
            tests.proved.add(mutant.module, mutant.function, who)
        seconds = round(time.monotonic() - began, 2)
        suite = {"suite": word not in (SURVIVED, BROKEN), "test": who, "tests": len(chosen), "test_seconds": seconds}
        _write(out, found[digest(mutant)] | suite)
        if word == SURVIVED:
            _tell(f"{number}/{len(left)} SURVIVED {len(chosen)} tests: {mutant.key} (line {mutant.line})")
    return None


def report(entries: Iterable[Mapping[str, Any]], named: Mapping[str, str]) -> int:
    """Both shares, with their 95% intervals by Wilson (1927), by module, and the survivors. What no test was tried on
    counts as survived."""
    tried_ = [entry for entry in entries if entry["word"] != BROKEN]
    counting = [entry for entry in tried_ if entry["key"] not in named]
    left = [entry for entry in counting if not entry["suite"]]
    print(f"{len(tried_)} tried, {len(tried_) - len(counting)} of them named equivalent")
    for name, column in (("the suite", "suite"), ("verify alone", "verify")):
        print(f"caught by {name}: {_share(counting, column)}")
    for part in sorted({entry["key"].split(":")[0] for entry in counting}):
        own = [entry for entry in counting if entry["key"].split(":")[0] == part]
        print(f"  {part}: suite {_share(own, 'suite')}; verify {_share(own, 'verify')}")
    for entry in counting:
        if not entry["verify"] and entry["suite"]:
            print(f"  passed verify: {entry['key']} (line {entry['line']}, {entry['checks']} checks reach it)")
    for entry in left:
        print(f"  survived: {entry['key']} (line {entry['line']}, {entry['checks']} checks reach it)")
    return 1 if left else 0


def _share(entries: Sequence[Mapping[str, Any]], column: str) -> str:
    caught = sum(bool(entry[column]) for entry in entries)
    low, high = wilson(caught, len(entries))
    return f"{caught} of {len(entries)}, {caught / max(1, len(entries)):.1%} (95% {low:.1%} to {high:.1%})"


def wilson(hits: int, number: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share."""
    if not number:
        return 0.0, 1.0
    share, room = hits / number, z * z / number
    middle = (share + room / 2) / (1 + room)
    half = z * ((share * (1 - share) + room / 4) / number) ** 0.5 / (1 + room)
    return middle - half, middle + half
