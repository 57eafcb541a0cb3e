"""`python -m bench compare`: what it says of runs as they lie on disk, and what it refuses."""

import dataclasses
import functools
import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bench.analysis import accessors, compare
from bench.analysis.predictions import CompareRequest
from bench.analysis.stats import sums
from bench.cli.main import main
from bench.config import registry
from bench.data.examples import per_row
from bench.errors import DataError
from bench.evaluation import scoring
from bench.evaluation.metric_set import MetricSet, Predictions
from bench.records import store
from bench.records.record import Comparability, Data, Prompts, RecipePart, Record, Score, SplitPart
from bench.reporting import comparison_page, findings
from tests.helpers.launching import ROOT

LABELS = ("bad", "good")
EXAMPLES = 300
HEAVY = ("torch", "transformers", "datasets", "evaluate", "accelerate", "peft", "matplotlib", "sklearn", "pandas")
DRAW = np.random.default_rng(0)
REFERENCE = DRAW.integers(2, size=EXAMPLES)
DIFFICULTY = DRAW.random(EXAMPLES)


@functools.cache
def single():
    """Made when it is first needed: it loads evaluate, which takes seconds."""
    return MetricSet(("accuracy", "f1", "precision", "recall", "mcc", "loss"), multi_label=False, num_labels=2)


def guesses(share, seed=0):
    """Right on about this share of the examples, the easy ones first."""
    own = np.random.default_rng(seed)
    is_right = DIFFICULTY + own.normal(scale=0.15, size=EXAMPLES) < share
    return np.where(is_right, REFERENCE, 1 - REFERENCE)


def write_run(
    folder, name, guess, *, seed=13, recipe="a", overrides=(), stages=("after",), ids=None, references=None, **changes
):
    """A run's folder as a run leaves it: the file of predictions is written by the harness itself."""
    reference = REFERENCE if references is None else references
    names = ids or tuple(f"e{number:04}" for number in range(len(reference)))
    found = Predictions(ids=names, predictions=guess, references=reference, scores=np.eye(2)[guess] * 0.8 + 0.1)
    values = {
        key: Score(value=value, examples=len(names), signature=key) for key, value in single().values(found).items()
    }
    part = SplitPart(examples=len(names), fingerprint="f", labels={}, tokens={}, truncated=0)
    fields = {
        "status": "ok",
        "reason": None,
        "name": name,
        "seed": seed,
        "started_at": f"2026-01-01T00:00:{seed:02}+00:00",
        "recipe": RecipePart(path="recipes/x.yaml", hash=recipe * 64, overrides=list(overrides)),
        "comparability": Comparability(key="k", parts={"data": "d1", "metrics": "m1", "template": None}),
        "data": Data(id="reviews", labels=list(LABELS), splits={"test": part}),
        "scores": {stage: {"test": values} for stage in stages},
    }
    for stage in stages:
        scoring.write_predictions(folder / "predictions" / f"{stage}-test.jsonl", found, single(), LABELS)
    store.write(Record(**{**fields, **changes}), folder)
    return folder


@pytest.fixture
def two(tmp_path):
    """Two systems, the second clearly better."""
    return [
        write_run(tmp_path / "weak", "s--m--head", guesses(0.6), recipe="a"),
        write_run(tmp_path / "strong", "s--m--full", guesses(0.8, 1), recipe="b"),
    ]


def refused(*arguments, capsys):
    """The one sentence on standard error."""
    assert main(["compare", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


# ---------------------------------------------------------------- what it says


def test_a_clear_difference(two):
    found = compare.compare(two, CompareRequest())
    assert (found.metric, found.split, found.examples, found.others) == ("accuracy", "test", EXAMPLES, 0)
    assert [(item.letter, item.name, item.tier) for item in found.systems] == [
        ("A", "s--m--full", 1),
        ("B", "s--m--head", 2),
    ]
    (pair,) = found.pairs
    strong, weak = (guesses(0.8, 1) == REFERENCE), (guesses(0.6) == REFERENCE)
    assert pair.difference == pytest.approx(strong.mean() - weak.mean(), abs=1e-12)
    assert pair.low < pair.difference < pair.high
    assert (pair.test, pair.interval) == ("McNemar, exact", "Agresti and Min")
    assert (pair.low, pair.high) == pytest.approx(pair.bca, abs=0.01)
    assert (pair.covers, pair.verdict) == ("examples", "A better")
    assert pair.p == pair.p_holm < 1e-6
    assert any("Only one seed of every system" in note for note in found.notes)
    assert findings.finding(found) == (
        f"s--m--full beats s--m--head by {100 * pair.difference:.1f} points (95 % interval {100 * pair.low:.1f} to "
        f"{100 * pair.high:.1f}). Paired tests on 300 examples; one seed of each system: this covers other examples "
        "for these trained models, not other seeds."
    )


@pytest.mark.parametrize("metric", ["f1_macro", "f1_micro", "precision_weighted", "recall_macro", "mcc", "loss"])
def test_other_metrics_are_randomised(two, metric):
    found = compare.compare(two, CompareRequest(metric=metric))
    assert found.higher_is_better == (metric != "loss")
    assert [item.name for item in found.systems] == ["s--m--full", "s--m--head"]
    (pair,) = found.pairs
    assert (pair.test, pair.verdict, pair.p) == ("approximate randomisation", "A better", 1 / 10_001)
    assert (pair.low > 0) == (metric != "loss")
    assert pair.percentile == pytest.approx((pair.low, pair.high), abs=0.02 + 0.1 * (metric == "loss"))


def test_three_systems_share_a_correction_and_a_tier(two, tmp_path):
    third = write_run(tmp_path / "third", "s--m--lora", guesses(0.79, 2), recipe="c")
    found = compare.compare([tmp_path], CompareRequest())
    assert [item.tier for item in found.systems] == [1, 1, 2]
    p_values = sorted(pair.p for pair in found.pairs)
    assert sorted(pair.p_holm for pair in found.pairs) == pytest.approx([3 * p_values[0], 2 * p_values[1], p_values[2]])
    tied = next(pair for pair in found.pairs if (pair.first, pair.second) == ("A", "B"))
    assert tied.verdict == "no significant difference"
    assert 0 < tied.detectable < 0.2
    best, second, third_best = [system.name for system in found.systems]
    ahead = next(pair for pair in found.pairs if (pair.first, pair.second) == ("A", "C"))
    assert findings.finding(found).startswith(
        f"{best} beats {third_best} by {100 * ahead.difference:.1f} points (95 % interval {100 * ahead.low:.1f} to "
        f"{100 * ahead.high:.1f}); no significant difference between {best} and {second} (minimum detectable "
        f"difference {100 * tied.detectable:.1f} points). Paired tests on 300 examples, Holm's correction over 3 pairs;"
    )
    assert third in {item.parent for item in store.find([tmp_path])}


def test_a_system_that_was_chosen_on_the_scored_data_is_marked(two, tmp_path, capsys):
    write_run(tmp_path / "strong", "s--m--full", guesses(0.8, 1), recipe="b", selected_on=["test"])
    found = compare.compare(two, CompareRequest())
    assert [item.name for item in found.systems] == ["s--m--full †", "s--m--head"]
    assert [note for note in found.notes if note.startswith("†")] == accessors.selection_notes(
        [store.read(tmp_path / "strong")]
    )
    assert main(["compare", *map(str, two)]) == 0
    shown = capsys.readouterr().out
    assert "s--m--full †" in shown
    assert "chosen on the data that are scored" in shown


def test_equal_predictions(tmp_path):
    for number, method in enumerate(("full", "lora")):
        write_run(tmp_path / method, f"s--m--{method}", guesses(0.8), recipe="ab"[number])
    for metric in ("accuracy", "f1_macro", "loss"):
        (pair,) = compare.compare([tmp_path], CompareRequest(metric=metric), margin=0.01).pairs
        assert (pair.difference, pair.bca, pair.percentile, pair.p) == (0, (0, 0), (0, 0), 1)
        # Of 300 examples none differs, which leaves room for a difference on others; resampling knows nothing of it.
        if metric == "accuracy":
            assert (pair.low, pair.high) == pytest.approx((-1.96 / 302, 1.96 / 302), abs=1e-4)
        else:
            assert (pair.low, pair.high, pair.equivalent) == (None, None, False)
        assert pair.detectable is None
        assert pair.verdict == ("equivalent within ±0.01" if metric == "accuracy" else "no significant difference")


def test_equivalence_within_a_margin(two):
    (pair,) = compare.compare(two, CompareRequest(), margin=0.5).pairs
    assert (pair.verdict, pair.equivalent) == ("A better, equivalent within ±0.5", True)
    (pair,) = compare.compare(two, CompareRequest(), margin=0.1).pairs
    assert (pair.verdict, pair.equivalent) == ("A better", False)


def test_several_seeds_of_each_system(tmp_path):
    for number, (method, share) in enumerate((("full", 0.8), ("head", 0.6))):
        for seed in (1, 2, 3):
            folder = tmp_path / f"{method}{seed}"
            write_run(folder, f"s--m--{method}", guesses(share, 10 * seed + number), seed=seed, recipe="ab"[number])
    found = compare.compare([tmp_path], CompareRequest())
    best = found.systems[0]
    assert (best.name, best.seeds) == ("s--m--full", [1, 2, 3])
    assert best.score == pytest.approx(np.mean([np.mean(guesses(0.8, 10 * s) == REFERENCE) for s in (1, 2, 3)]))
    assert best.seed_deviation == pytest.approx(np.std(best.scores, ddof=1))
    (pair,) = found.pairs
    assert (pair.test, pair.covers, pair.verdict) == ("Student's t", "seeds and examples", "A better")
    assert not any("One seed only" in note for note in found.notes)
    # With one seed left of one system, nothing can be said of its spread.
    for seed in (2, 3):
        shutil.rmtree(tmp_path / f"head{seed}")
    found = compare.compare([tmp_path], CompareRequest())
    assert (found.pairs[0].test, found.pairs[0].covers) == ("Student's t", "examples")
    assert any("Only one seed of B:" in note for note in found.notes)


def test_seeds_that_spread_widely_show_no_difference(tmp_path):
    """Over examples alone these systems differ; with the spread of their seeds they don't."""
    for number, (method, shares) in enumerate((("full", (0.9, 0.6, 0.9)), ("head", (0.6, 0.85, 0.65)))):
        for seed, share in enumerate(shares):
            folder = tmp_path / f"{method}{seed}"
            write_run(folder, f"s--m--{method}", guesses(share, seed), seed=seed, recipe="ab"[number])
    (pair,) = compare.compare([tmp_path], CompareRequest()).pairs
    assert pair.difference > 0.05
    assert pair.verdict == "no significant difference"


def test_the_stage_before_training(tmp_path):
    for number, method in enumerate(("full", "lora")):
        folder = write_run(tmp_path / method, f"s--m--{method}", guesses(0.5), recipe="ab"[number],
                           stages=("before", "after"))  # fmt: skip
        assert folder.exists()
    (pair,) = compare.compare([tmp_path], CompareRequest(stage="before")).pairs
    assert (pair.difference, pair.p) == (0, 1)


def test_twins_are_told_apart(tmp_path):
    for number, rate in enumerate(("1e-3", "1e-4", None)):
        changed = [] if rate is None else [f"training.learning_rate={rate}", "training.steps=5"]
        folder = tmp_path / str(number)
        write_run(folder, "s--m--full", guesses(0.6, number), recipe="abc"[number], overrides=changed)
    names = {item.name for item in compare.compare([tmp_path], CompareRequest()).systems}
    assert names == {
        "s--m--full (training.learning_rate=1e-3; training.steps=5)",
        "s--m--full (training.learning_rate=1e-4; training.steps=5)",
        f"s--m--full [{'c' * 8}]",
    }


def test_the_same_records_give_the_same_bytes(two, tmp_path, capsys):
    pages = []
    for order in (two, two[::-1]):
        output, data = tmp_path / "page.md", tmp_path / "page.json"
        assert main(["compare", *map(str, order), "--metric", "mcc", "-o", str(output), "--json", str(data)]) == 0
        pages.append((output.read_bytes(), data.read_bytes(), capsys.readouterr().out))
    assert pages[0] == pages[1]
    found = json.loads(pages[0][1])
    assert (found["schema"], found["metric"], found["pairs"][0]["verdict"]) == (1, "mcc", "A better")
    assert "A better" in pages[0][2]


def test_names_from_outside_break_no_table(tmp_path):
    nasty = "s--m|<b>\n# x--full"
    write_run(tmp_path / "a", nasty, guesses(0.6), recipe="a")
    write_run(tmp_path / "b", "s--m--full", guesses(0.8, 1), recipe="b")
    write_run(tmp_path / "c", "s--m--lora", guesses(0.8), status="oom", reason="no | room\nleft", recipe="c")
    page = comparison_page.as_markdown(compare.compare([tmp_path], CompareRequest()))
    assert "<b>" not in page
    assert "no &#124; room left" in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
    assert {line.count("|") for line in tables} == {7, 8, 3}


def test_nothing_heavy_is_imported(two):
    code = (
        "import sys\nfrom bench.cli.main import main\n"
        f"code = main(['compare', {str(two[0])!r}, {str(two[1])!r}])\n"
        f"heavy = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------- which examples


def test_runs_of_other_examples_are_refused_or_compared_on_common_ones(two, tmp_path, capsys):
    kept = slice(0, 200)
    ids = tuple(f"e{number:04}" for number in range(EXAMPLES))[kept]
    other = Comparability(key="k2", parts={"data": "d2", "metrics": "m1"})
    fewer = write_run(tmp_path / "fewer", "s--m--lora", guesses(0.7)[kept], recipe="c", ids=ids,
                      references=REFERENCE[kept], comparability=other)  # fmt: skip
    message = refused(two[0], fewer, capsys=capsys)
    assert "Their comparability differs in data d" in message
    assert "--common" in message
    found = compare.compare([two[0], fewer], CompareRequest(common=True))
    assert (found.examples, found.others) == (200, 100)
    assert "100 others are excluded, since not all runs scored them" in comparison_page.headline(found)
    best = {item.name: item.score for item in found.systems}
    assert best["s--m--head"] == pytest.approx(np.mean((guesses(0.6) == REFERENCE)[kept]))


def test_no_example_in_common(two, tmp_path, capsys):
    ids = tuple(f"x{number:04}" for number in range(EXAMPLES))
    other = write_run(tmp_path / "other", "s--m--lora", guesses(0.7), recipe="c", ids=ids)
    assert "no example in common" in refused(two[0], other, capsys=capsys)


def test_one_id_with_two_references(two, tmp_path, capsys):
    other = write_run(tmp_path / "other", "s--m--lora", guesses(0.7), recipe="c", references=1 - REFERENCE)
    assert "different references for the example 'e0000'" in refused(two[0], other, capsys=capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"comparability": Comparability(key="k2", parts={"data": "d1", "metrics": "m2"})}, "metrics m1 and m2"),
        (
            {
                "comparability": Comparability(key="k3", parts={"data": "d3", "metrics": "m1"}),
                "data": Data(id="news", labels=["x"], splits={}),
            },
            "(data sets 'reviews' and 'news')",
        ),
    ],
)
def test_different_keys_are_refused_with_what_differs(two, tmp_path, capsys, changes, message):
    other = write_run(tmp_path / "x", "s--m--lora", guesses(0.7), recipe="c", **changes)
    for more in ([], ["--common"]):
        assert message in refused(two[0], other, *more, capsys=capsys)


def test_other_prompts_are_compared_and_told(two, tmp_path):
    other = Comparability(key="k", parts={"data": "d1", "metrics": "m1", "template": "t1"})
    asked = write_run(tmp_path / "asked", "s--llm--zero", guesses(0.7), recipe="c", comparability=other)
    assert any("different prompts" in note for note in compare.compare([two[0], asked], CompareRequest()).notes)


# ---------------------------------------------------------------- what can't be compared


def edited(folder, change, name="predictions/after-test.jsonl"):
    path = folder / name
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def other_prediction(text):
    first, rest = text.split("\n", 1)
    row = json.loads(first)
    row["prediction"] = "good" if row["prediction"] == "bad" else "bad"
    return json.dumps(row) + "\n" + rest


def other_value(text):
    first, rest = text.split("\n", 1)
    row = json.loads(first)
    right = row["prediction"] != row["reference"]
    row["prediction"] = row["reference"] if right else "good" if row["reference"] == "bad" else "bad"
    row["metrics"]["accuracy"] = float(right)
    return json.dumps(row) + "\n" + rest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[: len(text) // 2], "truncated or edited?"),
        (lambda text: "\n".join(text.split("\n")[:100]) + "\n", "100 predictions, but the record states 300"),
        (lambda text: text.replace("e0001", "e0000", 1), "duplicate example id 'e0000'"),
        (lambda text: "[]\n", "expected an object with id"),
        (lambda text: text.replace('"accuracy": ', '"accuracy": "x", "y": ', 1), "accuracy is not a number: 'x'"),
        (lambda text: text.replace('"accuracy": 1.0', '"accuracy": NaN', 1), "was the file edited?"),
        (other_prediction, "was the file edited?"),
        (other_value, "one of the two files was modified"),
        (lambda text: "", "not valid JSON"),
    ],
)
def test_predictions_that_are_not_the_records(two, tmp_path, capsys, change, reason):
    broken = write_run(tmp_path / "broken", "s--m--lora", guesses(0.7), recipe="c")
    edited(broken, change)
    found = compare.compare([tmp_path], CompareRequest())
    assert [item.letter for item in found.systems] == ["A", "B"]
    (left_out,) = found.left_out
    assert left_out.path == broken / "record.json"
    assert reason in left_out.reason
    assert reason in refused(two[0], broken, capsys=capsys)


def test_unknown_labels(tmp_path, two):
    broken = write_run(tmp_path / "broken", "s--m--lora", guesses(0.7), recipe="c")
    edited(broken, lambda text: text.replace('"prediction": "bad"', '"prediction": "worse"'))
    (left_out,) = compare.compare([tmp_path], CompareRequest(metric="f1_macro")).left_out
    assert "the label 'worse' is none of the record's: bad, good" in left_out.reason


def test_prompts_that_are_not_the_manifests(two, tmp_path):
    asked = Prompts(format="plain", answer="likelihood", signature="s", template_hash="t", manifests={"test": "0" * 16})
    broken = write_run(tmp_path / "broken", "s--m--lora", guesses(0.7), recipe="c", prompts=asked)
    edited(broken, lambda text: text.replace('"metrics"', '"prompt_hash": "ab", "metrics"'))
    (left_out,) = compare.compare([tmp_path], CompareRequest()).left_out
    assert "differ from the record's manifest" in left_out.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:200], "not a whole record"),
        (lambda text: "{}", "not a run record"),
        (lambda text: text.replace('"schema": 2', '"schema": 99'), "is newer than this version reads"),
        (lambda text: text.replace('"status": "ok"', '"status": "fine"'), "not a valid record: status"),
        (lambda text: text.replace('"status": "ok"', '"status": "oom"'), "the run ended with status oom"),
    ],
)
def test_records_that_are_none(two, tmp_path, capsys, change, reason):
    broken = write_run(tmp_path / "broken", "s--m--lora", guesses(0.7), recipe="c")
    edited(broken, change, "record.json")
    found = compare.compare([tmp_path], CompareRequest())
    assert [reason in item.reason for item in found.left_out] == [True]
    assert reason in comparison_page.as_markdown(found)
    message = refused(two[0], broken, capsys=capsys)
    assert "needs completed runs of at least two systems (found only 's--m--head')" in message
    assert reason in message


def with_score(name, **changes):
    """A change of the text of a record: of one score after training."""

    def change(text):
        content = json.loads(text)
        content["scores"]["after"]["test"][name] |= changes
        return json.dumps(content)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_score("f1_macro", value=0.99), "f1_macro recomputed from the predictions is 0."),
        (with_score("precision_weighted", value=0.5), "precision_weighted recomputed from the predictions is 0."),
        (with_score("mcc", value=0.99), "mcc recomputed from the predictions is 0."),
        (with_score("loss", value=0.1), "loss recomputed from the predictions is 0."),
        (with_score("accuracy", value=None), "but the record states None"),
        (with_score("accuracy", value=[1, 2]), "the run has no accuracy"),
        (
            with_score("accuracy", interval="wilson 95 %", low=0.01, high=0.02),
            "accuracy (low end of the interval) recomputed",
        ),
        (lambda text: text.replace('"resolved":{}', '"resolved":{"seed":14}'), "states seed 13, but its recipe 14"),
        (lambda text: json.dumps(json.loads(text) | {"scores": {}}), "the record has no scores"),
    ],
)
def test_records_that_their_predictions_deny(two, tmp_path, change, reason):
    """Whatever else is in them, the others are compared by the metric that ranks them."""
    broken = write_run(tmp_path / "broken", "s--m--lora", guesses(0.7), recipe="c")
    edited(broken, lambda text: json.dumps(json.loads(text), separators=(",", ":")), "record.json")
    assert not compare.compare([tmp_path], CompareRequest()).left_out
    edited(broken, change, "record.json")
    found = compare.compare([tmp_path], CompareRequest())
    assert (found.metric, [item.name for item in found.systems]) == ("accuracy", ["s--m--full", "s--m--head"])
    (left_out,) = found.left_out
    assert reason in left_out.reason


def test_a_huge_number_in_a_line_of_predictions_is_no_value(two, tmp_path):
    broken = write_run(tmp_path / "broken", "s--m--lora", guesses(0.7), recipe="c")
    edited(broken, lambda text: text.replace('"loss": ', '"loss": ' + "9" * 400 + ', "x": ', 1))
    (left_out,) = compare.compare([tmp_path], CompareRequest(metric="loss")).left_out
    assert "a whole number of 400 digits" in left_out.reason


def test_missing_predictions(two, capsys):
    (two[1] / "predictions" / "after-test.jsonl").unlink()
    assert "a run can't be compared without its predictions" in refused(*two, capsys=capsys)


def test_one_run_and_the_same_run_twice(two, tmp_path, capsys):
    assert "needs completed runs of at least two systems" in refused(two[0], capsys=capsys)
    assert "needs completed runs of at least two systems" in refused(two[0], two[0] / "record.json", capsys=capsys)
    copy = shutil.copytree(two[0], tmp_path / "copy")
    assert "same system and seed as" in refused(two[0], copy, capsys=capsys)


def test_paths_and_names_that_are_not_there(two, tmp_path, capsys):
    assert "there is no such file or folder" in refused(two[0], tmp_path / "none", capsys=capsys)
    (tmp_path / "empty").mkdir()
    assert "no record.json in or below" in refused(two[0], tmp_path / "empty", capsys=capsys)
    assert "available: accuracy," in refused(*two, "--metric", "bleu", capsys=capsys)
    assert "the split 'dev' at stage 'after'; common to all: test" in refused(*two, "--split", "dev", capsys=capsys)
    assert "at stage 'before'" in refused(*two, "--stage", "before", capsys=capsys)
    for margin in ("0", "-1", "nan", "inf"):
        assert "the equivalence margin must be a positive number" in refused(*two, f"--margin={margin}", capsys=capsys)


# ---------------------------------------------------------------- the formulas


def lines_of(predictions, metrics, labels):
    """What a comparison reads of a file that the harness has written."""
    per_example = metrics.per_example(predictions)
    return {
        name: [
            sums.Line(
                prediction=scoring.label_names(predictions.predictions[row], labels),
                reference=scoring.label_names(predictions.references[row], labels),
                value=float(per_example[name][row]) if name in per_example else None,
            )
            for row in range(len(predictions.ids))
        ]
        for name in metrics.values(predictions)
    }


@pytest.mark.parametrize("multi_label", [False, True])
def test_every_label_metric_is_recomputed(multi_label):
    """The formulas on sums are those of bench/metrics, also where there is no answer, on any weights."""
    draw, labels = np.random.default_rng(0), ("a", "b", "c", "d")
    names = ("f1", "precision", "recall", "loss") + (
        ("jaccard", "hamming_accuracy", "subset_accuracy") if multi_label else ("accuracy", "mcc")
    )
    shape = (50, 4) if multi_label else 50
    predicted, reference = draw.integers(2 if multi_label else 4, size=(2, *np.atleast_1d(shape)))
    predicted[:5] = -1
    found = Predictions(ids=tuple(map(str, range(50))), predictions=predicted, references=reference,
                        scores=draw.dirichlet(np.ones(4), 50))  # fmt: skip
    metrics = MetricSet(names, multi_label=multi_label, num_labels=4)
    weights = draw.integers(4, size=50)
    repeated = np.repeat(np.arange(50), weights)
    drawn = metrics.values(
        Predictions(ids=tuple(map(str, range(len(repeated)))), predictions=predicted[repeated],
                    references=reference[repeated], scores=found.scores[repeated])
    )  # fmt: skip
    values = metrics.values(found)
    assert len(values) > 9
    for name, lines in lines_of(found, metrics, labels).items():
        counted = sums.tally(name, lines, labels, multi_label=multi_label)
        assert counted.score == pytest.approx(values[name], abs=1e-12), name
        assert float(counted.value(weights @ counted.rows)) == pytest.approx(drawn[name], abs=1e-12), name


def test_metrics_of_words_are_recomputed():
    answers = ["the cat sat on the mat", "", None, "a dog in the fog", "x", "two three four five six"]
    golds = [
        ["the cat sat on a mat"],
        ["some words here"],
        ["none"],
        ["the dog in a fog", "dog in the fog"],
        [],
        ["seven"],
    ]
    found = Predictions(ids=tuple("abcdef"), predictions=per_row(answers), references=per_row(golds),
                        scores=np.empty((6, 0)))  # fmt: skip
    metrics = MetricSet(("bleu", "rouge", "meteor"), multi_label=False, num_labels=0)
    values = metrics.values(found)
    checked = 0
    for name, lines in lines_of(found, metrics, ()).items():
        if name != "bleu_left_out":
            assert sums.tally(name, lines, (), multi_label=False).score == pytest.approx(values[name], abs=1e-9), name
            checked += 1
    assert checked == 7


@pytest.mark.parametrize("counts", [[9, 10, 0, 0, 0, 0, 9, 8, 7, 6], [0, 10] + [0] * 8, [3, 9, 2, 1, 0, 0, 3, 2, 1, 0],
                                    [20, 9, 12, 6, 0, 0, 20, 18, 16, 14]])  # fmt: skip
def test_bleu_of_few_matches_equals_sacrebleu(counts):
    from sacrebleu.metrics import BLEU

    expected = BLEU.compute_bleu(counts[2:6], counts[6:], counts[0], counts[1], smooth_method="exp").score
    assert float(sums.bleu_value(np.array(counts, dtype=float))) == pytest.approx(expected, abs=1e-9)


def test_what_cannot_be_recomputed_is_refused():
    with pytest.raises(DataError, match="squad_v2_best_f1 can't be compared"):
        sums.tally("squad_v2_best_f1", [sums.Line(prediction="", reference=[])], (), multi_label=False)


@pytest.mark.parametrize("metric", ["f1_macro", "mcc", "bleu"])
@pytest.mark.parametrize("wrong", [5, {"a": 1}, [["a"]], [3], True])
def test_answers_of_a_wrong_kind_are_refused(metric, wrong):
    for multi_label in (False, True):
        with pytest.raises(DataError, match=r"is none of the record's|BLEU compares texts"):
            sums.tally(metric, [sums.Line(prediction=wrong, reference=["a"])], ("a",), multi_label=multi_label)
        with pytest.raises(DataError, match=r"is none of the record's|BLEU compares texts"):
            sums.tally(metric, [sums.Line(prediction=None, reference=wrong)], ("a",), multi_label=multi_label)


def test_loss_that_is_no_number(two, tmp_path):
    broken = write_run(tmp_path / "broken", "s--m--lora", guesses(0.7), recipe="c")
    edited(broken, lambda text: text.replace('"loss": 0', '"loss": NaN, "was": 0', 1))
    (left_out,) = compare.compare([tmp_path], CompareRequest(metric="loss")).left_out
    assert "loss recomputed from the predictions is nan" in left_out.reason


def test_directions_are_known():
    known = registry.directions()
    for metric in known:
        least, most = accessors.metric_bounds(metric)
        assert math.isfinite(least), metric
        assert math.isfinite(most) or metric in ("loss", "mse", "mae", "reference_loss", "perplexity"), metric
    foreign = {"evaluate:mse": False, "evaluate:wer": False, "evaluate:wer/answer": False, "evaluate:answers": True}
    assert {name: registry.higher_is_better(name) for name in foreign} == foreign
    assert known["loss"] is known["mse"] is known["mae"] is False
    assert {"accuracy", "bleu", "mcc", "rougeLsum", "squad_v2_f1", "f1_macro"} <= {
        key for key, up in known.items() if up
    }


@pytest.mark.parametrize(("p_holm", "low", "said"), [(0.2, 0.001, True), (0.2, -0.1, False), (0.01, 0.001, False)])
def test_a_verdict_that_its_interval_seems_to_deny_is_explained(two, p_holm, low, said):
    found = compare.compare(two, CompareRequest())
    (pair,) = found.pairs
    changed = dataclasses.replace(found, pairs=[dataclasses.replace(pair, p_holm=p_holm, low=low, high=0.3)])
    assert any("leaves out 0" in note for note in comparison_page.notes(changed)) == said
