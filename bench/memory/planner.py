"""Will it fit? The memory of a training step on each GPU, by part, before a model is downloaded.

    plan = MemoryPlan.of(resolved, Parallelism(world=8, zero=2), precision="bf16")
    plan.predict(rows=4, length=512).total  # bytes at the step's fullest moment

Weights, gradients and optimiser are exact (`footprint`), activations are a step's own (`activations`); what DeepSpeed
adds is read from its sources, and from the sizes of buffers that the harness sets. `python -m bench plan` prints it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.config.cards import CHOICES_TASK
from bench.config.recipe import Recipe
from bench.config.resolve import Resolved
from bench.distributed import sharding
from bench.errors import SetupError
from bench.memory import activations, phases, state_sizes
from bench.memory.activations import Batch, Usage
from bench.memory.gathered import Units
from bench.models.heads import unwrapped
from bench.models.kernels import patch
from bench.training.memory_saving import checkpoint_activations
from bench.training.schedule import Budget
from bench.utils import hardware
from bench.utils.hardware import CONTEXT, GIB

# NCCL's channels, which come on top of CUDA's context where there are several GPUs.
CHANNELS = GIB // 4
# Of what comes and goes: blocks that are free, but of no size that is asked for. An allowance, not a measurement. More
# of gradients that come while activations go, and take places between them: with 5 % alone, all weights of a 1B model,
# with activations that are recomputed, ran out of memory on a stub GPU of that size.
FRAGMENTED_SHARE, FRAGMENTED_GRADIENTS = 0.05, 0.1
FLOAT32 = 4
# Threads that have a workspace of cuBLAS's: that of the forward pass, and autograd's.
THREADS = 2
# Choices of an example where the data were not read, as in ARC and HellaSwag.
ASSUMED_CHOICES = 4


@dataclass(frozen=True, kw_only=True)
class Parallelism:
    """World size, ZeRO stage (0: DDP), and offload: "none", or "cpu" for what ZeRO lets wait on the host.

    fsdp: whether FSDP2 shards weights, gradients and optimiser, in place of ZeRO.
    """

    world: int = 1
    zero: int = 0
    offload: str = "none"
    fsdp: bool = False

    def __post_init__(self) -> None:
        if self.world < 1:
            raise SetupError(f"a run needs at least one GPU, not {self.world}")
        if self.zero not in (0, 1, 2, 3):
            raise SetupError(f"there is no ZeRO stage {self.zero}; take 0 (none, DDP), 1, 2 or 3")
        if self.offload not in ("none", "cpu"):
            raise SetupError(f"offload is {self.offload!r}; take none or cpu")
        if self.offload == "cpu" and self.zero == 0:
            raise SetupError("offload to the host is ZeRO's: take --zero 1, 2 or 3")
        if self.fsdp and self.zero:
            raise SetupError(f"FSDP2 and ZeRO-{self.zero} are two ways to shard a model: take --fsdp or --zero")

    @property
    def shards_weights(self) -> bool:
        """Return whether no GPU holds the whole model."""
        return self.zero == 3 or self.fsdp

    @property
    def kind(self) -> str:
        """Return the name of the way in which several GPUs work together."""
        return "FSDP2" if self.fsdp else f"ZeRO-{self.zero}" if self.zero else "DDP"


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Lengths of texts, in tokens. examples: None where the data were not read. answers: labels of a text.

    source: where this is from, in words. choices: texts that a head on choices reads for each example, else 1.
    """

    longest: int
    mean: float
    answers: int
    source: str
    examples: int | None = None
    choices: int = 1


def longest_texts(features: Sequence[Mapping[str, Any]]) -> tuple[list[int], int]:
    """Return the tokens of each example's longest text, and how many texts an example has: its choices, or 1.

    features: as a run trains on them; one with "pairs" has a text for each choice, which are padded to one length.
    """
    if "pairs" not in features[0]:
        return [
            len(feature["input_ids"] if "input_ids" in feature else feature["prompt_ids"]) for feature in features
        ], 1
    longest = [max(len(pair["input_ids"]) for pair in feature["pairs"]) for feature in features]
    return longest, max(len(feature["pairs"]) for feature in features)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Bytes by part. parts: on each GPU, at the fullest moment. host: over all processes. moment: of a step, in words.

    whole: on each GPU, to load, score and save: the whole model, unless it is sharded there too.
    """

    parts: dict[str, int]
    host: dict[str, int]
    whole: int
    moment: str
    rows: int
    length: int
    accumulation: int

    @property
    def total(self) -> int:
        """Return the bytes on each GPU while training."""
        return sum(self.parts.values())

    @property
    def needed(self) -> int:
        """Return the bytes that each GPU must have: for training, and before and after it to load, score and save."""
        return max(self.total, self.whole)

    def as_record(self) -> dict[str, Any]:
        """Return the record's `memory_predicted`, but for its error, which is known afterwards."""
        fields: dict[str, Any] = {
            "total_gib": self.total / GIB,
            "parts": {name: size / GIB for name, size in self.parts.items()},
            "moment": self.moment,
            "rows": self.rows,
            "length": self.length,
            "accumulation": self.accumulation,
        }
        if self.host:
            fields["host_parts"] = {name: size / GIB for name, size in self.host.items()}
        return {"train": fields}


@dataclass(kw_only=True)
class MemoryPlan:
    """A recipe's training with one parallelism, of which several sizes can be predicted.

    on_cpu: whether it takes the host's memory in place of GPUs', with no context of CUDA, and blocks of any size.
    capability: of the GPUs, where it is known: of it cuBLAS's workspaces are.
    usages: what was run already, by its kind of batch.
    """

    resolved: Resolved
    parallelism: Parallelism
    precision: str
    lengths: Lengths
    model: Any
    states: state_sizes.States
    on_cpu: bool = False
    capability: tuple[int, int] | None = None
    usages: dict[Batch, Usage] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        resolved: Resolved,
        parallelism: Parallelism,
        *,
        precision: str = "bf16",
        lengths: Lengths | None = None,
        on_cpu: bool = False,
        num_labels: int = 2,
        capability: tuple[int, int] | None = None,
    ) -> "MemoryPlan":
        """Build the model. num_labels: of a card that names none. Raises SetupError for what can't be trained so."""
        training = resolved.recipe.training
        load_plan = state_sizes.load_plan(resolved)[1]
        if parallelism.zero > 0 or parallelism.fsdp:
            sharding.refuse_unshardable(
                training,
                load_plan,
                parallelism.kind,
                parameters=parallelism.shards_weights,
                offload=parallelism.offload != "none",
            )
        model = state_sizes.outline(resolved, num_labels)
        if training.gradient_checkpointing:
            checkpoint_activations(model, offload=training.activation_offload)
        return cls(
            resolved=resolved,
            parallelism=parallelism,
            precision=precision,
            lengths=lengths or assumed(resolved.recipe),
            model=model,
            states=state_sizes.states(model, training.optimizer, training.engine),
            on_cpu=on_cpu,
            capability=capability,
        )

    @property
    def quantized(self) -> bool:
        """Return whether the model is held in 4 bits."""
        return state_sizes.load_plan(self.resolved)[1].quantization is not None

    @property
    def budget(self) -> Budget:
        """Return the sizes of the run. Raises SetupError for a global batch that the processes can't share evenly."""
        return Budget.plan(self.resolved.recipe.training, self.lengths.examples or 10**6, self.parallelism.world)

    def usage(self, rows: int, length: int) -> Usage:
        """Return the bytes of a step's own; each kind of batch is run once."""
        recipe, pads = self.resolved.recipe, self._computes_pads()
        batch = Batch(
            rows=rows * self.lengths.choices,
            length=length,
            answers=rows * min(self.lengths.answers, length),
            on_answers_alone=recipe.speed.answer_logits and not self._shards_a_trained_head(),
            precision=self.precision,
            sharded=self.parallelism.zero == 3,
            keeps_copies=not (recipe.speed.drop_copies and recipe.training.gradient_checkpointing)
            or self.parallelism.zero > 0,
            on_cuda=not self.on_cpu,
            padded=rows > 1 and pads,
            packed=rows > 1 and not pads and not self.on_cpu,
        )
        if batch not in self.usages:
            self.usages[batch] = activations.probe(self.model, batch)
        return self.usages[batch]

    def _shards_a_trained_head(self) -> bool:
        """Return whether FSDP2 shards a trained output head, so that a run computes all logits (`training.loss`)."""
        head = unwrapped(self.model).get_output_embeddings() if self.parallelism.fsdp else None
        return head is not None and any(part.requires_grad for part in head.parameters())

    def _computes_pads(self) -> bool:
        """Return whether pads are computed, by the recipe and by what the model declares."""
        body = unwrapped(self.model).base_model
        fixed = patch.attention_is_fixed(self.model, body) or patch.places_are_fixed(
            body, body.config.get_text_config()
        )
        return not self.resolved.recipe.speed.padding_free or fixed is not None

    def predict(self, rows: int, length: int, usage: Usage | None = None) -> Prediction:
        """Predict memory with micro-batches of `rows` texts of `length` tokens. usage: where it is known already."""
        usage = usage or self.usage(rows, length)
        held, host = self._held()
        host["activations"] = round(usage.on_host) * self.parallelism.world
        share = self.resolved.recipe.training.global_batch // self.parallelism.world
        accumulation = max(1, math.ceil(share / rows))
        gradients = held.pop("gradients")
        moment, parts = self._fullest(usage, gradients, accumulation)
        parts = {name: size for name, size in {**held, **parts}.items() if size}
        comes_and_goes = parts.get("activations", 0) + parts.get("working memory", 0)
        if not self.on_cpu:
            parts["cuBLAS"] = THREADS * hardware.cublas_workspace(self.capability)
            parts["CUDA"] = CONTEXT + (CHANNELS if self.parallelism.world > 1 else 0)
            growing = parts.get("gradients", 0) if self._gradients_grow(accumulation) else 0
            parts["fragmentation"] = round(FRAGMENTED_SHARE * comes_and_goes + FRAGMENTED_GRADIENTS * growing)
        return Prediction(
            parts=parts,
            host={name: size for name, size in host.items() if size},
            whole=self._elsewhere(),
            moment=moment,
            rows=rows,
            length=length,
            accumulation=accumulation,
        )

    def _gradients_grow(self, accumulation: int) -> bool:
        """Return whether there are no gradients when a backward pass begins."""
        return (self.parallelism == Parallelism() or self.parallelism.fsdp) and accumulation == 1

    def _elsewhere(self) -> int:
        """Return the most bytes that each GPU needs to load, score or save the model."""
        return max(phases.elsewhere(self).values())

    @property
    def gathered(self) -> int:
        """Return the bytes of whole weights that are on a GPU at a time, where it has but its part of the model."""
        if self.parallelism.fsdp:
            return Units.of(self.model).most
        # As many as are alive at once, and one that is larger than all of them, such as an embedding.
        live = (sharding.BUFFERS["stage3_max_live_parameters"] + self.states.largest) * FLOAT32
        return min(self.states.weights, live)

    def _fullest(self, usage: Usage, gradients: int, accumulation: int) -> tuple[str, dict[str, int]]:
        """Return (moment, its parts). Gradients of one micro-batch only come as activations go; else all are there."""
        growing = self._gradients_grow(accumulation)
        moments: dict[str, tuple[float, float]] = {}
        units = Units.of(self.model) if self.parallelism.fsdp else None
        shards = self.parallelism.world if units is not None else 1
        passing: dict[str, float] = {}
        for section, alive in usage.peaks.items():
            there = (usage.with_gradients[section] - alive) / shards if growing else gradients
            total = alive if units is None else units.at(section, usage)
            passing[MOMENTS[section]] = total - alive
            moments[MOMENTS[section]] = (total, min(there, gradients))
        stepped = state_sizes.step_bytes(self.states, self.resolved.recipe)
        stepped = (
            0
            if self.parallelism.offload == "cpu"
            else stepped // (self.parallelism.world if self.parallelism.zero or self.parallelism.fsdp else 1)
        )
        moments["the optimiser's step"] = (stepped + self._copied_to_step(accumulation), gradients)
        if self.parallelism.zero == 0 and units is None:
            # There is no state of the optimiser yet.
            moments["the first step's check of gradients"] = (
                max(0, self.states.check - self.states.optimizer),
                gradients,
            )
        moment = max(moments, key=lambda name: sum(moments[name]))
        alive, there = moments[moment]
        gathered = max(0.0, passing.get(moment, 0.0))
        alive -= gathered
        kept = min(usage.kept, alive) if moment in (MOMENTS["forward"], MOMENTS["head"], MOMENTS["last"]) else 0.0
        # Where activations are recomputed; else the copies are among what the forward pass leaves.
        copies = min(usage.copies, alive - kept) if moment in (MOMENTS["forward"], MOMENTS["head"]) else 0.0
        return moment, {
            "gradients": round(there),
            **({} if units is None else {"gathered weights": round(gathered)}),  # ZeRO-3's are always there
            "activations": round(kept),
            "weights in 16 bits": round(copies),
            "working memory": round(alive - kept - copies),
        }

    def _copied_to_step(self, accumulation: int) -> int:
        """Return the bytes of gradients that DeepSpeed copies for the step, on top of those that are always there.

        `scripts/benchmarks/spread_memory.py` names the places in its sources, and measures them.
        """
        zero, part = self.parallelism.zero, math.ceil(self.states.gradients / self.parallelism.world)
        if zero == 0 or self.parallelism.offload == "cpu":
            return 0
        if zero == 3:
            return min(part, sharding.BUFFERS["sub_group_size"] * FLOAT32)
        return part * (2 if zero == 1 else 3 if accumulation > 1 else 1)

    def _held(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return (bytes on each GPU, bytes on the host over all processes) of what is there during the whole step."""
        states, world, zero = self.states, self.parallelism.world, self.parallelism.zero
        adapters = states.trained if state_sizes.load_plan(self.resolved)[1].adapter else 0
        gpu = {
            "weights": states.weights - adapters,
            "adapters and head": adapters,
            "gradients": states.gradients,
            "optimizer": states.optimizer,
        }
        host = {"paged optimizer": states.paged * world}
        if self.parallelism.fsdp:
            own = {**gpu, "gradients": states.gradients}
            return {name: math.ceil(size / world) for name, size in own.items()}, host
        if zero == 0:
            # DDP sends gradients from buckets that it keeps beside them.
            gpu["communication"] = states.gradients if world > 1 else 0
            return gpu, host
        offload = self.parallelism.offload == "cpu"
        own = {"optimizer": states.optimizer, "master weights": states.trained}
        if zero > 1:
            # On the host ZeRO-3 has them once more, for the optimiser (`initialize_optimizer_states` in stage3.py).
            own["gradients"] = states.gradients * (2 if zero == 3 and offload else 1)
        if zero == 3:
            own |= {"weights": gpu["weights"], "adapters and head": adapters}
        for name, size in own.items():
            gpu[name], host[name] = (0, size) if offload else (math.ceil(size / world), 0)
        gpu["communication"] = self._buckets()
        if zero == 3:
            gpu["gathered weights"] = self.gathered
        return gpu, host

    def _buckets(self) -> int:
        """Return the bytes of DeepSpeed's gradient buckets: one for each type of sum; ZeRO-3's are of that type."""
        numbers = sharding.BUFFERS["reduce_bucket_size"]
        if self.precision == "no":
            return numbers * FLOAT32
        return numbers * (FLOAT32 + 2 if self.parallelism.zero == 3 else 2 * FLOAT32)


MOMENTS = {
    "forward": "the forward pass",
    "head": "the head and its loss",
    "last": "the last block's backward pass",
    "first": "the first block's backward pass",
    "tail": "the embedding's backward pass",
}


def assumed(recipe: Recipe) -> Lengths:
    """Return full texts, as long as the recipe allows; answers of a label's few tokens, or of max_new_tokens."""
    prompting = recipe.prompting
    answers = prompting.max_new_tokens if prompting.answer == "generate" else 8
    if recipe.training.loss_on != "answer":
        answers = recipe.max_length
    source, choices = "max_length of the recipe", 1
    if recipe.dataset.task == CHOICES_TASK and recipe.objective == "head":
        named = recipe.dataset.columns.choices
        choices = len(named) if isinstance(named, tuple) else ASSUMED_CHOICES
        source += f", {choices} choices for each text"
    return Lengths(
        longest=recipe.max_length,
        mean=float(recipe.max_length),
        answers=answers if recipe.objective == "text" else 0,
        source=f"{source}; the data were not read",
        choices=choices,
    )
