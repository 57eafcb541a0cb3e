"""The forecast of every phase of a run: sharded in all of them, and the largest model that some GPUs train in full."""

import dataclasses

import pytest

from bench.config import resolve
from bench.config.resolve import SHIPPED
from bench.errors import SetupError
from bench.memory import largest, phases, verdict
from bench.memory.planner import MemoryPlan, Parallelism
from bench.utils import hardware
from bench.utils.hardware import CONTEXT, GIB
from tests.helpers.cases import together

RECIPE = SHIPPED / "sst2" / "mistral_7b_v03-text_qlora.yaml"
NAMES = ["load", "before", "train", "after", "save"]


@pytest.fixture(scope="module")
def plan():
    """Mistral-7B, all weights trained."""
    overrides = ("method=full", "training.optimizer=adamw_torch_fused", "training.global_batch=1024")
    return MemoryPlan.of(
        resolve.load(RECIPE, (*overrides, "training.per_device_batch=1")), Parallelism(world=8, zero=3)
    )


def of(plan, **parallelism):
    job = dataclasses.replace(plan, parallelism=Parallelism(**parallelism))
    prediction = job.predict(1, 128)
    return prediction, {phase.name: phase for phase in phases.forecast(job, prediction)}


def test_seven_billion_parameters_fit_eight_small_gpus_with_offload(plan):
    prediction, found = of(plan, world=8, zero=3, offload="cpu")
    assert list(found) == NAMES
    assert prediction.needed == max(phase.gpu for phase in found.values())
    assert prediction.needed < 8 * GIB
    fits, line = verdict.verdict(prediction.needed, verdict.asked_card("24GiB"), "1 x 128 tokens")
    assert fits
    assert line.startswith("fits: ")
    assert all(phase.sharded for phase in found.values())
    assert prediction.parts["gathered weights"] > GIB / 2
    # 24 bytes of each parameter wait on the host: weight and gradient, ZeRO's copies of both, and two moments.
    waiting = 24 * plan.states.num_trainable + 8 * phases.LIBRARIES
    assert found["train"].host == pytest.approx(waiting, rel=0.01)
    assert found["load"].host < found["train"].host / 2


def test_no_phase_asks_for_the_whole_model_where_all_are_sharded(plan):
    for world in (8, 64, 1024):
        prediction, found = of(plan, world=world, zero=3)
        part = plan.states.weights / world
        assert found["load"].gpu < part + 3 * GIB
        for name in ("before", "after"):
            # With what training keeps beside the weights.
            assert part * 5 < found[name].gpu < part * 5 + 5 * GIB
        assert prediction.needed == max(phase.gpu for phase in found.values())


@together("name", NAMES)
def test_memory_falls_with_the_number_of_gpus_in_every_phase(plan, name):
    sizes = [of(plan, world=2**power, zero=3)[1][name].gpu for power in range(11)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 27 * GIB > 6 * GIB > sizes[-1]


@together("zero", [0, 1, 2])
def test_below_stage_three_each_gpu_holds_the_whole_model(plan, zero):
    prediction, found = of(plan, world=8, zero=zero)
    whole, workspace = plan.states.weights + CONTEXT, hardware.cublas_workspace(None)
    # cuBLAS has a workspace for each thread that computed: the forward pass's, and then the backward pass's.
    expected = {"load": whole, "before": whole + workspace, **dict.fromkeys(("after", "save"), whole + 2 * workspace)}
    assert {name: found[name].gpu for name in NAMES if name != "train"} == expected
    assert prediction.whole == whole + 2 * workspace
    assert not any(phase.sharded for phase in found.values())


def test_a_model_in_four_bits_is_loaded_and_saved_whole():
    """bitsandbytes makes its weights of whole ones."""
    resolved = resolve.load(
        RECIPE, ("training.per_device_batch=1", "method.storage=bfloat16", "training.optimizer=adamw_torch")
    )
    job = MemoryPlan.of(resolved, Parallelism(world=8, zero=3))
    prediction = job.predict(1, 128)
    found = {phase.name: phase for phase in phases.forecast(job, prediction)}
    assert [name for name in NAMES if not found[name].sharded] == ["load", "save"]
    assert found["load"].gpu == job.states.weights + CONTEXT
    assert found["save"].gpu == found["load"].gpu + 2 * hardware.cublas_workspace(None)
    assert "whole on each GPU in load, save" in phases.lines(job, prediction)[0]


def test_fsdp2_shards_as_zero_3_does_without_a_copy_for_the_optimizer(plan):
    sizes = {}
    for world in (8, 64, 1024):
        prediction, found = of(plan, world=world, fsdp=True)
        assert list(found) == NAMES
        assert all(phase.sharded for phase in found.values())
        assert prediction.needed == max(phase.gpu for phase in found.values())
        for name in ("weights", "optimizer"):
            assert prediction.parts[name] == pytest.approx(getattr(plan.states, name) / world, rel=0.001)
        assert not {"master weights", "communication"} & set(prediction.parts)
        # What autocast casts is not kept, where blocks are recomputed.
        assert "weights in 16 bits" not in prediction.parts
        sizes[world] = prediction.total
    assert sizes[8] > sizes[64] > sizes[1024]
    kept = plan.resolved.recipe.speed.model_copy(update={"drop_copies": False})
    recipe = plan.resolved.recipe.model_copy(update={"speed": kept})
    copied = dataclasses.replace(plan, resolved=dataclasses.replace(plan.resolved, recipe=recipe), usages={})
    prediction, _ = of(copied, world=1024, fsdp=True)
    assert prediction.parts["weights in 16 bits"] == pytest.approx(2 * plan.states.num_trainable, rel=0.06)
    # Three blocks in float32, and the head, of 0.8 and 0.5 GiB.
    assert found["before"].gpu < of(plan, world=1024, zero=3)[1]["before"].gpu + 3 * GIB
    with pytest.raises(SetupError, match=r"^FSDP2 and ZeRO-3 are two ways to shard a model: take --fsdp or --zero$"):
        Parallelism(world=8, zero=3, fsdp=True)


def test_a_record_has_every_phase(plan):
    job = dataclasses.replace(plan, parallelism=Parallelism(world=8, zero=3))
    prediction = job.predict(1, 128)
    found = phases.as_record(job, prediction)
    assert list(found) == NAMES
    assert found["train"]["gib"] == prediction.total / GIB
    assert all(set(phase) == {"gib", "host_gib", "sharded"} for phase in found.values())
    assert set(phases.as_record(dataclasses.replace(job, on_cpu=True), prediction)["load"]) == {"gib", "sharded"}


def test_lines_name_every_phase(plan):
    job = dataclasses.replace(plan, parallelism=Parallelism(world=16, zero=3))
    gpu, host = phases.lines(job, job.predict(1, 128))
    assert all(name in gpu and name in host for name in NAMES)
    assert "sharded in all of them" in gpu
    assert "a host with 8 GPUs" in host


def test_the_largest_model_fits_and_one_block_more_does_not():
    found = largest.largest(24 * GIB, Parallelism(world=8, zero=3))
    assert found.gpu <= 24 * GIB
    assert 6e9 < found.parameters < 9e9
    more = largest.of(found.blocks + 1, Parallelism(world=8, zero=3))
    assert more.gpu > 24 * GIB
    sentence = largest.sentence(24 * GIB, Parallelism(world=8, zero=3), 512 * GIB)
    assert f"{found.parameters / 1e9:.1f} billion parameters" in sentence
    assert "with offload to 512 GiB of the host" in sentence
    assert largest.largest(1 * GIB, Parallelism(world=8, zero=3)) is None
