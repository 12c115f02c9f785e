"""One virtual environment a peer, made once and kept in a cache folder."""

import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

PACKAGES = {
    "plain": [],
    "pfl": ["pfl==0.6.*"],
    "flower": ["flwr[simulation]==1.41.*"],
    "rectools": ["rectools[torch]==0.19.*"],
}
OWN_NUMPY = {"rectools"}  # whose releases for this Python refuse the numpy that fedmm runs on
STAMP = "installed.txt"


def requirements(name: str) -> list[str]:
    """What an environment holds: the peer, with the torch and, where it takes that, the numpy that fedmm runs on."""
    packages = ("torch",) if name in OWN_NUMPY else ("torch", "numpy")
    shared = [f"{package}=={version(package).partition('+')[0]}" for package in packages]
    return [*shared, *PACKAGES[name]]


def python_of(name: str, folder: Path) -> Path:
    """The interpreter of a peer's environment; builds the environment where it is missing or holds something else."""
    own = folder / name
    stamp, wanted = own / STAMP, "\n".join(requirements(name))
    python = own / "bin" / "python"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing {' '.join(requirements(name))} in {own}", file=sys.stderr)
    venv.create(own, with_pip=True, clear=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements(name)], check=True)
    stamp.write_text(wanted, encoding="utf-8")
    return python
