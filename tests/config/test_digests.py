"""Settings that came later change no digest of before: runs, studies and comparisons go on under the same one."""

from __future__ import annotations

from typing import Any

import pytest

from fedmm.config import LATER, OLD_DEFAULTS, ExperimentConfig, with_old_defaults
from fedmm.study import list_studies

DEFAULT = "23f2bf8bd71a"
STUDIES = {  # name -> digest of the base, digest of the study; as of the day before the first later setting
    "default": ("c31009a88142", "dde4a2e6c819"),
    "capacity": ("9db20a5cf250", "513100dd5d1e"),
    "claims": ("fa695e17084b", "8acb59f867f6"),
    "claims_large": ("03b391603cd9", "865770f78186"),
    "combined": ("9db20a5cf250", "eed0ad51a97a"),
    "defaults": ("23f2bf8bd71a", "d163e8f8f8b2"),
    "defaults_ml100k": ("cbd5fb29cba6", "6b5750202c94"),
    "gating": ("23f2bf8bd71a", "4b0be3ff0586"),
    "parts": ("595ae1d4ba6c", "6e04ed9bd0ae"),
    "quality": ("eb02a32f1465", "8c6b7722f748"),
    "replication": ("ad90f43b502e", "a9ae8b12571c"),
    "strategies": ("23f2bf8bd71a", "f94045bda87a"),
}


def test_digests_of_before_stay() -> None:
    assert ExperimentConfig().digest == DEFAULT
    found = {study.name: (study.base.digest, study.digest) for study in list_studies()}
    assert {name: found.get(name) for name in STUDIES} == STUDIES


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in LATER.items() for value in values])
def test_a_later_setting_with_a_value_of_before_is_not_in_the_digest(key: str, value: Any) -> None:
    """``test_config`` proves that another value changes the digest; the values of before leave it as it was."""
    assert key in ExperimentConfig().flat()
    assert ExperimentConfig().with_values({key: value}).digest == DEFAULT


@pytest.mark.parametrize(("key", "value"), OLD_DEFAULTS.items())
def test_what_runs_of_before_did_is_not_in_the_digest(key: str, value: Any) -> None:
    assert value in LATER[key]
    assert (
        with_old_defaults({"data": {}, "model": {}, "federation": {}, "runtime": {}})[key.split(".")[0]][
            key.split(".")[1]
        ]
        == value
    )
