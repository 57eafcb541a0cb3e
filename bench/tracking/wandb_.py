"""Weights & Biases, online or offline as its own variables say (WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.records.record import Record
from bench.tracking import tracker


class WandbTracker:
    """One W&B run: config is the recipe, summary the final values, an artifact the record."""

    def start(self, record: Record, folder: Path) -> None:
        """Start the run. The project is the study, unless WANDB_PROJECT names one."""
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or tracker.project(record),
            name=tracker.name(record),
            group=record.name,
            job_type=record.method,
            dir=str(folder),
            config=tracker.settings(record),
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send values of a step."""
        self._run.log(dict(values), step=step)

    def finish(self, record: Record, summary: Mapping[str, float], files: list[Path]) -> None:
        """Send the summary and the files as one artifact; exit code 0 for a run that ended well."""
        import wandb

        self._run.summary.update({**summary, "status": record.status})
        if files:
            artifact = wandb.Artifact(f"record-{self._run.id}", type="record")
            for path in files:
                artifact.add_file(str(path), name=path.name)
            self._run.log_artifact(artifact)
        self._run.finish(exit_code=0 if record.status == "ok" else 1)


TRACKER = WandbTracker
