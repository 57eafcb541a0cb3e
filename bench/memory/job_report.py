"""The plan of a job for people: does it fit, what its memory is made of, and what would make it fit."""

from pathlib import Path

from bench.errors import BenchError
from bench.memory import cautions, job_model
from bench.memory import job as jobs
from bench.memory.job import Job
from bench.memory.replay import JobForecast, replay
from bench.memory.verdict import Card, Judged, asked_card, gib, others_of_this_size, verdict
from bench.utils import hardware
from bench.utils.hardware import CONTEXT

# Changes that are tried where a job does not fit, the one that costs least first.
_CHANGES = (
    ("checkpointing=true",),
    ("micro_batch=1",),
    ("checkpointing=true", "micro_batch=1"),
    ("checkpointing=true", "micro_batch=1", "optimizer=paged_adamw_8bit"),
)


def answer(path: Path, overrides: tuple[str, ...], gpu: str | None) -> tuple[bool, list[str]]:
    """Return (whether the job of a file fits, the lines of its plan). gpu: a size or a name; None for all sizes.

    Raises BenchError for a file, or a job, that can't be planned.
    """
    card, job = asked_card(gpu), jobs.load(path, overrides)
    found = replay(job, card.capability)
    fits, first = verdict(found.needed, card, _sizes(job))
    tight, evidence = cautions.of_sharding(found.needed, card.usable, "FSDP", job.gpus)

    def _judge(other: Card) -> Judged:
        # What a job takes is in its settings; of the GPU only cuBLAS's workspaces are, alike on all of one size.
        return Judged(needed=found.needed, precision=job.autocast or job.dtype, refused=_refused(job, other)[1])

    lines = [cautions.headline(first, tight), *_refused(job, card)[1], *others_of_this_size(card, _judge), *evidence]
    kind = str(jobs.architecture_of(job)[0].get("model_type"))
    in_fp16 = job.autocast == "fp16" or (job.autocast is None and job.dtype == "float16")
    lines += [*cautions.of_fp16_in((kind,), "fp16" if in_fp16 else "no"), *_lines(path, job, found)]
    if card.usable is not None and not fits:
        lines.append(to_make_it_fit(path, overrides, job, card))
    return fits, lines


def _refused(job: Job, card: Card) -> tuple[list[str], list[str]]:
    """Return (settings that a job must have on a GPU before Ampere, a line for each that it has and that can't run)."""
    if card.device is None or card.device.bf16:
        return [], []
    reason, adapted = hardware.no_bf16_units(card.name, card.capability), bool(job.adapter or job.lora)
    settings = {
        # All weights are trained in float32: gradients of fp16 weights can't be scaled.
        "dtype": ("bfloat16", "dtype=float16" if adapted else "dtype=float32"),
        "autocast": ("bf16", "autocast=fp16"),
        "adapter_dtype": ("bfloat16", "adapter_dtype=float32"),
    }
    instead = [(key, old, new) for key, (old, new) in settings.items() if getattr(job, key) == old]
    lines = [f"not for {card.name}: {key} is {old}, and {reason}; set {new}" for key, old, new in instead]
    changed = [new for _, _, new in instead]
    if job.attention == "flash_attention_2":
        lines.append(f"not for {card.name}: FlashAttention-2 needs Ampere or newer; set attention=sdpa")
        changed.append("attention=sdpa")
    return changed, lines


def _sizes(job: Job) -> str:
    lengths = " and ".join(map(str, sorted(set(job.lengths))))
    return f"micro-batches of {job.micro_batch} x {lengths} tokens"


def _lines(path: Path, job: Job, found: JobForecast) -> list[str]:
    adapter = "LoRA of litgpt" if job.lora else "all weights"
    if isinstance(job.adapter, dict):
        adapter = str(job.adapter["peft_type"])
    weights = job.quantization or job.dtype
    logits = "all logits" if job.loss_tokens is None else f"logits of {job.loss_tokens} tokens of each text"
    how = [
        adapter, f"weights in {weights}", f"autocast {job.autocast}" if job.autocast else "no autocast", job.optimizer,
        f"attention {job.attention}" + (" with a mask of pads" if job.padded and job.micro_batch > 1 else ""), logits,
        "gradient checkpointing" if job.checkpointing else "no gradient checkpointing",
    ]  # fmt: skip
    parts = {
        "weights": found.weights,
        "optimizer": found.optimizer,
        "gradients, activations": max(0, found.allocated - found.weights - found.optimizer),
        "not in use": found.reserved - found.allocated,
        "CUDA": CONTEXT,
    }
    lines = [
        f"{path}: code of {job.code}; {', '.join(how)}",
        f"trainable parameters: {found.num_trainable:,}",
        *(f"  {name:<24} {gib(size):>12}" for name, size in parts.items() if size),
        f"  {'the GPU':<24} {gib(found.needed):>12}  most was allocated in {found.moment}",
        "  not in use: segments that torch's allocator has taken and can't fill, simulated tensor by tensor with its",
        "  default settings; PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True leaves most of it away",
        "  CUDA: context and kernels take 0.3 to 0.6 GiB, depending on device and driver; 0.5 assumed",
    ]
    if found.paged:
        lines.append(f"  host: {gib(found.paged)} of the optimizer, in memory that moves there when the GPU is full")
    return [*lines, f"  as built by {job_model.versions()}"]


def to_make_it_fit(path: Path, overrides: tuple[str, ...], job: Job, card: Card) -> str:
    """Return the first change of settings with which the job fits the card."""
    usable, needed = card.usable or 0, tuple(_refused(job, card)[0])
    for change in ((), *_CHANGES):
        settings = (*needed, *change)
        names = {text.partition("=")[0] for text in settings}
        kept = (text for text in overrides if text.partition("=")[0] not in names)
        try:
            changed = jobs.load(path, (*kept, *settings))
            if changed != job and replay(changed, card.capability).needed <= usable:
                return f"to make it fit: {' '.join(settings)}"
        except BenchError:  # settings that do not go together
            continue
    tried = ", ".join(dict.fromkeys(item for change in _CHANGES for item in change))
    return f"none of {tried} makes it fit, nor all of them; take weights in 4 bits, a smaller model or shorter texts"


def check_only_job(given: dict[str, object]) -> None:
    """Raise BenchError for options of a recipe's plan that were given beside a job. given: option -> value."""
    for name, value in given.items():
        if value:
            raise BenchError(f"{name} is for a recipe's plan; the settings of a --job are in its file, or key=value")
