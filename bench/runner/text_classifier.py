"""The stages of a run whose method fits a classifier on texts themselves: no tokenizer, no model, no gradients."""

from typing import Any

import numpy as np

from bench import console
from bench.config import contracts
from bench.config.cards import NO_MODEL
from bench.data import lost_texts
from bench.data.dataset import Corpus
from bench.evaluation.readers import tfidf as reader
from bench.models import build, tfidf
from bench.records import record
from bench.runner import launch_record
from bench.runner.context import RunContext

NO_BEFORE = "there is no score before training: method tfidf has no model that could be scored"


def encode(corpus: Corpus, settings: dict[str, Any]) -> contracts.EncodedData:
    """Return all splits as texts, and what reads them. settings: the method's `config`."""
    return reader.encode(corpus, tfidf.TfidfModel(settings, len(corpus.labels), multi_label=False))


def prepare(run: RunContext) -> None:
    """Make a classifier that is not fitted yet; what the launcher is goes into the record."""
    recipe = run.resolved.recipe
    run.record.launch = launch_record.describe(run.state, None, recipe.training.global_batch)
    run.model = tfidf.TfidfModel(
        run.inputs.plan.features, len(run.inputs.corpus.labels), multi_label=recipe.dataset.multi_label
    )
    if recipe.evaluation.before:
        run.record.note(NO_BEFORE)


def fit(run: RunContext) -> None:
    """Fit terms and weights, the same on every process; fill in the model and the training part of the record."""
    train, model = run.inputs.train, run.model
    assert train is not None
    assert isinstance(model, tfidf.TfidfModel)
    with run.clock.phase("train"):
        steps = model.fit([feature["text"] for feature in train.features], train.references)
    run.record.training = record.TrainingPart(engine="scikit-learn", steps=steps, epochs=1, stopped_by="fitted")
    limit = model.settings["max_iter"]
    if model.settings["classifier"] == "logistic_regression" and steps >= limit:
        run.record.note(f"logistic regression stopped at max_iter {limit} before it had converged")
    run.record.model = _described(model)
    absent = sorted(set(range(model.num_labels)) - _known(model, train.references))
    if absent:
        names = ", ".join(run.inputs.corpus.labels[number] for number in absent)
        run.record.note(f"labels of no training text, which are never predicted: {names}")
    _tell_of_unread(run, model)
    counts = run.record.model.parameters
    console.say(f"{type(model).__name__}: {len(model.idf):,} terms, {counts['total']:,} fitted numbers")


def _tell_of_unread(run: RunContext, model: tfidf.TfidfModel) -> None:
    """Note how many scored texts hold no fitted term, and warn where these are many."""
    for name in run.resolved.recipe.evaluation.splits:
        texts = [feature["text"] for feature in run.inputs.splits[name].features]
        count = model.without_terms(texts)
        if (warning := lost_texts.without_terms(name, count, len(texts))) is not None:
            run.record.warn_of(warning)
        elif count:
            run.record.note(f"{name}: {count} of {len(texts)} texts hold no term of the training texts")


def _known(model: tfidf.TfidfModel, labels: np.ndarray) -> set[int]:
    return {int(number) for number in np.flatnonzero(labels.any(0))} if model.multi_label else set(model.classes)


def _described(model: tfidf.TfidfModel) -> record.Model:
    """Return what was fitted: weights, biases and document frequencies are all learned from the training split."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return record.Model(
        id=NO_MODEL,
        weights="fitted",
        class_=type(model).__name__,
        attention=None,
        parameters={"total": total, "trainable": total, "before_head": 0},
        dtypes=build.dtypes(model),
        trainable_names=len([*model.parameters()]),
    )
