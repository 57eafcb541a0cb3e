"""Everything that can go wrong ends with one sentence, an exit code, and a record that says what happened."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from bench.records import store
from bench.runner import lifecycle
from tests.helpers.launching import ROOT, command, environment, launch, read_lines

RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
FAST = ["training.epochs=null", "training.steps=3", "limit={train: 32, test: 16}"]


def run_here(*arguments, out):
    return lifecycle.main([str(RECIPE), *FAST, *arguments, "--out", str(out)])


def one_sentence(text):
    """The lines of an error output that are not a library's."""
    return [line for line in text.splitlines() if line.split(":")[0] in STATUSES]


STATUSES = ("invalid", "oom", "diverged", "interrupted", "crashed")


def dataset(tmp_path, rows, **changes):
    """A recipe of one's own on a JSON-lines file."""
    folder = tmp_path / "recipes"
    for name in ("datasets", "models", "mine"):
        (folder / name).mkdir(parents=True)
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    card = {
        "task": "text_classification", "licence": "none", "labels": ["no", "yes"],
        "source": {"kind": "jsonl", "folder": str(tmp_path), "files": {"all": "rows.jsonl"}},
        "divide": [{"of": ["all"], "into": {"train": 0.5, "test": 0.5}}], **changes,
    }  # fmt: skip
    (folder / "datasets" / "mine.yaml").write_text(json.dumps(card), encoding="utf-8")
    recipe = {"dataset": "mine", "model": "tiny_bert", "method": "full", "training": {"steps": 2, "global_batch": 4}}
    (folder / "mine" / "bert-full.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    return folder / "mine" / "bert-full.yaml"


ROWS = [{"text": f"word{n} and word{n % 5}", "label": ["no", "yes"][n % 2]} for n in range(40)]


def test_good_data_of_one_s_own_run(tmp_path):
    assert lifecycle.main([str(dataset(tmp_path, ROWS)), "--out", str(tmp_path / "out")]) == 0
    assert store.read(tmp_path / "out").data.splits["test"].labels == {"no": 10, "yes": 10}


@pytest.mark.parametrize(
    ("rows", "changes", "words"),
    [
        ([{"sentence": "a", "label": "yes"}], {}, ["no column 'text'", "Known: label, sentence"]),
        ([*ROWS, {"text": "odd one", "label": "maybe"}], {}, ["all-000040", "unknown label 'maybe'", "Known: no, yes"]),
        ([*ROWS, {"text": "hidden", "label": -1}], {"labels": ["no", "yes"]}, ["all-000040", "unknown label -1"]),
        ([*ROWS, {"text": "  ", "label": "yes"}], {}, ["all-000040", "empty text", "filters.drop_empty"]),
        (ROWS, {"filters": {"min_words": 9}}, ["split", "empty", "min_words"]),
        (ROWS, {"divide": [{"of": ["all"], "into": {"train": 30, "test": 30}}]}, ["60 rows", "there are 40"]),
        (ROWS, {"divide": [{"of": ["every"], "into": {"train": 20, "test": 20}}]}, ["no split 'every'"]),
        ([*ROWS, *ROWS], {}, ["leakage", "another split", "leakage: drop"]),
    ],
)
def test_bad_data(tmp_path, capsys, rows, changes, words):
    code = lifecycle.main([str(dataset(tmp_path, rows, **changes)), "--out", str(tmp_path / "out")])
    shown = one_sentence(capsys.readouterr().err)
    assert code == 2
    assert len(shown) == 1
    assert shown[0].startswith("invalid: ")
    for word in words:
        assert word in shown[0]
    left = store.read(tmp_path / "out")
    assert left.status == "invalid"
    assert f"invalid: {left.reason}" == shown[0]
    assert left.finished_at


def test_missing_data_folder(tmp_path, capsys):
    recipe = dataset(tmp_path, ROWS)
    code = lifecycle.main([str(recipe), "dataset.source.folder=/nowhere", "--out", str(tmp_path / "out")])
    assert code == 2
    assert "'/nowhere' does not exist" in capsys.readouterr().err


def test_misspelt_key_by_a_real_launch(tmp_path):
    recipe = tmp_path / "wrong.yaml"
    recipe.write_text(
        "dataset: reviews\nmodel: tiny_bert\nmethod: full\ntraining: {lerning_rate: 1e-3}\n", encoding="utf-8"
    )
    done = launch(recipe, "--out", tmp_path / "out")
    assert done.returncode != 0
    assert one_sentence(done.stderr) == [
        f"invalid: {recipe}:4: training.lerning_rate: unknown key. Did you mean 'learning_rate'?"
    ]
    assert "Traceback" not in done.stderr + done.stdout
    assert store.read(tmp_path / "out").status == "invalid"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["nowhere.yaml", "--seed", "3"], "nowhere.yaml: there is no such file"),
        (["."], "this is a folder, not a file"),
        (["RECIPE", "training.nonsense=1"], "command line: training.nonsense: unknown key"),
        (["RECIPE", "stepsfive"], "command line: 'stepsfive' is not of the form key.path=value"),
        (["RECIPE", "model=tiny_brt"], "command line: model: there is no model card 'tiny_brt'"),
        (["RECIPE", "--seed", "-1"], "command line: --seed: expected a number"),
    ],
)
def test_a_mistyped_command_leaves_no_folder(tmp_path, capsys, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    arguments = [str(RECIPE) if word == "RECIPE" else word for word in words]
    assert lifecycle.main(arguments) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_recipe_leaves_a_record_of_its_own_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text("dataset: reviews\nmodel: tiny_bert\nmethod: ful\n", encoding="utf-8")
    assert lifecycle.main(["wrong.yaml"]) == 2
    assert store.read(tmp_path / "runs" / "wrong--invalid").status == "invalid"


def test_traceback_on_request(tmp_path, capsys):
    assert run_here("training.nonsense=1", "--traceback", out=tmp_path) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("training.global_batch=7 training.per_device_batch=2", ["global_batch", "7", "2"]),
        ("model.architecture.model_type=vit", ["architecture"]),
        ("model.architecture={model_type: vit, hidden_size: 32, num_attention_heads: 2}", ["architecture"]),
        ("model.architecture.vocab_size=10", ["vocabulary 10"]),
        ("model.attention=flash_attention_2", ["model.attention", "flash_attention_2"]),
        ("model.trust_remote_code=true", ["--trust-remote-code"]),
        ("method=last_layers method.blocks=9", ["9", "2 block"]),
        ("evaluation.metrics=[evaluate:no_such_metric]", ["evaluate:no_such_metric", "--trust-remote-code"]),
        ("evaluation.metrics=[evaluate:no_such_metric] --trust-remote-code", ["evaluate:no_such_metric", "loaded"]),
        ("dataset.clean=['lemmas:xx_no_model']", ["spaCy"]),
        (
            "training={steps: 3, evaluate_every: 1, best: accuracy, early_stopping: {threshold: 1}}",
            ["early_stopping.threshold: no evaluation can gain 1 in accuracy, which lies between 0 and 1"],
        ),
        ("evaluation.splits=[tset]", ["no split 'tset'", "Did you mean 'test'"]),
        ("method=fulll", ["no method 'fulll'", "Did you mean 'full'"]),
        ("evaluation.metrics=[acuracy]", ["acuracy", "Did you mean 'accuracy'"]),
    ],
)
def test_what_the_recipe_asks_for_cannot_be_had(tmp_path, capsys, change, words):
    import shlex

    arguments = [change] if "{" in change or "['" in change else shlex.split(change)
    assert run_here(*arguments, out=tmp_path / "out") == 2
    shown = one_sentence(capsys.readouterr().err)
    assert len(shown) == 1
    for word in words:
        assert word in shown[0]
    assert store.read(tmp_path / "out").status == "invalid"


def test_a_loss_that_is_not_finite(tmp_path, capsys):
    changes = ["training.learning_rate=1e30", "training.log_every=1", "training.clip_norm=0"]
    assert run_here(*changes, out=tmp_path) == 4
    left = store.read(tmp_path)
    assert left.status == "diverged"
    assert left.failed_in == "train"
    assert "at step" in left.reason
    assert left.scores["before"]["test"]["accuracy"].value is not None
    # What was logged before is whole, and every line is JSON.
    assert read_lines(tmp_path / "train_log.jsonl")[0]["step"] == 1
    assert len(one_sentence(capsys.readouterr().err)) == 1


def test_out_of_memory_is_a_result(tmp_path, capsys):
    changes = ["model.architecture.hidden_size=4000000", "model.architecture.intermediate_size=4000000"]
    assert run_here(*changes, out=tmp_path) == 3
    left = store.read(tmp_path)
    assert left.status == "oom"
    assert left.failed_in == "load"
    assert "out of memory during load" in left.reason
    assert left.reason.endswith("makes it fit: take a smaller model, shorter texts or more memory")
    assert left.oom.predicted_gib > left.oom.capacity_bytes / 2**30 > 0
    assert left.oom.asked_bytes > left.oom.capacity_bytes
    assert (left.oom.largest_rows, left.oom.advice) == (0, [])
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## Out of memory" in page
    assert "| phase | load |" in page
    assert left.memory["load"]["rss_gib"] > 0
    assert len(one_sentence(capsys.readouterr().err)) == 1


def test_a_defect_is_filed_as_crashed_with_its_traceback_beside_the_record(tmp_path, capsys, monkeypatch):
    from bench.runner import stages

    def broken(*_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(stages, "save", broken)
    assert run_here(out=tmp_path) == 1
    left = store.read(tmp_path)
    assert (left.status, left.reason) == (
        "crashed",
        "ZeroDivisionError during the step after metrics: division by zero",
    )
    assert "ZeroDivisionError" in (tmp_path / "traceback.txt").read_text(encoding="utf-8")
    assert "Traceback" not in capsys.readouterr().err
    assert left.scores["after"]["test"]["accuracy"].value is not None  # what was done is kept


def test_a_failed_check_makes_the_run_invalid(tmp_path, capsys, monkeypatch):
    from bench.runner import stages

    monkeypatch.setattr(stages, "expected_rate", lambda inputs, step: 0.5)
    assert run_here(out=tmp_path) == 2
    left = store.read(tmp_path)
    assert left.status == "invalid"
    assert "learning_rate_final" in left.reason
    assert [check.name for check in left.checks if not check.ok] == ["learning_rate_final"]


def test_a_lost_prediction_makes_the_run_invalid(tmp_path, monkeypatch):
    from bench.evaluation.readers import head

    whole = head.grouped
    monkeypatch.setattr(head, "grouped", lambda lengths, tokens: whole(lengths, tokens)[:-1])
    assert run_here("evaluation.batch_tokens=99", out=tmp_path) == 2
    left = store.read(tmp_path)
    assert left.status == "invalid"
    assert re.search(r"expected predictions of 16 examples, got ([1-9]|1[0-5]) predictions", left.reason)


def test_a_finished_run_is_not_replaced_unasked(tmp_path, capsys):
    assert run_here(out=tmp_path) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run_here(out=tmp_path) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert run_here("training.nonsense=1", "--overwrite", out=tmp_path) == 2
    assert store.read(tmp_path).status == "ok"  # a recipe that can't even be read removes nothing
    assert run_here("--overwrite", "--seed", "99", out=tmp_path) == 0
    assert store.read(tmp_path).seed == 99


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    assert run_here("--overwrite", out=tmp_path) == 2
    assert "not empty and holds no record" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_interrupted_while_training(tmp_path, number, status):
    """As a terminal does it: the signal goes to the launcher and the run alike."""
    arguments = [RECIPE, "training.epochs=200", "training.log_every=1", "--out", tmp_path]
    started = subprocess.Popen(
        command(*arguments), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
        # A test that itself runs in the background would hand on an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    log = tmp_path / "train_log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text(encoding="utf-8").splitlines()) > 3):
        assert time.monotonic() < deadline, "the run never began to train"
        assert started.poll() is None, started.communicate()[1]
        time.sleep(0.1)
    os.killpg(started.pid, number)
    started.communicate(timeout=60)
    assert started.returncode != 0
    left = wait_for_record(tmp_path)
    assert left.status == "interrupted"
    assert status in left.reason
    assert left.failed_in == "train"
    rows = read_lines(log)  # every line whole
    assert len(rows) >= 3
    assert (tmp_path / "report.md").exists()


def wait_for_record(folder):
    """The launcher may end a moment before the run that it started."""
    deadline = time.monotonic() + 60
    while not (folder / "report.md").exists():
        assert time.monotonic() < deadline, "no record was left"
        time.sleep(0.1)
    return store.read(folder)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a small file system can't be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(small_disk, capsys):
    """The model (843 kB) does not fit beside what is already there; the record still does."""
    assert run_here(out=small_disk / "out") == 1
    left = store.read(small_disk / "out")
    assert left.status == "crashed"
    assert left.failed_in == "save"
    assert "the disk is full" in left.reason
    assert "free some room" in left.reason
    assert left.scores["after"]["test"]["accuracy"].value is not None
    assert len(read_lines(small_disk / "out" / "predictions" / "after-test.jsonl")) == 16
    assert one_sentence(capsys.readouterr().err) == [f"crashed: {left.reason}"]


def test_output_folder_that_can_not_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "link").symlink_to("nowhere")
    for place, reason in (
        ("file", "is a file, and a run writes into a folder"),
        ("file/out", "is a file, so nothing can lie below it"),
        ("x" * 300, "the name is too long for this file system"),
        ("link", "is a link to nowhere"),
    ):
        for more in ([], ["--overwrite"], ["--resume"]):
            assert run_here(*more, out=tmp_path / place) == 2
            shown = one_sentence(capsys.readouterr().err)
            assert len(shown) == 1
            assert shown[0].startswith("invalid: --out ")
            assert reason in shown[0]
        assert run_here("training.stepz=1", out=tmp_path / place) == 2  # the recipe is wrong as well
        assert "Traceback" not in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.parametrize("words", [["--out", "żółć out"], ["name=żółć"], ["--include", "żółć", "--out", "a"]])
def test_a_locale_that_can_not_hold_the_words_is_told_before_training(words, tmp_path):
    locale = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for program in (["bench/run.py"], ["-m", "bench", "sweep"]):
        line = [sys.executable, *program, str(RECIPE), *words]
        done = subprocess.run(
            line, cwd=ROOT, env={**environment(), **locale}, capture_output=True, check=False, timeout=100
        )
        said = done.stderr.decode()
        assert done.returncode == 2, said
        assert r"\xc5\xbc\xc3\xb3\xc5\x82\xc4\x87" in said
        assert "this locale can't hold its characters; set LC_ALL=C.UTF-8 or PYTHONUTF8=1" in said
        assert "Traceback" not in said
    assert not list(ROOT.glob("*out"))
