"""python -m bench predict: new questions get the answers that the run gave."""

import json

import pytest

from bench.config import resolve
from bench.data import dataset
from bench.errors import DataError
from bench.evaluation import predict
from bench.runner import lifecycle
from tests.helpers.launching import ROOT


def trained(name, folder, *extra):
    path = ROOT / "recipes" / "passages" / f"{name}.yaml"
    settings = ["training.epochs=null", "training.steps=2", "limit={train: 40, test: 8}", *extra]
    assert lifecycle.main([str(path), *settings, "--out", str(folder), "--overwrite"]) == 0
    return folder


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
