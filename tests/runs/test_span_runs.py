"""Questions answered by spans, as whole runs: no way of cutting, scoring or storing the work changes a number."""

import json

import pytest
import torch

from bench.config.resolve import load
from bench.data import dataset
from bench.data.batching import collate
from bench.evaluation.readers import span
from bench.models import saving
from bench.records import store
from bench.runner import lifecycle
from tests.helpers.cases import cover
from tests.helpers.launching import NO_DROPOUT, ROOT, launch, losses, read_lines

RECIPE = ROOT / "recipes" / "passages" / "bert-full.yaml"
COMMON = [
    "training.epochs=null", "training.steps=4", "training.log_every=1", "limit={train: 64, test: 20}",
    "evaluation.before=false", "save=false",
]  # fmt: skip
FAMILIES = ["bert", "gpt2", "llama"]
# One change each from a run in one process by the Trainer, whole batches and no pads.
WAYS = {
    "loop": ["training.engine=loop"],
    "cut": ["training.per_device_batch=2"],
    "loop-cut": ["training.engine=loop", "training.per_device_batch=2"],
    "padded": ["speed.padding_free=false"],
    "loop-padded-cut": ["training.engine=loop", "speed.padding_free=false", "training.per_device_batch=2"],
}
METHODS = {
    "full": ["method=full"],
    "lora": ["method=lora"],
    "qlora": ["method=qlora", "method.compute_dtype=float32"],
    "head": ["method=head"],
    "last_layers": ["method={name: last_layers, blocks: 1}"],
}
# Windows of one passage, and questions that are read in several of them.
NARROW = ["max_length=48", "spans.doc_stride=16"]

LAUNCHED = cover(FAMILIES, ["trainer-8", "loop-2"], ["bert"])

pytestmark = pytest.mark.usefixtures("bare_runs")


def arguments(family, folder, *extra):
    """The shipped recipe with a few steps, without dropout, whose draws depend on how a batch is cut."""
    off = [f"model.architecture.{name}=0.0" for name in NO_DROPOUT.get(family, [])]
    settings = dict(text.split("=", 1) for text in [f"model=tiny_{family}", *COMMON, *off, *extra])
    settings = [f"{key}={value}" for key, value in settings.items()]
    return [str(RECIPE), *settings, "--out", str(folder), "--overwrite"]


def run_here(family, folder, *extra):
    assert lifecycle.main(arguments(family, folder, *extra)) == 0
    found = store.read(folder)
    assert found.status == "ok"
    assert all(check.ok for check in found.checks)
    return found


def predictions(folder, stage="after"):
    return read_lines(folder / "predictions" / f"{stage}-test.jsonl")


def values(found, stage="after"):
    return {name: score.value for name, score in found.scores[stage]["test"].items()}


def assert_same_answers(folder, other, within=1e-4):
    """The same texts; scores but for a constant.

    Added to all starts, the head's bias changes no softmax over tokens: its gradient is rounding alone, which Adam
    makes a step of. A score, and that of no answer, are moved alike by it; their difference is what is read.
    """
    ours, theirs = predictions(folder), predictions(other)
    assert [row["id"] for row in ours] == [row["id"] for row in theirs]
    assert [row["prediction"] for row in ours] == [row["prediction"] for row in theirs]
    odds = [[row["null_score"] - row["score"] for row in rows] for rows in (ours, theirs)]
    assert odds[0] == pytest.approx(odds[1], abs=within)
    chances = [[row["scores"]["no_answer"] for row in rows] for rows in (ours, theirs)]
    assert chances[0] == pytest.approx(chances[1], abs=within)
    assert values(store.read(folder)) == pytest.approx(values(store.read(other)), abs=1e-9)


@pytest.fixture(scope="module")
def plain(bare_runs, tmp_path_factory):
    """One process, one batch of sixteen windows, the Trainer: what all else is held against."""
    folder = tmp_path_factory.mktemp("plain")
    for family in FAMILIES:
        run_here(family, folder / family, *NARROW)
    return folder


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Both engines on two processes, all of them in one launch."""
    folder = tmp_path_factory.mktemp("two")
    jobs = [
        arguments(family, folder / f"{family}-{way}", *NARROW, f"training.engine={engine}",
                  f"training.per_device_batch={size}")
        for family, way in LAUNCHED
        for engine, _, size in (way.partition("-"),)
    ]  # fmt: skip
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    many = ROOT / "tests" / "helpers" / "run_many.py"
    done = launch(folder / "jobs.json", "--undrawn", config="ddp_cpu2", script=many, timeout_s=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


# ---------------------------------------------------------------- the same losses and answers


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_at_first_are_those_of_a_guess(plain, family):
    found = losses(plain / family)
    assert len(set(found)) == 4
    # A start and an end among 48 tokens at most: log(48) is 3.9.
    assert 3 < found[0] < 4.5


@pytest.mark.parametrize(("family", "way"), cover(FAMILIES, WAYS, ["bert", "llama"]))
def test_engines_and_micro_batches_change_no_loss(plain, tmp_path, family, way):
    found = run_here(family, tmp_path, *NARROW, *WAYS[way])
    assert losses(tmp_path) == pytest.approx(losses(plain / family), rel=1e-5)
    assert found.launch.accumulation == (8 if "cut" in way else 1)
    assert found.speed["padding_free"] is ("padded" not in way)
    assert_same_answers(tmp_path, plain / family)


@pytest.mark.parametrize(("family", "way"), LAUNCHED)
def test_two_processes_equal_one(plain, two_processes, family, way):
    folder = two_processes / f"{family}-{way}"
    found = store.read(folder)
    assert (found.status, found.launch.world_size) == ("ok", 2)
    assert found.launch.accumulation == (1 if way == "trainer-8" else 4)
    assert losses(folder) == pytest.approx(losses(plain / family), rel=1e-5)
    assert_same_answers(folder, plain / family)
    assert found.data.splits == store.read(plain / family).data.splits


@pytest.mark.parametrize(("family", "tokens"), cover(FAMILIES, [1, 300], ["llama"]))
def test_the_size_of_batches_that_are_scored_changes_no_answer(plain, tmp_path, family, tokens):
    run_here(family, tmp_path, *NARROW, f"evaluation.batch_tokens={tokens}")
    assert losses(tmp_path) == losses(plain / family)
    assert_same_answers(tmp_path, plain / family, within=1e-5)
    # The very same model: here scores are the same in full.
    for ours, theirs in zip(predictions(tmp_path), predictions(plain / family), strict=True):
        assert [ours["score"], ours["null_score"]] == pytest.approx([theirs["score"], theirs["null_score"]], abs=1e-5)
        assert [item["text"] for item in ours["nbest"]] == [item["text"] for item in theirs["nbest"]]


# ---------------------------------------------------------------- methods


@pytest.mark.parametrize(("method", "family"), cover(METHODS, ["bert", "llama"], ["qlora"]))
def test_methods_train_what_they_say(method, family, tmp_path):
    found = run_here(family, tmp_path, *METHODS[method], "training.engine=loop")
    counts = found.model.parameters
    head = 2 * 64 + 2  # a start and an end
    assert (counts["trainable"] == counts["total"]) is (method == "full")
    assert (counts["trainable"] == head) is (method == "head")
    assert counts["trainable"] >= head
    assert ("nf4" in found.model.dtypes) is (method == "qlora")
    assert found.model.class_ == {"bert": "BertForQuestionAnswering", "llama": "LlamaForQuestionAnswering"}[family]
    assert len(predictions(tmp_path)) == 20


REFUSED = {
    "probe": (["method=probe"], "method: probe learns from one feature per text"),
    "wrong version": (
        ["dataset=passages_v2", "evaluation.metrics=[squad]"],
        "the metric 'squad' does not fit: these data have questions without an answer (SQuAD v2.0); ask for squad_v2",
    ),
    "smoothing": (["training.label_smoothing=0.1"], "label smoothing is not supported for answer spans; remove it"),
    "no room": (["max_length=32", "spans.doc_stride=31"], "leaves no room for question and context"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_is_refused_in_a_sentence(case, tmp_path, capfd):
    extra, sentence = REFUSED[case]
    assert lifecycle.main([str(RECIPE), *extra, "save=false", "--out", str(tmp_path)]) != 0
    told = capfd.readouterr().err
    assert sentence in told
    assert "Traceback" not in told


def test_only_questions_have_spans(tmp_path, capfd):
    recipe = ROOT / "recipes" / "tiny" / "bert-full.yaml"
    assert lifecycle.main([str(recipe), "spans.n_best=5", "--out", str(tmp_path)]) != 0
    assert "spans: `spans` is only for task question_answering with `objective: head`" in capfd.readouterr().err


# ---------------------------------------------------------------- learning


def test_the_recipe_learns(tmp_path):
    assert lifecycle.main([str(RECIPE), "save=false", "--out", str(tmp_path), "--overwrite"]) == 0
    found = store.read(tmp_path)
    assert found.status == "ok"
    before, after = values(found, "before"), values(found)
    assert before["squad_exact_match"] < 0.1
    assert after["squad_exact_match"] > 0.6
    assert after["squad_f1"] >= after["squad_exact_match"]
    assert set(found.baselines["test"]) == {"majority"}
    assert found.baselines["test"]["majority"]["squad_exact_match"] < 0.1


def test_questions_without_an_answer_are_told_apart(tmp_path):
    extra = ["dataset=passages_v2", "save=false", "evaluation.before=false", "training.epochs=14"]
    assert lifecycle.main([str(RECIPE), *extra, "--out", str(tmp_path), "--overwrite"]) == 0
    found = store.read(tmp_path)
    after, floor = values(found), found.baselines["test"]["no_answer"]
    assert after["squad_v2_exact"] > floor["squad_v2_exact"] + 0.05
    # Both kinds, not one at the other's cost.
    assert after["squad_v2_HasAns_exact"] > 0.25
    assert after["squad_v2_NoAns_exact"] > 0.3
    rows = predictions(tmp_path)
    assert {bool(row["reference"]) for row in rows} == {True, False}
    # The answer, the odds and the probability say the same, at the threshold of 0.
    for row in rows:
        assert (row["prediction"] == "") is (row["null_score"] > row["score"]) is (row["scores"]["no_answer"] > 0.5)


def test_a_threshold_moves_what_is_answered(tmp_path):
    answered = {}
    for threshold in (-1000.0, 0.0, 1000.0):
        extra = ["dataset=passages_v2", f"spans.null_score_diff_threshold={threshold}"]
        run_here("bert", tmp_path / str(threshold), *extra)
        answered[threshold] = sum(row["prediction"] != "" for row in predictions(tmp_path / str(threshold)))
    assert answered[-1000.0] == 0 <= answered[0.0] <= answered[1000.0] == 20


# ---------------------------------------------------------------- the record


def test_the_record_counts_questions_not_windows(plain):
    found = store.read(plain / "bert")
    corpus = dataset.load(load(RECIPE).recipe.dataset, {"train": 64, "test": 20}, {"train", "test"})
    splits = found.data.splits
    assert {name: split.examples for name, split in splits.items()} == {"train": 64, "test": 20}
    assert splits["train"].labels == {"unanswerable": 0, "answerable": 64}
    rows = predictions(plain / "bert")
    assert [row["id"] for row in rows] == sorted(row["id"] for row in corpus.splits["test"].rows)
    gold = {row["id"]: row for row in corpus.splits["test"].rows}
    for row in rows:
        assert row["reference"] == gold[row["id"]]["answers"]
        # An answer is a span of its passage, from where it says.
        best, text = row["nbest"][0], gold[row["id"]]["text"]
        assert row["prediction"] == best["text"] == text[best["start"] : best["start"] + len(best["text"])]
        assert row["score"] == best["score"] == max(item["score"] for item in row["nbest"])
    assert found.speed["token_cache"] is False


def test_windows_are_told_of_where_there_are_several(plain, tmp_path):
    found = store.read(plain / "bert")
    notes = [note for note in found.notes if "windows" in note]
    assert any(note.startswith("train: 64 questions were read in ") for note in notes)
    assert any(note.startswith("test: 20 questions were read in ") for note in notes)
    # An epoch is of windows: more steps than questions alone would make.
    assert found.training.epochs < 4 * 16 / 64
    whole = run_here("bert", tmp_path, "max_length=128")
    assert not any("windows" in note for note in whole.notes)
    assert whole.training.epochs == pytest.approx(4 * 16 / 64)


def test_validation_picks_the_best_step(tmp_path):
    extra = [
        "training.evaluate_every=2", "training.best=squad_f1", "limit={train: 64, validation: 20}",
        "evaluation.splits=[validation]", "evaluation.allow_selection_on_test=true", "training.steps=6",
    ]  # fmt: skip
    found = run_here("bert", tmp_path, *extra)
    rows = [row for row in read_lines(tmp_path / "train_log.jsonl") if "validation_squad_f1" in row]
    seen = [row["validation_squad_f1"] for row in rows]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert found.training.best_step == rows[seen.index(max(seen))]["step"]
    assert found.scores["after"]["validation"]["squad_f1"].value == pytest.approx(max(seen), abs=1e-9)


# ---------------------------------------------------------------- saved


SAVED = {
    "bert-full": ("bert", METHODS["full"]),
    "bert-lora": ("bert", METHODS["lora"]),
    "bert-mlp": ("bert", ["head.kind=mlp"]),
    "gemma-full": ("gemma", METHODS["full"]),
    "gemma-lora": ("gemma", METHODS["lora"]),
    "llama-full": ("llama", METHODS["full"]),
    "llama-qlora": ("llama", METHODS["qlora"]),
}


@pytest.mark.parametrize("case", SAVED)
def test_a_saved_model_reads_the_same_spans(case, tmp_path, monkeypatch):
    kept, real = [], saving.save
    monkeypatch.setattr(
        saving, "save", lambda model, *rest, **options: kept.append(model) or real(model, *rest, **options)
    )
    family, extra = SAVED[case]
    run_here(family, tmp_path, *NARROW, *extra, "save=true", "training.engine=loop")
    model, tokenizer, description = saving.load(tmp_path / "model")
    assert (description["task"], description["version"]) == ("question_answering", "1.1")
    resolved = load(RECIPE, (f"max_length={description['max_length']}", "spans.doc_stride=16"))
    corpus = dataset.load(resolved.recipe.dataset, {"test": 20}, {"test"})
    split = span.encode(corpus, tokenizer, resolved.recipe).splits["test"]
    windows = [{**window, "labels": 0} for row in split.features for window in row["windows"]]
    inputs = {key: item for key, item in collate(windows, tokenizer).items() if key != "labels"}
    with torch.no_grad():
        ours, theirs = (item.eval()(**inputs) for item in (model, kept[0]))
    real_tokens = inputs["attention_mask"].bool()
    for one, other in ((ours.start_logits, theirs.start_logits), (ours.end_logits, theirs.end_logits)):
        torch.testing.assert_close(one[real_tokens], other[real_tokens], atol=1e-5, rtol=0)
    assert ours.start_logits[real_tokens].std() > 0.01
