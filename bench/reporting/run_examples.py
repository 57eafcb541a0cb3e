"""The section of a run's page that shows wrong and right answers with their texts. Loads no torch; NumPy where used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.analysis import accessors
from bench.config.cards import ANSWERS_TASK, CHOICES_TASK, GENERATION_TASK, TAGS_TASK
from bench.data import tagging
from bench.errors import DataError
from bench.records.record import Record
from bench.reporting import markdown as md

if TYPE_CHECKING:  # they load NumPy, which a page without examples does not need
    from bench.analysis.disagreements import TextSource
    from bench.analysis.sample import Chosen, Sample
    from bench.data.dataset import Corpus

# Characters of each text, reference and answer.
MOST_CHARACTERS = 240
# A longer file of predictions (with probabilities of thousands of labels) would take seconds to read.
MOST_BYTES = 64 * 2**20
Rows = Mapping[str, Mapping[str, Any]]


def section(record: Record, folder: Path, texts_from: TextSource = "files", corpus: Corpus | None = None) -> str:
    """Return examples of the first split as tables; empty for a run without predictions, or that failed.

    texts_from: where texts may be read. corpus: the data where a run still has them; else they are read again.
    """
    place = _place(record, folder)
    if record.status != "ok" or place is None:
        return ""
    from bench.analysis import disagreements

    stage, split = place
    hidden, task = disagreements.why_hidden(record, texts_from), disagreements.task_of(record)
    if hidden is not None and task in disagreements.TEXT_ANSWERS:
        return f"Not shown, since references and answers are texts: {md.escape(hidden)}."
    try:
        sample = _sample(record, folder, stage, split)
    except DataError as error:
        reason = str(error).replace(f"{folder}/", "")
        return f"No examples can be shown: {md.escape(reason, accessors.MAX_CHARACTERS)}."
    rows, labels, why_not = _texts(record, split, sample, hidden, texts_from, corpus)
    scheme = accessors.card_of(record).get("scheme")
    writer = _Cells(task=task, rows=rows, labels=labels, scheme=scheme, shows_texts=hidden is None)
    when = accessors.stage_names(record).get(stage, stage)
    tables = [
        md.joined([f"### {_heading(group, sample, split, when)}", writer.table(chosen, sample.measure)])
        for group, chosen in sample.groups.items()
    ]
    note = "" if why_not is None else f"Texts are not shown: {md.escape(why_not, accessors.MAX_CHARACTERS)}."
    return md.joined([_order(sample), *tables, note])


def _place(record: Record, folder: Path) -> tuple[str, str] | None:
    """Return the stage and the split whose predictions are shown; None where no file is there, and none was written."""
    for stage in ("after", "before"):
        for split in accessors.splits(record)[:1]:
            written = f"predictions_{stage}_{split}" in record.artifacts
            if written or (folder / "predictions" / f"{stage}-{split}.jsonl").exists():
                return stage, split
    return None


def _sample(record: Record, folder: Path, stage: str, split: str) -> Sample:
    from bench.analysis import disagreements, predictions, sample
    from bench.records import store
    from bench.utils import process

    file = folder / "predictions" / f"{stage}-{split}.jsonl"
    if not file.exists():
        raise DataError("the file of predictions is not there any more")
    if (size := file.stat().st_size) > MOST_BYTES:
        raise DataError(f"the file of predictions has {size / 2**20:,.0f} MiB, and {MOST_BYTES >> 20} are read")
    metric = accessors.ranking_metric(accessors.scalars(record, stage, split))
    with process.no_collection():
        return sample.choose(
            predictions.prediction_rows(folder / store.FILE, stage, split),
            disagreements.task_of(record),
            metric,
            higher_is_better=accessors.higher_is_better([record], metric),
        )


def _texts(
    record: Record, split: str, sample: Sample, hidden: str | None, texts_from: TextSource, corpus: Corpus | None
) -> tuple[Rows, Sequence[str], str | None]:
    """Return the data's rows of the chosen examples by id, the labels, and why there are no rows."""
    from bench.analysis import disagreements

    if hidden is not None:
        return {}, (), hidden
    wanted = {one.row["id"] for chosen in sample.groups.values() for one in chosen}
    try:
        if corpus is None:
            rows, labels = disagreements.loaded_again(record, split, from_hub=texts_from == "hub")
        else:
            rows, labels = corpus.splits[split].rows, corpus.labels
    except DataError as error:
        return {}, (), str(error)
    return {row["id"]: row for row in rows if row["id"] in wanted}, labels, None


def _heading(group: str, sample: Sample, split: str, when: str) -> str:
    number, shown = sample.counts[group], len(sample.groups[group])
    counted = f"{shown} of {md.count(number)}"
    if group in ("wrong answers", "right answers"):
        total = sum(sample.counts.values())
        counted = f"{md.count(number)} of {md.count(total)} ({md.percent_of(number, total)}), {shown} shown"
    return f"{group.capitalize()} on {md.escape(split)}, {when}: {counted}"


def _order(sample: Sample) -> str:
    if not sample.measure:
        return "The first ones by id: the predictions hold neither a loss nor a probability of the reference."
    return f"Ordered by {md.escape(sample.measure)}, the worst first; each text is cut to {MOST_CHARACTERS} characters."


class _Cells:
    """Cells of examples of one task."""

    def __init__(self, *, task: str, rows: Rows, labels: Sequence[str], scheme: str | None, shows_texts: bool) -> None:
        self.task, self.rows, self.labels, self.scheme, self.shows_texts = task, rows, labels, scheme, shows_texts

    def table(self, chosen: Sequence[Chosen], measure: str) -> str:
        """Return a row per example: its texts, reference, answer, and the value that it is ordered by."""
        lines = [self._line(one, measure) for one in chosen]
        # What no row has is no column, as the written answer where it is the prediction itself.
        known = {name for line in lines for name, cell in line.items() if cell != md.DASH}
        names = [name for name in lines[0] if name in known] if lines else []
        return md.table_of([{name: line[name] for name in names} for line in lines], names)

    def _line(self, one: Chosen, measure: str) -> dict[str, str]:
        row, data = one.row, self.rows.get(one.row["id"])
        value = md.count(one.value) if measure == "wrong tags" else md.fixed(one.value)
        written = row.get("text") if row.get("text") != row["prediction"] and self.shows_texts else None
        return {
            "example": md.code(row["id"], MOST_CHARACTERS),
            **({} if not measure else {md.escape(measure): value}),
            **({} if not self.rows else self._texts_of(data or {})),
            "reference": self._answer(row["reference"], data),
            "answer": self._answer(row["prediction"], data),
            "as written": md.escape(written, MOST_CHARACTERS),
        }

    def _texts_of(self, data: Mapping[str, Any]) -> dict[str, str]:
        text, pair = data.get("text"), data.get("text_pair")
        names = {ANSWERS_TASK: ("passage", "question"), GENERATION_TASK: ("input", "second text")}
        first, second = names.get(self.task, ("text", "second text"))
        cells = {first: md.escape(text, MOST_CHARACTERS), second: md.escape(pair, MOST_CHARACTERS)}
        if self.task == CHOICES_TASK:
            choices = zip(self.labels, data.get("choices", ()), strict=False)
            cells["choices"] = md.escape("; ".join(f"{name}: {choice}" for name, choice in choices), MOST_CHARACTERS)
        return dict(reversed(cells.items())) if self.task == ANSWERS_TASK else cells

    def _answer(self, answer: Any, data: Mapping[str, Any] | None) -> str:
        from bench.analysis import disagreements

        if self.task == TAGS_TASK and isinstance(answer, list):
            answer = tagging.shown(answer, data.get("tokens") if data else None, scheme=self.scheme)
        return md.escape(disagreements.as_text(answer), MOST_CHARACTERS)
