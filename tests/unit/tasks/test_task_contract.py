"""The contract of tasks, kept by each of them: a corpus becomes splits to score, one to learn from, and a reader."""

import pytest
from accelerate import PartialState

from bench.config import registry, resolve
from bench.data import dataset, tokenizer
from bench.evaluation.readers.head import HeadReader
from bench.models import build
from tests.helpers.launching import ROOT

LIMIT = {"train": 16, "test": 8}
RECIPES = {
    "text_classification": ("tiny/bert-full", "texts"),
    "question_answering": ("passages/bert-full", "questions"),
    "regression": ("tiny/bert-ratings", "texts"),
    "token_classification": ("tiny/bert-notices", "sentences"),
    "multiple_choice": ("endings/bert-full", "examples"),
}


def encoded(task, state=None, *overrides):
    name, _ = RECIPES[task]
    recipe = resolve.load(ROOT / "recipes" / f"{name}.yaml", overrides).recipe
    assert recipe.dataset.task == task
    corpus = dataset.load(recipe.dataset, LIMIT, {"train", "test"})
    rows = corpus.splits["train"].rows
    tokens, _ = tokenizer.build(recipe.model, build.locate(recipe.model), (row["text"] for row in rows))
    return corpus, registry.load_task(task).encode(corpus, tokens, recipe, state)


def test_every_task_is_tried():
    with_head = {name for name in registry.names("tasks") if "head" in registry.literals("tasks", name)["OBJECTIVES"]}
    assert set(RECIPES) == with_head
    # Texts to write: tests/models/test_writing.py; to a task of lm_eval: tests/models/test_lm_eval_as_data.py.
    assert set(registry.names("tasks")) - with_head == {"generation", "lm_eval_generation"}


@pytest.mark.parametrize("task", RECIPES)
def test_splits_to_score_have_a_feature_for_each_row(task):
    corpus, data = encoded(task)
    assert set(data.splits) == {"train", "test"}
    for name, split in data.splits.items():
        assert split.ids == tuple(row["id"] for row in corpus.splits[name].rows)
        assert len(split.features) == len(split.ids) == LIMIT[name]
    assert data.train is not None
    assert len(data.train.features) >= LIMIT["train"]
    assert all(len(feature["input_ids"]) for feature in data.train.features)
    assert data.unit == RECIPES[task][1]
    assert (data.reader is HeadReader) == (task == "text_classification")
    assert data.warnings == ()


def test_answers_that_can_not_be_given_or_learned_are_warned_of():
    _, data = encoded("question_answering", None, "spans.max_answer_length=1", "spans.doc_stride=1", "max_length=32")
    assert {warning.code for warning in data.warnings} == {"answers_cut"}
    learned, given = (warning.sentence for warning in data.warnings)
    assert learned == "train: 1 of 16 answers (6%) lie wholly in no window, and none is learned"
    assert "more tokens than spans.max_answer_length, 1, and can't be predicted" in given


@pytest.mark.parametrize("task", RECIPES)
def test_tokens_are_kept_for_a_run_only(task, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    _, data = encoded(task)
    assert data.token_cache is False
    assert not list(tmp_path.rglob("*.tokens"))
    hits = [encoded(task, PartialState(cpu=True))[1].token_cache for _ in range(2)]
    if task in ("question_answering", "token_classification", "multiple_choice"):
        assert hits == [False, False]  # windows, and pairs of choices, hold more than tokens
        return
    assert hits == [{"train": False, "test": False}, {"train": True, "test": True}]
    assert encoded(task, PartialState(cpu=True), "speed.token_cache=false")[1].token_cache is False


def test_a_task_without_a_head_says_so():
    task = registry.load_task("generation")
    assert task.OBJECTIVES == ("text",)
    assert task.head_outputs(()) == ()
    for call in (lambda: task.loss(None, {}, label_smoothing=0.0), lambda: task.encode(None, None, None)):
        with pytest.raises(NotImplementedError, match="task generation has no task head"):
            call()
    assert task.parse("  7\n", (), "none", False) == "  7\n"


def test_what_the_outputs_of_a_head_stand_for():
    assert registry.load_task("text_classification").head_outputs(("bad", "good")) == ("bad", "good")
    assert registry.load_task("token_classification").head_outputs(("O", "B-A")) == ("O", "B-A")
    assert registry.load_task("regression").head_outputs(()) == ("value",)
    assert registry.load_task("question_answering").head_outputs(("unanswerable", "answerable")) == ("start", "end")
    assert registry.load_task("multiple_choice").head_outputs(("A", "B", "C")) == ("fit",)
