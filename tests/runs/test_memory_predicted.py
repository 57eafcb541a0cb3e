"""Memory in the record: predicted before training, what is held to the byte, the error where both count the same."""

import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch

from bench.config import resolve
from bench.distributed import sharding
from bench.distributed.signals import StopHandler
from bench.errors import SetupError, StoppedError
from bench.memory import planner, search
from bench.memory.planner import MemoryPlan, Parallelism
from bench.memory.search import Change
from bench.records import record, store
from bench.reporting import run_page
from bench.runner import lifecycle, memory_prediction
from bench.runner.context import RunContext
from bench.runner.memory_prediction import LargestMicroBatch
from bench.training.loss import StepLoss
from bench.training.policy import Policy
from bench.utils.hardware import GIB
from tests.helpers.launching import ROOT

RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
SMALL = [
    *("training.epochs=null", "training.steps=3", "limit={train: 64, test: 16}", "evaluation.before=false"),
    *("method=lora", "training.engine=loop", "training.per_device_batch=8", "speed.padding_free=false", "save=false"),
]


def size(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A real run, its inputs, and the bytes of gradients and of the optimiser that were seen in it."""
    found = SimpleNamespace(folder=tmp_path_factory.mktemp("run"), accelerators=[], gradients=[])
    compare, in_force, check = memory_prediction.compare, sharding.in_force, Policy.check_gradients

    def compared(one):
        found.run = one
        compare(one)

    def seen(accelerator, wrapped):
        found.accelerators.append(accelerator)
        return in_force(accelerator, wrapped)

    def checked(policy, model):
        found.gradients.append(size(item.grad for item in model.parameters() if item.grad is not None))
        check(policy, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_prediction, "compare", compared)
        patch.setattr(sharding, "in_force", seen)
        patch.setattr(Policy, "check_gradients", checked)
        assert lifecycle.main([str(RECIPE), *SMALL, "--out", str(found.folder)]) == 0
    found.record = store.read(found.folder)
    return found


def test_what_is_held_is_exactly_that_of_the_run(done):
    parts = {name: share * GIB for name, share in done.record.memory_predicted["train"]["parts"].items()}
    model = done.run.model
    trained = [item for item in model.parameters() if item.requires_grad]
    frozen = [*(item for item in model.parameters() if not item.requires_grad), *model.buffers()]
    assert parts["weights"] == size(frozen)
    assert parts["adapters and head"] == size(trained)
    assert parts["gradients"] == done.gradients[0] == size(trained)
    (optimizer,) = done.accelerators[0]._optimizers
    state = [item for states in optimizer.optimizer.state.values() for item in states.values()]
    assert parts["optimizer"] == size(state) > 0
    # A CPU has no context of CUDA, and no allocator whose blocks could be of the wrong size.
    assert not set(memory_prediction.UNCOUNTED) & set(parts)


def test_the_prediction_is_the_plan_s_for_the_heaviest_micro_batch(done):
    lengths = done.run.inputs.train.lengths
    order = done.run.fit_inputs.order
    longest = max(max(lengths[row] for row in order[start : start + 8]) for start in range(0, len(order), 8))
    job = MemoryPlan.of(
        done.run.resolved, Parallelism(), precision="no", lengths=done.run.prediction.job.lengths, on_cpu=True
    )
    predicted = done.record.memory_predicted["train"]
    assert predicted == job.predict(8, longest).as_record()["train"]
    assert (predicted["rows"], predicted["length"], predicted["accumulation"]) == (8, longest, 4)
    assert predicted["total_gib"] == pytest.approx(sum(predicted["parts"].values()))


def test_on_a_cpu_no_error_is_given_and_it_is_said_why(done):
    found = done.record.memory_predicted
    assert found["error"] is found["measured"]["gib"] is None
    assert found["no_error"] == memory_prediction.NOT_COMPARABLE
    assert found["measured"]["grown_gib"] >= 0
    page = run_page.run_report(done.record, done.folder)
    assert "memory: predicted " in page
    assert "no comparable measurement: a CPU has no allocator" in page


def test_a_plan_draws_nothing_from_the_run_s_random_numbers(done):
    before = torch.get_rng_state()
    again = memory_prediction.plan_memory(done.run)
    assert torch.equal(before, torch.get_rng_state())
    assert again.prediction == done.run.prediction.prediction


def on_gpu(done, **changes):
    """The same run, had it been on a GPU whose allocator had counted 2 GiB."""
    job = MemoryPlan.of(done.run.resolved, Parallelism(), precision="no", lengths=done.run.prediction.job.lengths)
    length = done.run.prediction.prediction.length
    known = memory_prediction.PredictedMemory(
        job=job, order=done.run.prediction.order, without_pads=False, prediction=job.predict(8, length)
    )
    told = known.prediction.as_record()
    kept = done.record.model_copy(deep=True, update={"memory_predicted": told})
    kept.memory["train"] |= {"allocated_gib": 2.0, "reserved_gib": 2.5}
    state = SimpleNamespace(device=torch.device("cuda"), is_main_process=True)
    known_to_all = {name: getattr(done.run, name) for name in ("inputs", "budget", "progress", "fit_result")}
    return SimpleNamespace(record=kept, prediction=known, state=state, **{**known_to_all, **changes})


def test_on_a_gpu_the_error_is_of_what_its_allocator_counts(done):
    one = on_gpu(done)
    memory_prediction.compare(one)
    told = one.record.memory_predicted
    counted = told["train"]["total_gib"] - sum(told["train"]["parts"][name] for name in memory_prediction.UNCOUNTED)
    assert told["compared"]["gib"] == pytest.approx(counted)
    assert told["error"] == pytest.approx(counted / 2 - 1)
    assert told["measured"] == {"gib": 2.0, "reserved_gib": 2.5, "of": memory_prediction.ALLOCATED}
    page = run_page.run_report(one.record, done.folder)
    assert f"measured 2 GiB (error {100 * told['error']:.1f} %)" in page
    assert "| CUDA | 512 MiB |" in page


def test_the_error_is_of_the_steps_that_were_done(done):
    one = on_gpu(done, progress=SimpleNamespace(step=3, steps=SimpleNamespace(counts=[None])))
    features, size = done.run.inputs.train.features, done.run.budget.global_batch
    last = memory_prediction.largest_micro_batch(features, done.run.fit_inputs.order[2 * size :], 8, without_pads=False)
    memory_prediction.compare(one)
    assert one.record.memory_predicted["compared"]["length"] == last.length
    assert one.prediction.job.predict(8, last.length).total <= one.prediction.prediction.total


def test_what_was_not_measured_gives_no_error(done):
    one = on_gpu(done)
    one.record.memory["train"]["allocated_gib"] = None
    memory_prediction.compare(one)
    assert one.record.memory_predicted.get("error") is None
    assert "does not tell" in one.record.memory_predicted["no_error"]


def row(tokens, answers=None):
    """An example of so many tokens; answers: labels beside them, or an encoder-decoder's own, negative."""
    made = {"input_ids": list(range(tokens))}
    if answers is not None:
        made["token_labels"] = [1] * -answers if answers < 0 else [-100] * (tokens - answers) + [1] * answers
    return made


@pytest.mark.parametrize(
    ("features", "without_pads", "expected"),
    [
        ([row(3), row(9), row(7), row(8)], False, (2, 9, 0)),
        ([row(3), row(9), row(7), row(8)], True, (2, 8, 0)),  # 15 tokens in place of 12
        ([row(3, 1), row(9, 2), row(7, 3), row(8, 4)], True, (2, 8, 4)),
        ([row(9, -1), row(9, -1), row(8, -30), row(8, -2)], False, (2, 8, 30)),
    ],
)
def test_the_heaviest_micro_batch_by_hand(features, without_pads, expected):
    found = memory_prediction.largest_micro_batch(features, [0, 1, 2, 3], 2, without_pads)
    assert found == LargestMicroBatch(**dict(zip(("rows", "length", "answers"), expected, strict=True)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Parallelism(world=4)),
        ({"USE_DEEPSPEED": "true", "DEEPSPEED_ZERO_STAGE": "2"}, Parallelism(world=4, zero=2)),
        (
            {"USE_DEEPSPEED": "true", "DEEPSPEED_ZERO_STAGE": "3", "DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu",
             "DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"},
            Parallelism(world=4, zero=3, offload="cpu"),
        ),
        (
            {"USE_DEEPSPEED": "true", "DEEPSPEED_ZERO_STAGE": "3", "DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"},
            "with the optimizer's state on cpu, weights on none",
        ),
        (
            {"USE_DEEPSPEED": "true", "DEEPSPEED_ZERO_STAGE": "2", "DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "nvme"},
            "optimizer's state on nvme",
        ),
        ({"USE_DEEPSPEED": "true", "DEEPSPEED_ZERO_STAGE": "0"}, "DeepSpeed without ZeRO"),
        ({"USE_FSDP": "true"}, Parallelism(world=4, fsdp=True)),
        ({"USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}, "FSDP2 with its weights on the host"),
        ({"USE_FSDP": "true", "FSDP_RESHARD_AFTER_FORWARD": "false"}, "FSDP2 with weights that stay gathered"),
        (
            {"USE_DEEPSPEED": "true", "DEEPSPEED_CONFIG_FILE": {"stage": 1, "offload_optimizer": {"device": "cpu"}}},
            Parallelism(world=4, zero=1, offload="cpu"),
        ),
    ],
)  # fmt: skip
def test_the_launcher_s_way_to_spread_a_run(monkeypatch, tmp_path, changes, expected):
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        monkeypatch.delenv(name)
    for name, value in changes.items():
        if isinstance(value, dict):
            (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": value}), encoding="utf-8")
            value = str(tmp_path / "ds.json")
        monkeypatch.setenv(name if name.startswith("FSDP_") else f"ACCELERATE_{name}", value)
    if isinstance(expected, Parallelism):
        assert memory_prediction.requested_parallelism(4) == expected
    else:
        with pytest.raises(SetupError, match=expected):
            memory_prediction.requested_parallelism(4)


def blank(done):
    """A run of which nothing is predicted yet."""
    return SimpleNamespace(
        record=done.record.model_copy(deep=True, update={"memory_predicted": None, "notes": []}),
        state=done.run.state, resolved=done.run.resolved, prediction=None,
        inputs=done.run.inputs, budget=done.run.budget, model=done.run.model,
    )  # fmt: skip


def test_a_plan_that_fails_is_noted_and_fails_no_run(done, monkeypatch):
    one = blank(done)
    monkeypatch.setattr(planner.MemoryPlan, "of", lambda *_, **__: 1 // 0)
    memory_prediction.predict(one)
    assert one.record.memory_predicted["train"] is None
    assert one.record.memory_predicted["reason"].startswith("the plan failed: ZeroDivisionError")
    assert one.record.notes == [f"memory was not predicted: {one.record.memory_predicted['reason']}"]
    assert "Peak memory was not predicted: the plan failed" in run_page.run_report(one.record, done.folder)


def test_what_can_not_be_planned_says_why(done):
    one = blank(done)
    one.inputs, one.budget = SimpleNamespace(plan=SimpleNamespace(trains="features"), train=None), None
    memory_prediction.predict(one)
    assert one.record.memory_predicted == {"train": None, "reason": "method 'lora' trains nothing by gradients"}
    assert one.record.notes == []


def test_an_outline_that_is_not_the_model_is_noted(done):
    one = blank(done)
    one.record.model.parameters["trainable"] += 1
    memory_prediction.predict(one)
    assert one.record.memory_predicted["train"]
    assert one.record.notes[0].startswith("memory was predicted for ")


def test_a_signal_during_the_plan_ends_the_run(done, monkeypatch):
    one, kept = blank(done), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(planner.MemoryPlan, "of", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    signal.signal(signal.SIGTERM, StopHandler())
    try:
        with pytest.raises(StoppedError):
            memory_prediction.predict(one)
    finally:
        signal.signal(signal.SIGTERM, kept)


def test_out_of_memory_in_a_step_tells_the_batch_in_hand(tmp_path, monkeypatch, capsys):
    """A real allocation that fails, in the second step of a real run that would fit."""
    batch_loss, batches = StepLoss.batch_loss, []

    def needs_more(loss_of, model, batch, items):
        batches.append(batch)
        in_first_step = len(batches) <= loss_of.inputs.budget.accumulation
        return batch_loss(loss_of, model, batch, items) if in_first_step else torch.empty(2**50)

    monkeypatch.setattr(StepLoss, "batch_loss", needs_more)
    assert lifecycle.main([str(RECIPE), *SMALL, "--out", str(tmp_path)]) == 3
    left = store.read(tmp_path)
    oom = left.oom
    assert (left.status, oom.phase, oom.step, oom.rows) == ("oom", "train", 2, 8)
    assert 1 < oom.length <= 128
    assert oom.asked_bytes == 2**52
    assert oom.predicted_gib == left.memory_predicted["train"]["total_gib"]
    assert oom.largest_rows > 8
    assert [one.change for one in oom.advice] == ["training.per_device_batch=4"]
    assert "in step 2 with a micro-batch of 8 x " in left.reason
    assert "4,194,304 GiB more were asked for" in left.reason
    assert "are enough, so that it is wrong, or something else takes memory; to make it fit: " in left.reason
    assert f"oom: {left.reason}" in capsys.readouterr().err
    assert "## Out of memory" in (tmp_path / "report.md").read_text(encoding="utf-8")


def short_of(done, size, **changes):
    """The same run, had it run out of so many bytes."""
    oom = record.OutOfMemory(phase="train", memory="host", limit="x", capacity_bytes=size, **changes)
    kept = done.record.model_copy(deep=True, update={"oom": oom})
    one = RunContext(resolved=done.run.resolved, record=kept, folder=done.folder)
    one.state, one.inputs, one.budget = done.run.state, done.run.inputs, done.run.budget
    one.prediction, one.model, one.fit_inputs = done.run.prediction, torch.nn.Linear(1, 1), done.run.fit_inputs
    one.fit_result = done.run.fit_result
    return one


def test_the_largest_micro_batch_that_fits_is_advised(done):
    known = done.run.prediction
    need = known.job.predict(5, known.job.lengths.longest).needed
    one = short_of(done, need + 7, before_bytes=7)
    said = memory_prediction.advise(one)
    assert one.record.oom.largest_rows == 5
    # 4, for the share of 32 divides by it.
    assert "to make it fit: training.per_device_batch=4 (no other result" in said
    assert one.model is one.fit_inputs is one.fit_result is None


def test_a_run_that_found_no_micro_batch_by_itself_is_advised_too(done):
    one = short_of(done, 1000)
    one.prediction, one.budget = None, None
    assert "take a smaller model" in memory_prediction.advise(one)
    assert one.record.oom.predicted_gib > 0


def test_a_comparison_that_fails_is_noted_and_fails_no_run(done):
    one = on_gpu(done)
    one.record.memory["train"]["allocated_gib"] = "apples"
    memory_prediction.compare(one)
    assert one.record.notes[-1].startswith("memory was not compared with its prediction: TypeError")


def test_other_changes_are_advised_where_no_micro_batch_fits(done):
    full = ["method=full" if item == "method=lora" else item for item in SMALL]
    lengths = done.run.prediction.job.lengths
    job = MemoryPlan.of(resolve.load(RECIPE, tuple(full)), Parallelism(), precision="no", lengths=lengths, on_cpu=True)
    room = job.predict(1, lengths.longest).needed - 1000
    one = short_of(done, room)
    # As of a run that ended before anything was predicted.
    one.resolved, one.prediction = job.resolved, None
    said = memory_prediction.advise(one)
    changes = [change.change for change in one.record.oom.advice]
    assert one.record.oom.largest_rows == 0
    assert changes
    assert all(change in said for change in changes)
    load = search.loader(RECIPE, tuple(full))
    found = MemoryPlan.of(load(tuple(changes)), Parallelism(), precision="no", lengths=lengths, on_cpu=True)
    assert found.predict(found.budget.per_device_batch, lengths.longest).needed <= room
    assert memory_prediction.advise(short_of(done, 1000)).endswith("take a smaller model, shorter texts or more memory")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"phase": "score_after"}, "lower evaluation.batch_tokens"),
        ({"capacity_bytes": None}, "the capacity is not known"),
    ],
)
def test_where_the_plan_has_nothing_to_say_it_says_why(done, changes, words):
    one = short_of(done, GIB)
    one.record.oom = one.record.oom.model_copy(update=changes)
    assert words in memory_prediction.advise(one)
    assert one.record.oom.advice == []


def test_advice_that_fails_is_told(done, monkeypatch):
    monkeypatch.setattr(search, "largest_batch", lambda *_: 1 // 0)
    said = memory_prediction.advise(short_of(done, GIB))
    assert "no advice, for the plan failed: ZeroDivisionError" in said
    assert said.endswith("use method lora or qlora")


def test_a_spread_is_typed_as_a_config_that_is_shipped():
    found = [Change(what="", costs="", parallelism={"zero": stage}) for stage in (1, 2, 3)]
    found.append(Change(what="", costs="", parallelism={"zero": 3, "offload": "cpu"}))
    for change in found:
        option, path = memory_prediction.as_typed(change).split(" ")
        assert option == "--config_file"
        assert (ROOT / path).is_file()
    both = Change(what="", costs="", overrides=("a=1", "b=2"))
    assert memory_prediction.as_typed(both) == "a=1 b=2"
