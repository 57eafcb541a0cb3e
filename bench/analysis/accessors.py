"""Accessors of records: stages, splits, ranking metric, system keys, predicted and measured memory."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config import registry
from bench.errors import DataError
from bench.records import store
from bench.records.record import Record, Score
from bench.utils import numbers

# The metric that ranks runs is the first of these that was measured.
MAIN_METRICS = ("accuracy", "f1_macro", "jaccard_samples", "squad_f1", "squad_v2_f1")
OTHERS = (
    *("jaccard_samples_empty0", "subset_accuracy", "hamming_accuracy", "f1_micro", "f1_weighted", "mcc"),
    *("squad_exact_match", "squad_v2_exact"),
)
STAGES = {"before": "before training", "after": "after training"}
Located = tuple[Path, Record]
Key = tuple[str, str]
# Characters of a reason or a note; what fails inside a library can be pages long.
LONG = 2000


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A record that is not used, and why. is_unsound: its predictions contradict its scores."""

    path: Path
    reason: str
    is_unsound: bool = False


def read_all(paths: Sequence[Path]) -> tuple[list[Located], list[LeftOut]]:
    """Read all records at or below `paths`, each once; return them, and the files that can't be read.

    Raises DataError for a path that does not exist, and where there is no record at all.
    """
    records: list[Located] = []
    unreadable: list[LeftOut] = []
    for path in store.locate(paths):
        try:
            records.append((path, store.read(path)))
        except DataError as error:
            unreadable.append(LeftOut(path=path, reason=str(error).removeprefix(f"{path}: ")))
    return records, unreadable


def stages(record: Record) -> dict[str, str]:
    """What the stages are called; a model of which nothing is trained has one, as it is."""
    untrained = record.status == "ok" and record.training is None and record.prompts is not None
    return {"after": "as it is"} if untrained else STAGES


def metric_order(name: str) -> tuple[bool, int, str]:
    """Sorts metrics: those that rank runs first, the loss last."""
    order = (*MAIN_METRICS, *OTHERS)
    return name == "loss", order.index(name) if name in order else len(order), name


def bounds(metric: str) -> tuple[float, float]:
    """The least and the largest value that a metric can take; all of the harness's own but three kinds are shares."""
    from bench.analysis.stats.sums import TOKENIZERS  # NumPy, which a page of one run does without

    known = {"mcc": (-1.0, 1.0), "loss": (0.0, math.inf), **dict.fromkeys(TOKENIZERS, (0.0, 100.0))}
    return known.get(metric, (0.0, 1.0) if metric in registry.directions() else (-math.inf, math.inf))


def scalars(record: Record, stage: str, split: str | None) -> dict[str, Score]:
    """Single-valued scores of one stage and split."""
    found = record.scores.get(stage, {}).get(split or "", {})
    return {name: item for name, item in found.items() if not isinstance(item.value, list)}


def all_scores(record: Record) -> list[tuple[str, Score]]:
    """All (metric, score) pairs of a record."""
    return [pair for stage in record.scores.values() for split in stage.values() for pair in split.items()]


def splits(record: Record) -> list[str]:
    """Scored splits: test first, the others in the order in which they were scored."""
    found = dict.fromkeys([*(name for stage in record.scores.values() for name in stage), *record.baselines])
    return sorted(found, key=lambda split: split != "test")


def ranking_metric(names: Iterable[str]) -> str | None:
    """The first of MAIN_METRICS, else of all others; the loss only where there is nothing else."""
    return min(names, key=metric_order, default=None)


def machine(record: Record) -> str | None:
    """Processes, devices and precision, in words; None where they are not known."""
    launch = record.launch
    if launch is None:
        return None
    named = Counter(record.environment.devices).items() if record.environment else ()
    devices = ", ".join(f"{number} × {name}" if number > 1 else name for name, number in named)
    processes = "1 process" if launch.world_size == 1 else f"{launch.world_size} processes"
    precision = "full precision" if launch.mixed_precision == "no" else launch.mixed_precision
    return f"{processes} on {launch.device}{f' ({devices})' if devices else ''}, {precision}"


def predicted(record: Record) -> dict[str, Any]:
    """What was predicted of training's memory: {"parts", "total_gib", "rows", ...}; {} where there is nothing."""
    return _table((record.memory_predicted or {}).get("train"))


def predicted_gib(record: Record) -> float | None:
    """The predicted peak: what the measured one is compared with, else all of it."""
    compared = _table((record.memory_predicted or {}).get("compared"))
    return numbers.finite(compared.get("gib", predicted(record).get("total_gib")))


def measured(record: Record) -> dict[str, Any]:
    """What was measured for comparison: {"gib", "reserved_gib", "of"}; {} where there is nothing."""
    return _table((record.memory_predicted or {}).get("measured"))


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def identity(pair: tuple[Path, Record]) -> tuple[str, int, str, str, str]:
    """By what runs are put in order, wherever they were found first."""
    path, record = pair
    return record.name, record.seed or 0, record.recipe.hash or "", record.started_at, str(path)


def key_of(record: Record) -> Key:
    """What runs of one system share: name, and the recipe's hash, of all that decides the result but the seed."""
    return record.name, record.recipe.hash or ""


def by_key(records: Sequence[Located]) -> dict[str, dict[str, list[Located]]]:
    """Data set -> comparability key -> runs, in the order of `identity`.

    A run that failed before it had them joins those of its card, if these have one key.
    """
    ordered = sorted(records, key=identity)
    by_card = {dataset_card(record): record.data.id for _, record in ordered if record.data and dataset_card(record)}
    found: dict[str, dict[str, list[Located]]] = {}
    for path, record in ordered:
        card = dataset_card(record)
        name = record.data.id if record.data else by_card.get(card, card) or "not known"
        key = record.comparability.key if record.comparability else ""
        found.setdefault(name, {}).setdefault(key, []).append((path, record))
    for tables in found.values():
        if len(tables) == 2 and all(record.status != "ok" for _, record in tables.get("", ordered)):
            tables[max(tables)] += tables.pop("")
    return found


def differing_parts(tables: Mapping[str, Sequence[Located]]) -> list[str]:
    """The parts of comparability in which the runs of one data set differ, sorted. tables: key -> runs."""
    keys = [record.comparability for runs in tables.values() for _, record in runs if record.comparability]
    hashes = Counter(name for name, _ in {part for key in keys for part in key.parts.items()})
    # How a model is asked is no part of the key, see `bench.runner.comparability`.
    return sorted({name for name, number in hashes.items() if number > 1} - {"template", "generation"})


def dataset_card(record: Record) -> str:
    """The name of the data set's card, as the recipe or the command line gives it; empty where neither tells."""
    for text in reversed(record.recipe.overrides):
        named = re.match(r"dataset(?:\.card)?=(?:\{\s*card:\s*)?([\w.-]+)", text)
        if named:
            return named[1]
    chosen = record.recipe.as_written.get("dataset")
    return str(chosen.get("card", "") if isinstance(chosen, dict) else chosen or "")


def overridden(record: Record) -> list[tuple[str, str, str]]:
    """(key, value, who set it) of card values that were replaced, and of what the command line set."""
    typed = dict(text.partition("=")[::2] for text in record.recipe.overrides)
    cards = [pair for pair in sorted(record.recipe.card_overrides.items()) if pair[0] not in typed]
    rows = [(key, json.dumps(value, ensure_ascii=False, default=str), "recipe") for key, value in cards]
    return rows + [(key, value, "command line") for key, value in sorted(typed.items())]


def told_apart(records: Mapping[Any, Record]) -> dict[Any, str]:
    """What tells systems of one name apart, by their keys: their recipes' files where each has its own, else the
    overrides in which they differ, else the hashes. records: key -> a system's first record. Empty for a system alone.
    """
    if len(records) == 1:
        return dict.fromkeys(records, "")
    files = {key: Path(found.recipe.path).stem for key, found in records.items()}
    if len(set(files.values())) == len(files):
        return {key: f" [{file}]" for key, file in files.items()}
    rows = {key: [f"{setting}={value}" for setting, value, _ in overridden(found)] for key, found in records.items()}
    common = set.intersection(*(set(each) for each in rows.values()))
    shown = {key: "; ".join(item for item in each if item not in common) for key, each in rows.items()}
    alone = {key for key, text in shown.items() if text and list(shown.values()).count(text) == 1}
    return {
        key: f" ({text})" if key in alone else f" [{(records[key].recipe.hash or '')[:8]}]"
        for key, text in shown.items()
    }


# A probe has the first only.
TRAINING_PHASES = ("train", "warm_up", "train_steps")


def require_metric(records: Sequence[tuple[Path, Record]], metric: str | None) -> None:
    """Raises DataError where a metric is asked for that is no single score of any run; nothing for None."""
    known = {
        name for _, record in records for split in record.scores.get("after", {})
        for name in scalars(record, "after", split)
    }  # fmt: skip
    if metric is not None and metric not in known:
        names = ", ".join(sorted(known, key=metric_order)) or "none"
        raise DataError(f"no run has a single score of the metric {metric!r}; known: {names}")


def training_s(record: Record) -> float | None:
    """Seconds of training; None for a model that was not trained, or whose earlier launches are not in the record."""
    found = [phase.seconds for phase in record.phases if phase.name in TRAINING_PHASES]
    return sum(found) if found and not record.resumed else None
