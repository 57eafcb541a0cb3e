"""Reader of a classifier of TF-IDF features: the texts as they are, and predictions without tokens or a model."""

from typing import Any

from bench.config.contracts import EncodedData
from bench.data.dataset import Corpus
from bench.data.examples import Encoded
from bench.data.rows import Split
from bench.evaluation.reader import Answer, Scoring
from bench.evaluation.readers.head import predict
from bench.models.tfidf import TfidfModel, joined

# Texts of a batch: a batch is what a process of several takes at once, and what the progress bar counts.
TEXTS = 256
NOTE = "lengths are those of whole texts in words of two or more letters, which method tfidf reads; nothing is cut"


def encode(corpus: Corpus, model: TfidfModel) -> EncodedData:
    """Return all splits with their texts; lengths are words as the vectorizer counts them."""
    splits = {name: _encoded(split, model) for name, split in corpus.splits.items()}
    return EncodedData(splits=splits, train=splits.get("train"), reader=TfidfReader, notes=(NOTE,))


def _encoded(split: Split, model: TfidfModel) -> Encoded:
    features = [{"text": joined(row), "labels": row["label"]} for row in split.rows]
    return Encoded(
        name=split.name,
        ids=tuple(row["id"] for row in split.rows),
        features=features,
        truncated=0,
        sizes=tuple(model.words(feature["text"]) for feature in features),
    )


class TfidfReader:
    """Predicts by the fitted weights, in batches of neighbouring examples."""

    def __init__(self, model: Any, split: Encoded, scoring: Scoring) -> None:
        self.model, self.split, self.scoring = model, split, scoring
        numbers = range(len(split.ids))
        self.batches = [list(numbers[start : start + TEXTS]) for start in range(0, len(numbers), TEXTS)]
        self.notes: list[str] = []
        self.check_s = 0.0

    def read(self, numbers: list[int]) -> list[Answer]:
        """Return the answers to the examples of one batch."""
        logits = self.model.logits([self.split.features[number]["text"] for number in numbers])
        predicted, scores = predict(logits, self.scoring.metrics.multi_label, self.scoring.threshold)
        return [
            Answer(prediction=answer, scores=row)
            for answer, row in zip(predicted.tolist(), scores.numpy(), strict=True)
        ]
