"""Tune the settings of a study's systems on validation data: trials, selection, and the file of choices."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import RecipeError
from bench.sweeps import jobs, parts, search
from bench.sweeps.jobs import Job
from bench.sweeps.search import Sampler, State, Trial
from bench.sweeps.study import Plan, System
from bench.training import checkpoint_files
from bench.utils import files

TRIALS, CHOICES = "trials", "choices.json"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The selected settings of a system, and all of its trials. higher: whether a higher score is better."""

    system: System
    trials: list[Trial]
    higher: bool

    @property
    def chosen(self) -> tuple[str, ...] | None:
        """Return the settings with the best validation score, the first of equal ones; None if all trials failed."""
        scored = [(trial.value, trial.settings) for trial in self.trials if trial.value is not None]
        best = (max if self.higher else min)(scored, key=lambda pair: pair[0], default=None)
        return None if best is None else best[1]


def choose(system: System, trials: dict[tuple[str, ...], Job], metric: str) -> Choice:
    """Return the choice among all candidates of a system."""
    return Choice(
        system=system,
        trials=[_trial(candidate, job, metric) for candidate, job in trials.items()],
        higher=jobs.higher_is_better(metric),
    )


def _trial(settings: tuple[str, ...], job: Job, metric: str) -> Trial:
    record, value = jobs.read(job), _validation(job, metric)
    state: State = "complete"
    if value is None:
        state = "unfit" if record is not None and record.status in search.UNFIT else "failed"
    seconds = None if record is None else sum(phase.seconds for phase in record.phases)
    return Trial(settings=settings, state=state, value=value, seconds=seconds)


def searched(
    plan: Plan, out: Path, metric: str, execute: Callable[[list[Job], Callable[[Job], bool]], None]
) -> list[Choice] | None:
    """Return the choices among the settings that Optuna proposes; None where a trial has not come to its end.

    execute: runs jobs that have no record yet, and stops those of which the function that it is given says so. All
    systems have one trial at a time, so that their order never depends on how long runs take.
    """
    higher = jobs.higher_is_better(metric)
    samplers = [
        (system, Sampler(system.space, system.search, higher)) for system in plan.systems if system.search is not None
    ]
    while unfinished := [(system, sampler) for system, sampler in samplers if not sampler.is_finished]:
        asked = [
            (jobs.jobs_of([system.trial(sampler.ask().settings)], out / TRIALS)[0], sampler)
            for system, sampler in unfinished
        ]
        watched = _Watch(asked, metric)
        # Two recipes that are one and the same share their runs.
        execute(list({job.folder: job for job, _ in asked if not watched.was_pruned(job)}.values()), watched)
        for job, sampler in asked:
            if not _tell(job, sampler, metric, pruned=watched.was_pruned(job)):
                return None
    return [Choice(system=system, trials=sampler.trials, higher=higher) for system, sampler in samplers]


class _Watch:
    """Tells of a running trial, once, that it should stop."""

    def __init__(self, asked: list[tuple[Job, Sampler]], metric: str) -> None:
        self._samplers, self._metric = {job.folder: sampler for job, sampler in asked}, metric
        self._stopped: set[Path] = set()

    def __call__(self, job: Job) -> bool:
        if job.folder in self._stopped or not self._is_hopeless(job):
            return False
        self._stopped.add(job.folder)
        return True

    def was_pruned(self, job: Job) -> bool:
        """Return whether a trial ended before its time, and should have, by its log."""
        record = jobs.read(job)
        return record is not None and record.status == "interrupted" and self._is_hopeless(job)

    def _is_hopeless(self, job: Job) -> bool:
        return self._samplers[job.folder].is_hopeless(search.validations(job.folder, self._metric))


def _tell(job: Job, sampler: Sampler, metric: str, *, pruned: bool) -> bool:
    """Tell a sampler how its trial ended; return False for one that has not."""
    record = jobs.read(job)
    if not pruned and (record is None or record.status == "interrupted" or job.state == "elsewhere"):
        return False
    if pruned:  # nothing goes on from it
        shutil.rmtree(job.folder / checkpoint_files.FOLDER, ignore_errors=True)
    made = _trial(sampler.trials[-1].settings, job, metric)
    sampler.trials[-1].seconds = made.seconds
    sampler.tell("pruned" if pruned else made.state, made.value, search.validations(job.folder, metric))
    return True


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
        # Settings that were proposed twice ran once.
        by_settings = {trial.settings: trial.seconds for trial in choice.trials}
        seconds = [one for one in by_settings.values() if one is not None]
        how = choice.system.search
        rows.append(
            {
                "recipe": choice.system.resolved.path,
                "system": parts.named(choice.system.resolved),
                "overrides": list(choice.system.overrides),
                "seed": choice.system.seeds[0],
                "metric": metric,
                "search": "all combinations" if how is None else {"sampler": "TPE", **how.model_dump(mode="json")},
                "candidates": [
                    {"settings": list(trial.settings), "validation": trial.value, "state": trial.state,
                     "seconds": trial.seconds}
                    for trial in choice.trials
                ],
                "seconds": sum(seconds),
                "chosen": None if choice.chosen is None else list(choice.chosen),
            }
        )  # fmt: skip
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
