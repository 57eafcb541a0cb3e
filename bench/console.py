"""The one console: the only module that writes to standard output and standard error.

Progress is a live display on a terminal and plain lines elsewhere; rank zero only. Control characters of what is shown
(texts of records, models and data, names of files) are escaped, so that they can't steer a terminal. A console that
goes away (a closed pipe, a full log disk, a terminal that hangs up) ends nothing: `losses` says what was lost.
"""

import collections
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

# Between two plain lines: a log file of an hour's run stays readable.
PLAIN_LINE_EVERY_S = 10.0
# Between two counts for a live display, which cost a look at the allocator's figures.
LIVE_EVERY_S = 0.5
# Work over which the rate is taken that is shown, in seconds: steps of long and short texts even out.
PACE_OVER_S, PACE_EVERY_S = 30.0, 0.5
# Columns of a bar.
LEAST_BAR, MOST_BAR = 10, 40
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


def duration(seconds: float) -> str:
    """Return a duration in words: 45 s, 12 min 5 s, 3 h 20 min, 2 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    whole = round(seconds / 60)
    return f"{whole // 60} h {whole % 60} min" if whole < 48 * 60 else f"{whole // 1440} d {whole % 1440 // 60} h"


class Pace:
    """Speed of work, by the time that the work itself takes: pauses, such as validations and checkpoints, are left out.

    The first units pay for allocation and compilation; once there are more, they are left out too. Times in seconds.
    """

    def __init__(self, now_s: float) -> None:
        self.units = self.tokens = 0
        self._begun_s, self._pauses_s = now_s, list[float]()  # the recurring ones
        self._first = self._newest = (0.0, 0, 0)  # seconds of work, units, tokens
        self._recent = collections.deque([self._first])

    def add(self, units: int, tokens: int, now_s: float) -> None:
        """Count units that are done, with their tokens."""
        self.units, self.tokens = self.units + units, self.tokens + tokens
        before, self._newest = self._newest, (now_s - self._begun_s, self.units, self.tokens)
        if self._first[1] == 0 and before[1] > 0:
            self._first = before
            self._recent = collections.deque([before])
        if self._newest[0] - self._recent[-1][0] >= PACE_EVERY_S:
            self._recent.append(self._newest)
        while len(self._recent) > 1 and self._newest[0] - self._recent[1][0] >= PACE_OVER_S:
            self._recent.popleft()

    def pause(self, seconds: float, *, recurs: bool) -> None:
        """Leave out seconds that were spent otherwise. recurs: such a pause comes again, and counts as left to do."""
        self._begun_s += seconds
        self._pauses_s += [seconds] if recurs else []

    def tokens_per_s(self, *, overall: bool = False) -> float | None:
        """Return the rate of the last PACE_OVER_S of work, or of all of it; None before anything was counted."""
        start = self._first if overall else self._recent[0]
        seconds, tokens = self._newest[0] - start[0], self._newest[2] - start[2]
        return tokens / seconds if seconds > 0 and tokens else None

    @property
    def knows_pauses(self) -> bool:
        """Return whether a recurring pause was measured."""
        return bool(self._pauses_s)

    def left_s(self, units: int, tokens: int | None = None, pauses: int = 0) -> float | None:
        """Return the seconds that so many units will take, or their tokens where these are known, and the pauses.

        None as long as nothing is done. Pauses of which none was measured yet are not in it: see `knows_pauses`.
        """
        seconds, done, counted = (end - start for end, start in zip(self._newest, self._first, strict=True))
        by_tokens = tokens is not None and counted > 0
        whole, rest = (counted, tokens or 0) if by_tokens else (done, units)
        if not whole:
            return None
        mean_s = sum(self._pauses_s) / len(self._pauses_s) if self._pauses_s else 0.0
        return seconds / whole * rest + pauses * mean_s


@dataclass(frozen=True, kw_only=True)
class Course:
    """Facts that a phase can show beside how much of it is done. Each is asked for where a line is shown only.

    unit: of its total. epochs: how often each example was seen after so many steps. peak_gib: the highest memory of the
    device so far; None where none is measured. pauses, pauses_after: what interrupts it again and again, and how often
    after so many steps. rest: what the run does after it, and in how many seconds; None where that is not known.
    """

    unit: str = "steps"
    epochs: Callable[[int], float] | None = None
    peak_gib: Callable[[], float | None] = lambda: None
    pauses: str = "pauses"
    pauses_after: Callable[[int], int] = lambda step: 0
    rest: Callable[[], tuple[str, float] | None] = lambda: None


class Phase:
    """Progress of one phase: `with Phase("train", total=100) as phase: phase.advance(tokens=512)`.

    total_tokens: of all units, where what is left is better told by tokens than by units.
    """

    # Whether its end is a line of its own; of a validation, a line with its values follows at once.
    says_end = True

    def __init__(self, name: str, total: int, *, course: Course | None = None, total_tokens: int | None = None) -> None:
        self.name, self.total, self.total_tokens = name, total, total_tokens
        self.course = course or Course()
        self.begun = 0  # of a phase that goes on from an earlier launch
        self._loss: tuple[float, int] | None = None
        self._started_s = self._said_s = time.perf_counter()
        self.pace = Pace(self._started_s)
        self._seen: list[str] = []

    @classmethod
    def of_examples(
        cls, name: str, batches: Sequence[Sequence[int]], lengths: Sequence[int], num_processes: int
    ) -> "Phase":
        """Return the phase of a process that reads these batches of examples, its share of all of them."""
        course = Course(
            unit="examples" if num_processes == 1 else f"examples, the share of 1 of {num_processes} processes"
        )
        tokens = sum(lengths[number] for numbers in batches for number in numbers)
        return cls(name, sum(map(len, batches)), course=course, total_tokens=tokens)

    @property
    def done(self) -> int:
        """Return how many units are done, those of earlier launches among them."""
        return self.begun + self.pace.units

    def __enter__(self) -> "Phase":
        _display.open(self)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _display.close(self)
        if self.pace.units and kind is None and self.says_end:
            say(self.line(last=True))

    def begin_at(self, done: int) -> None:
        """Go on from what an earlier launch has done; it is counted, and no part of this launch's speed."""
        self.begun = done

    def advance(self, units: int = 1, *, tokens: int = 0, report: bool = True) -> None:
        """Count units that are done. tokens: of these units. report: False where `logged` follows at once."""
        now_s = time.perf_counter()
        self.pace.add(units, tokens, now_s)
        if report:
            self._report(now_s)

    def logged(self, loss: float, step: int) -> None:
        """Take the loss that was just logged, which is shown until the next one is."""
        self._loss, self._seen = (loss, step), []
        self._report(time.perf_counter())

    @contextlib.contextmanager
    def paused(self, *, recurs: bool = False) -> Iterator[None]:
        """Leave what is done inside out of the speed that is shown. recurs: see `Course.pauses_after`."""
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.pace.pause(time.perf_counter() - started_s, recurs=recurs)

    def line(self, *, last: bool = False) -> str:
        """Return the progress in one line. last: at the end of the phase."""
        return f"{self.name}: {', '.join([*self._counts(), *self._figures(overall=last), self._time(last=last)])}"

    def live_lines(self, width: int) -> list[str]:
        """Return the progress for a display: a bar where there is room, counts and what is left; below it figures."""
        text = f"{', '.join([*self._counts(), self._time(last=False)])}"
        room = min(width - len(self.name) - len(text) - 2, MOST_BAR)
        full = round(room * min(1.0, self.done / max(self.total, 1)))
        bar = "" if room < LEAST_BAR else f"{'━' * full}{'─' * (room - full)} "
        figures = ", ".join(self._seen or self._figures(overall=False))
        return [f"{self.name} {bar}{text}", *([f"{' ' * len(self.name)} {figures}"] if figures else [])]

    def _report(self, now_s: float) -> None:
        if not is_main_process():
            return
        if _display.is_on:
            if not self._seen or now_s - self._said_s > LIVE_EVERY_S:
                self._said_s, self._seen = now_s, self._figures(overall=False)
        elif now_s - self._said_s > PLAIN_LINE_EVERY_S and self.done < self.total:
            self._said_s = now_s
            say(self.line())

    def _counts(self) -> list[str]:
        done, unit, epochs = self.done, self.course.unit, self.course.epochs
        counted = f"{done:,} of {self.total:,}"
        counts = [f"step {counted}" if unit == "steps" else f"{counted} {unit}"]
        return counts if epochs is None else [f"epoch {epochs(done):.2f} of {epochs(self.total):.4g}", *counts]

    def _figures(self, *, overall: bool) -> list[str]:
        """Return loss, rate and memory, as far as there are any."""
        figures = []
        if self._loss is not None:
            loss, step = self._loss
            figures.append(f"loss {loss:.4f}" + ("" if step == self.done else f" at step {step:,}"))
        rate, peak = self.pace.tokens_per_s(overall=overall), self.course.peak_gib()
        figures += [] if rate is None else [f"{rate:,.0f} tokens/s"]
        return figures if peak is None else [*figures, f"peak {peak:.1f} GiB"]

    def _time(self, *, last: bool) -> str:
        """Return what is left, with what the run does then; or how long it took."""
        took = duration(time.perf_counter() - self._started_s)
        if last:
            return f"after {took}"
        tokens = None if self.total_tokens is None else self.total_tokens - self.pace.tokens
        pauses, rest = self.course.pauses_after(self.done), self.course.rest()
        left_s = self.pace.left_s(max(0, self.total - self.done), tokens, pauses)
        if left_s is None:
            return f"after {took}"
        # How long the first of them takes nobody knows before it is over.
        besides = f" and {pauses} {self.course.pauses}" if pauses and not self.pace.knows_pauses else ""
        then = "" if rest is None or rest[1] < 1 else f", then about {duration(rest[1])} to {rest[0]}"
        return f"{duration(left_s)}{besides} left{then}"


class _Display:
    """The live lines of all phases that are open, one below another; nothing where lines are printed."""

    def __init__(self) -> None:
        self._phases: list[Phase] = []
        self._live: Live | None = None

    @property
    def is_on(self) -> bool:
        """Return whether phases are shown live."""
        return self._live is not None

    def open(self, phase: Phase) -> None:
        """Show a phase below those that are open."""
        self._phases.append(phase)
        if self._live is None and is_main_process() and is_live():
            self._live = Live(self, console=out, refresh_per_second=4, transient=True)
            self._live.start()

    def close(self, phase: Phase) -> None:
        """Show a phase no more."""
        self._phases.remove(phase)
        if not self._phases and self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Give the lines of each phase, cut where a terminal is too narrow."""
        for phase in list(self._phases):
            for line in phase.live_lines(options.max_width):
                yield Text(escaped(line), no_wrap=True, overflow="ellipsis")


_display = _Display()
