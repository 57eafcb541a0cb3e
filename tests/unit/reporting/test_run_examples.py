"""reporting/run_examples.py: answers with their texts on the page of a run, and when texts are hidden."""

import html
import json
from types import SimpleNamespace

import pytest
from markdown_it import MarkdownIt

from bench.records import store
from bench.records.record import Score
from bench.reporting import run_examples, run_page
from tests.helpers import studies
from tests.helpers.pages import NASTY, tables_of


@pytest.fixture
def run(tmp_path):
    """A run of four texts, the odd ones of which are answered wrong."""
    texts = studies.write_texts(tmp_path / "data", 4)
    return studies.write_run(tmp_path / "run", "s--one--full", 13, [True, False] * 2, texts=texts)


def page_of(folder, **options):
    return run_examples.section(store.read(folder), folder, **options)


def predictions(folder, *rows):
    """Put these lines in place of a run's predictions."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "predictions" / "after-test.jsonl").write_text(text, encoding="utf-8")


def task_run(folder, rows, data, task, metric, labels=(), **card):
    """The section of a run of another task, with its data still loaded: lines of predictions, and rows of the data."""
    studies.write_run(folder / "run", "s--one--full", 13, [True] * 4)
    record = store.read(folder / "run")
    record.recipe.resolved["dataset"] |= {"task": task, **card}
    record.scores = {"after": {"test": {metric: Score(value=0.5, examples=len(rows), signature="s")}}}
    predictions(folder / "run", *rows)
    corpus = SimpleNamespace(splits={"test": SimpleNamespace(rows=data)}, labels=labels)
    return run_examples.section(record, folder / "run", corpus=corpus), record


def data_row(identity, text, pair=None, **more):
    return {"id": identity, "text": text, "text_pair": pair, "label": 0} | more


def line(identity, prediction, reference, **metrics):
    return {"id": identity, "prediction": prediction, "reference": reference, "scores": None, "metrics": metrics}


def test_texts_stand_beside_reference_and_answer(run):
    page = page_of(run)
    wrong, right = tables_of(page)
    assert wrong[0] == ["example", "text", "reference", "answer"]
    assert wrong[1] == ["<code>t-00001</code>", "a fine film, number 1", "positive", "negative"]
    assert [row[0] for row in right[1:]] == ["<code>t-00000</code>", "<code>t-00002</code>"]
    assert "### Wrong answers on test, after training: 2 of 4 (50.0 %), 2 shown" in page
    assert "### Right answers on test, after training: 2 of 4 (50.0 %), 2 shown" in page


def test_the_page_made_anew_is_that_of_the_run_itself(run):
    record = store.read(run)
    rows = [data_row(f"t-{number:05d}", f"a fine film, number {number}") for number in range(4)]
    corpus = SimpleNamespace(splits={"test": SimpleNamespace(rows=rows)}, labels=tuple(studies.LABELS))
    assert run_page.run_report(record, run) == run_page.run_report(record, run, corpus=corpus)


def test_no_text_is_shown_where_none_may_be(run):
    shown = page_of(run, texts_from="nowhere")
    assert "fine film" not in shown
    assert "Texts are not shown: this page was asked for without texts of examples (option --no-texts)." in shown
    assert [table[0] for table in tables_of(shown)] == [["example", "reference", "answer"]] * 2
    record = store.read(run)
    record.recipe.resolved["dataset"]["quote"] = False
    record.prompts = run_page_prompts("a fine film, number 1")
    corpus = SimpleNamespace(splits={"test": SimpleNamespace(rows=[])}, labels=())
    for options in ({}, {"corpus": corpus}, {"texts_from": "hub"}):
        page = run_page.run_report(record, run, **options)
        assert "fine film" not in page
        assert "Texts are not shown: the card of the data set says quote: false." in page
    record.recipe.resolved["dataset"]["quote"] = True
    assert run_page.run_report(record, run).count("a fine film, number 1") == 2
    assert "fine film" not in run_page.run_report(record, run, texts_from="nowhere")


def run_page_prompts(example):
    from bench.records.record import Prompts

    return Prompts(format="plain", answer="generate", signature="s", template_hash="h", example=example)


@pytest.mark.parametrize("task", ["question_answering", "generation", "lm_eval_generation"])
def test_references_and_answers_that_are_texts_are_hidden_with_them(tmp_path, task):
    _, record = task_run(tmp_path, [line("x", "secret words", ["secret words"], m=1.0)], [], task, "m", quote=False)
    page = run_page.run_report(record, tmp_path / "run")
    assert "secret" not in page
    assert "Not shown, since references and answers are texts: the card of the data set says quote: false." in page
    record.recipe.resolved["dataset"]["quote"] = True
    assert "secret" not in run_page.run_report(record, tmp_path / "run", texts_from="nowhere")
    assert "secret words" in run_page.run_report(record, tmp_path / "run")


def test_data_that_are_gone_leave_the_answers_and_a_sentence(run, tmp_path):
    (tmp_path / "data" / "test.jsonl").unlink()
    page = page_of(run)
    assert "Texts are not shown: " in page
    assert "test.jsonl" in page
    assert [table[0] for table in tables_of(page)] == [["example", "reference", "answer"]] * 2


def test_data_that_have_changed_are_not_shown(run, tmp_path):
    studies.write_texts(tmp_path / "data", 4, "another film, number {number}")
    assert "another" not in page_of(run)
    assert "the data have changed since the run" in page_of(run)


def test_a_run_without_predictions_has_no_section_unless_it_wrote_some(run):
    (run / "predictions" / "after-test.jsonl").unlink()
    record = store.read(run)
    assert record.artifacts["predictions_after_test"]
    shown = run_examples.section(record, run)
    assert shown == "No examples can be shown: the file of predictions is not there any more."
    record.artifacts = {}
    assert run_examples.section(record, run) == ""
    store.write(record, run)
    predictions(run, line("x", "a", "b"))
    assert "<code>x</code>" in page_of(run)
    record.status = "diverged"
    assert run_examples.section(record, run) == ""


@pytest.mark.parametrize("damage", ['{"id": "x", "pred', "[]", '{"id": 5, "prediction": 1, "reference": 1}', "\x00"])
def test_damaged_predictions_are_named_with_their_line(run, damage):
    file = run / "predictions" / "after-test.jsonl"
    file.write_text(file.read_text(encoding="utf-8") + damage + "\n", encoding="utf-8")
    assert page_of(run).startswith("No examples can be shown: predictions/after-test.jsonl:5: ")
    assert "## Scores" in run_page.run_report(store.read(run), run)


def test_a_file_of_predictions_that_would_take_seconds_is_not_read(run, monkeypatch):
    monkeypatch.setattr(run_examples, "MOST_BYTES", 2**20)
    file = run / "predictions" / "after-test.jsonl"
    file.write_text(file.read_text(encoding="utf-8") + " " * 2**21, encoding="utf-8")
    assert page_of(run) == "No examples can be shown: the file of predictions has 2 MiB, and 1 are read."


def test_hostile_and_long_texts_stay_texts(tmp_path):
    text = NASTY.replace("{", "").replace("}", "") + " {number}"
    texts = studies.write_texts(tmp_path / "data", 4, text)
    run = studies.write_run(tmp_path / "run", "s--one--full", 13, [True, False] * 2, texts=texts)
    rows = [line(f"t-{number:05d}", NASTY, NASTY, accuracy=0.0) for number in range(4)]
    predictions(run, *rows)
    page = page_of(run)
    (table,) = tables_of(page)
    assert html.unescape(table[1][1]).startswith("a|b\\|c # d <script>x</script> `e` *f* [g](h)")
    assert all(cell.endswith("more characters)") for cell in table[1][1:])
    assert all(len(html.unescape(cell)) < 240 + 40 for cell in table[1][1:])
    for bad in ("<script", "\x00", "\u202e", "[g](h)"):
        assert bad not in page
    shown = MarkdownIt("commonmark").enable("table").render(page)
    assert "<a " not in shown
    assert "<em>" not in shown


def test_a_question_has_its_passage(tmp_path):
    data = [data_row("x", "It was Tuesday.", "When was it?")]
    page, _ = task_run(tmp_path, [line("x", "", ["Tuesday"], squad_f1=0.0)], data, "question_answering", "squad_f1")
    (table,) = tables_of(page)
    assert table == [
        ["example", "question", "passage", "reference", "answer"],
        ["<code>x</code>", "When was it?", "It was Tuesday.", "Tuesday", "(empty)"],
    ]


def test_a_written_answer_stands_with_its_input(tmp_path):
    row = {**line("x", "42", ["41"], extracted_match=0.0), "text": "The answer is 42."}
    page, _ = task_run(tmp_path, [row], [data_row("x", "How many?")], "generation", "extracted_match")
    (table,) = tables_of(page)
    assert table == [
        ["example", "input", "reference", "answer", "as written"],
        ["<code>x</code>", "How many?", "41", "42", "The answer is 42."],
    ]


def test_tags_are_shown_as_entities(tmp_path):
    rows = [line("x", ["O", "O", "O"], ["B-PER", "I-PER", "O"])]
    data = [data_row("x", "John Smith left", tokens=["John", "Smith", "left"])]
    page, record = task_run(tmp_path, rows, data, "token_classification", "entity_f1", scheme="IOB2")
    assert tables_of(page)[0][1] == ["<code>x</code>", "2", "John Smith left", "PER John Smith", "(no entity)"]
    assert tables_of(run_examples.section(record, tmp_path / "run", "nowhere"))[0][1][2] == "PER 1-2"


def test_choices_are_listed_by_their_letters(tmp_path):
    data = [data_row("x", "Which?", choices=["one", "two"])]
    rows = [{**line("x", "A", "B", accuracy=0.0, loss=2.0)}]
    page, _ = task_run(tmp_path, rows, data, "multiple_choice", "accuracy", labels=("A", "B", "C"))
    assert tables_of(page)[0] == [
        ["example", "loss", "text", "choices", "reference", "answer"],
        ["<code>x</code>", "2.000", "Which?", "A: one; B: two", "B", "A"],
    ]


def test_numbers_and_several_labels(tmp_path):
    data = [data_row("x", "first", "second")]
    lines = [line("x", None, 2.5), line("y", 2.0, 2.5)]
    page, _ = task_run(tmp_path / "a", lines, data, "regression", "pearson")
    assert tables_of(page)[0] == [
        ["example", "absolute error", "text", "second text", "reference", "answer"],
        ["<code>x</code>", "–", "first", "second", "2.5", "(no answer)"],
        ["<code>y</code>", "0.500", "–", "–", "2.5", "2"],
    ]
    assert "### Worst answers on test, after training: 2 of 2" in page
    rows = [line("x", [], ["joy", "anger"], loss=1.5, jaccard_samples=0.0)]
    page, _ = task_run(tmp_path / "b", rows, data, "text_classification", "jaccard_samples", multi_label=True)
    assert tables_of(page)[0][1] == ["<code>x</code>", "1.500", "first", "second", "joy, anger", "(none)"]
