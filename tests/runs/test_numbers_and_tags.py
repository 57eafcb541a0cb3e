"""Regression and token classification from recipe to compared runs: heads of both families, and numbers as text."""

import json
import math

import numpy as np
import pytest
import scipy.stats
import seqeval.metrics
import torch

from bench.analysis import compare, predictions
from bench.cli.main import main
from bench.data.builtin import corpora
from bench.records import store
from tests.helpers.launching import ROOT, launch, launch_all, losses, read_lines

RATINGS, NOTICES = (ROOT / "recipes" / "tiny" / f"bert-{name}.yaml" for name in ("ratings", "notices"))
SHORT = ("training.epochs=1", "limit.train=160", "limit.test=80")
LLAMA = ("model=tiny_llama", "method=lora", "training.learning_rate=2e-3")
JOBS = {
    "ratings": [RATINGS, "training.epochs=2", "training.learning_rate=2e-3"],
    "ratings_short": [RATINGS, "training.epochs=1", "limit.train=160"],
    "notices": [NOTICES, "training.epochs=3"],
    "notices_short": [NOTICES, "training.epochs=1", "limit.train=160"],
    "notices_llama": [NOTICES, *LLAMA, *SHORT, "max_length=12"],
    "ratings_llama": [RATINGS, *LLAMA, *SHORT],
    "ratings_text": [
        RATINGS, "model=tiny_llama", "objective=text", "prompting={answer: generate, max_new_tokens: 6}",
        "training.epochs=6", "limit.train=160", "limit.test=40",
    ],
}  # fmt: skip
HEADS = sorted(set(JOBS) - {"ratings_text"})


TOOLS = ("guitar", "drum", "flute", "horn")
PAIRS = [
    (f"a man plays a {one}", f"a man plays a {other}", 5.0 if one == other else 1.25)
    for one in TOOLS
    for other in TOOLS
    for _ in range(2)
]


def recipe_of_pairs(folder):
    """A recipe and, in the folder `datasets` beside it, the card of a CSV file in the form of STS-B."""
    rows = [f"{first} {number},{second} {number},{value}" for number, (first, second, value) in enumerate(PAIRS)]
    (folder / "pairs.csv").write_text("\n".join(["sentence1,sentence2,score", *rows]) + "\n", encoding="utf-8")
    (folder / "datasets").mkdir()
    card = [
        "task: regression",
        "licence: none",
        f"source: {{kind: csv, folder: {folder}, files: {{all: pairs.csv}}}}",
        "columns: {text: sentence1, text_pair: sentence2, label: score}",
        "divide: [{of: [all], into: {train: 0.75, test: 0.25}}]",
    ]
    (folder / "datasets" / "alike.yaml").write_text("\n".join(card) + "\n", encoding="utf-8")
    recipe = folder / "pairs.yaml"
    training = "{epochs: 2, global_batch: 8, learning_rate: 1e-3}"
    recipe.write_text(f"dataset: alike\nmodel: tiny_bert\nmethod: full\ntraining: {training}\n", encoding="utf-8")
    return recipe


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    jobs = {name: [*arguments, "--out", folder / name] for name, arguments in JOBS.items()}
    data = tmp_path_factory.mktemp("data")
    jobs["pairs"] = [recipe_of_pairs(data), "--include", data, "--out", folder / "pairs"]
    done = launch_all(jobs, tmp_path_factory.mktemp("printed"))
    for name, one in done.items():
        assert one.returncode == 0, (name, one.stderr[-2000:])
    return {name: folder / name for name in jobs}


def scores_of(folder, stage="after"):
    return {name: item.value for name, item in store.read(folder).scores[stage]["test"].items()}


@pytest.mark.parametrize("name", JOBS)
def test_records_are_whole(runs, name):
    found = store.read(runs[name])
    assert found.status == "ok"
    assert all(check.ok for check in found.checks)
    assert found.scores["before"]["test"].keys() == found.scores["after"]["test"].keys()
    baseline = found.baselines["test"]
    assert set(baseline) == ({"all_o"} if "notices" in name else {"mean"})
    if name not in ("ratings_text", "notices_llama"):
        # Padding-free or not, what one text alone gets is compared with a batch's before anything is scored.
        assert not [note for note in found.notes if "scored alone" in note]


def test_they_learn(runs):
    before, after = (scores_of(runs["ratings"], stage) for stage in ("before", "after"))
    assert after["pearson"] > 0.9
    assert after["mse"] < 0.5 * store.read(runs["ratings"]).baselines["test"]["mean"]["mse"]
    before, after = (scores_of(runs["notices"], stage) for stage in ("before", "after"))
    assert after["entity_f1"] > 0.35 > 0.2 > before["entity_f1"]


@pytest.mark.parametrize("name", ["ratings", "ratings_text"])
def test_scores_of_numbers_are_those_of_the_written_predictions(runs, name):
    rows, found = read_lines(runs[name] / "predictions" / "after-test.jsonl"), scores_of(runs[name])
    truth = {row["id"]: row["score"] for row in corpora.generate("ratings")["test"]}
    assert [row["reference"] for row in rows] == [truth[row["id"]] for row in rows]
    gold = np.array([row["reference"] for row in rows])
    predicted = np.array([gold.mean() if row["prediction"] is None else row["prediction"] for row in rows])
    assert found["mse"] == pytest.approx(((predicted - gold) ** 2).mean(), abs=1e-9)
    if np.ptp(predicted):
        assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(predicted, gold).statistic, abs=1e-9)
        assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(predicted, gold).statistic, abs=1e-9)


def test_numbers_as_text_are_written_with_the_card_s_decimals(runs):
    found = store.read(runs["ratings_text"])
    rows = read_lines(runs["ratings_text"] / "predictions" / "after-test.jsonl")
    assert found.prompts.signature.startswith("answer:generate|format:plain|greedy,max_new_tokens:6|parse:first_number")
    assert any("numbers are rounded to 1 decimal (prompt.decimals)" in note for note in found.notes)
    read = [row for row in rows if row["prediction"] is not None]
    assert len(read) == len(rows) - found.prompts.answers["after"]["test"]["unparsable"] > 0.8 * len(rows)
    for row in read:
        assert row["text"].startswith(f"{row['prediction']:.1f}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["notices", "notices_llama"])
def test_scores_of_tags_are_seqeval_s_of_the_written_predictions(runs, name):
    rows, found = read_lines(runs[name] / "predictions" / "after-test.jsonl"), scores_of(runs[name])
    truth = {row["id"]: row["tags"] for row in corpora.generate("notices")["test"]}
    assert [row["reference"] for row in rows] == [truth[row["id"]] for row in rows]
    gold, predicted = ([row[key] for row in rows] for key in ("reference", "prediction"))
    assert found["entity_f1"] == pytest.approx(seqeval.metrics.f1_score(gold, predicted), abs=1e-12)
    assert found["token_accuracy"] == pytest.approx(seqeval.metrics.accuracy_score(gold, predicted), abs=1e-12)


def test_long_sentences_are_read_in_windows(runs):
    notes = store.read(runs["notices_llama"]).notes
    assert any(
        note.startswith("test: ") and "were read in" in note and "each word in the one" in note for note in notes
    )


@pytest.mark.parametrize("name", HEADS)
def test_saved_models_are_read_by_plain_libraries(runs, name):
    import peft
    import transformers

    folder = runs[name] / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    kind = "TokenClassification" if "notices" in name else "SequenceClassification"
    if "llama" in name:
        config = json.loads((folder / "base" / "config.json").read_text(encoding="utf-8"))
        settings = {"num_labels": 1, "problem_type": "regression"} if "ratings" in name else {"num_labels": 7}
        auto = getattr(transformers, f"AutoModelFor{kind}")
        model = peft.PeftModel.from_pretrained(auto.from_pretrained(folder / "base", **settings), folder)
    else:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(folder)
    labels = ["value"] if "ratings" in name else store.read(runs[name]).data.labels
    assert list(config["id2label"].values()) == labels
    assert config["problem_type"] == ("regression" if "ratings" in name else "single_label_classification")
    model.eval()
    rows = {row["id"]: row for row in read_lines(runs[name] / "predictions" / "after-test.jsonl")}
    texts = corpora.generate("ratings" if "ratings" in name else "notices")["test"]
    for text in [text for text in texts if text["id"] in rows][:10]:
        if "ratings" in name:
            with torch.no_grad():
                logits = model(**tokenizer(text["text"], return_tensors="pt", return_token_type_ids=False)).logits
            assert logits.shape == (1, 1)
            assert float(logits[0, 0]) == pytest.approx(rows[text["id"]]["prediction"], abs=1e-4)
        elif "llama" not in name:
            inputs = tokenizer(text["tokens"], is_split_into_words=True, return_tensors="pt")
            with torch.no_grad():
                best = model(input_ids=inputs["input_ids"]).logits[0].argmax(-1).tolist()
            words = inputs.word_ids(0)
            tags = [labels[best[words.index(number)]] for number in range(len(text["tokens"]))]
            assert tags == rows[text["id"]]["prediction"]


@pytest.mark.parametrize("name", [name for name in JOBS if "short" not in name])
def test_predict_gives_the_run_s_predictions(runs, name, tmp_path, capsys):
    rows = {row["id"]: row for row in read_lines(runs[name] / "predictions" / "after-test.jsonl")}
    texts = corpora.generate("ratings" if "ratings" in name else "notices")["test"]
    texts = [text for text in texts if text["id"] in rows][:6]
    file = tmp_path / "texts.jsonl"
    asked = [{key: text[key] for key in ("text", "tokens") if key in text} for text in texts]
    file.write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    assert main(["predict", str(runs[name]), "--file", str(file), "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for text, answer in zip(texts, answers, strict=True):
        expected = rows[text["id"]]["prediction"]
        if "notices" in name:
            assert answer["tags"] == expected
            assert answer["tokens"] == text["tokens"]
            for entity in answer["entities"]:
                assert entity["text"] == " ".join(text["tokens"][entity["start"] : entity["end"]])
        else:
            assert answer["label"] == (expected if expected is None else pytest.approx(expected, abs=1e-4))
    assert main(["predict", str(runs[name]), "--file", str(file)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(texts)


def test_pairs_of_a_local_file_get_numbers(runs, tmp_path, capsys):
    found = store.read(runs["pairs"])
    assert found.status == "ok"
    assert (found.data.splits["train"].examples, found.data.splits["test"].examples) == (24, 8)
    rows = read_lines(runs["pairs"] / "predictions" / "after-test.jsonl")
    # Bins of the numbers are divided evenly: a quarter of both kinds of pairs is tested.
    assert sorted(row["reference"] for row in rows) == [1.25] * 6 + [5.0] * 2
    file = tmp_path / "pairs.jsonl"
    number = int(rows[0]["id"].split("-")[-1])
    first, second, _ = PAIRS[number]
    file.write_text(json.dumps({"text": f"{first} {number}", "text_pair": f"{second} {number}"}), encoding="utf-8")
    assert main(["predict", str(runs["pairs"]), "--file", str(file), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["label"] == pytest.approx(rows[0]["prediction"], abs=1e-4)
    assert main(["predict", str(runs["pairs"]), "--text", "alone"]) != 0


@pytest.mark.parametrize(
    ("names", "metric"),
    [
        (("ratings", "ratings_short"), None), (("ratings", "ratings_short"), "spearman"),
        (("ratings", "ratings_short"), "mse"), (("notices", "notices_short"), None),
        (("notices", "notices_short"), "token_accuracy"), (("notices", "notices_short"), "entity_f1_macro"),
    ],
)  # fmt: skip
def test_two_runs_are_compared_by_paired_tests(runs, names, metric):
    request = predictions.CompareRequest(metric=metric)
    found = compare.compare([runs[name] for name in names], request)
    (pair,) = found.pairs
    assert found.metric == metric or (metric is None and found.metric in ("pearson", "entity_f1"))
    best = names[0]
    stated = [scores_of(runs[name])[found.metric] for name in names]
    assert pair.test == "approximate randomisation"
    assert abs(pair.difference) == pytest.approx(abs(stated[0] - stated[1]), abs=1e-9)
    assert pair.low < pair.difference < pair.high
    assert pair.p < 0.01
    assert math.isfinite(found.systems[0].score)
    assert found.systems[0].score == pytest.approx(scores_of(runs[best])[found.metric], abs=1e-9)


@pytest.mark.parametrize("names", [("ratings", "ratings_short"), ("notices", "notices_short")])
def test_the_pages_of_a_study_show_them(runs, names, tmp_path):
    page = tmp_path / "page.md"
    assert main(["compare", *(str(runs[name]) for name in names), "-o", str(page)]) == 0
    assert ("pearson" if names[0] == "ratings" else "entity_f1") in page.read_text(encoding="utf-8")
    assert main(["report", *(str(runs[name]) for name in names)]) == 0
    report = (runs[names[0]] / "report.md").read_text(encoding="utf-8")
    if names[0] == "notices":
        assert "### test, by type" in report
        assert "| PER |" in report
    else:
        assert "mean baseline" in report


def test_edited_predictions_are_found(runs, tmp_path):
    import shutil

    for name, metric in (("ratings", "spearman"), ("notices", "entity_recall")):
        copy = tmp_path / name
        shutil.copytree(runs[name], copy)
        file = copy / "predictions" / "after-test.jsonl"
        rows = read_lines(file)
        changed = next(row for row in rows if row["prediction"] != row["reference"])
        changed["prediction"] = changed["reference"]
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        with pytest.raises(predictions.UnsoundPredictions, match="recomputed from the predictions"):
            predictions.read_predictions(copy / "record.json", store.read(copy), "after", "test", metric)


@pytest.mark.parametrize("recipe", [RATINGS, NOTICES], ids=["ratings", "notices"])
def test_two_processes_give_the_losses_and_scores_of_one(recipe, tmp_path):
    off = [f"model.architecture.{name}=0.0" for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")]
    settings = [*off, "limit.train=32", "limit.test=30", "training.epochs=1", "training.global_batch=16", "save=false"]
    for config in ("cpu", "ddp_cpu2"):
        done = launch(recipe, *settings, "--out", tmp_path / config, config=config)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = tmp_path / "cpu", tmp_path / "ddp_cpu2"
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    for stage in ("before", "after"):
        expected = scores_of(one, stage)
        for name, value in scores_of(two, stage).items():
            assert value == (expected[name] if value is None else pytest.approx(expected[name], abs=1e-4)), name
