"""Damage planted into copies of runs: each kind is caught, a repeat passes, and both as often as is said."""

import importlib.util
import json
import math

import numpy as np
import pytest

from bench.errors import DataError
from bench.sweeps.gate import criteria, measured
from bench.sweeps.gate.measured import Measured, Trajectory
from tests.helpers.cases import together
from tests.helpers.launching import ROOT

SPEC = importlib.util.spec_from_file_location("gate_power", ROOT / "scripts" / "benchmarks" / "gate_power.py")
power = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(power)

LEVEL = criteria.ALPHA / 15
STEPS = 60
SEEDS = (13, 14, 15)


def trajectory(scale=1.0, seed=0, steps=STEPS):
    generator = np.random.default_rng(seed)
    numbers = np.arange(1, steps + 1)
    return Trajectory(
        steps=numbers.tolist(),
        losses=(0.7 * np.exp(-numbers / 40) + 0.01 * generator.random(steps)).tolist(),
        grad_norms=(scale * (0.3 + generator.random(steps))).tolist(),
        learning_rates=[1e-3 * (1 - step / steps) for step in range(steps)],
        tokens=np.cumsum(generator.integers(600, 800, steps)).tolist(),
    )


def runs(**changes):
    return [
        Measured(
            seed=seed,
            scores={"accuracy": 0.8 + 0.01 * seed / 13, "f1_macro": 0.79, "loss": 0.4},
            arithmetic={"torch": "2.13.0", "processor": "this one"},
            trajectory=trajectory(seed=seed),
            examples=400,
            data="d",
        )
        for seed in SEEDS
    ]


BASELINE = criteria.baseline_of(runs(), recipe="tiny", hash="x", metric="accuracy", higher_is_better=True)


def failed(done, **options):
    return {one.kind for one in criteria.verdicts(BASELINE, done, LEVEL, **options) if not one.ok}


def changed(seeds=SEEDS, elsewhere=False, scores=(), **lists):
    """The runs again, with changed lists of steps (functions of the old ones) or scores for these seeds."""
    done = []
    for one in runs():
        values = one.model_dump() if hasattr(one, "model_dump") else dict(vars(one))
        if one.seed in seeds:
            new = {name: change(getattr(one.trajectory, name)) for name, change in lists.items()}
            values["trajectory"] = one.trajectory.model_copy(update=new)
            values["scores"] = dict(one.scores) | {name: one.scores[name] + by for name, by in dict(scores).items()}
        if elsewhere:
            values["arithmetic"] = {"torch": "2.13.0", "processor": "another"}
        done.append(Measured(**values))
    return done


def times(factor, first=1, last=10**9):
    return lambda values: [value * (factor if first <= place <= last else 1) for place, value in enumerate(values, 1)]


def shifted(values):
    return [*values[1:], 0.0]


# What is planted, and the checks that must find it.
TRAINING = {
    "half the gradient": ({"grad_norms": times(0.5)}, {"gradient norms"}),
    "twice the gradient": ({"grad_norms": times(2.0)}, {"gradient norms"}),
    "half the gradient from step 21 on": ({"grad_norms": times(0.5, 21)}, {"gradient norms"}),
    "half the gradient in the last step": ({"grad_norms": times(0.5, STEPS)}, {"gradient norms"}),
    "no gradient norms": ({"grad_norms": lambda values: [None] * len(values)}, {"gradient norms"}),
    "clipping left out": ({"losses": times(1.003, 8)}, {"losses"}),
    "weight decay left out": ({"losses": times(1.0003, 30)}, {"losses"}),
    "damage after step 20": ({"losses": times(1.01, 21)}, {"losses"}),
    "damage in the last step": ({"losses": times(1.01, STEPS)}, {"losses"}),
    "a loss that is not a number": ({"losses": times(math.nan, 33, 33)}, {"losses"}),
    "another dtype": ({"losses": times(1.002), "grad_norms": times(1.002)}, {"losses", "gradient norms"}),
    "a schedule one step ahead": ({"learning_rates": shifted}, {"schedule"}),
    "a warm-up of one step more": ({"learning_rates": times(0.5, 1, 1)}, {"schedule"}),
    "a last rate that is not 0": ({"learning_rates": lambda values: [*values[:-1], 1e-5]}, {"schedule"}),
    "an example left out of a batch": ({"tokens": times(0.99, 5)}, {"schedule"}),
    "the order of two batches": ({"tokens": lambda values: [values[0] + 7, *values[1:]]}, {"schedule"}),
}  # fmt: skip


@together("lists, checks", TRAINING.values())
def test_damage_to_the_training_is_caught_at_every_step(lists, checks):
    assert failed(changed(**lists)) == checks


@pytest.mark.parametrize("seed", SEEDS[1:])
def test_damage_to_one_other_seed_is_caught(seed):
    assert failed(changed(seeds=[seed], losses=times(1.01, 33))) == {"losses"}
    assert failed(changed(seeds=[seed], grad_norms=times(0.5, STEPS))) == {"gradient norms"}


def test_a_step_fewer_or_more_is_caught():
    shorter = [measured.Measured(**vars(one) | {"trajectory": one.trajectory.at(range(STEPS))}) for one in runs()]
    assert failed(shorter) == {"losses", "gradient norms", "schedule"}
    assert any(
        one.sentence == "59 losses were logged with seed 13, but 60 in the baseline"
        for one in criteria.verdicts(BASELINE, shorter, LEVEL)
    )


SCORING = {
    "two points of every seed": {"accuracy": -0.02},
    "two points too many of every seed": {"accuracy": 0.02},
    "one label, which only another metric shows": {"f1_macro": -0.02},
    "probabilities that are too sure": {"loss": 0.05},
    "labels that were swapped": {"accuracy": -0.6, "f1_macro": -0.6},
}


@together("scores", SCORING.values())
def test_damage_to_scoring_alone_is_caught(scores):
    assert "scoring" in failed(changed(scores=scores))


def test_damage_to_the_scores_of_one_seed_is_caught():
    assert failed(changed(seeds=[14], scores={"accuracy": -0.02})) == {"scoring"}
    assert failed(changed(seeds=[14], scores={"accuracy": -0.0075})) == set()


@pytest.mark.parametrize(("name", "value"), [("examples", 399), ("examples", None), ("data", "other"), ("data", None)])
def test_other_scored_examples_are_caught(name, value):
    assert failed([Measured(**vars(one) | {name: value}) for one in runs()]) == {"data"}


def test_a_metric_that_is_no_longer_computed_is_missed():
    done = [Measured(**vars(one) | {"scores": {"accuracy": one.scores["accuracy"], "loss": 0.4}}) for one in runs()]
    found = criteria.verdicts(BASELINE, done, LEVEL)
    assert [one.sentence for one in found if not one.ok] == ["with seed 13 there is no score of f1_macro"]


def test_scores_before_training_and_ends_of_intervals_are_compared_too(tmp_path):
    def score(value):
        return {"value": value, "low": value - 0.03, "high": None, "examples": 400}

    after = {"accuracy": score(0.8), "f1_per_label": {"value": [1, 2]}}
    content = {
        "scores": {"before": {"test": {"accuracy": score(0.5)}}, "after": {"test": after}},
        "data": {"splits": {"test": {"examples": 400}}},
        "comparability": {"parts": {"data": "d"}},
    }
    one = measured.measure(content, tmp_path, 13, {})
    assert one.scores == pytest.approx(
        {"accuracy": 0.8, "accuracy, low": 0.77, "before, accuracy": 0.5, "before, accuracy, low": 0.47}
    )
    assert (one.examples, one.data, one.trajectory.steps) == (400, "d", [])
    assert measured.measure({}, tmp_path, 13, {}).scores == {}


def test_a_repeat_passes_with_all_its_checks():
    found = criteria.verdicts(BASELINE, runs(), LEVEL)
    assert [one.kind for one in found] == ["quality", "data", "losses", "gradient norms", "schedule", "scoring"]
    assert all(one.ok for one in found)
    assert found[2].sentence == "all 74 losses of 3 seeds agree within 0.0001"
    assert found[3].sentence == "all 74 gradient norms of 3 seeds agree within 0.001"
    assert found[5].sentence == (
        "the same losses at all 60 steps, and accuracy moved by less than 0.005 over 3 seeds, nor did 2 other scores"
    )


def test_what_no_step_logged_is_not_kept_and_not_compared(tmp_path):
    rows = [{"step": step, "loss": 1 / step, "learning_rate": 1e-3, "seconds": 1.0} for step in range(1, 31)]
    rows.insert(7, {"step": 7, "validation_loss": 0.5})
    (tmp_path / "train_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    read = measured.read_trajectory(tmp_path)
    assert (len(read.steps), len(read.losses), read.grad_norms, read.tokens) == (30, 30, [], [])
    assert read.sample.steps == [1, 10, 20, 30]
    assert read.sample.grad_norms == []
    old = [Measured(**vars(one) | {"trajectory": read}) for one in runs()]
    made = criteria.baseline_of(old, recipe="tiny", hash="x", metric="accuracy", higher_is_better=True)
    assert made.missing == ["gradient norms"]
    found = criteria.verdicts(made, old, LEVEL)
    assert [one.kind for one in found] == ["quality", "data", "losses", "schedule", "scoring"]
    assert all(one.ok for one in found)


# ---------------------------------------------------------------- elsewhere


def test_on_another_processor_rounding_that_grows_passes():
    grown = {"losses": times(1.3, 21), "grad_norms": times(7.0, 21)}
    assert failed(changed(elsewhere=True, **grown)) == set()
    found = criteria.verdicts(BASELINE, changed(elsewhere=True, **grown), LEVEL)
    assert "the losses of the first 20 steps of 3 seeds agree within 0.01, since processor changed" in {
        one.sentence for one in found
    }


ELSEWHERE = {
    "half the gradient": ({"grad_norms": times(0.5)}, {"gradient norms"}),
    "twice the gradient": ({"grad_norms": times(2.0)}, {"gradient norms"}),
    "another gradient": ({"losses": times(1.05, 5)}, {"losses"}),
    "a schedule one step ahead": ({"learning_rates": shifted}, {"schedule"}),
    "an example left out": ({"tokens": times(0.99, 9)}, {"schedule"}),
    "scores of the same model": ({"scores": {"accuracy": -0.02}}, {"scoring"}),
}


@together("lists, checks", ELSEWHERE.values())
def test_on_another_processor_this_is_caught_nevertheless(lists, checks):
    assert failed(changed(elsewhere=True, **lists)) >= checks


def test_only_where_a_training_may_stop_early_may_its_steps_differ_elsewhere():
    shorter = [
        Measured(**vars(one) | {"trajectory": one.trajectory.at(range(50)), "arithmetic": {"torch": "3.0"}})
        for one in runs()
    ]
    assert failed(shorter, stops_early=True) == set()
    assert failed(shorter) == {"losses", "gradient norms", "schedule"}


@pytest.mark.parametrize("name", ["processor", "instructions", "threads", "torch"])
def test_what_decides_the_order_of_sums_is_known_and_said(name):
    named = {"instructions": "avx2", "threads": "1"}
    made = BASELINE.model_copy(update={"arithmetic": BASELINE.arithmetic | named})
    same = dict(made.arithmetic)
    assert criteria.changed_arithmetic(made, same) == []
    assert criteria.changed_arithmetic(made, same | {name: "another"}) == [name]
    older = BASELINE  # which names neither threads nor instructions
    expected = [] if name in named else [name]
    assert criteria.changed_arithmetic(older, same | {name: "another"}) == expected


# ---------------------------------------------------------------- baselines


def test_a_baseline_is_read_as_it_was_written(tmp_path):
    criteria.write_baseline(BASELINE, tmp_path / "tiny.json")
    assert criteria.read_baseline(tmp_path / "tiny.json") == BASELINE
    assert len((tmp_path / "tiny.json").read_text(encoding="utf-8").splitlines()) < 20
    assert BASELINE.missing == []


def test_of_a_baseline_of_before_what_it_lacks_is_said_and_not_compared(tmp_path):
    old = ("recipe", "hash", "metric", "higher_is_better", "scores", "losses", "arithmetic")
    content = {name: value for name, value in BASELINE.model_dump(mode="json").items() if name in old}
    (tmp_path / "tiny.json").write_text(json.dumps(content), encoding="utf-8")
    before = criteria.read_baseline(tmp_path / "tiny.json")
    assert before.missing == ["data", "all scores", "gradient norms", "learning rates", "losses of other seeds"]
    assert [one.kind for one in criteria.verdicts(before, runs(), LEVEL)] == ["quality", "losses", "scoring"]


@pytest.mark.parametrize("change", [{"grad_norms": [1.0]}, {"tokens": [1]}, {"grad_norms": [math.inf] * STEPS}])
def test_a_baseline_with_odd_lists_is_refused(tmp_path, change):
    criteria.write_baseline(BASELINE.model_copy(update=change), tmp_path / "tiny.json")
    with pytest.raises(DataError, match="invalid baseline"):
        criteria.read_baseline(tmp_path / "tiny.json")


# ---------------------------------------------------------------- the whole gate


def test_the_stated_rates_hold_for_the_committed_baselines(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gate_power.py", "--gates", "12", "--tries", "2"])
    assert power.main() == 0
    shown = capsys.readouterr().out
    assert "repeated: 0 of 12 clean gates raise a false alarm" in shown
    whole = shown.partition("repeated:")[2].partition("elsewhere:")[0]
    rows = [
        line for line in whole.splitlines() if line.startswith("| ") and "planted" not in line and "---" not in line
    ]
    assert len(rows) == len(power.SCORING) + len(power.TRAINING)
    assert all("| 100.0 % |" in row for row in rows)
