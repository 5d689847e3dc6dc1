"""MLflow: the server or store of MLFLOW_TRACKING_URI, the experiment of MLFLOW_EXPERIMENT_NAME."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.tracking.base import PROJECT, TrackedRun, Tracker, UnreachableError
from orchestrator.utils.errors import UserError

SWEEP_TAG = "safety_landscape.sweep_id"
REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED", "401", "403")
"""Parts of the messages of a server that does not accept the credentials."""
MOST_METRICS = 1000  # that one request may hold


class MLflow(Tracker):
    """Writes one run for each sweep, which a tag with the sweep's id finds again."""

    name = "mlflow"
    library = "mlflow"

    def __init__(self) -> None:
        self._run_id = ""
        # MLflow's own defaults retry for minutes, during which no sweep starts.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

    def destination(self) -> str:
        """Return the address of the server, and the experiment."""
        import mlflow

        return f"{mlflow.get_tracking_uri()} {self._experiment_name}"

    def check(self) -> None:
        """Look the experiment up. Raises UserError if the server refuses, UnreachableError if it does not answer."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_experiment_by_name(self._experiment_name)
        except MlflowException as error:
            if any(text in f"{error.error_code} {error}" for text in REFUSED):
                remedy = "does not accept the credentials: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
                raise UserError("track", self.name, f"{remedy}or MLFLOW_TRACKING_TOKEN") from error
            raise UnreachableError(str(error)) from error

    def open(self, run: TrackedRun) -> None:
        """Continue the run with the sweep's id, or begin one."""
        client = self._client
        experiment = client.get_experiment_by_name(self._experiment_name)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(self._experiment_name)
        found = client.search_runs([experiment_id], f"tags.`{SWEEP_TAG}` = '{run.id}'", max_results=1)
        if found:
            self._run_id = found[0].info.run_id
            client.update_run(self._run_id, "RUNNING")
            return
        created = client.create_run(experiment_id, run_name=run.name, tags={SWEEP_TAG: run.id})
        self._run_id = created.info.run_id
        for key, value in run.settings.items():
            client.log_param(self._run_id, key, value)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send metrics."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(_allowed(key), value, now, step) for key, value in values.items()]
        for i in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[i : i + MOST_METRICS])

    def finish(self, step: int, results: Mapping[str, float], files: Mapping[str, Path]) -> None:
        """Send the results as metrics and the files as artifacts."""
        self.log(step, results)
        for path in files.values():
            self._client.log_artifact(self._run_id, str(path))

    def close(self) -> None:
        """Mark the run as finished."""
        if self._run_id:
            self._client.set_terminated(self._run_id)

    @property
    def _experiment_name(self) -> str:
        return os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)

    @property
    def _client(self) -> Any:
        from mlflow.tracking import MlflowClient

        return MlflowClient()


def _allowed(name: str) -> str:
    """Return a metric's name with `_` for each character that MLflow does not allow."""
    return "".join(character if character.isalnum() or character in "_-. :/" else "_" for character in name)


TRACKER = MLflow
