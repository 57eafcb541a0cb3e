"""Reader of a task head: one forward per batch of examples of similar length."""

from typing import Any

from bench.data.batching import collate, grouped
from bench.data.examples import Encoded
from bench.evaluation.reader import Answer, Scoring, batch_tokens, forward


class HeadReader:
    """Predicts with a task head, in batches of similar length, longest first.

    batches: they depend on nothing but the lengths and the number of tokens.
    """

    def __init__(self, model: Any, split: Encoded, scoring: Scoring) -> None:
        self.model, self.split, self.scoring = model, split, scoring
        self.batches = grouped(split.lengths, batch_tokens(model, scoring))
        self.notes: list[str] = []

    def read(self, numbers: list[int]) -> list[Answer]:
        """Run one forward, and let the task turn logits into predictions."""
        batch = collate([self.split.features[number] for number in numbers], self.scoring.tokenizer)
        logits = forward(self.model, batch, self.scoring)
        predicted, scores = self.scoring.task.predict(logits, self.scoring.metrics.multi_label, self.scoring.threshold)
        return [
            Answer(prediction=answer, scores=row)
            for answer, row in zip(predicted.tolist(), scores.tolist(), strict=True)
        ]
