"""Reader of numbers: encodes texts as for labels, and predicts the one output of the head."""

from dataclasses import replace
from typing import Any

from accelerate import PartialState

from bench.config.contracts import EncodedData
from bench.config.recipe import Recipe
from bench.data.batching import grouped
from bench.data.dataset import Corpus
from bench.data.examples import Encoded
from bench.evaluation.head_forward import HeadForward
from bench.evaluation.reader import Answer, Scoring, batch_tokens
from bench.evaluation.readers import head


def encode(corpus: Corpus, tokenizer: Any, recipe: Recipe, state: PartialState | None = None) -> EncodedData:
    """Encode all splits of texts with numbers; with the processes of a run, tokens are kept for runs to come."""
    # The cache of tokens keeps whole numbers, so that the numbers of the rows are put in behind it.
    bare = {
        name: replace(split, rows=[{**row, "label": 0} for row in split.rows]) for name, split in corpus.splits.items()
    }
    data = head.encode(replace(corpus, splits=bare), tokenizer, recipe, state)
    for name, split in data.splits.items():
        for feature, row in zip(split.features, corpus.splits[name].rows, strict=True):
            feature["labels"] = row["label"]
    return replace(data, reader=NumberReader)


class NumberReader:
    """Predicts with a head of one output, in batches of similar length, longest first."""

    def __init__(self, model: Any, split: Encoded, scoring: Scoring) -> None:
        self.split = split
        self.batches = grouped(split.lengths, batch_tokens(model, scoring))
        self.forward = HeadForward(model, split.features, scoring)
        self.notes, self.check_s = self.forward.notes, self.forward.check_s

    def read(self, numbers: list[int]) -> list[Answer]:
        """Run one forward. scores: the number itself, so that one that is not finite ends the run."""
        (logits,) = self.forward([self.split.features[number] for number in numbers])
        values = logits[:, 0].double().cpu().tolist()
        return [Answer(prediction=value, scores=[value]) for value in values]
