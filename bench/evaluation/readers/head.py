"""Reader of a task head: encodes rows of texts, and predicts by one forward per batch of examples of similar length."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from bench.config.contracts import EncodedData
from bench.config.recipe import Recipe
from bench.data import tokenizer as tokenizers
from bench.data.batching import grouped
from bench.data.dataset import Corpus
from bench.data.examples import Encoded
from bench.data.rows import Split
from bench.data.token_cache import TokenCache
from bench.errors import SetupError
from bench.evaluation.head_forward import HeadForward
from bench.evaluation.reader import Answer, Scoring, batch_tokens


def encode(corpus: Corpus, tokenizer: Any, recipe: Recipe, state: PartialState | None = None) -> EncodedData:
    """Encode all splits of labelled texts; with the processes of a run, tokens are kept for runs to come."""
    splits, limit = corpus.splits, recipe.max_length
    make = {name: partial(encode_rows, split.rows, tokenizer, limit) for name, split in splits.items()}
    if state is None or not recipe.speed.token_cache:
        encoded = {name: _encoded(split, *make[name]()) for name, split in splits.items()}
        return EncodedData(splits=encoded, train=encoded.get("train"), reader=HeadReader)
    cache = TokenCache(tokenizer, limit, [Path(__file__), Path(str(tokenizers.__file__))])
    with cache.first(state):
        tokens = {name: cache.tokens(split.fingerprint, len(split.rows), make[name]) for name, split in splits.items()}
    encoded = {name: _encoded(splits[name], item.features, item.cut) for name, item in tokens.items()}
    return EncodedData(
        splits=encoded,
        train=encoded.get("train"),
        reader=HeadReader,
        notes=tuple(cache.notes),
        token_cache={name: item.hit for name, item in tokens.items()} if cache.in_use else False,
    )


def _encoded(split: Split, features: list[dict[str, Any]], cut: tuple[int, ...]) -> Encoded:
    return Encoded(name=split.name, ids=tuple(row["id"] for row in split.rows), features=features, truncated=len(cut))


def encode_rows(
    rows: Sequence[dict[str, Any]], tokenizer: Any, max_length: int
) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    """Encode rows ({"text", "text_pair"?, "label"}); return features ({"input_ids", "labels"}) and numbers of rows cut.

    Of two texts the longer one is shortened first; which token is of which text ("token_type_ids") is kept for models
    that know it, like BERT. Raises SetupError when `max_length` leaves no room for a token of each text.
    """
    if not rows:
        return [], ()
    first = [row["text"] for row in rows]
    second = [row["text_pair"] for row in rows] if rows[0].get("text_pair") is not None else None
    # Encoded once without a limit: the true lengths are needed to know what is cut.
    features: list[dict[str, Any]] = [*tokenizers.encode(tokenizer, first, second)]
    too_long = [index for index, feature in enumerate(features) if len(feature["input_ids"]) > max_length]
    if too_long:
        _check_room(tokenizer, max_length, num_texts=2 if second else 1)
        short = tokenizers.encode(
            tokenizer,
            [first[index] for index in too_long],
            [second[index] for index in too_long] if second else None,
            truncation="longest_first" if second else True,
            max_length=max_length,
        )
        for index, feature in zip(too_long, short, strict=True):
            features[index] = feature
    for feature, row in zip(features, rows, strict=True):
        feature["labels"] = row["label"]
    return features, tuple(too_long)


def _check_room(tokenizer: Any, max_length: int, *, num_texts: int) -> None:
    # With less room than this, tokenizers cut nothing, or leave nothing of a text, and say neither.
    own = tokenizer.num_special_tokens_to_add(pair=num_texts == 2)
    if max_length < own + num_texts:
        raise SetupError(f"max_length {max_length} leaves no room for text: the tokenizer adds {own} tokens of its own")


def predict(logits: torch.Tensor, multi_label: bool, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for logits [batch, labels] the predictions ([batch] ids, or [batch, labels] of 0 and 1), probabilities.

    Equal probabilities: the first label wins.
    """
    logits = logits.double()
    if multi_label:
        scores = logits.sigmoid()
        return (scores >= threshold).long(), scores
    scores = logits.softmax(-1)
    return scores.argmax(-1), scores


class HeadReader:
    """Predicts with a task head, in batches of similar length, longest first.

    batches: they depend on nothing but the lengths and the number of tokens.
    """

    def __init__(self, model: nn.Module, split: Encoded, scoring: Scoring) -> None:
        self.model, self.split, self.scoring = model, split, scoring
        self.batches = grouped(split.lengths, batch_tokens(model, scoring))
        self.forward = HeadForward(model, split.features, scoring)
        self.notes, self.check_s = self.forward.notes, self.forward.check_s

    def read(self, numbers: list[int]) -> list[Answer]:
        """Run one forward, and let the task turn logits into predictions."""
        (logits,) = self.forward([self.split.features[number] for number in numbers])
        predicted, scores = predict(logits.cpu(), self.scoring.metrics.multi_label, self.scoring.threshold)
        # As arrays: a list takes 32 bytes for each label of each example, in place of 8.
        return [
            Answer(prediction=answer, scores=row)
            for answer, row in zip(predicted.tolist(), scores.numpy(), strict=True)
        ]
