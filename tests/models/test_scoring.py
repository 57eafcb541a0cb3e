"""evaluation/scoring.py: every example exactly once, whatever the number of processes and the size of batches."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.data import batching
from bench.errors import DivergedError, ScoreError
from bench.evaluation import reader, scoring
from bench.evaluation.metric_set import MetricSet, Predictions
from bench.evaluation.readers import head
from bench.models import autocast, batch_budget
from tests.helpers import models as tiny


def split(tokens, copies=3, multi_label=False):
    texts = [f"{text} {copy}" for copy in range(copies) for text in tiny.TEXTS]
    rows = tiny.features(tokens, texts)
    if multi_label:
        for number, row in enumerate(rows):
            row["labels"] = [number % 2, int(number % 3 == 0), 0]
    return tiny.encoded(rows)


def scored(model, tokens, examples, **settings):
    return scoring.run(model, examples, tiny.scoring(tokens, **settings), "test").predictions


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    known = tiny.card("bert")
    return tiny.liven(tiny.build(known, tmp_path_factory.mktemp("bert"))), tiny.tokenizer(known)


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (7, 3), (32, 24), (33, 24), (5, 1000), (300, 64)])
def test_batches_hold_every_row_once_longest_first_and_no_more_than_their_tokens(rows, tokens, bert):
    lengths = np.random.default_rng(rows).integers(1, 9, rows).tolist()
    examples = tiny.encoded([{"input_ids": [5] * length, "labels": 0} for length in lengths])
    found = head.HeadReader(bert[0], examples, tiny.scoring(bert[1], batch_tokens=tokens)).batches
    flat = [row for batch in found for row in batch]
    # Rows of one length stay in their order, so that nothing but lengths and tokens decides.
    assert flat == sorted(range(rows), key=lambda row: (-lengths[row], row))
    for number, batch in enumerate(found):
        # A row that is longer than all tokens of a batch stands alone.
        assert len(batch) * lengths[batch[0]] <= tokens or len(batch) == 1
        if number + 1 < len(found):
            assert (len(batch) + 1) * lengths[batch[0]] > tokens


def test_no_batches_of_nothing(bert):
    assert head.HeadReader(bert[0], tiny.encoded([]), tiny.scoring(bert[1])).batches == []


def test_the_device_decides_how_much_is_scored_at_once_unless_the_recipe_does(bert):
    model, tokens = bert
    assert reader.batch_tokens(model, tiny.scoring(tokens, batch_tokens=7)) == 7
    assert reader.batch_tokens(model, tiny.scoring(tokens, batch_tokens=None)) == batch_budget.CPU_BUDGET


@pytest.mark.parametrize("world", [2, 3, 5])
def test_any_number_of_processes_gives_the_same_predictions(world, bert, monkeypatch):
    model, tokens = bert
    examples = split(tokens)
    alone = scored(model, tokens, examples)
    everything = []

    def gather(mine):
        everything.extend(item for item in mine if isinstance(item, tuple))
        return mine

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "gather_object", gather)
        patch.setattr(scoring, "_assembled", lambda found, split: None)
        for rank in range(world):
            state = SimpleNamespace(process_index=rank, num_processes=world)
            patch.setattr(scoring, "PartialState", lambda state=state: state)
            scored(model, tokens, examples)
    together = scoring._assembled(everything, examples)
    assert together.ids == alone.ids
    assert np.array_equal(together.predictions, alone.predictions)
    assert np.array_equal(together.scores, alone.scores)


# ---------------------------------------------------------------- padding


def test_collate_pads_on_the_right_by_length():
    rows = [
        {"input_ids": [5, 6, 7], "token_type_ids": [0, 0, 1], "labels": 1},
        {"input_ids": [8, 9], "token_type_ids": [0, 1], "labels": 0},
    ]
    batch = batching.collate(rows, SimpleNamespace(pad_token_id=9))
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]  # the pad's id within a text is a token
    assert batch["token_type_ids"].tolist() == [[0, 0, 1], [0, 1, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert {value.dtype for value in batch.values()} == {torch.int64}


def test_collate_of_several_labels():
    rows = [{"input_ids": [5], "labels": [0, 1]}, {"input_ids": [6], "labels": [1, 1]}]
    assert batching.collate(rows, SimpleNamespace(pad_token_id=0))["labels"].tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("name", ["bert", "roberta", "t5", "llama", "gpt2"])
def test_batches_of_one_and_of_many_score_alike(name, multi_label, tmp_path):
    known = tiny.card(name)
    tokens = tiny.tokenizer(known)
    model = tiny.liven(tiny.build(known, tmp_path, multi_label=multi_label))
    examples = split(tokens, multi_label=multi_label)
    one, *others = (
        scored(model, tokens, examples, multi_label=multi_label, batch_tokens=size) for size in (1, 50, 300, None)
    )
    for many in others:
        assert one.ids == many.ids
        assert np.array_equal(one.predictions, many.predictions)
        np.testing.assert_allclose(one.scores, many.scores, atol=2e-6 if name == "t5" else 1e-6, rtol=0)


# ---------------------------------------------------------------- the whole split


def test_predictions_are_sorted_by_id_and_keep_their_references(bert):
    model, tokens = bert
    examples = split(tokens)
    found = scored(model, tokens, examples)
    assert found.ids == tuple(sorted(examples.ids))
    rows = {identity: number for number, identity in enumerate(examples.ids)}
    for place, identity in enumerate(found.ids):
        feature = examples.features[rows[identity]]
        assert found.references[place] == feature["labels"]
        alone = tiny.logits(model, batching.collate([feature], tokens)).double().softmax(-1)[0]
        np.testing.assert_allclose(found.scores[place], alone, atol=1e-6)
        assert found.predictions[place] == int(alone.argmax())


def test_several_labels_are_decided_by_the_threshold(bert):
    model, tokens = bert
    examples = split(tokens, multi_label=True)
    found = scored(model, tokens, examples, multi_label=True)
    assert found.predictions.shape == found.references.shape == found.scores.shape == (len(examples.ids), 3)
    assert np.array_equal(found.predictions, (found.scores >= 0.5).astype(int))


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ([0, 1], "expected predictions of 3 examples, got 2 predictions of 2 examples"),
        ([0, 1, 1], "expected predictions of 3 examples, got 3 predictions of 2 examples"),
        ([0, 1, 2, 2], "expected predictions of 3 examples, got 4 predictions of 3 examples"),
        ([0, 1, 3], "expected predictions of 3 examples, got 3 predictions of 3 examples"),
        ([], "expected predictions of 3 examples, got 0 predictions of 0 examples"),
    ],
)
def test_missing_and_double_examples_are_refused(numbers, sentence):
    examples = tiny.encoded([{"input_ids": [1], "labels": 0}] * 3, "validation")
    with pytest.raises(ScoreError, match=f"validation: {sentence}; the scores would not be valid"):
        scoring._assembled([(number, reader.Answer(prediction=0, scores=[1.0, 0.0])) for number in numbers], examples)


@pytest.mark.parametrize("multi_label", [False, True])
def test_logits_that_are_no_numbers_are_no_predictions(multi_label, bert, tmp_path):
    _, tokens = bert
    model = tiny.build(tiny.card("bert"), tmp_path)
    model.classifier.bias.data[1] = math.nan
    with pytest.raises(DivergedError, match="test: the probabilities of 18 of 18 examples are not finite"):
        scored(model, tokens, split(tokens, multi_label=multi_label), multi_label=multi_label)


def test_the_mode_of_the_model_comes_back(bert):
    model, tokens = bert
    for training in (True, False):
        model.train(training)
        with autocast.evaluating(model):
            assert not model.training
            assert not torch.is_grad_enabled()
        assert model.training == training
        assert torch.is_grad_enabled()
    scored(model.train(), tokens, split(tokens))
    assert model.training
    model.eval()


def test_precision_is_mixed_only_when_asked():
    for precision, kind in (("no", torch.float32), ("bf16", torch.bfloat16)):
        with autocast.autocast(tiny.CPU, precision):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == kind


# ---------------------------------------------------------------- the file


def test_every_line_can_be_recomputed(bert, tmp_path):
    model, tokens = bert
    found = scored(model, tokens, split(tokens))
    metrics = MetricSet(("accuracy", "loss", "f1"), multi_label=False, num_labels=3)
    path = tmp_path / "predictions" / "after-test.jsonl"
    scoring.write_predictions(path, found, metrics, tiny.LABELS)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == list(found.ids)
    for line in lines:
        assert line["prediction"] == max(tiny.LABELS, key=line["scores"].get)
        assert math.isclose(sum(line["scores"].values()), 1, rel_tol=1e-9)
        assert line["metrics"] == {
            "accuracy": float(line["prediction"] == line["reference"]),
            "loss": pytest.approx(-math.log(line["scores"][line["reference"]])),
        }
    values = metrics.values(found)
    for name in ("accuracy", "loss"):
        assert np.mean([line["metrics"][name] for line in lines]) == pytest.approx(values[name])


def test_lines_of_several_labels(tmp_path):
    found = Predictions(
        ids=("ä", "b"),
        predictions=np.array([[1, 0, 1], [0, 0, 0]]),
        references=np.array([[1, 1, 0], [0, 0, 0]]),
        scores=np.array([[0.9, 0.2, 0.6], [0.1, 0.1, 0.1]]),
    )
    metrics = MetricSet(("jaccard", "subset_accuracy"), multi_label=True, num_labels=3)
    scoring.write_predictions(tmp_path / "p.jsonl", found, metrics, tiny.LABELS)
    first, second = (json.loads(line) for line in (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines())
    assert (first["id"], first["prediction"], first["reference"]) == ("ä", ["bad", "mixed"], ["bad", "good"])
    assert first["metrics"]["jaccard_samples"] == pytest.approx(1 / 3)
    assert first["metrics"]["subset_accuracy"] == 0.0
    assert (second["prediction"], second["reference"]) == ([], [])
    assert second["scores"] == {"bad": 0.1, "good": 0.1, "mixed": 0.1}
    assert "ä" in (tmp_path / "p.jsonl").read_text(encoding="utf-8")


def test_no_answer_has_no_name():
    assert scoring.label_names(np.int64(-1), tiny.LABELS) is None
    assert scoring.label_names(np.int64(2), tiny.LABELS) == "mixed"


def test_what_a_split_tells_of_itself():
    rows = [{"input_ids": [1, 2], "labels": 2}, {"input_ids": [1, 2, 3], "labels": 0}]
    examples = tiny.encoded(rows)
    assert examples.lengths == [2, 3]
    assert examples.references.tolist() == [2, 0]
