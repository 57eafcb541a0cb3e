"""exchange/: results of other tools become records that `report` and `compare` read."""

import csv
import json

import pytest

from bench.analysis import predictions as compared
from bench.cli.main import main
from bench.config.cards import DatasetCard
from bench.data import dataset
from bench.errors import DataError
from bench.exchange import foreign, from_lm_eval, from_peft, from_predictions
from bench.exchange.read_in import read_in
from bench.records import store
from tests.helpers import pages
from tests.helpers.foreign_results import peft_result

LABELS = ["negative", "positive"]
GOLD = {f"e{number}": LABELS[number % 2] for number in range(8)}


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content) if not isinstance(content, str) else content, encoding="utf-8")
    return path


def test_results_of_pefts_comparison_give_their_table(tmp_path, capsys):
    for name, right in (("lora/r32", 636), ("dora/r32", 700)):
        written(tmp_path / "results" / f"{right}.json", peft_result(name, right / 1319))
    written(tmp_path / "results" / "failed.json", peft_result("boft/x", 0.0, status="failed"))
    out = tmp_path / "imported"
    assert main(["import", str(tmp_path / "results"), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert f"imported: 2 results into {out}" in said.out
    assert "this run ended with status 'failed'" in said.err
    record = store.read(out / "lora-r32--seed0")
    score = record.scores["after"]["test"]["accuracy"]
    assert (score.value, score.examples, score.interval) == (636 / 1319, 1319, "wilson 95 %")
    assert score.low == pytest.approx(0.4553, abs=1e-4)
    assert record.imported["file"] == "636.json"
    assert record.model.parameters == {"total": 3221924864, "trainable": 9175040}
    assert record.memory == {"whole_run": {"reserved_gib": 22.0}}
    # The report has both, and says that nothing can be tested: one seed, and no examples.
    assert main(["report", str(out)]) == 0
    text = capsys.readouterr().out
    assert "0.482 (0.455–0.509)" in text
    assert "0.531 (0.504–0.558)" in text
    assert "no paired test of this result is possible" in " ".join(record.notes)
    assert main(["compare", str(out)]) == 2
    assert "can't be compared without its predictions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (peft_result("a", 0.5), "is no share of GSM8K's 1,319 test questions"),
        ({**peft_result("a", 0.5), "meta_info": {}}, "no result of PEFT's method comparison: it has no 'package_info'"),
        ({**peft_result("a", 636 / 1319), "run_info": None}, "no result of PEFT's method comparison: TypeError"),
    ],
)
def test_odd_results_of_peft_are_refused(tmp_path, content, sentence):
    with pytest.raises(DataError) as raised:
        from_peft.of_content(path := written(tmp_path / "a.json", content), foreign.read_json(path))
    assert sentence in str(raised.value)


def lm_eval_results(folder, right, date="2026-01-01T00-00-00"):
    """A results file of four documents with its samples; the first `right` documents are right."""
    values = {"alias": "arc_easy", "acc,none": right / 4, "acc_stderr,none": 0.1, "sample_len": 4}
    content = {
        "results": {"arc_easy": values}, "n-samples": {"arc_easy": {"original": 4, "effective": 4}},
        "higher_is_better": {"arc_easy": {"acc": True}}, "versions": {"arc_easy": 1.0}, "n-shot": {"arc_easy": 0},
        "config": {"model": "hf", "model_num_parameters": 100, "random_seed": 0}, "model_name": folder.name,
        "lm_eval_version": "0.4.13",
    }  # fmt: skip
    lines = [
        {
            "doc_id": number, "target": "1", "filtered_resps": [["-1.5", "False"]], "filter": "none",
            "metrics": ["acc"], "acc": float(number < right), "doc_hash": f"d{number}", "prompt_hash": f"p{number}",
        }
        for number in range(4)
    ]  # fmt: skip
    samples = "".join(json.dumps(line) + "\n" for line in lines)
    written(folder / f"samples_arc_easy_{date}.jsonl", samples)
    return written(folder / f"results_{date}.json", content)


def test_results_of_lm_eval_are_paired_by_document(tmp_path, capsys):
    for name, right in (("small", 1), ("large", 4)):
        lm_eval_results(tmp_path / "results" / name, right)
    out = tmp_path / "imported"
    folders, left_out = read_in([tmp_path / "results"], out)
    assert (len(folders), left_out) == (2, [])
    record = store.read(out / "arc_easy--large--seed0")
    score = record.scores["after"]["test"]["lm_eval:acc,none"]
    assert (score.value, score.examples, score.higher_is_better) == (1.0, 4, True)
    assert (score.low, score.high) == pytest.approx((1 - 0.196, 1.0), abs=1e-3)  # clipped to the metric's range
    request = compared.CompareRequest(metric="lm_eval:acc,none")
    matched = compared.gather([out], request)
    assert matched.ids == ["0", "1", "2", "3"]
    assert {name.partition("--")[2]: run[0].scored.tally.score for name, run in matched.systems.items()} == {
        "small": 0.25, "large": 1.0,
    }  # fmt: skip
    assert main(["compare", str(out)]) == 0
    assert "+0.7500" in capsys.readouterr().out


def test_results_of_lm_eval_that_do_not_fit(tmp_path):
    path = lm_eval_results(tmp_path / "a", 2)
    with pytest.raises(DataError, match="it has no results of 'piqa'"):
        from_lm_eval.of_content(path, foreign.read_json(path), "piqa")
    samples = next((tmp_path / "a").glob("samples_*"))
    lines = samples.read_text(encoding="utf-8").splitlines(keepends=True)
    samples.write_text("".join(lines[:3]), encoding="utf-8")
    with pytest.raises(DataError, match="its samples do not fit"):
        from_lm_eval.of_content(path, foreign.read_json(path), "arc_easy")
    samples.write_text("".join(lines[:3]) + "{", encoding="utf-8")
    with pytest.raises(DataError, match=r"jsonl:4: no sample of lm_eval: JSONDecodeError"):
        from_lm_eval.of_content(path, foreign.read_json(path), "arc_easy")
    samples.unlink()
    record, lines = from_lm_eval.of_content(path, foreign.read_json(path), "arc_easy")
    assert lines == []
    assert "no samples beside the results" in " ".join(record.notes)
    for content in ("[]", '{"results": {}}', "{"):
        with pytest.raises(DataError):
            from_lm_eval.tasks(path := written(tmp_path / "b.json", content), foreign.read_json(path))


@pytest.fixture
def run(tmp_path):
    """A run on eight examples, half of which it has right."""
    folder = tmp_path / "run"
    (folder / "predictions").mkdir(parents=True)
    record = pages.full()
    record.recipe.resolved = {"seed": 13, "dataset": {"multi_label": False}}
    record.data.splits["test"].examples = 8
    lines = [
        {
            "id": identity, "prediction": "negative", "reference": gold, "scores": {"negative": 0.75, "positive": 0.25},
            "metrics": {"accuracy": float(gold == "negative")},
        }
        for identity, gold in GOLD.items()
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "predictions" / "after-test.jsonl").write_text(text, encoding="utf-8")
    rows = "".join(f"{name},negative,0.75,0.25\n" for name in GOLD)
    own = written(tmp_path / "own.csv", f"id,prediction,score.negative,score.positive\n{rows}")
    # Its scores by the same code as those of others.
    metrics = from_predictions._metrics(record, "after", "test", with_scores=True)
    for name, signature in metrics.signatures().items():
        if name in record.scores["after"]["test"]:
            record.scores["after"]["test"][name].signature = signature
    record.scores["before"] = {}
    store.write(record, folder)
    given = from_predictions.ForeignPredictions(file=own, like=folder, name="own", method="x")
    record.scores["after"]["test"] = from_predictions.write(given, tmp_path / "own").scores["after"]["test"]
    store.write(record, folder)
    return folder


def table_of(scores, more=""):
    """A table of one answer for every example, with these scores."""
    rows = "".join(f"{name},negative,{scores}\n" for name in GOLD)
    return f"id,prediction,score.negative,score.positive{more}\n{rows}"


def given(path, run, **options):
    return from_predictions.ForeignPredictions(file=path, like=run, name="theirs", method="crf", **options)


def test_predictions_of_another_system_are_scored_by_the_same_code_and_paired(run, tmp_path, capsys):
    certain = {"negative": "0.9,0.1", "positive": "0.1,0.9"}
    rows = "".join(f"{name},{gold},{certain[gold]}\n" for name, gold in GOLD.items())
    path = written(tmp_path / "theirs.csv", f"id,prediction,score.negative,score.positive\n{rows}")
    assert main(["import", str(path), "--like", str(run), "--name", "theirs", "--out", str(tmp_path / "in")]) == 0
    record = store.read(tmp_path / "in")
    scores = record.scores["after"]["test"]
    assert scores["accuracy"].value == scores["mcc"].value == scores["f1_macro"].value == 1.0
    assert scores["loss"].value == pytest.approx(0.10536, abs=1e-5)
    assert record.comparability.key == store.read(run).comparability.key
    assert main(["compare", str(run), str(tmp_path / "in")]) == 0
    assert "-0.5000" in capsys.readouterr().out.replace("−", "-").replace("+0.5000", "-0.5000")
    # As JSON lines without probabilities the loss is left out, which is noted.
    lines = "".join(json.dumps({"id": name, "prediction": gold}) + "\n" for name, gold in GOLD.items())
    record = from_predictions.write(given(written(tmp_path / "b.jsonl", lines), run), tmp_path / "in2")
    assert "loss" not in record.scores["after"]["test"]
    assert any(note.startswith("not computed: loss:") for note in record.notes)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("id,prediction\ne0,negative\n", "7 of 8 examples of test have no prediction, as 'e1', 'e2', 'e3'"),
        ("id,prediction\ne0,negative\ne0,positive\n", "row 2: example 'e0' has a prediction already"),
        ("id,prediction\nx9,negative\n", "row 1: 'x9' is no example of test"),
        ("id,label\ne0,negative\n", "there is no column `prediction`; its columns, separated by ',': 'id', 'label'"),
        (
            "id,prediction\n" + "".join(f"{name},positiv\n" for name in GOLD),
            "row 1: the data have no label 'positiv'. Did you mean 'positive'?",
        ),
        (
            "id,prediction,score.negative\n" + "".join(f"{name},positive,0.5\n" for name in GOLD),
            "row 1: expected a probability for each label (negative, positive)",
        ),
        ("id,prediction,prediction\ne0,negative,positive\n", "the column 'prediction' is there twice"),
        ("id,prediction\ne0\n", "row 1: it has 1 cells, and the header 2"),
        ("id,prediction\ne0,negative,x\n", "row 1: it has 3 cells, and the header 2"),
        (table_of("0.9,0.9"), "row 1: probabilities of the labels sum to 1, got 1.8"),
        (table_of("nan,0.5"), "row 1: probabilities lie between 0 and 1, got [nan, 0.5]"),
        (table_of("0.5,0.5").replace("0.5,0.5\n", ",\n", 1), "row 1: it has no scores, and 7 of 8 examples have some"),
        (table_of("0.5,0.5,0", ",score.neutral"), "row 1: the data have no label 'neutral'"),
    ],
)
def test_odd_predictions_are_refused(run, tmp_path, rows, sentence):
    with pytest.raises(DataError) as raised:
        from_predictions.write(given(written(tmp_path / "a.csv", rows), run), tmp_path / "out")
    assert sentence in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_texts_name_examples_where_ids_are_not_known(run, tmp_path):
    """The data of the run are read again, by its card."""
    rows = [{"id": name, "text": f"text of {name}", "label": gold} for name, gold in GOLD.items()]
    with (tmp_path / "data.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, ["id", "text", "label"])
        table.writeheader()
        table.writerows(rows)
    card = {
        "task": "text_classification", "labels": LABELS, "splits": {"train": "train", "test": "test"},
        "source": {"kind": "csv", "folder": str(tmp_path), "files": {"train": "data.csv", "test": "data.csv"}},
        "columns": {"id": "id", "text": "text", "label": "label"}, "leakage": "allow",
    }  # fmt: skip
    record = store.read(run)
    record.recipe.resolved["dataset"] = card
    corpus = dataset.load(DatasetCard.model_validate(card, strict=False), {}, {"test"})
    record.data.splits["test"].fingerprint = corpus.splits["test"].fingerprint
    store.write(record, run)
    lines = "".join(json.dumps({"text": row["text"], "prediction": row["label"]}) + "\n" for row in rows)
    found = from_predictions.write(given(written(tmp_path / "a.jsonl", lines), run), tmp_path / "out")
    assert found.scores["after"]["test"]["accuracy"].value == 1.0
    # Not where the data are others by now.
    record.data.splits["test"].fingerprint = "other"
    store.write(record, run)
    with pytest.raises(DataError, match="the data have changed since the run"):
        from_predictions.write(given(tmp_path / "a.jsonl", run), tmp_path / "other")


@pytest.mark.parametrize("answer", [["negative"], {}, None, 1])
def test_an_answer_of_another_type_is_no_label(run, tmp_path, answer):
    lines = "".join(json.dumps({"id": name, "prediction": answer}) + "\n" for name in GOLD)
    with pytest.raises(DataError, match=r"a\.jsonl:1: the data have no label"):
        from_predictions.write(given(written(tmp_path / "a.jsonl", lines), run), tmp_path / "out")


def test_what_is_not_read_of_a_table_is_said(run, tmp_path):
    """Also with a byte order mark, tabs, and answers that are not the most probable ones."""
    text = table_of("0.25,0.75").replace("score.positive\n", "score.positive,scores.x\n").replace("0.75\n", "0.75,1\n")
    path = written(tmp_path / "a.tsv", "\ufeff" + text.replace(",", "\t"))
    record = from_predictions.write(given(path, run), tmp_path / "out")
    assert "not read: 'scores.x'; read are id or text, prediction, and scores or score.<label>" in record.notes
    assert "8 of 8 predictions are not the label with the largest probability" in record.notes
    assert "loss" in record.scores["after"]["test"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n-samples": None}, "does not say of how many documents"),
        ({"n-samples": {"t": {"effective": "4"}}}, "of '4' documents, expected a number from 1 on"),
        ({"results": {"t": {"acc,none": float("nan")}}}, "acc,none = nan, expected a number from 0 to 1"),
        ({"results": {"t": {"acc,none": 1.5}}}, "acc,none = 1.5, expected a number from 0 to 1"),
        ({"config": {"random_seed": "x"}}, "seed: Input should be a valid integer"),
        ({"config": None, "results": {"t": None}}, "t has no value"),
    ],
)
def test_odd_results_of_lm_eval_leave_the_others(tmp_path, change, sentence):
    """A file of another shape is named, and ends nothing."""
    other = lm_eval_results(tmp_path / "good", 2)
    content = {"results": {"t": {"acc,none": 0.5}}, "n-samples": {"t": {"effective": 4}}, "config": {}, **change}
    written(tmp_path / "bad" / "results_1.json", content)
    folders, left_out = read_in([tmp_path / "bad", other], tmp_path / "out")
    assert len(folders) == len(left_out) == 1
    assert sentence in left_out[0]


def test_a_document_that_stands_twice_is_refused(tmp_path):
    path = lm_eval_results(tmp_path / "a", 2)
    samples = next((tmp_path / "a").glob("samples_*"))
    samples.write_text(samples.read_text(encoding="utf-8") * 2, encoding="utf-8")
    with pytest.raises(DataError, match=r"jsonl:5: document .* a second time"):
        from_lm_eval.of_content(path, foreign.read_json(path), "arc_easy")


@pytest.mark.parametrize("accuracy", [float("nan"), -636 / 1319, 2.0])
def test_no_share_of_the_questions(tmp_path, accuracy):
    path = written(tmp_path / "a.json", peft_result("a", accuracy))
    with pytest.raises(DataError, match="is no share of GSM8K's"):
        from_peft.of_content(path, foreign.read_json(path))


def test_a_run_of_this_harness_is_not_imported(run, tmp_path):
    with pytest.raises(DataError, match="this is a run of this harness already"):
        read_in([run], tmp_path / "out")
