"""The errors a user can meet: each names the value at fault and the remedy.

Everything the command line prints as an error is one of these; anything else is a bug in fedmm
and keeps its traceback under ``--debug``.
"""

from __future__ import annotations


class FedmmError(Exception):
    """A failure with a machine-readable code, one sentence of what is wrong and one of what to do.

    ``exit_code`` is 2 where the call or the data must change (usage), 1 where the machine failed.
    """

    code = "error"
    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class ConfigError(FedmmError):
    """A setting that is unknown, out of range or contradicts another."""

    code = "config"
    exit_code = 2


class DataError(FedmmError):
    """A data or feature file that cannot be understood or leaves nothing to train on."""

    code = "data"
    exit_code = 2


class CheckpointError(FedmmError):
    """A checkpoint that is missing, damaged or belongs to another model or dataset."""

    code = "checkpoint"
    exit_code = 2


class StorageError(FedmmError):
    """A folder that cannot be written, a full disk, a download that cannot be reached."""

    code = "storage"
    exit_code = 1


class DivergenceError(FedmmError):
    """Training or scoring produced NaN or infinite numbers."""

    code = "divergence"
    exit_code = 1


class PartError(FedmmError):
    """A part of a user's own (an aggregation, an expert, ...) that raised an error or returned what it may not."""

    code = "part"
    exit_code = 1
