"""One recipe, spread in every way over two processes: the losses, predictions and saved models of one process.

Real launches on the CPU: DDP, DeepSpeed's ZeRO-1, 2, 3 and offload, FSDP2. docs/clusters.md says what ran here.
"""

import json
import re
import subprocess
import sys

import pytest
from safetensors import safe_open

from bench.data.builtin import corpora
from bench.records import store
from tests.helpers.launching import NO_DROPOUT, ROOT, environment, launch, losses, read_lines

# Divisible by one, two and three processes; 24 examples make two epochs of it.
COMMON = [
    "training.epochs=null", "training.steps=4", "training.global_batch=12", "training.log_every=1",
    "training.weight_decay=0.1", "limit={train: 24, validation: 12, test: 14}", "evaluation.before=false",
]  # fmt: skip
STILL_BERT = ["bert-full", *(f"model.architecture.{name}=0.0" for name in NO_DROPOUT["bert"])]
# The storage type is the one that 4-bit weights need to be divided; it changes no number.
JOBS = {
    "full": STILL_BERT,
    "lora": ["mistral-lora"],
    "qlora": ["llama-qlora", "method.storage=float32"],
    "head": [*STILL_BERT, "method=head"],
    "text": ["mistral-text_lora", "training.gradient_checkpointing=true"],
    "text_full": ["mistral-text_lora", "method=full"],
    "generate": ["mistral-text_lora", "prompting={answer: generate, max_new_tokens: 8}"],
    "best": [*STILL_BERT, "training.evaluate_every=1", "training.best=loss", "training.learning_rate=0.3"],
}
# The same jobs, of which each process loads and saves its shards alone.
SHARDED = {"full_shards": "text_full", "lora_shards": "lora", "best_shards": "best"}
JOBS |= {name: [*JOBS[job], "speed.sharded_load=true"] for name, job in SHARDED.items()}
# Way to spread -> (accelerate config, options of the launcher, what the record must say of it).
WAYS = {
    "ddp": ("ddp_cpu2", (), {"distributed_type": "MULTI_CPU", "zero_stage": None}),
    "ddp3": ("ddp_cpu2", ("--num_processes", "3"), {"distributed_type": "MULTI_CPU", "world_size": 3}),
    "zero1": ("zero1_cpu2", (), {"distributed_type": "DEEPSPEED", "zero_stage": 1, "offload_optimizer": None}),
    "zero2": ("zero2_cpu2", (), {"distributed_type": "DEEPSPEED", "zero_stage": 2, "offload_optimizer": None}),
    "zero3": ("zero3_cpu2", (), {"distributed_type": "DEEPSPEED", "zero_stage": 3, "offload_parameters": None}),
    "offload": (
        "zero3_offload_cpu2",
        (),
        {"zero_stage": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu"},
    ),
    "fsdp2": ("fsdp2_cpu2", (), {"distributed_type": "FSDP", "zero_stage": None}),
}
# The table of docs/clusters.md; the other jobs run where most can go wrong.
TABLE = ("full", "lora", "qlora", "head", "text")
THOROUGHLY = ("ddp", "zero3", "fsdp2")
SHARDING = ("zero3", "fsdp2")
# The optimiser on the CPU rounds otherwise: 4e-6 in a loss after four steps.
TOLERANCE = 1e-4


def run_all(folder, names, config, options=()):
    """Jobs in one launch; the folder of each."""
    jobs = [
        [f"recipes/tiny/{recipe}.yaml", *settings, *COMMON, "--out", str(folder / name)]
        for name, (recipe, *settings) in JOBS.items()
        if name in names
    ]
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    many = ROOT / "tests" / "helpers" / "run_many.py"
    done = launch(folder / "jobs.json", "--undrawn", config=config, script=many, options=options, timeout_s=900)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("spread")


@pytest.fixture(scope="module")
def alone(folder):
    return run_all(folder / "alone", [job for job in JOBS if job not in SHARDED], "cpu")


class Launches(dict):
    """The run folders of a way to spread, launched when they are first asked for."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def __missing__(self, way):
        config, options, _ = WAYS[way]
        self[way] = run_all(self.folder / way, jobs_of(way), config, options)
        return self[way]


@pytest.fixture(scope="module")
def spread(folder):
    return Launches(folder)


def jobs_of(way):
    if way not in THOROUGHLY:
        return TABLE
    return tuple(job for job in JOBS if way in SHARDING or job not in SHARDED)


def cells():
    return [pytest.param(way, job, id=f"{job}-{way}") for way in WAYS for job in jobs_of(way)]


@pytest.mark.parametrize(("way", "job"), cells())
def test_losses_and_predictions_are_those_of_one_process(alone, spread, way, job):
    found = store.read(spread[way] / job)
    assert found.status == "ok"
    expected = {"world_size": 2, "num_machines": 1, "backend": "gloo", **WAYS[way][2]}
    launched = found.launch.model_dump()
    assert {key: launched[key] for key in expected} == expected
    assert launched["command"][:2] == ["accelerate", "launch"]
    assert [name for name in found.files if name.startswith("accelerate/")] == [f"accelerate/{WAYS[way][0]}.yaml"]
    same = SHARDED.get(job, job)
    assert losses(spread[way] / job) == pytest.approx(losses(alone / same), abs=TOLERANCE)
    ours = read_lines(spread[way] / job / "predictions" / "after-test.jsonl")
    theirs = read_lines(alone / same / "predictions" / "after-test.jsonl")
    assert [row["id"] for row in ours] == [row["id"] for row in theirs]
    assert len(ours) == 14
    for one, other in zip(ours, theirs, strict=True):
        assert one["prediction"] == other["prediction"]
        assert one.get("text") == other.get("text")
        if job != "generate":
            assert one["scores"] == pytest.approx(other["scores"], abs=TOLERANCE)


@pytest.mark.parametrize("way", WAYS)
def test_settings_are_read_back_from_what_each_library_made_of_them(alone, spread, way):
    """Rates, decay, clipping and batch are those of one process, also where DeepSpeed or FSDP hold them."""
    one, other = (store.read(folder / "full").training.in_force for folder in (alone, spread[way]))
    names = ("learning_rate", "weight_decay", "rates", "clip_norm", "global_batch")
    assert {name: other["found"][name] for name in names} == {name: one["found"][name] for name in names}
    assert None not in [one["found"][name] for name in names]
    assert other["found"]["weight_decay"] == 0.1
    assert other["asked"] == one["asked"]


@pytest.mark.parametrize("way", THOROUGHLY)
def test_the_best_step_is_that_of_one_process(alone, spread, way):
    rows = {folder: read_lines(folder / "best" / "train_log.jsonl") for folder in (alone, spread[way])}
    values = {folder: [row["validation_loss"] for row in rows[folder] if "validation_loss" in row] for folder in rows}
    assert len(values[alone]) == 4
    assert values[spread[way]] == pytest.approx(values[alone], abs=1e-3)
    one, other = (store.read(folder / "best").training for folder in (alone, spread[way]))
    assert other.best_step == one.best_step
    assert other.best_value == pytest.approx(min(values[alone]), abs=1e-3)


def test_an_output_head_that_fsdp_divides_computes_all_logits(spread):
    for way, reason in {"fsdp2": "has an output head that is trained, and that FSDP shards", "zero3": None}.items():
        found = store.read(spread[way] / "text_full")
        assert found.speed["answer_logits"] == (reason is None)
        assert any(reason in note for note in found.notes) if reason else True
        assert store.read(spread[way] / "text").speed["answer_logits"]


@pytest.mark.parametrize("way", WAYS)
def test_memory_is_told_of_every_process(spread, way):
    found = store.read(spread[way] / "full")
    per_rank = found.memory["train"]["per_rank"]
    assert len(per_rank) == found.launch.world_size
    assert all(rank["rss_gib"] > 0.05 for rank in per_rank)
    # Whole weights at the end are not counted among what the steps need.
    assert ("gather" in {phase.name for phase in found.phases}) == (way not in ("ddp", "ddp3"))
    assert ("gather" in found.memory) == (way not in ("ddp", "ddp3"))


def weights(folder):
    """Name -> tensor of all that was saved of a model or adapter."""
    found = {}
    for path in sorted((folder / "model").glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return found


@pytest.mark.parametrize(("way", "job"), cells())
def test_the_saved_model_is_whole(alone, spread, way, job):
    ours, theirs = weights(spread[way] / job), weights(alone / SHARDED.get(job, job))
    assert len(theirs) > 3
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    for name, value in theirs.items():
        assert float((ours[name].float() - value.float()).abs().max()) < 2e-3, name


@pytest.mark.parametrize("job", SHARDED)
@pytest.mark.parametrize("way", SHARDING)
def test_each_process_loads_and_saves_its_shards_alone(spread, way, job):
    found, plain = (store.read(spread[way] / name) for name in (job, SHARDED[job]))
    asked = "sharded: speed.sharded_load: true"
    assert (found.sharded_phases["load"], found.sharded_phases["save"]) == (asked, asked)
    assert plain.sharded_phases["load"].startswith("whole on each process: the whole weights take ")
    (checked,) = [check for check in found.checks if check.name == "saved_model"]
    assert checked.ok
    assert checked.detail == "the saved weights, read again by 2 processes, are those of the run's model"
    # What was measured of the model's kernels and losses was measured on it, layer by layer.
    for name in ("padding_free", "answer_logits"):
        assert found.speed.get(name) == plain.speed.get(name)
    assert found.speed["training_check"]["gradients"]["parameters"] == 8
    assert not list((spread[way] / job).rglob(".parameters"))


@pytest.fixture(scope="module")
def reloaded(spread, folder):
    """In a fresh process, by plain transformers and peft: probabilities of some texts, of each divided run's model."""
    asked = {}
    for way in ("zero2", "zero3", "offload", "fsdp2"):
        for job in ("full", "lora", "qlora", "text", *(["lora_shards"] if way in SHARDING else [])):
            run = spread[way] / job
            asked[str(run)] = [row["text"] for row in some_texts(run)]
    (folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    script = [sys.executable, str(ROOT / "tests" / "helpers" / "plain_reload.py"), str(folder / "asked.json")]
    done = subprocess.run(script, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def some_texts(folder):
    ids = {row["id"] for row in read_lines(folder / "predictions" / "after-test.jsonl")}
    return [row for row in corpora.generate(store.read(folder).data.id)["test"] if row["id"] in ids]


@pytest.mark.parametrize("job", ["full", "lora", "qlora", "text"])
@pytest.mark.parametrize("way", ["zero2", "zero3", "offload", "fsdp2"])
def test_a_fresh_process_scores_with_the_saved_model(spread, reloaded, way, job):
    run = spread[way] / job
    rows = {row["id"]: row for row in read_lines(run / "predictions" / "after-test.jsonl")}
    labels = store.read(run).data.labels
    texts = some_texts(run)
    assert len(texts) == 14
    for text, probabilities in zip(texts, reloaded[str(run)], strict=True):
        # Of written answers, log-likelihoods are kept, whose softmax over the labels is what the plain script gives.
        scores = rows[text["id"]]["scores"]
        if job != "text":
            assert probabilities == pytest.approx([scores[label] for label in labels], abs=1e-4)
        else:
            assert labels[probabilities.index(max(probabilities))] == rows[text["id"]]["prediction"]


def test_the_pages_say_what_these_tests_run():
    """Each cell of the table is a test above, or a sentence below it."""
    text = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    table = re.search(r"^\| method \|.*DDP.*\n\|[-:| ]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table is not None
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.group(1).splitlines()]
    assert {row[0] for row in rows} >= {"full", "lora", "qlora", "head"}
    for row in rows:
        assert row[0] in TABLE
        assert len(row) == 1 + len(set(WAYS) - {"ddp3"})
        assert set(row[1:]) <= {"✓", "✓ ¹"}
