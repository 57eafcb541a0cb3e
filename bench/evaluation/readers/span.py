"""Reads answers that are spans of a passage: splits as windows, and a model's best span in them."""

from collections.abc import Callable
from typing import Any

from accelerate import PartialState

from bench.config.contracts import EncodedData
from bench.config.recipe import Recipe
from bench.config.training import Spans
from bench.data.batching import collate, grouped
from bench.data.dataset import Corpus
from bench.data.examples import Encoded
from bench.data.windows import Windows, windows
from bench.errors import SetupError
from bench.evaluation.reader import Answer, Scoring, batch_tokens
from bench.evaluation.spans import BestAnswer, Candidates, best_answers, candidates, joined
from bench.models.autocast import autocast

# Written down beside an answer.
SHOWN = 3


def encode(corpus: Corpus, tokenizer: Any, recipe: Recipe, state: PartialState | None = None) -> EncodedData:
    """Encode all splits of a corpus of questions: to score, a feature per question; to train on, one per window.

    Their tokens are not kept: windows hold more than these.

    Raises SetupError for a method that learns from features of whole texts, and as `windows` does.
    """
    if recipe.method.name == "probe":
        raise SetupError("method: probe learns from one feature of a whole text, which tells no answer's place in it")
    spans, version = recipe.spans, corpus.version
    splits, notes = {}, []
    found = {
        name: windows(split.rows, tokenizer, recipe.max_length, spans.doc_stride, positions=name == "train")
        for name, split in corpus.splits.items()
    }
    for name, split in corpus.splits.items():
        splits[name] = _questions(name, split.rows, found[name], spans)
        num_windows = len(found[name].features)
        if num_windows > len(split.rows):
            notes.append(f"{name}: {len(split.rows)} questions were read in {num_windows} windows")
    if version == "1.1" and spans.null_score_diff_threshold != Spans().null_score_diff_threshold:
        notes.append("spans.null_score_diff_threshold is not used: in these data every question has an answer")
    train = None
    if "train" in corpus.splits:
        train = _lessons(corpus.splits["train"].rows, found["train"])
        if found["train"].missed:
            notes.append(f"train: the answers of {len(found['train'].missed)} questions lie wholly in no window")
    reader = reader_of(spans, version)
    return EncodedData(splits=splits, train=train, reader=reader, notes=tuple(notes), unit="questions")


def questions(name: str, rows: Any, tokenizer: Any, max_length: int, spans: Spans) -> Encoded:
    """Rows ({"id", "text": passage, "text_pair": question, "answers"}) with a feature, of several windows, for each."""
    return _questions(name, rows, windows(rows, tokenizer, max_length, spans.doc_stride), spans)


def _questions(name: str, rows: Any, found: Windows, spans: Spans) -> Encoded:
    owned: list[list[dict[str, Any]]] = [[] for _ in rows]
    for feature in found.features:
        owned[feature["example"]].append(feature)
    return Encoded(
        name=name,
        ids=tuple(row["id"] for row in rows),
        features=[
            {"windows": mine, "text": row["text"], "labels": row["answers"]}
            for row, mine in zip(rows, owned, strict=True)
        ],
        truncated=len(found.cut),
        in_words=True,
        sizes=tuple(_tokens(mine, spans.doc_stride) for mine in owned),
    )


def _tokens(mine: list[dict[str, Any]], doc_stride: int) -> int:
    """Of a question with its passage; what two windows share counts once."""
    more = sum(window["context_end"] - window["context_start"] - doc_stride for window in mine[1:])
    return len(mine[0]["input_ids"]) + more


def _lessons(rows: Any, found: Windows) -> Encoded:
    counts: dict[int, int] = {}
    ids, lessons = [], []
    for feature in found.features:
        number = feature["example"]
        counts[number] = counts.get(number, 0) + 1
        ids.append(f"{rows[number]['id']}#{counts[number]}")
        read: dict[str, Any] = {key: feature[key] for key in ("input_ids", "token_type_ids") if key in feature}
        lessons.append({**read, "labels": [feature["start_positions"], feature["end_positions"]]})
    return Encoded(name="train", ids=tuple(ids), features=lessons, truncated=len(found.cut))


def reader_of(spans: Spans, version: str | None) -> Callable[[Any, Encoded, Scoring], "SpanReader"]:
    """How answers are read; only where the data have questions without one (version "2.0") may there be none."""
    threshold = spans.null_score_diff_threshold if version == "2.0" else None
    return lambda model, split, scoring: SpanReader(model, split, scoring, spans, threshold)


class SpanReader:
    """The best span of each question's windows; batches are of questions, whose windows are run together."""

    def __init__(self, model: Any, split: Encoded, scoring: Scoring, spans: Spans, threshold: float | None) -> None:
        self.model, self.split, self.scoring, self.spans, self.threshold = model, split, scoring, spans, threshold
        self.budget = batch_tokens(model, scoring)
        self.batches = grouped(split.lengths, self.budget)
        self.notes: list[str] = []

    def read(self, numbers: list[int]) -> list[Answer]:
        """Answers to some questions. scores: the probability of there being no answer."""
        rows = [self.split.features[number] for number in numbers]
        features = [{**window, "example": place} for place, row in enumerate(rows) for window in row["windows"]]
        parts = grouped([len(feature["input_ids"]) for feature in features], self.budget)
        found = joined(((part, self._candidates([features[place] for place in part])) for part in parts), len(features))
        best = best_answers(found, features, rows, null_score_diff_threshold=self.threshold)
        return [_answer(item) for item in best]

    def _candidates(self, features: list[dict[str, Any]]) -> Candidates:
        batch = collate([{**feature, "labels": 0} for feature in features], self.scoring.tokenizer)
        inputs = {name: tensor.to(self.scoring.device) for name, tensor in batch.items() if name != "labels"}
        with autocast(self.scoring.device, self.scoring.precision):
            outputs = self.model(**inputs)
        return candidates(
            outputs.start_logits,
            outputs.end_logits,
            context_starts=[feature["context_start"] for feature in features],
            context_ends=[feature["context_end"] for feature in features],
            nulls=[feature["null"] for feature in features],
            n_best=self.spans.n_best,
            max_answer_length=self.spans.max_answer_length,
        )


def _answer(best: BestAnswer) -> Answer:
    shown = [{"text": span.text, "start": span.start, "score": span.score} for span in best.nbest[:SHOWN]]
    extra = {"score": best.score, "null_score": best.null_score, "nbest": shown}
    return Answer(prediction=best.text, scores=[best.no_answer_probability], extra=extra)
