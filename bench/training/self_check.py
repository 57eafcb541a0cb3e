"""Compares the fast paths of training with the plain one on a few training examples, before the first step.

Loss and gradients of one small micro-batch, the longest and the shortest example among it, without dropout. Gradients
because a new adapter changes no loss: its output is zero, but not what it learns.
"""

import dataclasses
from typing import Any

import torch
from torch import nn

from bench.data.batching import IGNORED
from bench.evaluation import self_check
from bench.evaluation.self_check import first_reason
from bench.models import positions
from bench.models.autocast import autocast
from bench.models.heads import unwrapped
from bench.models.kernels import answer_only_loss, padding_free, patch
from bench.records.failures import is_out_of_memory
from bench.training.loss import StepLoss
from bench.training.state import FitInputs

# Training examples that are run both ways, at most.
EXAMPLES = 2
# Logits that the plain path holds at once, in elements: with their gradients 1 GiB in float32, which a step that was
# planned without them may not have to spare. Longer examples are left out.
LOGITS = 2**26
# Parameters whose gradients are compared, and the most elements of each: enough to see a layer that is run otherwise.
PARAMETERS, ELEMENTS = 8, 2**22
# Largest differences that are mere rounding, of the loss and of a gradient, as shares of the largest gradient's norm.
EXACT, ROUNDED = (1e-4, 1e-3), (0.05, 0.25)


def checked(loss_of: StepLoss) -> StepLoss:
    """Return the loss to train with: where a fast path gives another loss or gradient, it is turned off and noted.

    Every process must call it.
    """
    inputs = loss_of.inputs
    if not inputs.scoring.checked or not inputs.train.ids:
        return loss_of
    with inputs.clock.phase("self_check"):
        while loss_of.answers_only or padding_free.is_attached(inputs.model):
            reason = first_reason(_difference(loss_of))
            if reason is None:
                break
            loss_of = _plainer(loss_of, reason)
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
    features = [inputs.train.features[number] for number in _sample(inputs)]
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
        return _compared(fast, _step(dataclasses.replace(loss_of, answers_only=False), features, chosen), model)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        inputs.observer.on_note("the fast paths of training could not be compared with the plain one: out of memory")
        return None
    finally:
        positions.forget_longer_texts(model)
        model.train(was_training)
        if without_pads:
            padding_free.attach(model)


def _sample(inputs: FitInputs) -> list[int]:
    """Return the longest and the shortest example whose logits may all be held; one where a batch is one, or none."""
    lengths, count = inputs.train.lengths, min(EXAMPLES, inputs.budget.per_device_batch)
    vocabulary = unwrapped(inputs.model).config.get_text_config().vocab_size if inputs.objective == "text" else 1
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


def _compared(fast: list[torch.Tensor], plain: list[torch.Tensor], model: nn.Module) -> str | None:
    of_loss, of_gradients = EXACT if patch.in_float32(unwrapped(model)) else ROUNDED
    if not all(bool(part.isfinite().all()) for part in plain):
        return None  # the run ends as diverged
    gap = float((fast[0] - plain[0]).abs())
    if not gap <= of_loss * max(1.0, float(plain[0].abs())):
        return f"gets another training loss so (by {gap:.2g})"
    # Of the largest one: some, like those of the keys' biases, are nothing but rounding.
    size = max((_norm(part) for part in plain[1:]), default=0.0)
    gap = max((_norm(one - other) for one, other in zip(fast[1:], plain[1:], strict=True)), default=0.0)
    return None if gap <= of_gradients * size else f"gets other gradients so (by {gap / max(size, 1e-30):.2g})"


def _norm(part: torch.Tensor) -> float:
    return float(part.norm())
