"""`bench ship`: forms of tiny models made for real, faults that are planted, and whatever can't be shipped."""

import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft.tuners.lora import layer

import bench
from bench.cli.main import main
from bench.data.prompts.chat_frame import ChatFrame
from bench.errors import SetupError
from bench.evaluation import export
from bench.evaluation.engines import prompt_probe
from bench.evaluation.engines.completions_api import Api, Server
from bench.records import store
from bench.shipping import making, results, timing, whole
from bench.shipping.names import parse
from bench.shipping.source import Asked
from tests.helpers.cases import together
from tests.helpers.completions_server import Served, serving
from tests.helpers.launching import read_lines

pytestmark = pytest.mark.usefixtures("bare_runs")

WORDS = ("lamp", "chair", "kettle", "scarf", "river", "stone", "paper", "cloud", "engine", "violin")
TEXTS = [f"the {one} and the {other} of {number}" for one in WORDS for other in WORDS for number in range(6)]
CARD = """task: text_classification
source: {{kind: jsonl, folder: {folder}, files: {{train: train.jsonl, test: test.jsonl}}}}
licence: none
columns: {{id: id, text: text, label: label}}
labels: ["no", "yes"]
splits: {{train: train, test: test}}
leakage: allow
prompt: {{template: "Text: {{text}}\\nAnswer:"}}
"""
# A random adapter that is trained a little: as large an effect as its base model has.
LORA = {
    "name": "lora",
    "config": {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "init_lora_weights": False},
}
WIDE = {"card": "tiny_bert", "architecture": {"initializer_range": 0.15}}
SMALL = {"training": {"steps": 40, "global_batch": 32, "learning_rate": 5e-3}, "evaluation": {"before": False}}
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def write_rows(folder, name, labels):
    rows = [{"id": f"{name}{place}", "text": text, "label": label}
            for place, (text, label) in enumerate(zip(TEXTS, labels, strict=False))]  # fmt: skip
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def own_run(folder, rounds=2, **keys):
    """A run on data whose labels are, in the second round, what the model itself predicts: it is right on all."""
    data, cards = folder / "data", folder / "cards" / "datasets"
    for place in (data, cards):
        place.mkdir(parents=True)
    (cards / "own.yaml").write_text(CARD.format(folder=data), encoding="utf-8")
    labels = [("no", "yes")[text.split()[1] in WORDS[:5]] for text in TEXTS]
    write_rows(data, "train", labels)
    out = folder / "run"
    for _ in range(rounds):
        write_rows(data, "test", labels)
        recipe = {"dataset": "own", "max_length": 64, **SMALL, "speed": {"token_cache": False}, **keys}
        record = bench.run_recipe(recipe, out=out, include=[folder / "cards"], overwrite=out.exists())
        found = {row["id"]: row["prediction"] for row in read_lines(out / "predictions" / "after-test.jsonl")}
        labels = [found[f"test{place}"] for place in range(len(TEXTS))]
    assert rounds == 1 or record.scores["after"]["test"]["accuracy"].value == 1
    assert rounds == 1 or 60 < labels.count("yes") < 540
    return out


@pytest.fixture(scope="module")
def quick():
    """Times are measured once: what they are is no matter here."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("LOADS", 1), ("PASSES", 2), ("EXAMPLES", 10), ("WARM_UP", 1)):
            patch.setattr(timing, name, value)
        yield


@pytest.fixture(scope="module")
def head_run(tmp_path_factory, bare_runs):
    return own_run(tmp_path_factory.mktemp("head"), model=WIDE, method=LORA)


@pytest.fixture(scope="module")
def text_run(tmp_path_factory, bare_runs):
    folder = tmp_path_factory.mktemp("text")
    model = {"card": "tiny_mistral", "architecture": {"initializer_range": 0.15}}
    return own_run(folder, model=model, method=LORA, objective="text")


def shipped(run, out, forms, examples=None, **options):
    asked = Asked(run=run, examples=examples)
    return making.ship(making.ShipRequest(asked=asked, out=out, forms=parse(forms), **options))


def by_name(found):
    return {form.name: form for form in found.forms}


def test_every_form_of_a_classifier(head_run, quick, tmp_path, capsys):
    out = tmp_path / "ship"
    code = main(["ship", str(head_run), "--as", "merged,int8,nf4,onnx", "-o", str(out), "--keep", "--margin", "0.02"])
    said = capsys.readouterr()
    content = json.loads((out / "ship.json").read_text(encoding="utf-8"))
    forms = {form["name"]: form for form in content["forms"]}
    assert list(forms) == ["merged", "int8", "nf4", "onnx"]
    assert [form["reason"] for form in forms.values()] == [None] * 4, said
    reference = content["reference"]["compared"]
    assert (reference["verdict"], reference["changes"]["changed"]) == ("equivalent", 0)
    assert said.out.count("gives the run's own answer to each of 600 examples") == 1
    for name in ("merged", "onnx"):
        assert forms[name]["compared"]["verdict"] == "equivalent"
        assert forms[name]["compared"]["changes"]["changed"] == 0
        assert forms[name]["largest_change"] < 1e-4
    # Of a random model, numbers of few bits change answers; right ones alone, for all are right.
    for name in ("int8", "nf4"):
        assert 1e-4 < forms[name]["largest_change"] < 1
        changes = forms[name]["compared"]["changes"]
        assert changes["changed"] == changes["right_to_wrong"] > 0
        assert forms[name]["compared"]["difference"] == pytest.approx(-changes["changed"] / 600)
    assert forms["int8"]["size_bytes"] < forms["merged"]["size_bytes"]
    assert all(form["load"]["median_s"] > 0 and form["per_100"]["median_s"] > 0 for form in forms.values())
    verdicts = {form["compared"]["verdict"] for form in forms.values()}
    assert code == content["exit_code"] == (0 if verdicts == {"equivalent"} else 1)
    page = (out / "ship.md").read_text(encoding="utf-8")
    assert "| onnx | equivalent | 1.0000 | +0.0000 (" in page
    assert not any(text in page + json.dumps(content) for text in TEXTS)  # no example is quoted
    # Kept files are used without the harness, and are no further runs.
    assert sorted(path.name for path in out.iterdir()) == ["forms", "ship.json", "ship.md"]
    assert (
        len(transformers.AutoModelForSequenceClassification.from_pretrained(out / "forms" / "merged").config.id2label)
        == 2
    )
    assert (out / "forms" / "onnx" / "model.onnx").is_file()
    assert store.find([out]) == []


def test_a_wrong_merge_scale_is_not_equivalent(head_run, quick, tmp_path, monkeypatch):
    of_weight = layer.Linear.get_delta_weight
    monkeypatch.setattr(layer.Linear, "get_delta_weight", lambda self, adapter: 2 * of_weight(self, adapter))
    found = shipped(head_run, tmp_path / "ship", "merged")
    merged = by_name(found)["merged"]
    assert found.reference.compared.changes.changed == 0
    assert merged.compared.verdict == "not equivalent"
    assert merged.compared.high < -0.01
    assert found.exit_code == 1


def test_a_saved_model_that_was_changed_is_said_first(head_run, quick, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(head_run, run)
    settings = run / "model" / "adapter_config.json"
    settings.write_text(settings.read_text().replace('"lora_alpha": 16', '"lora_alpha": 32'), encoding="utf-8")
    assert main(["ship", str(run), "--as", "merged"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "tokens/s" not in line]
    said = [line for line in lines if line.startswith(("Scored again", "merged:"))]
    assert "the saved model differs from the run's own predictions: " in said[1]
    assert ": not equivalent." in said[1]
    assert said[2].startswith("merged: equivalent, ")  # with the model as it is scored here
    assert sorted(path.name for path in (run / "ship").iterdir()) == ["ship.json", "ship.md"]
    # A few of the examples, always the same ones, into the folder of the check before.
    assert main(["ship", str(run), "--as", "merged", "--examples", "50"]) == 1
    assert json.loads((run / "ship" / "ship.json").read_text())["examples"] == 50


def test_a_language_model_merged_and_served(text_run, quick, tmp_path):
    folder = tmp_path / "exported"
    export.export(export.ExportRequest(run=text_run, out=folder, merge=True))
    model = Served(folder)
    with serving(model) as url:
        found = shipped(text_run, tmp_path / "ship", "merged,vllm", server=Server(url=url + "/v1"))
        forms = by_name(found)
        assert {name: form.reason for name, form in forms.items()} == dict.fromkeys(("merged", "vllm"))
        for form in (found.reference, *forms.values()):
            assert form.compared.changes.changed == 0, form.name
        assert forms["vllm"].largest_change < 1e-4
        assert forms["vllm"].size_bytes is None
        assert "the server's tokens of the run's prompts are the run's own" in forms["vllm"].notes
        assert found.exit_code == 0
        assert "| vllm | equivalent |" in (tmp_path / "ship" / "ship.md").read_text(encoding="utf-8")
    refused_by_faults(text_run, model, tmp_path)


def refused_by_faults(run, model, tmp_path):
    """Whatever is wrong with a server ends its form with a sentence."""
    cases = [
        (["other tokens"], {}, "with another tokenizer or template than the run's: it reads the text of a prompt as"),
        (["other tokens", "no tokenize"], {}, "it reads the text of a prompt as"),
        (["no logprobs"], {}, "gives no log-probabilities of the prompt, which `echo` with `logprobs` asks for"),
        ([], {"model": "tinny"}, "serves no model 'tinny'. Did you mean 'tiny'?"),
    ]
    for faults, options, says in cases:
        model.faults = set(faults)
        with serving(model) as url:
            found = shipped(run, tmp_path / "ship", "vllm", 20, server=Server(url=url, **options))
        (form,) = found.forms
        assert says in (form.reason or ""), form
        assert found.exit_code == 1  # 20 examples decide nothing
    found = shipped(run, tmp_path / "ship", "vllm", 20, server=Server(url="http://127.0.0.1:9"))
    assert found.forms[0].reason.startswith("the server at http://127.0.0.1:9 can't be reached: ")


def test_a_chat_template_of_another_kind_is_refused(tmp_path, text_run):
    """The probe of a conversation's tokens, by the two ways in which a server tells of them."""
    folder = tmp_path / "exported"
    export.export(export.ExportRequest(run=text_run, out=folder, merge=True))
    model = Served(folder)
    model.tokenizer.chat_template = CHAT
    frame = ChatFrame(model.tokenizer, "2024-07-26")
    turns = [{"role": "user", "content": prompt_probe.QUESTION}]
    text = frame.render(turns, open_answer=True)
    for faults in ([], ["no tokenize"]):
        model.faults = set(faults)
        with serving(model) as url:
            api = Api(Server(url=url))
            note = prompt_probe.compared(api, "a conversation", {"messages": turns}, model.tokenizer, text)
            assert ("counts" in note) == bool(faults)
            model.faults.add("other template")
            with pytest.raises(SetupError, match="another tokenizer or template than the run's: it reads a conv"):
                prompt_probe.compared(api, "a conversation", {"messages": turns}, model.tokenizer, text)


CONVERTER = """import shutil, sys
folder, _, out, _, kind = sys.argv[1:]
assert kind == "f32", kind
shutil.copyfile(folder + "/model.safetensors", out)
"""


class Llama:
    """Has what `llama_cpp.Llama` has and this harness calls, over transformers: the bindings are not installed here."""

    folder = reads = None

    def __init__(self, model_path, *, n_ctx, logits_all, **_):
        assert Path(model_path).is_file()
        assert logits_all
        self.model = transformers.AutoModelForCausalLM.from_pretrained(self.folder).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder)
        self.scores = np.full((n_ctx, self.n_vocab()), np.nan, dtype=np.single)
        self.n_tokens, self.closed = 0, False

    def n_vocab(self):
        return self.model.config.vocab_size

    def reset(self):
        self.n_tokens = 0

    def eval(self, tokens):
        assert self.n_tokens == 0
        with torch.no_grad():
            self.scores[: len(tokens)] = self.model(torch.tensor([tokens])).logits[0].numpy()
        self.n_tokens = len(tokens)

    def tokenize(self, text, add_bos=True, special=False):
        assert (add_bos, special) == (False, True)
        return [*self.tokenizer(text.decode(), add_special_tokens=False)["input_ids"], *self.reads]

    def close(self):
        self.closed = True


def bindings(folder, reads):
    """Return a module with the names of llama-cpp-python that are used, whose quantisation copies the file."""
    module = types.ModuleType("llama_cpp")
    module.Llama = type("Llama", (Llama,), {"folder": folder, "reads": reads})
    module.LLAMA_FTYPE_MOSTLY_Q8_0 = 7
    module.llama_model_quantize_default_params = lambda: types.SimpleNamespace(ftype=0)

    def quantize(source, target, settings):
        shutil.copyfile(source, target)
        return 0 if settings.ftype == 7 else 1

    module.llama_model_quantize = quantize
    return module


def test_the_calls_to_llama_cpp(text_run, quick, tmp_path, monkeypatch):
    """The order of calls and the reading of logits alone: no number of llama.cpp is in this test."""
    folder = tmp_path / "exported"
    export.export(export.ExportRequest(run=text_run, out=folder, merge=True))
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    (found,) = shipped(text_run, tmp_path / "ship", "gguf:Q8_0", 20).forms
    assert found.reason == "llama_cpp is not installed: pip install 'finetune-bench[gguf]'"
    monkeypatch.setattr("bench.shipping.names.lacking", lambda kind: None)
    (found,) = shipped(text_run, tmp_path / "ship", "gguf:Q8_0", 20).forms
    assert found.reason.startswith("llama.cpp's convert_hf_to_gguf.py was not found: clone https://")
    (tmp_path / "convert_hf_to_gguf.py").write_text(CONVERTER, encoding="utf-8")
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    monkeypatch.setitem(sys.modules, "llama_cpp", bindings(folder, reads=[1]))
    (found,) = shipped(text_run, tmp_path / "ship", "gguf:Q8_0", 20).forms
    assert (found.reason, found.compared.changes.changed) == (None, 0)
    assert found.largest_change < 1e-4
    assert found.size_bytes == (folder / "model.safetensors").stat().st_size
    assert found.notes[0].startswith("scored by the run's own tokens; llama.cpp's tokenizer reads 8 of 8 prompts as")
    (found,) = shipped(text_run, tmp_path / "ship", "gguf:F16", 20).forms
    assert found.reason.startswith("convert_hf_to_gguf.py can't convert this model: AssertionError: f16")


def refused(capsys, *words):
    """The sentence and the code of a command that does not come to a table."""
    capsys.readouterr()
    code = main(["ship", *map(str, words)])
    said = capsys.readouterr()
    return code, said.err.strip()


def copied(run, target, name, change):
    """Return a copy of a run in which one file was changed."""
    shutil.copytree(run, target)
    path = target / name
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return target


def test_runs_that_can_not_be_shipped(head_run, tmp_path, capsys):
    def failed(content):
        content.update(status="diverged", reason="the loss is not finite")

    def probe(content):
        content.update(pooling="mean")

    def words(content):
        content.update(method="tfidf")

    cases = {
        "probe": ("model/bench.json", probe, "has a linear probe of the harness's own"),
        "words": ("model/bench.json", words, "method tfidf is a classifier of words"),
        "failed": ("record.json", failed, "ended with status `diverged` (the loss is not finite); only a run that"),
    }
    for name, (file, change, says) in cases.items():
        code, said = refused(capsys, copied(head_run, tmp_path / name, file, change))
        assert (code, says in said) == (2, True), said
        assert not (tmp_path / name / "ship").exists()
    bare = tmp_path / "bare"
    shutil.copytree(head_run, bare, ignore=shutil.ignore_patterns("model"))
    assert "holds no saved model, which the run wrote" in refused(capsys, bare)[1]
    silent = tmp_path / "silent"
    shutil.copytree(head_run, silent, ignore=shutil.ignore_patterns("predictions"))
    assert "a run can't be compared without its predictions" in refused(capsys, silent)[1]


def test_data_that_are_gone_or_others(head_run, tmp_path, capsys):
    data = head_run.parent / "data" / "test.jsonl"
    content = data.read_text(encoding="utf-8")
    try:
        data.write_text(content.replace("lamp", "lamps"), encoding="utf-8")
        assert "the data of test have changed since the run" in refused(capsys, head_run)[1]
        data.unlink()
        code, said = refused(capsys, head_run)
        assert code == 2
        assert said.startswith("error: the run's data can't be read again: ")
    finally:
        data.write_text(content, encoding="utf-8")


@together("words, says", [
    (("--as", "merge"), "there is no form 'merge'. Did you mean 'merged'?"),
    (("--served-model", "x"), "--served-model goes with --server"),
    (("--as", "int8", "--server", "http://x"), "--server is for the form vllm; add it to --as"),
    (("--split", "dev"), "has no scores of the split 'dev'; it has: test"),
    (("--metric", "f2"), "has no 'f2' on test; it has: accuracy"),
    (("--margin", "1"), "--margin 1: no two scores of accuracy, which lies between 0 and 1, differ by more"),
])  # fmt: skip
def test_options_that_mean_nothing(head_run, capsys, words, says):
    code, said = refused(capsys, head_run, *words)
    assert (code, says in said) == (2, True), said


def test_output_folders(head_run, tmp_path, capsys, quick):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine", encoding="utf-8")
    said = refused(capsys, head_run, "-o", foreign)[1]
    assert "this is not the folder of a ship check (it holds thesis.tex); give another one" in said
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]
    (foreign / "thesis.tex").unlink()
    (foreign / "ship.json").write_text("{}", encoding="utf-8")  # of somebody else's
    assert "this is not the folder of a ship check" in refused(capsys, head_run, "-o", foreign)[1]
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert "can't be written" in refused(capsys, head_run, "-o", tmp_path / "file" / "below")[1]
    # A check that is not over keeps others out of its folder, and what a killed one left is removed.
    first = results.claim(tmp_path / "two", [])
    said = refused(capsys, head_run, "-o", tmp_path / "two")[1]
    assert "another ship check is writing into it; wait for it, or give another -o" in said
    assert first.place.is_dir()
    first.lock.close()
    results.claim(tmp_path / "two", []).give_up()
    assert list((tmp_path / "two").iterdir()) == []


def test_a_form_that_fails_leaves_the_others(head_run, tmp_path, quick, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole, "save_file", full)
    monkeypatch.setattr(
        "bench.shipping.names.lacking", lambda kind: "onnx is not installed" if kind == "onnx" else None
    )
    found = shipped(head_run, tmp_path / "ship", "int8,onnx,gguf,vllm,merged")
    reasons = {form.name: form.reason for form in found.forms}
    assert reasons["int8"].startswith("the disk is full")
    assert reasons["onnx"] == "onnx is not installed"
    assert reasons["gguf:Q4_K_M"].startswith("llama.cpp runs decoders that score or write text")
    assert reasons["vllm"].startswith("the completions API is for decoders that score text")
    assert reasons["merged"] is None
    assert found.exit_code == 3
    assert sorted(path.name for path in (tmp_path / "ship").iterdir()) == ["ship.json", "ship.md"]


def test_a_model_that_was_trained_itself_has_nothing_to_merge(tmp_path, quick, monkeypatch):
    few = {"training": {"steps": 1, "global_batch": 8, "learning_rate": 1e-4}}
    run = own_run(tmp_path, rounds=1, model=WIDE, method="full", **few)
    for kind in ("nf4", "onnx"):  # the others are enough
        monkeypatch.setitem(making.MAKERS, kind, making.MAKERS["gguf"])
    found = making.ship(making.ShipRequest(asked=Asked(run=run, examples=20), out=tmp_path / "ship"))
    # What was not asked for by name is left out with its reason, and fails nothing.
    assert found.left_out["merged"] == "method full trained the model itself, so there is no adapter to merge"
    assert [form.name for form in found.forms] == ["int8"]
    assert found.forms[0].reason is None
    assert found.exit_code == 1  # 20 examples decide nothing
    assert found.reference.compared.verdict == "undecided"
