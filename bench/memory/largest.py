"""Finds the largest model that some GPUs train in full: how many blocks a Llama may have, in every phase of its run."""

import functools
from dataclasses import dataclass, replace

from bench.config import resolve
from bench.config.resolve import SHIPPED
from bench.memory.phases import PhaseMemory, forecast
from bench.memory.planner import MemoryPlan, Parallelism, Prediction
from bench.utils.hardware import GIB

# Blocks as Llama 3's and Mistral's of 7 to 8 billion parameters have them, with Llama 3's vocabulary.
BLOCK = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "tie_word_embeddings": "false",
}  # fmt: skip
LENGTH = 2048
# What is predicted: needs grow with the number of blocks in a straight line.
FEW, MORE = 4, 8


@dataclass(frozen=True, kw_only=True)
class Largest:
    """A model that fits, of which one block more would not. parameters: all of them trained."""

    blocks: int
    parameters: int
    prediction: Prediction
    phases: list[PhaseMemory]

    @property
    def gpu(self) -> int:
        """Return the bytes of each GPU in the phase that needs most."""
        return max(phase.gpu for phase in self.phases)

    @property
    def host(self) -> int:
        """Return the bytes of a host in the phase that needs most."""
        return max(phase.host for phase in self.phases)


def largest(gpu_bytes: int, parallelism: Parallelism, host_bytes: int | None = None) -> Largest | None:
    """Return the largest Llama that is trained in full, bf16, AdamW, one recomputed text of 2,048 tokens on each GPU.

    gpu_bytes: of each GPU. host_bytes: of each host; None for as much as it takes. None where not even two blocks fit.
    """
    few, more = (of(blocks, parallelism) for blocks in (FEW, MORE))
    limits = [(few.gpu, more.gpu, gpu_bytes)] + ([] if host_bytes is None else [(few.host, more.host, host_bytes)])
    most = min(FEW + int((MORE - FEW) * (most - low) / max(1, high - low)) for low, high, most in limits)
    for blocks in range(max(2, most + 1), max(1, most - 3), -1):
        found = of(blocks, parallelism)
        if found.gpu <= gpu_bytes and (host_bytes is None or found.host <= host_bytes):
            return found
    return None


@functools.cache
def _plan(blocks: int) -> MemoryPlan:
    sizes = {**BLOCK, "num_hidden_layers": blocks}
    overrides = [f"model.architecture.{name}={value}" for name, value in sizes.items()]
    overrides += ["objective=text", f"max_length={LENGTH}", "training.global_batch=1024"]
    overrides += ["training.per_device_batch=1", "training.gradient_checkpointing=true"]
    return MemoryPlan.of(resolve.load(SHIPPED / "sst2" / "llama32_1b-full.yaml", tuple(overrides)), Parallelism())


def of(blocks: int, parallelism: Parallelism) -> Largest:
    """Return the forecast of a Llama of so many blocks, whether or not it fits anything."""
    plan = replace(_plan(blocks), parallelism=parallelism)
    prediction = plan.predict(1, LENGTH)
    return Largest(
        blocks=blocks,
        parameters=plan.states.num_trainable,
        prediction=prediction,
        phases=forecast(plan, prediction),
    )


def sentence(gpu_bytes: int, parallelism: Parallelism, host_bytes: int) -> str:
    """Return what a node of so many GPUs trains at most, with and without offload to a host of so much memory."""
    words, world = [], parallelism.world
    for offload, memory in (("none", None), ("cpu", host_bytes)):
        way = replace(parallelism, offload="none")
        if offload == "cpu":
            way = Parallelism(world=world, zero=3, offload="cpu")
        found = largest(gpu_bytes, way, memory)
        where = f"with {way.kind}" if offload == "none" else f"with offload to {host_bytes / GIB:.0f} GiB of the host"
        if found is None:
            words.append(f"{where} none")
        else:
            sizes = f"{found.gpu / GIB:.1f} GiB on each GPU, {found.host / GIB:.0f} GiB on the host"
            words.append(f"{where} one of {found.parameters / 1e9:.1f} billion parameters ({sizes})")
    return (
        f"largest Llama that {world} x {gpu_bytes / GIB:.0f} GiB train in full, in blocks as Llama 3's, by AdamW in "
        f"float32 with bf16 autocast, one recomputed text of {LENGTH:,} tokens on each GPU, whatever this recipe has: "
        f"{'; '.join(words)}"
    )
