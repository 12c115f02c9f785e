"""All benchmarks one after the other, each in a process of its own, each with its JSON file in one folder; then the
summary.

    python tests/benchmarks/everything.py [--only engines sampled] [--folder docs/benchmarks]
        [--page docs/explanation/speed.md] [--readme README.md]

Twenty minutes to half an hour on two cores; nothing else should run. ``peers`` builds four environments first and is
left out unless it is named (``nox -s peers``).
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = {
    "machine": ("machine.py",),
    "whole_run": ("whole_run.py",),
    "engines": ("engines.py",),
    "sampled": ("sampled.py",),
    "evaluation": ("evaluation.py", "--users", "943", "--items", "1682"),
    "evaluation_large": ("evaluation.py", "--users", "20000", "--items", "12000", "--experts", "pooled"),
    "scale": ("scale.py",),
    "data": ("data.py",),
    "peers": ("peers/compare.py",),
}
LEFT_OUT = {"peers"}


def main() -> None:
    """Runs what is asked for; the first that fails ends all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=SCRIPTS, default=[name for name in SCRIPTS if name not in LEFT_OUT]
    )
    parser.add_argument("--folder", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--page", type=Path, help="write the summary's tables there")
    parser.add_argument("--readme", type=Path, help="write three figures there")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        script, *options = SCRIPTS[name]
        print(f"== {name}", flush=True)
        target = arguments.folder / f"{name}.json"
        subprocess.run([sys.executable, str(HERE / script), *options, "--json", str(target)], check=True)
    print("== summary", flush=True)
    pages = {"--page": arguments.page, "--readme": arguments.readme}
    options = [word for flag, path in pages.items() if path for word in (flag, str(path))]
    subprocess.run([sys.executable, str(HERE / "summary.py"), "--folder", str(arguments.folder), *options], check=True)


if __name__ == "__main__":
    main()
