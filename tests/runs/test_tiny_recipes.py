"""Every recipe of recipes/tiny, run as it is: it learns, leaves a whole record, and its model can be used."""

import hashlib
import json
import subprocess
import sys

import pytest

from bench.cli.main import main
from bench.data.builtin import corpora
from bench.records import store
from bench.reporting import run_end, run_page
from tests.helpers.launching import ROOT, environment, launch_all, read_lines

# Those of labels; tests/runs/test_numbers_and_tags.py has the others.
OTHER_TASKS = {"bert-ratings", "bert-notices"}
RECIPES = {
    path.stem: path for path in sorted((ROOT / "recipes" / "tiny").glob("*.yaml")) if path.stem not in OTHER_TASKS
}
# Nothing is trained in these, so nothing is saved and there is no stage before.
ASKED = {"llama-zero_shot", "gpt2-few_shot", "bert-entailment"}
LEARNED = sorted(set(RECIPES) - ASKED)
# Fitted on words alone: there is no model to score before, and none of transformers is saved.
WITHOUT_MODEL = {"none-tfidf"}
# Launched by a command of their own, one of each kind: trained by gradients on labels and on 4-bit weights' answers, by
# a probe, and asked. The others run in processes of their own too, without the launcher before each.
LAUNCHED = ("bert-full", "llama-text_qlora", "albert-probe", "gpt2-few_shot")
# Asked by `python -m bench predict`: an encoder's head, an adapter's answers, a probe.
COMMANDED = ("bert-full", "llama-text_qlora", "albert-probe")
# Plain transformers have no such head; the run's own loader puts it on.
MLP_HEADS = {"gpt2-scratch"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    jobs = {name: [path, "--out", folder / name] for name, path in RECIPES.items()}
    done = launch_all(jobs, tmp_path_factory.mktemp("printed"), alone=LAUNCHED)
    return {name: (done[name], folder / name) for name in RECIPES}


def test_there_are_recipes_for_every_method():
    methods = {path.stem for path in (ROOT / "bench" / "methods").glob("*.py")} - {"__init__"}
    shown = {record_method(path) for path in RECIPES.values()}
    # A head that nobody trained can't show that it learns; its small study does run (test_studies).
    assert methods - {"untouched"} == shown


def record_method(path):
    from bench.config.resolve import load

    return load(path).recipe.method.name


@pytest.mark.parametrize("name", RECIPES)
def test_it_succeeds_and_says_where_the_record_is(runs, name):
    done, folder = runs[name]
    assert done.returncode == 0, done.stderr[-2000:]
    *_, record, following = done.stdout.rstrip().splitlines()
    assert record == f"record: {folder / 'record.json'}"
    assert following == f"next: {run_end.next_command(store.read(folder), folder)}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", RECIPES)
def test_record_is_whole(runs, name):
    found = store.read(runs[name][1])
    assert (found.status, found.reason) == ("ok", None)
    assert found.checks
    assert all(check.ok for check in found.checks)
    assert found.launch.world_size == 1
    assert found.model.parameters["total"] >= found.model.parameters["trainable"]
    assert found.environment.packages["torch"]
    assert found.comparability.key
    names = {phase.name for phase in found.phases}
    assert names >= {"load", "tokenise", "score_after"}
    assert ("save" in names) == (name in LEARNED)
    assert ("score_before" in names) == (name in set(LEARNED) - WITHOUT_MODEL)
    assert ("train" in names or names >= {"warm_up", "train_steps", "train_other"}) == (name in LEARNED)
    assert all(phase.seconds >= 0 for phase in found.phases)
    assert found.memory["train" if name in LEARNED else "score_after"]["rss_gib"] > 0.05
    assert found.throughput["test"]["seconds_per_100_examples"] > 0
    for relative in found.artifacts.values():
        assert (runs[name][1] / relative).exists(), relative
    assert not (runs[name][1] / ".ballast").exists()
    assert (runs[name][1] / "report.md").read_text(encoding="utf-8") == run_page.run_report(found, runs[name][1])


def test_what_was_asked_is_in_the_record(runs):
    folders = {name: runs[name][1] for name in RECIPES if store.read(runs[name][1]).prompts is not None}
    assert set(folders) > ASKED
    for name, folder in folders.items():
        found = store.read(folder)
        rows = read_lines(folder / "predictions" / "after-test.jsonl")
        lines = "".join(f"{row['id']} {row['prompt_hash']}\n" for row in rows)
        assert found.prompts.manifests["test"] == hashlib.sha256(lines.encode()).hexdigest()[:16]
        assert all(item.signature.endswith(found.prompts.signature) for item in found.scores["after"]["test"].values())
        if name != "bert-entailment":
            assert found.prompts.example.count("sentiment:") == found.prompts.shots + 1
        assert len(found.prompts.shot_ids) == found.prompts.shots
    hashes = {name: store.read(folder).comparability.parts["template"] for name, folder in folders.items()}
    assert hashes["mistral-text_lora"] == hashes["llama-text_qlora"] == hashes["llama-zero_shot"] is not None
    both = (store.read(folders[name]) for name in ("gpt2-few_shot", "llama-zero_shot"))
    metrics = {found.comparability.parts["metrics"] for found in both}
    assert len(metrics) == 1, "written answers have no loss, and are compared by the rest"
    written = store.read(folders["gpt2-few_shot"]).prompts.answers["after"]["test"]
    assert written["unparsable"] <= 60
    assert "loss" not in store.read(folders["gpt2-few_shot"]).scores["after"]["test"]


@pytest.mark.parametrize("name", ["mistral-text_lora", "llama-text_qlora"])
def test_fine_tuning_beats_asking_by_far(runs, name):
    tuned, asked = (store.read(runs[run][1]) for run in (name, "llama-zero_shot"))
    assert tuned.comparability.key == asked.comparability.key
    low = tuned.scores["after"]["test"]["accuracy"].low
    for floor in (asked.scores["after"], tuned.scores["before"]):
        assert low > floor["test"]["accuracy"].high + 0.1
    # One label answered well and the other badly must show.
    labels = tuned.scores["after"]["test"]["accuracy_per_label"].value
    assert len(labels) == 2
    assert min(labels) > 0.5


@pytest.mark.parametrize("name", LEARNED)
def test_it_learns(runs, name):
    found = store.read(runs[name][1])
    metric = "jaccard_samples" if "jaccard_samples" in found.scores["after"]["test"] else "accuracy"
    after = found.scores["after"]["test"][metric]
    majority = found.baselines["test"]["majority"][metric]
    assert after.value > majority + 0.1
    assert after.low > majority
    assert ("before" in found.scores) == (name not in WITHOUT_MODEL)
    if name not in WITHOUT_MODEL:
        assert after.low > found.scores["before"]["test"][metric].high


@pytest.mark.parametrize("name", RECIPES)
def test_scores_recomputed_by_hand_equal_the_record(runs, name):
    folder = runs[name][1]
    found = store.read(folder)
    for stage in found.scores:
        rows = read_lines(folder / "predictions" / f"{stage}-test.jsonl")
        scores = found.scores[stage]["test"]
        assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
        assert len(rows) == found.data.splits["test"].examples
        right = sum(row["prediction"] == row["reference"] for row in rows) / len(rows)
        if found.data.labels[0] == "anger":
            assert scores["subset_accuracy"].value == pytest.approx(right, abs=1e-12)
            overlap = [jaccard(set(row["prediction"]), set(row["reference"])) for row in rows]
            assert scores["jaccard_samples"].value == pytest.approx(sum(overlap) / len(rows), abs=1e-12)
        else:
            assert scores["accuracy"].value == pytest.approx(right, abs=1e-12)
            if "text" in rows[0]:
                continue  # written, not chosen
            best = [max(row["scores"], key=row["scores"].get) for row in rows]
            assert best == [row["prediction"] for row in rows]


def jaccard(one, other):
    return len(one & other) / len(one | other) if one | other else 1.0


@pytest.mark.parametrize("name", RECIPES)
def test_references_are_those_of_the_data(runs, name):
    found = store.read(runs[name][1])
    rows = read_lines(runs[name][1] / "predictions" / "after-test.jsonl")
    truth = {row["id"]: row.get("label", row.get("labels")) for row in corpora.generate(found.data.id)["test"]}
    limit = found.recipe.resolved["limit"].get("test")
    assert len(rows) == (limit or len(truth))
    assert {row["id"]: row["reference"] for row in rows} == {row["id"]: truth[row["id"]] for row in rows}


@pytest.fixture(scope="module")
def reloaded(runs, tmp_path_factory):
    """Probabilities of the first texts, from every saved model, in one fresh process without the harness."""
    asked = {}
    for name, (_, folder) in runs.items():
        if name in set(LEARNED) - MLP_HEADS - WITHOUT_MODEL:
            asked[str(folder)] = [row["text"] for row in some_texts(folder)]
    file = tmp_path_factory.mktemp("reload") / "asked.json"
    file.write_text(json.dumps(asked), encoding="utf-8")
    script = [sys.executable, str(ROOT / "tests" / "helpers" / "plain_reload.py"), str(file)]
    done = subprocess.run(script, cwd=file.parent, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def some_texts(folder):
    return corpora.generate(store.read(folder).data.id)["test"][:40]


@pytest.mark.parametrize("name", sorted(set(LEARNED) - MLP_HEADS - WITHOUT_MODEL))
def test_saved_model_predicts_the_same_with_plain_libraries(runs, reloaded, name):
    folder = runs[name][1]
    rows = {row["id"]: row for row in read_lines(folder / "predictions" / "after-test.jsonl")}
    labels = store.read(folder).data.labels
    for text, probabilities in zip(some_texts(folder), reloaded[str(folder)], strict=True):
        expected = [rows[text["id"]]["scores"][label] for label in labels]
        assert probabilities == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", LEARNED)
def test_predict_command_gives_the_run_s_probabilities(runs, tmp_path, capsys, name):
    folder = runs[name][1]
    texts = some_texts(folder)[:5]
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"text": row["text"]}) for row in texts), encoding="utf-8")
    asked = ["predict", str(folder), "--file", str(file), "--json"]
    if name in COMMANDED:
        command = [sys.executable, "-m", "bench", *asked]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        shown = done.stdout
    else:
        assert main(asked) == 0
        shown = capsys.readouterr().out
    rows = {row["id"]: row for row in read_lines(folder / "predictions" / "after-test.jsonl")}
    answers = [json.loads(line) for line in shown.splitlines()]
    for text, answer in zip(texts, answers, strict=True):
        assert answer["label"] == rows[text["id"]]["prediction"]
        assert answer["scores"] == pytest.approx(rows[text["id"]]["scores"], abs=1e-4)


def test_one_table_of_all_runs(runs):
    folder = next(iter(runs.values()))[1].parent
    script = [sys.executable, "-m", "bench", "report", str(folder)]
    done = subprocess.run(script, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = done.stdout
    for name in RECIPES:
        found = store.read(runs[name][1])
        assert found.method in table
    assert len([line for line in table.splitlines() if line.startswith("|")]) >= len(RECIPES) + 2
