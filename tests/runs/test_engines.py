"""The two engines, any accumulation and any number of processes: the same losses, for every head and loss type."""

import gc
import json

import pytest

from bench.records import store
from bench.runner import lifecycle
from bench.training import fit
from bench.utils import process
from tests.helpers import libraries
from tests.helpers.cases import cover
from tests.helpers.launching import NO_DROPOUT, ROOT, launch, losses, read_lines

# Every kind of head in the library: Linear on a pooled token, on every token, RoBERTa's and T5's own, and the MLP.
CASES = {
    "bert": ["model=tiny_bert"],
    "bert-multilabel": ["model=tiny_bert", "dataset=posts"],
    "distilbert": ["model=tiny_distilbert"],
    "roberta": ["model=tiny_roberta"],
    "albert": ["model=tiny_albert"],
    "t5": ["model=tiny_t5"],
    "gpt2": ["model=tiny_gpt2"],
    "llama": ["model=tiny_llama"],
    "gemma": ["model=tiny_gemma"],
    "mistral-multilabel": ["model=tiny_mistral", "dataset=posts"],
    "gpt2-mlp": ["model=tiny_gpt2", "head.kind=mlp"],
    "roberta-mlp": ["model=tiny_roberta", "head.kind=mlp"],
    "bert-smoothed": ["model=tiny_bert", "training.label_smoothing=0.1"],
    "bert-weighted": ["model=tiny_bert", "training.class_weights={negative: 0.05, positive: 0.4}"],
    "bert-focal": ["model=tiny_bert", "training.class_weights=balanced", "training.loss={name: focal, gamma: 1.5}"],
    "distilbert-posts-weighted": ["model=tiny_distilbert", "dataset=posts", "training.class_weights=balanced"],
    "bert-lora": ["model=tiny_bert", "method=lora"],
    "llama-qlora": ["model=tiny_llama", "method=qlora", "method.compute_dtype=float32"],
}
# The same runs where the model learns to write the label: TRL's trainer, and the Trainer for an encoder-decoder.
TEXT_CASES = {
    "gpt2-text": ["model=tiny_gpt2", "objective=text"],
    "gemma2-text-qlora": ["model=tiny_gemma2", "objective=text", "method=qlora", "method.compute_dtype=float32"],
    "t5-text": ["model=tiny_t5", "objective=text"],
}
ALL_CASES = CASES | TEXT_CASES
# With every engine and every cutting, also on two processes; the others with those that can differ most.
FULLY = ("bert", "bert-weighted", "t5", "llama-qlora", "gpt2-text", "t5-text")
LAUNCHED = [
    *((case, "trainer-2") for case in ALL_CASES),
    *((case, way) for case in FULLY for way in ("trainer-4", "loop-4")),
]
# Each architecture that draws dropout, each head that does, and an adapter.
DROPPING = ("bert", "distilbert", "albert", "t5", "gpt2-mlp", "roberta-mlp", "bert-lora", "gpt2-text", "t5-text")
COMMON = [
    "training.epochs=null", "training.steps=4", "training.log_every=1", "training.global_batch=8",
    "training.weight_decay=0.1", "limit={train: 24, test: 16}", "evaluation.before=false", "save=false",
]  # fmt: skip
pytestmark = pytest.mark.usefixtures("bare_runs")


def arguments(case, folder, *extra, dropout=False):
    family = case.split("-")[0]
    off = [] if dropout else [f"model.architecture.{name}=0.0" for name in NO_DROPOUT.get(family, [])]
    off += [] if dropout or "mlp" not in case else ["head.dropout=0.0"]
    recipe = str(ROOT / "recipes" / "tiny" / "bert-full.yaml")
    settings = dict(text.split("=", 1) for text in [*ALL_CASES[case], *COMMON, *off, *extra] if "=" in text)
    flags = [text for text in extra if "=" not in text]
    return [recipe, *(f"{key}={value}" for key, value in settings.items()), *flags, "--out", str(folder), "--overwrite"]


def run_here(case, folder, *extra, dropout=False):
    assert lifecycle.main(arguments(case, folder, *extra, dropout=dropout)) == 0
    return losses(folder)


@pytest.fixture(scope="module")
def plain(bare_runs, tmp_path_factory):
    """One process, one batch of eight, the Trainer: what all else is held against."""
    folder = tmp_path_factory.mktemp("plain")
    return {case: run_here(case, folder / case) for case in ALL_CASES}, folder


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Both engines on two processes, all cases in one launch each way of cutting."""
    folder = tmp_path_factory.mktemp("two")
    jobs = [
        arguments(case, folder / f"{case}-{way}", f"training.engine={engine}", f"training.per_device_batch={size}")
        for case, way in LAUNCHED
        for engine, _, size in (way.partition("-"),)
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    many = ROOT / "tests" / "helpers" / "run_many.py"
    done = launch(folder / "jobs.json", "--undrawn", config="ddp_cpu2", script=many, timeout_s=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("case", CASES)
def test_losses_are_sensible(plain, case):
    values = plain[0][case]
    assert len(values) == 4
    assert all(0.1 < value < 2.0 for value in values), values
    assert len(set(values)) == 4


@pytest.mark.parametrize("case", TEXT_CASES)
def test_losses_of_answers_are_those_of_a_guess_at_first(plain, case):
    # A vocabulary of 2048: log(2048) is 7.6.
    values = plain[0][case]
    assert len(values) == 4
    assert 7 < values[0] < 9
    assert values[-1] < values[0]


@pytest.mark.parametrize("case", DROPPING)
def test_loop_equals_trainer_with_dropout(tmp_path, case):
    by_trainer = run_here(case, tmp_path / "trainer", dropout=True)
    by_loop = run_here(case, tmp_path / "loop", "training.engine=loop", dropout=True)
    assert by_loop == pytest.approx(by_trainer, abs=1e-5)


@pytest.mark.parametrize(
    ("case", "engine"), [*((case, "loop") for case in ALL_CASES), *((case, "trainer") for case in FULLY)]
)
def test_eight_micro_batches_of_one_equal_one_of_eight(plain, tmp_path, case, engine):
    cut = run_here(case, tmp_path / "cut", "training.per_device_batch=1", f"training.engine={engine}")
    assert cut == pytest.approx(plain[0][case], abs=1e-5)


@pytest.mark.parametrize(("case", "way"), LAUNCHED)
def test_two_processes_equal_one(plain, two_processes, case, way):
    folder = two_processes / f"{case}-{way}"
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    assert record["launch"]["world_size"] == 2
    assert record["launch"]["accumulation"] == (2 if way == "trainer-2" else 1)
    assert losses(folder) == pytest.approx(plain[0][case], abs=1e-5)
    ours = read_lines(folder / "predictions" / "after-test.jsonl")
    theirs = read_lines(plain[1] / case / "predictions" / "after-test.jsonl")
    assert [row["id"] for row in ours] == [row["id"] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-4)


def test_the_same_seed_twice_is_identical_and_another_differs(tmp_path):
    first = run_here("gpt2-mlp", tmp_path / "first", dropout=True)
    second = run_here("gpt2-mlp", tmp_path / "second", dropout=True)
    other = run_here("gpt2-mlp", tmp_path / "other", "--seed", "14", dropout=True)
    assert first == second
    same = [(tmp_path / name / "predictions" / "after-test.jsonl").read_bytes() for name in ("first", "second")]
    assert same[0] == same[1]
    assert first != other


def test_adapter_initialisation_follows_the_seed(tmp_path):
    """A seed set too late leaves LoRA's matrices to chance: two seeds must differ at the second step, one must not."""
    runs = [run_here("bert-lora", tmp_path / str(n), "--seed", str(seed)) for n, seed in enumerate((1, 1, 2))]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("engine", ["trainer", "loop"])
def test_best_checkpoint_and_early_stopping(tmp_path, engine):
    extra = [
        "training.evaluate_every=1", "training.best=loss", "training.steps=12", "training.learning_rate=0.3",
        "training.warmup=0", "training.early_stopping={patience: 3, threshold: 0.0}",
        "limit={train: 24, validation: 16}",
        "evaluation.splits=[validation]", "evaluation.allow_selection_on_test=true",
    ]  # fmt: skip
    assert lifecycle.main(arguments("bert", tmp_path, f"training.engine={engine}", *extra)) == 0
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    rows = [row for row in read_lines(tmp_path / "train_log.jsonl") if "validation_loss" in row]
    values = [row["validation_loss"] for row in rows]
    assert record["training"]["stopped_by"] == "early_stopping"
    assert record["training"]["best_step"] == rows[values.index(min(values))]["step"]
    assert len(values) == values.index(min(values)) + 1 + 3
    # The model that is scored at the end is the best one, not the last one.
    assert record["scores"]["after"]["validation"]["loss"]["value"] == pytest.approx(min(values), abs=1e-6)
    assert values[-1] > min(values) + 1e-4
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("engine", ["trainer", "loop"])
def test_budget_in_minutes_ends_a_run(tmp_path, engine):
    extra = ["training.minutes=1e-4", "training.warmup=0"]  # the first step of a warm-up changes nothing
    assert lifecycle.main(arguments("bert", tmp_path, f"training.engine={engine}", *extra)) == 0
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert record["training"]["stopped_by"] == "minutes"
    assert record["training"]["steps"] == 1
    assert [check["ok"] for check in record["checks"]] == [True] * len(record["checks"])


def test_gradient_checkpointing_changes_no_loss(plain, tmp_path):
    for case in ("bert", "gpt2", "bert-lora"):
        cut = run_here(case, tmp_path / case, "training.gradient_checkpointing=true")
        assert cut == pytest.approx(plain[0][case], abs=1e-5)


@pytest.mark.parametrize(("case", "engine"), cover(["bert", "t5", "llama-qlora", "gpt2-text"], ["trainer", "loop"]))
def test_the_fused_optimiser_is_the_default_and_changes_no_loss(plain, tmp_path, case, engine):
    record = json.loads((plain[1] / case / "record.json").read_text(encoding="utf-8"))
    assert record["recipe"]["resolved"]["training"]["optimizer"] == "adamw_torch_fused"
    unfused = run_here(case, tmp_path, "training.optimizer=adamw_torch", f"training.engine={engine}")
    assert unfused == pytest.approx(plain[0][case], abs=2e-6)
    assert unfused != run_here(case, tmp_path, "training.optimizer=sgd", f"training.engine={engine}")


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
@pytest.mark.parametrize("case", ["bert", "gpt2-text", "t5-text"])
def test_batches_are_loaded_for_an_accelerator_as_for_a_cpu(plain, tmp_path, monkeypatch, case):
    taken, real = [], fit.loading
    monkeypatch.setattr(fit, "loading", lambda on_cpu: taken.append(real(False)) or taken[-1])
    assert run_here(case, tmp_path) == plain[0][case]
    assert taken == [
        {
            "dataloader_num_workers": 0,
            "dataloader_pin_memory": True,
            "accelerator_config": {"non_blocking": True, "use_configured_state": True},
        }
    ]
    assert real(True) == {
        "dataloader_num_workers": 0, "dataloader_pin_memory": False,
        "accelerator_config": {"non_blocking": False, "use_configured_state": True},
    }  # fmt: skip


def test_a_tracker_gets_the_losses_and_scores_of_either_engine(tmp_path, monkeypatch):
    libraries.needed("tensorboard")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for engine in ("loop", "trainer"):
        folder = tmp_path / engine
        values = run_here("bert", folder, "trackers=[tensorboard]", f"training.engine={engine}")
        events = EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(values)
        score = store.read(folder).scores["after"]["test"]["accuracy"]
        assert events.Scalars("after/test/accuracy")[-1].value == pytest.approx(score.value)


def test_libraries_are_out_of_the_collector_s_sight_and_what_comes_later_is_not(bare_runs):
    gc.unfreeze()
    with process.imports_without_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    kept = gc.get_freeze_count()
    assert kept > 100_000
    later = [[] for _ in range(1000)]
    with process.imports_without_collection():  # a second run of the process
        assert gc.isenabled()
    assert gc.get_freeze_count() <= kept
    assert all(gc.is_tracked(item) for item in later)
