"""Report of many runs: one page with figures, as Markdown in a folder, as a single HTML file, or both.

    python -m bench report RUNS... -o FOLDER [--html FILE]

Made from records and the predictions and logs beside them; the same files give the same bytes. Loads no torch.
"""

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.analysis import accessors, across, costs, leaderboard
from bench.analysis.accessors import LeftOut, Located, require_metric
from bench.analysis.disagreements import TextSource
from bench.analysis.leaderboard import Group
from bench.errors import DataError
from bench.records import store
from bench.reporting import calibration_table, cells, html_page, retention_table, run_warnings, study_sections
from bench.reporting import markdown as md
from bench.reporting.figures import sections
from bench.reporting.figures.sections import Gallery
from bench.reporting.study_sections import NAME_CHARACTERS, Shorten, appendix
from bench.utils import files

PAGE = "report.md"
# The first line of the page.
TITLE = "# Report"
# Names in one cell of the summary.
MOST_BEST = 3


def write(
    paths: Sequence[Path],
    folder: Path | None,
    html: Path | None = None,
    *,
    metric: str | None = None,
    texts_from: TextSource = "files",
) -> list[Path]:
    """Write `folder`/report.md with its figures, and the HTML page; return the written files.

    metric: ranks and compares systems; None selects the first of the usual ones. texts_from: where texts of examples
    may be read. Raises DataError without any record, for a metric that no run has, and for the folder of a run.
    """
    if folder is not None and (folder / store.FILE).exists():
        raise DataError(f"{folder} is the folder of a run: its own report would be overwritten; pass another -o")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; pass a folder, or a name that ends in .md for the short table")
    records, unreadable = accessors.read_all(paths)
    require_metric(records, metric)
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        sections.clear(place)
        text = page(records, unreadable, place, metric=metric, texts_from=texts_from)
        if folder is not None:
            files.write_text(folder / PAGE, text)
        if html is not None:
            html.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(html, html_page.page(text, place))
    return [*([folder / PAGE] if folder else []), *([html] if html else [])]


def refuse_foreign(folder: Path) -> None:
    """Raise DataError where a folder's report.md does not begin as those that `write` makes: a person's own."""
    path = folder / PAGE
    try:
        with files.open_regular(path) as stream:
            is_own = stream.readline(100).strip() == TITLE.encode()
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
) -> str:
    """Return the whole page and draw its figures into `folder`/figures. The order of the records does not matter."""
    shorten = study_sections.path_shortener(_root([path for path, _ in records] + [item.path for item in unreadable]))
    groups, parts, results = [], [], []
    for number, group in enumerate(leaderboard.groups(records, metric), 1):
        pictures = Gallery(folder, sections.prefix(number, group.data_set))
        parts.append(_section(group, pictures, shorten, texts_from=texts_from))
        results.append(across.result_of(group))
        # The summary needs no predictions, which take memory.
        groups.append(dataclasses.replace(group, matched=None))
    rest = {"Unreadable records": _unreadable(unreadable, shorten), "Appendix": appendix(records, shorten)}
    standings = study_sections.across_data_sets(across.across(results))
    return md.joined([TITLE, _summary(records, unreadable, groups), standings, *parts, md.sections(rest)]) + "\n"


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
    return md.joined([counts, md.table_of(lines, ("data set", "metric", "best systems"))])


def _best(group: Group) -> str:
    first = [md.escape(system.name, NAME_CHARACTERS) for system in group.systems if system.tier == 1]
    if group.comparison is None:
        leading = [md.escape(system.name, NAME_CHARACTERS) for system in group.systems[:1] if system.score is not None]
        return f"{leading[0]} (not tested)" if leading else md.DASH
    others = f" and {len(first) - MOST_BEST} more" if len(first) > MOST_BEST else ""
    tie = " (no significant difference)" if len(first) > 1 else ""
    return f"{'; '.join(first[:MOST_BEST])}{others}{tie}"


def _section(group: Group, pictures: Gallery, shorten: Shorten, *, texts_from: TextSource) -> str:
    costs_of = [costs.system_costs(one.runs, group.split, group.metric, higher_is_better=group.higher_is_better)
             for one in group.systems]  # fmt: skip
    parts = {
        "Leaderboard": md.joined([study_sections.leaderboard(group), study_sections.not_counted(group, shorten)]),
        "All metrics": study_sections.all_metrics(group),
        "Cost": study_sections.cost_table(group, costs_of, shorten) if costs_of else "",
        "Score against cost": sections.score_against_cost(group, costs_of, pictures),
        "Paired tests": study_sections.paired_tests(group, shorten) if len(group.systems) > 1 else "",
        "Temperature": calibration_table.of_group(group),
        "Retention": retention_table.of_group(group),
        "Failed runs": study_sections.failed_runs(group),
        "Learning curves": sections.learning_curves(group, pictures),
        "Scores by label": sections.labels(group, pictures),
        "Confusion matrices": sections.confusions(group, pictures),
        "Disagreements": study_sections.disagreements_table(group, texts_from=texts_from),
    }
    warned = [record for system in group.systems for record in system.records]
    heading = f"## Data set {md.escape(group.data_set)}"
    warning = ""
    if group.differs:
        heading += f", {md.code(group.key)}" if group.key else ", without a comparability key"
        warning = (
            "The runs on this data set were not all scored on the same examples with the same metrics, so they are "
            f"reported in separate sections. Do not compare scores across them. They differ in: "
            f"{md.escape(group.differs)}."
        )
    alert = run_warnings.section(warned)
    return md.joined([heading, warning, alert, *(f"### {name}\n\n{body}" for name, body in parts.items() if body)])


def _unreadable(items: Sequence[LeftOut], shorten: Shorten) -> str:
    rows = [
        [md.code(shorten(str(item.path))), md.escape(shorten(item.reason), accessors.MAX_CHARACTERS)] for item in items
    ]
    return md.table(["record", "reason"], rows, "ll")
