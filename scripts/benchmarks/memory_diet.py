"""What each part of the memory diet saves in a training step, against what the plan says of it.

    python scripts/benchmarks/memory_diet.py [--small]

One decoder of random weights learns to write short answers: weights in NF4 with double quantisation, adapters in
bfloat16, an 8-bit optimiser that may be paged, activations recomputed and what that keeps on the host, logits of
answers only, no pads. Each row of the table is a training of two steps with one of these switched off. The rows after
those train all weights in two micro-batches, where autocast's 16-bit copies of them are kept or dropped. The first two
rows are of loading: weights that are drawn in 4 bits, and a checkpoint of several shards that is read into them; the
plan there is what the weights come to, and `in 16 bits` what the whole model would.

Measured is the peak of the bytes of all tensors that are alive: on a GPU as its allocator counts them, without what it
keeps in reserve; on a CPU those that torch's dispatcher has made. On a CPU nothing can wait on another device: what
would be moved is copied out of sight of the count. And it has no kernels that fuse attention or quantise in place, so
that its numbers are only near to the plan, which is made for GPUs; nor does it page, so that paged states count.

Prints a table and one line of JSON. The exit code is 1 where losses differ between rows that train the same weights.
"""

import argparse
import contextlib
import gc
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Python put this file's folder first; what is measured is the package of this checkout.
sys.path[0] = str(Path(__file__).resolve().parents[2])
os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"  # before accelerate is asked for it

import torch  # noqa: E402
from accelerate.utils import set_seed  # noqa: E402
from torch import nn  # noqa: E402
from torch.autograd.graph import saved_tensors_hooks  # noqa: E402

from bench.config import contracts, registry, resolve  # noqa: E402
from bench.data.examples import Encoded  # noqa: E402
from bench.memory import activations, state_sizes  # noqa: E402
from bench.memory.planner import Lengths, MemoryPlan, Parallelism  # noqa: E402
from bench.models import build as models  # noqa: E402
from bench.models.kernels import padding_free  # noqa: E402
from bench.records.clock import Clock  # noqa: E402
from bench.training import memory_saving  # noqa: E402
from bench.training.fit import fit as train  # noqa: E402
from bench.training.state import FitInputs, Progress  # noqa: E402
from bench.utils import process  # noqa: E402
from scripts.benchmarks import common  # noqa: E402

MIB = 2**20
RECIPE = resolve.SHIPPED / "tiny" / "llama-text_qlora.yaml"
# Longest text, and texts of a step: half of them are half as long.
SHAPES = {"small": (64, 4), "cpu": (128, 8), "cuda": (1024, 8)}
SIZES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "vocab_size": 2048},
    "cpu": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8, "vocab_size": 8192},
    "cuda": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 32_768},
}
ANSWER = 8
# bf16 keeps 8 bits of a number; to leave out pads, or logits, moves what is rounded where.
TOLERANCE = 5e-3
FOUR_BITS = ["method=qlora", "method.dtype=bfloat16", "method.config={r: 16, target_modules: all-linear}"]
DIET = {
    "method": FOUR_BITS,
    "optimizer": ["training.optimizer=paged_adamw_8bit"],
    "checkpointing": ["training.gradient_checkpointing=true", "training.activation_offload=true"],
}
LORA = ["method=lora", *FOUR_BITS[1:]]
# What is switched off -> the part of the diet that it replaces, and by what.
OFF = {
    "weights in 4 bits": ("method", LORA),
    "adapters in bfloat16": ("method", [FOUR_BITS[0], FOUR_BITS[2]]),
    "8-bit optimiser": ("optimizer", ["training.optimizer=adamw_torch_fused"]),
    "activation offload": ("checkpointing", ["training.gradient_checkpointing=true"]),
    "gradient checkpointing": ("checkpointing", []),
    # By the plain loop, where the model computes all logits itself; TRL has a way of its own.
    "answer logits": ("speed", ["speed.answer_logits=false", "training.engine=loop"]),
    "padding-free": ("speed", ["speed.padding_free=false"]),
}
# Gradients of the first of two micro-batches are there while the second one's copies are.
WHOLE = {"method": ["method=full"], "checkpointing": ["training.gradient_checkpointing=true"]}
MICRO_BATCHES = 2


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One size of the benchmark on one device."""

    name: str
    device: torch.device
    folder: Path

    @property
    def shape(self) -> tuple[int, int]:
        """(tokens of the longest text, texts of a step)."""
        return SHAPES[self.name]

    def recipe(self, parts: dict[str, list[str]]) -> Any:
        """The resolved recipe of a row."""
        length, rows = self.shape
        sizes = {**SIZES[self.name], "max_position_embeddings": length}
        overrides = [
            *(f"model.architecture.{name}={value}" for name, value in sizes.items()),
            *("model.dtype=bfloat16", "model.architecture.initializer_range=0.05", f"max_length={length}"),
            *("training.epochs=null", "training.steps=2", "training.log_every=1", f"training.global_batch={rows}"),
            *("training.learning_rate=1e-3", "training.warmup=0.0", "save=false"),
            *(item for part in parts.values() for item in part),
        ]
        if parts["method"] == WHOLE["method"]:
            overrides.append(f"training.per_device_batch={rows // MICRO_BATCHES}")
        if length > 128:
            overrides.append(f"model.max_length={length}")
        return resolve.load(RECIPE, tuple(overrides))


class Alive(activations._Ledger):
    """Real tensors that are alive, weights among them."""

    def __init__(self) -> None:
        super().__init__(nn.Module())

    def _see(self, storage: Any) -> None:
        if storage.device.type != "meta":
            super()._see(storage)


class Peak:
    """The most bytes that were alive inside."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.ledger = device, Alive()

    @contextlib.contextmanager
    def watching(self) -> Iterator["Peak"]:
        """From here on, tensors count."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.forget()
        with self.ledger if self.device.type == "cpu" else contextlib.nullcontext():
            yield self

    def forget(self) -> None:
        """What was alive before does not count."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.ledger.peaks["forward"] = self.ledger.live

    @property
    def size(self) -> int:
        """Bytes."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else self.ledger.peaks["forward"]


def out_of_sight(device: str) -> Any:
    """Takes the place of the hooks that move activations, on a CPU: NumPy's memory is not counted."""
    if device == "meta":
        return saved_tensors_hooks(memory_saving._pack, memory_saving._unpack)
    return saved_tensors_hooks(
        lambda tensor: (tensor.dtype, tensor.detach().float().numpy().copy()),
        lambda packed: torch.from_numpy(packed[1]).to(packed[0], copy=True),
    )


def build(resolved: Any, tokens: Any, setting: Setting, *, place: Path | None = None) -> Any:
    """The adapted model, as a run makes it. place: of a checkpoint; else its weights are drawn."""
    set_seed(resolved.recipe.seed)
    card = resolved.recipe.model
    if place is not None:
        card = card.model_copy(update={"id": str(place), "weights": "pretrained"})
    method, plan = state_sizes.load_plan(resolved)
    model = models.build(
        card,
        plan,
        auto_class="AutoModelForCausalLM",
        tokenizer=tokens,
        weights=card.weights,
        device=setting.device,
    )
    return method.adapt(model, resolved.options).to(setting.device)


def lessons(setting: Setting, *, alike: bool) -> Encoded:
    """Texts of random tokens with an answer at their end; every other one is half as long, unless they are alike."""
    length, rows = setting.shape
    generator = torch.Generator().manual_seed(0)
    features = []
    for number in range(rows):
        size = length if alike or number % 2 == 0 else length // 2
        ids = torch.randint(5, 1000, (size,), generator=generator).tolist()
        marked = [-100] * (size - ANSWER) + ids[-ANSWER:]
        features.append({"input_ids": ids, "token_labels": marked, "labels": 0})
    return Encoded(name="train", ids=tuple(map(str, range(rows))), features=features, truncated=0)


def trained(resolved: Any, tokens: Any, setting: Setting) -> tuple[int, list[float]]:
    """(peak bytes of two steps, their losses)."""
    chosen = resolved.recipe
    split = lessons(setting, alike=chosen.training.per_device_batch is not None)
    peak = Peak(setting.device)
    with peak.watching():
        model = build(resolved, tokens, setting)
        if chosen.speed.padding_free:
            reason = padding_free.attach(model)
            assert reason is None, reason
        peak.forget()
        observer, progress = common.NoteKeeper(), Progress()
        inputs = FitInputs(
            model=model,
            task=registry.load_task("text_classification"),
            train=split,
            objective="text",
            scoring=common.scoring(tokens, setting.device, checked=0),
            settings=chosen.training,
            budget=common.Budget.plan(chosen.training, len(split.ids), 1),
            seed=chosen.seed,
            folder=setting.folder,
            clock=Clock(),
            display=common.Ticks(),
            speed=chosen.speed,
            observer=observer,
        )
        train(inputs, progress)
    # Offload and paging are not possible on a CPU, and said there.
    notes = [note for note in observer.notes if "activation_offload" not in note and "pages nothing" not in note]
    assert not notes, notes
    return peak.size, progress.log.losses


def planned(resolved: Any, setting: Setting) -> int:
    """Bytes of tensors on the device, by the plan."""
    length, rows = setting.shape
    if resolved.recipe.training.per_device_batch is not None:
        rows = resolved.recipe.training.per_device_batch
    elif resolved.recipe.speed.padding_free:
        rows = rows * 3 // 4
    lengths = Lengths(longest=length, mean=length, answers=ANSWER, source="made up")
    job = MemoryPlan.of(resolved, Parallelism(), precision="bf16", lengths=lengths)
    found = job.predict(rows, length)
    paged = sum(found.host.values()) - round(job.usage(rows, length).on_host)
    # What CUDA itself takes, and what its allocator can't use, are no tensors. A CPU does not page.
    uncounted = ("CUDA", "fragmentation", *(["cuBLAS"] if setting.device.type == "cpu" else []))
    others = sum(found.parts.get(part, 0) for part in uncounted)
    return found.total - others + (paged if setting.device.type == "cpu" else 0)


def loading(tokens: Any, setting: Setting) -> list[dict[str, Any]]:
    """A row for weights that are drawn, and one for those that are read from shards."""
    resolved = setting.recipe(DIET)
    whole = build(setting.recipe({"method": LORA}), tokens, setting).get_base_model()
    size = sum(one.numel() * 2 for name, one in whole.named_parameters() if "lora_" not in name)
    plain = models.build(
        resolved.recipe.model,
        contracts.LoadPlan(frozen_body=True),
        auto_class="AutoModelForCausalLM",
        tokenizer=tokens,
        weights="random",
        device=setting.device,
    )
    del whole
    place = setting.folder / "checkpoint"
    plain.save_pretrained(place, max_shard_size=max(size // 8, 200_000))
    del plain
    shards = len(list(place.glob("*.safetensors")))
    held = state_sizes.states(state_sizes.outline(resolved), "sgd", "trainer").weights
    rows = []
    for name, source in (("loading: drawn", None), (f"loading: {shards} shards", place)):
        peak = Peak(setting.device)
        with peak.watching():
            model = build(resolved, tokens, setting, place=source)
        del model
        rows.append({"case": name, "measured": peak.size, "planned": held, "in_16_bits": size, "losses": []})
    return rows


def cases(setting: Setting, tokens: Any) -> list[dict[str, Any]]:
    """All rows."""
    rows = loading(tokens, setting)
    wanted = [("the whole diet", DIET)]
    wanted += [(f"without {name}", {**DIET, part: value}) for name, (part, value) in OFF.items()]
    kept = {**WHOLE, "speed": ["speed.drop_copies=false"]}
    wanted += [("all weights, copies dropped", WHOLE), ("all weights, copies kept", kept)]
    for name, parts in wanted:
        resolved = setting.recipe(parts)
        measured, losses = trained(resolved, tokens, setting)
        rows.append({"case": name, "measured": measured, "planned": planned(resolved, setting), "losses": losses})
    return rows


def same(one: list[float], other: list[float], count: int) -> bool:
    """Whether the first so many losses are the same."""
    pairs = list(zip(one, other, strict=True))[:count]
    return all(abs(first - second) <= TOLERANCE * abs(first) for first, second in pairs)


def problems(rows: list[dict[str, Any]]) -> list[str]:
    """Losses that should be the same, and are not. Other arithmetic may move the second loss, not the first."""
    found, by_name = [], {row["case"]: row["losses"] for row in rows}
    pairs = [("the whole diet", f"without {name}", 2) for name in OFF if name != "weights in 4 bits"]
    pairs += [("all weights, copies dropped", "all weights, copies kept", 2)]
    for one, other, count in pairs:
        if not same(by_name[one], by_name[other], count):
            found.append(f"{other}: losses {by_name[other]}, expected {by_name[one]}")
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """A row per case, in MiB."""
    diet_size = next(row["measured"] for row in rows if row["case"] == "the whole diet")
    lines = []
    for row in rows:
        more = f"{(row['measured'] - diet_size) / MIB:+.1f}" if row["case"].startswith("without") else ""
        sizes = [f"{row[name] / MIB:.1f}" if name in row else "" for name in ("measured", "planned", "in_16_bits")]
        ratio = f"{row['measured'] / row['planned']:.2f}"
        lines.append([row["case"], *sizes, ratio, more, " ".join(f"{loss:.4f}" for loss in row["losses"])])
    header = {"case": "---", "measured, MiB": "--:", "plan": "--:", "in 16 bits": "--:", "measured / plan": "--:"}
    return common.table({**header, "more than the diet": "--:", "losses": "---"}, lines)


def main() -> int:
    """Measures all; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a trial run of a second's size")
    options = parser.parse_args()
    process.set_cuda_allocator(expandable_segments=resolve.load(RECIPE).recipe.speed.expandable_segments)
    common.quiet()
    device = common.pick_device()
    if device.type == "cpu":
        memory_saving._hooks = out_of_sight
    tokens = common.Language(500).tokenizer("decoder", 1000)
    with tempfile.TemporaryDirectory() as folder:
        rows = cases(
            Setting(name="small" if options.small else device.type, device=device, folder=Path(folder)), tokens
        )
    print(f"{common.described(device)}\n")
    print(table(rows))
    found = {"benchmark": "memory_diet", "small": options.small, **common.surroundings(device), "cases": rows}
    print(json.dumps(found))
    wrong = problems(rows)
    for text in wrong:
        print(f"problem: {text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
