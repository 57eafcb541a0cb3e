"""trackio: Hugging Face's local tracker, whose store is its own folder (TRACKIO_DIR) unless a Space is named."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.records.record import Record
from bench.tracking import tracker


class TrackioTracker:
    """One trackio run: config is the recipe; final values are sent as those of the last step."""

    def start(self, record: Record, folder: Path) -> None:
        """Start the run in the project that the study names."""
        import trackio

        self._run: Any = trackio.init(
            project=tracker.project(record),
            name=tracker.name(record),
            group=record.name,
            config=tracker.settings(record),
            embed=False,
            auto_log_gpu=False,  # its own sampling would run beside what is measured
            auto_log_cpu=False,
        )
        self._last = 0

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send values of a step."""
        self._last = step
        self._run.log(dict(values), step=step)

    def finish(self, record: Record, summary: Mapping[str, float], files: list[Path]) -> None:
        """Send final values, and end the run."""
        if summary:
            self._run.log({**summary, "status": record.status}, step=self._last)
        self._run.finish()


TRACKER = TrackioTracker
