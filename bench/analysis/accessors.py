"""Accessors of records: stages, splits, ranking metric, system keys, predicted and measured memory. Loads no NumPy."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.config import registry
from bench.config.cards import LM_EVAL
from bench.errors import DataError
from bench.records import store
from bench.records.record import Record, Score
from bench.utils import numbers

# Runs are ranked by the first of these metrics that was measured.
MAIN_METRICS = (
    *("accuracy", "f1_macro", "jaccard_samples", "squad_f1", "squad_v2_f1", "pearson", "entity_f1"),
    *("extracted_match", "chrf"),
)
# By what these say no run is ranked where there is anything else.
LAST_METRICS = (
    *("loss", "brier", "ece", "ece_by_chance"),
    *("reference_loss", "perplexity", "reference_tokens", "extracted_nothing"),
    *("perplexity_per_token", "perplexity_per_word", "bits_per_byte"),
)
OTHER_METRICS = (
    *("jaccard_samples_empty0", "subset_accuracy", "hamming_accuracy", "f1_micro", "f1_weighted", "mcc"),
    *("squad_exact_match", "squad_v2_exact"),
    *("spearman", "mse", "mae", "entity_f1_macro", "entity_precision", "entity_recall", "token_accuracy"),
    *("acc_norm", "acc", "acc_bytes", "acc_tokens"),
)
# Baselines that give one answer to everything, or choose by a rule, see `bench.evaluation.baselines`.
CONSTANT_BASELINES = (
    *("majority", "no_answer", "split_majority", "mean", "split_mean", "all_o"),
    *("longest_choice", "chance"),
)
# Ranges of lm_eval's own metrics (`lm_eval.api.metrics`). Others are of tasks, some of which count from 0 to 100.
LM_EVAL_BOUNDS = {
    **dict.fromkeys(("acc", "acc_norm", "acc_mutual_info", "acc_bytes", "acc_tokens", "acc_all"), (0.0, 1.0)),
    **dict.fromkeys(("exact_match", "likelihood"), (0.0, 1.0)),
    "mcc": (-1.0, 1.0),
    **dict.fromkeys(("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "ter"), (0.0, math.inf)),
}
SELECTION_MARK = "†"
# Overrides that a study lays, and that set nothing of a run.
NO_SETTINGS = ("published", "published_before", "as_published", "dataset.quote")
STAGES = {"before": "before training", "after": "after training"}
Located = tuple[Path, Record]
SystemKey = tuple[str, str]
# Of more labels, a confusion matrix is kept as [cells][3]: see `bench.metrics.confusion_matrix`.
MATRIX_LABELS = 200
# Flags of PEFT's LoraConfig that make another published method of LoRA (Liu et al. 2024, Kalajdzievski 2023).
LORA_VARIANTS = ("use_dora", "use_rslora")
# Characters of a reason or a note that are shown; an error of a library can be pages long.
MAX_CHARACTERS = 2000
# A probe has only the first.
TRAINING_PHASES = ("train", "warm_up", "train_steps")


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


def stage_names(record: Record) -> dict[str, str]:
    """Return a display name for each stage; a model of which nothing is trained has one stage, "as it is"."""
    frozen = record.model is not None and record.model.parameters.get("trainable") == 0
    untrained = record.status == "ok" and record.training is None and (record.prompts is not None or frozen)
    return {"after": "as it is"} if untrained else STAGES


def metric_order(name: str) -> tuple[bool, int, str]:
    """Return a sort key for metric names: ranking metrics first, the loss last."""
    order = (*MAIN_METRICS, *OTHER_METRICS)
    return name in LAST_METRICS, order.index(name) if name in order else len(order), name


def metric_bounds(metric: str) -> tuple[float, float]:
    """Return the lowest and highest possible value of a metric; (-inf, inf) where they are not known."""
    if metric.startswith(LM_EVAL):
        return LM_EVAL_BOUNDS.get(metric.removeprefix(LM_EVAL).partition(",")[0], (-math.inf, math.inf))
    from bench.analysis.stats.chrf import WORD_ORDERS
    from bench.analysis.stats.sums import TOKENIZERS  # loads NumPy, which the page of one run does not need

    known = {"mcc": (-1.0, 1.0), **dict.fromkeys((*TOKENIZERS, *WORD_ORDERS), (0.0, 100.0))}
    known |= {
        "brier": (0.0, 2.0),
        "loss": (0.0, math.inf),
        "reference_loss": (0.0, math.inf),
        **dict.fromkeys(("perplexity", "perplexity_per_token", "perplexity_per_word"), (1.0, math.inf)),
        "bits_per_byte": (0.0, math.inf),
    }
    known |= dict.fromkeys(("pearson", "spearman"), (-1.0, 1.0)) | dict.fromkeys(("mse", "mae"), (0.0, math.inf))
    return known.get(metric, (0.0, 1.0) if metric in registry.directions() else (-math.inf, math.inf))


def points_of_one(metric: str) -> float | None:
    """Return how many points a difference of 1 in a metric is; None of a metric without points.

    A point is 0.01 of a score between 0 (or -1) and 1, and 1 of a score between 0 and 100.
    """
    return {(0.0, 1.0): 100.0, (-1.0, 1.0): 100.0, (0.0, 100.0): 1.0}.get(metric_bounds(metric))


def higher_is_better(records: Iterable[Record], metric: str | None) -> bool:
    """Return whether higher is better, as the runs recorded it, so that an included metric needs no --include here.

    Of records without it, as `registry.higher_is_better` has it. Raises DataError where runs contradict one another.
    """
    if metric is None:
        return True
    found = {
        score.higher_is_better
        for record in records
        for name, score in all_scores(record)
        if name == metric and score.higher_is_better is not None
    }
    if len(found) > 1:
        raise DataError(f"the runs contradict one another on whether higher {metric} is better: the metric has changed")
    return found.pop() if found else registry.higher_is_better(metric)


def scalars(record: Record, stage: str, split: str | None) -> dict[str, Score]:
    """Return the single-valued scores of one stage and split, by metric."""
    scores = record.scores.get(stage, {}).get(split or "", {})
    return {name: item for name, item in scores.items() if not isinstance(item.value, list)}


def finite_values(records: Iterable[Record], stage: str, split: str | None, metric: str) -> list[float]:
    """Return a metric's values on one stage and split, of the records that have a finite one."""
    scores = (scalars(record, stage, split).get(metric) for record in records)
    return [value for item in scores if item and (value := numbers.finite(item.value)) is not None]


def all_scores(record: Record) -> list[tuple[str, Score]]:
    """Return all (metric, score) pairs of a record."""
    return [pair for stage in record.scores.values() for split in stage.values() for pair in split.items()]


def constant_baseline(record: Record, split: str, metric: str) -> tuple[str, float] | None:
    """Return the best baseline that needs no model but for `random`: its name, and its value of a metric."""
    known = {
        kind: value
        for kind, values in record.baselines.get(split, {}).items()
        if kind in CONSTANT_BASELINES and (value := numbers.finite(values.get(metric))) is not None
    }
    sign = 1 if registry.higher_is_better(metric) else -1
    return max(known.items(), key=lambda item: sign * item[1], default=None)


def splits(record: Record) -> list[str]:
    """Return the scored splits: test first, the others in the order in which they were scored."""
    names = dict.fromkeys([*(name for stage in record.scores.values() for name in stage), *record.baselines])
    return sorted(names, key=lambda split: split != "test")


def ranking_metric(names: Iterable[str]) -> str | None:
    """Return the metric that ranks runs: the first of MAIN_METRICS, else of all others; the loss only if alone."""
    return min(names, key=metric_order, default=None)


def machine(record: Record) -> str | None:
    """Describe processes, devices and precision in words; None where the record does not hold them."""
    launch = record.launch
    if launch is None:
        return None
    named = Counter(record.environment.devices).items() if record.environment else ()
    devices = ", ".join(f"{number} × {name}" if number > 1 else name for name, number in named)
    processes = "1 process" if launch.world_size == 1 else f"{launch.world_size} processes"
    precision = "full precision" if launch.mixed_precision == "no" else launch.mixed_precision
    by = f", answers by {record.backend.name}" if record.backend is not None else ""
    return f"{processes} on {launch.device}{f' ({devices})' if devices else ''}, {precision}{by}"


def predicted(record: Record) -> dict[str, Any]:
    """Return the predicted memory of training: {"parts", "total_gib", "rows", ...}; {} without a prediction."""
    return _table((record.memory_predicted or {}).get("train"))


def predicted_gib(record: Record) -> float | None:
    """Return the predicted peak, GiB: the part that the measured peak is compared with, else the total."""
    compared = _table((record.memory_predicted or {}).get("compared"))
    return numbers.finite(compared.get("gib", predicted(record).get("total_gib")))


def measured(record: Record) -> dict[str, Any]:
    """Return the measured counterpart of the prediction: {"gib", "reserved_gib", "of"}; {} without a measurement."""
    return _table((record.memory_predicted or {}).get("measured"))


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def sort_key(pair: tuple[Path, Record]) -> tuple[str, int, str, str, str]:
    """Return a key that sorts runs in the same order wherever their files lie."""
    path, record = pair
    return record.name, record.seed or 0, record.recipe.hash or "", record.started_at, str(path)


def system_key(record: Record) -> SystemKey:
    """Return what all runs of a system share: the name, and the hash of the recipe without its seed."""
    return record.name, record.recipe.hash or ""


def method_label(record: Record) -> str:
    """Return the method by the name of what it trains: of PEFT's kinds ia3, dora, rslora, not the method file's lora.

    The recipe's method decides, so that a failed run has the same label. Another method than lora keeps its name beside
    a kind that is not LoRA: qlora (dora).
    """
    method = _table(record.recipe.resolved.get("method"))
    config = _table(method.get("config"))
    variants = [name.removeprefix("use_") for name in LORA_VARIANTS if config.get(name) is True]
    kind = "+".join(variants) or str(method.get("peft", "LoraConfig")).removesuffix("Config").lower()
    if kind == "lora":
        return record.method
    return kind if record.method == "lora" else f"{record.method} ({kind})"


def shown_name(record: Record) -> str:
    """Return the parts of a system's name, joined by two dashes as in the record, with the label of its method."""
    parts = record.name.split("--")
    return "--".join([*parts[:-1], method_label(record)]) if parts[-1] == record.method else record.name


def by_data_set(records: Sequence[Located]) -> dict[str, dict[str, list[Located]]]:
    """Group runs: data set -> comparability key -> runs, in the order of `sort_key`.

    A run that failed before its data were loaded joins the runs of its dataset card if they share one key.
    """
    ordered = sorted(records, key=sort_key)
    by_card = {dataset_card(record): record.data.id for _, record in ordered if record.data and dataset_card(record)}
    groups: dict[str, dict[str, list[Located]]] = {}
    for path, record in ordered:
        card = dataset_card(record)
        name = record.data.id if record.data else by_card.get(card, card) or "not known"
        key = record.comparability.key if record.comparability else ""
        groups.setdefault(name, {}).setdefault(key, []).append((path, record))
    for tables in groups.values():
        if len(tables) == 2 and all(record.status != "ok" for _, record in tables.get("", ordered)):
            tables[max(tables)] += tables.pop("")
    return groups


def differing_parts(tables: Mapping[str, Sequence[Located]]) -> list[str]:
    """Return the parts of comparability in which runs of one data set differ, sorted. tables: key -> runs."""
    keys = [record.comparability for runs in tables.values() for _, record in runs if record.comparability]
    hashes = Counter(name for name, _ in {part for key in keys for part in key.parts.items()})
    # Prompt and generation are not part of the key, see `bench.runner.comparability`.
    return sorted({name for name, number in hashes.items() if number > 1} - {"template", "generation"})


def dataset_card(record: Record) -> str:
    """Return what names the data, from the command line or the recipe: a card, a path or a Hub id; empty for none."""
    for text in reversed(record.recipe.overrides):
        named = re.match(r"dataset(?:\.(?:card|id|path))?=(?:\{\s*(?:card|id|path):\s*)?([\w./~:@-]+)", text)
        if named:
            return named[1]
    chosen = record.recipe.as_written.get("dataset")
    if isinstance(chosen, dict):
        chosen = next((chosen[key] for key in ("card", "id", "path") if chosen.get(key)), "")
    return str(chosen or "")


def card_of(record: Record) -> dict[str, Any]:
    """Return the card of the data set as the run resolved it; {} where the record does not describe it."""
    return _table(record.recipe.resolved.get("dataset"))


def overridden(record: Record) -> list[tuple[str, str, str]]:
    """Return (key, value, set by) of each overridden card value and each override of the command line."""
    typed = dict(text.partition("=")[::2] for text in record.recipe.overrides)
    cards = [pair for pair in sorted(record.recipe.card_overrides.items()) if pair[0] not in typed]
    rows = [(key, json.dumps(value, ensure_ascii=False, default=str), "recipe") for key, value in cards]
    return rows + [(key, value, "command line") for key, value in sorted(typed.items())]


def distinguishing_endings(records: Mapping[Any, Record]) -> dict[Any, str]:
    """Return a suffix for each of several systems of one name, by key; empty for a single system.

    The suffix is the recipe's file where each system has its own, else the overrides in which they differ, else the
    hash. records: key -> first record of a system.
    """
    if len(records) == 1:
        return dict.fromkeys(records, "")
    files = {key: Path(record.recipe.path).stem for key, record in records.items()}
    if len(set(files.values())) == len(files):
        return {key: f" [{file}]" for key, file in files.items()}
    rows = {
        key: [f"{setting}={value}" for setting, value, _ in overridden(record) if setting not in NO_SETTINGS]
        for key, record in records.items()
    }
    common = set.intersection(*(set(each) for each in rows.values()))
    shown = {key: "; ".join(item for item in each if item not in common) for key, each in rows.items()}
    alone = {key for key, text in shown.items() if text and list(shown.values()).count(text) == 1}
    return {
        key: f" ({text})" if key in alone else f" [{(records[key].recipe.hash or '')[:8]}]"
        for key, text in shown.items()
    }


def endings(firsts: Mapping[SystemKey, Record]) -> dict[SystemKey, str]:
    """Return `distinguishing_endings` of all systems, by key: of each shown name for itself."""
    by_name: dict[str, dict[SystemKey, Record]] = {}
    for key, record in firsts.items():
        by_name.setdefault(shown_name(record), {})[key] = record
    return {key: ending for alike in by_name.values() for key, ending in distinguishing_endings(alike).items()}


def shared_parts(records: Iterable[Record]) -> frozenset[int]:
    """Return the places of the parts of their names that all records share, as the study, or a single model."""
    names = {tuple(shown_name(record).split("--")) for record in records}
    longest = max(map(len, names), default=0)
    return frozenset(place for place in range(longest) if len({words[place : place + 1] for words in names}) == 1)


def short_name(record: Record, shared: frozenset[int]) -> str:
    """Return the parts of a shown name that not all systems share, for people; all of them where nothing is left."""
    words = shown_name(record).split("--")
    return " / ".join([part for place, part in enumerate(words) if place not in shared] or words)


def fold_asked(record: Record) -> int | None:
    """Return the fold that a recipe holds out; None for a run on the splits of its card."""
    part = record.recipe.resolved.get("data")
    fold = part.get("fold") if isinstance(part, dict) else None
    return fold if isinstance(fold, int) else None


def require_metric(records: Sequence[tuple[Path, Record]], metric: str | None) -> None:
    """Raise DataError for a requested metric of which no run has a single-valued score. metric: None requests none."""
    known = {
        name for _, record in records for split in record.scores.get("after", {})
        for name in scalars(record, "after", split)
    }  # fmt: skip
    if metric is not None and metric not in known:
        names = ", ".join(sorted(known, key=metric_order)) or "none"
        raise DataError(f"no run has a single-valued score of the metric {metric!r}; available: {names}")


def training_s(record: Record) -> float | None:
    """Return seconds of training; None without training, and for a resumed run, whose record lacks earlier launches."""
    seconds = [phase.seconds for phase in record.phases if phase.name in TRAINING_PHASES]
    return sum(seconds) if seconds and not record.resumed else None


def timed(record: Record) -> list[tuple[str, float]]:
    """Return phase -> seconds, with what lies between the phases, so that all of them sum to the run's duration.

    A resumed run's phases hold steps of earlier launches, whose durations its record does not know.
    """
    phases = [(phase.name, phase.seconds) for phase in record.phases]
    if not phases or record.finished_at is None or record.resumed:
        return phases
    try:
        duration = datetime.fromisoformat(record.finished_at) - datetime.fromisoformat(record.started_at)
    except ValueError:
        return phases
    rest = duration.total_seconds() - sum(seconds for _, seconds in phases)
    return [*phases, ("not in a phase", rest)] if rest > 0 else phases


def selection_mark(record: Record) -> str:
    """Return the mark of a run whose scored data also chose its step or settings; "" for any other."""
    return f" {SELECTION_MARK}" if record.selected_on else ""


def selection_notes(records: Iterable[Record]) -> list[str]:
    """Return the sentence that explains the mark, where any of the runs has it."""
    sentence = f"{SELECTION_MARK} The best step or the settings were chosen on the data that are scored: optimistic."
    return [sentence] if any(record.selected_on for record in records) else []
