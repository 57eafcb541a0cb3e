"""Reader of multiple choice with a head: a score for each (context, choice) pair, compared within an example."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState

from bench.config.contracts import EncodedData
from bench.config.recipe import Recipe
from bench.data.batching import grouped
from bench.data.dataset import Corpus
from bench.data.examples import Encoded, Feature, row_lengths
from bench.data.rows import Split
from bench.errors import SetupError
from bench.evaluation.head_forward import HeadForward
from bench.evaluation.reader import Answer, Scoring, batch_tokens
from bench.evaluation.readers.choices import lengths_of
from bench.evaluation.readers.head import encode_rows


def encode(corpus: Corpus, tokenizer: Any, recipe: Recipe, state: PartialState | None = None) -> EncodedData:
    """Encode all splits: of each row a pair for each of its choices. Their tokens are not kept.

    Raises SetupError for a method that learns from features of whole texts, and for rows with different numbers of
    choices where the head looks for the end of every text, so that no row can be left empty.
    """
    if recipe.method.name == "probe":
        raise SetupError("method: probe learns one label of all texts, which can't score choices of a row's own")
    counts = {len(row["choices"]) for split in corpus.splits.values() for row in split.rows}
    if recipe.model.family == "encoder_decoder" and len(counts) > 1:
        raise SetupError(
            f"rows have {min(counts)} to {max(counts)} choices, and the head of an encoder-decoder needs as many for "
            "all rows; take objective: text, or another model"
        )
    splits = {name: encode_split(split, tokenizer, recipe.max_length) for name, split in corpus.splits.items()}
    return EncodedData(splits=splits, train=splits.get("train"), reader=ChoiceHeadReader, unit="examples")


def encode_split(split: Split, tokenizer: Any, max_length: int) -> Encoded:
    """Encode rows: "pairs" of a context and a choice, and as "input_ids" the tokens of all of them.

    The context is the text; `text_pair`, as a question or the beginning of all choices, leads every choice.
    """
    pairs = [
        {"text": row["text"], "text_pair": " ".join([*([row["text_pair"]] if row["text_pair"] else []), choice])}
        for row in split.rows
        for choice in row["choices"]
    ]
    encoded, cut = encode_rows([{**pair, "label": 0} for pair in pairs], tokenizer, max_length)
    features: list[Feature] = []
    cut_rows, first, too_long = 0, 0, set(cut)
    for row in split.rows:
        numbers = range(first, first + len(row["choices"]))
        own = [{name: ids for name, ids in encoded[number].items() if name != "labels"} for number in numbers]
        ids = [token for pair in own for token in pair["input_ids"]]
        cut_row = not too_long.isdisjoint(numbers)
        features.append(
            {"input_ids": ids, "pairs": own, "labels": row["label"], "choices": row["choices"], "cut": cut_row}
        )
        cut_rows += cut_row
        first = numbers.stop
    ids_of_rows = tuple(row["id"] for row in split.rows)
    return Encoded(name=split.name, ids=ids_of_rows, features=features, truncated=cut_rows)


class ChoiceHeadReader:
    """Predicts the choice whose pair has the highest score; probabilities are over an example's own choices."""

    def __init__(self, model: Any, split: Encoded, scoring: Scoring) -> None:
        self.model, self.split, self.scoring = model, split, scoring
        self.budget = batch_tokens(model, scoring)
        # As if all pairs of an example were as long as its longest, so that a batch of examples is one of pairs.
        sizes = [row_lengths(feature) for feature in split.features]
        self.batches = grouped([len(lengths) * max(lengths) for lengths in sizes], self.budget)
        self.forward = HeadForward(model, [pair for feature in split.features for pair in feature["pairs"]], scoring)
        self.notes, self.check_s = self.forward.notes, self.forward.check_s

    def read(self, numbers: list[int]) -> list[Answer]:
        """Score all pairs of some examples; in several batches where these are too many for one."""
        features = [self.split.features[number] for number in numbers]
        pairs = [pair for feature in features for pair in feature["pairs"]]
        groups = grouped([len(pair["input_ids"]) for pair in pairs], self.budget)
        logits = torch.cat([self._logits([pairs[place] for place in group]) for group in groups])
        back = torch.tensor([place for group in groups for place in group]).argsort()
        left = iter(logits[back].double().split([len(feature["pairs"]) for feature in features]))
        return [self._answer(feature, next(left)) for feature in features]

    def _logits(self, pairs: Sequence[Feature]) -> torch.Tensor:
        return self.forward(pairs)[0].cpu()[:, 0]

    def _answer(self, feature: Feature, logits: torch.Tensor) -> Answer:
        scores = torch.zeros(max(self.scoring.metrics.num_labels, len(logits)), dtype=torch.float64)
        scores[: len(logits)] = logits.softmax(-1)
        # Equal scores: the first choice.
        return Answer(prediction=int(logits.argmax()), scores=scores.tolist(), extra=lengths_of(feature))
