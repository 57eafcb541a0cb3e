"""exchange/: scores of runs in the formats of other tools, checked by these tools' own readers."""

import csv
import io
import json
import re

import pyarrow.parquet
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from bench.analysis.stats import intervals
from bench.cli.main import main
from bench.errors import DataError
from bench.exchange import formats, tables, written
from bench.records import store
from tests.helpers import libraries, pages

HUB = {"source": {"kind": "hub", "id": "stanfordnlp/sst2", "config": None}, "splits": {"test": "validation"}}


@pytest.fixture
def run(tmp_path):
    return made(tmp_path / "runs" / "lora", pages.full())


def made(folder, record, source=HUB):
    """A run's folder, with predictions of four examples: three are right."""
    record.recipe.resolved = {"dataset": {**source, "divide": []}, "training": {"learning_rate": 0.001, "steps": 200}}
    record.recipe.resolved["model"] = {"id": "owner/small-model", "weights": "pretrained"}
    for item in record.scores["after"]["test"].values():
        item.examples = 4
    record.data.splits["test"].examples = 4
    scores = record.scores["after"]["test"]
    for name, value in (("accuracy", 0.75), ("f1_macro", 3 / 7), ("mcc", 0.0), ("loss", 0.5)):
        scores[name].value = value
    scores["accuracy"].low, scores["accuracy"].high = intervals.wilson(3.0, 4.0)
    folder.mkdir(parents=True)
    store.write(record, folder)
    place = folder / "predictions" / "after-test.jsonl"
    place.parent.mkdir()
    lines = [
        {
            "id": f"e{number}",
            "prediction": "positive",
            "reference": "positive" if number else "negative",
            "scores": {"negative": 0.25, "positive": 0.75},
            "metrics": {"accuracy": float(number > 0), "loss": 0.5},
        }
        for number in range(4)
    ]
    place.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def files_of(folder):
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_table_has_a_row_for_each_score(run, tmp_path):
    said = written.write([run], "csv", tmp_path / "scores.csv")
    assert said == f"8 scores of 1 runs: {tmp_path / 'scores.csv'}"
    written.write([run], "parquet", tmp_path / "scores.parquet")
    read = list(csv.DictReader(io.StringIO((tmp_path / "scores.csv").read_text(encoding="utf-8"))))
    packed = pyarrow.parquet.read_table(tmp_path / "scores.parquet")
    assert packed.schema.names == tables.SCHEMA.names == list(read[0])
    for plain, typed in zip(read, packed.to_pylist(), strict=True):
        assert plain == {name: "" if value is None else str(value) for name, value in typed.items()}
    (after,) = (row for row in packed.to_pylist() if row["stage"] == "after" and row["metric"] == "accuracy")
    expected = {"run": "lora", "split": "test", "value": 0.75, "seed": 13, "learning_rate": 0.001, "steps": 200}
    assert {name: after[name] for name in expected} == expected


@pytest.mark.parametrize("stage", formats.STAGES)
def test_every_eval_evers_own_validator_accepts_the_files(run, tmp_path, stage, monkeypatch):
    validate = libraries.needed("every_eval_ever.validator.validate")
    out = tmp_path / stage
    written.write([run], "every-eval-ever", out, stage=stage, organization="My lab")
    monkeypatch.chdir(out)
    found = files_of(out)
    assert len(found) == (2 if stage == "after" else 1)  # only one stage has predictions
    assert validate.main(list(found)) == 0
    (place,) = (path for path in found.values() if path.suffix == ".json")
    content = json.loads(place.read_text(encoding="utf-8"))
    (accuracy,) = (one for one in content["evaluation_results"] if one["metric_config"]["metric_id"] == "accuracy")
    score = store.read(run).scores[stage]["test"]["accuracy"]
    assert accuracy["score_details"]["score"] == score.value
    interval = accuracy["score_details"]["uncertainty"]["confidence_interval"]
    assert (interval["lower"], interval["upper"], interval["confidence_level"]) == (score.low, score.high, 0.95)
    assert accuracy["source_data"]["hf_repo"] == "stanfordnlp/sst2"
    if stage == "before":
        assert content["model_info"]["id"] == "owner/small-model"
    else:
        assert content["model_info"]["id"] == "My_lab/lora"
        lines = [json.loads(line) for line in place.with_name(f"{place.stem}_samples.jsonl").open(encoding="utf-8")]
        assert [(line["sample_id"], line["evaluation"]["is_correct"]) for line in lines] == [
            ("e0", False), ("e1", True), ("e2", True), ("e3", True),
        ]  # fmt: skip


def test_an_export_is_the_same_each_time(run, tmp_path):
    for kind in ("every-eval-ever", "lm-eval", "hub"):
        for out in ("a", "b"):
            written.write([run], kind, tmp_path / kind / out, organization="x")
        first, second = (files_of(tmp_path / kind / out) for out in "ab")
        assert list(first) == list(second)
        assert all(first[name].read_bytes() == second[name].read_bytes() for name in first)


def test_the_hubs_own_parser_reads_the_entries(run, tmp_path):
    written.write([run], "hub", tmp_path / "out")
    (place,) = files_of(tmp_path / "out").values()
    assert place.relative_to(tmp_path / "out").as_posix() == ".eval_results/stanfordnlp--sst2.yaml"
    entries = parse_eval_result_entries(yaml.safe_load(place.read_text(encoding="utf-8")))
    first = entries[0]
    assert (first.dataset_id, first.task_id, first.value, first.dataset_revision) == (
        "stanfordnlp/sst2", "default", 0.75, "bcdcba7",
    )  # fmt: skip
    assert first.notes.startswith("accuracy on test, 4 examples (")


def test_lm_evals_table_shows_the_results(run, tmp_path):
    utils = libraries.needed("lm_eval.utils")
    written.write([run], "lm-eval", tmp_path / "out")
    found = files_of(tmp_path / "out")
    (results,) = (path for name, path in found.items() if name.startswith("results_"))
    content = json.loads(results.read_text(encoding="utf-8"))
    assert content["results"]["stanfordnlp_sst2"]["accuracy,none"] == 0.75
    assert content["results"]["stanfordnlp_sst2"]["accuracy_stderr,none"] == pytest.approx(0.25)
    assert content["results"]["stanfordnlp_sst2"]["mcc_stderr,none"] == "N/A"
    shown = utils.make_table(content)
    assert "|stanfordnlp_sst2|" in shown
    assert re.search(r"\|accuracy *\|↑ *\| *0\.750*\|± *\| *0\.250*\|", shown)
    (samples,) = (path for name, path in found.items() if name.startswith("samples_stanfordnlp_sst2_"))
    assert len(samples.read_text(encoding="utf-8").splitlines()) == 4


def test_what_can_not_be_written_is_told(run, tmp_path):
    made(tmp_path / "runs" / "local", pages.full(), {"source": {"kind": "csv", "id": None}, "splits": {}})
    failed = pages.full(status="crashed", reason="it fell")
    made(tmp_path / "runs" / "failed", failed)
    said = written.write([tmp_path / "runs"], "hub", tmp_path / "hub")
    assert said.startswith("1 runs in 1 files")
    assert "its data are no data set of the Hub (kind 'csv')" in said
    assert "it has no scores to export (status crashed)" in said
    with pytest.raises(DataError, match="is there already"):
        written.write([run], "hub", tmp_path / "hub")
    with pytest.raises(DataError, match="nothing can be exported"):
        written.write([tmp_path / "runs" / "failed"], "lm-eval", tmp_path / "none")
    with pytest.raises(DataError, match="give --organization"):
        written.write([run], "every-eval-ever", tmp_path / "none")
    with pytest.raises(DataError, match=r"it has no scores to export \(status crashed\)"):
        written.write([tmp_path / "runs" / "failed"], "csv", tmp_path / "none.csv")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--stage", "after"], "--stage and --organization go with --format"),
        (["--format", "csv", "--merge"], "--merge and --unfinished are for a model"),
        (["--format", "csv", "--stage", "after"], "--stage does not go with --format csv"),
        (["--format", "hub", "--organization", "x"], "--organization goes with --format every-eval-ever"),
    ],
)
def test_options_that_do_not_fit(run, words, sentence, capsys):
    assert main(["export", str(run), *words]) == 2
    assert sentence in capsys.readouterr().err


def test_the_command_writes_to_a_name_of_its_own(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), "--format", "csv"]) == 0
    assert main(["export", str(run), "--format", "lm-eval"]) == 0
    assert (tmp_path / "exported" / "scores.csv").exists()
    assert (tmp_path / "exported" / "lm-eval").is_dir()
    assert "exported: 8 scores of 1 runs: exported/scores.csv" in capsys.readouterr().out


def test_runs_whose_folders_have_one_name_are_kept_apart(tmp_path):
    for place in ("first", "second"):
        made(tmp_path / place / "lora", pages.full())
    both = [tmp_path / "first", tmp_path / "second"]
    said = written.write(both, "csv", tmp_path / "scores.csv")
    assert "of 2 runs" in said
    read = list(csv.DictReader(io.StringIO((tmp_path / "scores.csv").read_text(encoding="utf-8"))))
    assert {row["run"] for row in read} == {"first--lora", "second--lora"}
    written.write(both, "lm-eval", tmp_path / "lm")
    assert len([name for name in files_of(tmp_path / "lm") if "results_" in name]) == 2
    written.write(both, "every-eval-ever", tmp_path / "eee", organization="x")
    assert len({name.split("/")[3] for name in files_of(tmp_path / "eee")}) == 2


@pytest.mark.parametrize("kind", [*formats.FORMATS])
def test_scores_that_the_predictions_contradict_are_not_exported(run, tmp_path, kind):
    record = store.read(run)
    record.scores["after"]["test"]["accuracy"].value = 0.5
    store.write(record, run)
    with pytest.raises(DataError, match=r"accuracy recomputed from the predictions is 0\.75"):
        written.write([run], kind, tmp_path / "out", organization="x")
    made(tmp_path / "runs" / "sound", pages.full())
    assert "recomputed from the predictions" in written.write([run.parent], kind, tmp_path / "out", organization="x")


def test_a_table_is_not_named_as_another(run, tmp_path):
    with pytest.raises(DataError, match="named as csv, and --format is parquet"):
        written.write([run], "parquet", tmp_path / "scores.csv")
