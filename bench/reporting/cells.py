"""Cells of report tables from a record: name, score with interval, machine, memory."""

from collections import Counter
from collections.abc import Sequence

from bench.analysis import accessors
from bench.records.record import Record, Score
from bench.reporting import markdown as md
from bench.utils.hardware import GIB


def title(record: Record, shared: frozenset[int] = frozenset()) -> str:
    """Return study, model and method for a heading, marked where scored data chose the step or the settings.

    shared: places of parts that all systems of a page share, which are left out, see `accessors.shared_parts`.
    """
    return md.escape(accessors.short_name(record, shared)) + accessors.selection_mark(record)


def shown_score(item: Score | None) -> str:
    """Return a score with its interval."""
    return md.DASH if item is None else md.score(item.value, item.low, item.high)


def record_counts(records: Sequence[Record], unreadable: int) -> str:
    """Return how many records there are by status, and how many more could not be read."""
    statuses = Counter(record.status for record in records)
    failures = "".join(f", {number} {status}" for status, number in sorted(statuses.items()) if status != "ok")
    more = f"; {unreadable} more could not be read" if unreadable else ""
    what = "record" if len(records) == 1 else "records"
    return f"{len(records):,} {what} ({statuses['ok']} ok{failures}){more}."


def machine(record: Record) -> str:
    """Return processes, devices and precision; a dash if unknown."""
    return md.escape(accessors.machine(record))


def does_not_fit(record: Record) -> str:
    """Return the text shown instead of a score after an out-of-memory error; a dash for other runs."""
    if record.status != "oom":
        return md.DASH
    oom = record.oom
    if oom is None or oom.capacity_bytes is None:
        return "does not fit"
    size = f"{oom.capacity_bytes / GIB:,.2f}".rstrip("0").rstrip(".")
    return f"does not fit {size} GiB ({md.escape(oom.device or oom.limit)})"


def trainable_share(record: Record) -> str:
    """Return the share of trainable parameters."""
    parameters = record.model.parameters if record.model else {}
    return md.percent_of(parameters.get("trainable"), parameters.get("total"))
