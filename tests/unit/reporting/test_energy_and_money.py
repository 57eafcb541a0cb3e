"""Energy, money and "to a given score" in the report of many runs, by the command that makes it."""

import json
import shutil

import pytest

from bench.cli.main import main
from bench.records import store
from bench.records.record import EnergyPart
from tests.helpers import pictures, studies
from tests.helpers.pages import tables_of

GPU = "NVIDIA A10G"


@pytest.fixture(autouse=True)
def unrendered(monkeypatch):
    """Figures have tests of their own; prices are those that are shipped."""
    pictures.leave_unrendered(monkeypatch)
    monkeypatch.delenv("BENCH_COSTS", raising=False)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two systems of three seeds on GPUs: "weak" reaches 0.8 once, "good" always, with energy in the records."""
    runs = studies.write_study(tmp_path_factory.mktemp("study"), {"weak": 0.55, "good": 0.8})
    for path in store.locate([runs]):
        record = store.read(path)
        is_good, seed = record.name.split("--")[1] == "good", record.seed
        record.launch.device, record.environment.devices = "cuda", [GPU]
        record.started_at, record.finished_at = "2026-01-31T10:00:00+00:00", "2026-01-31T11:00:00+00:00"
        train = {"gpu_joules": 9000.0 if is_good else 3000.0}
        record.energy = EnergyPart(
            sources={"gpu": "NVML"}, phases={"train": train, "score_after": {"gpu_joules_per_100_examples": 4.0}}
        )
        store.write(record, path.parent)
        reached = seed - 12 if is_good else 1 if seed == 13 else 99
        with (path.parent / "train_log.jsonl").open("a") as log:
            for place in range(1, 5):
                row = {"step": 10 * place, "validation_accuracy": 0.8 if place >= reached else 0.6}
                log.write(json.dumps(row | {"seconds": 60.0 * place, "gpu_joules": 1000.0 * place}) + "\n")
    return runs


def page(runs, folder, *words):
    assert main(["report", str(runs), "-o", str(folder), *words]) == 0
    return (folder / "report.md").read_text(encoding="utf-8")


def rows_below(text, heading):
    """The first table below a heading: system -> column -> cell."""
    header, *rows = tables_of(text.split(f"### {heading}\n")[1])[0]
    return {row[0].split(": ")[-1]: dict(zip(header, row, strict=True)) for row in rows}


def test_cost_table_and_what_a_score_took(study, tmp_path):
    text = page(study, tmp_path / "report", "--to-score", "0.8")
    cost = rows_below(text, "Cost")
    assert [cost[name]["training, kJ (GPU)"] for name in ("good", "weak")] == ["9.00", "3.00"]
    assert {row["J per 100 examples (GPU)"] for row in cost.values()} == {"4.00"}
    assert {row["cost of a run"] for row in cost.values()} == {"1.01 USD"}
    assert "training, kJ (CPU)" not in cost["good"]
    needed = rows_below(text, "To a given score")
    assert needed["good"] == {
        "system": needed["good"]["system"],
        "reached by": "3 of 3",
        "steps": "20 (10–30)",
        "s": "120 (60.0–180)",
        "kJ (GPU)": "2.00 (1.00–3.00)",
        "money": "0.0335 (0.0168–0.0503) USD",
        "interval holds": "75.0 %",
    }
    weak = needed["weak"]
    assert (weak["reached by"], weak["s"]) == ("1 of 3", "not reached (60.0–not reached)")
    assert "Price of an hour of NVIDIA A10G: 1.006 USD" in text


def test_a_run_that_diverged_did_not_reach_the_score(study, tmp_path):
    """As if it had never been, the other two seeds would look sure of it; one that was repeated counts once."""
    shutil.copytree(study, tmp_path / "runs")
    paths = {
        (r.name.split("--")[1], r.seed): p.parent for p in store.locate([tmp_path / "runs"]) for r in [store.read(p)]
    }
    for place, status in ((("good", 15), "diverged"), (("weak", 14), "oom"), (("weak", 13), "diverged")):
        if status == "diverged" and place[0] == "weak":  # the same seed reached it in another run
            shutil.copytree(paths[place], tmp_path / "runs" / "before")
            paths[place] = tmp_path / "runs" / "before"
        record = store.read(paths[place])
        record.status, record.reason, record.energy = status, "a reason", None
        store.write(record, paths[place])
        if place[0] == "good":
            (paths[place] / "train_log.jsonl").write_text("")
    needed = rows_below(page(tmp_path / "runs", tmp_path / "report", "--to-score", "0.8"), "To a given score")
    good, weak = needed["good"], needed["weak"]
    assert (good["reached by"], good["steps"], good["kJ (GPU)"]) == (
        "2 of 3", "20 (10–not reached)", "2.00 (1.00–not reached)"
    )  # fmt: skip
    assert weak["reached by"] == "1 of 2"


def test_without_energy_or_a_price_there_is_no_column(study, tmp_path):
    other = tmp_path / "runs"
    for seed in (13, 14):
        studies.write_run(other / f"one{seed}", "study--one--lora", seed, [True, False] * 20)
    text = page(other, tmp_path / "report")
    assert not {"hours paid", "cost of a run", "training, kJ (GPU)"} & set(rows_below(text, "Cost").popitem()[1])
    assert "To a given score" not in text


def test_own_prices_and_scores_that_can_not_be(study, tmp_path, capsys):
    costs = tmp_path / "costs.yaml"
    costs.write_text('gpu_hours:\n  A10G: {price: 1, currency: EUR, source: "ours", date: 2026-01-31}\n')
    assert "1.00 EUR" in page(study, tmp_path / "report", "--costs", str(costs))
    folder = ["report", str(study), "-o", str(tmp_path / "other")]
    assert main([*folder, "--to-score", "80"]) == 2
    assert "--to-score 80 can't be reached: the runs are ranked by accuracy from 0 to 1" in capsys.readouterr().err
    costs.write_text("gpu_hours: {A10G: {price: -1}}\n")
    assert main([*folder, "--costs", str(costs)]) == 2
    assert f"{costs}:1: gpu_hours.A10G.price: expected a number greater than or equal to 0" in capsys.readouterr().err
    assert not (tmp_path / "other" / "report.md").exists()
    assert main(["report", str(study), "--to-score", "0.8"]) == 2
    assert "--to-score and --costs belong to a report that is written" in capsys.readouterr().err
