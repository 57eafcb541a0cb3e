"""Scores of a stage: computed, filed into the record, written beside it, and checked by the plain path."""

from typing import Any

import numpy as np
from accelerate.utils import gather_object

from bench import console
from bench.distributed import setup
from bench.errors import ScoreError
from bench.evaluation import baselines, metric_set, reader, scoring, text_examples
from bench.evaluation.readers import base, check
from bench.records import record

Run = Any  # bench.runner.context.Run
Material = Any  # bench.runner.context.Material


def score(run: Run, material: Material, stage: str) -> None:
    """Scores every evaluated split, writes the predictions, and fills in scores, baselines and inference times."""
    for name in run.resolved.recipe.evaluation.splits:
        split = material.splits[name]
        with run.clock.phase(f"score_{stage}"):
            scored = scoring.run(material.model, split, material.scoring, f"{stage} {name}")
        for note in scored.notes:
            run.record.note(note)
        predictions = scored.predictions
        run.record.check("ids_complete", True, f"{stage} {name}: {len(predictions.ids)} of {len(split.ids)}")
        slowest_s = max(gather_object([scored.seconds]))
        # "train" holds the training steps' own rates, also where that split is scored.
        run.record.throughput["score_train" if name == "train" else name] = {
            "examples_per_s": len(split.ids) / slowest_s,
            "seconds_per_100_examples": 100 * slowest_s / len(split.ids),
            "batch_tokens": None if run.record.prompts else reader.batch_tokens(material.model, material.scoring),
        }
        if run.state.is_main_process:
            with run.clock.phase("metrics"):
                _file_scores(run, material, stage, name, predictions)
    if stage == "after":
        run.record.published = _beside_published(run)


def _beside_published(run: Run) -> dict[str, dict[str, record.Published]]:
    """Split -> metric -> the published band of the recipe, with the run's own value."""
    recipe = run.resolved.recipe
    split = recipe.evaluation.splits[0]
    scores_after = run.record.scores.get("after", {}).get(split, {})
    if not recipe.published or not scores_after:
        return {}
    found = {}
    for metric, band in recipe.published.items():
        item = scores_after.get(metric)
        value = item.value if item is not None and isinstance(item.value, int | float) else None
        inside = None if value is None else band.low <= value <= band.high
        found[metric] = record.Published(**band.model_dump(), value=value, inside=inside)
    return {split: found}


def _file_scores(run: Run, material: Material, stage: str, name: str, predictions: metric_set.Predictions) -> None:
    """Scores with intervals, baselines, what was asked and answered, and the file of predictions."""
    found = material.scoring.metrics.scores(predictions)
    prompts = run.record.prompts
    if prompts is not None:
        for item in found.values():
            item.signature = f"{item.signature}|{prompts.signature}"
        _file_prompts(prompts, stage, name, predictions)
    run.record.scores.setdefault(stage, {})[name] = found
    if name not in run.record.baselines and "train" in material.corpus.splits:
        references = np.array([row["label"] for row in material.corpus.splits["train"].rows])
        floors = baselines.baselines(material.scoring.metrics, references, predictions)
        run.record.baselines[name] = {kind: dict(values) for kind, values in floors.items()}
    path = run.folder / "predictions" / f"{stage}-{name}.jsonl"
    scoring.write_predictions(path, predictions, material.scoring.metrics, material.corpus.labels)
    run.record.artifacts[f"predictions_{stage}_{name}"] = str(path.relative_to(run.folder))


def _file_prompts(prompts: record.Prompts, stage: str, name: str, predictions: metric_set.Predictions) -> None:
    manifest = text_examples.manifest(predictions)
    if manifest is not None and prompts.manifests.setdefault(name, manifest) != manifest:
        raise ScoreError(f"{name}: the prompts of stage {stage!r} are not those of the stage before")
    counts = text_examples.summary(predictions)
    if counts:
        prompts.answers.setdefault(stage, {})[name] = counts


def check_answers(run: Run, material: Material) -> None:
    """Scores a sample of every split again by the plain path; a changed answer or a large difference fails the run."""
    if material.scoring.reader is None:
        run.record.note("--check: a task head has no fast path to check")
        return
    for name in run.resolved.recipe.evaluation.splits:
        with run.clock.phase("check"):
            found = check.check(material.model, material.splits[name], material.scoring)
        if found is None:
            run.record.note("--check: this way to answer has no fast path to check")
            continue
        # Rounding to 16 bits moves log-likelihoods by more than the fast path does.
        exact = set(run.record.model.dtypes) == {"float32"} and setup.precision() == "no"
        wrong = found.changed > 0 or (found.largest or 0.0) > base.TOLERANCE
        run.record.check("fast_equals_plain", not (exact and wrong), f"{name}: {found.sentence}")
        console.say(f"check {name}: {found.sentence}")
