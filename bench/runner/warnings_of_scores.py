"""Warns of scores that say less than they seem to: collapsed models, values that are null, losses by training."""

from bench.analysis import accessors, predictions
from bench.config import registry
from bench.errors import DataError
from bench.evaluation import exhibits, starting_points
from bench.evaluation.metric_set import Predictions
from bench.runner.context import RunContext

# Beside the metric that ranks runs: it falls first where a model collapses into the larger labels.
ALSO_COMPARED = "f1_macro"


def warn(run: RunContext, stage: str, split: str, scored: Predictions, constants: dict[str, Predictions]) -> None:
    """Put findings on one scored split into the record, once its scores and its file of predictions are there.

    constants: predictions of the constant baselines, by name.
    """
    where, scores = f"{stage} {split}", run.record.scores[stage][split]
    labels, metrics = run.inputs.corpus.labels, run.inputs.scoring.metrics
    notes, findings = exhibits.undefined(where, scores)
    absent = exhibits.absent_labels(split, scores, scored.references, labels)
    for note in [*notes, *([absent] if absent else [])]:
        run.record.note(note)
    model, new = run.record.model, _is_new(run)
    if stage == "after" or not new:
        findings += exhibits.of_predictions(where, scored, labels)
    if stage == "after":
        findings += exhibits.unfinished(where, scored)
        findings += exhibits.not_better(where, metrics, scored, constants)
        findings += _lost(run, split)
    for finding in findings:
        run.record.warn(finding.code, finding.sentence)
    known = {finding.code for finding in findings}
    if model is not None and not new and "not_better_than_baseline" not in known:
        _warn_of_chance(run, stage, split)


def _is_new(run: RunContext) -> bool:
    """Return whether a new head or body answers at random before training, which is no finding.

    A head of two layers, and a probe, are new though the checkpoint has all that it should.
    """
    model = run.record.model
    if model is None:
        return False
    replaced = run.inputs.plan.trains == "features" or (run.initial is not None and bool(run.initial.head))
    return replaced or bool(model.newly_initialized) or model.weights == "random"


def _warn_of_chance(run: RunContext, stage: str, split: str) -> None:
    """Warn of a prompted model, or of a head that its checkpoint brought, whose score may be one without a model.

    Only as long as nothing was trained; a score after training is held against constant answers.
    """
    if stage == "after" and run.inputs.plan.trains != "nothing":
        return
    where, scores = f"{stage} {split}", accessors.scalars(run.record, stage, split)
    name = accessors.ranking_metric([name for name in scores if name in registry.directions()])
    if name is None:
        return
    kinds = ("random", *accessors.CONSTANT_BASELINES)
    floors = {kind: values.get(name) for kind, values in run.record.baselines[split].items() if kind in kinds}
    run.record.warn_of(
        starting_points.within_chance(
            where,
            name,
            scores[name],
            floors,
            higher_is_better=registry.higher_is_better(name),
            is_prompted=run.record.prompts is not None,
        )
    )


def _lost(run: RunContext, split: str) -> list[exhibits.Finding]:
    """Return findings on the ranking metric, and on macro F1, that are lower than before training.

    A loss that may be chance, by its paired interval, is noted and no finding.
    """
    before, after = (accessors.scalars(run.record, stage, split) for stage in accessors.STAGES)
    ranking = accessors.ranking_metric([name for name in after if name in registry.directions()])
    findings = []
    for name in dict.fromkeys((ranking, ALSO_COMPARED)):
        pair = [scores.get(name or "") for scores in (before, after)]
        values = [item.value for item in pair if item is not None and isinstance(item.value, int | float)]
        if name is None or len(values) < 2 or pair[0] is None or pair[1] is None:
            continue
        sign = 1 if registry.higher_is_better(name) else -1
        if sign * (values[1] - values[0]) < 0:
            ends = _interval(run, split, name)
            found = exhibits.worse_than_before(f"after {split}", name, pair[0], pair[1], ends)
            if ends is not None and min(ends) <= 0 <= max(ends):
                run.record.note(f"{found.sentence}: not significant")
            else:
                findings.append(found)
    return findings


def _interval(run: RunContext, split: str, name: str) -> tuple[float, float] | None:
    """Return the paired interval of after - before, from the files of predictions; None where they don't give one."""
    try:
        before, after = (
            predictions.read_predictions(run.folder / "record.json", run.record, stage, split, name)
            for stage in accessors.STAGES
        )
    except DataError:
        return None
    if list(before.lines) != list(after.lines):
        return None
    return exhibits.interval(after.tally, before.tally)
