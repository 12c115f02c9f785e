"""``import fedmm``: light, whole, and every name where it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import fedmm

HEAVY = {"torch", "numpy", "pydantic", "mlflow", "optuna", "matplotlib", "pandas", "scipy"}


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_importing_it_loads_nothing_heavy() -> None:
    assert not loaded_by("import fedmm; dir(fedmm)") & HEAVY


def test_settings_and_registering_load_no_torch() -> None:
    code = "import fedmm; fedmm.register_metric('own', len); fedmm.load_config(extra_metrics=['own'])"
    assert not loaded_by(code) & (HEAVY - {"numpy", "pydantic"})


@pytest.mark.parametrize("name", fedmm.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(fedmm, name)
    assert name in dir(fedmm)
    assert (value.__doc__ or "").strip()
    assert isinstance(value, ModuleType) or value.__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        fedmm.trian  # noqa: B018


def test_a_type_checker_sees_the_same_names() -> None:
    text = Path(fedmm.__file__).read_text(encoding="utf-8")
    block = text[text.index("if TYPE_CHECKING:") : text.index("_HOMES = {")]
    seen = {line.rpartition(" as ")[2].strip() for line in block.splitlines() if " as " in line}
    assert seen == set(fedmm.__all__) == {*fedmm._HOME_OF, "testing"}
