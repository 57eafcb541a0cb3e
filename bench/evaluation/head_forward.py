"""Forwards of a model with a task head, in padded batches; what they give is first compared with one text alone."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import pad

from bench.data.batching import collate
from bench.data.examples import Feature
from bench.evaluation import self_check
from bench.evaluation.reader import Scoring, batch_tokens
from bench.models import positions
from bench.models.autocast import autocast
from bench.models.heads import unwrapped
from bench.models.kernels import padding_free, patch

# Largest difference of a logit that is mere rounding, as self_check has it for log-likelihoods.
EXACT, ROUNDED = 1e-3, 0.25
# Makes tensors [rows, ...] of a model's outputs for a padded batch.
Read = Callable[[Any], list[torch.Tensor]]


def read_logits(outputs: Any) -> list[torch.Tensor]:
    """Return logits [rows, labels]."""
    return [outputs.logits]


class HeadForward:
    """Runs features through a model, whatever they are batched with.

    features: those that will be run, of which the longest, the shortest and some between are run together and alone
    before the first batch. Where that differs, pads are computed; where it still does, each text is run alone.
    read: what is wanted of the outputs. of_tokens: whether that has a column for each token. run: the model's method
    that is called; default: its forward.
    notes: which fallback was used and why. check_s: seconds that the comparison took.
    """

    def __init__(
        self,
        model: Any,
        features: Sequence[Feature],
        scoring: Scoring,
        *,
        read: Read = read_logits,
        of_tokens: bool = False,
        run: Callable[..., Any] | None = None,
    ) -> None:
        self.read, self.of_tokens = read, of_tokens
        self.model, self.scoring, self.run = model, scoring, run or model
        self.notes: list[str] = []
        self._alone = False
        started_s = time.perf_counter()
        lengths = [len(feature["input_ids"]) for feature in features]
        limit = positions.rescaled_beyond(model)
        if limit is not None and max(lengths, default=0) > limit:
            self._go_alone(f"rotates texts of more than {limit} tokens by the longest one")
        elif scoring.checked and len(features) > 1:
            with torch.no_grad():
                self._compare([features[number] for number in self_check.sample(lengths, scoring.checked)])
        self.check_s = time.perf_counter() - started_s

    def __call__(self, features: Sequence[Feature]) -> list[torch.Tensor]:
        """Return what is read of one batch, in float32 on the run's device; zeros for pads."""
        return self._each_alone(features) if self._alone else self._together(features)

    def _together(self, features: Sequence[Feature]) -> list[torch.Tensor]:
        batch = collate([{**feature, "labels": 0} for feature in features], self.scoring.tokenizer)
        inputs = {name: tensor.to(self.scoring.device) for name, tensor in batch.items() if name != "labels"}
        with autocast(self.scoring.device, self.scoring.precision):
            return [tensor.float() for tensor in self.read(self.run(**inputs))]

    def _each_alone(self, features: Sequence[Feature]) -> list[torch.Tensor]:
        longest = max(len(feature["input_ids"]) for feature in features)
        rows = []
        for feature in features:
            positions.forget_longer_texts(self.model)
            length = len(feature["input_ids"])
            tensors = self._together([feature])
            behind = [(0, 0) * (part.dim() - 2) + (0, longest - length) for part in tensors]
            rows.append(
                [pad(part, more) if self.of_tokens else part for part, more in zip(tensors, behind, strict=True)]
            )
        return [torch.cat(parts) for parts in zip(*rows, strict=True)]

    def _compare(self, features: list[Feature]) -> None:
        expected = [self._each_alone([features[place]]) for place in self_check.within_time(range(len(features)))]
        features = features[: len(expected)]
        while padding_free.is_attached(self.model):
            # All processes train this model afterwards.
            reason = self_check.first_reason(self._differs(features, expected))
            if reason is None:
                return
            padding_free.detach(self.model)
            self.notes.append(f"pads are computed: the model {reason}")
        reason = self._differs(features, expected)
        if reason is not None:
            self._go_alone(reason)

    def _go_alone(self, reason: str) -> None:
        self._alone = True
        self.notes.append(f"each text is scored alone: the model {reason}")

    def _differs(self, features: list[Feature], expected: list[list[torch.Tensor]]) -> str | None:
        """Return why texts can't be run together, by a few that are; None if they can.

        expected: what is read of each of them alone.
        """
        lengths = [len(feature["input_ids"]) for feature in features]
        with autocast(self.scoring.device, self.scoring.precision):
            allowed = EXACT if patch.in_float32(unwrapped(self.model)) else ROUNDED
        largest, far = 0.0, False
        for part in self_check.parts(range(len(features)), lengths, batch_tokens(self.model, self.scoring)):
            try:
                together = self._together([features[number] for number in part])
            except Exception as error:
                return self_check.failure(error)
            for row, number in enumerate(part):
                for alone, found in zip(expected[number], together, strict=True):
                    own = found[row, : lengths[number]] if self.of_tokens else found[row]
                    if not bool(alone.isfinite().all()):
                        continue  # the run ends as diverged
                    gap = float((own - alone[0]).abs().max())
                    far |= not gap <= allowed * max(1.0, float(alone.abs().max()))
                    largest = max(largest, gap)
        count = len(features)
        return f"gets other outputs beside longer texts (by up to {largest:.2g}, of {count} examples)" if far else None
