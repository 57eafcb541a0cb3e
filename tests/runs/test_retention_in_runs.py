"""Other data are scored before and after a training, on any number of processes; a text as transformers does it."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.analysis import verify_beside
from bench.config import resolve
from bench.errors import DataError
from bench.records import store
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
    assert found["perplexity"]["kept"]["metric"] == "perplexity_per_token"
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
    scores = {name: score["value"] for name, score in part["scores"]["after"].items()}
    assert scores["tokens"] == count
    assert scores["perplexity_per_token"] == pytest.approx(math.exp(total / count), rel=1e-4)
    # By the text's own units, of what the tokens stand for.
    read = TEXT[: tokenizer(TEXT, return_offsets_mapping=True)["offset_mapping"][6 * own][0]]
    assert abs(scores["bytes"] - len(read)) <= 1 + 10 * (first is None)
    assert abs(scores["words"] - len(read.split())) <= 1 + 6 * (first is None)
    assert scores["perplexity_per_word"] == pytest.approx(math.exp(total / scores["words"]), rel=1e-4)
    assert scores["bits_per_byte"] == pytest.approx(total / math.log(2) / scores["bytes"], rel=1e-4)


def test_what_was_kept_is_recomputed_from_the_predictions(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run / "run", folder, ignore=shutil.ignore_patterns("model"))
    path, found = folder / "record.json", store.read(folder)
    assert verify_beside.find_contradiction(path, found) is None
    names = {one.name.partition(":")[0]: part for part, one in found.retention.items()}

    def changed(edit):
        record = found.model_copy(deep=True)
        edit(record.retention)
        return verify_beside.find_contradiction(path, record)

    def in_score(part, metric):
        return lambda kept: setattr(kept[names[part]].scores["before"][metric], "value", 0.123)

    def in_kept(part, name, value):
        return lambda kept: setattr(kept[names[part]].kept, name, value)

    for edit, says in [
        (in_score("perplexity", "perplexity_per_word"), "perplexity_per_word recomputed from the predictions is"),
        (in_score("perplexity", "bits_per_byte"), "bits_per_byte recomputed"),
        (in_score("endings", "accuracy"), "accuracy recomputed from the predictions"),
        (in_score("posts", "jaccard_samples"), "jaccard_samples recomputed from the predictions"),
        (in_kept("endings", "p", 0.0123), "kept.p of endings recomputed"),
        (in_kept("endings", "lost", 11), "kept.lost of endings recomputed"),
        (in_kept("perplexity", "high", -9.0), "kept.high of perplexity:"),
        (in_kept("posts", "low", None), "kept.low recomputed from the predictions is"),
        (lambda kept: setattr(kept[names["endings"]], "examples", 13), "12 predictions, but the record states 13"),
    ]:
        said = changed(edit)
        assert said is not None, says
        assert says in said, said
    file = folder / "predictions" / f"after-{names['perplexity']}.jsonl"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"reference_bytes": ', '"reference_bytes": 1'), encoding="utf-8")
    assert "bits_per_byte recomputed" in verify_beside.find_contradiction(path, found)
    # A report leaves such a run out, and says why.
    assert "bits_per_byte recomputed" in leaderboard_page(tmp_path)
    file.unlink()  # predictions that are not there contradict nothing
    assert verify_beside.find_contradiction(path, found) is None


def leaderboard_page(folder):
    try:
        study_page.write([folder / "run"], folder / "page")
    except DataError as error:
        return str(error)
    return (folder / "page" / "report.md").read_text(encoding="utf-8")


def test_two_processes_give_the_same_scores(run, tmp_path):
    done = launch(*arguments(tmp_path, asked(run)), config="ddp_cpu2")
    assert done.returncode == 0, done.stderr[-2000:]
    are_the_same(record_of(tmp_path)["retention"], record_of(run)["retention"])


def are_the_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, part in theirs.items():
        assert ours[name]["fingerprint"] == part["fingerprint"]
        for stage, scores in part["scores"].items():
            for metric, score in scores.items():
                assert ours[name]["scores"][stage][metric]["value"] == pytest.approx(score["value"], rel=1e-4, abs=1e-6)


QUESTIONS = [
    {"question": f"What is said of mill number {number}?", "options": ["it is old", "it was sold", "nobody knows"],
     "gold": number % 3, "answer": f"mill {number}"} for number in range(10)
]  # fmt: skip
OF_LM_EVAL = {"dataset_path": "json", "test_split": "test", "training_split": "train", "fewshot_split": "train"}
CHOSEN = {"output_type": "multiple_choice", "doc_to_choice": "options", "doc_to_target": "gold"}
WROTE = {
    "output_type": "generate_until",
    "doc_to_target": "answer",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 5},
    "metric_list": [{"metric": "exact_match"}],
}


def test_tasks_of_lm_eval_and_files_are_other_data_too(tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in QUESTIONS)
    files = {part: str(tmp_path / f"{part}.jsonl") for part in ("train", "test")}
    for file in files.values():
        Path(file).write_text(lines, encoding="utf-8")
    for name, keys in (("chosen", CHOSEN), ("wrote", WROTE)):
        task = {"task": name, **OF_LM_EVAL, "doc_to_text": "Question: {{question}}\nAnswer:", **keys}
        task["dataset_kwargs"] = {"data_files": files}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")
    rows = [f"{place},the mill is {'old' if place % 2 else 'new'} and {place},{'ab'[place % 2]}" for place in range(40)]
    table = tmp_path / "my tickets.csv"
    table.write_text("\n".join(["id,text,label", *rows, ""]), encoding="utf-8")
    entries = [f"lm_eval:{tmp_path / name}.yaml" for name in ("chosen", "wrote")]
    also = json.dumps([*entries, {"dataset": str(table), "limit": 4}])
    assert lifecycle.main(arguments(tmp_path, also)) == 0
    found = {part["name"]: part for part in record_of(tmp_path)["retention"].values()}
    assert [(len(part["scores"]), part["kept"]["metric"]) for part in found.values()] == [
        (2, "accuracy"), (2, "lm_eval:exact_match,none"), (2, "accuracy"),
    ]  # fmt: skip
    assert [part["examples"] for part in found.values()] == [10, 10, 4]
    folder = tmp_path / "run"
    assert verify_beside.find_contradiction(folder / "record.json", store.read(folder)) is None


def test_a_sharded_model_keeps_what_a_whole_one_keeps(run, tmp_path):
    words = [*arguments(tmp_path, asked(run)), "evaluation.sharded=true"]
    done = launch(*words, config="fsdp2_cpu2")
    assert done.returncode == 0, done.stderr[-2000:]
    record = record_of(tmp_path)
    assert {record["sharded_phases"][stage].partition(":")[0] for stage in ("before", "after")} == {"sharded"}
    are_the_same(record["retention"], record_of(run)["retention"])


@together(
    "also, sentence",
    [
        ("[{perplexity: nothing.txt}]", "there is no text file 'nothing.txt', and no built-in data set of that name"),
        ("[{perplexity: sums}]", "the built-in data set 'sums' has no running texts"),
        ("[notices]", "task 'token_classification' can't be asked of a language model"),
        ("[./nothing.csv]", "nothing.csv"),
        ("[reviews]", "reviews is the run's own data set, which it learns and scores anyway"),
        ("[{perplexity: TMP/empty.txt}]", "has fewer than two tokens, too few to take a perplexity of"),
        ("[{perplexity: TMP/latin.txt}]", "latin.txt can't be read as UTF-8 text"),
        ("[{perplexity: TMP}]", "there is no text file"),
        ("[{perplexity: TMP/a.txt}, {perplexity: TMP/b.txt}]", "a.txt and perplexity:"),
        ("[TMP/one.csv, TMP/two.csv]", " are the same data; remove one of them"),
        ("['lm_eval:TMP/none.yaml']", "none.yaml"),
        ("['lm_eval:arc_esy']", "arc_esy"),
    ],
)
def test_what_is_not_there_ends_the_run_in_a_sentence(tmp_path, capsys, also, sentence):
    (tmp_path / "empty.txt").write_bytes(b"\xef\xbb\xbf")
    (tmp_path / "latin.txt").write_bytes("caf\u00e9 ".encode("latin-1") * 9)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(TEXT, encoding="utf-8")
    rows = [f"{place},the mill {place} is {'old' if place % 2 else 'new'},{'ab'[place % 2]}" for place in range(40)]
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("\n".join(["id,text,label", *rows, ""]), encoding="utf-8")
    also = also.replace("TMP", str(tmp_path))
    assert lifecycle.main(arguments(tmp_path, also)) != 0
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert sentence in record_of(tmp_path)["reason"]


def test_the_settings_of_a_run_with_other_data_are_those_of_one_without():
    plain = resolve.load(RECIPE, tuple(COMMON)).recipe
    other = resolve.load(RECIPE, (*COMMON, "evaluation.also=[endings]")).recipe
    assert other.model_copy(update={"evaluation": plain.evaluation}) == plain
