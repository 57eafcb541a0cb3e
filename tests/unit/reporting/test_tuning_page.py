"""The section on tuning: trials, their time and what was chosen, of files of this and earlier versions."""

import json

from bench.reporting import tuning_page

TRIALS = [
    {"settings": ["training.learning_rate=1e-3"], "validation": 0.8, "state": "complete", "seconds": 30.0},
    {"settings": ["training.learning_rate=1e-1"], "validation": None, "state": "unfit", "seconds": 12.0},
    {"settings": ["training.learning_rate=1e-2"], "validation": 0.75, "state": "complete", "seconds": 30.0},
]
ROW = {
    "system": "s--m--full", "metric": "accuracy", "candidates": TRIALS, "seconds": 72.0,
    "search": {"sampler": "TPE", "trials": 3, "seed": 7, "startup": 5, "prune": "median"},
    "chosen": ["training.learning_rate=1e-3"],
}  # fmt: skip


def shown(tmp_path, *rows):
    (tmp_path / "choices.json").write_text(rows[0] if isinstance(rows[0], str) else json.dumps(rows))
    return tuning_page.section([(tmp_path / "run" / "record.json", None)], str)


def test_trials_time_and_choice(tmp_path):
    page = shown(tmp_path, ROW, {**ROW, "system": "s--m--lora", "chosen": None})
    assert "| s--m--full | Optuna TPE, seed 7, median pruning | 3 (1 unfit) | 72.0 | 0.750 to 0.800 |" in page
    assert "training.learning\\_rate=1e-3" in page or "training.learning_rate=1e-3" in page
    assert page.count("| s--m--") == 2


def test_files_of_earlier_versions_and_broken_ones(tmp_path):
    earlier = {key: value for key, value in ROW.items() if key not in ("seconds", "search")}
    earlier["candidates"] = [{"settings": one["settings"], "validation": one["validation"]} for one in TRIALS]
    page = shown(tmp_path, earlier)
    assert "| all combinations | 3 (1 failed) | – |" in page
    assert "can't be read: JSONDecodeError" in shown(tmp_path, "[{")
    assert "can't be read: KeyError" in shown(tmp_path, {"system": "x"})
    assert tuning_page.section([(tmp_path / "elsewhere" / "run" / "record.json", None)], str) == ""
