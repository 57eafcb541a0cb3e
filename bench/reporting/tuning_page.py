"""The section on tuning of the report of many runs: trials of each system, their time, and the settings chosen."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.analysis.accessors import Located
from bench.reporting import markdown as md
from bench.reporting.study_sections import NAME_CHARACTERS, Shorten
from bench.utils import files, numbers

# Written by a sweep beside its runs.
CHOICES = "choices.json"
NOTE = (
    "Trials have the first seed and are scored on validation data alone; their time comes on top of that of the runs "
    "above. Systems have the same number of trials, not the same time."
)


def section(records: Sequence[Located], shorten: Shorten) -> str:
    """Return the section, made of the files of choices beside the runs; empty without any."""
    lines, notes = [], [NOTE]
    for path in sorted({path.parent.parent / CHOICES for path, _ in records}):
        try:
            rows = json.loads(files.read_text(path))
            lines += [_line(row) for row in rows]
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            notes.append(
                f"{md.code(shorten(str(path)))} can't be read: {md.escape(f'{type(error).__name__}: {error}')}."
            )
    if not lines and len(notes) == 1:
        return ""
    return md.joined(["## Tuning", md.table_of(lines, ("system", "search", "chosen")), md.bullets(notes)])


def _line(row: dict[str, Any]) -> dict[str, str]:
    trials = row["candidates"]
    # Files of earlier versions have scores alone.
    states = Counter(one.get("state", "complete" if one["validation"] is not None else "failed") for one in trials)
    others = [f"{count} {state}" for state, count in states.items() if state != "complete"]
    if again := len(trials) - len({tuple(one["settings"]) for one in trials}):
        others.append(f"{again} proposed again, which ran once")
    remark = f" ({', '.join(others)})" if others else ""
    scores = [value for one in trials if (value := numbers.finite(one["validation"])) is not None]
    search = row.get("search", "all combinations")
    if isinstance(search, dict):
        pruned = "" if search["prune"] == "none" else f", {search['prune']} pruning"
        search = f"Optuna {search['sampler']}, seed {search['seed']}{pruned}"
    return {
        "system": md.escape(row["system"], NAME_CHARACTERS),
        "search": md.escape(search),
        "trials": f"{len(trials)}{remark}",
        "trials, s": md.seconds(row.get("seconds")),
        f"validation {md.escape(row['metric'])}, lowest to highest": (
            f"{md.fixed(min(scores))} to {md.fixed(max(scores))}" if scores else md.DASH
        ),
        "chosen": md.escape("; ".join(row["chosen"])) if row["chosen"] else md.DASH,
    }
