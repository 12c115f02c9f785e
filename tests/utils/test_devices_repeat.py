"""What a GPU is asked for so that runs repeat themselves; the processor is asked for nothing."""

import os
from unittest import mock

import pytest
import torch

from fedmm.utils.devices import repeat_itself


def test_gpus_alone_are_asked_for_the_same_bits_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # what somebody set stays
    with mock.patch.object(torch, "use_deterministic_algorithms") as asked:
        repeat_itself(torch.device("cpu"))
        asked.assert_not_called()
        repeat_itself(torch.device("cuda", 0))
        asked.assert_called_once_with(True, warn_only=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
