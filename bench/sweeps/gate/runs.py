"""Execute a regression gate: run recipes with the current code, compare them with a baseline and a base commit.

    python -m bench gate recipes/tiny --baseline reports/baseline
    python -m bench gate recipes/tiny --baseline reports/baseline --against origin/main

Every run is a separate launch, as a user's would be. Runs that existed before are never used.
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import console
from bench.config import registry, resolve
from bench.config.overrides import merged
from bench.config.resolve import Resolved
from bench.errors import DataError, SetupError
from bench.records.record import Record
from bench.sweeps import jobs, scheduler, study
from bench.sweeps.gate import criteria, measured, timing
from bench.sweeps.gate.criteria import Baseline, Verdict
from bench.sweeps.gate.measured import Measured
from bench.sweeps.jobs import Job, Machine
from bench.utils import files
from bench.utils.system import processor_name, vector_instructions

SPEED, BASE = "speed", "base"


@dataclass(frozen=True)
class FinishedRun:
    """A completed run."""

    job: Job
    record: Record

    @property
    def seed(self) -> int:
        """The seed it was launched with."""
        return self.job.planned.seed

    def score(self, metric: str) -> float:
        """Return a score on the first split. Raises DataError if the run has no such score."""
        value = jobs.score_of(self.record, metric)
        if value is None:
            raise DataError(f"{self.record.name} with seed {self.seed} has no score {metric!r}")
        return value

    @property
    def arithmetic(self) -> dict[str, str]:
        """The versions and the processor that determine rounding."""
        environment = self.record.environment
        assert environment is not None
        versions = {name: environment.packages.get(name, "").partition("+")[0] for name in criteria.ARITHMETIC}
        on_cpu = self.record.launch is not None and self.record.launch.device == "cpu"
        # The CPU's model, its vector units and the number of threads decide in what order numbers are summed.
        machine = {criteria.PROCESSOR: processor_name() if on_cpu else ", ".join(environment.devices)}
        if on_cpu:
            machine |= {"instructions": vector_instructions(), "threads": str(environment.cpu_threads or "")}
        return {name: value for name, value in {**versions, **machine}.items() if value}

    @property
    def measured(self) -> Measured:
        """Return the measurements of this run that the gate compares."""
        content = self.record.model_dump(mode="json", by_alias=True)
        return measured.measure(content, self.job.folder, self.seed, self.arithmetic)


@dataclass(frozen=True, kw_only=True)
class GateRequest:
    """Options of a gate. against: base commit for speed and losses. speed: recipes to time.

    alpha: false alarm rate of the whole gate. rounds: timed runs of each commit; None for the minimum.
    """

    recipes: list[Path]
    baseline: Path
    out: Path
    machine: Machine
    overrides: tuple[str, ...] = ()
    against: str | None = None
    speed: tuple[Path, ...] = ()
    rounds: int | None = None
    alpha: float = criteria.ALPHA
    margin: float = criteria.MARGIN
    factor: float = criteria.FACTOR


def make_baselines(request: GateRequest, seeds: int) -> list[Path]:
    """Run every recipe with several seeds and write the results as new baselines; return their files.

    Raises SetupError for fewer seeds than a gate needs, and for options that do not apply.
    """
    if seeds < criteria.FEWEST_SEEDS:
        raise SetupError(f"--num-seeds {seeds}: a baseline needs at least {criteria.FEWEST_SEEDS} seeds")
    if request.against is not None or request.speed or request.rounds is not None:
        raise SetupError("--against, --speed and --rounds can't be combined with --write")
    done = _run(request, _jobs(request, dict.fromkeys(request.recipes, seeds)))
    paths = []
    for path, finished in done.items():
        baseline = _baseline(path, finished)
        paths.append(request.baseline / f"{path.stem}.json")
        criteria.write_baseline(baseline, paths[-1])
    return paths


def judge(request: GateRequest) -> tuple[list[Verdict], list[str]]:
    """Run all recipes and return (verdicts, notes).

    Raises DataError for a baseline that is missing, edited, or of another recipe, before anything runs.
    """
    baselines = {path: criteria.read_baseline(request.baseline / f"{path.stem}.json") for path in request.recipes}
    if request.against is None and (request.speed or request.rounds is not None):
        raise SetupError("--speed and --rounds need --against, the commit to compare speed with")
    timed = (request.speed or _first_trained(baselines)) if request.against is not None else ()
    # With a base commit, scores may be held to its runs too.
    tests = len(baselines) * (1 if request.against is None else 2) + len(timed) * len(timing.TIMED)
    level = request.alpha / tests  # Bonferroni: keeps the family-wise error rate at alpha
    for path in timed:
        resolve.load(path, request.overrides)
    base = None if request.against is None else timing.resolve_commit(request.against)
    rounds = _rounds(request, level)
    planned = _jobs(request, {path: tuple(baseline.scores) for path, baseline in baselines.items()})
    for path, baseline in baselines.items():
        refuse_edited(baseline, path, planned[path][0].planned.resolved)
    done = _run(request, planned, *([request.out / SPEED, request.out / BASE] if timed else []))
    verdicts, others = list[Verdict](), list[str]()
    for path, baseline in baselines.items():
        verdicts += _verdicts(baseline, done[path], level, request.margin)
    if base is not None:
        timed_runs = timing.TimingOptions(
            base=base, rounds=rounds, level=level, factor=request.factor, machine=request.machine,
            overrides=request.overrides, out=request.out / SPEED,
        )  # fmt: skip
        for path, baseline in baselines.items():
            more_verdicts, more_notes = _held_to_base(path, baseline, done[path], timed_runs, request)
            verdicts, others = [*verdicts, *more_verdicts], [*others, *more_notes]
        verdicts += [verdict for path in timed for verdict in timing.time_recipe(path, timed_runs)]
    notes = [
        f"false alarm rate: at most {request.alpha:g} over all {tests} tests of scores and times",
        *_compared(verdicts, baselines),
        *others,
        *_baselines_not_run(request, baselines),
    ]
    return verdicts, notes


def _first_trained(baselines: dict[Path, Baseline]) -> tuple[Path, ...]:
    """Return the first recipe with training steps to time, else the first."""
    return tuple([*(path for path, baseline in baselines.items() if baseline.losses), *baselines][:1])


def _held_to_base(
    path: Path, baseline: Baseline, done: list[FinishedRun], timed_runs: timing.TimingOptions, request: GateRequest
) -> tuple[list[Verdict], list[str]]:
    """Compare with runs of the base commit where rounding differs from the baseline's; return (verdicts, notes).

    On one machine both have the same arithmetic, so that every step counts.
    """
    if not criteria.changed_arithmetic(baseline, done[0].arithmetic):
        return [], []
    own = replace(timed_runs, overrides=overrides_of(path, request.overrides), out=request.out / BASE)
    base = timing.runs_of_base(path, [one.seed for one in done], own, done[0].arithmetic)
    if base is None:
        return [], [
            f"{path.stem}: runs are compared with larger tolerances only, since the base commit has another recipe"
        ]
    if any(baseline.metric not in one.scores for one in base):
        return [], [f"{path.stem}: the base commit's runs have no {baseline.metric} to compare with"]
    there = criteria.baseline_of(
        base,
        recipe=baseline.recipe,
        hash=baseline.hash,
        metric=baseline.metric,
        higher_is_better=baseline.higher_is_better,
    )
    found = criteria.verdicts(
        there, [one.measured for one in done], timed_runs.level, request.margin, stops_early=_stops_early(done[0])
    )
    return [verdict.model_copy(update={"kind": f"{verdict.kind} of the base commit"}) for verdict in found], []


def _rounds(request: GateRequest, level: float) -> int:
    needed = criteria.rounds_needed(level)
    if request.rounds is not None and request.rounds < needed:
        raise SetupError(f"--rounds {request.rounds}: a test at level {level:.2g} needs at least {needed} rounds")
    return request.rounds or needed


def _compared(verdicts: Sequence[Verdict], baselines: dict[Path, Baseline]) -> list[str]:
    """Return notes on what was compared of the trainings, and on what could not be."""
    number = sum(verdict.kind == "losses" for verdict in verdicts)
    others = "" if number == len(baselines) else f" of {number} of {len(baselines)} recipes, which train by gradient,"
    notes = [f"losses{others} were compared step by step"]
    if number == 0:
        notes = ["no losses were compared: none of these recipes trains by gradient"]
    missing = sorted({name for baseline in baselines.values() for name in baseline.missing})
    if missing:
        lacking = sum(bool(baseline.missing) for baseline in baselines.values())
        which = f"{lacking} of {len(baselines)} baselines were" if len(baselines) > 1 else "the baseline was"
        notes.append(
            f"not compared, since {which} written without them: {', '.join(missing)}; write new ones with --write"
        )
    return notes


def refuse_edited(baseline: Baseline, path: Path, resolved: Resolved) -> None:
    """Raise DataError for a baseline that --write would not produce from this recipe."""
    if baseline.hash != resolved.hash:
        raise DataError(
            f"{path.stem}: the recipe has changed since its baseline was written; write a new one with --write"
        )
    wrong = None
    if baseline.recipe != path.stem:
        wrong = f"it names the recipe {baseline.recipe!r:.100}"
    elif registry.directions().get(baseline.metric) != baseline.higher_is_better:
        wrong = f"higher_is_better={baseline.higher_is_better} is wrong for {baseline.metric!r:.100}"
    elif resolved.by_gradients != bool(baseline.losses):
        wrong = "it has losses" if baseline.losses else "it has no losses, though the recipe trains by gradient"
    if wrong is not None:
        raise DataError(f"{path.stem}: its baseline was edited: {wrong}; write a new one with --write")


def _baselines_not_run(request: GateRequest, baselines: dict[Path, Baseline]) -> list[str]:
    known = {path.stem for path in request.baseline.glob("*.json")}
    left = sorted(known - {path.stem for path in baselines})
    return [f"baselines without a run: {', '.join(left)}"] if left else []


def recipes(paths: Sequence[Path]) -> list[Path]:
    """Return the recipes of files and folders. Raises SetupError for two files with the same name."""
    files = [one for path in paths for one in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
    names = [path.stem for path in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SetupError(f"two recipes are named {twice[0]}, but a baseline is identified by the name of its recipe")
    if not files:
        raise SetupError(f"no recipes found at {', '.join(map(str, paths))}")
    return files


def _jobs(request: GateRequest, seeds: dict[Path, Any]) -> dict[Path, list[Job]]:
    """Return the jobs of each recipe, ordered by seed. Raises SetupError for two identical recipes."""
    planned: dict[Path, list[Job]] = {}
    owners: dict[Path, Path] = {}
    for path, given in seeds.items():
        plan = study.plan([path], study.SweepRequest(seeds=given, sets=overrides_of(path, request.overrides)))
        planned[path] = jobs.jobs_of([run for system in plan.systems for run in system.runs()], request.out)
        for job in planned[path]:
            if owners.setdefault(job.folder, path) != path:
                raise SetupError(f"{owners[job.folder]} and {path} define the same run; leave one of them out")
    return planned


def _run(request: GateRequest, planned: dict[Path, list[Job]], *others: Path) -> dict[Path, list[FinishedRun]]:
    """Run all jobs; return the finished runs of each recipe.

    Raises DataError if one failed. others: folders to claim.
    """
    every = [job for each in planned.values() for job in each]
    _claim(request.out, [*(job.folder for job in every), *others])
    scheduler.run_all(every, request.machine)
    return {path: [_done(job) for job in each] for path, each in planned.items()}


def _claim(out: Path, folders: Iterable[Path]) -> None:
    """Create the folders, so that all their content is this gate's. Raises SetupError if one exists."""
    folders = list(folders)
    taken = next((folder for folder in folders if folder.exists()), None)
    try:
        for folder in folders if taken is None else []:
            taken = folder
            folder.mkdir(parents=True)
            taken = None
    except FileExistsError:
        pass
    if taken is not None:
        raise SetupError(
            f"--out {out}: {taken} exists, but earlier runs must not be mixed with those of the current code"
        )


def discard(folder: Path, *, failed: bool) -> None:
    """Remove a temporary folder of runs, or after a failure keep it and print its path."""
    if failed and any(folder.iterdir()):
        console.complain(f"runs and logs are kept in {folder}")
    else:
        shutil.rmtree(folder)


def overrides_of(path: Path, given: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the overrides of a gate's runs: the given ones, nothing saved, every loss logged."""
    own = ("save=false", *(("training.log_every=1",) if resolve.load(path, given).by_gradients else ()))
    return merged(own, given)


def _done(job: Job) -> FinishedRun:
    record = jobs.read(job)
    if record is None or record.status != "ok":
        raise DataError(f"{job.planned.path} with seed {job.planned.seed} failed: {job.reason}; see {job.log}")
    return FinishedRun(job, record)


def _metric(run: FinishedRun) -> str:
    """Return the compared metric: the first of the recipe's metrics with a known direction."""
    after: dict[str, Any] = next(iter(run.record.scores.get("after", {}).values()), {})
    names = (*run.job.planned.resolved.metric_names, *after)
    metric = next((name for name in names if name in after and name in registry.directions()), None)
    if metric is None:
        scores = ", ".join(after) or "none"
        raise DataError(f"{run.job.planned.path}: no score of a metric with a known direction; scores: {scores}")
    return metric


def _baseline(path: Path, runs: list[FinishedRun]) -> Baseline:
    resolved, metric = runs[0].job.planned.resolved, _metric(runs[0])
    done = [one.measured for one in runs]
    if resolved.by_gradients and not done[0].trajectory.losses:
        raise DataError(f"{path} trains by gradient, but its run logged no losses; see {runs[0].job.log}")
    for one in runs:
        one.score(metric)
    return criteria.baseline_of(
        done, recipe=path.stem, hash=resolved.hash, metric=metric, higher_is_better=jobs.higher_is_better(metric)
    )


def _stops_early(run: FinishedRun) -> bool:
    return run.job.planned.resolved.recipe.training.early_stopping is not None


def _verdicts(baseline: Baseline, runs: list[FinishedRun], level: float, margin: float) -> list[Verdict]:
    metric = _metric(runs[0])
    if metric != baseline.metric:
        reason = f"it has scores of {baseline.metric!r}, but its recipe is compared by {metric!r}"
        raise DataError(f"{baseline.recipe}: its baseline was edited: {reason}; write a new one with --write")
    for one in runs:
        one.score(metric)
    done = [one.measured for one in runs]
    return criteria.verdicts(baseline, done, level, margin, stops_early=_stops_early(runs[0]))


def run_gate(request: GateRequest, *, write_baselines: bool, seeds: int, output: Path | None) -> int:
    """Write baselines, or compare with them and print the comment; return 1 if a check failed."""
    if write_baselines:
        for path in make_baselines(request, seeds):
            console.say(f"baseline: {path}")
        return 0
    verdicts, notes = judge(request)
    console.say(criteria.as_text(verdicts, notes))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(output, criteria.as_markdown(verdicts, notes))
    return 0 if all(verdict.ok for verdict in verdicts) else 1
