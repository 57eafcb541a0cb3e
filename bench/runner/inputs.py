"""What a run's stages work on: data, tokenizer and metrics, loaded, encoded and described."""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.config import contracts, registry
from bench.config.recipe import Recipe
from bench.data import dataset, squad
from bench.data import tokenizer as tokenizers
from bench.data.examples import Encoded
from bench.data.rows import Split
from bench.data.token_cache import TokenCache
from bench.distributed import setup, sharding
from bench.errors import SetupError
from bench.evaluation import metric_set, text_examples
from bench.evaluation.reader import Scoring
from bench.models import build
from bench.records import record
from bench.runner.comparability import comparability
from bench.runner.context import Material

Run = Any  # bench.runner.context.Run; run imports this module


def load_data(run: Run) -> Material:
    """Splits, tokenizer, encoded examples and metrics; the data part of the record."""
    recipe = run.resolved.recipe
    method = registry.load("methods", recipe.method.name)
    task = registry.load("tasks", recipe.dataset.task)
    plan = method.load_plan(run.resolved.options)
    _note_sharding(run, plan)
    with run.clock.phase("load"):
        _confirm_remote_code(run)
        _check_trackers(recipe, plan)
        corpus = _load_corpus(run, plan)
        rows = corpus.splits["train"].rows if "train" in corpus.splits else []
        texts = (text for row in rows for text in (row["text"], row["text_pair"]) if text)
        tokenizer, notes = tokenizers.build(recipe.model, build.locate(recipe.model), texts)
        squad.check_version(corpus.version, run.resolved.metric_names)
        kinds = {"multi_label": recipe.dataset.multi_label, "num_labels": len(corpus.labels)}
        metrics = metric_set.MetricSet(run.resolved.metric_names, **kinds)
        # A metric that written answers can't have keeps nobody from comparing them by the others.
        signatures = metrics.signatures() | metric_set.MetricSet(run.resolved.metrics_left_out, **kinds).signatures()
    for name in run.resolved.metrics_left_out:
        run.record.note(f"{name} is left out: it needs probabilities, which generated answers do not have")
    for note in [*run.resolved.included_notes, *corpus.notes, *notes]:
        run.record.note(note)
    with run.clock.phase("tokenise"):
        splits, train_set, reader = _encode(run, corpus, plan, task, tokenizer)
    scoring = Scoring(
        task=task,
        tokenizer=tokenizer,
        metrics=metrics,
        batch_tokens=recipe.evaluation.batch_tokens,
        threshold=recipe.evaluation.threshold,
        device=run.state.device,
        precision=setup.precision(),
        reader=reader,
    )
    described = {**({"train": train_set} if train_set else {}), **splits}
    run.lengths = {name: split.lengths for name, split in described.items()}
    run.record.data = _describe_data(run, corpus, described)
    run.record.comparability = comparability(run.resolved, corpus, signatures, run.record.prompts)
    for split in described.values():
        if split.truncated:
            what = "questions" if hasattr(task, "encode_splits") and recipe.objective == "head" else "texts"
            run.record.note(f"{split.name}: {split.truncated} {what} cut to {recipe.max_length} tokens")
    return Material(corpus, plan, method, task, tokenizer, splits, train_set, scoring)


def _note_sharding(run: Run, plan: contracts.LoadPlan) -> None:
    note = sharding.check(run.resolved.recipe, plan)
    if note is not None:
        run.record.note(note)


def _load_corpus(run: Run, plan: contracts.LoadPlan) -> dataset.Corpus:
    recipe = run.resolved.recipe
    wanted = {"train", *recipe.evaluation.splits}
    if recipe.training.evaluate_every is not None and plan.trains == "gradient":
        wanted.add(recipe.evaluation.validation)
    limit = dict(recipe.limit)
    if plan.trains == "nothing" and limit.pop("train", None):
        # The same shots, whatever part of the data a run looks at.
        run.record.note("limit.train is not used: nothing is trained, and shots are drawn from the whole split")
    corpus = dataset.load(recipe.dataset, limit, wanted)
    if "train" not in corpus.splits and (plan.trains != "nothing" or recipe.model.tokenizer.train):
        raise SetupError("the data set has no split 'train'")
    return corpus


def _encode(run: Run, corpus: dataset.Corpus, plan: contracts.LoadPlan, task: Any, tokenizer: Any) -> Any:
    """(scored splits, the split to learn from, how answers are read) for a task head or for text."""
    recipe = run.resolved.recipe
    if recipe.objective == "head" and hasattr(task, "encode_splits"):
        run.record.speed["token_cache"] = False  # windows hold more than tokens
        windows = task.encode_splits(corpus, tokenizer, recipe)
        for note in windows.notes:
            run.record.note(note)
        return windows.splits, windows.train, windows.reader
    if recipe.objective == "head":
        found = _encode_heads(run, corpus, task, tokenizer)
        return found, found["train"], None
    run.record.speed["token_cache"] = False  # a prompt is made of more than its row
    asked = text_examples.ask(recipe, plan, corpus, task, tokenizer)
    run.record.prompts = asked.part
    for note in asked.notes:
        run.record.note(note)
    return asked.splits, asked.lessons, asked.reader


def _confirm_remote_code(run: Run) -> None:
    if run.resolved.recipe.model.trust_remote_code and not run.trust_remote_code:
        raise SetupError("the model card runs code from the model's repository; confirm with --trust-remote-code")


def _check_trackers(recipe: Recipe, plan: contracts.LoadPlan) -> None:
    """A tracker that would stay silent, or fail after the first score, is refused now."""
    if recipe.trackers and (recipe.training.engine != "trainer" or plan.trains != "gradient"):
        raise SetupError(f"trackers {list(recipe.trackers)} need engine: trainer and a method that trains by gradients")
    for name in recipe.trackers:
        if importlib.util.find_spec(name) is None:
            raise SetupError(f"the tracker {name!r} is not installed: pip install {name}")


def _encode_heads(run: Run, corpus: dataset.Corpus, task: Any, tokenizer: Any) -> dict[str, Encoded]:
    """Every split for a task head; which of them were tokenised in an earlier run goes into the record."""
    recipe, splits = run.resolved.recipe, corpus.splits
    encode = {name: partial(task.encode, split.rows, tokenizer, recipe.max_length) for name, split in splits.items()}
    run.record.speed["token_cache"] = False
    if not recipe.speed.token_cache:
        return {name: _encoded(split, *encode[name]()) for name, split in splits.items()}
    cache = TokenCache(tokenizer, recipe.max_length, [Path(task.__file__), Path(tokenizers.__file__)])
    with cache.first(run.state):
        found = {name: cache.tokens(split.fingerprint, len(split.rows), encode[name]) for name, split in splits.items()}
    for note in cache.notes:
        run.record.note(note)
    if cache.in_use:
        run.record.speed["token_cache"] = {name: item.hit for name, item in found.items()}
    return {name: _encoded(splits[name], item.features, item.cut) for name, item in found.items()}


def _encoded(split: Split, features: list[dict[str, Any]], cut: tuple[int, ...]) -> Encoded:
    return Encoded(name=split.name, ids=tuple(row["id"] for row in split.rows), features=features, truncated=len(cut))


def _describe_data(run: Run, corpus: dataset.Corpus, splits: dict[str, Encoded]) -> record.Data:
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
    return record.Data(id=identity, revision=card.source.revision, labels=list(corpus.labels), splits=parts)
