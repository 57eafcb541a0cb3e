"""Reader of answers that are spans of a passage: encodes splits as windows, and predicts the best span in them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from accelerate import PartialState

from bench.config.contracts import EncodedData
from bench.config.recipe import Recipe
from bench.config.training import Spans
from bench.data import lost_texts
from bench.data.batching import IGNORED, grouped
from bench.data.dataset import Corpus
from bench.data.examples import Encoded, Feature
from bench.data.sources import Rows
from bench.data.windows import Windows, make_windows
from bench.errors import SetupError
from bench.evaluation.head_forward import HeadForward
from bench.evaluation.reader import Answer, Scoring, batch_tokens
from bench.evaluation.spans import BestAnswer, Candidates, best_answers, candidates, joined
from bench.records.record import RunWarning

# Spans of the n-best list that are written beside a prediction.
SHOWN = 3


def encode(corpus: Corpus, tokenizer: Any, recipe: Recipe, state: PartialState | None = None) -> EncodedData:
    """Encode all splits of a corpus of questions: to score, a feature per question; to train on, one per window.

    Their tokens are not kept: windows hold more than these.

    Raises SetupError for a method that learns from features of whole texts, and as `make_windows` does.
    """
    if recipe.method.name == "probe":
        raise SetupError("method: probe learns from one feature per text, which can't give an answer's position in it")
    spans, version = recipe.spans, corpus.version
    splits, notes = {}, []
    windows = {
        name: make_windows(split.rows, tokenizer, recipe.max_length, spans.doc_stride, positions=name == "train")
        for name, split in corpus.splits.items()
    }
    for name, split in corpus.splits.items():
        splits[name] = _questions(name, split.rows, windows[name], spans)
        num_windows = len(windows[name].features)
        if num_windows > len(split.rows):
            notes.append(f"{name}: {len(split.rows)} questions were read in {num_windows} windows")
    if version == "1.1" and spans.null_score_diff_threshold != Spans().null_score_diff_threshold:
        notes.append("spans.null_score_diff_threshold is not used: in these data every question has an answer")
    train, warnings = None, []
    if "train" in corpus.splits:
        rows = corpus.splits["train"].rows
        train = _train_examples(rows, windows["train"])
        if spans.offsets == "characters_as_tokens":
            train, warning = with_characters_as_tokens(train, rows, windows["train"])
            warnings.append(warning)
        if windows["train"].missed:
            notes.append(f"train: the answers of {len(windows['train'].missed)} questions lie wholly in no window")
        warnings += _of_answers(rows, windows["train"], spans.max_answer_length)
    reader = reader_of(spans, version)
    return EncodedData(
        splits=splits, train=train, reader=reader, notes=tuple(notes), unit="questions", warnings=tuple(warnings)
    )


def _of_answers(rows: Rows, windows: Windows, longest: int) -> list[RunWarning]:
    """Return what is lost, or wrong, of the answers to learn from. longest: tokens of an answer that may be given."""
    asked = sum(bool(row["answers"]) for row in rows)
    long = {
        feature["example"]
        for feature in windows.features
        if feature["end_positions"] - feature["start_positions"] >= longest
    }
    never = f"have more tokens than spans.max_answer_length, {longest}, and can't be predicted"
    found = [
        lost_texts.answers_cut("train", len(windows.missed), asked, "lie wholly in no window, and none is learned"),
        lost_texts.answers_cut("train", len(long), asked, never),
        lost_texts.positions(rows, windows.features),
    ]
    return [warning for warning in found if warning is not None]


def questions(name: str, rows: Rows, tokenizer: Any, max_length: int, spans: Spans) -> Encoded:
    """Encode rows ({"id", "text": passage, "text_pair": question, "answers"}): a feature for each, with its windows."""
    return _questions(name, rows, make_windows(rows, tokenizer, max_length, spans.doc_stride), spans)


def _questions(name: str, rows: Rows, windows: Windows, spans: Spans) -> Encoded:
    by_row: list[list[Feature]] = [[] for _ in rows]
    for feature in windows.features:
        by_row[feature["example"]].append(feature)
    return Encoded(
        name=name,
        ids=tuple(row["id"] for row in rows),
        features=[
            {"windows": own, "text": row["text"], "labels": row["answers"]}
            for row, own in zip(rows, by_row, strict=True)
        ],
        truncated=len(windows.cut),
        in_words=True,
        sizes=tuple(_num_tokens(own, spans.doc_stride) for own in by_row),
    )


def _num_tokens(windows: list[Feature], doc_stride: int) -> int:
    """Count the tokens of a question with its passage; those that two windows share count once."""
    more = sum(window["context_end"] - window["context_start"] - doc_stride for window in windows[1:])
    return len(windows[0]["input_ids"]) + more


def _train_examples(rows: Rows, windows: Windows) -> Encoded:
    counts: dict[int, int] = {}
    ids, examples = [], []
    for feature in windows.features:
        number = feature["example"]
        counts[number] = counts.get(number, 0) + 1
        ids.append(f"{rows[number]['id']}#{counts[number]}")
        inputs: Feature = {key: feature[key] for key in ("input_ids", "token_type_ids") if key in feature}
        examples.append({**inputs, "labels": [feature["start_positions"], feature["end_positions"]]})
    return Encoded(name="train", ids=tuple(ids), features=examples, truncated=len(windows.cut))


def with_characters_as_tokens(train: Encoded, rows: Rows, windows: Windows) -> tuple[Encoded, RunWarning]:
    """Return training examples whose labels are an answer's character offsets, and a warning with how many are wrong.

    The fault of published code that feeds `answer_start` and `answer_start + len(text)` to a span head, which reads
    token positions. As in transformers' heads, a position behind the last token is left out of the loss.
    """
    examples, wrong, behind, asked = [], 0, 0, 0
    for example, feature in zip(train.features, windows.features, strict=True):
        row = rows[feature["example"]]
        if not row["answers"]:
            examples.append(example)
            continue
        start = row["answer_starts"][0]
        ends = [start, start + len(row["answers"][0])]
        labels = [end if end < len(example["input_ids"]) else IGNORED for end in ends]
        examples.append({**example, "labels": labels})
        asked += 1
        wrong += labels != example["labels"]
        behind += labels.count(IGNORED)
    sentence = (
        f"train: character offsets of answers are learned as token positions (spans.offsets: characters_as_tokens), a "
        f"fault that is asked for: {wrong} of {asked} windows of questions with an answer learn other tokens than the "
        f"answer's, and {behind} of their {2 * asked} ends lie behind the last token and are not learned"
    )
    return replace(train, features=examples), RunWarning(code="offsets_not_tokens", sentence=sentence)


def reader_of(spans: Spans, version: str | None) -> Callable[[Any, Encoded, Scoring], "SpanReader"]:
    """Return the constructor of the reader; only data with unanswerable questions (version "2.0") allow no answer."""
    threshold = spans.null_score_diff_threshold if version == "2.0" else None
    return lambda model, split, scoring: SpanReader(model, split, scoring, spans, threshold)


class SpanReader:
    """Predicts the best span of each question's windows; batches are of questions, whose windows are run together."""

    def __init__(self, model: Any, split: Encoded, scoring: Scoring, spans: Spans, threshold: float | None) -> None:
        self.model, self.split, self.scoring, self.spans, self.threshold = model, split, scoring, spans, threshold
        self.budget = batch_tokens(model, scoring)
        self.batches = grouped(split.lengths, self.budget)
        windows = [window for feature in split.features for window in feature["windows"]]
        self.forward = HeadForward(model, windows, scoring, read=_both_ends, of_tokens=True)
        self.notes, self.check_s = self.forward.notes, self.forward.check_s

    def read(self, numbers: list[int]) -> list[Answer]:
        """Answer some questions. scores: the probability of there being no answer."""
        rows = [self.split.features[number] for number in numbers]
        features = [{**window, "example": place} for place, row in enumerate(rows) for window in row["windows"]]
        parts = grouped([len(feature["input_ids"]) for feature in features], self.budget)
        candidates_of = ((part, self._candidates([features[place] for place in part])) for part in parts)
        best = best_answers(
            joined(candidates_of, len(features)), features, rows, null_score_diff_threshold=self.threshold
        )
        return [_answer(item) for item in best]

    def _candidates(self, features: list[Feature]) -> Candidates:
        start_logits, end_logits = self.forward(features)
        return candidates(
            start_logits,
            end_logits,
            context_starts=[feature["context_start"] for feature in features],
            context_ends=[feature["context_end"] for feature in features],
            nulls=[feature["null"] for feature in features],
            n_best=self.spans.n_best,
            max_answer_length=self.spans.max_answer_length,
        )


def _both_ends(outputs: Any) -> list[torch.Tensor]:
    return [outputs.start_logits, outputs.end_logits]


def _answer(best: BestAnswer) -> Answer:
    shown = [{"text": span.text, "start": span.start, "score": span.score} for span in best.nbest[:SHOWN]]
    extra = {"score": best.score, "null_score": best.null_score, "nbest": shown}
    return Answer(prediction=best.text, scores=[best.no_answer_probability], extra=extra)
