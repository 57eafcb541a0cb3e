"""Reader of generated answers: decodes greedily, then parses the text."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.config.recipe import Prompting
from bench.data.examples import Encoded
from bench.data.prompts.encode import prompt_identity
from bench.evaluation.generation import plain as generate_alone
from bench.evaluation.reader import Answer, Scoring
from bench.evaluation.readers.base import Checked
from bench.evaluation.readers.generator import GeneratorReader


class GenerationReader(GeneratorReader):
    """Generates greedily up to the end token, a line break or the limit, and parses the text.

    fallback: the label id of a text that names no label; None where such a text is no answer.
    """

    def __init__(
        self,
        model: Any,
        split: Encoded,
        scoring: Scoring,
        prompting: Prompting,
        parse: Callable[[str], Any],
        end: int,
        fallback: int | None = None,
    ):
        self.parse, self.num_labels, self._breaks = parse, scoring.metrics.num_labels, dict[int, bool]()
        self.fallback = fallback
        super().__init__(
            model,
            split,
            scoring,
            end_token_ids={end, scoring.tokenizer.eos_token_id} - {None, -1},
            max_new_tokens=prompting.max_new_tokens,
            stop=self._stops,
        )

    def _stops(self, tokens: list[int]) -> bool:
        """Return whether a line break follows anything else: an answer is one line."""
        last = tokens[-1]
        if last not in self._breaks:
            self._breaks[last] = "\n" in self.tokenizer.decode([last])
        return self._breaks[last] and "\n" in self.tokenizer.decode(tokens).lstrip()

    def _text(self, tokens: Sequence[int]) -> str:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return text.split("\n")[0].strip()

    def read(self, numbers: list[int]) -> list[Answer]:
        """Generate answers to one batch of prompts."""
        answers = []
        for number, generated in zip(numbers, self.generator.run(numbers), strict=True):
            text = self._text(generated.tokens)
            prediction: Any = self.parse(text)
            fell_back = self.fallback is not None and prediction == -1
            prediction = self.fallback if fell_back else prediction
            in_words = prediction is None or isinstance(prediction, str | float)
            scores = np.zeros(0 if in_words else self.num_labels)
            if in_words:
                pass  # an answer in words, and a number, have no probabilities
            elif np.ndim(prediction):
                scores = np.maximum(np.array(prediction), 0).astype(float)
            elif prediction >= 0:
                scores[prediction] = 1.0
            extra = {"text": text, "stopped": generated.stopped, "new_tokens": len(generated.tokens)}
            if self.fallback is not None:
                extra["fell_back"] = fell_back
            extra |= prompt_identity(self.split.features[number])
            answers.append(Answer(prediction=prediction, scores=scores.tolist(), extra=extra))
        return answers

    def check(self, model: Any, numbers: list[int]) -> Checked:
        """Generate some answers again by transformers' own `generate`, one by one, and compare."""
        fast = [self._text(generated.tokens) for generated in self.generator.run(numbers)]
        with self.autocast():
            alone = [generate_alone(model, self.prompts[number], **self.options).tokens for number in numbers]
        plain = [self._text(tokens) for tokens in alone]
        changed = sum(left != right for left, right in zip(fast, plain, strict=True))
        return Checked(examples=len(numbers), largest=None, changed=changed)
