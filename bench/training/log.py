"""The training log, `train_log.jsonl`: one line per logged step, written as training proceeds."""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.errors import DivergedError
from bench.utils import files


class TrainLog:
    """`train_log.jsonl`: one line per logged step, written as training proceeds. Rank zero writes, all remember.

    listen: takes each line too, those of earlier launches as well.
    """

    def __init__(self, path: Path | None, listen: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self._path, self._listen = path, listen
        self.restore([], 0.0)

    def restore(self, rows: list[dict[str, Any]], seconds: float) -> None:
        """Begin with these rows, after so many seconds; whatever else the file held is gone."""
        self.rows[:], self._started_s = rows, time.perf_counter() - seconds
        if self._path is not None:
            files.write_text(self._path, "".join(map(_line, self.rows)))
        for row in self.rows:
            self._tell(row)

    def write(self, **values: float | None) -> None:
        """Add a line. Raises DivergedError when a loss or gradient norm in it is not finite."""
        row = {**values, "seconds": round(time.perf_counter() - self._started_s, 3)}
        self.rows.append(row)
        if self._path is not None:
            with files.open_own(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, "ab") as stream:
                stream.write(_line(row).encode())
        self._tell(row)
        for name in ("loss", "grad_norm"):
            value = values.get(name)
            if _is_undefined(value):
                raise DivergedError(
                    f"the {name} is {value} at step {values['step']}; lower training.learning_rate, "
                    "use warmup or clip_norm, or check the data"
                )

    def _tell(self, row: dict[str, Any]) -> None:
        if self._listen is not None:
            self._listen(row)

    @property
    def losses(self) -> list[float]:
        """Return the training losses in order of steps."""
        return [row["loss"] for row in self.rows if "loss" in row]


def _line(row: dict[str, Any]) -> str:
    return json.dumps({name: None if _is_undefined(item) else item for name, item in row.items()}) + "\n"


def _is_undefined(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
