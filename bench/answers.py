"""How a language model's answers are read: the likeliest label, what it writes, or what an NLI model finds entailed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from bench import heads, likelihood
from bench.asking import digest
from bench.errors import SetupError
from bench.generation import Generator
from bench.generation import plain as generate_alone
from bench.score import Answer, Encoded, Scoring, autocast, batch_tokens, collate, evaluating, forward
from bench.settings import Prompting

# Examples that `--check` scores again by the plain path.
CHECKED = 16
# In float32 the fast path and the plain one differ by rounding only.
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What came of scoring some examples again by the plain path. largest: difference of a log-likelihood."""

    examples: int
    largest: float | None
    changed: int

    @property
    def sentence(self) -> str:
        """For the record."""
        differ = "" if self.largest is None else f"largest difference of a log-likelihood {self.largest:.2g}, "
        return f"{self.examples} examples again, one by one by the plain path: {differ}{self.changed} answers changed"


class LikelihoodReader:
    """The answer whose tokens are the likeliest behind the prompt.

    scores: the softmax of the labels' log-likelihoods, after normalisation and calibration.
    """

    def __init__(self, model: Any, split: Encoded, scoring: Scoring, prompting: Prompting, words: Sequence[str]):
        self.split, self.prompting = split, prompting
        self.autocast = partial(autocast, scoring.device, scoring.precision)
        options = {"pad_token_id": scoring.tokenizer.pad_token_id, "autocast": self.autocast}
        options["budget"] = scoring.batch_tokens
        self.items = [_item(feature) for feature in split.features]
        self.scorer = likelihood.Scorer(model, self.items, **options)
        self.batches = self.scorer.batches
        self.characters = np.array([len(word) for word in words])
        places: dict[likelihood.Item, int] = {}
        # Shots that are the same for all make the same few questions without content.
        self.contentless = [
            [places.setdefault(_item(empty), len(places)) for empty in feature.get("contentless", ())]
            for feature in split.features
        ]
        self.empty = likelihood.Scorer(model, list(places), **options) if places else None
        self._empty_scores: dict[int, np.ndarray] = {}

    @property
    def notes(self) -> list[str]:
        """Fallbacks of the scorer."""
        return [*self.scorer.notes, *(self.empty.notes if self.empty else [])]

    def read(self, numbers: list[int]) -> list[Answer]:
        """One batch of the scorer."""
        sums = [np.array(answer.sums) for answer in self.scorer.run(numbers)]
        self._read_contentless(numbers)
        return [self._answer(number, found) for number, found in zip(numbers, sums, strict=True)]

    def _read_contentless(self, numbers: list[int]) -> None:
        wanted = dict.fromkeys(place for number in numbers for place in self.contentless[number])
        missing = [place for place in wanted if place not in self._empty_scores]
        if missing and self.empty is not None:
            found = self.empty.run(missing)
            self._empty_scores |= {place: np.array(answer.sums) for place, answer in zip(missing, found, strict=True)}

    def scores(self, number: int, sums: np.ndarray) -> np.ndarray:
        """Log-likelihoods [labels] -> probabilities [labels]."""
        logits = self._normalized(number, sums)
        places = self.contentless[number]
        if places:
            # The mean of the probabilities that each label gets without any content (Zhao et al. 2021).
            empty = [_softmax(self._normalized(number, self._empty_scores[place])) for place in places]
            logits = logits - np.log(np.maximum(np.mean(empty, axis=0), np.finfo(float).tiny))
        return _softmax(logits)

    def _normalized(self, number: int, sums: np.ndarray) -> np.ndarray:
        if self.prompting.normalization == "tokens":
            return sums / np.array([len(rest) for rest in self.split.features[number]["rests"]])
        return sums / self.characters if self.prompting.normalization == "characters" else sums

    def _answer(self, number: int, sums: np.ndarray) -> Answer:
        scores = self.scores(number, sums)
        extra = {"log_likelihoods": sums.tolist(), "prompt_hash": self.split.features[number]["prompt_hash"]}
        # Equally likely labels: the first one, as numpy's argmax gives it.
        return Answer(prediction=int(scores.argmax()), scores=scores.tolist(), extra=extra)

    def check(self, model: Any, numbers: list[int]) -> Checked:
        """Scores examples again by one ordinary forward per answer."""
        fast = [np.array(answer.sums) for answer in self.scorer.run(numbers)]
        with self.autocast():
            plain = [np.array(likelihood.plain(model, self.items[number]).sums) for number in numbers]
        self._read_contentless(numbers)
        largest = max(float(np.abs(left - right).max()) for left, right in zip(fast, plain, strict=True))
        changed = sum(
            self.scores(number, left).argmax() != self.scores(number, right).argmax()
            for number, left, right in zip(numbers, fast, plain, strict=True)
        )
        return Checked(examples=len(numbers), largest=largest, changed=int(changed))


class GenerationReader:
    """What the model writes, greedily, up to its end, a line break, or the limit; then parsed."""

    def __init__(
        self, model: Any, split: Encoded, scoring: Scoring, prompting: Prompting, parse: Callable[[str], Any], end: int
    ):
        self.split, self.scoring, self.parse = split, scoring, parse
        self.num_labels = scoring.metrics.num_labels
        self.tokenizer, self._breaks = scoring.tokenizer, dict[int, bool]()
        self.options = {
            "end_token_ids": {end, scoring.tokenizer.eos_token_id} - {None, -1},
            "max_new_tokens": prompting.max_new_tokens,
            "pad_token_id": scoring.tokenizer.pad_token_id,
            "stop": self._stops,
        }
        self.prompts = [feature["input_ids"] for feature in split.features]
        self.autocast = partial(autocast, scoring.device, scoring.precision)
        self.generator = Generator(
            model, self.prompts, **self.options, autocast=self.autocast, budget=scoring.batch_tokens
        )
        self.batches = self.generator.batches

    @property
    def notes(self) -> list[str]:
        """Fallbacks of the generator."""
        return self.generator.notes

    def _stops(self, tokens: list[int]) -> bool:
        """Whether a line break was written behind anything else: an answer is one line."""
        last = tokens[-1]
        if last not in self._breaks:
            self._breaks[last] = "\n" in self.tokenizer.decode([last])
        return self._breaks[last] and "\n" in self.tokenizer.decode(tokens).lstrip()

    def _text(self, tokens: Sequence[int]) -> str:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return text.split("\n")[0].strip()

    def read(self, numbers: list[int]) -> list[Answer]:
        """One group of prompts."""
        answers = []
        for number, found in zip(numbers, self.generator.run(numbers), strict=True):
            text = self._text(found.tokens)
            prediction = self.parse(text)
            in_words = prediction is None or isinstance(prediction, str)
            scores = np.zeros(0 if in_words else self.num_labels)
            if in_words:
                pass  # an answer in words has no probabilities
            elif np.ndim(prediction):
                scores = np.maximum(np.array(prediction), 0).astype(float)
            elif prediction >= 0:
                scores[prediction] = 1.0
            extra = {"text": text, "stopped": found.stopped, "new_tokens": len(found.tokens)}
            extra["prompt_hash"] = self.split.features[number]["prompt_hash"]
            answers.append(Answer(prediction=prediction, scores=scores.tolist(), extra=extra))
        return answers

    def check(self, model: Any, numbers: list[int]) -> Checked:
        """Writes some answers again by transformers' own `generate`, one by one."""
        fast = [self._text(found.tokens) for found in self.generator.run(numbers)]
        with self.autocast():
            alone = [generate_alone(model, self.prompts[number], **self.options).tokens for number in numbers]
        plain = [self._text(tokens) for tokens in alone]
        changed = sum(left != right for left, right in zip(fast, plain, strict=True))
        return Checked(examples=len(numbers), largest=None, changed=changed)


class EntailmentReader:
    """The label whose hypothesis an NLI model finds entailed by the text (Yin et al. 2019).

    One label: the softmax over the labels' entailment logits. Several: for each label by itself the probability of
    entailment against contradiction. As transformers' zero-shot pipeline does it.
    """

    def __init__(self, model: Any, split: Encoded, scoring: Scoring):
        self.model, self.split, self.scoring = model, split, scoring
        self.entails, self.contradicts = _nli_labels(model)
        self.budget = batch_tokens(model, scoring)
        # As if all pairs of an example were as long as its longest, so that a batch of examples is one of pairs.
        self.batches = likelihood.grouped([_tokens_of(feature["pairs"]) for feature in split.features], self.budget)
        self.notes: list[str] = []

    def read(self, numbers: list[int]) -> list[Answer]:
        """All (text, hypothesis) pairs of some examples; in several batches where one example's pairs are too many."""
        pairs = [pair for number in numbers for pair in self.split.features[number]["pairs"]]
        groups = likelihood.grouped([len(pair["input_ids"]) for pair in pairs], self.budget)
        logits = torch.cat([self._logits([pairs[place] for place in group]) for group in groups])
        back = torch.tensor([place for group in groups for place in group]).argsort()
        rows = logits[back].double().view(len(numbers), -1, logits.shape[-1])  # [examples, labels, NLI labels]
        answers = []
        for number, row in zip(numbers, rows, strict=True):
            extra = {"prompt_hash": self.split.features[number]["prompt_hash"]}
            if self.scoring.metrics.multi_label:
                scores = row[:, [self.contradicts, self.entails]].softmax(-1)[:, 1]
                prediction: Any = (scores >= self.scoring.threshold).long().tolist()
            else:
                scores = row[:, self.entails].softmax(-1)
                prediction = int(scores.argmax())
            answers.append(Answer(prediction=prediction, scores=scores.tolist(), extra=extra))
        return answers

    def _logits(self, pairs: list[dict[str, Any]]) -> torch.Tensor:
        return forward(
            self.model, collate([{**pair, "labels": 0} for pair in pairs], self.scoring.tokenizer), self.scoring
        )


def _tokens_of(pairs: Sequence[dict[str, Any]]) -> int:
    return len(pairs) * max(len(pair["input_ids"]) for pair in pairs)


def _nli_labels(model: Any) -> tuple[int, int]:
    names = {str(name).lower(): int(number) for name, number in heads.unwrapped(model).config.label2id.items()}
    entails = [number for name, number in names.items() if name.startswith("entail")]
    contradicts = [number for name, number in names.items() if name.startswith(("contra", "not_ent"))]
    if not entails or not contradicts:
        raise SetupError(
            f"prompting.answer is entailment, but the model's labels are {', '.join(names)}; it needs one that begins "
            "with 'entail' and one with 'contra'"
        )
    return entails[0], contradicts[0]


def encode_pairs(
    rows: Sequence[dict[str, Any]], hypotheses: Sequence[str], tokenizer: Any, max_length: int
) -> tuple[list[dict[str, Any]], int]:
    """Features {"input_ids", "pairs", "labels"}: every text with every hypothesis; only texts are cut, and counted."""
    from bench.tokenizer import encode

    features, cut = [], 0
    for row in rows:
        premises = [row["text"]] * len(hypotheses)
        whole = encode(tokenizer, premises, list(hypotheses))
        longest = max(len(pair["input_ids"]) for pair in whole)
        if longest > max_length:
            least = min(len(pair["input_ids"]) for pair in encode(tokenizer, [""] * len(hypotheses), list(hypotheses)))
            if least >= max_length:
                raise SetupError(f"max_length {max_length} leaves no room for text beside the hypotheses")
            whole = encode(tokenizer, premises, list(hypotheses), truncation="only_first", max_length=max_length)
            cut += 1
        pairs = [pair["input_ids"] for pair in whole]
        features.append(
            {"input_ids": pairs[0], "pairs": whole, "labels": row["label"], "prompt_hash": digest([], pairs)}
        )
    return features, cut


def check(model: Any, split: Encoded, scoring: Scoring) -> Checked | None:
    """Reads some examples by the plain path too; None for a way to answer that has no fast path."""
    with evaluating(model):
        assert scoring.reader is not None
        reader = scoring.reader(model, split, scoring)
        if not isinstance(reader, LikelihoodReader | GenerationReader):
            return None
        step = max(1, math.ceil(len(split.ids) / CHECKED))
        return reader.check(model, list(range(0, len(split.ids), step)))


def _item(feature: dict[str, Any]) -> likelihood.Item:
    return likelihood.Item(
        context=tuple(feature["trunk"]), continuations=tuple(tuple(rest) for rest in feature["rests"])
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()
