"""A study that is tuned by Optuna: trials are launched, told and resumed, and the report counts their time."""

import json

from bench.records import store
from tests.helpers.launching import bench

STUDY = """
title: How strong a penalty?
metric: accuracy
runs: [{recipe: tiny/none-tfidf}]
tune: {tfidf: {method.config.C: {low: 0.01, high: 100.0, log: true}}}
search: {trials: 2, seed: 5}
"""


def test_trials_are_proposed_launched_and_counted_once(write, tmp_path):
    write("own/study.yaml", STUDY)
    out = tmp_path / "runs"
    command = ["sweep", tmp_path / "own", "--out", out, "--config", "cpu", "--set", "limit={train: 60, test: 40}"]
    done = bench(*command)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((out / "choices.json").read_text(encoding="utf-8"))
    scores = {tuple(one["settings"]): one["validation"] for one in row["candidates"]}
    assert len(scores) == 2
    assert scores[tuple(row["chosen"])] == max(scores.values())
    assert row["seconds"] > 0
    (final,) = out.glob("tiny--*")
    assert store.read(final).recipe.overrides[-1:] == row["chosen"]
    assert list(store.read(final).scores["after"]) == ["test"]
    stamps = {path: path.stat().st_mtime_ns for path in [*store.find([out]), *store.find([out / "trials"])]}
    assert len(stamps) == 3
    again = bench(*command)
    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert json.loads((out / "choices.json").read_text(encoding="utf-8")) == [row]
    assert bench("report", out, "-o", tmp_path / "page").returncode == 0
    page = (tmp_path / "page" / "report.md").read_text(encoding="utf-8")
    assert "| Optuna TPE, seed 5 | 2 |" in page
