"""Task generation from recipe to comparison: conversations by a decoder, worked answers by an encoder-decoder."""

import json
import shutil

import pytest

from bench.cli.main import main
from bench.config import resolve
from bench.errors import RecipeError
from bench.records import store
from bench.runner import lifecycle
from tests.helpers.cases import together
from tests.helpers.launching import ROOT, read_lines

FOLDER = ROOT / "recipes" / "written"
SMALL = ["limit.train=160", "limit.test=12", "training.epochs=3", "prompting.max_new_tokens=16"]

pytestmark = pytest.mark.usefixtures("bare_runs")


def run_recipe(name, folder, *extra, code=0):
    assert lifecycle.main([str(FOLDER / f"{name}.yaml"), *extra, "--out", str(folder), "--overwrite"]) == code
    return store.read(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setenv("OMP_NUM_THREADS", "1")
        found = {
            "assistant": run_recipe("tiny_llama-full", folder / "assistant", *SMALL, "--check"),
            "answer": run_recipe("tiny_llama-full", folder / "answer", *SMALL, "training.loss_on=answer", "save=false"),
            "t5": run_recipe("tiny_t5-full", folder / "t5", *SMALL),
        }
    return folder, found


def test_records_are_whole(runs):
    folder, found = runs
    for name, record in found.items():
        assert record.status == "ok", name
        assert all(check.ok for check in record.checks), record.checks
        before, after = (record.scores[stage]["test"] for stage in ("before", "after"))
        assert after["reference_loss"].value < before["reference_loss"].value - 1
        assert after["reference_tokens"].value == before["reference_tokens"].value
        assert set(record.baselines["test"]) >= {"majority", "empty", "copy"}
        assert record.data.labels == []
        assert record.data.splits["test"].labels == {}
        rows = read_lines(folder / name / "predictions" / "after-test.jsonl")
        tokens = sum(row["reference_tokens"] for row in rows)
        assert sum(row["reference_nll"] for row in rows) / tokens == pytest.approx(after["reference_loss"].value)
        written = record.prompts.answers["after"]["test"]
        assert written["hit_limit"] == sum(not row["stopped"] for row in rows)
        page = (folder / name / "report.md").read_text(encoding="utf-8")
        assert "perplexity" in page
    assert {"extracted_match", "extracted_nothing"} <= set(found["t5"].scores["after"]["test"])
    assert found["assistant"].throughput["train"]["counted"]["loss_items"] == "tokens of the assistant"
    assert found["answer"].throughput["train"]["counted"]["loss_items"] == "answer tokens"
    # More of each conversation is learned from, and what is scored stays the same.
    assert found["assistant"].comparability.key == found["answer"].comparability.key


def test_scores_do_not_depend_on_batches(runs, tmp_path):
    _, found = runs
    again = run_recipe("tiny_llama-full", tmp_path, *SMALL, "evaluation.batch_tokens=40", "save=false")
    for name, item in found["assistant"].scores["before"]["test"].items():
        assert again.scores["before"]["test"][name].value == pytest.approx(item.value, rel=1e-6, abs=1e-6), name


def test_runs_are_compared_in_pairs(runs, tmp_path, capsys):
    folder, _ = runs
    for metric in ("chrf", "perplexity", "exact_match"):
        asked = ["compare", str(folder / "assistant"), str(folder / "answer"), "--metric", metric]
        assert main([*asked, "-o", str(tmp_path / f"{metric}.md")]) == 0, capsys.readouterr().err
        assert metric in (tmp_path / f"{metric}.md").read_text(encoding="utf-8")
    assert main(["report", str(folder)]) == 0
    assert "can't be compared by them" in capsys.readouterr().out
    # By tokens of another length, as another tokenizer has them.
    other = tmp_path / "other"
    shutil.copytree(folder / "answer", other)
    file = other / "predictions" / "after-test.jsonl"
    rows = read_lines(file)
    rows[0] |= {"reference_tokens": rows[0]["reference_tokens"] + 1}
    rows[1] |= {"reference_tokens": rows[1]["reference_tokens"] - 1}
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    assert main(["compare", str(folder / "assistant"), str(other), "--metric", "perplexity"]) == 2
    assert "can't be compared by perplexity, which is per token" in capsys.readouterr().err


def test_a_saved_model_writes_what_it_wrote(runs, tmp_path, capsys):
    folder, _ = runs
    from bench.data.builtin import corpora

    for name, corpus in (("assistant", "chats"), ("t5", "sums")):
        rows = read_lines(folder / name / "predictions" / "after-test.jsonl")[:4]
        texts = {row["id"]: row for row in corpora.generate(corpus)["test"]}
        asked = [
            {"messages": texts[row["id"]]["messages"][:-1]}
            if name == "assistant"
            else {"text": texts[row["id"]]["question"]}
            for row in rows
        ]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
        assert main(["predict", str(folder / name), "--file", str(file), "--json"]) == 0
        answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [answer["label"] for answer in answers] == [row["prediction"] for row in rows]


REFUSED = [
    ("tiny_t5-full", ["training.loss_on=all"], "an encoder-decoder learns what it writes"),
    ("tiny_t5-full", ["model=tiny_llama", "training.loss_on=assistant"], "these rows are a prompt and its answer"),
    ("tiny_t5-full", ["evaluation.metrics=[accuracy]"], "metric 'accuracy' is for labels; task 'generation' has text"),
    (
        "tiny_t5-full",
        ["evaluation.extract={name: own, pattern: '(x'}"],
        "evaluation.extract.pattern: '(x' is not a reg",
    ),
    ("tiny_t5-full", ["evaluation.extract={name: own, pattern: x}"], "'x' has no group"),
    ("tiny_t5-full", ["evaluation.extract={name: nmber}"], "there is no extraction 'nmber'"),
    ("tiny_t5-full", ["evaluation.extract=null", "evaluation.metrics=[extracted_match]"], "needs `evaluation.extract`"),
    ("tiny_t5-full", ["objective=head"], "task 'generation' has no objective 'head'"),
    ("tiny_t5-full", ["prompting.chat_template_kwargs={enable_thinking: false}"], "only for `format: chat`"),
    ("tiny_t5-full", ["dataset.columns.messages=messages"], "conversations hold their references themselves"),
    ("tiny_t5-full", ["dataset.columns.reference=null"], "needs `columns.reference`, or `columns.messages`"),
    ("tiny_t5-full", ["dataset.labels=[a, b]"], "there are no labels where texts are to be written"),
]


@together("name, changes, message", REFUSED)
def test_what_does_not_go_together_is_refused(name, changes, message):
    with pytest.raises(RecipeError) as caught:
        resolve.load(FOLDER / f"{name}.yaml", tuple(changes))
    assert message in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_other_tasks_refuse_its_keys():
    for change, message in (
        ("training.loss_on=all", "training.loss_on: all: a task head learns labels, and no tokens are in its loss"),
        ("evaluation.extract={name: letter}", "only for texts that are written"),
        ("evaluation.metrics=[reference_loss]", "metric 'reference_loss' is for task 'generation'"),
        ("dataset.columns.reference=answer", "only task 'generation' has texts that are to be written"),
    ):
        with pytest.raises(RecipeError) as caught:
            resolve.load(ROOT / "recipes" / "tiny" / "bert-full.yaml", (change,))
        assert message in str(caught.value)


def test_conversations_need_a_chat_template(tmp_path):
    found = run_recipe("tiny_llama-full", tmp_path, *SMALL, "prompting.format=plain", code=2)
    assert "a system prompt, which plain text has no frame for; set prompting.format: chat" in found.reason


def test_references_without_what_is_extracted_are_refused(tmp_path):
    found = run_recipe("tiny_t5-full", tmp_path, *SMALL, "evaluation.extract={name: letter}", code=2)
    assert "evaluation.extract (letter) finds nothing in the references of 12 of 12 rows of 'test'" in found.reason
