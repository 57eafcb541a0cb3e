"""Forecasts how long a training takes: a range, by FLOPs and bytes at rates that published runs or records reached.

A step is its micro-batches' matrix products, at a share of the device's peak; 4-bit weights that are unpacked anew in
each pass, and the optimiser's step, at the device's bandwidth. The shares are those of published runs, from which
`scripts/plan_time` prints how far the forecasts are, or of records of the same device and method.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.prices import Prices
from bench.config.recipe import Recipe
from bench.errors import SetupError
from bench.memory.planner import MemoryPlan
from bench.memory.verdict import Card
from bench.models import flops
from bench.models.adapters import AdapterOptions
from bench.records import store
from bench.records.record import Record
from bench.utils.hardware import BF16_CAPABILITY, Device

# Share of the peak that matrix products of real tokens reach in LoRA: huggingface/peft, method_comparison/MetaMathQA at
# 0a179c1, Llama-3.2-3B in bf16 on an L40S, 4 texts a step, rank 32 on q and v: 6,770 real tokens/s, 4 operations for
# each weight and token, are 0.24. The pads of its batches were computed, too, for half as many tokens or so, which this
# harness leaves out: 0.36.
SHARES = (0.22, 0.36)
# Bytes of bandwidth for each 4-bit weight and pass over the model, of which a micro-batch has two, or three where it
# is recomputed: Lightning-AI/litgpt, config_hub/finetune at 2685705, minutes of QLoRA less those of LoRA on an A10G
# over the micro-batches.
UNPACKED_BYTES = (9.2, 16.0)
# Bytes of bandwidth for each trained number and step of AdamW, with the clipping of gradients: the same results of
# peft, all weights (2,315 tokens/s) less what LoRA's share leaves for its products.
STEPPED_BYTES = (40.0, 70.0)
# Each adapted layer of a block beyond two costs this share of LoRA's own time: peft's rank10-target-mlp (three layers,
# 1,050 s) and rank32 (two, 942 s) beside ln_tuning (none, 918 s).
PER_ADAPTED_LAYER = 0.04
LORA_LAYERS = 2
# Below so many seconds for each block of the model a micro-batch's products wait for the host, which launches the
# kernels one by one: no published time is of that. The fastest of those above took 4 ms.
LEAST_PER_BLOCK_S = 1e-3
# PEFT's kind -> seconds of the whole run beside LoRA's 942, of which 620 were steps (peft at 5d602fd, the same task and
# GPU). The difference is of steps, and of generation for validation.
LORA_S, LORA_STEPS_S = 942.0, 620.0
SECONDS = {
    "AdaLora": 1168.5, "Adamss": 4551.3, "AdaptionPrompt": 1140.0, "BOFT": 6925.7, "C3A": 1171.1, "Delora": 1053.1,
    "FourierFT": 1698.7, "IA3": 986.8, "LNTuning": 918.2, "LoKr": 1292.4, "Miss": 896.6, "OFT": 1191.5, "OSF": 2653.0,
    "PrefixTuning": 1013.8, "PromptTuning": 1473.0, "PromptEncoder": 913.5, "RandLora": 1422.6, "Road": 979.3,
    "Shira": 1003.5, "TrainableTokens": 981.2, "VBLoRA": 1197.5, "Vera": 1011.5, "WaveFT": 2111.7,
}  # fmt: skip
DORA_S = 1190.9
# First and last compute capability of the generations that the published runs are of: Ampere, and Ada.
PUBLISHED = ((8, 0), (8, 9))


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Rates of a range of times: (low, high) shares of the peak, whether they have all costs, and a source."""

    shares: tuple[float, float]
    with_all: bool
    source: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of 1,000 texts. product_flops: recomputation included. model_flops: without it.

    unpacked: passes times 4-bit numbers. stepped: steps times the trained numbers of a device. factor: of the method's
    own operations, over those of matrix products.
    """

    product_flops: float
    model_flops: float
    unpacked: float
    stepped: float
    factor: float = 1.0


def work(plan: MemoryPlan, rows: int) -> Work | None:
    """Return the work of 1,000 texts of mean length in micro-batches of `rows`; None where it can't be counted."""
    lengths = [max(1, round(plan.lengths.mean))] * plan.lengths.choices
    answers = [max(1, plan.lengths.answers)] if plan.model.config.is_encoder_decoder and plan.lengths.answers else None
    try:
        counted = flops.step_flops(plan.model, lengths, answers) * 1000
    except flops.UncountableError:
        return None
    recomputed = plan.resolved.recipe.training.gradient_checkpointing
    sharers = plan.parallelism.world if plan.parallelism.zero or plan.parallelism.fsdp else 1
    return Work(
        # The forward pass once more is half as much as the backward pass.
        product_flops=counted * (4 / 3 if recomputed else 1.0),
        model_flops=counted,
        unpacked=1000 / rows * (3 if recomputed else 2) * _packed_numbers(plan.model),
        stepped=1000 / plan.resolved.recipe.training.global_batch * plan.states.num_trainable / sharers,
        factor=_factor(plan),
    )


def seconds(done: Work, device: Device, precision: str, rates: Rates, world: int = 1) -> tuple[float, float] | None:
    """Return (least, most) seconds of the work on so many devices; None without a known rate of the precision."""
    known = {"bf16": device.half_flops if device.bf16 else 0.0, "fp16": device.half_flops, "no": device.fp32_flops}
    peak = known[precision]
    if not peak:
        return None
    low, high = rates.shares
    if rates.with_all:
        return done.model_flops / (high * peak * world), done.model_flops / (low * peak * world)
    times = [
        (done.product_flops * done.factor / (share * peak) + done.unpacked * unpacked / device.bandwidth) / world
        + done.stepped * stepped / device.bandwidth
        for share, unpacked, stepped in zip((high, low), UNPACKED_BYTES, STEPPED_BYTES, strict=True)
    ]
    return times[0], times[1]


def published_rates() -> Rates:
    """Return what published runs reached."""
    return Rates(shares=SHARES, with_all=False, source="published times of PEFT on an L40S and of LitGPT on an A10G")


def check_records(folder: Path, card: Card) -> None:
    """Raise DataError for a folder without records, and SetupError where none can be of the GPU, which has no name."""
    store.locate([folder])
    if card.device is None:
        raise SetupError("--records: name the GPU with --gpu, as in A10G: only records of the same device are heeded")


def recorded_rates(folder: Path, plan: MemoryPlan, name: str) -> tuple[Rates | None, str]:
    """Return (what records of the same device and method reached, None for no such records; a sentence).

    Raises DataError for a folder without records.
    """
    recipe = plan.resolved.recipe
    found: list[float] = []
    for path in store.locate([folder]):
        record = store.read(path)
        reached = record.throughput.get("train", {}).get("mfu")
        if reached and _alike(record, recipe, name):
            found.append(float(reached))
    asked = f"{recipe.method.name} on {name}"
    if not found:
        return None, f"{folder} has no record of {asked} with an MFU"
    source = f"{len(found)} record{'s' if len(found) > 1 else ''} of {asked} in {folder}"
    return Rates(shares=(min(found), max(found)), with_all=True, source=source), source


def _alike(record: Record, recipe: Recipe, name: str) -> bool:
    devices = set(record.environment.devices) if record.environment is not None else set()
    method = (record.recipe.resolved.get("method") or {}).get("name")
    return record.status == "ok" and devices == {name} and method == recipe.method.name


def lines(plan: MemoryPlan, rows: int, card: Card, records: Path | None, prices: Prices | None = None) -> list[str]:
    """Return the forecast of time in lines for people, and of money where prices are given.

    None for a device without known rates.
    """
    if card.device is not None and card.device.notes:
        return [f"time: no forecast for {card.name}: {card.device.notes}"]
    if card.device is None:
        return ["time: give the name of a GPU for a forecast of time"] if card.usable is not None else []
    rates, missing, caution = published_rates(), "", _caution(card)
    if records is not None:
        found, sentence = recorded_rates(records, plan, card.name)
        if found is not None:
            rates, caution = found, ""
        else:
            missing = f"; {sentence}"
    done = work(plan, rows)
    if done is None:
        return ["time: the model's operations can't be counted"]
    times = seconds(done, card.device, plan.precision, rates, plan.parallelism.world)
    if times is None:
        return [f"time: no peak rate of {card.name} in {plan.precision} is published"]
    blocks = getattr(plan.model.config.get_text_config(), "num_hidden_layers", 1)
    if not rates.with_all and times[0] * plan.parallelism.world * rows / 1000 < LEAST_PER_BLOCK_S * blocks:
        return [
            f"time: no forecast: a micro-batch of {rows} x {plan.lengths.mean:.0f} tokens is so little work for "
            f"{card.name} that launching kernels takes longer, which depends on the host"
        ]
    thousand, what = times, "1,000 texts"
    if plan.lengths.examples is not None:
        times = (times[0] * plan.lengths.examples / 1000, times[1] * plan.lengths.examples / 1000)
        what = f"an epoch of {plan.lengths.examples} texts"
    gpus = "" if plan.parallelism.world == 1 else f" x {plan.parallelism.world}, without communication"
    return [
        f"time: {what} of {plan.lengths.mean:.0f} tokens in {_range(_spoken(times[0]), _spoken(times[1]), caution)} on "
        f"{card.name}{gpus}, of training steps alone; by {rates.source}{caution}{missing}",
        *([_money(plan, card, prices, thousand, caution)] if prices is not None else []),
    ]


def _caution(card: Card) -> str:
    """Return that no published run is of the device's generation, as a sentence's part; "" where one is.

    Generations before Ampere have other kernels of attention, and a T4's peak is of a clock that its power does not
    allow for long: a share that an L40S reaches is a bound there, not a forecast.
    """
    capability = card.capability
    if capability is not None and PUBLISHED[0] <= capability <= PUBLISHED[1]:
        return ""
    which = "" if capability is None else f" (compute capability {capability[0]}.{capability[1]})"
    said = f"; no published run is of the generation of {card.name}{which}"
    if capability is not None and capability < BF16_CAPABILITY:
        return f"{LEAST} {said.removeprefix('; ')}, which may reach much less of its peak"
    return f"{said}: taken to reach as much of its peak"


LEAST = "; the least, if it reached as much of its peak as these:"


def _range(least: str, most: str, caution: str) -> str:
    return f"{least} or more" if caution.startswith(LEAST) else f"{least} to {most}"


def _money(plan: MemoryPlan, card: Card, prices: Prices, thousand: tuple[float, float], caution: str) -> str:
    """Return what the recipe's training costs, or 1,000 texts of it where its steps are not known.

    thousand: seconds of 1,000 texts, the least and the most. caution: on the time.
    """
    price = prices.of_gpu(card.name)
    if price is None:
        return f"money: {prices.why_none(card.name)}"
    training, what, texts = plan.resolved.recipe.training, "1,000 texts", 1000
    if training.steps is not None or plan.lengths.examples is not None:
        steps = plan.budget.steps
        what, texts = f"the recipe's {steps:,} steps", steps * training.global_batch
    least, most = (seconds_ * texts / 1000 * plan.parallelism.world / 3600 * price.price for seconds_ in thousand)
    return (
        f"money: {what} for {_range(_two_digits(least), _two_digits(most), caution)} {price.currency}, of training "
        "steps alone, at "
        f"{price.price:g} {price.currency} for an hour of {card.name} ({price.source}; as of {price.date}; "
        "indicative)"
    )


def _spoken(size_s: float) -> str:
    """Return a duration in two digits."""
    for unit, name in ((3600.0, "h"), (60.0, "min")):
        if size_s >= 2 * unit:
            return f"{_two_digits(size_s / unit)} {name}"
    return f"{_two_digits(size_s)} s"


def _two_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def _packed_numbers(model: Any) -> int:
    """Return the numbers that are held in 4 bits."""
    states = (getattr(parameter, "quant_state", None) for parameter in model.parameters())
    return sum(state.shape.numel() for state in states if state is not None)


def _factor(plan: MemoryPlan) -> float:
    """Return what a kind of adapter costs over the matrix products that are counted for it; 1.0 for an unknown one."""
    options = plan.resolved.options
    if not isinstance(options, AdapterOptions):
        return 1.0
    taken_s = DORA_S if options.config.get("use_dora") else SECONDS.get(options.peft.removesuffix("Config"), LORA_S)
    factor = 1 + (taken_s - LORA_S) / LORA_STEPS_S
    layers = sum(1 for name, _ in plan.model.named_modules() if name.endswith(".lora_A"))
    blocks = max(1, getattr(plan.model.config.get_text_config(), "num_hidden_layers", 1))
    return factor + max(0.0, PER_ADAPTED_LAYER * (layers / blocks - LORA_LAYERS))
