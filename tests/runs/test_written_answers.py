"""Question answering with `objective: text`: asked as it is, behind shots, and fine-tuned; no question is lost."""

import json

import pytest

from bench.config.cards import Prompt
from bench.records import store
from bench.runner import lifecycle
from bench.tasks import question_answering as task
from tests.helpers.launching import ROOT, read_lines

FOLDER = ROOT / "recipes" / "passages"
PROMPT = Prompt(template="Passage: {text}\nQuestion: {text_pair}\nAnswer:", none="unanswerable")

pytestmark = pytest.mark.usefixtures("bare_runs")


def run_recipe(name, folder, *extra, code=0):
    assert lifecycle.main([str(FOLDER / f"{name}.yaml"), *extra, "--out", str(folder), "--overwrite"]) == code
    return store.read(folder)


def predictions(folder, stage="after"):
    return read_lines(folder / "predictions" / f"{stage}-test.jsonl")


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("Greta Berg", "Greta Berg"),
        ("unanswerable", ""),
        (" Unanswerable. ", ""),
        ("", None),
        ("...", "..."),
        ("\N{INFINITY}", "\N{INFINITY}"),
        ("unanswerable questions", "unanswerable questions"),
        ("the 5th of May, 1901", "the 5th of May, 1901"),
    ],
)
def test_what_was_written_is_the_answer_but_where_it_says_that_there_is_none(written, answer):
    assert task.parse(written, (), PROMPT.none, False) == answer


def test_the_first_gold_answer_is_learned_on_one_line():
    said = task.wording(PROMPT, ("unanswerable", "answerable"), False)
    row = {"text": "a b", "text_pair": "which?", "answers": ["a\n b", "b"], "label": 1}
    assert said.answer(row) == "a b"
    assert said.answer({**row, "answers": [], "label": 0}) == "unanswerable"
    assert said.fields(row) == {"text": "a b", "text_pair": "which?", "labels": "unanswerable"}
    assert task.parse(said.answer({**row, "answers": []}), (), PROMPT.none, False) == ""


def test_fine_tuning_teaches_to_copy_the_answer(tmp_path):
    found = run_recipe("llama-text_full", tmp_path)
    before, after = (found.scores[stage]["test"]["squad_exact_match"] for stage in ("before", "after"))
    assert before.value < 0.05
    assert after.value > 0.2
    assert after.low > before.high
    assert found.speed["answer_logits"] is True
    assert found.prompts.answers["after"]["test"]["stopped_share"] > 0.9
    rows = predictions(tmp_path)
    assert len({row["id"] for row in rows}) == len(rows) == found.data.splits["test"].examples == 80
    assert all(row["prediction"] == row["text"] for row in rows if row["prediction"])
    total = sum(row["metrics"]["squad_exact_match"] for row in rows)
    assert after.value == pytest.approx(total / len(rows))
    assert [row["id"] for row in rows] == [row["id"] for row in predictions(tmp_path, "before")]
    assert [row["prompt_hash"] for row in rows] == [row["prompt_hash"] for row in predictions(tmp_path, "before")]


def test_shots_show_a_question_without_an_answer_and_batches_change_nothing(tmp_path):
    limit = "limit={test: 12}"
    found = run_recipe("llama-few_shot", tmp_path / "one", limit, "--check")
    assert found.prompts.example.count("unanswerable") == 2, "one in the instruction, one as a shot's answer"
    assert len(found.prompts.shot_ids) == 2
    assert all(check.ok for check in found.checks)
    assert {check.name for check in found.checks} >= {"fast_equals_plain", "ids_complete"}
    assert found.scores["after"]["test"]["squad_v2_exact"].examples == 12
    assert found.baselines["test"]["no_answer"]["squad_v2_NoAns_exact"] == 1
    run_recipe("llama-few_shot", tmp_path / "other", limit, "evaluation.batch_tokens=300")
    assert predictions(tmp_path / "one") == predictions(tmp_path / "other")


def test_all_metrics_of_words_and_long_answers(tmp_path):
    metrics = "evaluation.metrics=[squad, bleu, rouge, meteor]"
    short = "prompting={answer: generate, max_new_tokens: 1}"
    found = run_recipe(
        "llama-text_full", tmp_path, metrics, short, "limit={train: 32, test: 12}", "training.epochs=1", "save=false"
    )
    values = found.scores["after"]["test"]
    assert {"squad_exact_match", "squad_f1", "bleu", "rouge1", "rougeLsum", "meteor"} <= set(values)
    assert all(item.signature for item in values.values())
    assert any("have more tokens than prompting.max_new_tokens, 1" in note for note in found.notes)


def test_the_likeliest_label_is_no_answer_to_a_question(tmp_path, capfd):
    found = run_recipe("llama-few_shot", tmp_path, "prompting={answer: label_likelihood}", code=2)
    assert "answers to questions are free text" in capfd.readouterr().err
    assert found.status != "ok"
    assert json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))["scores"] == {}


def test_an_answer_that_means_none_is_refused_and_nothing_written_is_missing(tmp_path, capfd):
    found = run_recipe(
        "llama-text_full",
        tmp_path / "none",
        "dataset={card: passages, prompt: {template: '{text} {text_pair}', none: Sunday}}",
        code=2,
    )
    assert "would be parsed as no answer; change prompt.none" in capfd.readouterr().err
    assert found.status == "invalid"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("evaluation.metrics=[accuracy]", "metric 'accuracy' is for labels; task 'question_answering' has text"),
        ("spans.n_best=3", "`spans` is only for task question_answering with `objective: head`"),
    ],
)
def test_what_does_not_go_with_written_answers(override, sentence, tmp_path, capfd):
    run_recipe("llama-text_full", tmp_path, override, code=2)
    assert sentence in capfd.readouterr().err


def test_metrics_of_words_are_not_for_labels(tmp_path, capfd):
    arguments = [str(ROOT / "recipes" / "tiny" / "bert-full.yaml"), "evaluation.metrics=[squad]"]
    assert lifecycle.main([*arguments, "--out", str(tmp_path)]) == 2
    assert "metric 'squad' is for text answers; task 'text_classification' has labels" in capfd.readouterr().err
