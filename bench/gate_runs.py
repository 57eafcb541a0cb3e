"""Makes the runs that a gate judges: of the code as it is, and, for speed, of a base commit beside it.

    python -m bench gate recipes/tiny --baseline reports/baseline
    python -m bench gate recipes/tiny --baseline reports/baseline --against origin/main

Every run is a launch of its own, as a user's would be.
"""

import contextlib
import json
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import console, dropin, gate, jobs, recipe, record, study, sweep
from bench.errors import DataError, SetupError
from bench.gate import Baseline, Verdict
from bench.record import Record
from bench.sweep import Job, Machine

ROOT = Path(__file__).resolve().parent.parent
# What is timed of a run; both are free of imports and of loading.
TIMED = {
    "a training step": ("train", "step_time_s", "p50"),
    "100 scored examples": ("test", "seconds_per_100_examples"),
}


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
        path = self.job.folder / "train_log.jsonl"
        if not path.exists():
            return []
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [row["loss"] for row in rows if row.get("loss") is not None]

    def score(self, metric: str) -> float:
        """On the first split. Raises DataError where the run has no such score."""
        value = sweep.score_of(self.record, metric)
        if value is None:
            raise DataError(f"{self.record.name} with seed {self.seed} has no score {metric!r}")
        return value

    @property
    def arithmetic(self) -> dict[str, str]:
        """What the digits of a run depend on, beside its recipe."""
        environment = self.record.environment
        assert environment is not None
        versions = {name: environment.packages.get(name, "").partition("+")[0] for name in gate.ARITHMETIC}
        on_cpu = self.record.launch is not None and self.record.launch.device == "cpu"
        processor = _processor() if on_cpu else ", ".join(environment.devices)
        return {**{name: version for name, version in versions.items() if version}, "processor": processor}


def _processor() -> str:
    """The CPU's model, which decides in what order numbers are summed."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


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
    alpha: float = gate.ALPHA
    margin: float = gate.MARGIN
    factor: float = gate.FACTOR


def write(asked: Asked, seeds: int) -> list[Path]:
    """Runs every recipe with several seeds, and writes what came of it as the new baseline."""
    done = _run(asked, dict.fromkeys(asked.recipes, seeds))
    paths = []
    for path, found in done.items():
        baseline = _baseline(path, found)
        paths.append(asked.baseline / f"{path.stem}.json")
        gate.write_baseline(baseline, paths[-1])
    return paths


def judge(asked: Asked) -> tuple[list[Verdict], list[str]]:
    """(verdicts, notes). Raises DataError for a baseline that is missing, edited, or of another recipe."""
    baselines = {path: gate.read_baseline(asked.baseline / f"{path.stem}.json") for path in asked.recipes}
    timed = (asked.speed or tuple(asked.recipes[:1])) if asked.against is not None else ()
    tests = len(baselines) + len(timed) * len(TIMED)
    level = asked.alpha / tests  # Bonferroni: the alarms of all tests together stay below alpha
    done = _run(asked, {path: tuple(found.scores) for path, found in baselines.items()})
    verdicts: list[Verdict] = []
    for path, baseline in baselines.items():
        verdicts += _judged(baseline, done[path], level, asked.margin)
    if asked.against is not None:
        for path in timed:
            verdicts += _timed(path, asked, level)
    notes = [
        f"chance of a false alarm: at most {asked.alpha:g} for all {tests} tests of scores and times together; "
        "losses are compared digit by digit",
        *_unjudged(asked, baselines),
    ]
    return verdicts, notes


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


def _run(asked: Asked, seeds: dict[Path, Any]) -> dict[Path, list[Done]]:
    """Each recipe's runs, seeds in order, with every loss logged. Raises DataError where one failed."""
    found: dict[Path, list[Job]] = {}
    for path, given in seeds.items():
        plan = study.plan([path], study.Asked(seeds=given, sets=overrides_of(path, asked.overrides)))
        found[path] = sweep.jobs_of([run for system in plan.systems for run in system.runs()], asked.out)
    jobs.run_all([job for each in found.values() for job in each], asked.machine)
    return {path: [_done(job) for job in each] for path, each in found.items()}


def overrides_of(path: Path, given: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What a gate changes of a recipe, beside what is given: nothing is saved, and every loss is logged."""
    resolved = recipe.load(path, given)
    trains = dropin.load("methods", resolved.recipe.method.name).load_plan(resolved.options).trains
    own = ("save=false", *(("training.log_every=1",) if trains == "gradient" else ()))
    return study.merged(own, given)


def _done(job: Job) -> Done:
    found = sweep.read(job)
    if found is None or found.status != "ok":
        raise DataError(f"{job.planned.path} with seed {job.planned.seed} failed: {job.reason}; see {job.log}")
    return Done(job, found)


def _baseline(path: Path, found: list[Done]) -> Baseline:
    resolved, after = found[0].job.planned.resolved, next(iter(found[0].record.scores["after"].values()))
    metric = next(name for name in (*resolved.metric_names, *after) if name in after and name in dropin.directions())
    return Baseline(
        recipe=path.stem,
        hash=resolved.hash,
        metric=metric,
        higher_is_better=sweep.higher_is_better(metric),
        scores={one.seed: one.score(metric) for one in found},
        losses=found[0].losses,
        arithmetic=found[0].arithmetic,
    )


def _judged(baseline: Baseline, found: list[Done], level: float, margin: float) -> list[Verdict]:
    first = found[0]
    if first.job.planned.resolved.hash != baseline.hash:
        raise DataError(f"{baseline.recipe}: the recipe has changed since its baseline was made; make it anew: --write")
    verdicts = [gate.quality(baseline, {one.seed: one.score(baseline.metric) for one in found}, level, margin)]
    if baseline.losses:
        verdicts.append(gate.trajectory(baseline, first.losses, first.arithmetic))
    return verdicts


def _timed(path: Path, asked: Asked, level: float) -> list[Verdict]:
    """Runs a recipe of both commits in turns: A B, B A, A B, so that a drift of the machine touches both alike."""
    assert asked.against is not None
    rounds = asked.rounds or gate.rounds_needed(level)
    times: dict[str, dict[str, list[float]]] = {side: {what: [] for what in TIMED} for side in ("base", "new")}
    with _worktree(asked.against) as base:
        for number in range(rounds):
            for side in ("base", "new") if number % 2 == 0 else ("new", "base"):
                tree = base if side == "base" else ROOT
                found = _time_once(path, tree, asked, asked.out / "speed" / f"{path.stem}-{side}-{number}")
                for what, value in found.items():
                    times[side][what].append(value)
    return [
        gate.speed(path.stem, what, times["base"][what], times["new"][what], level, asked.factor)
        for what in TIMED
        if times["base"][what] and times["new"][what]
    ]


def _time_once(path: Path, tree: Path, asked: Asked, folder: Path) -> dict[str, float]:
    recipe_path = tree / path.resolve().relative_to(ROOT) if path.resolve().is_relative_to(ROOT) else path
    arguments = [str(recipe_path), "--out", str(folder), "--overwrite", *asked.overrides]
    port = jobs.free_port() if asked.machine.processes > 1 else None
    done = subprocess.run(
        asked.machine.words(tree / "bench" / "run.py", arguments, port),
        cwd=tree,
        env=asked.machine.environment(asked.machine.gpus[: asked.machine.per_run]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise DataError(f"{path} at {tree} failed: {said}")
    # Read as plain JSON: the base commit may write records of another schema.
    throughput = json.loads((folder / record.FILE).read_text(encoding="utf-8")).get("throughput", {})
    return {what: value for what, keys in TIMED.items() if (value := _at(throughput, keys)) is not None}


def _at(content: Any, keys: Sequence[str]) -> float | None:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return float(content) if isinstance(content, int | float) and content > 0 else None


@contextlib.contextmanager
def _worktree(commit: str) -> Iterator[Path]:
    """The files of a commit in a folder of their own, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as above:
        tree = Path(above) / "base"
        _git("worktree", "add", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*words: str) -> None:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"git {' '.join(words[:2])}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")


def conduct(asked: Asked, *, renew: bool, seeds: int, output: Path | None) -> int:
    """Writes a baseline, or judges against it and prints the comment; returns 1 where a check failed."""
    if renew:
        for path in write(asked, seeds):
            console.say(f"baseline: {path}")
        return 0
    verdicts, notes = judge(asked)
    text = gate.as_markdown(verdicts, notes)
    print(text, end="")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(output, text)
    return 0 if all(verdict.ok for verdict in verdicts) else 1
