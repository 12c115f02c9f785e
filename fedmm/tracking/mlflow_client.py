"""The one way to a client of an MLflow store."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from fedmm.tracking.mlflow_store import prepare_environment, probe

if TYPE_CHECKING:
    from mlflow import MlflowClient


_LOADING = threading.Lock()


def load_mlflow() -> None:
    """Imports mlflow, one thread at a time: a second one would find a half-loaded module."""
    with _LOADING:
        import mlflow.tracking  # noqa: F401


def open_client(uri: str) -> MlflowClient:
    """Opens a client of the store at ``uri``, which has to answer first: MLflow itself would try for minutes.

    Raises OSError or sqlite3.Error where a database does not answer, and what MLflow raises for a URI that it cannot
    use. The import of mlflow takes seconds.
    """
    prepare_environment()
    probe(uri)
    load_mlflow()
    from mlflow import MlflowClient

    quieten()
    return MlflowClient(tracking_uri=uri)


def quieten() -> None:
    """Sets what MLflow logs, once it is imported, as ``prepare_environment`` says."""
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its retries are not news
