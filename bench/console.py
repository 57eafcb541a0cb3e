"""The one console: the only module that writes to standard output and standard error.

Progress is a live display on a terminal and plain lines elsewhere; rank zero only. Control characters of what is shown
(texts of records, models and data, names of files) are escaped, so that they can't steer a terminal. A console that
goes away (a closed pipe, a full log disk, a terminal that hangs up) ends nothing: `losses` says what was lost.
"""

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import IO, Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment

# Between two plain lines: a log file of an hour's run stays readable.
PLAIN_LINE_EVERY_S = 10.0
# Between two looks at the newest loss for a live display, which wait for the device.
LIVE_NOTE_EVERY_S = 1.0
# C0 and C1 without newline and tab; marks that turn the direction of text, or split a line unseen; parts of no
# character (surrogates); invisible tags. Other format characters, such as the joiners of emoji, are text.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
STREAMS = {"stdout": "standard output", "stderr": "standard error"}


def escaped(text: str) -> str:
    """Return a text in which no character steers a terminal: ESC is shown as \\u001b, as JSON escapes it.

    Idempotent; newlines and tabs stay. JSON stays JSON of the same value.
    """
    return UNSAFE.sub(lambda match: json.dumps(match[0])[1:-1], text)


class _EscapingConsole(Console):
    """A console of rich that escapes all texts it is given; its own control codes are not texts."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render to segments of escaped text."""
        for segment in super().render(renderable, options):
            safe = segment.control or not UNSAFE.search(segment.text)
            yield segment if safe else Segment(escaped(segment.text), segment.style)

    @property
    def file(self) -> IO[str]:
        """The stream beneath those that escape or, during a live display, print through this console."""
        stream = super().file
        return getattr(stream, "rich_proxied_file", stream)

    @file.setter
    def file(self, new: IO[str]) -> None:
        """Write to another stream."""
        self._file = new


out = _EscapingConsole(highlight=False, markup=False, soft_wrap=True, emoji=False)
err = _EscapingConsole(stderr=True, highlight=False, markup=False, soft_wrap=True, emoji=False)
_losses: dict[str, OSError] = {}


class _LastingStream:
    """A standard stream whose loss is noted and ends nothing: what is written afterwards goes nowhere."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text as it is; return its length."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of the texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush what was written."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if isinstance(error, BlockingIOError):  # somebody at the other end of a terminal or pipe has asked for that
            os.set_blocking(self._stream.fileno(), True)
            return
        _losses.setdefault(self._name, error)
        # Also for what libraries and child processes write, and for Python's own last flush.
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, self._stream.fileno())
        finally:
            os.close(null)


class _EscapingStream(_LastingStream):
    """Escape what libraries, argparse and tracebacks write. rich asks for the stream beneath, and escapes by itself."""

    def __init__(self, stream: TextIO, name: str, clean: Callable[[str], str]) -> None:
        super().__init__(stream, name)
        self.rich_proxied_file = _LastingStream(stream, name)
        self._clean = clean

    def write(self, text: str) -> int:
        """Write a text escaped. A progress bar of a library begins with a carriage return, which stays."""
        begun = text[: text.startswith("\r")]
        super().write(begun + escaped(self._clean(text[len(begun) :].replace("\r\n", "\n"))))
        return len(text)


def guard_streams(clean: Callable[[str], str] = str) -> None:
    """Let this process outlive its console, and escape what anything in it prints. At the start of a program.

    clean: removes from messages on standard error what must not be shown.
    """
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that is opened would get its number, and what is printed
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number, inheritable=True)
                os.close(null)
            os.set_inheritable(number, True)
            if name in STREAMS:
                setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 (stays open)
                _losses.setdefault(name, OSError("it was closed at the start"))
    for name in STREAMS:
        stream = getattr(sys, name)
        if isinstance(stream, _EscapingStream):
            continue
        guarded = _EscapingStream(stream, name, clean if name == "stderr" else str)
        guarded.flush()  # of what was printed before
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a console may not know all characters of a file's name
        setattr(sys, name, guarded)


def losses() -> list[str]:
    """Return a sentence for each stream of the console that could not be written; for the record."""
    return [
        f"{STREAMS[name]} could not be written ({error.strerror or error}): what was said there is lost, and the work "
        "went on"
        for name, error in _losses.items()
    ]


def is_full() -> OSError | None:
    """Return why standard output was not written in full; None where it was, or where its reader had enough."""
    error = _losses.get("stdout")
    return None if error is None or error.errno is None or isinstance(error, BrokenPipeError) else error


def is_main_process() -> bool:
    """Return whether this process prints: rank zero, by the launcher's RANK, which is there before torch is loaded."""
    return int(os.environ.get("RANK", "0") or 0) == 0


def say(message: str) -> None:
    """Print a line to standard output, on rank zero only."""
    if is_main_process():
        out.print(escaped(message))


def complain(message: str) -> None:
    """Print a line to standard error, on rank zero only."""
    if is_main_process():
        complain_on_any_rank(message)


def complain_on_any_rank(message: str) -> None:
    """Print a line to standard error, where rank zero can't."""
    err.print(escaped(message))


def tell_from_signal(message: str) -> None:
    """Print a line to standard error from a signal's handler, which may have interrupted another print."""
    if is_main_process():
        with contextlib.suppress(OSError):
            os.write(2, f"{escaped(message)}\n".encode())


def show(renderable: RenderableType = "") -> None:
    """Print a table, or an empty line, to standard output."""
    out.print(renderable)


def write(text: str) -> None:
    """Write a text to standard output as it is, but for control characters: JSON, Markdown, a table of tabs."""
    stream = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
    if stream is not None:
        stream.write(escaped(text))


def write_json(value: Any, indent: int | None = None) -> None:
    """Write a value to standard output as JSON that names in other scripts can be read in, and a line end."""
    write(json.dumps(value, ensure_ascii=False, indent=indent) + "\n")


def flush() -> None:
    """Flush both streams, before a process ends without Python's own clean-up."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def is_live() -> bool:
    """Return whether a display that is redrawn in place can be shown."""
    # FORCE_COLOR, which CI services set, makes rich take a log file for a terminal.
    return out.is_interactive and out.file.isatty()


def quiet_libraries() -> None:
    """Silence libraries: their progress bars, and advice about optional kernels that does not concern this run."""
    import warnings

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)  # between libraries: not for who runs a recipe
    quiet_imports()


def quiet_imports() -> None:
    """Silence what libraries say when they are imported, e.g. of kernels that this machine has no use for."""
    import logging

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read at its import
    for name in ("bitsandbytes", "DeepSpeed"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Phase:
    """Progress of one phase: `with Phase("train", total=100) as phase: phase.advance(loss=0.7, tokens=512)`."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        self._tokens, self._rate = 0, 0.0
        self._loss: float | Callable[[], float | None] | None = None
        self._started_s = self._printed_s = self._counted_s = time.perf_counter()
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

    def advance(
        self, steps: int = 1, *, loss: float | Callable[[], float | None] | None = None, tokens: int = 0
    ) -> None:
        """Count steps done; `loss` is the newest one, or gives it where a line is shown; `tokens`: of these steps."""
        self.done += steps
        self._tokens += tokens
        if loss is not None:
            self._loss = loss
        now_s = time.perf_counter()
        if self._live is not None:
            self._live.update(self._live.task_ids[0], completed=self.done)
            if now_s - self._printed_s > LIVE_NOTE_EVERY_S:
                self._printed_s = now_s
                self._live.update(self._live.task_ids[0], note=self._note())
        elif now_s - self._printed_s > PLAIN_LINE_EVERY_S:
            self._printed_s = now_s
            say(self._line())

    @property
    def tokens(self) -> int:
        """Return the real tokens so far."""
        return self._tokens

    @tokens.setter
    def tokens(self, tokens: int) -> None:
        """Take the count of all tokens so far, where it is known at some steps only.

        The rate shown until the next one is that of the tokens and the time between this count and the one before.
        """
        now_s = time.perf_counter()
        self._rate = (tokens - self._tokens) / max(now_s - self._counted_s, 1e-9)
        self._tokens, self._counted_s = tokens, now_s

    def leave_out(self, steps: int) -> None:
        """Take off steps that were done before this phase began; what is left is shown, at its own rate."""
        self.total -= steps
        if self._live is not None:
            self._live.update(self._live.task_ids[0], total=self.total)

    def _note(self) -> str:
        loss = self._loss() if callable(self._loss) else self._loss
        rate = self._rate or self._tokens / max(time.perf_counter() - self._started_s, 1e-9)
        shown = "" if loss is None else f" loss {loss:.4f}"
        return shown + (f" {rate:,.0f} tokens/s" if self._tokens else "")

    def _line(self) -> str:
        elapsed_s = time.perf_counter() - self._started_s
        left_s = elapsed_s / max(self.done, 1) * max(self.total - self.done, 0)
        eta = f", {left_s:.0f} s left" if self.done < self.total else ""
        return f"{self.name} {self.done}/{self.total}{self._note()} after {elapsed_s:.0f} s{eta}"
