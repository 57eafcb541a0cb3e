"""Reader of multiple choice: predicts the choice that is the likeliest after the prompt, of each row's own choices."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from bench.config.recipe import Prompting
from bench.data.batching import grouped
from bench.data.examples import Encoded, Feature
from bench.data.prompts.encode import prompt_identity
from bench.evaluation import likelihood
from bench.evaluation.reader import Answer, Scoring
from bench.evaluation.readers.base import Checked
from bench.evaluation.readers.likelihood import LikelihoodReader
from bench.models.batch_budget import default_budget


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


class ContextReader(ChoiceReader):
    """Predicts the choice after which one text, the same for all, is the likeliest, as in lm_eval's Winogrande.

    Features have "parts": of each choice the prompt with it, and the tokens of the text behind it.
    """

    def __init__(self, model: Any, split: Encoded, scoring: Scoring, normalization: str) -> None:
        parts = [part for feature in split.features for part in feature["parts"]]
        ids = tuple(str(number) for number in range(len(parts)))
        super().__init__(model, replace(split, ids=ids, features=parts), scoring, normalization)
        self.split = split
        self.places, lengths, first = [], [], 0
        for feature in split.features:
            self.places.append(range(first, first + len(feature["parts"])))
            first += len(feature["parts"])
            lengths.append(sum(len(part["prompt_ids"]) for part in feature["parts"]))
        self.batches = grouped(lengths, scoring.batch_tokens or default_budget(model))

    def read(self, numbers: list[int]) -> list[Answer]:
        """Score one batch."""
        answers = iter(self.scorer.run([place for number in numbers for place in self.places[number]]))
        found = []
        for number in numbers:
            sums = np.array([next(answers).sums[0] for _ in self.places[number]])
            found.append(self._answer(number, sums))
        return found

    def check(self, model: Any, numbers: list[int]) -> Checked:
        """Score examples again by one ordinary forward per choice, and compare."""
        largest, changed = 0.0, 0
        for number in numbers:
            places = [*self.places[number]]
            fast = np.array([answer.sums[0] for answer in self.scorer.run(places)])
            with self.autocast():
                plain = np.array([likelihood.plain(model, self.items[place]).sums[0] for place in places])
            largest = max(largest, float(np.abs(fast - plain).max()))
            changed += self._normalized(number, fast).argmax() != self._normalized(number, plain).argmax()
        return Checked(examples=len(numbers), largest=largest, changed=int(changed))


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
