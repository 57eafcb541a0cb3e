"""Makes the runs that a gate judges: of the code as it is, and, for speed, of a base commit beside it.

    python -m bench gate recipes/tiny --baseline reports/baseline
    python -m bench gate recipes/tiny --baseline reports/baseline --against origin/main

Every run is a launch of its own, as a user's would be. Runs that were there before are never judged.
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
from bench.sweeps.gate import criteria
from bench.sweeps.gate import timing as gate_speed
from bench.sweeps.gate.criteria import Baseline, Verdict
from bench.sweeps.jobs import Job, Machine
from bench.utils import files
from bench.utils.system import processor_name

SPEED, BASE = "speed", "base"


@dataclass(frozen=True)
class Done:
    """A run that has ended well."""

    job: Job
    record: Record

    @property
    def seed(self) -> int:
        """As it was launched with."""
        return self.job.planned.seed

    @property
    def losses(self) -> list[float]:
        """Of all steps; none where nothing is trained by gradient."""
        return jobs.losses(self.job.folder)

    def score(self, metric: str) -> float:
        """On the first split. Raises DataError where the run has no such score."""
        value = jobs.score_of(self.record, metric)
        if value is None:
            raise DataError(f"{self.record.name} with seed {self.seed} has no score {metric!r}")
        return value

    @property
    def arithmetic(self) -> dict[str, str]:
        """What the digits of a run depend on, beside its recipe."""
        environment = self.record.environment
        assert environment is not None
        versions = {name: environment.packages.get(name, "").partition("+")[0] for name in criteria.ARITHMETIC}
        on_cpu = self.record.launch is not None and self.record.launch.device == "cpu"
        # The CPU's model decides in what order numbers are summed.
        processor = processor_name() if on_cpu else ", ".join(environment.devices)
        return {**{name: version for name, version in versions.items() if version}, "processor": processor}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A gate as it is asked for. against: a commit to compare speed with. speed: recipes that are timed.

    alpha: chance of a false alarm of the whole gate. rounds: timed runs of each commit; None for as few as will do.
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


def write(asked: Asked, seeds: int) -> list[Path]:
    """Runs every recipe with several seeds, and writes what came of it as the new baseline.

    Raises SetupError for fewer seeds than a gate needs, and for options that only judging has.
    """
    if seeds < criteria.FEWEST_SEEDS:
        raise SetupError(f"--seeds {seeds}: a baseline needs {criteria.FEWEST_SEEDS} seeds or more")
    if asked.against is not None or asked.speed or asked.rounds is not None:
        raise SetupError("--against, --speed and --rounds are for judging; --write only makes baselines")
    done = _run(asked, _jobs(asked, dict.fromkeys(asked.recipes, seeds)))
    paths = []
    for path, found in done.items():
        baseline = _baseline(path, found)
        paths.append(asked.baseline / f"{path.stem}.json")
        criteria.write_baseline(baseline, paths[-1])
    return paths


def judge(asked: Asked) -> tuple[list[Verdict], list[str]]:
    """(verdicts, notes). Raises DataError for a baseline that is missing, edited, or of another recipe.

    What can be refused is refused before anything runs.
    """
    baselines = {path: criteria.read_baseline(asked.baseline / f"{path.stem}.json") for path in asked.recipes}
    if asked.against is None and (asked.speed or asked.rounds is not None):
        raise SetupError("--speed and --rounds go with --against, the commit to compare speed with")
    timed = (asked.speed or _first_trained(baselines)) if asked.against is not None else ()
    tests = len(baselines) + len(timed) * len(gate_speed.TIMED)
    level = asked.alpha / tests  # Bonferroni: the alarms of all tests together stay below alpha
    for path in timed:
        resolve.load(path, asked.overrides)
    base = None if asked.against is None else gate_speed.commit(asked.against)
    rounds = _rounds(asked, level)
    planned = _jobs(asked, {path: tuple(found.scores) for path, found in baselines.items()})
    for path, baseline in baselines.items():
        refuse_edited(baseline, path, planned[path][0].planned.resolved)
    done = _run(asked, planned, *([asked.out / SPEED, asked.out / BASE] if timed else []))
    verdicts, others = list[Verdict](), list[str]()
    for path, baseline in baselines.items():
        verdicts += _judged(baseline, done[path], level, asked.margin)
    if base is not None:
        timing = gate_speed.Timing(
            base=base, rounds=rounds, level=level, factor=asked.factor, machine=asked.machine,
            overrides=asked.overrides, out=asked.out / SPEED,
        )  # fmt: skip
        for path, baseline in baselines.items():
            beside, said = _beside_base(path, baseline, done[path][0], timing, asked)
            verdicts, others = [*verdicts, *beside], [*others, *said]
        verdicts += [verdict for path in timed for verdict in gate_speed.timed(path, timing)]
    notes = [
        f"chance of a false alarm: at most {asked.alpha:g} for all {tests} tests of scores and times together",
        _compared(verdicts, baselines),
        *others,
        *_unjudged(asked, baselines),
    ]
    return verdicts, notes


def _first_trained(baselines: dict[Path, Baseline]) -> tuple[Path, ...]:
    """The first recipe that has training steps to time, else the first."""
    return tuple([*(path for path, found in baselines.items() if found.losses), *baselines][:1])


def _beside_base(
    path: Path, baseline: Baseline, first: Done, timing: gate_speed.Timing, asked: Asked
) -> tuple[list[Verdict], list[str]]:
    """(verdicts, notes) of losses beside the base commit's, where this machine computes unlike the baseline's."""
    if not baseline.losses or not criteria.changed_arithmetic(baseline, first.arithmetic):
        return [], []
    own = replace(timing, overrides=overrides_of(path, asked.overrides), out=asked.out / BASE)
    losses = gate_speed.base_losses(path, first.seed, own)
    if losses is None:
        return [], [f"{path.stem}: losses are compared loosely, and not with the base commit, which has another recipe"]
    return [criteria.same_as_base(baseline, losses, first.losses, first.arithmetic)], []


def _rounds(asked: Asked, level: float) -> int:
    needed = criteria.rounds_needed(level)
    if asked.rounds is not None and asked.rounds < needed:
        raise SetupError(f"--rounds {asked.rounds}: a slowdown can't be shown at {level:.2g} by fewer than {needed}")
    return asked.rounds or needed


def _compared(verdicts: Sequence[Verdict], baselines: dict[Path, Baseline]) -> str:
    number = sum(verdict.kind == "losses" for verdict in verdicts)
    if number == 0:
        return "no losses are compared: none of these recipes trains by gradient"
    others = "" if number == len(baselines) else f" of {number} of {len(baselines)} recipes, which train by gradient,"
    return f"losses{others} are compared step by step"


def refuse_edited(baseline: Baseline, path: Path, resolved: Resolved) -> None:
    """Raises DataError for a baseline that --write would not make of this recipe."""
    if baseline.hash != resolved.hash:
        raise DataError(f"{path.stem}: the recipe has changed since its baseline was made; make it anew: --write")
    wrong = None
    if baseline.recipe != path.stem:
        wrong = f"it names the recipe {baseline.recipe!r:.100}"
    elif registry.directions().get(baseline.metric) != baseline.higher_is_better:
        wrong = f"of {baseline.metric!r:.100} it is not true that higher_is_better is {baseline.higher_is_better}"
    elif resolved.by_gradients != bool(baseline.losses):
        wrong = "it has losses" if baseline.losses else "it has no losses, though the recipe trains by gradient"
    if wrong is not None:
        raise DataError(f"{path.stem}: its baseline was edited: {wrong}; make it anew: --write")


def _unjudged(asked: Asked, baselines: dict[Path, Baseline]) -> list[str]:
    known = {path.stem for path in asked.baseline.glob("*.json")}
    left = sorted(known - {path.stem for path in baselines})
    return [f"not run, though there are baselines: {', '.join(left)}"] if left else []


def recipes(paths: Sequence[Path]) -> list[Path]:
    """Recipes of files and folders, each once. Raises SetupError for two whose files have one name."""
    found = [one for path in paths for one in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
    names = [path.stem for path in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SetupError(f"two recipes are called {twice[0]}: a baseline is known by its recipe's name")
    if not found:
        raise SetupError(f"there are no recipes at {', '.join(map(str, paths))}")
    return found


def _jobs(asked: Asked, seeds: dict[Path, Any]) -> dict[Path, list[Job]]:
    """Each recipe's runs that are to be made, seeds in order. Raises SetupError for two recipes that are one."""
    found: dict[Path, list[Job]] = {}
    owners: dict[Path, Path] = {}
    for path, given in seeds.items():
        plan = study.plan([path], study.Asked(seeds=given, sets=overrides_of(path, asked.overrides)))
        found[path] = jobs.jobs_of([run for system in plan.systems for run in system.runs()], asked.out)
        for job in found[path]:
            if owners.setdefault(job.folder, path) != path:
                raise SetupError(f"{owners[job.folder]} and {path} are the same run; leave one of them out")
    return found


def _run(asked: Asked, planned: dict[Path, list[Job]], *others: Path) -> dict[Path, list[Done]]:
    """Each recipe's runs, with every loss logged. Raises DataError where one failed. others: more folders to claim."""
    every = [job for each in planned.values() for job in each]
    _claim(asked.out, [*(job.folder for job in every), *others])
    scheduler.run_all(every, asked.machine)
    return {path: [_done(job) for job in each] for path, each in planned.items()}


def _claim(out: Path, folders: Iterable[Path]) -> None:
    """Makes the folders, so that all that is in them later is this gate's. Raises SetupError where one is there."""
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
        raise SetupError(f"--out {out}: it must hold no runs of these recipes, since old runs say nothing of the code "
                         f"as it is, but there is {taken}")  # fmt: skip


def discard(folder: Path, *, failed: bool) -> None:
    """Removes a temporary folder of runs; where something failed it is kept, and named."""
    if failed and any(folder.iterdir()):
        console.complain(f"the runs and their logs are kept in {folder}")
    else:
        shutil.rmtree(folder)


def overrides_of(path: Path, given: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What a gate changes of a recipe, beside what is given: nothing is saved, and every loss is logged."""
    own = ("save=false", *(("training.log_every=1",) if resolve.load(path, given).by_gradients else ()))
    return merged(own, given)


def _done(job: Job) -> Done:
    found = jobs.read(job)
    if found is None or found.status != "ok":
        raise DataError(f"{job.planned.path} with seed {job.planned.seed} failed: {job.reason}; see {job.log}")
    return Done(job, found)


def _metric(found: Done) -> str:
    """By which runs are judged: the first of the recipe's metrics of which it is known whether more is better."""
    after: dict[str, Any] = next(iter(found.record.scores.get("after", {}).values()), {})
    names = (*found.job.planned.resolved.metric_names, *after)
    metric = next((name for name in names if name in after and name in registry.directions()), None)
    if metric is None:
        raise DataError(f"{found.job.planned.path}: there is no score that can be judged: {', '.join(after) or 'none'}")
    return metric


def _baseline(path: Path, found: list[Done]) -> Baseline:
    resolved, metric = found[0].job.planned.resolved, _metric(found[0])
    if resolved.by_gradients and not found[0].losses:
        raise DataError(f"{path} trains by gradient, and its run logged no losses; see {found[0].job.log}")
    return Baseline(
        recipe=path.stem,
        hash=resolved.hash,
        metric=metric,
        higher_is_better=jobs.higher_is_better(metric),
        scores={one.seed: one.score(metric) for one in found},
        losses=found[0].losses,
        arithmetic=found[0].arithmetic,
    )


def _judged(baseline: Baseline, found: list[Done], level: float, margin: float) -> list[Verdict]:
    first, metric = found[0], _metric(found[0])
    if metric != baseline.metric:
        told = f"it has scores of {baseline.metric!r}, and its recipe is judged by {metric!r}"
        raise DataError(f"{baseline.recipe}: its baseline was edited: {told}; make it anew: --write")
    scores = {one.seed: one.score(baseline.metric) for one in found}
    verdicts = [criteria.quality(baseline, scores, level, margin)]
    if baseline.losses:
        verdicts.append(criteria.trajectory(baseline, first.losses, first.arithmetic))
    scored = criteria.scoring(baseline, scores, first.losses, first.arithmetic, margin)
    return verdicts if scored is None else [*verdicts, scored]


def conduct(asked: Asked, *, renew: bool, seeds: int, output: Path | None) -> int:
    """Writes a baseline, or judges against it and prints the comment; returns 1 where a check failed."""
    if renew:
        for path in write(asked, seeds):
            console.say(f"baseline: {path}")
        return 0
    verdicts, notes = judge(asked)
    text = criteria.as_markdown(verdicts, notes)
    print(text, end="")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(output, text)
    return 0 if all(verdict.ok for verdict in verdicts) else 1
