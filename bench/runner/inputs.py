"""Loads, encodes and describes what a run's stages work on: data, tokenizer and metrics."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from bench.analysis import accessors
from bench.config import contracts, foreign_code, registry, rules
from bench.config.cards import GENERATION_TASK
from bench.config.recipe import Recipe
from bench.data import dataset, lost_texts, squad
from bench.data import tokenizer as tokenizers
from bench.data.examples import Encoded
from bench.data.rows import texts_of
from bench.distributed import setup, sharding
from bench.errors import SetupError
from bench.evaluation import lm_eval_examples, metric_set, reference_examples, self_check, text_examples
from bench.evaluation.reader import Scoring
from bench.models import build
from bench.records import record
from bench.runner import published_settings, selected_on_test, text_classifier
from bench.runner.comparability import comparability
from bench.runner.context import RunContext, RunInputs


def load_data(run: RunContext) -> RunInputs:
    """Load splits, tokenizer, encoded examples and metrics; fill in the data part of the record."""
    recipe = run.resolved.recipe
    method, task = registry.load_method(recipe.method.name), registry.load_task(recipe.dataset.task)
    plan = method.load_plan(run.resolved.options)
    _note_sharding(run, plan)
    published_settings.note(run)
    setup.check_products(recipe, plan, on_cpu=run.state.device.type != "cuda")
    with run.clock.phase("load"):
        foreign_code.trusts(run.resolved.recipe.model)
        if run.state.is_main_process:  # before the data, of which reading takes long
            run.trackers.start(recipe.trackers, run.record, run.folder)
        _check_threshold(recipe, plan)
        corpus = _load_corpus(run, plan)
        selected_on_test.check(run, corpus, by_gradients=plan.trains == "gradient")
        tokenizer, notes = _tokenizer(recipe, corpus) if plan.trains != "texts" else (None, [])
        squad.check_version(corpus.version, run.resolved.metric_names)
        build_metrics = metrics_of(recipe, corpus, task)
        metrics = build_metrics(run.resolved.metric_names)
        # A metric that written answers can't have keeps nobody from comparing them by the others.
        signatures = metrics.signatures() | build_metrics(run.resolved.metrics_left_out).signatures()
    for name in run.resolved.metrics_left_out:
        run.record.note(f"{name} is left out: it {rules.why_undefined(name, recipe)}")
    for note in [*run.resolved.included_notes, *corpus.notes, *notes]:
        run.record.note(note)
    run.record.warn_of(*corpus.warnings)
    with run.clock.phase("tokenise"):
        data = _encode(run, corpus, plan, task, tokenizer)
    scoring = Scoring(
        tokenizer=tokenizer,
        metrics=metrics,
        batch_tokens=recipe.evaluation.batch_tokens,
        # Of a stage, whatever the number of its splits.
        checked=max(2, self_check.EXAMPLES // len(recipe.evaluation.splits)),
        threshold=recipe.evaluation.threshold,
        device=run.state.device,
        precision=setup.precision(),
        shared_prefix=recipe.speed.shared_prefix,
        reader=data.reader,
    )
    inputs = RunInputs(
        corpus=corpus,
        plan=plan,
        method=method,
        task=task,
        tokenizer=tokenizer,
        splits=data.splits,
        train=data.train,
        scoring=scoring,
    )
    run.record.data = _describe_data(run, corpus, inputs.encoded)
    run.record.comparability = comparability(run.resolved, corpus, signatures, run.record.prompts)
    _tell_of_cuts(run, inputs, data.unit)
    return inputs


def _tell_of_cuts(run: RunContext, inputs: RunInputs, unit: str) -> None:
    """Note how many texts of each split were cut, and warn where these are many. unit: what was cut."""
    limit = run.resolved.recipe.max_length
    for split in inputs.encoded.values():
        if split.truncated:
            run.record.note(f"{split.name}: {split.truncated} {unit} cut to {limit} tokens")
    rows = {name: len(inputs.corpus.splits[name].rows) for name in inputs.encoded}
    cut = {name: (split.truncated, rows[name]) for name, split in inputs.encoded.items()}
    run.record.warn_of(lost_texts.texts_cut(cut, unit, limit))


def _tokenizer(recipe: Recipe, corpus: dataset.Corpus) -> tuple[PreTrainedTokenizerBase, list[str]]:
    rows = corpus.splits["train"].rows if "train" in corpus.splits else []
    texts = (text for row in rows for text in texts_of(row))
    return tokenizers.build(recipe.model, build.locate(recipe.model), texts)


def metrics_of(
    recipe: Recipe, corpus: dataset.Corpus, task: contracts.Task
) -> Callable[[tuple[str, ...]], metric_set.MetricSet]:
    """Return what builds metrics by name, for the labels, tags and answers of a corpus."""
    return partial(
        metric_set.MetricSet,
        multi_label=recipe.dataset.multi_label,
        num_labels=len(corpus.labels),
        tags=corpus.labels if task.READS == "tags" else (),
        scheme=recipe.dataset.scheme,
        extract=recipe.evaluation.extract,
    )


def _note_sharding(run: RunContext, plan: contracts.LoadPlan) -> None:
    note = sharding.check(run.resolved.recipe, plan)
    if note is not None:
        run.record.note(note)


def _check_threshold(recipe: Recipe, plan: contracts.LoadPlan) -> None:
    """Raise SetupError where early stopping asks for a gain that is more than its metric can vary."""
    best, stopping = recipe.training.best, recipe.training.early_stopping
    if best is None or stopping is None or plan.trains != "gradient":
        return
    low, high = accessors.metric_bounds(best)
    if stopping.threshold >= high - low:
        raise SetupError(
            f"training.early_stopping.threshold: no evaluation can gain {stopping.threshold:g} in {best}, which lies "
            f"between {low:g} and {high:g}; give a smaller one"
        )


def _load_corpus(run: RunContext, plan: contracts.LoadPlan) -> dataset.Corpus:
    recipe = run.resolved.recipe
    wanted = {"train", *recipe.evaluation.splits}
    if recipe.training.evaluate_every is not None and plan.trains == "gradient":
        wanted.add(recipe.evaluation.validation)
    if recipe.evaluation.temperature is not None:
        wanted.add(recipe.evaluation.validation)
    limit = dict(recipe.limit)
    if plan.trains == "nothing" and "train" in limit and recipe.data.folds is None:
        del limit["train"]
        # The same shots, whatever part of the data a run looks at.
        run.record.note("limit.train is not used: nothing is trained, and shots are drawn from the whole split")
    corpus = dataset.load(recipe.dataset, limit, wanted, recipe.data, recipe.seed)
    if "train" not in corpus.splits and (plan.trains != "nothing" or recipe.model.tokenizer.train):
        raise SetupError("the data set has no split 'train'")
    return corpus


def _encode(
    run: RunContext,
    corpus: dataset.Corpus,
    plan: contracts.LoadPlan,
    task: contracts.Task,
    tokenizer: Any,
) -> contracts.EncodedData:
    """Encode a corpus for a task head or as text; what was kept, asked or left out goes into the record."""
    recipe = run.resolved.recipe
    if plan.trains == "texts":
        data = text_classifier.encode(corpus, plan.features)
    elif recipe.objective == "head":
        data = task.encode(corpus, tokenizer, recipe, run.state)
    else:  # a prompt is made of more than its row, so that no tokens are kept
        asked = prompted(recipe, plan, corpus, task, tokenizer)
        run.record.prompts = asked.prompts
        if not recipe.dataset.quote:
            run.record.prompts.example = ""
        data = contracts.EncodedData(
            splits=asked.splits,
            train=asked.train,
            reader=asked.reader,
            notes=tuple(asked.notes),
            warnings=asked.warnings,
        )
    run.record.speed["token_cache"] = data.token_cache
    for note in data.notes:
        run.record.note(note)
    run.record.warn_of(*data.warnings)
    return data


def prompted(
    recipe: Recipe, plan: contracts.LoadPlan, corpus: dataset.Corpus, task: contracts.Task, tokenizer: Any
) -> text_examples.TextExamples:
    """Encode a corpus as prompts, by the recipe's task and source of data."""
    if recipe.dataset.source.kind == "lm_eval":
        return lm_eval_examples.encode_corpus(recipe, plan, corpus, tokenizer)
    writes = recipe.dataset.task == GENERATION_TASK
    encode_corpus = reference_examples.encode_corpus if writes else text_examples.encode_corpus
    return encode_corpus(recipe, plan, corpus, task, tokenizer)


def _describe_data(run: RunContext, corpus: dataset.Corpus, splits: dict[str, Encoded]) -> record.Data:
    card = run.resolved.recipe.dataset
    parts = {}
    for name, split in splits.items():
        lengths = np.array(split.lengths)
        tokens = {"mean": lengths.mean(), "p50": np.percentile(lengths, 50), "p99": np.percentile(lengths, 99)}
        parts[name] = record.SplitPart(
            examples=len(split.ids),
            fingerprint=corpus.splits[name].fingerprint,
            labels=corpus.splits[name].labels(corpus.labels),
            tokens={**{key: round(float(value), 2) for key, value in tokens.items()}, "max": float(lengths.max())},
            truncated=split.truncated,
            dropped=corpus.splits[name].dropped,
        )
    identity = card.source.id or run.resolved.dataset_name
    subset, held_out = corpus.subset, corpus.held_out
    return record.Data(
        id=identity,
        revision=card.source.revision,
        labels=list(corpus.labels),
        splits=parts,
        train_subset=None
        if subset is None
        else record.TrainSubset(**asdict(subset), labels=corpus.splits["train"].labels(corpus.labels)),
        fold=None if held_out is None else record.Fold(**{**asdict(held_out), "of": list(held_out.of)}),
    )
