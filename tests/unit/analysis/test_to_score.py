"""Time, energy and money until a score is reached, and what a run cost."""

import itertools
import json
import math
import random
import statistics

import pytest

from bench.analysis import spending, to_score
from bench.config.prices import Price, Prices
from bench.errors import DataError
from bench.records.record import EnergyPart, Resumed, Score
from bench.reporting import energy_and_money
from tests.helpers.studies import base

L40S = Price(price=2.0, currency="USD", source="a list", date="2026-01-31")
CORE = Price(price=0.1, currency="EUR", source="our cluster", date="2026-01-31")
PRICES = Prices(gpus={"NVIDIA L40S": L40S}, core=CORE)


def run(folder, seed=13, values=(), *, device="cuda", gpu="NVIDIA L40S", joules=None, before=None, **changes):
    """A run with validations every 10 steps and 100 seconds. joules: of training, for each 10 steps."""
    made = base()
    made.seed, made.started_at, made.finished_at = seed, "2026-01-31T10:00:00+00:00", "2026-01-31T10:30:00+00:00"
    made.launch.device, made.launch.world_size, made.environment.devices = device, 2, [gpu] * 2
    made.environment.cpu_threads, made.resumed = 4, []
    made.recipe.resolved["evaluation"]["validation"] = "dev"
    made.scores = {"after": {"test": {"accuracy": score(0.9)}}}
    if before is not None:
        made.scores["before"] = {"dev": {"accuracy": score(before)}}
    rows = [{"step": 1, "loss": 0.7, "seconds": 1.0}]
    for place, value in enumerate(values, 1):
        row = {"step": 10 * place, "validation_accuracy": value, "validation_loss": 1 - value, "seconds": 100.0 * place}
        rows.append(row | ({"gpu_joules": joules * place} if joules else {}))
    if joules:
        made.energy = EnergyPart(phases={"train": {"gpu_joules": joules * len(values)}})
    for name, value in changes.items():
        setattr(made, name, value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "record.json", made


def score(value):
    return Score(value=value, examples=100, signature="a")


def runs(folder, curves, **options):
    return [run(folder / str(place), 13 + place, values, **options) for place, values in enumerate(curves)]


def needed(located, target=0.8, **options):
    return to_score.of_system(located, "accuracy", target, higher_is_better=True, **options)


def test_the_first_validation_that_reaches_it(tmp_path):
    curves = [(0.5, 0.8, 0.7, 0.9), (0.7, 0.75, 0.85, 0.9), (0.81, 0.5, 0.5, 0.5)]
    found = needed(runs(tmp_path, curves, joules=600.0), prices=PRICES)
    assert (found.runs, found.reached, found.currency, found.why_not) == (3, 3, "USD", None)
    assert (found.steps.median, found.steps.low, found.steps.high) == (20, 10, 30)
    assert (found.seconds.median, found.seconds.coverage) == (200.0, 0.75)
    assert found.joules["gpu"].median == 1200.0
    # 200 s of two GPUs at 2 USD.
    assert found.money.median == pytest.approx(200 * 2 * 2 / 3600)


def test_lower_may_be_better(tmp_path):
    located = runs(tmp_path, [(0.5, 0.8), (0.9, 0.9)])
    found = to_score.of_system(located, "loss", 0.25, higher_is_better=False)
    assert (found.reached, found.steps.median, found.steps.low) == (2, 15, None)


def test_a_run_that_never_gets_there_counts_as_longer(tmp_path):
    two_of_three = needed(runs(tmp_path / "a", [(0.9,), (0.5, 0.8), (0.1, 0.1)], joules=600.0), prices=PRICES)
    assert (two_of_three.reached, two_of_three.steps.median, two_of_three.steps.high) == (2, 20, math.inf)
    assert (two_of_three.joules["gpu"].high, two_of_three.money.high) == (math.inf, math.inf)
    one_of_three = needed(runs(tmp_path / "b", [(0.9,), (0.5,), (0.1,)]))
    assert (one_of_three.reached, one_of_three.seconds.median, one_of_three.seconds.low) == (1, math.inf, 100.0)


def test_before_training_may_be_enough(tmp_path):
    found = needed(runs(tmp_path, [(0.5,)] * 3, before=0.85, joules=600.0))
    assert (found.steps.median, found.seconds.median, found.joules["gpu"].median) == (0, 0.0, 0.0)
    assert needed(runs(tmp_path, [(0.5, 0.9)] * 3, before=0.75)).steps.median == 20


def test_what_can_not_be_told(tmp_path):
    assert needed(runs(tmp_path / "a", [(), (0.9,)])).why_not == "no validation by accuracy in the log of a run"
    other = run(tmp_path / "b", 14, (0.9,), gpu="Tesla T4")
    found = needed([run(tmp_path / "c", 13, (0.9,)), other], prices=PRICES)
    assert (found.steps.median, found.seconds, found.money) == (10, None, None)
    unmeasured = run(
        tmp_path / "d", 13, (0.9,), joules=600.0, energy=EnergyPart(phases={"train": {"gpu_joules": None}})
    )
    assert needed([unmeasured]).joules == {}
    resumed = run(tmp_path / "e", 13, (0.9,), joules=600.0, resumed=[Resumed(at="now", from_step=5)])
    assert needed([resumed]).joules == spending.of_system([resumed[1]], None).training == {}


def test_intervals_hold_the_median_as_often_as_they_say():
    """By simulation, of a skewed distribution whose median is 1."""
    chooser = random.Random(0)
    for size in (3, 5, 6, 12):
        hits, rounds, stated = 0, 4000, None
        for _ in range(rounds):
            spread = to_score.spread([math.exp(chooser.gauss(0, 2)) for _ in range(size)])
            hits, stated = hits + (spread.low <= 1 <= spread.high), spread.coverage
        assert hits / rounds == pytest.approx(stated, abs=0.02)
    assert to_score.covered(1, 3) == 0.75
    assert to_score.covered(1, 5) == 0.9375
    assert to_score.spread([1.0] * 5 + [2.0]).coverage >= to_score.COVERAGE


def test_no_interval_of_two_and_no_median_of_none():
    assert to_score.spread([3.0, 1.0]) == to_score.Spread(median=2.0)
    assert to_score.spread([]) is to_score.spread([1.0, None]) is None
    for values in itertools.product((1.0, 2.0, math.inf), repeat=3):
        assert to_score.spread(list(values)).median == statistics.median(values)


def test_a_score_that_can_not_be(tmp_path):
    located = runs(tmp_path, [(0.9,)])
    to_score.refuse_impossible(located, None, 0.85)
    with pytest.raises(DataError, match=r"--to-score 85 can't be reached: the runs are ranked by accuracy from 0 to 1"):
        to_score.refuse_impossible(located, None, 85.0)


def test_money_of_a_run(tmp_path):
    _, record = run(tmp_path / "gpu", 13)
    found = spending.money(record, PRICES)
    assert (found.hours, found.amount, found.unit, found.currency) == (1.0, 2.0, "GPU hours", "USD")
    _, on_cpu = run(tmp_path / "cpu", 13, device="cpu")
    found = spending.money(on_cpu, PRICES)
    assert (found.hours, found.amount, found.unit, found.currency) == (4.0, pytest.approx(0.4), "core hours", "EUR")
    assert spending.money(on_cpu, Prices(gpus={})) is None
    record.resumed = [Resumed(at="now", from_step=5)]
    assert spending.money(record, PRICES).startswith("a resumed run's record does not have the time")
    record.environment.devices = ["Tesla T4", "NVIDIA L40S"]
    assert spending.money(record, PRICES) == "a run on NVIDIA L40S and Tesla T4 has no single price"
    record.environment.devices = ["Tesla T4"]
    assert spending.money(record, PRICES).startswith("no price of Tesla T4 is known (known: NVIDIA L40S)")


def test_a_system_and_its_notes(tmp_path):
    energy = EnergyPart(phases={"train": {"gpu_joules": 3000.0}, "score_after": {"gpu_joules_per_100_examples": 7.0}})
    records = [record for _, record in runs(tmp_path / "a", [(0.9,)] * 2, energy=energy)]
    one = spending.of_system(records, PRICES)
    assert (one.training, one.per_100, one.money.amount) == ({"gpu": 3000.0}, {"gpu": 7.0}, 2.0)
    records[0].energy = EnergyPart(phases={"train": {"gpu_joules": 4000.0}, "score_after": {}})
    records[0].finished_at = records[0].started_at.replace("T10", "T12")
    (varied,) = energy_and_money.columns([spending.of_system(records, PRICES)])
    assert list(varied.values()) == ["3.50 ± 0.71", "2.50 ± 2.1 GPU hours", "5.00 ± 4.2 USD"]
    records[0].energy = None
    assert spending.of_system(records, None) == spending.Spending()
    cpu = spending.of_system([record for _, record in runs(tmp_path / "b", [()], device="cpu")], PRICES)
    unknown = spending.of_system([record for _, record in runs(tmp_path / "c", [()], gpu="Tesla T4")], PRICES)
    columns = energy_and_money.columns([one, cpu, unknown])
    assert [list(row.values()) for row in columns] == [
        ["3.00", "7.00", "1.00 GPU hours", "2.00 USD"],
        ["–", "–", "4.00 core hours", "0.400 EUR"],
        ["–", "–", "–", "–"],
    ]
    notes = energy_and_money.notes(["one", "cpu", "unknown"], [one, cpu, unknown])
    assert any("different currencies, which are not converted" in note for note in notes)
    assert any(note.startswith("No money for unknown: no price of Tesla T4 is known") for note in notes)
    assert energy_and_money.columns([spending.Spending()]) == [{}]


def test_a_run_says_why_there_is_no_energy(tmp_path, monkeypatch):
    monkeypatch.delenv("BENCH_COSTS", raising=False)
    _, record = run(tmp_path, 13, device="cpu", energy=EnergyPart(missing={"cpu": "no RAPL counters in /sys"}))
    assert energy_and_money.run_section(record) == "- Not measured, cpu: no RAPL counters in /sys."
    record.energy = None
    assert energy_and_money.run_section(record) == ""
    damaged = tmp_path / "costs.yaml"
    damaged.write_text("gpu_hours: 3\n")
    monkeypatch.setenv("BENCH_COSTS", str(damaged))
    assert "gpu_hours: expected a mapping" in energy_and_money.run_section(record)


def test_a_run_shows_energy_and_money(tmp_path, monkeypatch):
    monkeypatch.delenv("BENCH_COSTS", raising=False)
    phases = {"train": {"gpu_joules": 3000.0, "per_rank": [{"gpu_joules": 3000.0}]}, "save": {"gpu_joules": None}}
    _, record = run(tmp_path, 13, gpu="NVIDIA A10G", energy=EnergyPart(sources={"gpu": "NVML"}, phases=phases))
    shown = energy_and_money.run_section(record)
    assert "| train | 3,000 |" in shown
    assert "save" not in shown
    assert "- GPU: NVML." in shown
    assert "Cost: 1.01 USD, for 1.00 GPU hours from start to end at 1.006 USD (Amazon EC2" in shown
