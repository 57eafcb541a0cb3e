"""MLflow: its default store, or the server that MLFLOW_TRACKING_URI names."""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.records.record import Record
from bench.tracking import tracker

# Limits of MLflow's stores: characters of a parameter, and parameters and metrics sent at once.
MOST_CHARACTERS, MOST_AT_ONCE, MOST_METRICS_AT_ONCE = 6000, 100, 1000

_NOT_ALLOWED = re.compile(r"[^/\w.\- ]")


def allowed(name: str) -> str:
    """Return a name that MLflow takes: of letters, digits, and some signs; "lm_eval:acc,none" has a comma."""
    return _NOT_ALLOWED.sub("_", name)


class MlflowTracker:
    """One MLflow run: parameters are the recipe, metrics the log and final values, artifacts the record."""

    def start(self, record: Record, folder: Path) -> None:
        """Create the run. The experiment is the study, unless MLFLOW_EXPERIMENT_NAME names one."""
        import mlflow

        self._client: Any = mlflow.MlflowClient()
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or tracker.project(record)
        found = self._client.get_experiment_by_name(experiment)
        identity = found.experiment_id if found else self._client.create_experiment(experiment)
        run = self._client.create_run(identity, run_name=tracker.name(record), tags={"method": record.method})
        self._id: str = run.info.run_id
        self._last = 0
        settings = {key: str(value)[:MOST_CHARACTERS] for key, value in tracker.settings(record).items()}
        params = [mlflow.entities.Param(allowed(key), value) for key, value in settings.items()]
        for start in range(0, len(params), MOST_AT_ONCE):
            self._client.log_batch(self._id, params=params[start : start + MOST_AT_ONCE])

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send values of a step."""
        from mlflow.entities import Metric

        self._last, now = step, int(time.time() * 1000)
        metrics = [Metric(allowed(name), value, now, step) for name, value in values.items()]
        for start in range(0, len(metrics), MOST_METRICS_AT_ONCE):
            self._client.log_batch(self._id, metrics=metrics[start : start + MOST_METRICS_AT_ONCE])

    def finish(self, record: Record, summary: Mapping[str, float], files: list[Path]) -> None:
        """Send final values and files; the run ends as FINISHED or FAILED."""
        self.log(summary, self._last)
        for path in files:
            self._client.log_artifact(self._id, str(path))
        self._client.set_tag(self._id, "status", record.status)
        self._client.set_terminated(self._id, "FINISHED" if record.status == "ok" else "FAILED")


TRACKER = MlflowTracker
