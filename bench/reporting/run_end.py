"""The end of a run on the console: its scores in a small table, one next command; and the line of a validation.

Warnings stand above the table, and where report and record are below it: see `lifecycle`. Loads no torch.
"""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.analysis import accessors
from bench.config import registry
from bench.records.record import Record, Score
from bench.utils import numbers

# Metrics of the first split, and of each other one; the report has all.
MOST_METRICS, MOST_OF_OTHERS = 5, 1
MOST_SPLITS = 4
COUNTS = ("reference_tokens", "extracted_nothing")
NOTHING = "–"
# Of a validation, beside the loss.
MOST_VALUES = 2


def scores_table(record: Record) -> list[str]:
    """Return the lines of a table of a run's scores: metric, baseline without a model, before, after and interval.

    Empty without scores. As text, of which no terminal is too narrow to cut a number.
    """
    splits = accessors.splits(record)[:MOST_SPLITS]
    rows = [
        row for split in splits for row in _rows(record, split, MOST_OF_OTHERS if split != splits[0] else MOST_METRICS)
    ]
    if not rows:
        return []
    stages = [stage for stage in accessors.STAGES if any(stage in row for row in rows)]
    headings = {stage: accessors.stage_names(record).get(stage, stage).removesuffix(" training") for stage in stages}
    # The baseline's name is said once where it is the same for all.
    kinds = {row["kind"] for row in rows if row["kind"]}
    headings |= {"baseline": f"{next(iter(kinds))} baseline" if len(kinds) == 1 else "baseline"}
    for row in rows:
        if len(kinds) > 1 and row["kind"]:
            row["baseline"] = f"{row['baseline']} ({row['kind']})"
    several = len({row["split"] for row in rows}) > 1
    columns = ["split"] * several + ["metric"] + ["baseline"] * bool(kinds) + [*stages, "interval"]
    cells = [[headings.get(column, column) for column in columns]]
    cells += [[row.get(column, NOTHING) for column in columns] for row in rows]
    cells[0][-1] = "95 % interval"
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    aligned = [str.ljust if column in ("split", "metric") else str.rjust for column in columns]
    return [
        "  ".join(align(cell, width) for align, cell, width in zip(aligned, row, widths, strict=True)) for row in cells
    ]


def _rows(record: Record, split: str, most: int) -> list[dict[str, str]]:
    """Return the cells of one split's metrics by column, the ranking metric first."""
    scores = {stage: accessors.scalars(record, stage, split) for stage in accessors.STAGES}
    last = scores["after"] or scores["before"]
    names = sorted((name for name in last if not _is_left_out(name, last)), key=accessors.metric_order)
    rows = []
    for name in names[:most]:
        floor = accessors.constant_baseline(record, split, name)
        row = {"split": split, "metric": name, "kind": floor[0] if floor is not None else ""}
        row |= {"baseline": _shown(floor[1])} if floor is not None else {}
        row |= {stage: _shown(known[name].value) for stage, known in scores.items() if name in known}
        ends = (numbers.finite(last[name].low), numbers.finite(last[name].high))
        row |= {"interval": f"{_shown(ends[0])} to {_shown(ends[1])}"} if None not in ends else {}
        rows.append(row)
    return rows


def _is_left_out(name: str, scores: Mapping[str, Score]) -> bool:
    """Return whether a value is a plain count, or says what another one says: micro F1 of single labels is accuracy."""
    repeats = name == "f1_micro" and "accuracy" in scores and scores[name].value == scores["accuracy"].value
    return repeats or name in COUNTS


def _shown(value: Any) -> str:
    number = numbers.finite(value)
    return NOTHING if number is None else f"{number:.3f}"


def next_command(record: Record, folder: Path) -> str | None:
    """Return the command that most people want next: to ask the saved model, else to report on the folder's runs."""
    if record.status != "ok":
        return None
    dataset = record.recipe.resolved.get("dataset") or {}
    columns = dataset.get("columns") or {}
    if "model" in record.artifacts and not columns.get("choices"):
        pair = ' --text-pair "..."' if columns.get("text_pair") else ""
        return f'python -m bench predict {shlex.quote(str(folder))} --text "..."{pair}'
    parent = folder.parent
    return f"python -m bench report {shlex.quote(str(parent))} -o {shlex.quote(str(parent / 'report'))}"


def validation_line(
    split: str, step: int, values: Mapping[str, float], best: str | None, earlier: Iterable[Mapping[str, Any]] = ()
) -> str:
    """Return a line on a validation: the metric that chooses, the usual ones, the loss; and the best value so far.

    best: the metric that chooses, if any; else the first of the usual ones is followed. earlier: rows of the training
    log, those of earlier launches among them. A metric of which nobody knows whether higher is better has no best.
    """
    names = sorted(values, key=lambda name: (name != best, accessors.metric_order(name)))
    left_out = {*COUNTS, *(["f1_micro"] if "accuracy" in values else [])} - {best}
    names = [name for name in names if name not in left_out]
    shown = dict.fromkeys([*names[:MOST_VALUES], *(["loss"] if "loss" in values else [])])
    line = f"validate {split} at step {step}: " + ", ".join(f"{name} {values[name]:.4f}" for name in shown)
    return line + (_beside_the_best(names[0], values[names[0]], earlier) if names else "")


def _beside_the_best(name: str, value: float, earlier: Iterable[Mapping[str, Any]]) -> str:
    """Return how a value compares with the earlier ones of its metric; "" for the first one."""
    known = ((row.get("step"), numbers.finite(row.get(f"validation_{name}"))) for row in earlier)
    others = [(step, one) for step, one in known if one is not None]
    upward = registry.directions().get(name)
    if not others or upward is None:
        return ""
    sign = 1 if upward else -1
    # Of equal values the first counts, as for the weights that are kept; one that is not defined is never the best.
    step, best = max(others, key=lambda pair: sign * pair[1])
    is_best = sign * value > sign * best
    return f", the best {name} so far" if is_best else f" (best {name} so far: {best:.4f} at step {step})"
