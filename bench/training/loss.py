"""Micro-batches and their loss, the same for every engine."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.data.batching import IGNORED, collate, collate_answers
from bench.distributed import sharding
from bench.models import shards
from bench.models.autocast import autocast
from bench.models.heads import unwrapped
from bench.models.kernels.answer_only_loss import attach, detach
from bench.models.losses import answer_loss_sum
from bench.training import compiling
from bench.training.state import FitInputs


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """Collates training examples and computes their loss.

    answers_only: the model itself returns the loss of its answers' tokens, and computes no other logits.
    """

    inputs: FitInputs
    answers_only: bool = False

    def collate(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a micro-batch, padded on the right; with num_answers where only their loss is asked for."""
        inputs = self.inputs
        if inputs.objective == "head":
            return collate(features, inputs.scoring.tokenizer)
        start = unwrapped(inputs.model).config.decoder_start_token_id if inputs.writes_by_encoder_decoder else None
        batch: dict[str, Any] = collate_answers(features, inputs.scoring.tokenizer.pad_token_id, start)
        if self.answers_only:
            # Counted here, before the labels are on a device that would have to be waited for.
            batch["num_answers"] = int((batch["labels"] != IGNORED).sum())
        return batch

    def divisor(self, batches: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """Return the divisor of the loss of micro-batches: the number of their label items, or their weights."""
        own = self.inputs.class_loss
        labels = [batch["labels"] for batch in batches]
        counts = [(each != IGNORED).sum() if own is None else own.divisor(each) for each in labels]
        return torch.stack(counts).sum()

    def batch_loss(self, model: nn.Module, batch: dict[str, Any], items: torch.Tensor | int) -> torch.Tensor:
        """Return the loss of a micro-batch of `collate`: its sum over label items, over `divisor` of the whole step.

        A label item is an example, a label of it where several are allowed, an end of a span, or a token of an answer.
        model: as the engine wrapped it.
        """
        # No label in any batch of the step: a sum of nothing, not 0 / 0.
        items = torch.as_tensor(items)
        items = items.masked_fill(items == 0, 1)
        if self.answers_only:
            loss: torch.Tensor = model(**batch).loss
            return loss / items
        outputs = model(**{name: value for name, value in batch.items() if name != "labels"})
        return self._summed(outputs, batch) / items

    def _summed(self, outputs: Any, batch: dict[str, Any]) -> torch.Tensor:
        inputs = self.inputs
        if inputs.class_loss is not None:
            return inputs.class_loss.summed(outputs.logits, batch["labels"])
        if inputs.objective == "head":
            smoothing = inputs.settings.label_smoothing
            return inputs.task.loss(outputs, batch, label_smoothing=smoothing)
        return answer_loss_sum(outputs.logits, batch["labels"], shifted=not inputs.writes_by_encoder_decoder)


@contextlib.contextmanager
def step_loss(inputs: FitInputs) -> Iterator[StepLoss]:
    """Switch a language model to the loss of its answers' tokens while an engine trains it.

    Where the model can't, or is not asked to, all logits are computed; the observer hears which it is, and why.
    """
    wanted, reason = inputs.objective == "text" and inputs.speed.answer_logits, None
    if wanted:
        with autocast(inputs.scoring.device, inputs.scoring.precision), shards.by_layer(inputs.model):
            reason = _is_sharded_and_trained(inputs.model) or attach(inputs.model)
    answers_only = wanted and reason is None
    if inputs.objective == "text":
        inputs.observer.on_setting("answer_logits", answers_only)
    if reason is not None:
        inputs.observer.on_note(f"speed.answer_logits: all logits were computed, for the model {reason}")
    try:
        with compiling.counted(inputs):
            yield StepLoss(inputs=inputs, answers_only=answers_only)
    finally:
        if wanted:
            detach(inputs.model)


def _is_sharded_and_trained(model: nn.Module) -> str | None:
    # The head is called apart from the model's forward; to train it so ends FSDP's backward in a segmentation fault.
    head = unwrapped(model).get_output_embeddings()
    if (
        sharding.requested_backend() == "fsdp"
        and head is not None
        and any(part.requires_grad for part in head.parameters())
    ):
        return "has an output head that is trained, and that FSDP shards"
    return None
