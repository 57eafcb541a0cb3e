"""Warnings of runs stand wherever many runs are reported: pages, tables, comparisons, cards, the console."""

import json
import re

import pytest

from bench.analysis import accessors, compare, leaderboard, predictions
from bench.cli.main import main
from bench.errors import DataError
from bench.records import store
from bench.records.record import RunWarning
from bench.reporting import comparison_page, findings, run_warnings, short_table
from bench.reporting.hub import cards
from tests.helpers import pictures, studies
from tests.helpers.pages import full, tables_of

LEAKED = RunWarning(
    code="label_not_in_training", sentence="7 of 60 test examples have the label <c>, which 'train' lacks"
)
COLLAPSED = RunWarning(code="one_class", sentence="every answer is 'neg'")


def warned(*warnings, **changes):
    return full(**changes).model_copy(update={"warnings": list(warnings)})


RUNS = [
    warned(LEAKED, COLLAPSED, seed=13),
    warned(LEAKED, seed=14),
    warned(LEAKED, name="sst2--minilm--full", seed=13),
    warned(name="sst2--minilm--head", seed=13),
]


def test_a_section_counts_and_names_what_is_warned_of_and_by_which_runs():
    text = run_warnings.section(RUNS)
    assert "> 3 of 4 runs warn of 2 things that may mislead a reader of their scores." in text
    assert "<summary>Warnings (2)</summary>" in text
    ((header, *rows),) = tables_of(text)
    assert header == ["kind", "data set", "warning", "runs"]
    assert f"> **{rows[0][1]}**: 7 of 60 test examples have the label &lt;c&gt;, which 'train' lacks (3 runs of" in text
    assert [row[0] for row in rows] == ["<code>label_not_in_training</code>", "<code>one_class</code>"]
    assert rows[0][2].startswith("7 of 60 test examples have the label &lt;c&gt;")
    assert rows[0][3] == "sst2 / minilm / full (seed 13); sst2 / minilm / lora (seeds 13, 14)"
    assert run_warnings.headline(RUNS[:1]) == "1 of 1 run warns of 2 things that may mislead a reader of their scores."


def test_an_alert_names_the_most_frequent_facts_by_data_set_and_leaves_advice_to_the_table():
    advice = RunWarning(code="texts_cut", sentence="texts cut: test 3 of 9 (33%). Raise max_length")
    many = [warned(RunWarning(code=f"x{number}", sentence=f"thing {number}"), seed=20 + number) for number in range(5)]
    films = warned(advice, seed=13)
    films.data.id = "films"
    again = films.model_copy(update={"seed": 14})
    alert = run_warnings.section([films, again, *many]).partition("<details>")[0]
    assert "> **films**: texts cut: test 3 of 9 (33%) (2 runs of sst2 / minilm / lora)" in alert
    assert "Raise max_length" not in alert
    assert "> 2 more are in the table." in alert
    short = run_warnings.in_short([films, again, warned(seed=15)])
    assert short == "**Warning:** texts cut (2 of 3 runs)."
    assert run_warnings.in_short(RUNS[3:]) == ""


def test_nothing_is_said_of_runs_without_warnings():
    assert (run_warnings.section(RUNS[3:]), run_warnings.lines(RUNS[3:])) == ("", [])
    assert run_warnings.count(RUNS[3:]) == "–"


def test_the_console_has_the_most_frequent_ones():
    many = warned(*(RunWarning(code="x", sentence=f"thing {number:02}") for number in range(14)), seed=15)
    lines = run_warnings.lines([*RUNS, many])
    assert lines[0].startswith("4 of 5 runs warn of 16 things")
    assert lines[1] == f"warning: stanfordnlp/sst2: {LEAKED.sentence} (3 runs)"
    assert (len(lines), lines[-1]) == (12, "6 more warnings are in the report")


def test_the_console_and_the_alert_say_which_data_set_and_whose_runs_a_warning_is_about():
    films = warned(COLLAPSED, name="sst2--minilm--full", seed=13)
    films.data.id = "films"
    others = [warned(COLLAPSED, name=f"sst2--minilm--{method}") for method in ("full", "head", "lora", "probe")]
    headline, *lines = run_warnings.lines([films, *others])
    assert headline == "5 of 5 runs warn of 2 things that may mislead a reader of their scores."
    assert lines == [
        "warning: stanfordnlp/sst2: every answer is 'neg' (4 runs)",
        "warning: films: every answer is 'neg' (1 run)",
    ]
    alert = run_warnings.section([films, *others], accessors.shared_parts([films, *others])).partition("<details>")[0]
    assert "> **stanfordnlp/sst2**: every answer is 'neg' (4 runs of full; head; 2 more)" in alert
    assert "> **films**: every answer is 'neg' (1 run of full)" in alert


def test_an_alert_names_a_kind_of_warning_once_however_its_numbers_differ():
    sizes = (1000, 2000, 2000)
    runs = [warned(RunWarning(code="weights_not_loaded", sentence=f"all {size} parameters are random. Load them"),
                   seed=place) for place, size in enumerate(sizes)]  # fmt: skip
    alert, _, table = run_warnings.section(runs).partition("<details>")
    shown = "> **stanfordnlp/sst2**: for example, all 2000 parameters are random (3 runs of sst2 / minilm / lora)"
    assert alert.count("parameters are random") == 1
    assert shown in alert
    assert table.count("parameters are random") == 2


def test_systems_of_one_name_are_told_by_what_differs():
    def run(file, seed, data_set="films"):
        record = warned(COLLAPSED, seed=seed)
        record.data.id = data_set
        record.recipe.path, record.recipe.hash = f"recipes/x/{file}.yaml", file
        return record

    text = run_warnings.section([run(file, seed) for file in ("head", "text") for seed in (13, 14)])
    assert "(4 runs of sst2 / minilm / lora &#91;head&#93;; sst2 / minilm / lora &#91;text&#93;)" in text
    assert "lora &#91;head&#93; (seeds 13, 14); sst2 / minilm / lora &#91;text&#93; (seeds 13, 14)" in text
    # One on each data set needs nothing more.
    text = run_warnings.section([run("head", 13), run("text", 13, "books")])
    assert "> **books**: every answer is 'neg' (1 run of sst2 / minilm / lora)" in text


def located(tmp_path, records=RUNS):
    return [(tmp_path / str(number) / "record.json", record) for number, record in enumerate(records)]


def test_the_short_table_has_a_column_and_a_section(tmp_path):
    text = short_table.table_report(located(tmp_path))
    table = tables_of(text)[0]
    counts = [row[table[0].index("warnings")] for row in table[1:]]
    assert sorted(counts) == ["**1**", "**1**", "**2**", "–"]
    assert "## Warnings\n\n> [!WARNING]" in text
    clean = short_table.table_report(located(tmp_path, RUNS[3:]))
    assert "warnings" not in clean.lower()


def test_cards_of_models_and_of_runs_begin_with_them():
    page = cards.records_card({str(number): one for number, one in enumerate(RUNS)}, "me/runs", with_predictions=False)
    assert "| run | status | warnings |" in page
    assert "3 of 4 runs warn of 2 things" in page
    plain = cards.records_card({"0": RUNS[3]}, "me/runs", with_predictions=False)
    assert "warnings" not in plain.partition("# runs")[2].lower()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = studies.write_study(tmp_path_factory.mktemp("study"), {"weak": 0.55, "good": 0.9})
    for name in ("weak-13", "weak-14"):
        record = store.read(folder / name)
        record.warn(LEAKED.code, LEAKED.sentence)
        store.write(record, folder / name)
    return folder


def test_a_report_and_a_comparison_show_them_before_any_score(study, tmp_path, capsys, monkeypatch):
    pictures.leave_unrendered(monkeypatch)
    assert main(["report", str(study), "-o", str(tmp_path)]) == 0
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert page.index("2 of 6 runs warn of 1 thing") < page.index("### Leaderboard")
    (standing,) = [table for table in tables_of(page) if "tier" in table[0]]
    assert [row[standing[0].index("warnings")] for row in standing[1:]] == ["–", "**1**"]
    assert f"warning: sst2_local: {LEAKED.sentence} (2 runs)\n" in capsys.readouterr().err
    output, data = tmp_path / "c.md", tmp_path / "c.json"
    assert main(["compare", str(study), "-o", str(output), "--json", str(data)]) == 0
    assert f"warning: sst2_local: {LEAKED.sentence} (2 runs)\n" in capsys.readouterr().err
    text = output.read_text(encoding="utf-8")
    assert text.index("2 of 6 runs warn of 1 thing") < text.index(" beats ")
    assert json.loads(data.read_text(encoding="utf-8"))["warnings"] == [
        {"code": LEAKED.code, "data_set": "sst2_local", "sentence": LEAKED.sentence, "runs": 2}
    ]


# ---------------------------------------------------------------- a short sentence


def test_a_sentence_names_few_systems_and_cuts_their_names(tmp_path):
    same = {f"a system with a {'very ' * 30}long name {number}": 0.9 for number in range(9)}
    paths = [
        studies.write_run(tmp_path / str(number), f"s--m--{name.replace(' ', '_')}", 13, [True, False] * 20)
        for number, name in enumerate(same)
    ]
    found = compare.compare(paths, predictions.CompareRequest())
    sentence = findings.finding(found)
    assert re.search(r" and 5 more\. Paired tests", sentence)
    assert len(sentence) < 600
    assert max(map(len, comparison_page.notes(found))) < 600


def test_a_refusal_names_few_of_the_runs_that_can_not_be_used(tmp_path, capsys):
    for number in range(9):
        folder = tmp_path / f"a folder with a {'very ' * 9}long name {number}"
        folder.mkdir()
        store.write(full(name=f"s--m--{number}"), folder)
    assert main(["compare", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.count("predictions/after-test.jsonl not found") == 3
    assert line.endswith("; 6 more runs can't be used either")


# ---------------------------------------------------------------- the direction of an included metric


def scored(value, up, seed=13, name="sst2--minilm--lora"):
    record = full(name=name, seed=seed)
    score = record.scores["after"]["test"]["accuracy"]
    mine = score.model_copy(update={"value": value, "low": None, "high": None, "higher_is_better": up})
    return record.model_copy(update={"scores": {"after": {"test": {"cost_per_item": mine}}}})


def test_the_direction_is_the_one_that_the_runs_recorded(tmp_path):
    runs = [scored(0.2, False), scored(0.8, False, name="sst2--minilm--full")]
    assert not accessors.higher_is_better(runs, "cost_per_item")
    assert accessors.higher_is_better([scored(0.2, None)], "cost_per_item")  # unknown, so by its name
    assert accessors.higher_is_better([scored(0.2, True)], "cost_per_item")
    (group,) = leaderboard.groups(located(tmp_path, runs))
    assert (group.higher_is_better, [one.score for one in group.systems]) == (False, [0.2, 0.8])
    text = short_table.table_report(located(tmp_path, runs))
    assert "lowest cost&#95;per&#95;item after training first" in text or "lowest cost_per_item after" in text


def test_the_harness_own_metrics_need_no_record_of_it():
    assert accessors.higher_is_better([full()], "accuracy")
    assert not accessors.higher_is_better([full()], "loss")
    assert accessors.higher_is_better([], None)


def test_runs_that_contradict_one_another_are_not_ranked():
    runs = [scored(0.2, False), scored(0.8, True, seed=14)]
    with pytest.raises(DataError, match="contradict one another on whether higher cost_per_item is better"):
        accessors.higher_is_better(runs, "cost_per_item")
