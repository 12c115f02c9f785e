"""``python -m tools.mutation``: samples or all mutants of the scope, tried one by one, resumable, with a report.

python -m tools.mutation --sample 150 --seed 1 --out mutants.jsonl     # a random sample
python -m tools.mutation --only fedmm.evaluation --out mutants.jsonl   # all of one part
python -m tools.mutation --report --out mutants.jsonl                  # what is known so far
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .forks import BROKEN, SURVIVED, path_of, tried
from .judges import ROOT, Verify, run_tests, test_sources, tests_of
from .sites import Mutant, mutants

EQUIVALENTS = Path(__file__).with_name("equivalents.toml")
# Evaluation, federation, models, splits and negatives, statistics, ledger and selection.
SCOPE = ("fedmm/evaluation", "fedmm/federation", "fedmm/models", "fedmm/experiment.py", "fedmm/data/splits.py",
         "fedmm/data/negatives.py", "fedmm/data/transitions.py", "fedmm/data/cold_items.py", "fedmm/data/ragged.py",
         "fedmm/study/marginals.py", "fedmm/study/selection.py", "fedmm/comparison/compare.py",
         "fedmm/comparison/grouping.py", "fedmm/comparison/claims.py")  # fmt: skip
TEST_SECONDS = 120.0


def modules(only: str = "") -> list[str]:
    """The modules in scope, in order."""
    paths: list[Path] = []
    for part in SCOPE:
        path = ROOT / part
        paths += [path] if path.is_file() else sorted(path.rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name for name in names if not name.endswith("__init__") and name.startswith(only)]


def equivalents() -> dict[str, str]:
    """Key -> reason."""
    entries = tomllib.loads(EQUIVALENTS.read_text(encoding="utf-8")).get("equivalent", [])
    return {entry["mutant"]: entry["reason"] for entry in entries}


def digest(mutant: Mutant) -> str:
    """Changes with the module's text: what was found of another text counts for nothing."""
    text = path_of(mutant.module).read_bytes() + mutant.key.encode()
    return hashlib.sha256(text).hexdigest()[:16]


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
        chosen = random.Random(options.seed).sample(chosen, min(options.sample, total))
    print(f"{len(chosen)} of {total} mutants of {len(modules(options.only))} modules", flush=True)
    if not options.report:
        _run(chosen, options)
    found = known(options.out)
    entries = [found[digest(m)] for m in chosen if digest(m) in found]
    return report(entries, equivalents())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description="Who notices small changes?")
    parser.add_argument("--sample", type=int, default=0, help="so many mutants, drawn at random; 0 = all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", default="", help="modules whose names begin so")
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"), help="what was found, one line a mutant")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long; go on with the same command")
    parser.add_argument("--no-tests", action="store_true", help="verify alone")
    parser.add_argument("--again", action="store_true", help="try survivors once more")
    parser.add_argument("--report", action="store_true", help="run nothing")
    return parser


def _run(chosen: Sequence[Mutant], options: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    began, found, named = time.monotonic(), known(options.out), equivalents()
    left = [m for m in chosen if digest(m) not in found or (options.again and not found[digest(m)]["suite"])]
    left = [m for m in left if m.key not in named]
    if not left:
        return
    verify = Verify(modules())
    verify.survey(lambda text: print(text, flush=True))
    sources = {} if options.no_tests else test_sources()
    with options.out.open("a", encoding="utf-8") as file:
        for number, mutant in enumerate(left, 1):
            if time.monotonic() - began > 60 * options.minutes:
                print(f"{len(left) - number + 1} are left: go on with the same command", flush=True)
                return
            line = _tried(mutant, verify, sources)
            file.write(json.dumps(line) + "\n")
            file.flush()
            if not line["suite"]:
                print(f"{number}/{len(left)} SURVIVED {mutant.key} (line {mutant.line})", flush=True)


def _tried(mutant: Mutant, verify: Verify, sources: Mapping[Path, str]) -> dict[str, Any]:
    """By verify, and by the tests where verify lets it pass."""
    began = time.monotonic()
    word, who = tried(mutant, verify.judge(mutant), verify.limit(mutant))
    by_verify = word not in (SURVIVED, BROKEN)
    if by_verify:
        verify.caught.setdefault((mutant.module, mutant.function), []).append(who)
    suite, by_test = by_verify, ""
    if word == SURVIVED and sources:
        files = tests_of(mutant, sources)
        answer, by_test = tried(mutant, run_tests(files), TEST_SECONDS) if files else (SURVIVED, "")
        suite = answer not in (SURVIVED, BROKEN)
    return {
        "digest": digest(mutant), "key": mutant.key, "line": mutant.line, "kind": mutant.kind, "word": word,
        "checks": len(verify.of(mutant)), "verify": by_verify, "suite": suite, "who": who or by_test,
        "seconds": round(time.monotonic() - began, 2),
    }  # fmt: skip


def report(entries: Iterable[Mapping[str, Any]], named: Mapping[str, str]) -> int:
    """Both shares, with their 95% intervals by Wilson (1927), and the survivors."""
    tried_ = [entry for entry in entries if entry["word"] != BROKEN]
    counting = [entry for entry in tried_ if entry["key"] not in named]
    left = [entry for entry in counting if not entry["suite"]]
    print(f"{len(tried_)} tried, {len(tried_) - len(counting)} of them named equivalent")
    for name, column in (("the suite", "suite"), ("verify alone", "verify")):
        caught = sum(entry[column] for entry in counting)
        low, high = wilson(caught, len(counting))
        share = caught / max(1, len(counting))
        print(f"caught by {name}: {caught} of {len(counting)}, {share:.1%} (95% {low:.1%} to {high:.1%})")
    for part, number in sorted(
        Counter(entry["key"].split(":")[0] for entry in counting if not entry["verify"]).items()
    ):
        print(f"  passed verify in {part}: {number}")
    for entry in left:
        print(f"  survived: {entry['key']} (line {entry['line']}, {entry['checks']} checks reach it)")
    return 1 if left else 0


def wilson(hits: int, number: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share."""
    if not number:
        return 0.0, 1.0
    share, room = hits / number, z * z / number
    middle = (share + room / 2) / (1 + room)
    half = z * ((share * (1 - share) + room / 4) / number) ** 0.5 / (1 + room)
    return middle - half, middle + half
