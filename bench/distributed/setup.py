"""The processes of a run and the machine they run on: started, then read back; versions and hardware."""

import os
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, broadcast_object_list, gather_object

from bench.config import bf16_products
from bench.config.contracts import LoadPlan
from bench.config.recipe import Recipe
from bench.distributed import launcher, sharding, signed_store, watchdog
from bench.errors import SetupError
from bench.models.library_internals import accelerate_internals
from bench.utils import cuda, hardware

# A size such as 12GiB: a run is held to what a GPU of that size has, on whatever GPU it runs.
MEMORY_CAP = "BENCH_MEMORY_CAP"


def start(timeout_s: float = 600.0) -> PartialState:
    """Join the processes that the launcher started. Raises SetupError when the world is not the one asked for.

    timeout_s: how long a process waits for the others, less what the watch over them needs to say whose fault it is.
    """
    wanted = launcher.launch_config()
    # Of a launch of several, the environment does not tell that its config says use_cpu.
    use_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true") or bool(wanted and wanted.use_cpu)
    on_cpu = not torch.cuda.is_available() or use_cpu
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed looks for a GPU, and complains
    check_precision(on_cpu)
    asked = int(os.environ.get("WORLD_SIZE", "1") or 1)
    launcher.check(asked, gpus=torch.cuda.device_count(), on_cpu=use_cpu)
    state = _join(asked, on_cpu, timedelta(seconds=timeout_s + watchdog.COLLECTIVES_WAIT_LONGER_S))
    if state.num_processes != asked:
        raise SetupError(f"{asked} processes were asked for, but {state.num_processes} came about")
    if int(os.environ.get("LOCAL_WORLD_SIZE") or asked) < asked:  # processes of one machine are one person's
        signed_store.check_agreement(gather_object([signed_store.fingerprint()]))
    cap_memory(state.device)
    return state


def memory_cap() -> int | None:
    """Return the bytes that BENCH_MEMORY_CAP asks for; None where it is not set. Raises SetupError for other text."""
    asked = os.environ.get(MEMORY_CAP, "").strip()
    try:
        return hardware.memory(asked) if asked else None
    except SetupError as error:
        raise SetupError(f"{MEMORY_CAP}: {error}") from error


def cap_memory(device: torch.device) -> None:
    """Hold this process to BENCH_MEMORY_CAP: torch gets that size, less what CUDA takes for itself on any GPU.

    More is out of memory, as on a GPU of that size. bitsandbytes' paged memory is not torch's, and not held back.
    Raises SetupError on a CPU, whose memory is not torch's to count, and for a size that the GPU does not have.
    """
    size = memory_cap()
    if size is None:
        return
    if device.type != "cuda":
        raise SetupError(f"{MEMORY_CAP} holds runs on a GPU to a size; this one is on the CPU: unset it")
    total = cuda.free_and_total(device)[1]
    size = within(size, total)
    cuda.allow(device, size - hardware.CONTEXT)


def within(size: int, total: int) -> int:
    """Return a cap in bytes for a GPU of `total` bytes: drivers differ by some, so that one just above it is all of it.

    Raises SetupError for a cap that is above the GPU's memory, or leaves nothing beside CUDA's context.
    """
    if not hardware.CONTEXT < size <= hardware.DRIVERS_DIFFER * total:
        asked, least, most = os.environ[MEMORY_CAP], hardware.CONTEXT / hardware.GIB, total / hardware.GIB
        wrong = "more than this GPU has" if size > total else "too little for CUDA itself"
        raise SetupError(
            f"{MEMORY_CAP} is {asked} ({size / hardware.GIB:.2f} GiB usable), {wrong}; take more than {least:g} and at "
            f"most {most:.2f} GiB"
        )
    return min(size, total)


def _join(asked: int, on_cpu: bool, timeout: timedelta) -> PartialState:
    # Another run of this process may have left its own.
    accelerate_internals.reset_state(processes=True)
    if not on_cpu:
        return PartialState(timeout=timeout)
    if sharding.requested_backend() is None:
        # Without an explicit backend each of several CPU processes would believe itself alone.
        return PartialState(cpu=True, backend="gloo" if asked > 1 else None, timeout=timeout)
    if torch.cuda.is_available():
        raise SetupError(
            "DeepSpeed and FSDP take the GPUs that there are; to run on the CPU, hide them: CUDA_VISIBLE_DEVICES="
        )
    # Told of a CPU, accelerate would leave DeepSpeed and FSDP out, and say nothing of it.
    os.environ.pop("ACCELERATE_USE_CPU", None)
    state = PartialState(backend="gloo", timeout=timeout)
    if sharding.requested_backend() == "fsdp":
        # All objects of this class have the same attributes.
        state.distributed_type = DistributedType.MULTI_GPU
    return state


def precision() -> str:
    """Return mixed precision as the launcher set it: "no", "bf16" or "fp16"."""
    chosen = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") or "no"
    if chosen not in ("no", "bf16", "fp16"):
        raise SetupError(f"mixed_precision is {chosen!r}; this harness supports no, bf16 and fp16")
    return chosen


def gpu(place: int) -> tuple[str, tuple[int, int] | None]:
    """Return (name, compute capability) of a GPU by its number; a capability of CUDA's only, ROCm's means another."""
    device = torch.device("cuda", place)
    return cuda.name(device), None if torch.version.hip else cuda.capability(device)


def check_precision(on_cpu: bool) -> None:
    """Raise SetupError for a precision that the device does not have.

    fp16 on a CPU: training would be in float32 and scoring in fp16, and nobody would say so. bf16 on a GPU from before
    Ampere: it would be emulated, slower than float32.
    """
    chosen = precision()
    if chosen == "bf16" and not on_cpu and (old := _before_ampere()) is not None:
        raise SetupError(f"mixed_precision is bf16, and {hardware.no_bf16(*old)}")
    if chosen == "fp16" and on_cpu:
        raise SetupError(
            "mixed_precision fp16 needs a GPU, and this run is on the CPU; take an accelerate config with "
            "mixed_precision: no or bf16, such as cpu or cpu_bf16"
        )


def _before_ampere() -> tuple[str, tuple[int, int]] | None:
    """Return (name, compute capability) of the first GPU here that has no units for bf16; None if all have."""
    for place in range(torch.cuda.device_count()):
        name, capability = gpu(place)
        if capability is not None and capability < hardware.BF16_CAPABILITY:
            return name, capability
    return None


def check_products(recipe: Recipe, plan: LoadPlan, on_cpu: bool) -> None:
    """Raise SetupError for a recipe that multiplies in bfloat16 on a GPU from before Ampere, whatever the launcher set.

    torch would compute it there without the units that make 16 bits fast, and say nothing.
    """
    asked = bf16_products.asked(recipe, plan, precision())
    if asked is not None and not on_cpu and (old := _before_ampere()) is not None:
        raise SetupError(asked.refused(hardware.no_bf16_units(*old)))


def broadcast_from_rank_zero(value: Any) -> Any:
    """Return rank zero's value, on every process."""
    return broadcast_object_list([value])[0]
