"""Reader of answers to a generate_until task of lm-evaluation-harness: greedy, up to its stop texts, then filtered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.data.examples import Encoded
from bench.data.prompts.encode import prompt_identity
from bench.evaluation import self_check
from bench.evaluation.generation import Generator
from bench.evaluation.reader import Answer, Scoring
from bench.models.autocast import autocast


@dataclass(frozen=True, kw_only=True)
class Until:
    """How answers end: at the first of these texts, or after so many tokens."""

    stops: tuple[str, ...]
    max_new_tokens: int


class UntilReader:
    """Writes answers as lm_eval's HFLM does. judge: (number of the example's feature, text) -> metric -> value."""

    def __init__(
        self, model: Any, split: Encoded, scoring: Scoring, until: Until, judge: Callable[[Any, str], dict[str, float]]
    ) -> None:
        self.split, self.tokenizer, self.judge = split, scoring.tokenizer, judge
        self.stops = [term for term in (*until.stops, self.tokenizer.decode([self.tokenizer.eos_token_id])) if term]
        # lm_eval looks for a text among the last tokens: as many as it has itself, and two more.
        encode = partial(self.tokenizer.encode, add_special_tokens=False)
        self.looks_back = {term: len(encode(term)) + 2 for term in self.stops}
        self.generator = Generator(
            model,
            [feature["input_ids"] for feature in split.features],
            end_token_ids={self.tokenizer.eos_token_id},
            max_new_tokens=until.max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            stop=self._stops,
            autocast=partial(autocast, scoring.device, scoring.precision),
            budget=scoring.batch_tokens,
            checked=scoring.checked,
            agree=self_check.first_reason,
        )
        self.batches = self.generator.batches

    @property
    def check_s(self) -> float:
        """Return the seconds that comparing the generator with the plain path took."""
        return self.generator.check_s

    @property
    def notes(self) -> list[str]:
        """Return the fallbacks of the generator."""
        return self.generator.notes

    def _stops(self, tokens: list[int]) -> bool:
        return any(term in self.tokenizer.decode(tokens[-size:]) for term, size in self.looks_back.items())

    def text(self, tokens: Sequence[int]) -> str:
        """Return what is written before the first stop text."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        for term in self.stops:
            text = text.split(term)[0]
        return text

    def read(self, numbers: list[int]) -> list[Answer]:
        """Write answers to one batch of prompts, and score them by the task's own functions."""
        answers = []
        for number, generated in zip(numbers, self.generator.run(numbers), strict=True):
            feature, text = self.split.features[number], self.text(generated.tokens)
            values = self.judge(feature["document"], text)
            extra = {"text": text, "stopped": generated.stopped, "new_tokens": len(generated.tokens), "lm_eval": values}
            answers.append(Answer(prediction=text, scores=[], extra={**extra, **prompt_identity(feature)}))
        return answers
