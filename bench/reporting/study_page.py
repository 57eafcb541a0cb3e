"""The report of many runs: one page with figures, as Markdown in a folder, as a single HTML file, or both.

    python -m bench report RUNS... -o FOLDER [--html FILE]

Made from records, and the predictions and logs beside them; the same files give the same bytes. Loads no torch.
"""

import dataclasses
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.analysis import accessors, costs, leaderboard
from bench.analysis.accessors import LeftOut, Located, require_metric
from bench.analysis.leaderboard import Group
from bench.errors import DataError
from bench.records import store
from bench.reporting import html_page, study_sections
from bench.reporting import markdown as md
from bench.reporting.figures import sections
from bench.reporting.figures.sections import Gallery
from bench.reporting.study_sections import NAME_CHARACTERS, Shown, appendix
from bench.utils import files

PAGE = "report.md"
# Names in one cell of the first table.
MOST_BEST = 3


def write(
    paths: Sequence[Path],
    folder: Path | None,
    html: Path | None = None,
    *,
    metric: str | None = None,
    from_hub: bool = False,
) -> list[Path]:
    """Writes `folder`/report.md with its figures, and the HTML page; returns what was written.

    metric: what ranks and compares systems; None leaves it to the records. from_hub: texts of data sets on the Hub may
    be asked for. Raises DataError where there is no record, for a metric that none of them has, and for a folder that
    belongs to a run.
    """
    if folder is not None and (folder / store.FILE).exists():
        raise DataError(f"{folder} is the folder of a run, whose own report would be lost; give another -o")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; give a folder, or a name that ends in .md for the short table")
    found = accessors.read_all(paths)
    require_metric(found[0], metric)
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        sections.clear(place)
        text = page(*found, place, metric=metric, from_hub=from_hub)
        if folder is not None:
            files.write_text(folder / PAGE, text)
        if html is not None:
            html.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(html, html_page.page(text, place))
    return [*([folder / PAGE] if folder else []), *([html] if html else [])]


def page(
    records: Sequence[Located],
    broken: Sequence[LeftOut],
    folder: Path,
    *,
    metric: str | None = None,
    from_hub: bool = False,
) -> str:
    """The whole page; its figures are drawn into `folder`/figures. The order of the records does not matter."""
    shown = study_sections.told_from(_root([path for path, _ in records] + [item.path for item in broken]))
    groups, parts = [], []
    for number, group in enumerate(leaderboard.groups(records, metric), 1):
        pictures = Gallery(folder, sections.prefix(number, group.data_set))
        parts.append(_section(group, pictures, shown, from_hub=from_hub))
        # The summary needs no predictions.
        groups.append(dataclasses.replace(group, field=None))
    rest = {"Records that were not read": _unread(broken, shown), "Appendix": appendix(records, shown)}
    return md.joined(["# Report", _summary(records, broken, groups), *parts, md.sections(rest)]) + "\n"


def _root(paths: Sequence[Path]) -> Path:
    """The folder that holds all records."""
    parents = [str(path.parent.parent) for path in paths]
    try:
        return Path(os.path.commonpath(parents))
    except ValueError:  # some absolute, some not
        return Path(".")


def _summary(records: Sequence[Located], broken: Sequence[LeftOut], groups: Sequence[Group]) -> str:
    """How many records there are, and the best of each data set."""
    statuses = Counter(record.status for _, record in records)
    failures = "".join(f", {number} {status}" for status, number in sorted(statuses.items()) if status != "ok")
    more = f"; {len(broken)} more were not read" if broken else ""
    counts = f"{len(records)} records ({statuses['ok']} ok{failures}){more}."
    lines = [
        {
            "data set": md.escape(group.data_set),
            "systems": md.count(len(group.standings)),
            "runs": md.count(sum(len(standing.runs) for standing in group.standings)),
            "failed": md.count(len(group.failed)),
            "metric": md.escape(group.metric),
            "best score": md.fixed(group.standings[0].score if group.standings else None),
            "best systems": _best(group),
        }
        for group in groups
    ]
    return md.joined([counts, md.table_of(lines, ("data set", "metric", "best systems"))])


def _best(group: Group) -> str:
    first = [md.escape(standing.name, NAME_CHARACTERS) for standing in group.standings if standing.tier == 1]
    if group.comparison is None:
        leading = [
            md.escape(standing.name, NAME_CHARACTERS) for standing in group.standings[:1] if standing.score is not None
        ]
        return f"{leading[0]} (not tested)" if leading else md.DASH
    others = f" and {len(first) - MOST_BEST} more" if len(first) > MOST_BEST else ""
    tie = " (not shown to differ from the best)" if len(first) > 1 else ""
    return f"{'; '.join(first[:MOST_BEST])}{others}{tie}"


def _section(group: Group, pictures: Gallery, shown: Shown, *, from_hub: bool) -> str:
    found = [costs.of(one.runs, group.split, group.metric, higher_is_better=group.higher_is_better)
             for one in group.standings]  # fmt: skip
    parts = {
        "Leaderboard": md.joined([study_sections.leaderboard(group), study_sections.uncounted(group, shown)]),
        "All metrics": study_sections.every_metric(group),
        "Cost": study_sections.price(group, found, shown) if found else "",
        "Score against cost": sections.score_against_cost(group, found, pictures),
        "Paired tests": study_sections.tests(group, shown) if len(group.standings) > 1 else "",
        "Failed runs": study_sections.failures(group),
        "Learning curves": sections.learning_curves(group, pictures),
        "Scores by label": sections.labels(group, pictures),
        "Confusion matrices": sections.confusions(group, pictures),
        "Disagreements": study_sections.disagreement(group, from_hub=from_hub),
    }
    heading = f"## Data set {md.escape(group.data_set)}"
    warning = ""
    if group.differs:
        heading += f", {md.code(group.key)}" if group.key else ", without a comparability key"
        warning = (
            "The runs of this data set were not all scored on the same examples in the same way, so they stand in "
            f"several parts: do not compare scores across them. What differs: {md.escape(group.differs)}."
        )
    return md.joined([heading, warning, *(f"### {name}\n\n{body}" for name, body in parts.items() if body)])


def _unread(broken: Sequence[LeftOut], shown: Shown) -> str:
    rows = [[md.code(shown(str(item.path))), md.escape(shown(item.reason), accessors.LONG)] for item in broken]
    return md.table(["record", "reason"], rows, "ll")
