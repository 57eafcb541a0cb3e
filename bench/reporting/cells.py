"""Cells of report tables made from a record: name, score with interval, machine, memory."""

from bench.analysis import accessors
from bench.records.record import Record, Score
from bench.reporting import markdown as md
from bench.utils.hardware import GIB


def title(record: Record) -> str:
    """Study, model and method, for a heading."""
    return md.escape(record.name.replace("--", " / "))


def shown_score(item: Score | None) -> str:
    """A score with its interval."""
    return md.DASH if item is None else md.score(item.value, item.low, item.high)


def machine(record: Record) -> str:
    """Processes, devices and precision; a dash where they are not known."""
    return md.escape(accessors.machine(record))


def does_not_fit(record: Record) -> str:
    """What stands in the place of a score where a run was out of memory; a dash for any other."""
    if record.status != "oom":
        return md.DASH
    oom = record.oom
    if oom is None or oom.capacity_bytes is None:
        return "does not fit"
    size = f"{oom.capacity_bytes / GIB:,.2f}".rstrip("0").rstrip(".")
    return f"does not fit {size} GiB ({md.escape(oom.device or oom.limit)})"


def trainable_share(record: Record) -> str:
    """Trainable parameters over all."""
    found = record.model.parameters if record.model else {}
    return md.percent_of(found.get("trainable"), found.get("total"))
