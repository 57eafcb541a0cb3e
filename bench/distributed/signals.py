"""End a run on SIGTERM: at once, but for training, which first ends its step and writes a checkpoint."""

import contextlib
from collections.abc import Iterator
from typing import Any

from bench.errors import StoppedError


class SigtermHandler:
    """SIGTERM's handler, `signal.signal(signal.SIGTERM, stopper)`. asked: whether the signal came.

    A scheduler sends it to launcher and run alike, and the launcher hands it on, so that it may come twice.
    """

    def __init__(self) -> None:
        self.asked = False
        self._waits = False

    def __call__(self, *_: Any) -> None:
        """Raise StoppedError, unless somebody has promised to look at `asked`."""
        self.asked = True
        if not self._waits:
            raise _stopped()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Interrupt nothing inside: the caller looks at `asked`. A signal that it did not heed is raised at the end."""
        if self.asked:
            raise _stopped()
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
        if self.asked:
            raise _stopped()


def _stopped() -> StoppedError:
    return StoppedError("stopped by SIGTERM; what was written so far is kept")
