"""Warnings of many runs: which run warns of what, as a section of a page and as lines for the console. No NumPy."""

from collections.abc import Iterable, Mapping, Sequence

from bench.analysis import accessors
from bench.analysis.accessors import SystemKey
from bench.records.record import Record
from bench.reporting import cells
from bench.reporting import markdown as md

# Sentences that the console shows; a page has them all.
MOST_LINES = 10
# Kinds of findings that the alert names, each by the sentence of most runs.
MOST_IN_ALERT = 4
# Systems that one of these names.
MOST_SYSTEMS_IN_ALERT = 2
COLUMN = "warnings"


def alert(record: Record) -> str:
    """Return the warnings of one run, for the top of its page; empty without any."""
    sentences = [md.escape(warning.sentence, accessors.MAX_CHARACTERS) for warning in record.warnings]
    return md.alert(sentences, "WARNING") if sentences else ""


def _by_sentence(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
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
    warned, found = [record for record in records if record.warnings], by_data_set(records)
    if not warned:
        return ""
    verb = "warns" if len(warned) == 1 else "warn"
    things = "1 thing" if len(found) == 1 else f"{len(found):,} things"
    runs = "run" if len(records) == 1 else "runs"
    return f"{len(warned):,} of {len(records):,} {runs} {verb} of {things} that may mislead a reader of their scores."


def section(records: Sequence[Record], shared: frozenset[int] = frozenset()) -> str:
    """Return an alert that names the findings with their data sets, and a folded table of all; empty without any.

    shared: as of `cells.title`.
    """
    found = by_data_set(records)
    if not found:
        return ""
    names = _names(records, shared)
    rows = [
        [
            md.code(code),
            md.escape(data_set),
            md.escape(sentence, accessors.MAX_CHARACTERS),
            "; ".join(_runs(runs, names)),
        ]
        for (data_set, code, sentence), runs in found.items()
    ]
    kinds = _by_kind(found)
    shown = [
        f"**{md.escape(data_set)}**: {'for example, ' * (len(found_so) > 1)}{md.escape(fact(found_so[0][0]))} "
        f"({_told_of([record for _, runs in found_so for record in runs], names)})"
        for (data_set, _), found_so in kinds[:MOST_IN_ALERT]
    ]
    more = [f"{len(kinds) - MOST_IN_ALERT} more are in the table."] if len(kinds) > MOST_IN_ALERT else []
    table = md.table(["kind", "data set", "warning", "runs"], rows, "llll")
    alert_of_all = md.alert([headline(records), *shown, *more], "WARNING")
    return md.joined([alert_of_all, md.details(f"Warnings ({len(rows)})", table)])


def by_data_set(records: Sequence[Record]) -> dict[tuple[str, str, str], list[Record]]:
    """Return (data set, code, sentence) -> the runs that hold it, most frequent first."""
    found: dict[tuple[str, str, str], list[Record]] = {}
    for (code, sentence), runs in _by_sentence(records).items():
        for record in runs:
            found.setdefault((_data_set(record), code, sentence), []).append(record)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def _by_kind(
    found: Mapping[tuple[str, str, str], list[Record]],
) -> list[tuple[tuple[str, str], list[tuple[str, list[Record]]]]]:
    """Return (data set, kind) with all sentences of the kind, which often differ in a number, most runs first."""
    kinds: dict[tuple[str, str], list[tuple[str, list[Record]]]] = {}
    for (data_set, code, sentence), runs in found.items():
        kinds.setdefault((data_set, code), []).append((sentence, runs))
    return sorted(kinds.items(), key=lambda item: (-sum(len(runs) for _, runs in item[1]), item[0]))


def fact(sentence: str) -> str:
    """Return the first sentence of a warning: what was found, without what can be done."""
    return sentence.split(". ")[0].rstrip(".")


def in_short(records: Sequence[Record]) -> str:
    """Return what the runs of one data set warn of, by kind, in a sentence; empty without any."""
    warned: dict[str, int] = {}
    for record in records:
        for code in sorted({warning.code for warning in record.warnings}):
            warned[code] = warned.get(code, 0) + 1
    kinds = [f"{md.escape(code.replace('_', ' '))} ({number:,} of {_counted(len(records))})"
             for code, number in sorted(warned.items(), key=lambda item: (-item[1], item[0]))]  # fmt: skip
    return f"**Warning:** {'; '.join(kinds)}." if kinds else ""


def _counted(number: int) -> str:
    return f"{number:,} run{'' if number == 1 else 's'}"


def lines(records: Sequence[Record]) -> list[str]:
    """Return plain lines for the console: the headline, and the most frequent warnings, each with its data set."""
    found = by_data_set(records)
    shown = [
        f"warning: {md.clean(data_set)}: {md.clean(sentence)[: accessors.MAX_CHARACTERS]} ({_counted(len(runs))})"
        for (data_set, _, sentence), runs in list(found.items())[:MOST_LINES]
    ]
    more = [f"{len(found) - MOST_LINES} more warnings are in the report"] if len(found) > MOST_LINES else []
    return [*([headline(records)] if found else []), *shown, *more]


def _names(records: Sequence[Record], shared: frozenset[int]) -> dict[SystemKey, str]:
    """Return a name of each system as a cell, with what it differs by from others of its name on the same data set."""
    by_set: dict[str, dict[SystemKey, Record]] = {}
    for record in records:
        by_set.setdefault(_data_set(record), {}).setdefault(accessors.system_key(record), record)
    endings = {key: ending for firsts in by_set.values() for key, ending in accessors.endings(firsts).items()}
    return {key: f"{cells.title(record, shared)} {md.escape(endings[key].strip())}".rstrip()
            for firsts in by_set.values() for key, record in firsts.items()}  # fmt: skip


def _data_set(record: Record) -> str:
    return record.data.id if record.data else accessors.dataset_card(record) or "not known"


def _told_of(runs: Sequence[Record], names: Mapping[SystemKey, str]) -> str:
    """Return the number of these runs, the first of their systems, and how many more there are."""
    number = len({id(record) for record in runs})
    titles = list(dict.fromkeys(names[accessors.system_key(record)] for record in runs))
    more = len(titles) - MOST_SYSTEMS_IN_ALERT
    shown = titles[:MOST_SYSTEMS_IN_ALERT] + ([f"{more} more"] if more > 0 else [])
    return f"{_counted(number)} of {'; '.join(shown)}"


def _runs(runs: Sequence[Record], names: Mapping[SystemKey, str]) -> list[str]:
    """Return cells that name systems with their seeds."""
    seeds: dict[str, list[str]] = {}
    for record in runs:
        seeds.setdefault(names[accessors.system_key(record)], []).append(md.escape(record.seed))
    named = [f"{title} (seed{'s' if len(each) > 1 else ''} {', '.join(each)})" for title, each in seeds.items()]
    return named[: md.LIST_LIMIT] + ([f"{len(named) - md.LIST_LIMIT} more"] if len(named) > md.LIST_LIMIT else [])
