"""reporting/run_page.py: what a page must hold, that nothing breaks it, and that the bytes are always the same."""

import html
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from bench.analysis import accessors
from bench.analysis.accessors import LeftOut
from bench.errors import DataError
from bench.records import store
from bench.records.record import (
    Advice,
    Check,
    Comparability,
    Data,
    Environment,
    OutOfMemory,
    PhaseTime,
    RecipePart,
    Record,
    Resumed,
    Score,
    SplitPart,
)
from bench.reporting import markdown as md
from bench.reporting import run_page, short_table
from tests.helpers.launching import ROOT
from tests.helpers.pages import NASTY, cells, full, score, tables_of


def bare(**changes):
    """What a run leaves that failed at once."""
    return Record(**{"name": "refused", "started_at": "t", "recipe": RecipePart(path="r.yaml"), **changes})


def runs_of(page):
    return [row for table in tables_of(page) if table[0][0].startswith("study") for row in table[1:]]


# ---------------------------------------------------------------- one run


def test_scores_stand_beside_their_baselines_with_intervals(tmp_path):
    page = run_page.run_report(full(), tmp_path)
    scores = next(table for table in tables_of(page) if "before training" in table[0])
    assert scores[0] == [
        "metric",
        "majority baseline",
        "random baseline",
        "before training",
        "after training",
    ]
    assert scores[1] == ["accuracy", "0.509", "0.500", "0.520 (0.500–0.540)", "0.900 (0.880–0.920)"]
    assert [row[0] for row in scores[1:]] == ["accuracy", "f1_macro", "mcc", "loss"]
    assert scores[4][1:3] == ["0.693", "–"]
    assert "### test, 872 examples" in page


def test_rows_that_say_the_same_are_shown_once(tmp_path):
    def page_of(f1_micro, recall):
        scores = {"accuracy": score(0.9), "f1_micro": score(f1_micro), "f1_per_label": score([0.9, 0.8])}
        scores |= {"accuracy_per_label": score([0.9, 0.7]), "recall_per_label": score(recall)}
        return run_page.run_report(full(scores={"after": {"test": scores}}, baselines={}), tmp_path)

    def shown(page):
        tables = tables_of(page)
        metrics = next(table for table in tables if table[0][0] == "metric" and "after training" in table[0])
        return [row[0] for row in metrics[1:]], next(table[0] for table in tables if table[0][0] == "label")[2:]

    assert shown(page_of(0.9, [0.9, 0.7])) == (["accuracy"], ["f1 after", "recall after"])
    assert shown(page_of(0.8, [0.9, 0.6])) == (
        ["accuracy", "f1_micro"],
        ["f1 after", "recall after", "accuracy after"],
    )


def test_the_first_screen_says_what_was_run_and_how_to_run_it_again(tmp_path):
    page = run_page.run_report(full(), tmp_path)
    top = page[: page.index("## Scores")]
    assert top.startswith("# sst2 / minilm / lora, seed 13\n\nLoRA fine-tuning of <code>org/minilm</code>")
    assert "(22 million parameters, 220,000 trainable) on <code>stanfordnlp/sst2</code>" in top
    assert "(1,000 training and 872 test examples)" in top
    assert "6.4 epochs (200 steps), step 150 kept as the best, batch size 32" in top
    assert "0.520 (0.500–0.540) before training; 0.509 for the majority baseline." in top
    assert "python -m bench run sst2/lora training.steps=200 --seed 13 --config cpu\n</pre>" in top
    assert "To run it again:\n" in top
    own = full()
    own.recipe.path = "mine.yaml"
    assert "To run it again, in the folder that it was started in:\n" in run_page.run_report(own, tmp_path)
    assert page.index("## Scores") < page.index("## Cost") < page.index("## Details")
    # Folded: what few readers want.
    folded = re.findall(r"<summary>(.*)</summary>", page[page.index("## Details") :])
    assert {"Training", "Model", "Notes (1)", "Checks (1)", "Environment and launch"} <= set(folded)


def test_scores_by_label_follow_the_labels_of_the_data(tmp_path):
    rows = next(table for table in tables_of(run_page.run_report(full(), tmp_path)) if "f1 before" in table[0])
    assert rows[0] == ["label", "examples", "f1 before", "f1 after"]
    assert rows[1] == ["negative", "428", "0.500 (0.480–0.520)", "0.880 (0.860–0.900)"]
    assert rows[2] == ["positive", "444", "0.530 (0.510–0.550)", "0.910 (0.890–0.930)"]


def test_a_label_that_is_not_defined_is_a_dash_and_unnamed_labels_get_numbers(tmp_path):
    item = Score(value=[None, 0.5, 0.25], low=[None, 0.4], high=None, examples=3, signature="s")
    page = run_page.run_report(full(scores={"after": {"test": {"f1_per_label": item}}}), tmp_path)
    rows = next(table for table in tables_of(page) if "f1 after" in table[0])
    assert [row[0] for row in rows[1:]] == ["negative", "positive", "label 2"]
    assert [row[2] for row in rows[1:]] == ["–", "0.500", "0.250"]


def test_everything_that_was_measured_is_on_the_page(tmp_path):
    page = run_page.run_report(full(), tmp_path)
    training = cells(page, "training")
    assert training["stopped by"][""] == "early_stopping"
    assert (training["steps"][""], training["best step"][""]) == ("200", "150")
    assert training["learning rate final"][""] == "2.5e-07"
    speed = cells(page, "training, all processes together")
    assert speed["real tokens/s"][""] == "2,412"
    assert speed["step time, s"][""] == "p10 0.141, p50 0.172, p90 0.231"
    assert speed["padding share"][""] == "38.2 %"
    assert "mfu" not in speed  # not measured
    assert cells(page, "scoring")["test"] == {
        "scoring": "test", "examples/s": "640", "seconds per 100 examples": "0.156", "batch": "32",
    }  # fmt: skip
    memory = cells(page, "peak by phase, maximum over processes")
    assert memory["train"] == {"peak by phase, maximum over processes": "train", "rss, GiB": "1.23"}
    # Of the run's duration, 250 s, whose rest has a row of its own.
    assert cells(page, "phase")["train"]["share"] == "14.4 %"
    assert cells(page, "phase")["total"] == {"phase": "total", "seconds": "250", "share": "100.0 %"}
    splits = cells(page, "split")
    assert splits["train"]["truncated"] == "12 (1.2 %)"
    assert splits["train"]["dropped"] == "leakage 3"
    assert splits["test"]["tokens p99"] == "53"
    model = cells(page, "model")
    assert model["parameters"][""] == "total 22,000,000, trainable 220,000, trainable share 1.0 %"
    assert model["newly initialized"][""] == "classifier.weight"
    assert "- train: 3 rows left out (leakage)" in page
    assert cells(page, "package")["torch"][""] == "2.9.0"
    assert "<code>s&#124;v1</code>" in page


def test_the_prompt_stands_as_the_model_reads_it(tmp_path):
    page = run_page.run_report(full(), tmp_path)
    assert "Say it.\n\nReview: &lt;b&gt;Fine&lt;/b&gt;\nSentiment:\n</pre>" in page
    assert cells(page, "generated answers")["after, test"] == {
        "generated answers": "after, test",
        "unparsable": "3",
        "stopped share": "75.0 %",
        "mean new tokens": "1.50",
    }
    assert cells(page, "prompt and answers")["manifests"]
    assert "generated answers" not in run_page.run_report(full(prompts=None), tmp_path)


def test_a_model_that_was_only_asked_was_not_trained(tmp_path):
    page = run_page.run_report(full(training=None), tmp_path)
    assert "Result: **accuracy 0.900 (95 % interval 0.880 to 0.920)** on test as it is;" in page
    assert "after training" not in page


def test_what_replaced_a_cards_value_is_shown_with_its_origin(tmp_path):
    record_ = full()
    record_.recipe.overrides.append("model.max_length=64")
    record_.recipe.card_overrides["model.max_length"] = 64
    table = next(table for table in tables_of(run_page.run_report(record_, tmp_path)) if table[0][0] == "setting")
    assert table[1:] == [
        ["<code>dataset.filters</code>", '<code>{"min_words": 2}</code>', "recipe"],
        ["<code>model.max_length</code>", "<code>64</code>", "command line"],
        ["<code>training.steps</code>", "<code>200</code>", "command line"],
    ]


def test_figures_that_exist_are_linked(tmp_path):
    assert "## Figures" not in run_page.run_report(full(), tmp_path)
    (tmp_path / "figures").mkdir()
    for name in ("per_label-test.png", "learning_curves.png", "notes.txt"):
        (tmp_path / "figures" / name).write_bytes(b"x")
    page = run_page.run_report(full(), tmp_path)
    assert re.findall(r"!\[(.*)\]\((.*)\)", page) == [
        ("learning curves", "figures/learning_curves.png"),
        ("per label, test", "figures/per_label-test.png"),
    ]


@pytest.mark.parametrize("status", ["oom", "diverged", "interrupted", "invalid", "crashed"])
def test_the_reason_of_a_failed_run_comes_first(tmp_path, status):
    page = run_page.run_report(full(status=status, reason="the cause | of it", failed_in="train"), tmp_path)
    lines = [line for line in page.split("\n") if line]
    assert lines[0] == "# sst2 / minilm / lora, seed 13"
    assert lines[1:3] == ["> [!CAUTION]", f"> **Status: {status}** in <code>train</code>"]
    assert "> the cause &#124; of it" in lines[3:5]
    assert page.index("Do not use the scores") < page.index("## Scores")


def test_failed_checks_come_first_and_are_named_at_the_top(tmp_path):
    checks = [
        Check(name="one", ok=True),
        Check(name="two", ok=False, detail="3 of 4"),
        Check(name="three", ok=True),
    ]
    page = run_page.run_report(full(status="invalid", reason="check 'two' failed", checks=checks), tmp_path)
    assert list(cells(page, "check")) == ["two", "one", "three"]
    assert cells(page, "check")["two"]["result"] == "**failed**"
    assert page.index("> Failed checks: two") < page.index("## Scores")


def test_a_run_that_failed_at_once_gives_a_short_whole_page(tmp_path):
    page = run_page.run_report(bare(status="invalid", reason="recipe: unknown key"), tmp_path)
    assert page.startswith("# refused, seed –\n\n> [!CAUTION]\n> **Status: invalid**\n>\n> recipe: unknown key\n")
    assert "## Scores" not in page
    assert "## Data" not in page
    assert "Do not use the scores" not in page
    assert len(tables_of(page)) == 1
    assert "None" not in page
    assert "nan" not in page


def test_warnings_stand_above_the_scores_once_each_and_escaped(tmp_path):
    changed = full()
    for _ in range(2):
        changed.warn("label_not_in_training", "7 of 21 test examples have a label <b>c</b>")
    changed.warn("one_class_predicted", "every answer is a")
    page = run_page.run_report(changed, tmp_path)
    assert page.count("> [!WARNING]") == 1
    assert page.count("7 of 21 test examples have a label &lt;b&gt;c&lt;/b&gt;") == 1
    assert page.index("> every answer is a") < page.index("| this run |") < page.index("## Scores")


PARTS = [
    name for name, field in Record.model_fields.items() if not field.is_required() and name not in ("schema_", "status")
]


@pytest.mark.parametrize("name", PARTS)
def test_any_part_may_be_missing(tmp_path, name):
    content = full().model_dump(by_alias=True)
    del content[name]
    changed = Record.model_validate(content)
    page = run_page.run_report(changed, tmp_path)
    assert tables_of(page)
    assert "None" not in page
    assert len(runs_of(short_table.table_report([(tmp_path, changed)]))) == 1


def test_values_that_are_not_finite_or_empty_are_dashes_or_left_out(tmp_path):
    nan = float("nan")
    item = Score(value=nan, low=nan, high=nan, examples=0, signature="s")
    changed = full(
        scores={
            "after": {
                "test": {"accuracy": item, "f1_per_label": Score(value=[], examples=0, signature="s")},
                "x": {},
            }
        },
        throughput={"train": {"examples_per_s": nan, "step_time_s": None}, "test": {}},
        memory={"train": {}},
        phases=[PhaseTime(name="train", seconds=0)],
        memory_predicted={},
    )
    page = run_page.run_report(changed, tmp_path)
    assert "nan" not in page
    assert next(table for table in tables_of(page) if "after training" in table[0])[1][-1] == "–"
    assert runs_of(short_table.table_report([(tmp_path, changed)]))[0][3] == "–"


def nasty():
    """A record that holds hostile text wherever text can stand."""
    item = Score(value=0.5, low=0.4, high=0.6, interval=NASTY, examples=1, signature=NASTY)
    labels = Score(value=[0.5], examples=1, signature=NASTY)
    part = SplitPart(examples=1, fingerprint="", labels={NASTY: 1}, tokens={"mean": 1}, truncated=0, dropped={NASTY: 1})
    return full(
        name=f"{NASTY}--b--c".replace("/", ""),
        status="crashed",
        reason=NASTY,
        failed_in=NASTY,
        recipe=RecipePart(
            path=NASTY,
            as_written={"dataset": NASTY},
            overrides=[f"{NASTY}={NASTY}"],
            card_overrides={NASTY: NASTY},
        ),
        data=Data(id=NASTY, labels=[NASTY], splits={NASTY: part}),
        scores={"after": {NASTY: {NASTY: item, "f1_per_label": labels}}, NASTY: {NASTY: {"loss": item}}},
        baselines={NASTY: {NASTY: {NASTY: 0.5}}},
        throughput={NASTY: {NASTY: NASTY}},
        memory={NASTY: {NASTY: 1.0}},
        phases=[PhaseTime(name=NASTY, seconds=1)],
        checks=[Check(name=NASTY, ok=False, detail=NASTY)],
        notes=[NASTY],
        environment=Environment(
            python=NASTY, platform=NASTY, packages={NASTY: NASTY}, devices=[NASTY], git={NASTY: NASTY}
        ),
    )


def test_hostile_text_breaks_no_part_of_a_page(tmp_path):
    failed = nasty()
    finished = failed.model_copy(update={"status": "ok", "reason": None})
    pages = [
        run_page.run_report(failed, tmp_path),
        short_table.table_report(
            [(tmp_path, failed), (tmp_path / "b", finished)], [LeftOut(path=Path(NASTY), reason=NASTY)]
        ),
    ]
    pages.append(run_page.run_report(finished, tmp_path))
    for page in pages:
        tables_of(page)
        assert "<script" not in page
        assert "\x00" not in page
        assert "\u202e" not in page
        assert "[g](h)" not in page
        assert len(page) < 100_000
        assert "more characters)" in page
        page.encode("utf-8")
        assert {line.split(" ")[0] for line in page.split("\n") if line.startswith("#")} <= {"#", "##", "###"}
        shown = MarkdownIt("commonmark").enable("table").render(page)
        assert "<a " not in shown
        assert "<em>" not in shown
    assert "a|b\\|c # d <script>x</script> `e` *f* [g](h)" in html.unescape(pages[0])


def test_the_page_is_the_same_for_a_record_that_was_written_and_read(tmp_path):
    original = full()
    original.scores["after"]["test"]["mcc"].value = float("nan")
    store.write(original, tmp_path)
    assert run_page.run_report(store.read(tmp_path), tmp_path) == run_page.run_report(original, tmp_path)


def test_write_run_report_writes_the_page(tmp_path):
    path = run_page.write_run_report(full(), tmp_path)
    assert path == tmp_path / "report.md"
    first = path.read_bytes()
    assert first.decode() == run_page.run_report(full(), tmp_path)
    run_page.write_run_report(full(), tmp_path)
    assert path.read_bytes() == first


# ---------------------------------------------------------------- tables of many runs


def paired(*records):
    return [(Path(f"runs/{index}/record.json"), item) for index, item in enumerate(records)]


def test_a_line_holds_what_was_measured():
    page = short_table.table_report(paired(full()))
    (table,) = tables_of(page)
    line = dict(zip(*table, strict=True))
    assert line == {
        "study / model / method": "sst2 / minilm / lora",
        "seed": "13",
        "accuracy before": "0.520 (0.500–0.540)",
        "accuracy after": "0.900 (0.880–0.920)",
        "f1_macro": "0.890",
        "mcc": "0.800",
        "loss": "0.300",
        "trainable share": "1.0 %",
        "real tokens/s": "2,412",
        "GPU peak in training, GiB": "–",
        "RAM peak in training, GiB": "1.23",
        "training, s": "36.0",
        "s per 100 examples": "0.156 (batch 32)",
        "status": "ok",
    }
    assert 'Overrides of this run: dataset.filters={"min_words": 2}; training.steps=200.' in page
    assert "Baselines: majority 0.509, random 0.500." in page
    assert "- 1 record (1 ok)." in page
    assert "- Interval wilson 95 %: accuracy." in page


def test_the_size_of_batches_is_in_tokens_since_they_are_counted_so(tmp_path):
    throughput = {"test": {"seconds_per_100_examples": 0.1562, "batch_tokens": 2048}}
    (table,) = tables_of(short_table.table_report(paired(full(throughput=throughput))))
    assert dict(zip(*table, strict=True))["s per 100 examples"] == "0.156 (batch tokens 2,048)"
    assert (
        cells(run_page.run_report(full(throughput=throughput), tmp_path), "scoring")["test"]["batch tokens"] == "2,048"
    )


def test_the_best_run_is_first_ties_go_by_name_then_seed_and_failures_are_last():
    records = paired(
        full("s--b--full", seed=14, accuracy=0.8),
        full("s--a--full", seed=13, accuracy=0.8),
        full("s--x--full", accuracy=0.99, status="oom", reason="no memory", failed_in="train"),
        full("s--b--full", seed=9, accuracy=0.8),
        full("s--z--full", accuracy=0.95),
        full("s--y--full", scores={}),
    )
    rows = runs_of(short_table.table_report(records))
    assert [row[:2] for row in rows] == [
        ["s / z / full", "13"],
        ["s / a / full", "13"],
        ["s / b / full", "9"],
        ["s / b / full", "14"],
        ["s / y / full", "13"],
        ["s / x / full", "13"],
    ]
    assert rows[-1][-1] == "**oom**: no memory"
    assert rows[-1][2:4] == ["does not fit"] * 2, "the scores of a failed run would be read as a result"


def oom(**changes):
    """What a run knows that ran out of a GPU's memory in its third step."""
    fields = {
        "phase": "train", "step": 3, "rows": 4, "length": 512, "memory": "gpu", "device": "NVIDIA | X",
        "asked_bytes": 20 * 2**20, "capacity_bytes": 12 * 2**30, "allocated_bytes": 11 * 2**30, "predicted_gib": 14.126,
        "largest_rows": 2, "advice": [Advice(change="training.per_device_batch=2", costs="less speed")],
    }  # fmt: skip
    return OutOfMemory(**{**fields, **changes})


def test_a_run_that_did_not_fit_is_a_row_that_says_so():
    failed = full("s--x--full", status="oom", reason="no memory", oom=oom())
    host = full("s--y--full", status="oom", reason="no memory", oom=oom(device=None, limit="physical memory"))
    others = [full("s--z--full", status=status, reason="why") for status in ("crashed", "diverged", "interrupted")]
    rows = {row[0]: row for row in runs_of(short_table.table_report(paired(full(), failed, host, *others)))}
    assert rows["s / x / full"][2:4] == ["does not fit 12 GiB (NVIDIA &#124; X)"] * 2
    assert rows["s / y / full"][2:4] == ["does not fit 12 GiB (physical memory)"] * 2
    assert rows["s / z / full"][2:4] == ["–", "–"]
    assert len(runs_of(short_table.table_report(paired(failed, *others)))) == 4


def test_the_page_of_a_run_that_did_not_fit_shows_numbers_and_advice(tmp_path):
    page = run_page.run_report(full(status="oom", reason="no memory", failed_in="train", oom=oom()), tmp_path)
    found = {name: line[""] for name, line in cells(page, "out of memory").items()}
    assert found == {
        "phase": "train", "step": "3", "process": "0", "micro-batch": "4 × 512 tokens", "requested": "20 MiB",
        "capacity": "12 GiB", "in use": "11 GiB", "device": "NVIDIA &#124; X", "predicted for training": "14.13 GiB",
        "largest micro-batch that fits, rows": "2",
    }  # fmt: skip
    typed = "<code>training.per_device_batch=2</code>"
    assert cells(page, "changes, all together") == {typed: {"changes, all together": typed, "cost": "less speed"}}


MEASURED = {
    "train": {"total_gib": 5.5, "parts": {"weights": 4.5, "CUDA": 0.5, "activations": 0.5}, "rows": 4, "length": 512},
    "compared": {"gib": 5.0, "rows": 4, "length": 512},
    "measured": {"gib": 4.0, "reserved_gib": 4.5, "of": "peak of X"},
    "error": 0.25,
}


def test_predicted_stands_beside_measured(tmp_path):
    page = run_page.run_report(full(memory_predicted=MEASURED), tmp_path)
    assert "Peak memory: predicted 5 GiB, measured 4 GiB (error 25.0 %). Measured: peak of X.\n" in page
    assert next(table for table in tables_of(page) if table[0] == ["part", "size"])[1:] == [
        ["weights", "4.5 GiB"],
        ["CUDA", "512 MiB"],
        ["activations", "512 MiB"],
    ]
    table, *_ = tables_of(short_table.table_report(paired(full(memory_predicted=MEASURED), full(seed=14))))
    place = table[0].index(short_table.PREDICTED)
    assert table[0][place + 1] == "GPU peak in training, GiB"
    assert [row[place] for row in table[1:]] == ["5.00", "–"]
    assert short_table.PREDICTED_NOTE not in short_table.table_report(paired(full()))


@pytest.mark.parametrize(
    "found",
    [
        None, {}, {"train": None}, {"train": NASTY, "error": NASTY, "measured": NASTY, "compared": NASTY},
        {"train": {"total_gib": NASTY, "parts": NASTY}}, {"train": {"parts": {NASTY: NASTY}}, "no_error": NASTY},
        {"train": {"parts": [1], "rows": {}}, "measured": {"gib": float("nan"), "grown_gib": True, "of": 3}},
        {"train": {"total_gib": 0.5, "parts": {"weights": 0.5}}, "error": 0.1}, {"train": None, "reason": NASTY},
    ],
)  # fmt: skip
def test_predictions_of_older_records_and_edited_ones_break_no_page(tmp_path, found):
    page = run_page.run_report(full(memory_predicted=found), tmp_path)
    tables_of(page)
    assert "<script" not in page
    assert "nan" not in page
    assert len(runs_of(short_table.table_report(paired(full(memory_predicted=found))))) == 1


def test_seeds_of_one_recipe_are_summed_up():
    values = {13: 0.8, 14: 0.85, 15: 0.9}
    records = [full("s--a--full", seed=seed, accuracy=value) for seed, value in values.items()]
    records += [full("s--a--full", seed=13, accuracy=0.8), full("s--b--full", accuracy=0.7)]
    records += [full("s--a--full", seed=16, accuracy=0.1, status="crashed", reason="x")]
    page = short_table.table_report(paired(*records))
    found = cells(page, "aggregated over seeds")
    assert found == {
        "s / a / full": {
            "aggregated over seeds": "s / a / full",
            "seeds": "3",
            "mean accuracy": "0.850",
            "std over seeds": "0.050",
            "min": "0.800",
            "max": "0.900",
        }
    }
    assert "aggregated over seeds" not in short_table.table_report(paired(full(), full("s--b--full")))


def test_systems_of_one_name_are_told_apart_by_what_differs_and_no_more():
    long = f"dataset.note={'x' * 300}"
    systems = {"a": ["training.steps=4", long], "b": ["training.steps=8", long], "c": ["model=m", long + "y"]}
    records = [
        full(seed=seed, recipe=RecipePart(path="r", overrides=[f"seed={seed}", *overrides], hash=name * 64))
        for name, overrides in systems.items() for seed in (13, 14)
    ]  # fmt: skip
    page = short_table.table_report(paired(*records[:4]))
    names = {f"sst2 / minilm / lora (training.steps={steps})" for steps in (4, 8)}
    assert {row[0] for row in runs_of(page)} == set(cells(page, "aggregated over seeds")) == names
    table, *_ = tables_of(page)
    assert {row[table[0].index("overrides")] for row in table[1:]} == {"training.steps=4", "training.steps=8"}
    assert "Overrides of all these runs: dataset.note=xxx" in page
    # Endings of the same beginning are cut, and told apart all the same.
    twins = [item.model_copy(update={"recipe": item.recipe.model_copy(update={"overrides": [f"{long}{place}"]})})
             for place, item in enumerate(records[::2])]  # fmt: skip
    found = [row[0] for row in runs_of(short_table.table_report(paired(*twins)))]
    assert len(set(found)) == 3
    assert {name[-10:] for name in found} == {"[aaaaaaaa]", "[bbbbbbbb]", "[cccccccc]"}


def test_a_resumed_run_has_no_seconds_of_training():
    resumed = full(resumed=[Resumed(at="t", from_step=10)])
    table, *_ = tables_of(short_table.table_report(paired(resumed, full(seed=14))))
    assert [row[table[0].index("training, s")] for row in table[1:]] == ["–", "36.0"]
    assert short_table.RESUMED_NOTE in short_table.table_report(paired(resumed))
    assert short_table.RESUMED_NOTE not in short_table.table_report(paired(full()))


def test_a_table_ranks_by_the_metric_that_is_asked(tmp_path):
    def with_loss(name, accuracy, loss):
        return full(name, scores={"after": {"test": {"accuracy": score(accuracy), "loss": score(loss)}}})

    records = paired(with_loss("s--a--x", 0.9, 0.7), with_loss("s--b--x", 0.8, 0.2))
    page = short_table.table_report(records, metric="loss")
    assert [row[0] for row in runs_of(page)] == ["s / b / x", "s / a / x"]
    assert "lowest loss after training first" in page
    other = full("t--c--x", scores={"after": {"test": {"mcc": score(0.5)}}}, data=Data(id="other"),
                 comparability=Comparability(key="f", parts={}))  # fmt: skip
    assert "No run has a single-valued score of the metric loss on test." in short_table.table_report(
        [*records, *paired(other)], metric="loss"
    )
    write_records(tmp_path / "runs", full())
    with pytest.raises(
        DataError, match="no run has a single-valued score of the metric 'f1_per_label'; available: accuracy, f1_"
    ):
        printed([tmp_path / "runs"], "f1_per_label")


def test_an_interval_without_a_width_is_none():
    assert md.score(1.0, 1.0, 1.0) == "1.000"
    assert md.score(1.0, 0.95, 1.0) == "1.000 (0.950–1.000)"


def test_a_loss_ranks_upwards_when_there_is_nothing_else():
    def with_loss(name, loss):
        return full(name, scores={"after": {"test": {"loss": score(loss)}}})

    rows = runs_of(short_table.table_report(paired(with_loss("s--a--x", 0.9), with_loss("s--b--x", 0.2))))
    assert [row[0] for row in rows] == ["s / b / x", "s / a / x"]


def test_multi_label_runs_rank_by_macro_f1_and_show_the_jaccard_index():
    scores = {
        "after": {"test": {"jaccard_samples": score(0.6), "f1_macro": score(0.5), "hamming_accuracy": score(0.9)}}
    }
    (table,) = tables_of(short_table.table_report(paired(full(scores=scores))))
    assert table[0][2:5] == ["f1_macro before", "f1_macro after", "jaccard_samples"]


def test_the_same_records_give_the_same_bytes_in_any_order():
    # The same name, seed and score: only the recipes' hashes tell these two apart.
    twins = [full(recipe=RecipePart(path="r", overrides=[f"x={name}"], hash=name * 64)) for name in "ab"]
    others = [full(seed=14), full("s--b--c", accuracy=0.7), bare(), full(seed=15, status="oom", data=None)]
    records = paired(*twins, *others)
    first = short_table.table_report(records)
    assert short_table.table_report(records[::-1]) == first
    assert short_table.table_report(records[2:] + records[:2]) == first
    assert first.index("x=a") < first.index("x=b")


def test_data_sets_stand_apart():
    other = full("emo--m--full", data=Data(id="dair-ai/emotion"), comparability=Comparability(key="f", parts={}))
    page = short_table.table_report(paired(full(), other))
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == [
        "Data set dair-ai/emotion",
        "Data set stanfordnlp/sst2",
        "Notes",
    ]
    assert "Do not compare" not in page


def test_runs_that_can_not_be_compared_stand_in_tables_of_their_own_and_it_is_said():
    other = full(seed=14, comparability=Comparability(key="ffff", parts={"data": "d2", "metrics": "m1"}))
    unknown = full(seed=15, comparability=None)
    page = short_table.table_report(paired(full(), other, unknown))
    assert len(tables_of(page)) == 3
    assert "Do not compare scores across them. They differ in: data." in page
    assert re.findall(r"^### Runs (.*)$", page, re.MULTILINE) == [
        "with comparability key <code>0123456789ab</code>",
        "with comparability key <code>ffff</code>",
        "without a comparability key",
    ]


def test_a_run_that_failed_before_it_had_data_joins_the_others_of_its_card():
    early = bare(
        name="sst2--big--full",
        seed=1,
        status="oom",
        reason="no memory",
        recipe=RecipePart(path="r", as_written={"dataset": {"card": "sst2"}}),
    )
    page = short_table.table_report(paired(early, full()))
    (table,) = tables_of(page)
    assert [row[0] for row in table[1:]] == ["sst2 / minilm / lora", "sst2 / big / full"]
    assert "- 2 records (1 ok, 1 oom)." in page


def test_failed_runs_alone_give_a_table_too():
    page = short_table.table_report(paired(bare(), bare(status="invalid", reason="a | b")))
    (table,) = tables_of(page)
    assert {row[-1] for row in table[1:]} == {
        "**crashed**: the run did not come to its end",
        "**invalid**: a &#124; b",
    }
    assert "## Data set not known" in page
    assert "No run has a score." in page


def test_prompts_are_told_apart_only_where_they_differ():
    other = full("s--b--lora")
    other.prompts = other.prompts.model_copy(update={"template_hash": "ffff99998888"})
    assert "prompt" not in tables_of(short_table.table_report(paired(full(), full("s--b--lora"))))[0][0]
    table, *_ = tables_of(short_table.table_report(paired(full(), other, full("s--c--lora", prompts=None))))
    place = table[0].index("prompt")
    assert {row[place] for row in table[1:]} == {"<code>ab12</code>", "<code>ffff99</code>", "–"}


def test_machines_are_named_only_where_they_differ():
    fast = full(seed=14)
    fast.launch = fast.launch.model_copy(update={"device": "cuda", "world_size": 2, "mixed_precision": "bf16"})
    fast.environment = fast.environment.model_copy(update={"devices": ["NVIDIA H200"] * 2})
    fast.memory["train"] |= {"allocated_gib": 3.5}
    assert "machine" not in tables_of(short_table.table_report(paired(full(), full(seed=15))))[0][0]
    table, *_ = tables_of(short_table.table_report(paired(full(), fast)))
    found = {row[1]: dict(zip(table[0], row, strict=True)) for row in table[1:]}
    assert found["14"]["machine"] == "2 processes on cuda (2 × NVIDIA H200), bf16"
    assert found["13"]["machine"] == "1 process on cpu (Some CPU (2 cores)), full precision"
    assert found["14"]["GPU peak in training, GiB"] == "3.50"


def write_records(folder, *records):
    for index, item in enumerate(records):
        (folder / str(index)).mkdir(parents=True)
        store.write(item, folder / str(index))


def printed(paths, metric=None):
    """The short table that `bench report` gives of these paths."""
    records, unreadable = accessors.read_all(paths)
    accessors.require_metric(records, metric)
    return short_table.table_report(records, unreadable, metric)


def test_the_table_holds_all_records_and_lists_the_unreadable(tmp_path):
    write_records(tmp_path / "runs", full(), full(seed=14))
    (tmp_path / "runs" / "half").mkdir()
    (tmp_path / "runs" / "half" / "record.json").write_text('{"schema": 1, "name"')
    (tmp_path / "runs" / "newer").mkdir()
    (tmp_path / "runs" / "newer" / "record.json").write_text(json.dumps({"schema": 99}))
    page = printed([tmp_path / "runs"])
    assert len(runs_of(page)) == 2
    broken = page[page.index("## Unreadable records") : page.index("## Notes")]
    assert broken.count("\n- ") == 2
    assert "not a whole record" in broken
    assert "schema 99 is newer" in broken
    assert "- 2 records (2 ok); 2 more could not be read." in page
    assert printed([tmp_path / "runs" / "1", tmp_path / "runs"]) == page, "a record that is named twice counts once"


def test_there_is_no_table_of_nothing(tmp_path):
    with pytest.raises(DataError, match=r"no record\.json in or below"):
        printed([tmp_path])
    with pytest.raises(DataError, match="no such file or folder"):
        printed([tmp_path / "mistyped"])
    with pytest.raises(DataError, match="nothing"):
        printed([])


def test_reporting_loads_no_heavy_library_and_answers_at_once():
    code = (
        "import sys, bench.reporting.run_page, bench.reporting.printed_table;"
        "heavy = {'torch', 'numpy', 'matplotlib', 'transformers', 'datasets', 'pandas'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started_s = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"
    # Half a second is the aim; a busy machine gets four times that.
    assert time.perf_counter() - started_s < 2.0


def test_a_headline_stands_beside_the_best_constant_answer_and_right_answers_without_marks(tmp_path):
    scores = {
        "squad_v2_f1": Score(value=0.517, examples=60, signature="f"),
        "bleu": Score(value=0.0, examples=60, signature="b", ceiling=0.0, unrewardable=29),
        "meteor": Score(value=0.4, examples=60, signature="m", ceiling=0.75, unrewardable=0),
    }
    baselines = {"no_answer": {"squad_v2_f1": 0.517}, "majority": {"squad_v2_f1": 0.1}, "random": {"squad_v2_f1": 0.9}}
    shown = run_page.run_report(full(scores={"after": {"test": scores}}, baselines={"test": baselines}), tmp_path)
    assert "0.517 for the no_answer baseline" in shown
    assert "bleu can't give full marks to 29 right answers: all questions answered right score 0.000." in shown
    assert "meteor can't" not in shown


# ---------------------------------------------------------------- what must not mislead


def test_phases_and_what_lies_between_them_sum_to_the_duration(tmp_path):
    times = {"started_at": "2026-01-01T10:00:00+00:00", "finished_at": "2026-01-01T10:01:40+00:00"}
    phases = [PhaseTime(name="load", seconds=20.0), PhaseTime(name="train_steps", seconds=70.0)]
    page = run_page.run_report(full(phases=phases, **times), tmp_path)
    rows = next(table for table in tables_of(page) if table[0][0] == "phase")
    assert [row[0] for row in rows[1:]] == ["load", "train_steps", "not in a phase", "total"]
    assert [row[2] for row in rows[1:]] == ["20.0 %", "70.0 %", "10.0 %", "100.0 %"]
    resumed = full(phases=phases, resumed=[Resumed(at="t", from_step=3)], **times)
    assert "not in a phase" not in run_page.run_report(resumed, tmp_path)
    assert "not in a phase" not in run_page.run_report(full(phases=phases, finished_at=None), tmp_path)


@pytest.mark.parametrize(
    ("counted", "shown"),
    [
        ({"examples": "windows", "loss_items": "ends of answers"}, ("windows/s", "ends of answers/s")),
        ({"examples": "examples", "loss_items": "labels"}, ("examples/s", "labels/s")),
        ({"examples": "examples", "loss_items": "answer tokens"}, ("examples/s", "answer tokens/s")),
        (None, ("examples/s", "loss tokens/s")),
    ],
)
def test_rates_are_named_after_what_was_counted(tmp_path, counted, shown):
    record = full()
    record.throughput["train"] |= {} if counted is None else {"counted": counted}
    page = run_page.run_report(record, tmp_path)
    names = {row[0] for table in tables_of(page) if "training" in table[0][0] for row in table}
    assert names >= set(shown)


def test_scores_whose_data_chose_are_marked_in_every_table(tmp_path):
    chosen = full("sst2--chosen--lora", selected_on=["test"])
    page = run_page.run_report(chosen, tmp_path)
    assert page.startswith("# sst2 / chosen / lora †")
    table = short_table.table_report([(Path("a"), full()), (Path("b"), chosen)])
    assert "sst2 / chosen / lora †" in table
    assert "sst2 / minilm / lora †" not in table
    assert "† The best step or the settings were chosen on the data that are scored" in table
    assert "†" not in short_table.table_report([(Path("a"), full())])
