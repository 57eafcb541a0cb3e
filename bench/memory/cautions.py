"""Says on what a plan's forecast does not rest: GPUs that share a model, and models that overflow in fp16."""

from collections.abc import Iterable
from typing import Any

from bench.config.resolve import Resolved

# Of reports/published_memory.md, litgpt's rows of 4 x A10G that train all weights, which FSDP shards: the worst error
# of those with a peak (gemma-2b: measured 16.233 GiB, predicted 12.015), and how many there are.
SHARDED_ERROR, SHARDED_ROWS = 0.26, 3
_T5 = "its modeling_t5.py in transformers clamps infinite values; huggingface/transformers#5651"
_GEMMA3 = "huggingface/transformers#36822 and #39972"
# transformers' model_type -> where it is told that activations exceed what fp16 can hold.
OVERFLOWING = {"t5": _T5, "mt5": _T5.replace("_t5", "_mt5"), "gemma3": _GEMMA3, "gemma3_text": _GEMMA3}


def of_sharding(needed: int, usable: int | None, kind: str, world: int) -> tuple[bool, list[str]]:
    """Return (whether a plan over several GPUs fits by less than published errors, lines on what it rests on).

    needed, usable: bytes of each GPU. kind: of the parallelism, as `Parallelism.kind`. world: GPUs.
    """
    if world == 1:
        return False, []
    if kind == "DDP":
        return False, [
            "evidence: each GPU of DDP is planned as one GPU, with buckets of gradients and NCCL's channels; no run on "
            "several GPUs was measured"
        ]
    tight = usable is not None and needed <= usable < needed / (1 - SHARDED_ERROR)
    return tight, [
        f"evidence: forecasts of {kind} were compared with real processes on CPUs, not with GPUs "
        f"(scripts/benchmarks/spread_memory.py); of {SHARDED_ROWS} peaks that litgpt published for all weights on 4 "
        f"GPUs, forecasts were up to {SHARDED_ERROR:.0%} too low, and a run that was predicted to fit ran out of "
        "memory (reports/published_memory.md)"
    ]


def headline(first: str, tight: bool) -> str:
    """Return the verdict's line, which says that a plan fits by less than the error of its kind of forecast."""
    return first.replace("fits:", "fits, but tight:", 1) if tight else first


def of_fp16(config: Any, precision: str) -> list[str]:
    """Return a line where activations of a model are known to exceed fp16's 65,504; [] where no source says so.

    config: transformers'.
    """
    return of_fp16_in((config.model_type, config.get_text_config().model_type), precision)


def of_fp16_in(kinds: Iterable[str], precision: str) -> list[str]:
    """Return the line of `of_fp16` for a model of these names of architectures."""
    for kind in kinds:
        if precision == "fp16" and kind in OVERFLOWING:
            return [
                f"caution: activations of {kind} models are known to exceed 65,504, the most that fp16 can hold "
                f"({OVERFLOWING[kind]}): steps may be skipped, or the loss become NaN; take bf16 on a GPU that has it, "
                "or float32"
            ]
    return []


def of_overrides(resolved: Resolved) -> list[str]:
    """Return a line for each note on what overrides leave without effect."""
    return [f"note: {note}" for note in resolved.unused_notes]
