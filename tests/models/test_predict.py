"""evaluation/predict.py: one text or two, in any number: each with its own label, and whether it was cut."""

import json

import pytest

from bench.config import resolve
from bench.data import batching, dataset
from bench.errors import DataError
from bench.evaluation import predict
from bench.runner import lifecycle
from tests.helpers import models as tiny
from tests.helpers.launching import ROOT


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    known = tiny.card("bert")
    return tiny.liven(tiny.build(known, tmp_path_factory.mktemp("bert"))).eval(), tiny.tokenizer(known)


def described(max_length, multi_label=False):
    return {
        "task": "text_classification", "labels": list(tiny.LABELS), "max_length": max_length,
        "multi_label": multi_label, "threshold": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("second", [None, "Dirty.", tiny.TEXTS[2]])
def test_each_text_is_labelled_as_if_it_were_alone(second, multi_label, bert):
    model, tokens = bert
    texts = [f"{text} {copy}" for copy in range(30) for text in tiny.TEXTS]
    rows = [{"text": text, "text_pair": second} for text in texts]
    found = predict._predict_with_head(model, tokens, described(16, multi_label), rows)
    assert [answer["text"] for answer in found] == texts
    for row, answer in list(zip(rows, found, strict=True))[::17]:
        whole = tokens(row["text"], row["text_pair"])["input_ids"]
        # The second text counts, too.
        assert answer["cut"] == (len(whole) > 16)
        ids = tokens(row["text"], row["text_pair"], truncation=True, max_length=16)["input_ids"]
        logits = tiny.logits(model, batching.collate([{"input_ids": ids, "labels": 0}], tokens)).double()
        expected = (logits.sigmoid() if multi_label else logits.softmax(-1))[0].tolist()
        assert list(answer["scores"].values()) == pytest.approx(expected, abs=1e-6)
    assert {answer["cut"] for answer in found} == ({True} if second == tiny.TEXTS[2] else {True, False})


def trained(name, folder, *extra):
    path = ROOT / "recipes" / "passages" / f"{name}.yaml"
    settings = ["training.epochs=null", "training.steps=2", "limit={train: 40, test: 8}", *extra]
    assert lifecycle.main([str(path), *settings, "--out", str(folder), "--overwrite"]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert-full", "bert-full_v2", "llama-text_full"])
def test_new_questions_get_the_answers_of_the_run(name, tmp_path):
    """Asked again, the test questions are answered as they were when the run was scored."""
    folder = trained(name, tmp_path)
    known = [json.loads(line) for line in (folder / "predictions" / "after-test.jsonl").read_text("utf-8").splitlines()]
    corpus = dataset.load(
        resolve.load(ROOT / "recipes" / "passages" / f"{name}.yaml").recipe.dataset, {"test": 8}, {"test"}
    )
    rows = {row["id"]: row for row in corpus.splits["test"].rows}
    found = predict.predict(folder, [rows[line["id"]] for line in known])
    assert [answer["label"] for answer in found] == [line["prediction"] for line in known]
    assert [answer["text"] for answer in found] == [rows[line["id"]]["text_pair"] for line in known]
    if name.startswith("bert"):
        for answer, line in zip(found, known, strict=True):
            assert answer["scores"]["no_answer"] == pytest.approx(line["scores"]["no_answer"], abs=1e-5)
    with pytest.raises(DataError, match="text 1 has no question"):
        predict.predict(folder, [{"text": "A mill.", "text_pair": None}])
