"""End a run on a signal, or when its launcher has ended: at once, but for training, which first ends its step and
writes a checkpoint."""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from bench import console
from bench.distributed import launcher
from bench.errors import StoppedError

# All that ask a process to end, and by default end it: schedulers warn with the last three before they kill.
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)
SHOWN = {signal.SIGINT: "Ctrl-C", signal.SIGHUP: "SIGHUP (its terminal was closed)"}
# A terminal sends Ctrl-C to launcher and run alike, and the launcher hands it on: the second one comes at once, while a
# person who has lost patience needs a moment.
IMPATIENT_AFTER_S = 3.0


class StopHandler:
    """Handler of the signals that ask a run to end. asked: whether one came. by: what it was, as in a sentence.

    A scheduler sends its signal to launcher and run alike, and the launcher hands it on, so that it may come twice.
    """

    def __init__(self) -> None:
        self.asked = False
        self.by = ""
        self._waits = False
        self._asked_s = 0.0

    def install(self) -> None:
        """Handle all signals that ask to end. Those that are ignored stay so: `nohup` and `&` ask for that."""
        for number in SIGNALS if _can_handle() else ():
            if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self)

    def __call__(self, number: int, _: Any) -> None:
        """Raise StoppedError, or KeyboardInterrupt for Ctrl-C, unless somebody has promised to look at `asked`."""
        now_s = time.monotonic()
        impatient = self.asked and number == signal.SIGINT and now_s - self._asked_s > IMPATIENT_AFTER_S
        if not self.asked:
            self.asked, self._asked_s = True, now_s
            kind = signal.Signals(number)
            self.by = self.by or SHOWN.get(kind, kind.name)
            if self._waits and number == signal.SIGINT:
                console.tell_from_signal("stopping after this step, with a checkpoint; Ctrl-C again to stop at once")
        if number == signal.SIGINT and (impatient or not self._waits):
            raise KeyboardInterrupt
        if not self._waits:
            raise self._stopped()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Interrupt nothing inside: the caller looks at `asked`. A signal that it did not heed is raised at the end."""
        self.heed()
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
        self.heed()

    def heed(self) -> None:
        """Raise StoppedError where a signal came, and what it raised was taken for another error."""
        if self.asked:
            raise self._stopped()

    def _stopped(self) -> StoppedError:
        return StoppedError(f"stopped by {self.by}; what was written so far is kept")


def stop_with_launcher(handler: StopHandler) -> None:
    """Stop this process by its handler when the launcher above it ends before it, killed or told to.

    A launcher of one process does not stop it. Without a launcher, or where the system can't tell, nothing is watched:
    a run that was started by itself outlives its shell.
    """
    process = launcher.launcher_process()
    if process is None or not hasattr(os, "pidfd_open"):
        return
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:  # it has just ended
        _stop(handler)
        return
    except OSError:  # an old kernel
        return

    def _wait() -> None:
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        ended.poll()
        _stop(handler)

    threading.Thread(target=_wait, name="launcher-watch", daemon=True).start()


def _stop(handler: StopHandler) -> None:
    handler.by = handler.by or "the end of its launcher (killed, or told to stop)"
    os.kill(os.getpid(), signal.SIGTERM)


def ignore() -> None:
    """From now on nothing interrupts: what is written at the end of a run must be whole."""
    for number in SIGNALS if _can_handle() else ():
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _nothing)


def _can_handle() -> bool:
    """Return whether handlers can be set here: Python allows it in the main thread alone."""
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Inside, handlers may be changed; afterwards they are those of before: for a program that goes on after a run."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if _can_handle() and handler is not None:  # None: not one of Python's
                signal.signal(number, handler)


def _nothing(*_: Any) -> None:
    """Handle a signal by doing nothing; SIG_IGN would be inherited by the processes started later."""
