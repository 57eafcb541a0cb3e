"""Reader of tags of words: encodes sentences as windows, and predicts the likeliest tag at each word's first token."""

from typing import Any

import torch
from accelerate import PartialState

from bench.config.contracts import EncodedData
from bench.config.recipe import Recipe
from bench.data.batching import IGNORED, grouped
from bench.data.dataset import Corpus
from bench.data.examples import Encoded, Feature
from bench.data.sources import Rows
from bench.data.tagging import OUTSIDE
from bench.data.word_windows import WordWindows, make_windows
from bench.evaluation.head_forward import HeadForward, read_logits
from bench.evaluation.reader import Answer, Scoring, batch_tokens


def encode(corpus: Corpus, tokenizer: Any, recipe: Recipe, state: PartialState | None = None) -> EncodedData:
    """Encode all splits of tagged sentences: to score, a feature per sentence; to train on, one per window.

    Their tokens are not kept: windows hold more than these. Raises SetupError as `make_windows` does.
    """
    splits, notes, train = {}, [], None
    for name, split in corpus.splits.items():
        windows = make_windows(split.rows, tokenizer, recipe.max_length)
        splits[name] = _sentences(name, split.rows, windows)
        notes += _notes(name, split.rows, windows)
        if name == "train":
            train = train_examples(split.rows, windows, corpus.labels)
    labels = corpus.labels
    return EncodedData(
        splits=splits,
        train=train,
        reader=lambda model, split, scoring: TagReader(model, split, scoring, labels),
        notes=tuple(notes),
        unit="sentences",
    )


def sentences(rows: Rows, tokenizer: Any, max_length: int) -> Encoded:
    """Encode rows ({"id", "text", "tokens"}) to be tagged: a feature for each, with its windows."""
    tagged = [{**row, "tags": [OUTSIDE] * len(row["tokens"])} for row in rows]
    return _sentences("texts", tagged, make_windows(rows, tokenizer, max_length))


def _sentences(name: str, rows: Rows, windows: WordWindows) -> Encoded:
    return Encoded(
        name=name,
        ids=tuple(row["id"] for row in rows),
        # A tuple: see `examples.kind_of`.
        features=[
            {"windows": own, "labels": tuple(row["tags"])} for row, own in zip(rows, windows.windows, strict=True)
        ],
        truncated=0,
        in_words=True,
        sizes=tuple(max(1, sum(len(window["input_ids"]) for window in own)) for own in windows.windows),
    )


def _notes(name: str, rows: Rows, windows: WordWindows) -> list[str]:
    notes = []
    long = [own for own in windows.windows if len(own) > 1]
    if long:
        notes.append(
            f"{name}: {len(long)} sentences are longer than max_length and were read in {sum(map(len, long))} windows, "
            "each word in the one with most context"
        )
    unseen = [numbers for numbers in windows.unseen if numbers]
    if unseen:
        row = rows[next(place for place, numbers in enumerate(windows.unseen) if numbers)]
        notes.append(
            f"{name}: {sum(map(len, unseen))} words of {len(unseen)} sentences have no token (as in {row['id']!r}); "
            f"they are scored as {OUTSIDE}"
        )
    return notes


def train_examples(rows: Rows, windows: WordWindows, labels: tuple[str, ...]) -> Encoded:
    """Return a feature for each window; its words have labels at their first tokens, and nothing else has one."""
    numbers = {name: number for number, name in enumerate(labels)}
    ids, examples = [], []
    for row, own in zip(rows, windows.windows, strict=True):
        for count, window in enumerate(own, start=1):
            tags = [IGNORED] * len(window["input_ids"])
            for place, word in zip(window["places"], window["words"], strict=True):
                tags[place] = numbers[row["tags"][word]]
            ids.append(f"{row['id']}#{count}" if len(own) > 1 else str(row["id"]))
            examples.append({"input_ids": window["input_ids"], "word_labels": tags})
    return Encoded(name="train", ids=tuple(ids), features=examples, truncated=0)


class TagReader:
    """Predicts the tag of each word; batches are of sentences, whose windows are run together."""

    def __init__(self, model: Any, split: Encoded, scoring: Scoring, labels: tuple[str, ...]) -> None:
        self.split, self.labels = split, labels
        self.budget = batch_tokens(model, scoring)
        self.batches = grouped(split.lengths, self.budget)
        windows = [window for feature in split.features for window in feature["windows"]]
        self.forward = HeadForward(model, windows, scoring, read=read_logits, of_tokens=True)
        self.notes, self.check_s = self.forward.notes, self.forward.check_s

    def read(self, numbers: list[int]) -> list[Answer]:
        """Tag some sentences. A word that no window shows is O. scores: the mean probability of the chosen tags."""
        rows = [self.split.features[number] for number in numbers]
        tags = [[OUTSIDE] * len(row["labels"]) for row in rows]
        chosen: list[list[float]] = [[] for _ in rows]
        windows = [(place, window) for place, row in enumerate(rows) for window in row["windows"]]
        for part in grouped([len(window["input_ids"]) for _, window in windows], self.budget):
            some = [windows[number] for number in part]
            for (place, window), (best, probabilities) in zip(some, self._read([one for _, one in some]), strict=True):
                for word, tag in zip(window["words"], best, strict=True):
                    tags[place][word] = self.labels[tag]
                chosen[place] += probabilities
        return [
            Answer(prediction=tuple(own), scores=[sum(each) / len(each) if each else 1.0])
            for own, each in zip(tags, chosen, strict=True)
        ]

    def _read(self, windows: list[Feature]) -> list[tuple[list[int], list[float]]]:
        """Return the most probable tag and its probability for each word of each window."""
        (logits,) = self.forward(windows)  # [windows, tokens, tags]
        read = []
        for row, window in zip(logits, windows, strict=True):
            places = torch.tensor(window["places"], device=row.device)
            probabilities, best = row[places].double().softmax(-1).max(-1)
            read.append((best.tolist(), probabilities.tolist()))
        return read
