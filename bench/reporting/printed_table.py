"""Print the short table of runs on a terminal, as wide as that is; of a single run its scores. Loads no NumPy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.table import Table

from bench import console
from bench.analysis.accessors import LeftOut
from bench.records.record import Record
from bench.reporting import cells, run_end, run_summary, run_warnings, short_table
from bench.reporting import markdown as md
from bench.reporting.short_table import NAME_COLUMN, SEEDS_COLUMN, RunsTable

# Columns that come first where not all fit, after the name and the ranking metric; then all others in their order.
FIRST = ("seed", "status", run_warnings.COLUMN, "training, s", "trainable share")
# Not on a terminal: what they hold is said below the table, or in the report.
LEFT_OUT = ("overrides", "prompt", "machine")
NAMES = (NAME_COLUMN, SEEDS_COLUMN)
# Characters of a name that are kept on one line where there is room for more columns.
NAME_WIDTH = 30
# For its heading, "system", and at least so much of it.
LEAST_NAME = 10
# Behind each column, the last one too.
GAP = 2
REASON_CHARACTERS = 300


def show(records: Sequence[tuple[Path, Record]], unreadable: Sequence[LeftOut], metric: str | None = None) -> None:
    """Print all tables, failed runs with their reasons, and how many records there are; of a single run its scores."""
    if len(records) == 1 and not unreadable and metric is None:
        _show_one(*records[0])
        return
    for found in short_table.tables(list(records), metric):
        console.say(f"Data set {md.clean(found.name)}")
        for line in filter(None, [short_table.why_apart(found)]):
            console.say(md.plain(line))
        for table in found.tables:
            if found.differs:
                console.say(f"\n{md.plain(short_table.heading(table))}")
            _show_table(table)
        console.say("")
    for item in unreadable:
        console.say(f"not read: {item.path}: {md.clean(item.reason)[:REASON_CHARACTERS]}")
    console.say(cells.record_counts([record for _, record in records], len(unreadable)))
    console.say("Intervals cover other test examples, not other seeds. -o FOLDER writes the report with paired tests.")


def _show_one(path: Path, record: Record) -> None:
    """Print one run as its page begins, with its scores."""
    console.say(f"{md.plain(cells.title(record))}, seed {record.seed}: {record.status}")
    console.say(md.plain(run_summary.sentence(record)))
    for line in run_end.scores_table(record) if record.status == "ok" else [md.clean(record.reason or "")]:
        console.say(line)
    if (page := path.parent / "report.md").is_file():
        console.say(f"page: {page}")


def _show_table(table: RunsTable) -> None:
    console.say(md.plain(table.caption))
    lines = [{name: md.plain(cell) for name, cell in line.items()} for line in table.lines]
    prefix = _common_prefix([line[NAME_COLUMN] for line in lines])
    failed = []
    for line in lines:
        line[NAME_COLUMN] = line[NAME_COLUMN].removeprefix(prefix)
        status, colon, reason = line["status"].partition(":")
        if colon:
            failed.append(f"{status}: {line[NAME_COLUMN]}, seed {line['seed']}:{reason[:REASON_CHARACTERS]}")
        line["status"] = status
    if prefix:
        console.say(f"All names begin with {prefix.removesuffix(' / ')}.")
    width = console.out.width
    console.show(_rich(lines, _fitting(lines, width), width))
    for sentence in [*([md.plain(table.common)] if table.common else []), *failed]:
        console.say(sentence)
    if table.seeds:
        seeds = [{name: md.plain(cell) for name, cell in line.items()} for line in table.seeds]
        for line in seeds:
            line[SEEDS_COLUMN] = line[SEEDS_COLUMN].removeprefix(prefix)
        best_first = [line[NAME_COLUMN] for line in lines]
        console.say("")
        seeds.sort(key=lambda line: best_first.index(line[SEEDS_COLUMN]))
        console.show(_rich(seeds, list(seeds[0]), width))


def _common_prefix(names: Sequence[str]) -> str:
    """Return the leading parts of `study / model / method` that all names share; "" for a single name."""
    parts = [name.split(" / ") for name in dict.fromkeys(names)]
    if len(parts) < 2:
        return ""
    shared = 0
    while all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    return "".join(f"{part} / " for part in parts[0][:shared])


def _fitting(lines: Sequence[dict[str, str]], width: int) -> list[str]:
    """Return the columns that fit into so many characters, in their order; name and ranking metric always."""
    names = list(lines[0])
    known = [name for name in names if name not in LEFT_OUT and {line[name] for line in lines} != {md.DASH}]
    known = [name for name in known if name != "status" or {line[name] for line in lines} != {"ok"}]
    after = next((name for name in known if name.endswith(" after")), None)
    before = next((name for name in known if name.endswith(" before")), None)
    always = [name for name in (NAME_COLUMN, after) if name in known]
    ordered = dict.fromkeys([*always, *(name for name in (*FIRST[:3], before, *FIRST[3:]) if name in known), *known])
    chosen: list[str] = []
    for name in ordered:
        if name in always or sum(_width(one, lines) + GAP for one in (*chosen, name)) <= width:
            chosen.append(str(name))
    return [name for name in names if name in chosen]


def _width(name: str | None, lines: Sequence[dict[str, str]]) -> int:
    """Return the width that a column needs: of its longest cell, and of the longest word of its heading."""
    name = str(name)
    longest = max(len(line[name]) for line in lines)
    if name in NAMES:
        return min(max(longest, LEAST_NAME), NAME_WIDTH)
    return max(longest, *map(len, name.split()), 0)


def _rich(lines: Sequence[dict[str, str]], names: Sequence[str], width: int) -> Table:
    """Return a table of these columns in so many characters: numbers are never cut, headings and names are wrapped."""
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    widths = {name: _width(name, lines) for name in names}
    spare = width - sum(size + GAP for size in widths.values())
    for name in names:  # the name first, then headings on one line, as long as there is room
        longest = max(len(name), *(len(line[name]) for line in lines))
        given = min(longest - widths[name], spare) if name in NAMES or longest - widths[name] <= spare else 0
        widths[name], spare = widths[name] + max(given, 0), spare - max(given, 0)
        heading = "system" if name == NAME_COLUMN else name
        justify: Literal["left", "right"] = "left" if name in NAMES else "right"
        table.add_column(heading, justify=justify, overflow="fold", width=widths[name])
    for line in lines:
        table.add_row(*(line[name] for name in names))
    return table
