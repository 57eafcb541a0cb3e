"""Other data are scored before and after a training, on any number of processes; a text as transformers does it."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.config import resolve
from bench.reporting import study_page
from bench.runner import lifecycle
from tests.helpers.cases import together
from tests.helpers.launching import NO_DROPOUT, ROOT, launch

RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
TEXT = "The mill of Orle was built in 1742. Two owls live in its roof, and nobody knows who fed them. " * 30
COMMON = [
    "model=tiny_gpt2", "objective=text", "training.epochs=null", "training.steps=4", "training.global_batch=8",
    "training.learning_rate=0.01", "limit={train: 24, test: 12}", "max_length=128",
    *(f"model.architecture.{name}=0.0" for name in NO_DROPOUT["gpt2"]),
]  # fmt: skip
pytestmark = pytest.mark.usefixtures("bare_runs")


def arguments(folder, also):
    return [str(RECIPE), *COMMON, f"evaluation.also={also}", "--out", str(folder / "run"), "--overwrite"]


def asked(folder):
    (folder / "a text.txt").write_text(TEXT, encoding="utf-8")
    return f"[endings, {{dataset: posts, limit: 8}}, {{perplexity: '{folder / 'a text.txt'}', limit: 6}}]"


def record_of(folder):
    return json.loads((folder / "run" / "record.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(bare_runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("also")
    assert lifecycle.main(arguments(folder, asked(folder))) == 0
    return folder


def test_all_that_is_asked_for_is_scored_twice_and_compared(run):
    record = record_of(run)
    found = {part["name"].partition(":")[0]: part for part in record["retention"].values()}
    assert set(found) == {"endings", "posts", "perplexity"}
    assert [found[name]["examples"] for name in ("endings", "posts", "perplexity")] == [12, 8, 6]
    for part in found.values():
        assert set(part["scores"]) == {"before", "after"}
        metric = part["kept"]["metric"]
        for stage in ("before", "after"):
            assert part["kept"][stage] == pytest.approx(part["scores"][stage][metric]["value"])
    assert found["perplexity"]["kept"]["metric"] == "perplexity"
    assert found["perplexity"]["kept"]["difference"] != 0
    assert {"retention_before", "retention_after"} <= {phase["name"] for phase in record["phases"]}
    page = (run / "run" / "report.md").read_text(encoding="utf-8")
    assert "## Retention" in page
    assert "| endings | 12 | accuracy |" in page
    study_page.write([run / "run"], run / "many")
    assert "### Retention" in (run / "many" / "report.md").read_text(encoding="utf-8")


def test_the_perplexity_of_a_text_is_that_of_the_saved_model(run):
    model = AutoModelForCausalLM.from_pretrained(run / "run" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "run" / "model")
    tokens, size, first = tokenizer(TEXT, add_special_tokens=False)["input_ids"], 128, tokenizer.bos_token_id
    own, total, count = size - (first is not None), 0.0, 0
    for start in range(0, 6 * own, own):
        part = tokens[start : start + own]
        ids = torch.tensor([part if first is None else [first, *part]])
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    (part,) = (part for part in record_of(run)["retention"].values() if part["name"].startswith("perplexity"))
    assert part["scores"]["after"]["reference_tokens"]["value"] == count
    assert part["scores"]["after"]["perplexity"]["value"] == pytest.approx(math.exp(total / count), rel=1e-4)


def test_two_processes_give_the_same_scores(run, tmp_path):
    done = launch(*arguments(tmp_path, asked(run)), config="ddp_cpu2")
    assert done.returncode == 0, done.stderr[-2000:]
    ours, theirs = record_of(tmp_path)["retention"], record_of(run)["retention"]
    assert ours.keys() == theirs.keys()
    for name, part in theirs.items():
        assert ours[name]["fingerprint"] == part["fingerprint"]
        for stage, scores in part["scores"].items():
            for metric, score in scores.items():
                assert ours[name]["scores"][stage][metric]["value"] == pytest.approx(score["value"], rel=1e-4, abs=1e-6)


@together(
    "also, sentence",
    [
        ("[{perplexity: nothing.txt}]", "there is no text file 'nothing.txt', and no built-in data set of that name"),
        ("[{perplexity: sums}]", "the built-in data set 'sums' has no running texts"),
        ("[notices]", "task 'token_classification' can't be asked of a language model"),
        ("[./nothing.csv]", "nothing.csv"),
    ],
)
def test_what_is_not_there_ends_the_run_in_a_sentence(tmp_path, capsys, also, sentence):
    assert lifecycle.main(arguments(tmp_path, also)) != 0
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert sentence in record_of(tmp_path)["reason"]


def test_the_settings_of_a_run_with_other_data_are_those_of_one_without():
    plain = resolve.load(RECIPE, tuple(COMMON)).recipe
    other = resolve.load(RECIPE, (*COMMON, "evaluation.also=[endings]")).recipe
    assert other.model_copy(update={"evaluation": plain.evaluation}) == plain
