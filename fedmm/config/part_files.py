"""Loads the files, modules and installed packages that register parts."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedmm.config.names import missing_file_hint
from fedmm.errors import ConfigError, FedmmError

VARIABLE = "FEDMM_PARTS"  # files and modules, separated as in PATH
GROUP = "fedmm.parts"  # entry points: modules that register parts when they are imported
_loaded: set[str] = set()
_loading: list[str] = []


class StopReading(BaseException):
    """A script has come to the call that would train: all its parts are registered by then."""


def load_parts(source: str) -> None:
    """Imports the file or module ``source``, which registers its parts; once in a process.

    A script ends for this purpose where it would train, sweep, compare or verify. Raises ConfigError where it cannot
    be imported.
    """
    path = Path(source)
    is_file = path.suffix == ".py" or os.sep in source
    key = str(path.resolve()) if is_file else source
    if key in _loaded or (is_file and key in _imported_files()):
        return
    if is_file and not path.is_file():
        raise ConfigError(
            f"There is no file of parts {source!r}.",
            missing_file_hint(path, "Give a Python file or a module with --parts."),
        )
    with _reading(source):
        _import_file(path.resolve()) if is_file else importlib.import_module(source)
    _loaded.add(key)


def load_outside_parts() -> None:
    """Loads what installed packages and ``FEDMM_PARTS`` register."""
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        if entry.value not in _loaded:
            _loaded.add(entry.value)
            with _reading(f"{entry.value} (of the installed package {entry.dist.name if entry.dist else '?'})"):
                entry.load()
    for source in given_parts():
        load_parts(source)


def given_parts() -> list[str]:
    """The files and modules in ``FEDMM_PARTS``."""
    return [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]


def give_parts(sources: Sequence[str]) -> None:
    """Loads ``sources`` now and has them loaded by every process that this one starts."""
    for source in sources:
        load_parts(source)
    kept = [str(Path(source).resolve()) if Path(source).is_file() else source for source in sources]
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*given_parts(), *kept]))


def stop_if_only_read() -> None:
    """Ends, where training would begin, the reading of a script whose parts alone are wanted."""
    if _loading:
        raise StopReading


@contextmanager
def _reading(source: str) -> Iterator[None]:
    _loading.append(source)
    try:
        yield
    except (StopReading, SystemExit):
        pass
    except FedmmError:
        raise
    except Exception as error:
        raise ConfigError(
            f"The parts in {source} cannot be loaded: {type(error).__name__}: {error}.", "Mend it, or leave it out."
        ) from error
    finally:
        _loading.pop()


def _import_file(path: Path) -> None:
    """Runs the file as a module: under its own name where it belongs to a package, else under one of its path."""
    top, names = path.parent, [path.stem]
    while (top / "__init__.py").is_file():
        names.insert(0, top.name)
        top = top.parent
    if len(names) > 1:
        if str(top) not in sys.path:
            sys.path.append(str(top))
        importlib.import_module(".".join(names).removesuffix(".__init__"))
        return
    name = f"fedmm_parts_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file.", "Give a Python file or a module with --parts.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except StopReading:
        raise
    except BaseException:
        del sys.modules[name]
        raise


def _imported_files() -> set[str]:
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return {str(Path(file).resolve()) for file in files if file}
