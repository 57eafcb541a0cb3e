"""Reader of answers to a generate_until task of lm-evaluation-harness: greedy, up to its stop texts, then filtered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.data.examples import Encoded
from bench.data.prompts.encode import prompt_identity
from bench.evaluation.reader import Answer, Scoring
from bench.evaluation.readers.generator import GeneratorReader


@dataclass(frozen=True, kw_only=True)
class Until:
    """The end of an answer: at the first of these texts, or after so many tokens."""

    stops: tuple[str, ...]
    max_new_tokens: int


class UntilReader(GeneratorReader):
    """Writes answers as lm_eval's HFLM does. judge: (number of the example's feature, text) -> metric -> value."""

    def __init__(
        self, model: Any, split: Encoded, scoring: Scoring, until: Until, judge: Callable[[Any, str], dict[str, float]]
    ) -> None:
        tokenizer, self.judge = scoring.tokenizer, judge
        self.stops = [term for term in (*until.stops, tokenizer.decode([tokenizer.eos_token_id])) if term]
        # lm_eval looks for a text among the last tokens: as many as it has itself, and two more.
        encode = partial(tokenizer.encode, add_special_tokens=False)
        self.looks_back = {term: len(encode(term)) + 2 for term in self.stops}
        super().__init__(
            model,
            split,
            scoring,
            end_token_ids={tokenizer.eos_token_id},
            max_new_tokens=until.max_new_tokens,
            stop=self._stops,
        )

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
