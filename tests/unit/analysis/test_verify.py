"""An edited record, or an edited file of predictions, is refused: of texts, of multiple choice, of probabilities."""

import copy
import json

import numpy as np
import pytest

from bench.analysis import predictions
from bench.data.examples import per_row
from bench.evaluation import scoring
from bench.evaluation.metric_set import MetricSet, Predictions
from bench.records import store
from bench.records.record import Data, RecipePart, Record, Score, SplitPart
from tests.helpers.cases import together

WORDS = ("a cat sat here", "two dogs ran home", "rain fell all day", "birds sing, early")
GENERATION = ("rouge", "chrf", "exact_match", "reference_loss")
CHOICES = ("accuracy", "choice_accuracy")
OF_LABELS = ("accuracy", "ece", "auroc", "average_precision", "brier")
LABELS = ("A", "B", "C")


def generated():
    written = ["a cat sat", "two dogs ran home", None, "birds"]
    extra = tuple(
        {"text": text, "reference_nll": 3.5 + number, "reference_tokens": 2 + number}
        for number, text in enumerate(written)
    )
    return Predictions(
        ids=tuple("wxyz"), predictions=per_row(written), references=per_row([[text] for text in WORDS]),
        scores=np.empty((4, 0)), extra=extra,
    )  # fmt: skip


def chosen():
    draw = np.random.default_rng(0)
    extra = []
    for count in (2, 3, 3, 2, 3, 3):
        lengths = draw.integers(1, 9, count).tolist()
        sums = (-9 * draw.random(count)).tolist()
        extra.append({
            "log_likelihoods": sums, "choice_characters": lengths, "choice_bytes": [2 * size for size in lengths],
            "choice_tokens": lengths[::-1],
        })  # fmt: skip
    found = np.array([int(np.argmax(np.divide(each["log_likelihoods"], each["choice_bytes"]))) for each in extra])
    return Predictions(
        ids=tuple("uvwxyz"), predictions=found, references=draw.integers(0, 2, 6),
        scores=np.full((6, 3), 1 / 3), extra=tuple(extra),
    )  # fmt: skip


def classified():
    draw = np.random.default_rng(1)
    scores = draw.dirichlet(np.ones(3), 12)
    return Predictions(
        ids=tuple("abcdefghijkl"), predictions=scores.argmax(axis=1), references=draw.permutation(np.arange(12) % 3),
        scores=scores,
    )  # fmt: skip


RUNS = {
    "generation": (GENERATION, generated, ()),
    "choices": (CHOICES, chosen, LABELS),
    "labels": (OF_LABELS, classified, LABELS),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of each run, as the harness writes its record and predictions."""
    made = {}
    for name, (metrics, predicted, labels) in RUNS.items():
        folder, split = tmp_path_factory.mktemp(name), predicted()
        computed = MetricSet(metrics, multi_label=False, num_labels=len(labels))
        part = SplitPart(examples=len(split.ids), fingerprint="f", labels={}, tokens={}, truncated=0)
        values = computed.values(split)
        record = Record(
            status="ok", reason=None, name=name, seed=13, started_at="2026-01-01T00:00:00+00:00",
            recipe=RecipePart(path="recipes/x.yaml", hash="a" * 64, overrides=[]),
            data=Data(id="d", labels=list(labels), splits={"test": part}),
            scores={"after": {"test": {
                key: Score(value=float(value), examples=len(split.ids), signature=key) for key, value in values.items()
            }}},
        )  # fmt: skip
        scoring.write_predictions(folder / "predictions" / "after-test.jsonl", split, computed, labels)
        store.write(record, folder)
        made[name] = folder
    return made


def contradiction(folder, tmp_path, change, metric):
    """What is said of a copy of a run in which `change` edits the scores, and the lines of the predictions."""
    record = store.read(folder)
    lines = [json.loads(line) for line in (folder / "predictions" / "after-test.jsonl").read_text().splitlines()]
    record, lines = copy.deepcopy((record, lines))
    change(record.scores["after"]["test"], lines)
    file = tmp_path / "predictions" / "after-test.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    try:
        predictions.read_predictions(tmp_path / "record.json", record, "after", "test", metric)
    except predictions.UnsoundPredictions as error:
        return str(error)
    return None


def stated(name, value):
    def change(scores, lines):
        scores[name] = Score(value=value, examples=scores[name].examples, signature=name)

    return change


def of_first(**values):
    return lambda scores, lines: lines[0].update(values)


def without(key):
    return lambda scores, lines: lines[0].pop(key)


def all_right(name):
    def change(scores, lines):
        stated(name, 1.0)(scores, lines)
        for line in lines:
            line["metrics"][name] = 1.0

    return change


@pytest.mark.parametrize(("name", "metric"), [
    ("generation", "rougeL"), ("generation", "chrf"), ("generation", "perplexity"),
    ("choices", "accuracy"), ("choices", "acc"), *(("labels", name) for name in OF_LABELS),
])  # fmt: skip
def test_what_a_run_wrote_is_accepted(runs, tmp_path, name, metric):
    assert contradiction(runs[name], tmp_path, lambda scores, lines: None, metric) is None


CHANGES = [
    *(("labels", "accuracy", stated(name, 0.25), f"{name} recomputed") for name in OF_LABELS[1:]),
    ("labels", "ece", of_first(scores={"A": 1.0, "B": 0.0, "C": 0.0}), "recomputed from the predictions"),
    ("labels", "accuracy", of_first(scores=None), "lacks the probabilities (scores), of which"),
    ("generation", "rougeL", stated("perplexity", 3.0), "perplexity recomputed"),
    ("generation", "rougeL", stated("reference_loss", 1.0), "reference_loss recomputed"),
    ("generation", "perplexity", stated("reference_loss", 1.0), "reference_loss recomputed"),
    ("generation", "rougeL", stated("chrf", 99.0), "chrf recomputed"),
    ("generation", "chrf", stated("chrf_plus_plus", 99.0), "chrf_plus_plus recomputed"),
    ("generation", "rougeL", of_first(reference_nll=1.0), "recomputed from the predictions"),
    ("generation", "rougeL", of_first(reference_tokens=9), "recomputed from the predictions"),
    ("generation", "rougeL", of_first(prediction="a cat sat here"), "chrf recomputed"),
    ("generation", "rougeL", all_right("exact_match"), "contradict its exact_match of 1.0"),
    ("choices", "acc", all_right("accuracy"), "contradict its accuracy of 1.0"),
    ("generation", "rougeL", without("reference_nll"), "a line lacks reference_nll or reference_tokens"),
    ("generation", "perplexity", without("reference_tokens"), "of which perplexity is"),
    *(("choices", "accuracy", all_right(name), f"contradict its {name} of 1.0") for name in ("acc", "acc_norm")),
    *(("choices", name, all_right(name), f"contradict its {name} of 1.0") for name in ("acc_bytes", "acc_tokens")),
    ("choices", "accuracy", stated("acc_norm", 1.0), "acc_norm recomputed"),
    ("choices", "accuracy", of_first(choice_characters=[3]), "'u' lacks log_likelihoods and choice_characters"),
    ("choices", "accuracy", without("log_likelihoods"), "'u' lacks log_likelihoods of each choice"),
    ("choices", "accuracy", of_first(choice_tokens="12"), "'u' lacks log_likelihoods and choice_tokens"),
]


@together("change", CHANGES)
def test_what_was_edited_is_refused(runs, tmp_path, change):
    name, metric, edit, reason = change
    said = contradiction(runs[name], tmp_path, edit, metric)
    assert said is not None
    assert reason in said
