"""Tune a study's systems by Optuna: TPE proposes settings, is told validation scores, and bad runs are stopped early.

    search: {trials: 12, seed: 0, prune: median}
    tune: {full: {training.learning_rate: {low: 1e-5, high: 1e-3, log: true}}, lora: {...}}

Every system has a sampler of its own with the same seed, and the same number of trials. Nothing is stored but records
and logs: a repeated sweep asks the sampler anew and tells it what finished trials scored, so that it proposes the same
settings again. TPE: Bergstra et al. 2011, "Algorithms for hyper-parameter optimization", NeurIPS. The median rule:
Golovin et al. 2017, "Google Vizier", KDD, section 3.2.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from bench.config.fields import Distinct, InvalidKey, PositiveInt, Strict
from bench.config.overrides import as_yaml
from bench.errors import SetupError
from bench.utils import files, numbers

if TYPE_CHECKING:
    from optuna.trial import Trial as OpenTrial

LOG = "train_log.jsonl"
# Statuses that these settings would give again: the sampler counts them among the bad ones.
UNFIT = ("oom", "diverged", "invalid")
State = Literal["complete", "pruned", "unfit", "failed", "waiting"]


class Search(Strict):
    """Tuning by Optuna's TPE in place of all combinations."""

    trials: Annotated[int, Field(ge=2, le=10_000)]
    """Number of trials of every system. Example: 12"""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the sampler of each system. Example: 1"""
    startup: PositiveInt = 5
    """Number of trials at random before the model of TPE is used. Example: 4"""
    prune: Literal["none", "median"] = "none"
    """Early end of trials: `median` stops one whose best validation score so far is worse than the median of the others
    at that step; `training.evaluate_every` says when it is scored. Example: median"""


class Range(Strict):
    """Values from `low` to `high`, both included: whole ones where both are."""

    low: int | float
    """The least value. Example: 1e-5"""
    high: int | float
    """The largest value. Example: 1e-3"""
    log: bool = False
    """Values are drawn evenly in the logarithm. Example: true"""

    @model_validator(mode="after")
    def _in_order(self) -> "Range":
        if self.low >= self.high:
            raise InvalidKey("low", f"{self.low} is not less than `high`, {self.high}")
        if not math.isfinite(float(self.high) - float(self.low)):
            raise InvalidKey("high", f"{self.high}: the range from {self.low} is too wide for a number of 64 bits")
        if self.log and self.low <= 0:
            raise InvalidKey("low", f"{self.low}: a logarithm needs a number above 0")
        return self


Values = Annotated[tuple[Any, ...], Field(min_length=2), Distinct]
Space = dict[str, Values | Range]


@dataclass(kw_only=True)
class Trial:
    """One trial. settings: overrides. value: on validation data. seconds: of the run, None where not known."""

    settings: tuple[str, ...]
    state: State = "waiting"
    value: float | None = None
    seconds: float | None = None


@dataclass
class Sampler:
    """The sampler of one system, and its trials so far. higher: whether a higher score is better."""

    space: Space
    search: Search
    higher: bool
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        optuna = _optuna()
        pruner = optuna.pruners.MedianPruner() if self.search.prune == "median" else optuna.pruners.NopPruner()
        self._study = optuna.create_study(
            direction="maximize" if self.higher else "minimize",
            # One trial at a time, so that the order of ends on a machine changes nothing.
            sampler=optuna.samplers.TPESampler(
                seed=self.search.seed, n_startup_trials=self.search.startup, constant_liar=False
            ),
            pruner=pruner,
        )
        self._open: OpenTrial | None = None
        self._hopeless = False

    @property
    def is_finished(self) -> bool:
        """Return whether all trials have been told."""
        return len(self.trials) == self.search.trials and self._open is None

    def ask(self) -> Trial:
        """Return the next trial: the same one after the same results, in any process."""
        assert self._open is None, "the last trial was not told"
        self._open, self._hopeless = self._study.ask(), False
        self._reported: set[int] = set()
        settings = tuple(f"{key}={as_yaml(self._suggest(key, values))}" for key, values in self.space.items())
        self.trials.append(Trial(settings=settings))
        return self.trials[-1]

    def _suggest(self, key: str, values: Values | Range) -> Any:
        assert self._open is not None
        if not isinstance(values, Range):
            # Optuna's categories are plain values; a list or a mapping is named by its place.
            place: int = self._open.suggest_categorical(key, list(range(len(values))))
            return values[place]
        if isinstance(values.low, int) and isinstance(values.high, int):
            return self._open.suggest_int(key, values.low, values.high, log=values.log)
        return float(f"{self._open.suggest_float(key, values.low, values.high, log=values.log):.6g}")

    def is_hopeless(self, validations: Sequence[tuple[int, float]]) -> bool:
        """Return whether the open trial should stop, after these (step, score), of which new ones are reported."""
        if self._open is None or self.search.prune == "none":
            return False
        for step, value in validations:
            if step not in self._reported:
                self._reported.add(step)
                self._open.report(value, step)
                if self._open.should_prune():
                    self._hopeless = True
        return self._hopeless

    def tell(self, state: State, value: float | None, validations: Sequence[tuple[int, float]] = ()) -> None:
        """Tell the open trial's end. A run out of memory or diverged counts as bad, one that crashed as not known."""
        import optuna

        assert self._open is not None
        trial = self.trials[-1]
        trial.state, trial.value = state, value
        self.is_hopeless(validations)  # the median of later trials is also of these
        told = {"complete": optuna.trial.TrialState.COMPLETE, "failed": optuna.trial.TrialState.FAIL}
        ended = told.get(state, optuna.trial.TrialState.PRUNED)
        self._study.tell(self._open, value if state == "complete" else None, state=ended)
        self._open = None


def samples_of(space: Space) -> list[tuple[str, ...]]:
    """Return settings that hold both ends of each range, and each value of each list, at least once."""
    columns = {key: [v.low, v.high] if isinstance(v, Range) else [*v] for key, v in space.items()}
    most = max(map(len, columns.values()), default=0)
    # The last value goes with all that is left of longer lists.
    rows = [{key: values[min(row, len(values) - 1)] for key, values in columns.items()} for row in range(most)]
    return [tuple(f"{key}={as_yaml(value)}" for key, value in row.items()) for row in rows]


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise SetupError(
            "`search` needs Optuna, which is not installed: pip install 'finetune-bench[optuna]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def validations(folder: Path, metric: str) -> list[tuple[int, float]]:
    """Return (step, score) of each validation in a run's log, as far as it is written."""
    found = []
    try:
        lines = files.read_text(folder / LOG).splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # the last line of a run that is writing it
            continue
        value = numbers.finite(row.get(f"validation_{metric}")) if isinstance(row, dict) else None
        if value is not None:
            found.append((int(row["step"]), value))
    return found
