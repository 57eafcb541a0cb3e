"""Several trackers at once. Before the data are read, one that can't start ends the run; later none does."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.errors import SetupError
from bench.records.record import Record
from bench.tracking import tracker
from bench.tracking.tracker import Tracker
from bench.utils import secret_formats

# Name in a recipe -> (the library, what to install).
LIBRARIES = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow"),
    "trackio": ("trackio", "trackio"),
}
# Of a service's error in a sentence.
MOST_CHARACTERS = 400


class Trackers:
    """The trackers of one run. note: takes a sentence where one fails later, which is then left alone."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._started: dict[str, Tracker] = {}
        self._note = note
        self._finished = False

    def start(self, names: tuple[str, ...], record: Record, folder: Path) -> None:
        """Start each. Raises SetupError for one that is not installed or can't be started, and ends the others."""
        for name in names:
            library, package = LIBRARIES[name]
            if importlib.util.find_spec(library) is None:
                raise SetupError(f"the tracker {name!r} is not installed: pip install {package}")
        for name in names:
            made: Tracker = importlib.import_module(f"bench.tracking.{name}_").TRACKER()
            try:
                made.start(record, folder)
            except Exception as error:  # each service has its own kinds
                self._each(lambda one: one.finish(record, {}, []))
                raise SetupError(f"the tracker {name!r} can't start: {_sentence(error)}") from error
            self._started[name] = made

    def log(self, row: Mapping[str, Any]) -> None:
        """Send a line of the training log."""
        if self._started and (values := tracker.logged(row)):
            self._each(lambda one: one.log(values, int(row["step"])))

    def finish(self, record: Record, files: list[Path]) -> None:
        """Send the final values and files, once."""
        if not self._finished:
            self._finished = True
            values = tracker.summary(record)
            self._each(lambda one: one.finish(record, values, files))

    def _each(self, send: Callable[[Tracker], None]) -> None:
        for name, one in list(self._started.items()):
            try:
                send(one)
            except Exception as error:  # a server that is gone must not end a training
                del self._started[name]
                self._note(f"the tracker {name!r} got no more values: {_sentence(error)}")


def _sentence(error: Exception) -> str:
    told = secret_formats.remove(" ".join(str(error).split()))
    if len(told) > MOST_CHARACTERS:  # the cause stands last: MLflow says "Connection refused" after 300 characters
        told = f"{told[: MOST_CHARACTERS // 2]} … {told[-MOST_CHARACTERS // 2 :]}"
    return f"{type(error).__name__}: {told}"
