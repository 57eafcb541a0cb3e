"""Tells of the runs of a page by which commands they run again, their methods, and how settings were chosen."""

import shlex
from collections import Counter
from collections.abc import Sequence

from bench.analysis import accessors
from bench.analysis.accessors import Located
from bench.config import registry
from bench.errors import BenchError
from bench.records.record import Record
from bench.reporting import markdown as md
from bench.reporting import run_summary, tuning_page

HEADING = "How to run it again"
# Of a block of commands; each is about 120 characters.
MOST_CHARACTERS = 40_000
PACKAGE = "finetune-bench"
SEED = "--seed"


def run_again(records: Sequence[Located]) -> str:
    """Return the commands of all runs by recipe, with their seeds, and the versions that made them."""
    made = [record for _, record in records if record.imported is None]
    seeds: dict[str, list[int]] = {}
    without = 0
    for record in sorted(made, key=lambda one: (one.recipe.path, one.recipe.overrides, one.seed or 0)):
        command = run_summary.command(record)
        if command is None:
            without += 1
            continue
        seeds.setdefault(_for_any_seed(command), []).append(-1 if record.seed is None else record.seed)
    if not seeds:
        return ""
    lines = [_for_seeds(command, sorted(set(each))) for command, each in seeds.items()]
    where = "From the folder in which the runs were started, with the versions below:"
    notes = [_versions(made)]
    notes += [f"Runs without a command, as their recipe is in no file: {without}."] if without else []
    shown = md.verbatim("\n".join(lines), MOST_CHARACTERS)
    body = md.joined([where, shown, md.bullets([note for note in notes if note])])
    return f"## {HEADING}\n\n{md.details(f'Commands ({len(lines)})', body)}"


def _for_any_seed(command: str) -> str:
    """Return a command with a shell variable in place of its seed."""
    words = shlex.split(command)
    if SEED not in words:
        return command
    place = words.index(SEED) + 1
    return " ".join(filter(None, [shlex.join(words[:place]), '"$seed"', shlex.join(words[place + 1 :])]))


def _for_seeds(command: str, seeds: Sequence[int]) -> str:
    """Return a line of shell that runs a command once for each seed."""
    if len(seeds) == 1:
        return command.replace('"$seed"', str(seeds[0]))
    return f"for seed in {' '.join(map(str, seeds))}; do {command}; done"


def _versions(records: Sequence[Record]) -> str:
    """Return the versions and commits of this package that made the runs, the most frequent first."""
    found: Counter[str] = Counter()
    for record in records:
        environment = record.environment
        version = environment.packages.get(PACKAGE) if environment else None
        git = (environment.git if environment else None) or {}
        changed = " with changes that are not committed" if git.get("dirty") else ""
        commit = f", commit {md.code(git['commit'])}{changed}" if git.get("commit") else ", commit not known"
        found[f"{PACKAGE} {md.escape(version or 'of an unknown version')}{commit}"] += 1
    return (
        "; ".join(f"{what} ({number:,} run{'s' if number > 1 else ''})" for what, number in found.most_common()) + "."
        if found
        else ""
    )


def methods(records: Sequence[Record]) -> list[str]:
    """Return a line on each method of the page, as its own file describes it; none of a method not installed here."""
    labels: dict[str, set[str]] = {}
    for record in records:
        if record.method and record.imported is None:
            labels.setdefault(record.method, set()).add(accessors.method_label(record))
    lines = []
    for name, shown in sorted(labels.items()):
        try:
            text = registry.literals("methods", name)["doc"]
        except BenchError:
            continue
        lines += [f"Method {md.escape(', '.join(sorted(shown)))}: {md.escape(text, accessors.MAX_CHARACTERS)}"] * bool(
            text
        )
    return lines


def selection(records: Sequence[Located]) -> str:
    """Return how settings and steps were chosen; empty where not all records can tell, as imported ones."""
    if not records or any(record.imported is not None for _, record in records):
        return ""
    if any(record.selected_on for _, record in records):
        return "Data that are scored also chose steps or settings of the runs marked †."
    best = [str(name) for _, record in records if (name := _best(record))]
    by = md.escape(", ".join(sorted(set(best))))
    steps = (
        f" The best step of {len(best):,} run{'s' if len(best) > 1 else ''} was chosen on validation data, by {by}."
        if best
        else ""
    )
    if any((folder / tuning_page.CHOICES).exists() for folder in {path.parent.parent for path, _ in records}):
        return f"Settings were chosen on validation data, see Tuning.{steps}"
    has_own = not any(record.recipe.overrides for _, record in records)
    whose = "the recipes' own" if has_own else "those of the recipes and of the commands below"
    return f"Settings are {whose}; no record says that scored data chose any.{steps}"


def _best(record: Record) -> object:
    training = record.recipe.resolved.get("training")
    return training.get("best") if isinstance(training, dict) else None
