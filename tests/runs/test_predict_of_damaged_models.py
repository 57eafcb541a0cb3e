"""python -m bench predict: for a damaged model, a wrong folder and an odd line, one sentence that names the file."""

import json
import os
import shutil
import struct

import pytest

from bench.cli.main import main
from bench.runner import lifecycle
from tests.helpers.launching import ROOT

SHORT = ["training.epochs=null", "training.steps=2", "limit={train: 24, test: 8}", "evaluation.before=false"]


@pytest.fixture(scope="module")
def runs(bare_runs, tmp_path_factory):
    """A run of a whole encoder, and one of an adapter, by name."""
    place = tmp_path_factory.mktemp("runs")
    for name in ("bert-full", "mistral-lora"):
        recipe = ROOT / "recipes" / "tiny" / f"{name}.yaml"
        assert lifecycle.main([str(recipe), *SHORT, "save=true", "--out", str(place / name)]) == 0
    return place


@pytest.fixture
def run(runs, tmp_path):
    """run("bert-full") -> a copy of that run, to be damaged."""

    def copied(name="bert-full"):
        shutil.copytree(runs / name, tmp_path / name)
        return tmp_path / name

    return copied


def said(capsys, *words):
    """The one sentence of a command that refused."""
    capsys.readouterr()
    assert main(["predict", *map(str, words)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert len(lines) == 1, shown.err
    assert lines[0].startswith("error: ")
    assert len(lines[0]) < 700
    return lines[0].removeprefix("error: ")


def edited(path, **changes):
    """A JSON file with other values; None takes a key away."""
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    kept = {key: value for key, value in content.items() if changes.get(key, key) is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def without(path, *names):
    """A safetensors file without some of its tensors."""
    from safetensors.torch import load_file, save_file

    save_file({name: one for name, one in load_file(path).items() if name not in names}, path, {"format": "pt"})


def shorter(path):
    path.write_bytes(path.read_bytes()[:-100])


def filled(path, value):
    """The same tensors, of one value."""
    from safetensors.torch import load_file, save_file

    save_file({name: one.fill_(value) for name, one in load_file(path).items()}, path, {"format": "pt"})


def in_place_of(path, put):
    """Something else at a file's path, where it was or was not."""
    path.unlink(missing_ok=True)
    put(path)


WEIGHTS, CONFIG = "model.safetensors", "config.json"
# What is done to the files of a whole model -> words of the sentence.
DAMAGES = {
    "no weights": (lambda m: (m / WEIGHTS).unlink(), ["model.safetensors"]),
    "truncated weights": (lambda m: shorter(m / WEIGHTS), ["model.safetensors is not a whole safetensors file"]),
    "empty weights": (lambda m: (m / WEIGHTS).write_bytes(b""), ["model.safetensors is not a whole safetensors file"]),
    "a header that lies": (
        lambda m: (m / WEIGHTS).write_bytes(struct.pack("<Q", 2**60) + b"{}"),
        ["model.safetensors is not a whole safetensors file"],
    ),
    "no tensors": (lambda m: without(m / WEIGHTS, *names(m / WEIGHTS)), ["holds no weights"]),
    "a tensor is missing": (
        lambda m: without(m / WEIGHTS, "bert.embeddings.word_embeddings.weight"),
        ["lacks weights", "word_embeddings"],
    ),
    "the head is missing": (
        lambda m: without(m / WEIGHTS, "classifier.weight"),
        ["lacks weights", "classifier.weight"],
    ),
    "not a number": (lambda m: filled(m / WEIGHTS, float("nan")), ["gives scores that are no numbers"]),
    "weights are a FIFO": (
        lambda m: in_place_of(m / WEIGHTS, os.mkfifo),
        ["model.safetensors is a FIFO, not a regular file"],
    ),
    "a FIFO that nobody asked for": (
        lambda m: in_place_of(m / "extra.json", os.mkfifo),
        ["extra.json is a FIFO, not a regular file"],
    ),
    "config is an endless device": (
        lambda m: in_place_of(m / CONFIG, lambda path: path.symlink_to("/dev/zero")),
        ["config.json is a device, not a regular file"],
    ),
    "config is not JSON": (lambda m: (m / CONFIG).write_text("{"), ["config.json is not a whole JSON file"]),
    "config is a list": (lambda m: (m / CONFIG).write_text("[]"), ["config.json holds list, not an object"]),
    "config is empty": (lambda m: (m / CONFIG).write_text(""), ["config.json is not a whole JSON file"]),
    "config is binary": (lambda m: (m / CONFIG).write_bytes(b"\xff\x00"), ["config.json is not a whole JSON file"]),
    "config is deep": (lambda m: (m / CONFIG).write_text("[" * 100_000), ["config.json", "nested too deeply"]),
    "no config": (lambda m: (m / CONFIG).unlink(), ["neither a config.json nor an adapter_config.json"]),
    "another family": (lambda m: edited(m / CONFIG, model_type="gpt2", n_embd=32, n_head=2), ["lacks weights"]),
    "an unknown family": (lambda m: edited(m / CONFIG, model_type="bertt"), ["can't be loaded", "bertt"]),
    "a type that is a number": (lambda m: edited(m / CONFIG, model_type=7), ["can't be loaded"]),
    "no type": (lambda m: edited(m / CONFIG, model_type=None), ["can't be loaded", "model_type"]),
    "another size": (lambda m: edited(m / CONFIG, hidden_size=128), ["lacks weights"]),
    "a size that is a text": (lambda m: edited(m / CONFIG, hidden_size="x"), ["can't be loaded", "hidden_size"]),
    "more layers": (lambda m: edited(m / CONFIG, num_hidden_layers=9), ["lacks weights", "layer."]),
    "fewer words": (lambda m: edited(m / CONFIG, vocab_size=10), ["lacks weights"]),
    "tokenizer is not JSON": (
        lambda m: (m / "tokenizer.json").write_text("{"),
        ["tokenizer.json is not a whole JSON file"],
    ),
    "tokenizer is another thing": (lambda m: (m / "tokenizer.json").write_text("{}"), ["can't be loaded"]),
    "no tokenizer": (lambda m: (m / "tokenizer.json").unlink(), ["can't be loaded"]),
    "no tokenizer's config": (
        lambda m: (m / "tokenizer_config.json").unlink(),
        ["can't be loaded", "tokenizer_config"],
    ),
    "a tokenizer of no class": (lambda m: edited(m / "tokenizer_config.json", tokenizer_class="BertModel"), ["can't"]),
    "bench.json is not JSON": (
        lambda m: (m / "bench.json").write_text("nonsense"),
        ["bench.json is not a whole JSON file"],
    ),
    "bench.json is null": (lambda m: (m / "bench.json").write_text("null"), ["bench.json holds NoneType"]),
    "bench.json is empty": (
        lambda m: (m / "bench.json").write_text("{}"),
        ["bench.json: `task` is not what a run writes"],
    ),
    "an unknown task": (lambda m: edited(m / "bench.json", task="x"), ["knows no task 'x'"]),
    "an unknown objective": (
        lambda m: edited(m / "bench.json", objective="x"),
        ["`objective` must be one of head, text"],
    ),
    "labels are a text": (lambda m: edited(m / "bench.json", labels="ab"), ["`labels` is not what a run writes"]),
    "labels are numbers": (lambda m: edited(m / "bench.json", labels=[0, 1]), ["`labels` must be texts"]),
    "a label too many": (
        lambda m: edited(m / "bench.json", labels=["a", "b", "c"]),
        ["can't predict", "do not fit together"],
    ),
    "a limit of no tokens": (lambda m: edited(m / "bench.json", max_length=0), ["`max_length` at least 1"]),
    "a limit that is true": (
        lambda m: edited(m / "bench.json", max_length=True),
        ["`max_length` is not what a run writes"],
    ),
    "no bench.json": (lambda m: (m / "bench.json").unlink(), ["holds no saved model, which the run wrote; copy"]),
    "nothing": (lambda m: shutil.rmtree(m), ["holds no saved model"]),
}


def names(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as weights:
        return list(weights.keys())


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused_with_a_sentence(damage, run, capsys):
    folder = run()
    harm, words = DAMAGES[damage]
    harm(folder / "model")
    shown = said(capsys, folder, "--text", "A fine day.")
    for word in words:
        assert word in shown


ADAPTERS = {
    "no adapter": (lambda m: (m / "adapter_model.safetensors").unlink(), ["adapter_model"]),
    "truncated": (lambda m: shorter(m / "adapter_model.safetensors"), ["not a whole safetensors file"]),
    "another type": (lambda m: edited(m / "adapter_config.json", peft_type="X"), ["can't be loaded"]),
    "another rank": (lambda m: edited(m / "adapter_config.json", r=3), ["can't be loaded"]),
    "a part is missing": (
        lambda m: without(m / "adapter_model.safetensors", names(m / "adapter_model.safetensors")[0]),
        ["lacks weights: 1, e.g. base_model"],
    ),
    "no base": (lambda m: shutil.rmtree(m / "base"), ["can't be loaded"]),
}


@pytest.mark.parametrize("damage", ADAPTERS)
def test_a_damaged_adapter_is_refused_with_a_sentence(damage, run, capsys):
    folder = run("mistral-lora")
    harm, words = ADAPTERS[damage]
    harm(folder / "model")
    shown = said(capsys, folder, "--text", "A fine day.")
    for word in words:
        assert word in shown


def test_what_is_no_folder_of_a_run(run, tmp_path, capsys):
    folder = run()
    assert "there is no such folder" in said(capsys, tmp_path / "none", "--text", "x")
    assert "is a file; give the folder of a run" in said(capsys, folder / "record.json", "--text", "x")
    assert f"give the folder of its run: {folder}" in said(capsys, folder / "model", "--text", "x")
    assert f"holds runs, and is none; give the folder of one of them: {folder.name}" in said(
        capsys, tmp_path, "--text", "x"
    )
    (tmp_path / "empty").mkdir()
    assert "it holds neither a model nor a record" in said(capsys, tmp_path / "empty", "--text", "x")


def test_why_a_run_has_no_model(run, capsys):
    folder = run()
    shutil.rmtree(folder / "model")
    record = json.loads((folder / "record.json").read_text())
    unsaved = {**record, "recipe": {**record["recipe"], "resolved": {**record["recipe"]["resolved"], "save": False}}}
    for changed, words in (
        ({**record, "status": "oom"}, "holds no saved model: the run ended with status 'oom'"),
        (unsaved, "holds no saved model: the run was told not to save it; repeat it with `save: true`"),
        ({**record, "training": None}, "its method trains nothing, so that its model is the base model"),
    ):
        (folder / "record.json").write_text(json.dumps(changed))
        assert words in said(capsys, folder, "--text", "x")


def test_escape_sequences_reach_no_terminal_and_json_stays_json(run, capsys):
    """From a label, a text and a name of a file."""
    folder = run()
    evil = "\x1b[2J\u202e\x9b\r\nok: all is well"
    edited(folder / "model" / "bench.json", labels=[evil, f"{evil}2"])
    (folder / "texts.jsonl").write_text(json.dumps({"text": evil}), encoding="utf-8")
    words = ["predict", str(folder), "--file", str(folder / "texts.jsonl")]
    capsys.readouterr()
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 1
    assert not any(character in shown for character in "\x1b\u202e\x9b\r")
    assert "\\u001b[2J" in shown
    assert main([*words, "--json"]) == 0
    shown = capsys.readouterr().out
    assert not any(character in shown for character in "\x1b\u202e\x9b\r")
    answer = json.loads(shown)
    assert (answer["text"], set(answer["scores"])) == (evil, {evil, f"{evil}2"})
    assert "\\u001b" in said(capsys, folder, "--file", folder / "no\x1b[2Jfile")
