"""The one console. Progress is a live display on a terminal and plain lines elsewhere; rank zero only."""

import os
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Between two plain lines: a log file of an hour's run stays readable.
PLAIN_LINE_EVERY_S = 10.0

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def is_main_process() -> bool:
    """Return whether this process prints: rank zero, by the launcher's RANK, which is there before torch is loaded."""
    return int(os.environ.get("RANK", "0") or 0) == 0


def say(message: str) -> None:
    """Print a line to standard output, on rank zero only."""
    if is_main_process():
        out.print(message, markup=False)


def complain(message: str) -> None:
    """Print a line to standard error, on rank zero only."""
    if is_main_process():
        err.print(message, markup=False)


def is_live() -> bool:
    """Return whether a display that is redrawn in place can be shown."""
    # FORCE_COLOR, which CI services set, makes rich take a log file for a terminal.
    return out.is_interactive and out.file.isatty()


def quiet_libraries() -> None:
    """Silence libraries: their progress bars, and advice about optional kernels that does not concern this run."""
    import logging
    import warnings

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)  # between libraries: not for who runs a recipe
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    quiet_kernel_advice()


def quiet_kernel_advice() -> None:
    """Silence bitsandbytes' advice to install a package of kernels, which it logs when it is first imported."""
    import logging

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


class Phase:
    """Progress of one phase: `with Phase("train", total=100) as phase: phase.advance(loss=0.7, tokens=512)`."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        self.tokens, self._loss = 0, ""
        self._started_s = self._printed_s = time.perf_counter()
        self._live: Progress | None = None

    def __enter__(self) -> "Phase":
        if is_main_process() and is_live():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._live = Progress(*columns, TextColumn("{task.fields[note]}"), console=out, transient=True)
            self._live.start()
            self._live.add_task(self.name, total=self.total, note="")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
        if self.done and kind is None:
            say(self._line())

    def advance(self, steps: int = 1, *, loss: float | None = None, tokens: int = 0) -> None:
        """Count steps done; `loss` is the newest one, `tokens` the real tokens of these steps."""
        self.done += steps
        self.tokens += tokens
        if loss is not None:
            self._loss = f" loss {loss:.4f}"
        if self._live is not None:
            self._live.update(self._live.task_ids[0], completed=self.done, note=self._note())
        elif time.perf_counter() - self._printed_s > PLAIN_LINE_EVERY_S:
            self._printed_s = time.perf_counter()
            say(self._line())

    def leave_out(self, steps: int) -> None:
        """Take off steps that were done before this phase began; what is left is shown, at its own rate."""
        self.total -= steps
        if self._live is not None:
            self._live.update(self._live.task_ids[0], total=self.total)

    def _note(self) -> str:
        rate = self.tokens / max(time.perf_counter() - self._started_s, 1e-9)
        return self._loss + (f" {rate:,.0f} tokens/s" if self.tokens else "")

    def _line(self) -> str:
        elapsed_s = time.perf_counter() - self._started_s
        left_s = elapsed_s / max(self.done, 1) * max(self.total - self.done, 0)
        eta = f", {left_s:.0f} s left" if self.done < self.total else ""
        return f"{self.name} {self.done}/{self.total}{self._note()} after {elapsed_s:.0f} s{eta}"
