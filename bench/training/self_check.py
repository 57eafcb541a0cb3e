"""Compares the fast paths of training with the plain one on a few training examples, before the first step.

Loss and gradients of one small micro-batch, the longest and the shortest example among it, without dropout. Gradients
because a new adapter changes no loss: its output is zero, but not what it learns. The figures go into the record.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.data.batching import IGNORED
from bench.evaluation import self_check
from bench.evaluation.self_check import first_reason
from bench.models import positions, shards
from bench.models.autocast import autocast
from bench.models.heads import unwrapped
from bench.models.kernels import answer_only_loss, compiled_blocks, padding_free, patch
from bench.models.kernels.padding_probe import FLOOR_EXACT, FLOOR_ROUNDED, finite, largest_difference
from bench.records.failures import is_out_of_memory
from bench.training import compiling
from bench.training.loss import StepLoss
from bench.training.schedule import seed_step
from bench.training.state import FitInputs
from bench.utils import cuda

# Training examples that are run both ways, at most; fewer where their logits would leave out the longest ones.
EXAMPLES, FEWER = 4, 2
# Logits that the plain path holds at once, in elements: with their gradients 1 GiB in float32, which a step that was
# planned without them may not have to spare. Longer examples are left out.
LOGITS = 2**26
# Parameters whose gradients are compared, and the most elements of each: enough to see a layer that is run otherwise.
PARAMETERS, ELEMENTS = 8, 2**22
# Largest differences that are mere rounding, of the loss, and of a gradient by norm, as a share of the plain one: in
# float32, which has 24 bits, and where weights or autocast have 16 or 4, of which bfloat16 keeps 8.
EXACT, ROUNDED = (1e-4, 1e-3), (0.05, 0.25)


def checked(loss_of: StepLoss) -> StepLoss:
    """Return the loss to train with: where a fast path gives another loss or gradient, it is turned off and noted.

    Every process must call it.
    """
    inputs = loss_of.inputs
    compared = bool(inputs.scoring.checked and inputs.train.ids)
    if not compared and not inputs.speed.compile:
        return loss_of
    with inputs.clock.phase("self_check"), shards.by_layer(inputs.model):
        while compared and (loss_of.answers_only or padding_free.is_attached(inputs.model)):
            reason = first_reason(_difference(loss_of))
            if reason is None:
                break
            loss_of = _plainer(loss_of, reason)
        if inputs.speed.compile:
            compiling.compile_step(inputs, lambda: first_reason(_compiled_difference(loss_of) if compared else None))
    return loss_of


def _plainer(loss_of: StepLoss, reason: str) -> StepLoss:
    observer = loss_of.inputs.observer
    if padding_free.is_attached(loss_of.inputs.model):
        padding_free.detach(loss_of.inputs.model)
        observer.on_setting("padding_free", False)
        observer.on_note(f"pads are computed: the model {reason}")
        return loss_of
    answer_only_loss.detach(loss_of.inputs.model)
    observer.on_setting("answer_logits", False)
    observer.on_note(f"speed.answer_logits: all logits were computed, for the model {reason}")
    return dataclasses.replace(loss_of, answers_only=False)


def _difference(loss_of: StepLoss) -> str | None:
    """Return why the fast paths can't be used, by one micro-batch; None if they can, or memory ran out."""
    inputs, model = loss_of.inputs, loss_of.inputs.model
    was_training, without_pads = model.training, padding_free.is_attached(model)
    numbers = _sample(inputs)
    features = [inputs.train.features[number] for number in numbers]
    if not features:
        inputs.observer.on_note(
            "the fast paths of training were not compared with the plain one: even the shortest example has more than "
            f"{LOGITS:,} logits"
        )
        return None
    chosen = _chosen(model)
    try:
        model.eval()
        positions.forget_longer_texts(model)
        try:
            fast = _step(loss_of, features, chosen)
        except Exception as error:
            return self_check.failure(error)
        padding_free.detach(model)
        positions.forget_longer_texts(model)
        plain = _step(dataclasses.replace(loss_of, answers_only=False), features, chosen)
        compared = _Compared.of(fast, plain, inputs)
        inputs.observer.on_compared(
            {"examples": [inputs.train.ids[number] for number in numbers], **compared.figures()}
        )
        return compared.reason
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        inputs.observer.on_note("the fast paths of training could not be compared with the plain one: out of memory")
        return None
    finally:
        positions.forget_longer_texts(model)
        model.train(was_training)
        if without_pads:
            padding_free.reattach(model)


def _compiled_difference(loss_of: StepLoss) -> str | None:
    """Return why a compiled step can't be used, by one micro-batch in training mode; None if it can, or memory ran out.

    Dropout draws the same in both, of the same seed; the stream of random numbers is left where it was.
    """
    inputs, model, device = loss_of.inputs, loss_of.inputs.model, loss_of.inputs.scoring.device
    numbers = _sample(inputs, all_logits=not loss_of.answers_only)
    if not numbers:
        return f"has more than {LOGITS:,} logits in even the shortest example, too many to compare both steps"
    features = [inputs.train.features[number] for number in numbers]
    chosen, was_training = _chosen(model), model.training
    try:
        model.train()
        with torch.random.fork_rng(devices=[cuda.indexed(device)] if device.type == "cuda" else []):
            seed_step(inputs.seed, 0, 0, inputs.rank)
            try:
                fast = _step(loss_of, features, chosen)
            except Exception as error:
                return self_check.failure(error)
            seed_step(inputs.seed, 0, 0, inputs.rank)
            with compiled_blocks.switched_off(model):
                plain = _step(loss_of, features, chosen)
        compared = _Compared.of(fast, plain, inputs)
        inputs.observer.on_compared({"compiled": compared.figures()})
        return compared.reason
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return "has no memory left to compare a compiled step with the plain one"
    finally:
        model.train(was_training)


def _sample(inputs: FitInputs, *, all_logits: bool = True) -> list[int]:
    """Return the longest and the shortest example whose logits may all be held; one where a batch is one, or none.

    all_logits: whether a path that is compared computes those of all tokens.
    """
    lengths, rows = inputs.train.lengths, inputs.budget.per_device_batch
    wide = inputs.objective == "text" and all_logits
    vocabulary = unwrapped(inputs.model).config.get_text_config().vocab_size if wide else 1
    count = min(EXAMPLES if max(lengths) * vocabulary * EXAMPLES <= LOGITS else FEWER, rows)
    numbers = [number for number, length in enumerate(lengths) if length * vocabulary <= LOGITS / count]
    if not numbers:
        count = 1
        numbers = [number for number, length in enumerate(lengths) if length * vocabulary <= LOGITS]
    return [numbers[place] for place in self_check.sample([lengths[number] for number in numbers], count)]


def _chosen(model: nn.Module) -> list[nn.Parameter]:
    trained = [part for part in model.parameters() if part.requires_grad and part.numel() <= ELEMENTS]
    step = max(1, (len(trained) - 1) // (PARAMETERS - 1))
    return [*trained[:-1:step][: PARAMETERS - 1], *trained[-1:]]


def _step(loss_of: StepLoss, features: list[dict[str, Any]], chosen: list[nn.Parameter]) -> list[torch.Tensor]:
    """Return the loss of a micro-batch over its items, and its gradients, in float32."""
    scoring = loss_of.inputs.scoring
    batch = {
        name: value.to(scoring.device) if torch.is_tensor(value) else value
        for name, value in loss_of.collate(features).items()
    }
    items = max(1, int((batch["labels"] != IGNORED).sum()))
    with torch.enable_grad(), autocast(scoring.device, scoring.precision):
        loss = loss_of.batch_loss(loss_of.inputs.model, batch, items)
    gradients = torch.autograd.grad(loss, chosen, allow_unused=True) if chosen and loss.requires_grad else []
    given = [
        torch.zeros_like(part) if gradient is None else gradient
        for part, gradient in zip(chosen, gradients, strict=False)
    ]
    return [loss.detach().float(), *(gradient.float() for gradient in given)]


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """Result of both paths. loss, gradients: largest differences; of gradients as shares."""

    loss: float
    gradients: float
    allowed_loss: float
    allowed_gradients: float
    parameters: int
    exact: bool
    diverged: bool

    @classmethod
    def of(cls, fast: list[torch.Tensor], plain: list[torch.Tensor], inputs: FitInputs) -> "_Compared":
        """Compare losses, which come first, and gradients."""
        model, scoring = inputs.model, inputs.scoring
        with autocast(scoring.device, scoring.precision):
            exact = patch.in_float32(unwrapped(model))
        of_loss, of_gradients = EXACT if exact else ROUNDED
        # In 16 bits some models round more than others, as was measured before.
        measured = 0.0 if exact else padding_free.figures(model).get("gradients", {}).get("allowed", 0.0)
        return cls(
            loss=float((fast[0] - plain[0]).abs()),
            gradients=largest_difference(plain[1:], fast[1:], FLOOR_EXACT if exact else FLOOR_ROUNDED),
            allowed_loss=of_loss * max(1.0, float(plain[0].abs())),
            allowed_gradients=max(of_gradients, measured),
            parameters=len(plain) - 1,
            exact=exact,
            diverged=not all(bool(part.isfinite().all()) for part in plain),
        )

    @property
    def reason(self) -> str | None:
        """Return why the fast paths can't be used, or None."""
        if self.diverged:
            return None  # the run ends as diverged
        if not self.loss <= self.allowed_loss:
            return f"gets another training loss so (by {self.loss:.2g})"
        if not self.gradients <= self.allowed_gradients:
            return f"gets other gradients so (by {self.gradients:.2g})"
        return None

    def figures(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return {
            "tolerance": "float32" if self.exact else "16 or 4 bits",
            "loss": {"difference": finite(self.loss), "allowed": finite(self.allowed_loss)},
            "gradients": {
                "difference": finite(self.gradients),
                "allowed": self.allowed_gradients,
                "parameters": self.parameters,
            },
        }
