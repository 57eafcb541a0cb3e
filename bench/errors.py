"""Errors that a person can act on: each is shown as one sentence, without a traceback.

An exception of another kind is a defect of the harness or of a library; a run files it as `crashed`.
"""

import difflib
from collections.abc import Iterable
from typing import Literal

# Ways in which a run can end, as its record says.
Status = Literal["ok", "oom", "diverged", "interrupted", "invalid", "crashed"]


class BenchError(Exception):
    """A problem that the person who started the command can mend. `str(error)` is the whole message."""


class RecipeError(BenchError):
    """A recipe, a card or an override is wrong. Several problems are the lines of one message."""


class DataError(BenchError):
    """The data are missing, malformed, or not what the card says."""


class SetupError(BenchError):
    """The machine, the launch or an installed package does not allow what the recipe asks for."""


class ScoreError(BenchError):
    """A result would not be valid: predictions missing, twice, or of the wrong shape."""


class DivergedError(BenchError):
    """The training loss or a gradient is not finite."""


class StoppedError(BenchError):
    """The run was asked to stop: by a signal of a person or a scheduler, or by the end of its launcher."""


def nearest(wrong: str, known: Iterable[str]) -> str | None:
    """Return the known name that a wrong one is most like, or None where none is near."""
    return next(iter(difflib.get_close_matches(wrong, sorted(known), n=1, cutoff=0.6)), None)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return ' Did you mean ...?' when a known name is near, else the known names; empty when none is known."""
    names = sorted(known)
    near = nearest(wrong, names)
    if near is not None:
        return f" Did you mean {near!r}?"
    return f" Known: {', '.join(names)}." if names else ""
