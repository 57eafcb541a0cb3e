"""How long the commands of `python -m bench` take that only read recipes and records, each in a fresh process.

    python scripts/benchmarks/commands.py [--small] [--rounds N]

Commands take turns; before each round a process that does nothing shows what Python itself takes on this machine.
Files are in the system's cache: the first process of each command is not measured. In that one Python lists what it
imports: neither torch nor another library that takes seconds may be among it.

Prints a table and one line of JSON. The exit code is 1 where a command fails or imports such a library; a target that
is missed is only said. Wall seconds are what a person waits; on a busy machine processor seconds say more.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Python put this file's folder first.
sys.path[0] = str(ROOT)

HEAVY = ("torch", "transformers", "datasets", "accelerate", "peft", "trl", "sklearn", "matplotlib")
TARGET_S = 0.5
NOTHING = "python -c pass"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One command. Spreads are over the rounds."""

    case: str
    wall_s: dict[str, float]
    cpu_s: dict[str, float]
    modules: int
    heavy: list[str]
    # Python itself has none.
    target_s: float | None


def commands(small: bool) -> dict[str, list[str]]:
    """What a person types -> arguments of Python."""
    records = ROOT / "reports"
    written = {
        "--help": ["--help"],
        "list": ["list"],
        "check recipes/tiny/bert-full.yaml": ["check", str(ROOT / "recipes" / "tiny" / "bert-full.yaml")],
        "report reports": ["report", str(records)],
    }
    if not small:
        written["check"] = ["check"]  # all recipes and cards
    return {NOTHING: ["-c", "pass"], **{name: ["-m", "bench", *words] for name, words in written.items()}}


def run(arguments: Sequence[str], *options: str) -> subprocess.CompletedProcess[str]:
    """To the end, from the repository's root. Raises CalledProcessError when it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *options, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )


def imported(arguments: Sequence[str]) -> set[str]:
    """Full names of all modules that a command imports."""
    lines = run(arguments, "-X", "importtime").stderr.splitlines()
    return {match[1] for line in lines if (match := re.match(r"import time: +\d+ \| +\d+ \| +(\S+)", line))}


def timed(arguments: Sequence[str]) -> tuple[float, float]:
    """(wall, processor) seconds of a process."""
    before, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run(arguments)
    wall_s, after = time.perf_counter() - wall_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(rounds: int, small: bool) -> list[Result]:
    """All commands in turns."""
    asked = commands(small)
    modules = {name: imported(arguments) for name, arguments in asked.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in asked}
    for _ in range(rounds):
        for name, arguments in asked.items():
            times[name].append(timed(arguments))
    return [
        Result(
            case=name,
            wall_s=spread([wall for wall, _ in times[name]]),
            cpu_s=spread([cpu for _, cpu in times[name]]),
            modules=len(modules[name]),
            heavy=sorted(modules[name] & set(HEAVY)),
            target_s=None if name == NOTHING else TARGET_S,
        )
        for name in asked
    ]


def table(results: list[Result]) -> str:
    """Markdown."""
    lines = [
        "| command | wall s | CPU s | modules imported | heavy ones | at most, wall s | reached |",
        "| --- | --: | --: | --: | --- | --: | --- |",
    ]
    for result in results:
        target = result.target_s
        reached = "" if target is None else "yes" if result.wall_s["median"] <= target else "no"
        cells = [
            *(f"`{result.case}`", shown(result.wall_s), shown(result.cpu_s), f"{result.modules}"),
            *(", ".join(result.heavy) or "none", "" if target is None else f"{target:g}", reached),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, and both ends."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def shown(values: dict[str, float]) -> str:
    """`median (min–max)`."""
    return f"{values['median']:.2f} ({values['min']:.2f}–{values['max']:.2f})"


def main(arguments: list[str] | None = None) -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one recipe and one round: does it run, without torch")
    parser.add_argument("--rounds", type=int, metavar="N", help="processes of each command (default: 9)")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (1 if options.small else 9)
    try:
        results = measure(rounds, options.small)
    except subprocess.CalledProcessError as error:
        print(f"{' '.join(error.cmd[1:])} ended with {error.returncode}: {error.stderr[-2000:]}", file=sys.stderr)
        return 1
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors, {rounds} rounds\n")
    print(table(results))
    found = {"benchmark": "commands", "small": options.small, "rounds": rounds, "device": "cpu"}
    print(json.dumps({**found, "python": sys.version.split()[0], "cases": [asdict(result) for result in results]}))
    for result in results:
        if result.heavy:
            print(f"{result.case} imports {', '.join(result.heavy)}", file=sys.stderr)
    return 1 if any(result.heavy for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
