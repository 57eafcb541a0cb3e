"""Scores a stage: fills in the record, writes the predictions beside it, and checks them by the plain path."""

from collections.abc import Mapping

import numpy as np
from accelerate.utils import gather_object

from bench import console
from bench.analysis.stats import probabilities
from bench.config import registry
from bench.config.cards import GENERATION_TASK
from bench.config.recipe import Band
from bench.data.examples import as_array
from bench.distributed import setup
from bench.errors import ScoreError
from bench.evaluation import baselines, ceilings, exhibits, metric_set, reader, scoring, text_examples
from bench.evaluation.readers import base, check
from bench.models.kernels import padding_free
from bench.records import record
from bench.runner import backend, sharded_scoring, warnings_of_scores
from bench.runner.context import RunContext


def score(run: RunContext, stage: str) -> None:
    """Score every evaluated split, write the predictions, and fill in scores, baselines and inference times."""
    for name in run.resolved.recipe.evaluation.splits:
        split = run.inputs.splits[name]
        with run.clock.phase(f"score_{stage}"), sharded_scoring.in_step(run):
            scored = backend.scored(run, split, f"{stage} {name}")
        run.clock.move(f"score_{stage}", "self_check", scored.check_s)
        run.record.speed["padding_free"] = padding_free.is_attached(run.model)
        for note in scored.notes:
            run.record.note(note)
        predictions = scored.predictions
        run.record.check("ids_complete", True, f"{stage} {name}: {len(predictions.ids)} of {len(split.ids)}")
        slowest_s = max(gather_object([scored.seconds]))
        # "train" holds the training steps' own rates, also where that split is scored.
        run.record.throughput["score_train" if name == "train" else name] = {
            "examples_per_s": len(split.ids) / slowest_s,
            "seconds_per_100_examples": 100 * slowest_s / len(split.ids),
            "batch_tokens": _batch_tokens(run),
        }
        if run.state.is_main_process:
            if stage == "after" and run.resolved.recipe.evaluation.temperature is not None:
                run.scored[name] = predictions
            with run.clock.phase("metrics"):
                _file_scores(run, stage, name, predictions)
    recipe = run.resolved.recipe
    if stage == "after":
        run.record.published = _beside_published(run, stage, recipe.published)
    else:
        run.record.published_before = _beside_published(run, stage, recipe.published_before)


def _batch_tokens(run: RunContext) -> int | None:
    """Return the tokens of a scored batch; None for prompts, whose scorer decides, and for a method without tokens."""
    if run.record.prompts or run.inputs.tokenizer is None:
        return None
    return reader.batch_tokens(run.model, run.inputs.scoring)


def _beside_published(run: RunContext, stage: str, bands: Mapping[str, Band]) -> dict[str, dict[str, record.Published]]:
    """Return split -> metric -> the published band of the recipe, with the run's own value."""
    split = run.resolved.recipe.evaluation.splits[0]
    scores = run.record.scores.get(stage, {}).get(split, {})
    if not bands or not scores:
        return {}
    published = {}
    for metric, band in bands.items():
        value = _value_of(scores, metric, run.inputs.corpus.labels)
        inside = None if value is None else band.low <= value <= band.high
        published[metric] = record.Published(**band.model_dump(), value=value, inside=inside)
    return {split: published}


def _value_of(scores: Mapping[str, record.Score], metric: str, labels: tuple[str, ...]) -> float | None:
    """Return one number of the scores, of `<value>.<label>` that of the label; None where there is none."""
    name, _, label = metric.partition(".")
    item = scores.get(metric) or scores.get(name)
    value = None if item is None else item.value
    if isinstance(value, list) and label in labels:
        value = value[labels.index(label)]
    return float(value) if isinstance(value, int | float) else None


def _file_scores(run: RunContext, stage: str, name: str, predictions: metric_set.Predictions) -> None:
    """Fill in scores with intervals, baselines and prompts, and write the file of predictions."""
    scores, directions = run.inputs.scoring.metrics.scores(predictions), registry.directions()
    for reason in run.inputs.scoring.metrics.undefined(predictions, run.inputs.corpus.labels):
        run.record.note(f"{stage} {name}: {reason}")
    for metric, item in scores.items():
        item.higher_is_better = directions.get(metric)
    prompts = run.record.prompts
    if prompts is not None:
        for item in scores.values():
            item.signature = f"{item.signature}|{prompts.signature}"
        _file_prompts(prompts, stage, name, predictions)
        if (count := prompts.answers.get(stage, {}).get(name, {}).get("fell_back")) is not None:
            label = run.resolved.recipe.prompting.fallback_label
            run.record.note(
                f"{stage} {name}: {count} of {len(predictions.ids)} answers name no label, and count as {label!r} "
                "(prompting.fallback_label)"
            )
    _file_ceilings(run, name, scores, predictions)
    run.record.scores.setdefault(stage, {})[name] = scores
    if "ece" in scores:
        run.record.reliability.setdefault(stage, {})[name] = reliability(predictions)
    train_references = _train_references(run)
    if name not in run.record.baselines:
        floors = baselines.baselines(run.inputs.scoring.metrics, train_references, predictions)
        if run.resolved.recipe.dataset.task == GENERATION_TASK:
            texts = {row["id"]: row["text"] for row in run.inputs.corpus.splits[name].rows}
            asked = [texts[identity] for identity in predictions.ids]
            floors |= baselines.copies(run.inputs.scoring.metrics, asked, predictions)
        run.record.baselines[name] = {kind: dict(values) for kind, values in floors.items()}
    path = run.folder / "predictions" / f"{stage}-{name}.jsonl"
    scoring.write_predictions(path, predictions, run.inputs.scoring.metrics, run.inputs.corpus.labels)
    run.record.artifacts[f"predictions_{stage}_{name}"] = str(path.relative_to(run.folder))
    constants = baselines.constants(run.inputs.scoring.metrics, train_references, predictions)
    warnings_of_scores.warn(run, stage, name, predictions, constants)


def reliability(predictions: metric_set.Predictions) -> list[list[record.Number]]:
    """Return of each bin of the calibration error the examples, their mean probability, and the share that is right."""
    rows = probabilities.confidence_rows(predictions.scores, predictions.references)
    return [[*part] for part in probabilities.reliability(rows)]


def _file_ceilings(
    run: RunContext, split: str, scores: dict[str, record.Score], predictions: metric_set.Predictions
) -> None:
    """Fill in what right answers would score; warn of metrics that can't reward them."""
    known = run.record.scores.get("before", {}).get(split, {})
    if any(item.ceiling is not None for item in known.values()):
        for name, item in scores.items():
            if name in known:
                item.ceiling, item.unrewardable = known[name].ceiling, known[name].unrewardable
        return
    short = []
    for name, found in ceilings.ceilings(run.inputs.scoring.metrics, predictions.references).items():
        if name not in scores:
            continue
        scores[name].ceiling, scores[name].unrewardable = found.value, found.unrewardable
        if found.unrewardable:
            share = f"{found.unrewardable} of {found.questions}"
            short.append((found.unrewardable / found.questions, f"{name} {share} (all right: {found.value:.3f})"))
    if short:
        listed = "; ".join(text for _, text in short)
        sentence = f"{split}: right answers that a metric can't give full marks: {listed}"
        if max(share for share, _ in short) >= exhibits.MANY:
            run.record.warn("right_answers_not_rewarded", sentence)
        else:
            run.record.note(sentence)


def _train_references(run: RunContext) -> np.ndarray | None:
    """Return labels or gold texts of the training split; None where the data set has none."""
    if "train" not in run.inputs.corpus.splits:
        return None
    rows = run.inputs.corpus.splits["train"].rows
    in_words = run.inputs.task.READS == "answers"
    return as_array([row["answers" if in_words else "label"] for row in rows], texts=in_words)


def _file_prompts(prompts: record.Prompts, stage: str, name: str, predictions: metric_set.Predictions) -> None:
    manifest = text_examples.manifest(predictions)
    if manifest is not None and prompts.manifests.setdefault(name, manifest) != manifest:
        raise ScoreError(f"{name}: the prompts of stage {stage!r} are not those of the stage before")
    if (shots := text_examples.shot_manifest(predictions)) is not None:
        prompts.shot_manifests[name] = shots
    counts = text_examples.summary(predictions)
    if counts:
        prompts.answers.setdefault(stage, {})[name] = counts


def check_answers(run: RunContext) -> None:
    """Score a sample of every split again by the plain path; a changed answer or a large difference fails the run."""
    if run.resolved.recipe.objective == "head":
        run.record.note("--check: a task head has no fast path to check")
        return
    if run.backend is not None:
        run.record.note("--check: what vLLM gives was compared with torch's plain path already (evaluation.backend)")
        return
    for name in run.resolved.recipe.evaluation.splits:
        with run.clock.phase("check"), sharded_scoring.in_step(run):
            checked = check.check(run.model, run.inputs.splits[name], run.inputs.scoring)
        if checked is None:
            run.record.note("--check: this way to answer has no fast path to check")
            continue
        # Rounding to 16 bits moves log-likelihoods by more than the fast path does.
        assert run.record.model is not None
        exact = set(run.record.model.dtypes) == {"float32"} and setup.precision() == "no"
        wrong = checked.changed > 0 or (checked.largest or 0.0) > base.TOLERANCE
        run.record.check("fast_equals_plain", not (exact and wrong), f"{name}: {checked.sentence}")
        console.say(f"check {name}: {checked.sentence}")
