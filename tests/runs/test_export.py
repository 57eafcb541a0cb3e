"""`bench export`: folders that transformers and peft load by their path alone; their READMEs' code predicts alike."""

import contextlib
import io
import json
import shutil

import peft
import pytest
import transformers

import bench
from bench.cli.main import main
from bench.config.cards import DatasetCard
from bench.data import dataset
from bench.errors import SetupError
from bench.evaluation import export, export_page
from bench.evaluation.predict import predict
from bench.records import store
from bench.runner import inputs
from tests.helpers.cases import together

SMALL = {"training__epochs": None, "training__steps": 3, "training__global_batch": 16, "evaluation__before": False}
SMALL |= {"limit": {"train": 48, "test": 8}, "speed__token_cache": False}
LORA = {"name": "lora", "config": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}}
CHAT = (
    "{{ bos_token }}Today: {{ strftime_now('%d %b %Y') }}\n{% for m in messages %}{{ m.role }}: {{ m.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
CLASSIFIERS = ["AutoModelForSequenceClassification", "AutoPeftModelForSequenceClassification"]
RUNS = {
    "labels": ("tiny/distilbert-multilabel", {"method": LORA}),
    "text": ("tiny/mistral-text_lora", {"max_length": 128}),
    "both_sides": ("tiny/t5-text_full", {"max_length": 128}),
    "written": ("tiny/t5-text_full", {"max_length": 128, "prompting": {"answer": "generate", "max_new_tokens": 10}}),
    "spans": ("passages/bert-full", {}),
    "quantised": ("tiny/llama-qlora", {}),
    "numbers": ("tiny/bert-ratings", {}),
    "tags": ("tiny/bert-notices", {"method": LORA}),
    "choices": ("endings/bert-full", {}),
    "choices_lora": ("endings/bert-full", {"model": "tiny_llama", "method": LORA}),
    "choices_in_text": ("endings/llama-text_full", {"max_length": 128}),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, bare_runs):
    """Folder with a run of each kind, made when first asked for."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(name):
        if name not in made:
            recipe, keys = RUNS[name]
            made[name] = folder / name
            bench.run_recipe(recipe, out=made[name], **{**SMALL, **keys})
        return made[name]

    return run


def exported(run, tmp_path, **options):
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    return tmp_path / "out", export.export(export.ExportRequest(run=run, out=tmp_path / "out", **options))


def rows_of(run, count=4):
    """Rows of the run's test split, as `predict` takes them."""
    resolved = store.read(run).recipe.resolved
    card = DatasetCard.model_validate_json(json.dumps(resolved["dataset"]))
    rows = dataset.load(card, {}, {"test"}).splits["test"].rows[:count]
    return [{"text": row["text"], "text_pair": row["text_pair"]} for row in rows]


@contextlib.contextmanager
def names_of(folder):
    """What the README's code defines, run in its folder as it stands, and used there."""
    names = {}
    with contextlib.chdir(folder):
        with contextlib.redirect_stdout(io.StringIO()):
            for block in export_page.code_blocks((folder / "README.md").read_text(encoding="utf-8")):
                exec(block, names)
        yield names


@together("merge", [False, True])
def test_an_adapter_with_a_head_keeps_its_label_names(runs, tmp_path, merge):
    """More labels than the two that libraries assume; several of them for a text."""
    run = runs("labels")
    folder, compared = exported(run, tmp_path, merge=merge)
    labels = store.read(run).data.labels
    assert len(labels) > 2
    auto = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert list(auto.config.id2label.values()) == labels
    if not merge:
        wrapped = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder)
        assert list(wrapped.config.id2label.values()) == labels
    assert [one.loader for one in compared][:1] == ["AutoModelForSequenceClassification"]
    assert len(compared) == (1 if merge else 2)
    assert all(one.of_data and one.num_examples == 8 and one.difference < 1e-5 for one in compared)
    rows = rows_of(run)
    wanted = predict(run, rows)
    with names_of(folder) as names:
        found = names["classify"]([row["text"] for row in rows], truncation=True)
    for one, other in zip(found, wanted, strict=True):
        assert {label["label"]: label["score"] for label in one} == pytest.approx(other["scores"], abs=1e-5)


@together("name, merge", [("text", True), ("both_sides", False)])
def test_the_readmes_code_gives_the_runs_own_scores(runs, tmp_path, name, merge):
    run = runs(name)
    folder, _ = exported(run, tmp_path, merge=merge)
    rows = rows_of(run)
    wanted = predict(run, rows)
    with names_of(folder) as names:
        for row, other in zip(rows, wanted, strict=True):
            assert names["scores"](row["text"]) == pytest.approx(other["scores"], abs=1e-5)


def test_the_readmes_code_writes_the_runs_own_answers(runs, tmp_path):
    for name in ("written", "spans"):
        run = runs(name)
        folder, _ = exported(run, tmp_path)
        rows = rows_of(run)
        wanted = predict(run, rows)
        with names_of(folder) as names:
            if name == "written":
                assert [names["answer"](row["text"]) for row in rows] == [one["written"] for one in wanted]
            else:
                found = [names["answer"](row["text_pair"], row["text"]) for row in rows]
                assert found == [one["label"] for one in wanted]


def test_a_chat_template_that_writes_the_date_is_exported_at_the_runs_date(tmp_path, monkeypatch, bare_runs):
    build = inputs.tokenizers.build

    def with_template(*arguments, **options):
        tokenizer, notes = build(*arguments, **options)
        tokenizer.chat_template = CHAT
        return tokenizer, notes

    monkeypatch.setattr(inputs.tokenizers, "build", with_template)
    keys = {"method": "full", "prompting": {"format": "chat", "date": "2020-02-29"}, "max_length": 128}
    bench.run_recipe("tiny/mistral-text_lora", out=tmp_path / "run", **{**SMALL, **keys})
    folder, _ = exported(tmp_path / "run", tmp_path)
    rows = rows_of(tmp_path / "run", 2)
    wanted = predict(tmp_path / "run", rows)
    with names_of(folder) as names:
        assert "Today: 29 Feb 2020" in names["prompt_of"]("a")
        for row, other in zip(rows, wanted, strict=True):
            assert names["scores"](row["text"]) == pytest.approx(other["scores"], abs=1e-5)


def test_an_adapter_of_a_4_bit_base_is_merged_into_the_plain_one(runs, tmp_path, bare_runs):
    """The base is a folder, as a user's own; what merging changes is written down."""
    run = runs("quantised")
    folder, compared = exported(run, tmp_path)  # its base has random weights, in 4 bits only
    assert (folder / "base" / "config.json").is_file()
    assert all(0 <= one.difference < 0.05 for one in compared)
    with pytest.raises(SetupError, match="has random weights in 4 bits"):
        exported(run, tmp_path, merge=True)
    base, _ = exported(runs("text"), tmp_path, merge=True)
    shutil.move(base, tmp_path / "base")
    keys = {"model": {"card": "tiny_mistral", "id": str(tmp_path / "base"), "weights": "pretrained"}}
    keys["method"] = {"name": "qlora", "compute_dtype": "float32", "config": {"r": 4, "lora_alpha": 8}}
    bench.run_recipe("tiny/mistral-lora", out=tmp_path / "own", **{**SMALL, **keys})
    differences = []
    for merge in (False, True):
        folder, compared = exported(tmp_path / "own", tmp_path, merge=merge)
        differences += [one.difference for one in compared]
        page = (folder / "README.md").read_text(encoding="utf-8")
        assert compared[0].sentence in page
        assert "on a base model in 4 bits; here it is" in page
    # 4 bits make the difference, not the merging.
    assert differences == pytest.approx([differences[0]] * 3, abs=1e-4)
    assert differences[0] > 0


def test_the_readme_has_the_scores_and_the_folder_the_record(runs, tmp_path, capsys):
    run, out = runs("text"), tmp_path / "new" / "folder"
    assert main(["export", str(run), "--out", str(out), "--merge"]) == 0
    assert f"exported: {out}" in capsys.readouterr().out
    page, record = (out / "README.md").read_text(encoding="utf-8"), store.read(out)
    assert record.scores == store.read(run).scores
    assert f"{record.scores['after']['test']['accuracy'].value:.3f}" in page
    assert str(run) not in page
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.model_max_length == 128
    assert len(tokenizer("word " * 200, truncation=True)["input_ids"]) == 128
    assert main(["export", str(run), "--out", str(out)]) == 2
    assert "this is not an empty folder" in capsys.readouterr().err


def test_numbers_and_tags(runs, tmp_path):
    run = runs("numbers")
    folder, compared = exported(run, tmp_path)
    assert [(one.loader, one.of_data) for one in compared] == [("AutoModelForSequenceClassification", True)]
    assert compared[0].difference < 1e-5
    rows = rows_of(run)
    wanted = [row["label"] for row in predict(run, rows)]
    assert all(isinstance(value, float) for value in wanted)
    with names_of(folder) as names:
        found = names["classify"]([row["text"] for row in rows], truncation=True)
    assert [one[0]["score"] for one in found] == pytest.approx(wanted, abs=1e-5)
    run = runs("tags")
    folder, compared = exported(run, tmp_path)
    loaders = ["AutoModelForTokenClassification", "AutoPeftModelForTokenClassification"]
    assert [one.loader for one in compared] == loaders
    assert all(one.difference < 1e-5 for one in compared)
    auto = transformers.AutoModelForTokenClassification.from_pretrained(folder)
    assert list(auto.config.id2label.values()) == store.read(run).data.labels
    with names_of(folder) as names:
        assert {one["entity"] for one in names["tag"]("Ada met Bob in Rome.")} <= set(auto.config.id2label.values())


@together("name, loaders", [("choices", ["AutoModelForMultipleChoice"]), ("choices_lora", CLASSIFIERS)])
def test_a_head_on_choices_scores_them_alike_in_plain_transformers(runs, tmp_path, name, loaders):
    """By transformers' class for multiple choice where it has one, else as a classifier of one output."""
    run = runs(name)
    folder, compared = exported(run, tmp_path)
    assert [one.loader for one in compared] == loaders
    assert all(one.of_data and one.difference < 1e-5 for one in compared)
    rows = [{"text": "The glass fell.", "text_pair": None, "choices": ["It broke on the floor.", "It flew.", "No."]}]
    wanted = predict(run, rows)
    plain = {"choices": transformers.BertForMultipleChoice}.get(name)
    with names_of(folder) as names:
        if plain:  # the auto class gives this in a process without the harness
            names["model"] = plain.from_pretrained(folder).eval()
        found = names["choose"](rows[0]["text"], rows[0]["choices"])
    assert found == pytest.approx(wanted[0]["scores"], abs=1e-5)


def test_multiple_choice_in_text_says_how_it_is_scored(runs, tmp_path):
    folder, compared = exported(runs("choices_in_text"), tmp_path)
    assert [one.loader for one in compared] == ["AutoModelForCausalLM"]
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert "The run scores each choice of a question by its likelihood after the prompt, for which there is no" in page
    assert "generates greedily" not in page


def test_what_can_not_be_exported_is_refused_before_anything_is_written(runs, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(runs("both_sides"), run)
    assert main(["export", str(run), "--out", str(out), "--merge"]) == 2
    assert "trained the model itself; there is no adapter to merge" in capsys.readouterr().err
    described = run / "model" / "bench.json"
    content = json.loads(described.read_text(encoding="utf-8"))
    described.write_text(json.dumps({**content, "pooling": "mean"}), encoding="utf-8")
    assert main(["export", str(run), "--out", str(out)]) == 2
    assert "has a linear probe of the harness's own" in capsys.readouterr().err
    described.write_text(json.dumps(content), encoding="utf-8")
    record = store.read(run)
    record.status, record.reason = "interrupted", "stopped by Ctrl-C"
    store.write(record, run)
    assert main(["export", str(run), "--out", str(out)]) == 2
    assert "has status `interrupted` (stopped by Ctrl-C); --unfinished exports" in capsys.readouterr().err
    assert not out.exists()
    assert main(["export", str(run), "--out", str(out), "--unfinished"]) == 0
    assert "**This run ended as interrupted**: stopped by Ctrl-C" in (out / "README.md").read_text(encoding="utf-8")
    assert main(["export", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
