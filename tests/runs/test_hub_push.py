"""reporting/hub/push.py: what is pushed, to a server of the Hub's few endpoints on this machine; what is refused."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from safetensors.numpy import save_file

from bench.cli.main import main
from bench.config import resolve
from bench.records import store
from bench.records.record import Data, RecipePart
from tests.helpers.hub_server import ROLE, Hub
from tests.helpers.launching import ROOT
from tests.helpers.pages import NASTY, full

# Put together here, so that no scanner takes it for a real one.
TOKEN = "hf_" + "Zq7" * 11
OTHER_HOME = "/home/alice/cache/bert"
RECIPE = ROOT / "recipes" / "sst2" / "bert_base_uncased-lora.yaml"


def resolved():
    return resolve.load(RECIPE).recipe.model_dump(mode="json")


def made_run(folder, **changes):
    """A run's folder as a finished run leaves it, with paths of two machines and texts of the data set in it."""
    fields = full()
    found = full(
        recipe=RecipePart(path=str(ROOT / "recipes/x.yaml"), resolved=resolved(), hash="ab" * 32),
        data=Data(**{**fields.data.model_dump(), "id": "sst2", "revision": "bcdcba7"}),
        notes=[f"loaded from {OTHER_HOME}/model", f"kept in {Path.home()}/kept, {NASTY[:40]}", "and/or is no path"],
        **changes,
    )
    model = folder / "model"
    model.mkdir(parents=True)
    (folder / "figures").mkdir()
    (folder / "predictions").mkdir()
    store.write(found, folder)
    save_file({"lora_A": np.arange(6, dtype=np.float32).reshape(2, 3)}, model / "adapter_model.safetensors")
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": OTHER_HOME, "r": 4}))
    (model / "tokenizer.json").write_text('{"vocab": ["/usr/share/x"]}')
    (model / "README.md").write_text(f"base_model: {OTHER_HOME}")
    about = {"task": "text_classification", "objective": "head", "method": "lora", "labels": ["negative", "positive"]}
    (model / "bench.json").write_text(json.dumps({**about, "pooling": None, "head": {"kind": "own"}}))
    (folder / "train_log.jsonl").write_text('{"step": 1, "loss": 0.7}\n')
    (folder / "figures" / "learning_curves.png").write_bytes(b"\x89PNG\r\n")
    (folder / "predictions" / "before-other.jsonl").write_text('{"id": "1", "text": "a fine film"}\n')
    return folder


def bench(*words, hub=None, **variables):
    """`python -m bench push` in a process that knows only this server, and no login of this machine."""
    dropped = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    own = {"HF_HUB_DISABLE_XET": "1", "HF_HOME": "/nonexistent", "NO_PROXY": "*", "HF_TOKEN": TOKEN}
    own |= {"HF_ENDPOINT": hub.address} if hub else {"HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "bench", "push", *map(str, words)]
    environment = {key: value for key, value in {**kept, **own, **variables}.items() if value is not None}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


@dataclasses.dataclass
class Pushed:
    run: Path
    hub: Hub
    said: str
    dry: Path

    def model(self):
        return self.hub.repos["models/me/sst2-lora"]["files"]

    def records(self):
        return self.hub.repos["datasets/me/records"]["files"]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    place = tmp_path_factory.mktemp("hub")
    run = made_run(place / "sst2--minilm--lora--seed13")
    words = [run, "--to", "me/sst2-lora", "--records-to", "me/records"]
    with Hub() as hub:
        done = bench(*words, "--private", hub=hub, HF_DEBUG="1")
        assert done.returncode == 0, done.stderr
        asked = len(hub.seen)
        dry = bench(*words, "--dry-run", "--out", place / "dry", hub=hub, HF_TOKEN=None, HF_HUB_OFFLINE="1")
        assert (dry.returncode, dry.stderr) == (0, "")
        assert len(hub.seen) == asked, "a dry run asks the Hub for nothing"
        yield Pushed(run=run, hub=hub, said=done.stdout + done.stderr, dry=place / "dry")


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_server_got_what_a_dry_run_writes(pushed):
    own = {".gitattributes": b""}
    assert pushed.model() == own | files_below(pushed.dry / "models" / "me" / "sst2-lora")
    assert pushed.records() == own | files_below(pushed.dry / "datasets" / "me" / "records")
    names = {"README.md", "record.json", "bench.json", "adapter_config.json", "tokenizer.json"}
    assert set(pushed.model()) == {*own, *names, "adapter_model.safetensors"}
    saved = pushed.run / "model"
    for name in ("adapter_model.safetensors", "tokenizer.json", "bench.json"):
        assert pushed.model()[name] == (saved / name).read_bytes()
    in_run = ("record.json", "report.md", "scores.jsonl", "train_log.jsonl", "figures/learning_curves.png")
    assert set(pushed.records()) == {*own, "README.md", *(f"{pushed.run.name}/{name}" for name in in_run)}
    assert [repo["private"] for repo in pushed.hub.repos.values()] == [True, True]
    assert len(pushed.hub.commits) == 2, "one commit for each repository"
    assert [line for line in pushed.said.splitlines() if line.startswith("pushed: ")]


def test_the_token_is_only_in_the_authorization_header(pushed):
    sent = 0
    for _, path, headers, body in pushed.hub.seen:
        sent += headers.pop("Authorization", headers.pop("authorization", None)) == f"Bearer {TOKEN}"
        assert TOKEN not in f"{path} {headers}"
        assert TOKEN.encode() not in body
    assert sent >= 8
    assert TOKEN not in pushed.said
    for place in (pushed.run, pushed.dry):
        assert not [name for name, content in files_below(place).items() if TOKEN.encode() in content]


def test_the_card_carries_the_record(pushed):
    card = ModelCard(pushed.model()["README.md"].decode())
    data, scores = card.data, full().scores["after"]["test"]
    measured = {item.metric_name: (item.metric_type, item.metric_value) for item in data.eval_results}
    assert measured == {
        "accuracy": ("accuracy", scores["accuracy"].value),
        "f1_macro": ("f1", scores["f1_macro"].value),
        "mcc": ("matthews_correlation", scores["mcc"].value),
        "loss": ("loss", scores["loss"].value),
    }
    first = data.eval_results[0]
    assert (first.dataset_type, first.dataset_config, first.dataset_revision) == ("nyu-mll/glue", "sst2", "bcdcba7")
    # GLUE's own name of the split, and the page of the whole record.
    assert (first.dataset_split, first.task_type) == ("validation", "text-classification")
    assert first.source_url == f"{pushed.hub.address}/me/sst2-lora/blob/main/record.json"
    assert (data.base_model, data.base_model_relation, data.datasets) == (
        "google-bert/bert-base-uncased",
        "adapter",
        ["nyu-mll/glue"],
    )
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "peft", "text-classification")
    assert data.tags == ["finetune-bench", "lora"]
    assert "| accuracy | 0.509 (majority) | 0.520 (0.500–0.540) | 0.900 (0.880–0.920) |" in card.text
    for shown in ("s&#124;v1", "wilson 95 %", "0123456789ab", "Some CPU (2 cores)", "not stated by the owners"):
        assert shown in card.text
    assert yaml.safe_load(re.search(r"(?s)```yaml\n(.*?)```", card.text)[1]) == resolved()
    assert "<script>" not in card.text


def test_paths_and_texts_of_the_data_stay_at_home(pushed):
    text = [content for content in {**pushed.model(), **pushed.records()}.values() if b"safetensors" not in content]
    for content in text:
        for private in (OTHER_HOME, str(Path.home()) + "/", str(ROOT), "Review: "):
            assert private.encode() not in content
    (pushed.dry / "record.json").write_bytes(pushed.model()["record.json"])
    sent = store.read(pushed.dry / "record.json")
    assert sent.recipe.path == "./recipes/x.yaml"
    assert sent.notes[:3] == ["loaded from <removed>/model", sent.notes[1], "and/or is no path"]
    assert sent.notes[1].startswith("kept in ~/kept, ")
    assert sent.notes[3].startswith("3 absolute paths in this record were shortened before the push")
    assert sent.prompts.example == ""
    assert sent.scores == full().scores
    assert json.loads(pushed.model()["adapter_config.json"]) == {"base_model_name_or_path": "<removed>/bert", "r": 4}


def test_records_load_as_a_data_set(pushed, tmp_path):
    import datasets

    folder = pushed.dry / "datasets" / "me" / "records"
    assert DatasetCard.load(folder / "README.md").data["configs"][0]["config_name"] == "scores"
    rows = datasets.load_dataset(str(folder), "scores", split="train", cache_dir=str(tmp_path)).to_list()
    assert len(rows) == 8
    (row,) = [row for row in rows if (row["stage"], row["metric"]) == ("after", "accuracy")]
    assert (row["run"], row["seed"], row["value"], row["examples"]) == (pushed.run.name, 13, 0.9, 872)


def test_what_an_earlier_push_left_is_removed_and_nothing_else(pushed):
    old = {"README.md": b"old", "model-00001-of-00002.safetensors": b"old", "config.json": b"{}", "notes.md": b"mine"}
    pushed.hub.add("models/me/older", private=True, files=old)
    done = bench(pushed.run, "--to", "me/older", "--private", hub=pushed.hub)
    assert done.returncode == 0, done.stderr
    files = pushed.hub.repos["models/me/older"]["files"]
    assert set(files) == {*pushed.model(), "notes.md"} - {".gitattributes"}
    assert "model-00001-of-00002.safetensors, config.json" in done.stdout


def test_a_public_repository_is_not_taken_for_a_private_one(pushed):
    pushed.hub.add("models/me/public", private=False, files={})
    done = bench(pushed.run, "--to", "me/public", "--private", hub=pushed.hub)
    assert done.returncode == 2
    assert done.stderr == (
        "error: the model me/public already exists and is public; make it private first, or omit --private\n"
    )
    assert pushed.hub.repos["models/me/public"]["files"] == {}


@pytest.mark.parametrize(
    ("fails", "variables", "message"),
    [
        (None, {"HF_TOKEN": None}, "no Hugging Face Hub token found: log in with `hf auth login`"),
        (None, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"),
        (("/api/whoami", 401, "{sent}"), {}, "HTTP 401 Unauthorized; the token was not accepted; log in"),
        (("/api/repos", 403, "you sent {sent}"), {}, "HTTP 403 Forbidden; the token lacks `write` permission"),
        (("/api/repos", 500, "oops\nat line 3"), {}, "HTTP 500 Internal Server Error; try again later"),
        (("/me/x.git", 422, "{sent}"), {}, "HTTP 422"),
        (
            ("/api/models/me/x/commit", 412, "moved"),
            {},
            "HTTP 412 Precondition Failed; the repository changed meanwhile",
        ),
        (None, {"HF_ENDPOINT": "http://127.0.0.1:9"}, "checking the Hub token failed: http://127.0.0.1:9"),
        ("read", {}, "the Hub token is read-only"),
    ],
)
def test_a_push_that_fails_says_why_in_a_sentence_without_the_token(pushed, fails, variables, message):
    with Hub() as hub:
        hub.fails = None if fails == "read" else fails
        hub.role = {"name": "me", "auth": {"accessToken": {"role": "read"}}} if fails == "read" else ROLE
        done = bench(pushed.run, "--to", "me/x", hub=hub, **variables)
    assert (done.returncode, done.stdout, hub.commits) == (2, "", [])
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert TOKEN not in done.stderr


def test_what_was_pushed_before_a_failure_is_said(pushed):
    with Hub() as hub:
        hub.fails = ("/api/datasets/", 500, "x")
        done = bench(pushed.run, "--to", "me/x", "--records-to", "me/y", hub=hub)
    assert done.returncode == 2
    assert done.stdout == f"pushed: {hub.address}/models/me/x/commit/1\n"
    assert "creating the data set me/y failed: HTTP 500" in done.stderr


def test_the_traceback_that_was_asked_for_holds_no_token(pushed):
    with Hub() as hub:
        hub.fails = ("/api/repos", 403, "you sent {sent}")
        done = bench(pushed.run, "--to", "me/x", "--traceback", hub=hub, HF_DEBUG="1")
    assert "SetupError: creating the model me/x failed" in done.stderr
    assert "you sent Bearer <removed>" in done.stderr
    assert TOKEN not in done.stdout + done.stderr


def broken(tmp_path, kind):
    run = made_run(tmp_path / "run", **({"status": "oom", "reason": "x"} if kind == "oom" else {}))
    model = run / "model"
    if kind == "pickle":
        (model / "adapter_model.bin").write_bytes(b"\x80\x04.")
    elif kind == "named json":
        (model / "special.json").write_bytes(b"PK\x03\x04")
    elif kind == "half":
        (model / "adapter_model.safetensors").write_bytes(b"\x80\x04half")
    elif kind == "weightless":
        (model / "adapter_model.safetensors").unlink()
    elif kind == "unsaved":
        (model / "bench.json").unlink()
    elif kind == "foreign":
        (model / "bench.json").write_text('{"method": "full", "labels": []}')
    elif kind == "link":
        (model / "vocab.txt").symlink_to("/etc/hostname")
    elif kind == "home":
        (model / "chat_template.jinja").write_text(f"{{% include '{Path.home()}/x' %}}")
    elif kind == "secret":
        (run / "train_log.jsonl").write_text(json.dumps({"key": "hf_" + "a1" * 17}))
    elif kind == "environment":
        (run / "train_log.jsonl").write_text("correct horse")
    elif kind == "like a path":
        found = store.read(run)
        found.notes.append("the key is +/correct/horse")  # as an older version left it
        store.write(found, run)
    elif kind == "linked folder":
        (run / "predictions").rename(tmp_path / "elsewhere")
        (run / "predictions").symlink_to(tmp_path / "elsewhere")
    elif kind == "deep json":
        (model / "config.json").write_text("[" * 100_000)
    elif kind == "surrogate":
        found = json.loads((run / "record.json").read_text(encoding="utf-8"))
        (run / "record.json").write_text(json.dumps(found | {"notes": ["\ud800"]}), encoding="utf-8")
    elif kind == "denied":
        line = {"id": "1", "prediction": "positive", "reference": "positive", "metrics": {"accuracy": 1.0}}
        (run / "predictions" / "after-test.jsonl").write_text(json.dumps(line))
    return run


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("", [], "no repository given: pass --to owner/name"),
        ("", ["--to", "name"], "invalid repository name 'name': expected owner/name"),
        ("", ["--to", "a/b/c"], "invalid repository name 'a/b/c'"),
        ("", ["--to", "me/a b"], "invalid repository name 'me/a b'"),
        ("", ["--to", "me/../x"], "invalid repository name 'me/../x'"),
        ("", ["--records-to", "x"], "invalid repository name 'x'"),
        ("", ["none", "--to", "me/x"], "--to takes a single run, got 2"),
        ("", ["--to", "me/x", "--with-predictions"], "--with-predictions needs --records-to"),
        ("oom", ["--to", "me/x"], "has status `oom`, not `ok`"),
        ("unsaved", ["--to", "me/x"], "contains no saved model; set `save: true` in the recipe"),
        ("pickle", ["--to", "me/x"], "adapter_model.bin can't be pushed: "),
        ("named json", ["--to", "me/x"], "special.json can't be pushed: "),
        ("half", ["--to", "me/x"], "adapter_model.safetensors is not a complete safetensors file"),
        ("weightless", ["--to", "me/x"], "contains no .safetensors file"),
        ("foreign", ["--to", "me/x"], "method or labels differ"),
        ("link", ["--to", "me/x"], "vocab.txt is a symbolic link"),
        ("home", ["--to", "me/x"], "chat_template.jinja names a file below your home folder"),
        ("secret", ["--records-to", "me/x"], "what looks like a Hugging Face Hub token; nothing was uploaded"),
        ("environment", ["--records-to", "me/x"], "the value of the environment variable MY_API_KEY"),
        ("like a path", ["--to", "me/x"], "the value of the environment variable MY_OTHER_KEY"),
        (
            "linked folder",
            ["--records-to", "me/x", "--with-predictions"],
            "/predictions is a symbolic link, which may point",
        ),
        ("deep json", ["--to", "me/x"], "config.json is not valid JSON"),
        ("surrogate", ["--to", "me/x"], "can't be serialised as JSON"),
        ("", ["typo", "--records-to", "me/x"], "typo: there is no such file or folder"),
        ("denied", ["--records-to", "me/x"], "1 predictions, but the record states 872 examples; nothing"),
        ("denied", ["--to", "me/x"], "1 predictions, but the record states 872 examples; nothing"),
    ],
)
def test_refused_with_one_sentence(tmp_path, capsys, monkeypatch, kind, words, message):
    monkeypatch.setenv("MY_API_KEY", "correct horse")
    monkeypatch.setenv("MY_OTHER_KEY", "+/correct/horse")
    run = broken(tmp_path, kind)
    assert main(["push", str(run), *words, "--dry-run", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert not (tmp_path / "out").exists()


def test_the_command_loads_no_torch(pushed, tmp_path):
    heavy = ("torch", "transformers", "datasets", "accelerate", "peft", "matplotlib")
    words = ["push", str(pushed.run), "--to", "me/x", "--records-to", "me/y", "--dry-run", "--out", str(tmp_path / "o")]
    code = f"import sys\nsys.modules.update(dict.fromkeys({heavy!r}))\nfrom bench.cli.main import main\n"
    command = [sys.executable, "-c", f"{code}sys.exit(main({words!r}))"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_dry_run_overwrites_nothing(pushed, capsys):
    words = ["push", str(pushed.run), "--to", "me/x", "--dry-run", "--out"]
    assert main([*words, str(pushed.dry)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err


def test_many_runs_with_predictions_and_a_failed_one(tmp_path, capsys):
    made_run(tmp_path / "runs" / "good")
    made_run(tmp_path / "runs" / "b d", status="oom", reason="no room")
    place = tmp_path / "out"
    words = ["--records-to", "me/r", "--with-predictions", "--dry-run", "--out", str(place)]
    assert main(["push", str(tmp_path / "runs"), *words]) == 0
    files = files_below(place / "datasets" / "me" / "r")
    assert {name for name in files if name.endswith("scores.jsonl")} == {"good/scores.jsonl"}
    assert json.loads(files["b-d/predictions/before-other.jsonl"])["text"] == "a fine film"
    assert json.loads(files["good/record.json"])["prompts"]["example"].startswith("Say it.")
    assert "| [b-d](b-d/report.md) | oom | sst2 |" in files["README.md"].decode()


def test_what_lies_beside_the_runs_of_a_sweep_is_passed_over(tmp_path, capsys):
    """`push sw/*` names a sweep's logs, trials and choices too, and pages that were written there."""
    from bench.cli.main import main

    sweep = tmp_path / "sw"
    runs = [made_run(sweep / f"sst2--minilm--lora--seed{seed}") for seed in (13, 14)]
    trial = made_run(sweep / "trials" / "sst2--minilm--lora--seed15")
    store.mark_trials(sweep / "trials")
    for name in (
        "logs/a.txt",
        "choices.json",
        "array-20260101-000000-1.txt",
        "table.md",
        "all.html",
        "report/report.md",
    ):
        (sweep / name).parent.mkdir(exist_ok=True)
        (sweep / name).write_text("{}", encoding="utf-8")
    given = sorted(map(str, sweep.iterdir()))
    assert main(["push", *given, "--records-to", "me/records", "--dry-run", "--out", str(tmp_path / "dry")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert sorted(line.split(" ")[2] for line in shown[:-1]) == sorted(set(given) - set(map(str, runs)))
    assert all(line.startswith("passed over: ") for line in shown[:-1])
    pushed = {path.name for path in (tmp_path / "dry" / "datasets" / "me" / "records").iterdir()}
    assert pushed == {"README.md", *(run.name for run in runs)}
    # Asked for by itself, a folder of trials is pushed, and a folder without a record is an error.
    words = ["--records-to", "me/records", "--dry-run", "--out"]
    assert main(["push", str(sweep / "trials"), *words, str(tmp_path / "trials")]) == 0
    assert (tmp_path / "trials" / "datasets" / "me" / "records" / trial.name).is_dir()
    assert main(["push", str(sweep / "logs"), *words, str(tmp_path / "logs")]) == 2
    (sweep / "mine").mkdir()
    assert main(["push", str(runs[0]), str(sweep / "mine"), *words, str(tmp_path / "mine")]) == 2
    assert "no record.json in or below" in capsys.readouterr().err
