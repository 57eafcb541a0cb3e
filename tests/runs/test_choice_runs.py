"""Runs of multiple choice: as text and with a head, on encoders, decoders and encoder-decoders, and by lm_eval."""

import json

import pytest

from bench.analysis import compare, predictions
from bench.cli.main import main
from bench.records import store
from tests.helpers.launching import ROOT, launch, launch_all, read_lines

TEXT, HEAD = (ROOT / "recipes" / "endings" / f"{name}.yaml" for name in ("llama-text_full", "bert-full"))
STEPS = "training={steps: 3, global_batch: 8, per_device_batch: 4, learning_rate: 1e-3}"
SMALL = ["limit={train: 64, test: 40}", STEPS]
ASKED = ["method=zero_shot", "limit.test=40"]
# A task of lm_eval on files of its own.
TASK = {
    "task": "own_endings",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"train": "train.jsonl", "test": "test.jsonl"}},
    "output_type": "multiple_choice",
    "training_split": "train",
    "test_split": "test",
    "doc_to_text": "{{text}}",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
}
JOBS = {
    "asked": [TEXT, *ASKED],
    "text": [TEXT, *SMALL],
    "few": [TEXT, "method={name: few_shot, shots: 2}", "limit.test=12", "model.max_length=256", "max_length=256"],
    "t5": [TEXT, *SMALL, "model=tiny_t5"],
    "head": [HEAD, *SMALL],
    # A decoder's head, which is none of transformers' own, on an adapter.
    "adapter": [HEAD, *SMALL, "model=tiny_llama", "method={name: lora, config: {r: 4, target_modules: all-linear}}"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, tasks = tmp_path_factory.mktemp("choices"), tmp_path_factory.mktemp("tasks")
    rows = [
        {"text": f"so {number} and then", "choices": ["it is", f"it was {number}"], "label": number % 2}
        for number in range(40)
    ]
    for name, part in (("train", rows[:24]), ("test", rows[24:])):
        (tasks / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    (tasks / "own.yaml").write_text(json.dumps(TASK), encoding="utf-8")
    of_lm_eval = [TEXT, STEPS, f"dataset=lm_eval:{tasks / 'own.yaml'}"]
    jobs = {name: [*map(str, words), "--out", folder / name] for name, words in {**JOBS, "own": of_lm_eval}.items()}
    done = launch_all(jobs, tmp_path_factory.mktemp("printed"))
    return {name: (done[name], folder / name) for name in jobs}


@pytest.mark.parametrize("name", [*JOBS, "own"])
def test_a_run_is_whole(runs, name):
    done, folder = runs[name]
    assert done.returncode == 0, done.stderr[-2000:]
    found = store.read(folder)
    assert (found.status, found.reason) == ("ok", None)
    assert all(check.ok for check in found.checks)
    scores = found.scores["after"]["test"]
    by_likelihood = {"acc", "acc_norm", "acc_bytes", "acc_tokens"}
    assert set(scores) == {"accuracy", "loss", *(set() if name in ("head", "adapter") else by_likelihood)}
    assert set(found.baselines["test"]) == {"chance", "longest_choice", "majority"}
    lines = read_lines(folder / "predictions" / "after-test.jsonl")
    for line in lines:
        count = len(line["choice_bytes"])
        assert len(line["scores"]) == count
        assert sum(line["scores"].values()) == pytest.approx(1)
        assert len(line.get("log_likelihoods", range(count))) == count
        assert line["metrics"]["accuracy"] == (line["prediction"] == line["reference"])
    chance = sum(1 / len(line["choice_bytes"]) for line in lines) / len(lines)
    assert found.baselines["test"]["chance"]["accuracy"] == pytest.approx(chance)
    if "acc_norm" in scores:  # what the card divides by is what is predicted
        assert scores["accuracy"].value == scores["acc_norm"].value


def test_likelihoods_do_not_depend_on_the_number_of_processes(runs, tmp_path):
    done = launch(*map(str, JOBS["asked"]), "--out", tmp_path / "two", config="ddp_cpu2")
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (read_lines(path / "predictions" / "after-test.jsonl") for path in (runs["asked"][1], tmp_path / "two"))
    assert one == two


def test_text_and_head_are_compared_on_the_same_examples(runs):
    found = compare.compare([runs["text"][1], runs["head"][1]], predictions.CompareRequest())
    assert found.metric == "accuracy"
    assert len(found.systems) == 2
    assert all("McNemar" in pair.test for pair in found.pairs)


@pytest.mark.parametrize("name", ["text", "t5", "head", "adapter", "own"])
def test_a_saved_model_chooses(runs, name, tmp_path, capsys):
    rows = [
        {"text": "On Monday it rained all day, so Anna", "choices": ["swept it", "opened an umbrella", "saw a dentist"]}
    ]
    rows.append({"text": "The soup was cold. So Hugo", "choices": ["warmed it up", "lit a candle"]})
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main(["predict", str(runs[name][1]), "--file", str(tmp_path / "new.jsonl"), "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    for row, answer in zip(rows, answers, strict=True):
        assert list(answer["scores"]) == row["choices"]
        assert answer["label"] in row["choices"]
    if name == "head":
        assert main(["predict", str(runs[name][1]), "--text", "alone"]) == 2
        assert (
            "text 1 has no choices: give JSON lines with `text` and, for it, a list `choices`"
            in capsys.readouterr().err
        )
