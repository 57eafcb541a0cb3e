"""Warnings of many runs: which run warns of what, as a section of a page and as lines for the console. No NumPy."""

from collections.abc import Iterable, Sequence

from bench.analysis import accessors
from bench.records.record import Record
from bench.reporting import cells
from bench.reporting import markdown as md

# Sentences that the console shows; a page has them all.
MOST_LINES = 10
COLUMN = "warnings"


def alert(record: Record) -> str:
    """Return the warnings of one run, for the top of its page; empty without any."""
    sentences = [md.escape(warning.sentence, accessors.MAX_CHARACTERS) for warning in record.warnings]
    return md.alert(sentences, "WARNING") if sentences else ""


def by_sentence(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """Return (code, sentence) -> the runs that hold it, most frequent first."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records, key=lambda one: (one.name, one.recipe.hash or "", one.seed or 0)):
        for warning in record.warnings:
            found.setdefault((warning.code, warning.sentence), []).append(record)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def count(records: Iterable[Record]) -> str:
    """Return a cell with the number of distinct warnings of some runs; a dash without any."""
    number = len({(warning.code, warning.sentence) for record in records for warning in record.warnings})
    return f"**{number}**" if number else md.DASH


def headline(records: Sequence[Record]) -> str:
    """Return one sentence on how many runs warn of how many things; empty if none does."""
    warned, found = [record for record in records if record.warnings], by_sentence(records)
    if not warned:
        return ""
    verb = "warns" if len(warned) == 1 else "warn"
    things = "1 thing" if len(found) == 1 else f"{len(found):,} things"
    runs = "run" if len(records) == 1 else "runs"
    return f"{len(warned):,} of {len(records):,} {runs} {verb} of {things} that may mislead a reader of their scores."


def section(records: Sequence[Record]) -> str:
    """Return the headline as an alert, and a folded table of all warnings with their runs; empty without any."""
    rows = [
        [md.code(code), md.escape(sentence, accessors.MAX_CHARACTERS), "; ".join(_runs(runs))]
        for (code, sentence), runs in by_sentence(records).items()
    ]
    if not rows:
        return ""
    table = md.table(["kind", "warning", "runs"], rows, "lll")
    return md.joined([md.alert([headline(records)], "WARNING"), md.details(f"Warnings ({len(rows)})", table)])


def lines(records: Sequence[Record]) -> list[str]:
    """Return plain lines for the console: the headline, and the most frequent warnings; empty without any."""
    found = by_sentence(records)
    shown = [
        f"warning: {md.clean(sentence)[: accessors.MAX_CHARACTERS]} ({len(runs)} run{'s' if len(runs) > 1 else ''})"
        for (_, sentence), runs in list(found.items())[:MOST_LINES]
    ]
    more = [f"{len(found) - MOST_LINES} more warnings stand in the report"] if len(found) > MOST_LINES else []
    return [*([headline(records)] if found else []), *shown, *more]


def _runs(runs: Sequence[Record]) -> list[str]:
    """Return cells that name systems with their seeds."""
    seeds: dict[str, list[str]] = {}
    for record in runs:
        seeds.setdefault(cells.title(record), []).append(md.escape(record.seed))
    named = [f"{title} (seed{'s' if len(each) > 1 else ''} {', '.join(each)})" for title, each in seeds.items()]
    return named[: md.LIST_LIMIT] + ([f"{len(named) - md.LIST_LIMIT} more"] if len(named) > md.LIST_LIMIT else [])
