"""A whole run with a counter that is made up: its record, its log and its page have the joules of each phase."""

import json
import time

import pytest

from bench.config.resolve import SHIPPED
from bench.records import energy, store
from bench.runner import lifecycle

WATTS = 20.0
SHORT = ("training.steps=20", "training.evaluate_every=10", "evaluation.before=false")


class Steady:
    """A counter of a device that takes the same power all the time."""

    source, update_s, every_s = "a steady counter", 1e-4, None

    def __init__(self):
        self._last_s = time.perf_counter()

    def read(self):
        now_s = time.perf_counter()
        elapsed_s, self._last_s = now_s - self._last_s, now_s
        return energy.Reading(joules=WATTS * elapsed_s)


def test_the_joules_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(energy.Meter, "here", lambda: energy.Meter(counters={"cpu": Steady()}))
    monkeypatch.setattr(energy, "OTHERS_OF_BUSY", 1.0)  # other tests run beside this one
    assert lifecycle.main([str(SHIPPED / "tiny" / "bert-full.yaml"), *SHORT, "--out", str(tmp_path / "run")]) == 0
    record = store.read(tmp_path / "run" / "record.json")
    phases = record.energy.phases
    seconds = {phase.name: phase.seconds for phase in record.phases}
    seconds["train"] = sum(seconds.pop(name) for name in ("warm_up", "train_steps", "train_other"))
    for name in ("load", "tokenise", "train_setup", "train", "save"):
        assert phases[name]["cpu_joules"] == pytest.approx(WATTS * seconds[name], rel=0.05, abs=0.2), name
    train = phases["train"]
    assert train["cpu_joules_per_100_examples"] == pytest.approx(100 * train["cpu_joules"] / (20 * 32))
    assert train["per_rank"] == [{"cpu_joules": train["cpu_joules"]}]
    assert record.energy.sources == {"cpu": "a steady counter"}
    rows = [json.loads(line) for line in (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()]
    half, whole = (row["cpu_joules"] for row in rows if "validation_accuracy" in row)
    assert 0 < half < whole <= train["cpu_joules"]
    assert "- CPU: a steady counter." in (tmp_path / "run" / "report.md").read_text()
