"""Short names for the runs of a sweep: what differs between them, and nothing else."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from bench.analysis.accessors import NO_SETTINGS
from bench.sweeps.study import PlannedRun

# Characters of a value in a name; a prompt can be pages long.
MOST_OF_VALUE = 30
# Between the parts of a run's name: study, model, method.
BETWEEN = "--"


def of_runs(runs: Sequence[PlannedRun]) -> list[str]:
    """Return a name for each of several runs: parts of the recipe's name, the file, overrides and seed that differ.

    One run alone has its whole name, and so has what nothing else tells from another run.
    """
    names = distinguishing([run.resolved.name for run in runs])
    by_name = {run.resolved.name: set[str]() for run in runs}
    for run in runs:
        by_name[run.resolved.name].add(run.path.stem)
    settings = _settings([run.overrides for run in runs], _told_by_names(runs))
    seeds = {run.seed for run in runs}
    labels = []
    for run, name, differing in zip(runs, names, settings, strict=True):
        parts = [name] if name else []
        # The file tells what overrides do not: two recipes of one name.
        parts += [run.path.stem] if len(by_name[run.resolved.name]) > 1 else []
        parts += [*differing, *([f"seed {run.seed}"] if len(seeds) > 1 else [])]
        labels.append(" ".join(parts) or f"{run.resolved.name} seed {run.seed}")
    return _unique(labels, lambda place: runs[place].resolved.hash[:8])


def common_name(runs: Sequence[PlannedRun]) -> str | None:
    """Return the recipe's name that several runs share, and that their labels leave out; None for any others."""
    names = {run.resolved.name for run in runs}
    return names.pop() if len(names) == 1 and len(runs) > 1 else None


def of_folders(names: Sequence[str]) -> list[str]:
    """Return short names of runs' folders, of which no more is known."""
    short = distinguishing(names)
    return _unique([text or name for text, name in zip(short, names, strict=True)], lambda place: names[place])


def distinguishing(names: Sequence[str]) -> list[str]:
    """Return each name without the parts that all have; whole names where they have different numbers of parts.

    Empty where all are the same.
    """
    if len(set(names)) <= 1:
        return [""] * len(names)
    rows = [name.split(BETWEEN) for name in names]
    if len({len(row) for row in rows}) > 1:
        return list(names)
    kept = [place for place, column in enumerate(zip(*rows, strict=True)) if len(set(column)) > 1]
    return [" ".join(row[place] for place in kept) for row in rows]


def _told_by_names(runs: Sequence[PlannedRun]) -> set[str]:
    """Return the overrides that are parts of the runs' names: the model and the method, where names tell them all."""
    rows = [dict(text.partition("=")[::2] for text in run.overrides) for run in runs]
    told = set()
    for key, place in (("model", 1), ("method", 0)):
        pairs = {(row[key], ["", *run.resolved.name.split(BETWEEN)][::-1][place])
                 for row, run in zip(rows, runs, strict=True) if key in row}  # fmt: skip
        if len({value for value, _ in pairs}) == len({name for _, name in pairs}):
            told.add(key)
    return told


def _settings(overrides: Sequence[Sequence[str]], told: Collection[str]) -> list[list[str]]:
    """Return the overrides of each run whose values differ between runs, with keys as short as can be.

    told: keys that are left out, since the names tell their values.
    """
    rows = [dict(text.partition("=")[::2] for text in row) for row in overrides]
    keys = dict.fromkeys(key for row in rows for key in row if key not in (*NO_SETTINGS, *told))
    differing = [key for key in keys if len({row.get(key) for row in rows}) > 1]
    short = {key: _ending(key, differing) for key in differing}
    return [[f"{short[key]}={_shortened(row[key])}" for key in differing if key in row] for row in rows]


def _ending(key: str, keys: Sequence[str]) -> str:
    """Return the shortest ending of a dotted key that no other key has."""
    parts, others = key.split("."), [other.split(".") for other in keys if other != key]
    endings = (parts[-length:] for length in range(1, len(parts) + 1))
    return ".".join(next((one for one in endings if all(other[-len(one) :] != one for other in others)), parts))


def _shortened(value: str) -> str:
    return value if len(value) <= MOST_OF_VALUE else f"{value[: MOST_OF_VALUE - 1]}…"


def _unique(labels: Sequence[str], more: Callable[[int], str]) -> list[str]:
    """Return the labels; one that several have gets an addition of its own."""
    counts = Counter(labels)
    return [f"{label} {more(place)}" if counts[label] > 1 else label for place, label in enumerate(labels)]
