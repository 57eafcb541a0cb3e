"""Report of many runs: one page with figures, as Markdown in a folder, as a single HTML file, or both.

    python -m bench report RUNS... -o FOLDER [--html FILE]

Made from records and the predictions and logs beside them; the same files give the same bytes. Loads no torch.
"""

import dataclasses
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.analysis import accessors, across, costs, leaderboard, spending, to_score
from bench.analysis.accessors import LeftOut, Located, require_metric
from bench.analysis.disagreements import TextSource
from bench.analysis.leaderboard import Group
from bench.analysis.spending import NOTHING_ASKED, Asked
from bench.errors import DataError
from bench.records import store
from bench.records.record import Record
from bench.reporting import (
    calibration_table,
    cells,
    data_parts,
    energy_and_money,
    findings,
    how_made,
    html_page,
    local_paths,
    retention_table,
    run_warnings,
    study_sections,
    study_settings,
)
from bench.reporting import markdown as md
from bench.reporting.figures import sections
from bench.reporting.figures.sections import Gallery
from bench.reporting.study_sections import NAME_CHARACTERS, Shorten, appendix
from bench.utils import files, process

PAGE = "report.md"
# The first line of a page, which no reader sees, and that of pages of earlier versions.
OWN, OWN_BEFORE = "<!-- Written by finetune-bench report. -->", "# Report"
# Names in the title; of more, their number is told.
MOST_NAMED = 4
# Names in one cell of the summary.
MOST_BEST = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """The files that were written, and the runs whose scores are not on the pages, though they ended with status ok."""

    files: tuple[Path, ...]
    not_counted: tuple[LeftOut, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Made:
    text: str
    charts: dict[str, Any]
    not_counted: list[LeftOut]


def write(
    paths: Sequence[Path],
    folder: Path | None,
    html: Path | None = None,
    *,
    metric: str | None = None,
    texts_from: TextSource = "files",
    asked: Asked = NOTHING_ASKED,
) -> list[Path]:
    """Write `folder`/report.md with its figures, and the HTML page; return the written files.

    metric: ranks and compares systems; None selects the first of the usual ones. texts_from: where texts of examples
    may be read. asked: what to say about money and a score to be reached. Raises DataError without any record, for a
    metric that no run has, a score that none can reach, and for the folder of a run.
    """
    records, unreadable = accessors.read_all(paths)
    written = write_records(records, unreadable, folder, html, metric=metric, texts_from=texts_from, asked=asked)
    return list(written.files)


def write_records(
    records: Sequence[Located],
    unreadable: Sequence[LeftOut],
    folder: Path | None,
    html: Path | None = None,
    *,
    metric: str | None = None,
    texts_from: TextSource = "files",
    asked: Asked = NOTHING_ASKED,
) -> Written:
    """As `write`, of records that were read already."""
    if folder is not None:
        refuse_taken(folder)
    require_metric(records, metric)
    if asked.to_score is not None:
        to_score.refuse_impossible(records, metric, asked.to_score)
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        sections.clear(place)
        # Predictions are millions of small objects that all stay until their group is written.
        with process.no_collection():
            made = _made(records, unreadable, place, metric=metric, texts_from=texts_from, asked=asked)
        if folder is not None:
            files.write_text(folder / PAGE, made.text)
        if html is not None:
            html.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(html, html_page.page(made.text, place, made.charts))
    return Written(
        files=(*([folder / PAGE] if folder else []), *([html] if html else [])), not_counted=tuple(made.not_counted)
    )


def refuse_taken(folder: Path) -> None:
    """Raise DataError for the folder of a run, and for a file."""
    if (folder / store.FILE).exists():
        raise DataError(f"{folder} is the folder of a run: its own report would be overwritten; pass another -o")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; pass a folder")


def refuse_foreign(folder: Path) -> None:
    """Raise DataError where a folder's report.md does not begin as those that `write` makes: a person's own."""
    refuse_taken(folder)
    path = folder / PAGE
    try:
        with files.open_regular(path) as stream:
            is_own = stream.readline(100).strip() in (OWN.encode(), OWN_BEFORE.encode())
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    if not is_own:
        raise DataError(f"{path} is not a report of this tool; pass another -o, or --overwrite to replace it")


def page(
    records: Sequence[Located],
    unreadable: Sequence[LeftOut],
    folder: Path,
    *,
    metric: str | None = None,
    texts_from: TextSource = "files",
    asked: Asked = NOTHING_ASKED,
) -> tuple[str, dict[str, Any]]:
    """Return the whole page with the numbers of its figures, which are drawn into `folder`/figures.

    The order of the records does not matter.
    """
    made = _made(records, unreadable, folder, metric=metric, texts_from=texts_from, asked=asked)
    return made.text, made.charts


def _made(
    records: Sequence[Located],
    unreadable: Sequence[LeftOut],
    folder: Path,
    *,
    metric: str | None,
    texts_from: TextSource,
    asked: Asked,
) -> _Made:
    shorten = study_sections.path_shortener(_root([path for path, _ in records] + [item.path for item in unreadable]))
    groups, parts, results = [], [], []
    drawn: dict[str, Any] = {}
    whole = data_parts.whole(records)
    shared = accessors.shared_parts(record for _, record in whole)
    for number, group in enumerate(leaderboard.groups(whole, metric), 1):
        pictures = Gallery(folder, sections.prefix(number, group.data_set))
        parts.append(_section(group, pictures, shorten, asked, texts_from=texts_from))
        drawn |= pictures.charts
        results.append(across.result_of(group))
        # The summary needs no predictions, which take memory.
        groups.append(dataclasses.replace(group, matched=None, verified={}))
    methods = how_made.methods([record for _, record in records])
    rest = {
        "Unreadable records": _unreadable(unreadable, shorten),
        "Appendix": appendix(records, shorten, shared, methods),
    }
    standings = study_sections.across_data_sets(across.across(results))
    parts += data_parts.sections(records, folder, metric, shorten, drawn)
    counted = [one for group in groups for system in group.systems for one in system.records]
    warned = run_warnings.section(counted, shared)
    left = [item for group in groups for item in group.not_counted]
    lead = [OWN, f"# {_title([record for _, record in records], groups)}", warned, *map(_finding, groups)]
    summary = _summary(records, unreadable, groups)
    again = how_made.run_again(records)
    text = md.joined([*lead, summary, again, standings, *parts, md.sections(rest)]) + "\n"
    text = local_paths.hide(text, [record for _, record in records])
    return _Made(text=text, charts=drawn, not_counted=left)


def _title(records: Sequence[Record], groups: Sequence[Group]) -> str:
    """Return the study, and what its runs have in common: minilm: full, lora and probe on sst2."""
    if not groups:
        return "Report"
    studies = sorted({record.study or record.name.split("--")[0] for record in records})
    titles = {record.study_title for record in records if record.study_title}
    named_so = [*titles] if len(titles) == 1 else studies
    study = f"{named_so[0]}: " if len(studies) == 1 else ""
    by_set: dict[str, list[Group]] = {}
    for group in groups:
        by_set.setdefault(group.data_set, []).append(group)
    # Data sets by their systems.
    alike: dict[frozenset[tuple[across.Key, int]], list[str]] = {}
    for name, those in by_set.items():
        alike.setdefault(frozenset(_systems(those).items()), []).append(name)
    if len(by_set) > MOST_NAMED:
        return md.escape(f"{study}{_number_on(list(by_set.values()))} on {len(by_set)} data sets")
    told = [f"{_systems_on(by_set[sets[0]])} on {_joined_names(sets)}" for sets in alike.values()]
    return md.escape(study + "; ".join(told))


def _systems_on(groups: Sequence[Group]) -> str:
    """Return the methods of the systems on one data set where they say which these are, else their number."""
    methods = list(dict.fromkeys(
        accessors.method_label(record)
        for group in groups for system in group.systems for record in system.records[:1] if record.method
    ))  # fmt: skip
    systems = _systems(groups).total()
    named = 1 < len(methods) == systems <= MOST_NAMED
    return _joined_names(methods) if named else _counted(systems)


def _number_on(sets: Sequence[Sequence[Group]]) -> str:
    """Return on how many systems each of many data sets has: the same number, or from the fewest to the most."""
    numbers = sorted({_systems(groups).total() for groups in sets})
    return _counted(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} systems"


def _counted(systems: int) -> str:
    return "1 system" if systems == 1 else f"{systems or 'no'} systems"


def _systems(groups: Sequence[Group]) -> Counter[across.Key]:
    """Return the systems of one data set with their numbers, one that several of its groups have counted once."""
    keys: Counter[across.Key] = Counter()
    for group in groups:
        keys |= Counter(across.key_of(system.records[0]) for system in group.systems)
    return keys


def _joined_names(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def _finding(group: Group) -> str:
    """Return what was found on one data set, and what its runs warn of."""
    warned = run_warnings.in_short([one for system in group.systems for one in system.records])
    return " ".join(filter(None, [_found(group), warned]))


def _found(group: Group) -> str:
    """Return a sentence on the best system, or why there is no test; with the data set where there are several."""
    if group.comparison is None:
        scored = [system for system in group.systems if system.score is not None]
        told = f"{scored[0].short} has {md.fixed(scored[0].score)}" if scored else "no run has a score"
        why = "nothing to compare it with" if len(group.systems) == 1 else "no paired tests, see below for the reason"
        on = f"**{md.escape(group.data_set)}**, {md.escape(group.metric or 'no metric')}"
        return f"{on}: {md.escape(told, accessors.MAX_CHARACTERS)}; {why if scored else 'see below why not'}."
    names = {system.letter: system.short for system in group.systems if system.letter}
    on = f"**{md.escape(group.data_set)}**, {md.escape(group.metric)}: "
    return on + md.escape(findings.finding(group.comparison, names), accessors.MAX_CHARACTERS)


def _root(paths: Sequence[Path]) -> Path:
    """Return the folder that holds all records."""
    parents = [str(path.parent.parent) for path in paths]
    try:
        return Path(os.path.commonpath(parents))
    except ValueError:  # some absolute, some not
        return Path(".")


def _summary(records: Sequence[Located], unreadable: Sequence[LeftOut], groups: Sequence[Group]) -> str:
    """Return the numbers of records by status, and the best systems of each data set."""
    counts = cells.record_counts([record for _, record in records], len(unreadable))
    left = sum(len(group.not_counted) for group in groups)
    counts += f" Not counted, for a reason that stands below the leaderboard: {left}." if left else ""
    lines = [
        {
            "data set": md.escape(group.data_set),
            "systems": md.count(len(group.systems)),
            "runs": md.count(sum(len(system.runs) for system in group.systems)),
            "failed": md.count(len(group.failed)),
            "metric": md.escape(group.metric),
            "best score": md.fixed(group.systems[0].score if group.systems else None),
            "best systems": _best(group),
        }
        for group in groups
    ]
    chosen = how_made.selection(records)
    counts += f" {chosen}" if chosen else ""
    # Of one data set the finding says all of it.
    table = md.table_of(lines, ("data set", "metric", "best systems")) if len(lines) > 1 else ""
    return md.joined([_best_score(groups[0]) if len(groups) == 1 else "", counts, table])


def _best_score(group: Group) -> str:
    """Return the score of the best system with its interval, and that of the baseline; empty without a score."""
    best = next((system for system in group.systems if system.score is not None), None)
    if best is None or group.metric is None:
        return ""
    interval = f" (95 % interval {md.fixed(best.low)} to {md.fixed(best.high)})" if best.low != best.high else ""
    floors = (accessors.constant_baseline(record, group.split or "", group.metric) for record in best.records)
    floor = next((one for one in floors if one), None)
    baseline = f"; {md.fixed(floor[1])} for the {md.escape(floor[0])} baseline" if floor else ""
    told = f"{md.escape(group.metric)} {md.fixed(best.score)}{interval}"
    return f"Best score: {told}, {md.escape(best.short, NAME_CHARACTERS)}{baseline}."


def _best(group: Group) -> str:
    first = [md.escape(system.short, NAME_CHARACTERS) for system in group.systems if system.tier == 1]
    if group.comparison is None:
        leading = [md.escape(system.short, NAME_CHARACTERS) for system in group.systems[:1] if system.score is not None]
        return f"{leading[0]} (not tested)" if leading else md.DASH
    others = f" and {len(first) - MOST_BEST} more" if len(first) > MOST_BEST else ""
    tie = " (no significant difference)" if len(first) > 1 else ""
    return f"{'; '.join(first[:MOST_BEST])}{others}{tie}"


def _section(group: Group, pictures: Gallery, shorten: Shorten, asked: Asked, *, texts_from: TextSource) -> str:
    costs_of = [costs.system_costs(one.runs, group.split, group.metric, higher_is_better=group.higher_is_better,
                                   verified=group.verified) for one in group.systems]  # fmt: skip
    spent = [spending.of_system(one.records, asked.prices) for one in group.systems]
    parts = {
        "Leaderboard": md.joined([
            sections.scores(group, pictures), study_sections.leaderboard(group),
            study_sections.not_counted(group, shorten),
        ]),
        "Settings": study_settings.section(group) if group.systems else "",
        "Cost": study_sections.cost_table(group, costs_of, shorten, spent) if costs_of else "",
        "To a given score": energy_and_money.to_score_section(group, asked),
        "Score against cost": sections.score_against_cost(group, costs_of, pictures),
        "Paired tests": study_sections.paired_tests(group, shorten) if len(group.systems) > 1 else "",
        "Temperature": calibration_table.of_group(group),
        "Retention": retention_table.of_group(group),
        "Failed runs": study_sections.failed_runs(group),
        "All metrics": study_sections.all_metrics(group),
        "Learning curves": sections.learning_curves(group, pictures),
        "Scores by label": sections.labels(group, pictures),
        "Confusion matrices": sections.confusions(group, pictures),
        "Disagreements": study_sections.disagreements_table(group, texts_from=texts_from),
    }  # fmt: skip
    heading = f"## Data set {md.escape(group.data_set)}"
    warning = ""
    if group.differs:
        heading += f", {md.code(group.key)}" if group.key else ", without a comparability key"
        warning = (
            "The runs on this data set were not all scored on the same examples with the same metrics, so they are "
            f"reported in separate sections. Do not compare scores across them. They differ in: "
            f"{md.escape(group.differs)}."
        )
    return md.joined([heading, warning, *(f"### {name}\n\n{body}" for name, body in parts.items() if body)])


def _unreadable(items: Sequence[LeftOut], shorten: Shorten) -> str:
    rows = [
        [md.code(shorten(str(item.path))), md.escape(shorten(item.reason), accessors.MAX_CHARACTERS)] for item in items
    ]
    return md.table(["record", "reason"], rows, "ll")
