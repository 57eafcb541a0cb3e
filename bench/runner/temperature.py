"""Fits a temperature on the validation split, and scores the trained model's probabilities with it.

No answer changes, only how sure the model is of it. Scores with and without it stand beside each other in the record.
"""

from dataclasses import replace

import numpy as np

from bench.analysis.stats import probabilities
from bench.config import registry
from bench.evaluation import metric_set, scoring
from bench.records import record
from bench.runner import backend, results, sharded_scoring
from bench.runner.context import RunContext

# Of a fit at the end of what is searched, the loss falls on beyond it.
END = 1.01


def fit(run: RunContext) -> None:
    """Fill in the record's `temperature`, where the recipe asks for one. Every process must call it."""
    recipe = run.resolved.recipe
    if recipe.evaluation.temperature is None:
        return
    name = recipe.evaluation.validation
    with run.clock.phase("temperature"), sharded_scoring.in_step(run):
        scored = backend.scored(run, run.inputs.splits[name], f"temperature {name}")
    run.clock.move("temperature", "self_check", scored.check_s)
    for note in scored.notes:
        run.record.note(note)
    if run.state.is_main_process:
        with run.clock.phase("metrics"):
            _file(run, name, scored.predictions)
    run.scored.clear()


def _file(run: RunContext, name: str, fitted_on: metric_set.Predictions) -> None:
    several = run.resolved.recipe.dataset.multi_label
    value = probabilities.fitted_temperature(fitted_on.scores, fitted_on.references)
    losses = [
        probabilities.negative_log_likelihood(scores, fitted_on.references)
        for scores in (fitted_on.scores, probabilities.tempered(fitted_on.scores, value, multi_label=several))
    ]
    if doubt := doubt_of(name, value, losses, fitted_on):
        run.record.warn("temperature_not_found", f"evaluation.temperature: {doubt}")
    if not np.isfinite(losses).all():
        return
    path = run.folder / "predictions" / f"temperature-{name}.jsonl"  # what it is fitted on, so that it can be verified
    scoring.write_predictions(path, fitted_on, run.inputs.scoring.metrics, run.inputs.corpus.labels)
    run.record.artifacts[f"predictions_temperature_{name}"] = str(path.relative_to(run.folder))
    part = record.Temperature(
        value=value, split=name, examples=len(fitted_on.ids), loss_before=losses[0], loss_after=losses[1]
    )
    metrics = metric_set.MetricSet(
        tuple(one for one in run.resolved.metric_names if _reads_scores(one)),
        multi_label=several,
        num_labels=len(run.inputs.corpus.labels),
    )
    for split, predictions in run.scored.items():
        scaled = replace(predictions, scores=probabilities.tempered(predictions.scores, value, multi_label=several))
        run.record.check("temperature_changes_no_answer", _same_answers(scaled), split)
        part.scores[split] = metrics.scores(scaled)
        for metric, one in part.scores[split].items():
            prompts = f"|{run.record.prompts.signature}" if run.record.prompts is not None else ""
            one.signature = f"{one.signature}{prompts}|temperature:fitted_on_{name}"
            one.higher_is_better = registry.directions().get(metric)
        if "ece" in part.scores[split]:
            part.reliability[split] = results.reliability(scaled)
    run.record.temperature = part


def doubt_of(name: str, value: float, losses: list[float], fitted_on: metric_set.Predictions) -> str | None:
    """Return why a fitted temperature is none of a calibrated model; None where the search found a minimum.

    losses: on the split `name`, without the temperature and with it.
    """
    if not np.isfinite(losses).all():
        return f"none was fitted, since the loss on {name} is not finite; scores are without one"
    if not _searched_to_an_end(value) and not (fitted_on.predictions == fitted_on.references).all():
        return None
    return (
        f"{value:.3g} is no minimum: the loss on {name} ({len(fitted_on.ids):,} examples) falls on beyond it, as where "
        "all answers are right, or where the probabilities tell nothing. Do not read scores with it as those of a "
        "calibrated model; validate on more examples"
    )


def _searched_to_an_end(value: float) -> bool:
    return not probabilities.LEAST_TEMPERATURE * END < value < probabilities.MOST_TEMPERATURE / END


def _reads_scores(name: str) -> bool:
    return name in registry.names("metrics") and registry.literals("metrics", name)["reads"] == "scores"


def _same_answers(predictions: metric_set.Predictions) -> bool:
    """Return whether each predicted label is still as likely as any other; of several labels there is none to compare.

    Of several labels an example, answers stay those of the threshold without a temperature.
    """
    if predictions.predictions.ndim == 2:
        return True
    chosen = predictions.scores[np.arange(len(predictions.ids)), predictions.predictions]
    return bool((chosen >= predictions.scores.max(axis=1) - 1e-9).all())
