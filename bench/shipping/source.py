"""The run that is shipped: its saved model, and its examples by its own prompts, as the run itself scored them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from bench.analysis import accessors, predictions
from bench.analysis.stats.sums import Line, tally
from bench.config import registry
from bench.config.contracts import LoadPlan
from bench.config.recipe import Recipe
from bench.config.resolve import Resolved
from bench.data import dataset
from bench.data.examples import Encoded
from bench.errors import BenchError, DataError
from bench.evaluation import export, saved_model
from bench.evaluation import scoring as scorer
from bench.evaluation.metric_set import Predictions
from bench.evaluation.reader import Scoring
from bench.evaluation.scoring import label_names
from bench.models import saving
from bench.records import store
from bench.records.record import Record
from bench.runner import inputs
from bench.shipping import timing
from bench.shipping.verdict import Answers

STAGE = "after"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question to a run. split, metric: None for those that rank the run. examples: at most so many; None for all."""

    run: Path
    split: str | None = None
    metric: str | None = None
    examples: int | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """A run's model and examples. given: the run's own answers to them. timed: those whose time is measured.

    recipe: as the run resolved it, with this split alone.
    """

    run: Path
    record: Record
    description: Mapping[str, Any]
    recipe: Recipe
    split: Encoded
    timed: Encoded
    scoring: Scoring
    metric: str
    given: Answers

    @property
    def folder(self) -> Path:
        """Return the folder of the saved model."""
        return saved_model.find(self.run)

    @property
    def is_adapter(self) -> bool:
        """Return whether the saved model is an adapter, beside a base model."""
        return (self.folder / "adapter_config.json").is_file()

    def answers(self, found: Predictions) -> Answers:
        """Return predictions as the statistics by which they are compared."""
        data = self.record.data
        assert data is not None
        values = self.scoring.metrics.per_example(found).get(self.metric)
        labels, lines = tuple(data.labels), {}
        for row, identity in enumerate(found.ids):
            extra = found.extra[row] if found.extra else {}
            lines[identity] = Line(
                prediction=label_names(found.predictions[row], labels),
                reference=label_names(found.references[row], labels),
                value=None if values is None else float(values[row]),
                loss=extra.get("reference_nll"),
                tokens=extra.get("reference_tokens"),
            )
        card = self.recipe.dataset
        counted = tally(self.metric, [*lines.values()], labels, multi_label=card.multi_label, scheme=card.scheme)
        return Answers(lines=lines, tally=counted)

    def score(self, model: Any, scoring: Scoring, title: str) -> scorer.Scored:
        """Score a model on all examples, each exactly once."""
        return scorer.run(model, self.split, scoring, title)


def prepare(asked: Asked) -> Source:
    """Read a finished run, its predictions and its data. Raises BenchError for a run that can't be shipped."""
    folder = saved_model.find(asked.run)
    record = store.read(asked.run)
    if record.status != "ok":
        raise DataError(
            f"{asked.run} ended with status `{record.status}` ({record.reason}); only a run that ended well is shipped"
        )
    description = saved_model.describe(folder)
    export.refuse_own_kinds(asked.run, description)
    split, metric = _chosen(record, asked)
    scored = predictions.read_predictions(asked.run / store.FILE, record, STAGE, split, metric)
    ids = _some(list(scored.lines), asked.examples)
    recipe, options = _recipe(record, asked.run, split)
    encoded, scoring = _encoded(record, recipe, options, split, ids, folder)
    return Source(
        run=asked.run,
        record=record,
        description=description,
        recipe=recipe,
        split=encoded,
        timed=_timed(encoded),
        scoring=scoring,
        metric=metric,
        given=Answers(lines={identity: scored.lines[identity] for identity in ids}, tally=scored.on(ids)),
    )


def _chosen(record: Record, asked: Asked) -> tuple[str, str]:
    """Return split and metric: those that are asked for, else those that rank the run."""
    known = list(record.scores.get(STAGE, {}))
    split = asked.split or next((name for name in accessors.splits(record) if name in known), None)
    if split not in known:
        raise DataError(f"{asked.run} has no scores of the split {split!r}; it has: {', '.join(known) or 'none'}")
    names = accessors.scalars(record, STAGE, split)
    metric = asked.metric or accessors.ranking_metric(names)
    if metric is None or metric not in names:
        raise DataError(f"{asked.run} has no {metric!r} on {split}; it has: {', '.join(sorted(names)) or 'none'}")
    return split, metric


def _some(ids: list[str], count: int | None) -> list[str]:
    """Return at most so many ids, sorted: always the same ones, drawn by the hash of the id."""
    if count is not None:
        ids = sorted(ids, key=lambda identity: hashlib.sha256(identity.encode()).digest())[:count]
    return sorted(ids)


def _recipe(record: Record, run: Path, split: str) -> tuple[Recipe, Any]:
    """Return a run's recipe as it was resolved, for this split alone, and the options of its method."""
    try:
        recipe = Recipe.model_validate_json(json.dumps(record.recipe.resolved))
        module: Any = registry.load_method(recipe.method.name)
        options = module.Options.model_validate_json(json.dumps(recipe.method.model_extra))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{run / store.FILE}: its recipe is not valid in this version: {where}: {first['msg']}"
        ) from error
    only = recipe.evaluation.model_copy(update={"splits": (split,)})
    return recipe.model_copy(update={"evaluation": only}), options


def _encoded(
    record: Record, recipe: Recipe, options: Any, split: str, ids: list[str], folder: Path
) -> tuple[Encoded, Scoring]:
    """Encode the examples as the run did, with the tokenizer of its saved model."""
    plan: LoadPlan = registry.load_method(recipe.method.name).load_plan(options)
    task, corpus = registry.load_task(recipe.dataset.task), _corpus(record, recipe, split)
    wanted = set(ids)
    rows = [row for row in corpus.splits[split].rows if row["id"] in wanted]
    if len(rows) != len(ids):
        raise DataError(f"the data of {split} have only {len(rows)} of the {len(ids)} examples that the run scored")
    parts = {split: replace(corpus.splits[split], rows=rows)}
    if split != "train" and "train" in corpus.splits:  # nothing is learned here
        parts["train"] = replace(corpus.splits["train"], rows=corpus.splits["train"].rows[:1])
    corpus = replace(corpus, splits=parts)
    tokenizer = saving.load_tokenizer(folder)
    if recipe.objective == "head":
        data: Any = task.encode(corpus, tokenizer, recipe)
    else:
        data = inputs.prompted(recipe, plan, corpus, task, tokenizer)
    names = _metric_names(record, recipe, options)
    scoring = Scoring(
        tokenizer=tokenizer,
        metrics=inputs.metrics_of(recipe, corpus, task)(names),
        threshold=recipe.evaluation.threshold,
        device=torch.device("cpu"),
        precision="no",
        batch_tokens=recipe.evaluation.batch_tokens,
        shared_prefix=recipe.speed.shared_prefix,
        reader=data.reader,
    )
    return data.splits[split], scoring


def _corpus(record: Record, recipe: Recipe, split: str) -> dataset.Corpus:
    """Load the run's data again. Raises DataError where they are gone, or are others than the run's."""
    needed = {"train", split} & set(recipe.data.splits(recipe.dataset.split_names))
    try:
        corpus = dataset.load(recipe.dataset, recipe.limit, needed, recipe.data, record.seed or 0)
    except (BenchError, OSError) as error:
        raise DataError(f"the run's data can't be read again: {error}") from error
    part = record.data.splits.get(split) if record.data is not None else None
    if part is None or corpus.splits[split].fingerprint != part.fingerprint:
        raise DataError(f"the data of {split} have changed since the run: their fingerprint differs from the record's")
    return corpus


def _metric_names(record: Record, recipe: Recipe, options: Any) -> tuple[str, ...]:
    resolved = Resolved(
        recipe=recipe, options=options, path=record.recipe.path, study=record.study, dataset_name="", model_name="",
        model_card="", as_written={}, overrides=(), card_overrides={},
    )  # fmt: skip
    return resolved.metric_names


def _timed(split: Encoded) -> Encoded:
    """Return the examples whose time is measured: of all lengths, in equal steps of their order by length."""
    lengths = split.lengths
    order = sorted(range(len(lengths)), key=lambda number: (lengths[number], number))
    count = min(timing.EXAMPLES, len(order))
    chosen = sorted({order[place * len(order) // count] for place in range(count)})
    return replace(
        split,
        ids=tuple(split.ids[number] for number in chosen),
        features=[split.features[number] for number in chosen],
        sizes=None if split.sizes is None else tuple(split.sizes[number] for number in chosen),
    )
