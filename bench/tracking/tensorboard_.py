"""TensorBoard: event files in the run's folder, with the recipe and final scores as its HParams page reads them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.records.record import Record
from bench.tracking import tracker

FOLDER_VARIABLE = "TENSORBOARD_LOGGING_DIR"


class TensorBoardTracker:
    """Writes to `tensorboard` in the run's folder, or into a folder of the run in TENSORBOARD_LOGGING_DIR."""

    def start(self, record: Record, folder: Path) -> None:
        """Open the event file."""
        from torch.utils.tensorboard import SummaryWriter

        chosen = os.environ.get(FOLDER_VARIABLE)
        # Runs of one name differ in settings, by the recipe's hash; in one folder their curves would be one.
        own = f"{tracker.name(record)}--{(record.recipe.hash or '')[:8]}"
        place = Path(chosen) / own if chosen else folder / "tensorboard"
        self._writer: Any = SummaryWriter(str(place))
        self._last = 0

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        self._last = step
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, record: Record, summary: Mapping[str, float], files: list[Path]) -> None:
        """Write final values, and the recipe beside those of scores; figures as images are in the run's folder."""
        from torch.utils.tensorboard.summary import hparams

        for name, value in summary.items():
            self._writer.add_scalar(name, value, self._last)
        scores = {name: value for name, value in summary.items() if name.partition("/")[0] in record.scores}
        settings = {key: value for key, value in tracker.settings(record).items() if value is not None}
        for part in hparams(settings, scores):
            self._writer.file_writer.add_summary(part)
        self._writer.close()


TRACKER = TensorBoardTracker
