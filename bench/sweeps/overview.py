"""Lines that a sweep shows while it runs, to its driver's terminal and to whoever watches it, and at its end."""

import heapq
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.text import Text

from bench import console
from bench.analysis.spending import Money

MOST_ROWS, MOST_LOGS, MOST_FAILURES = 30, 4, 8
# Lines of a terminal that a live display leaves free: title, headings, status, logs, and the cursor's.
FREE_LINES = 12
# Characters of a reason in one line, and of a note in the table.
MOST_CHARACTERS, MOST_OF_NOTE = 300, 100
UNDER_WAY, TO_COME = ("running", "elsewhere"), ("waiting", "not started")
# Ended from outside: the same command goes on with them.
GO_ON = ("interrupted", "killed")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run of a sweep. system: what its seeds share. seconds: that it took, or has taken so far.

    is_timed: whether these are all of its seconds; those of a resumed run are of its last launch alone. gpus: None
    where the run uses none. note: the newest line of its log, or why it failed. money: that it cost so far, or why that
    can't be said; None where no price applies, and in a driver's own table.
    """

    label: str
    system: str
    method: str
    state: str
    folder: Path
    log: Path
    seconds: float | None = None
    is_timed: bool = True
    gpus: int | None = None
    value: float | None = None
    scored: str = ""
    note: str = ""
    money: Money | str | None = None

    @property
    def is_over(self) -> bool:
        """Return whether it has an outcome."""
        return self.state not in (*UNDER_WAY, *TO_COME)


def left_s(rows: Sequence[Row], at_once: int) -> float | None:
    """Return the seconds until all runs are over, by the mean of finished ones; None as long as none is.

    A run takes as long as others of its system, else of its method, else as all. at_once: how many run side by side.
    """
    timed = [row for row in rows if row.state == "ok" and row.is_timed and row.seconds is not None]
    if not timed:
        return None

    def _expected_s(row: Row) -> float:
        alike = [one for one in timed if one.system == row.system] or [one for one in timed if one.method == row.method]
        return statistics.fmean(one.seconds or 0.0 for one in alike or timed)

    ends_s = [max(0.0, _expected_s(row) - (row.seconds or 0.0)) for row in rows if row.state in UNDER_WAY]
    ends_s += [0.0] * (min(max(at_once, 1), len(rows)) - len(ends_s))
    heapq.heapify(ends_s)
    for row in rows:
        if row.state in TO_COME:
            heapq.heapreplace(ends_s, ends_s[0] + _expected_s(row))
    return max(ends_s)


def counts(rows: Sequence[Row]) -> str:
    """Return how many runs have which state: `9 ok, 1 oom, 2 running, 3 waiting`."""
    order = ("ok", *dict.fromkeys(row.state for row in rows if row.is_over), *UNDER_WAY, *TO_COME)
    found = {state: sum(row.state == state for row in rows) for state in dict.fromkeys(order)}
    return ", ".join(f"{number} {state}" for state, number in found.items() if number)


def summary(rows: Sequence[Row], at_once: int) -> str:
    """Return in one line how many runs have which state, what they have used so far, and what is left."""
    parts = [f"{len(rows)} run{'' if len(rows) == 1 else 's'}: {counts(rows)}"]
    parts += [used for used in (used_so_far(rows), money_so_far(rows)) if used]
    if any(not row.is_over for row in rows):
        left = left_s(rows, at_once)
        parts.append("time left: not known yet" if left is None else f"{_about(left)} left")
    return "; ".join(parts)


def _about(seconds: float) -> str:
    return f"about {console.duration(seconds)}"


def used_so_far(rows: Sequence[Row]) -> str:
    """Return GPU hours, or the time of runs on CPUs; empty where none was timed."""
    on_gpus = sum((row.seconds or 0.0) * row.gpus for row in rows if row.gpus)
    on_cpus = sum(row.seconds or 0.0 for row in rows if not row.gpus)
    words = [f"{on_gpus / 3600:.2f} GPU hours"] if on_gpus else []
    words += [f"{console.duration(on_cpus)} of CPU runs"] if on_cpus else []
    return f"{' and '.join(words)} so far" if words else ""


def money_so_far(rows: Sequence[Row]) -> str:
    """Return what runs cost by the prices of an hour, in each currency, and for how many that is not known."""
    sums: dict[str, float] = {}
    for row in rows:
        if isinstance(row.money, Money):
            sums[row.money.currency] = sums.get(row.money.currency, 0.0) + row.money.amount
    unknown = [row.money for row in rows if isinstance(row.money, str)]
    shown = " and ".join(f"{_amount(amount)} {currency}" for currency, amount in sums.items())
    if unknown:
        runs = f"{len(unknown)} run{'s' if len(unknown) > 1 else ''}"
        return f"{f'{shown}, without' if shown else 'no money of'} {runs} ({unknown[0]})"
    return shown


def _amount(amount: float) -> str:
    """Return an amount of money to two places; one that is too small for them is not nothing."""
    return "less than 0.01" if 0 < amount < 0.005 else f"{amount:.2f}"


def lines(rows: Sequence[Row], at_once: int = 1, most: int = MOST_ROWS, *, reasons: bool = True) -> list[str]:
    """Return the summary, and a table of the runs and their states; of many the running ones first, at most so many.

    As text: where a terminal is narrow, only the notes at the ends of its lines are cut. reasons: of failures, which
    `endings` gives in full.
    """
    scored = list(dict.fromkeys(row.scored for row in rows if row.value is not None))
    score = scored[0] if len(scored) == 1 else "score"
    ordered = sorted(rows, key=_urgency) if len(rows) > most else rows
    cells = [["run", "state", score, "time", ""]]
    for row in ordered[:most]:
        value = "" if row.value is None else f"{row.value:.4f}" if len(scored) == 1 else f"{row.scored} {row.value:.4f}"
        took = "" if row.seconds is None else console.duration(row.seconds)
        note = row.note if reasons or not row.is_over else ""
        cells.append([" ".join(row.label.split()), row.state, value, took, " ".join(note.split())[:MOST_OF_NOTE]])
    widths = [max(len(cell[place]) for cell in cells) for place in range(4)]
    aligned = (str.ljust, str.ljust, str.rjust, str.rjust)
    shown = [
        "  ".join([*(align(text, width) for align, text, width in zip(aligned, cell, widths, strict=False)), cell[-1]])
        for cell in cells
    ]
    rest = [f"... and {len(rows) - most} more"] if len(rows) > most else []
    return [summary(rows, at_once), *(line.rstrip() for line in shown), *rest]


def _urgency(row: Row) -> int:
    """Return the place of a run in a table that has no room for all: running, failed, waiting, ok."""
    return 0 if row.state in UNDER_WAY else 2 if row.state in TO_COME else 3 if row.state == "ok" else 1


def logs(rows: Sequence[Row]) -> list[str]:
    """Return a line for each running run that says where its log is."""
    running = [row for row in rows if row.state == "running"]
    said = [f"log of {row.label}: {row.log}" for row in running[:MOST_LOGS]]
    return said + ([f"... and {len(running) - MOST_LOGS} more beside it"] if len(running) > MOST_LOGS else [])


def endings(rows: Sequence[Row], out: Path, *, compares: bool = True) -> list[str]:
    """Return the last lines of a sweep: which runs failed or were stopped, why, and the command that compares.

    out: the sweep's folder. compares: whether to give that command.
    """
    ended = [row for row in rows if row.is_over and row.state != "ok"]
    failed = [row for row in ended if row.state not in GO_ON]
    stopped = [row for row in ended if row.state in GO_ON]
    said = _reasons(f"{len(failed)} of {len(rows)} runs failed:", failed)
    said += _reasons(f"{len(stopped)} of {len(rows)} runs stopped early, and the same command goes on:", stopped)
    done = [row for row in rows if row.state == "ok"]
    return said + ([f"compare them: {compare_command(out)}"] if compares and len(done) > 1 else [])


def _reasons(title: str, rows: Sequence[Row]) -> list[str]:
    """Return a title, and below it why each of some runs ended; nothing where there are none."""
    said = [title] if rows else []
    for row in rows[:MOST_FAILURES]:
        reason = " ".join(row.note.split())[:MOST_CHARACTERS]
        said.append(f"  {row.label}: {row.state}{': ' if reason else ''}{reason} (log: {row.log})")
    if len(rows) > MOST_FAILURES:
        said.append(f"  ... and {len(rows) - MOST_FAILURES} more; their logs are beside it")
    return said


def rows_that_fit(height: int) -> int:
    """Return how many rows fit a terminal of so many lines."""
    return max(1, min(MOST_ROWS, height - FREE_LINES))


def watch_command(out: Path) -> str:
    """Return the command that shows a sweep in another terminal."""
    return f"python -m bench sweep --watch {shlex.quote(str(out))}"


def drawn(said: Sequence[str], whole: Sequence[str] = ()) -> Group:
    """Return lines as a live display draws them: those of the table cut where the terminal is too narrow.

    whole: below them, those of which nothing may be cut, such as paths.
    """
    cut = [Text(console.escaped(line), no_wrap=True, overflow="ellipsis") for line in said]
    return Group(*cut, *(Text(console.escaped(line), overflow="fold") for line in whole))


def compare_command(out: Path) -> str:
    """Return the command that writes the report on all runs in a folder."""
    return f"python -m bench report {shlex.quote(str(out))} -o {shlex.quote(str(out / 'report'))}"
