"""Tune the settings of a study's systems on validation data: trials, selection, and the file of choices."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import RecipeError
from bench.sweeps import jobs
from bench.sweeps.jobs import Job
from bench.sweeps.study import Plan, System
from bench.utils import files

TRIALS, CHOICES = "trials", "choices.json"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The selected settings of a system, and the scores of all candidates."""

    system: System
    chosen: tuple[str, ...] | None
    scores: dict[tuple[str, ...], float | None]


def choose(system: System, trials: dict[tuple[str, ...], Job], metric: str) -> Choice:
    """Select the candidate with the best validation score, the first of equal ones; None if all trials failed."""
    scores = {candidate: _validation(job, metric) for candidate, job in trials.items()}
    known = {candidate: value for candidate, value in scores.items() if value is not None}
    best = (max if jobs.higher_is_better(metric) else min)(known, key=lambda one: known[one], default=None)
    return Choice(system=system, chosen=best, scores=scores)


def _validation(job: Job, metric: str) -> float | None:
    record = jobs.read(job)
    if record is None or record.status != "ok":
        return None
    value = jobs.score_of(record, metric, job.planned.resolved.recipe.evaluation.validation)
    if value is None:
        known = ", ".join(next(iter(record.scores.get("after", {}).values()), {}))
        raise RecipeError(f"{job.planned.path} does not compute the study's metric {metric!r}; it computes: {known}")
    return value


def write_choices(choices: list[Choice], out: Path, metric: str) -> Path:
    """Write the candidates of each system with their validation scores and the selected one; return the file."""
    rows: list[dict[str, Any]] = []
    for choice in choices:
        scores = [{"settings": list(one), "validation": value} for one, value in choice.scores.items()]
        chosen = None if choice.chosen is None else list(choice.chosen)
        rows.append(
            {
                "recipe": choice.system.resolved.path,
                "system": choice.system.resolved.name,
                "overrides": list(choice.system.overrides),
                "seed": choice.system.seeds[0],
                "metric": metric,
                "candidates": scores,
                "chosen": chosen,
            }
        )
    path = out / CHOICES
    files.write_text(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    return path


def trials_of(plan: Plan, out: Path) -> list[tuple[System, dict[tuple[str, ...], Job]]]:
    """Return a job for each candidate of each system that is tuned."""
    trials_by_system = []
    for system in plan.systems:
        if system.candidates:
            folder = out / TRIALS
            trials = {one: jobs.jobs_of([planned], folder)[0] for one, planned in system.trials().items()}
            trials_by_system.append((system, trials))
    return trials_by_system
