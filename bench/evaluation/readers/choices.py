"""Reader of multiple choice: predicts the choice that is the likeliest after the prompt, of each row's own choices."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from bench.config.recipe import Prompting
from bench.data.examples import Encoded, Feature
from bench.data.prompts.encode import prompt_identity
from bench.evaluation.reader import Answer, Scoring
from bench.evaluation.readers.likelihood import LikelihoodReader


class ChoiceReader(LikelihoodReader):
    """Predicts the choice whose tokens are the likeliest after the prompt.

    normalization: what a log-likelihood is taken over: nothing ("none"), or the choice's characters, bytes or tokens.
    Scores are the softmax over the row's own choices, and 0 for places where it has none.
    """

    def __init__(self, model: Any, split: Encoded, scoring: Scoring, normalization: str) -> None:
        super().__init__(model, split, scoring, Prompting(), ())
        self.normalization, self.num_labels = normalization, scoring.metrics.num_labels

    def _normalized(self, number: int, sums: np.ndarray) -> np.ndarray:
        lengths = lengths_of(self.split.features[number])
        return sums if self.normalization == "none" else sums / np.array(lengths[f"choice_{self.normalization}"])

    def _answer(self, number: int, sums: np.ndarray) -> Answer:
        feature = self.split.features[number]
        probabilities = self.scores(number, sums)
        scores = np.zeros(max(self.num_labels, len(sums)))
        scores[: len(sums)] = probabilities
        extra = {"log_likelihoods": sums.tolist(), **lengths_of(feature), **prompt_identity(feature)}
        # By what is compared, not by its softmax, which rounds small differences away. Equally likely: the first one.
        prediction = int(self._normalized(number, sums).argmax())
        return Answer(prediction=prediction, scores=scores.tolist(), extra=extra)


def lengths_of(feature: Feature) -> dict[str, list[int]]:
    """Return the characters and bytes of each choice, and of a prompt's the tokens."""
    texts = feature["choices"]
    lengths = {"choice_characters": [len(text) for text in texts]}
    lengths["choice_bytes"] = [len(text.encode()) for text in texts]
    if "continuation_ids" in feature:
        lengths["choice_tokens"] = [len(ids) for ids in feature["continuation_ids"]]
    return lengths


def notes(splits: Iterable[Encoded]) -> list[str]:
    """Return notes on rows whose choices a log-likelihood can't compare fairly, by split."""
    found = []
    for split in splits:
        rows = [[tuple(ids) for ids in feature["continuation_ids"]] for feature in split.features]
        if same := sum(len(set(row)) < len(row) for row in rows):
            found.append(f"{split.name}: {same} rows have choices with the same tokens; the first of them is predicted")
        if begins := sum(_one_begins_another(row) for row in rows):
            found.append(
                f"{split.name}: in {begins} rows a choice is the beginning of another one, so that by its plain "
                "log-likelihood the shorter one is always the likelier (normalization: none)"
            )
    return found


def _one_begins_another(row: list[tuple[int, ...]]) -> bool:
    return any(one != other and other[: len(one)] == one for one in row for other in row)
