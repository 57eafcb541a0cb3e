"""Reader of written texts that have references: generates greedily, and computes the loss of the first reference."""

import math
from collections.abc import Sequence
from typing import Any

from bench.config.recipe import Prompting
from bench.data.examples import Encoded
from bench.data.prompts.conversation import without_thoughts
from bench.data.prompts.encode import prompt_identity
from bench.errors import DivergedError
from bench.evaluation import likelihood
from bench.evaluation.generation import plain as generate_alone
from bench.evaluation.reader import Answer, Scoring
from bench.evaluation.readers.base import Checked
from bench.evaluation.readers.generator import GeneratorReader
from bench.models.heads import unwrapped


class ReferenceReader(GeneratorReader):
    """Generates up to an end token, or the limit, and scores the reference by one forward pass.

    stop_ids: end tokens beside those of the model's own generation config. stop_text: text at which an answer is cut,
    or None. thinks: the thoughts that a chat model writes before its answer are no part of it.
    """

    def __init__(
        self,
        model: Any,
        split: Encoded,
        scoring: Scoring,
        *,
        prompting: Prompting,
        stop_ids: set[int],
        stop_text: str | None,
        thinks: bool,
    ):
        self.stop_text, self.thinks = stop_text, thinks
        super().__init__(
            model,
            split,
            scoring,
            end_token_ids=stop_ids | _own_ends(model, scoring.tokenizer),
            max_new_tokens=prompting.max_new_tokens,
            stop=self._stops if stop_text else None,
        )
        # Of new texts there is no reference.
        self.items = [_item(feature) for feature in split.features] if _has_references(split) else []
        self.scorer = None
        if self.items:
            make = scoring.scorer or likelihood.Scorer
            self.scorer = make(
                model,
                self.items,
                pad_token_id=scoring.tokenizer.pad_token_id,
                shared=scoring.shared_prefix,
                **self.shared,
            )

    @property
    def check_s(self) -> float:
        """Return the seconds that comparing with the plain path took."""
        return super().check_s + (self.scorer.check_s if self.scorer is not None else 0.0)

    @property
    def notes(self) -> list[str]:
        """Return the fallbacks of generator and scorer."""
        scored = self.scorer.notes if self.scorer is not None else []
        return [*super().notes, *(note.replace("label", "reference") for note in scored)]

    def _stops(self, tokens: list[int]) -> bool:
        """Return whether the separator stands behind anything else."""
        return (self.stop_text or "") in self.tokenizer.decode(tokens[-64:]).lstrip()

    def _text(self, tokens: Sequence[int]) -> str:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        if self.stop_text:
            text = text.split(self.stop_text)[0].strip()
        return without_thoughts(text) if self.thinks else text

    def read(self, numbers: list[int]) -> list[Answer]:
        """Write answers to one batch of prompts, and score their references."""
        answers, sums = [], self._sums(numbers)
        for place, (number, generated) in enumerate(zip(numbers, self.generator.run(numbers), strict=True)):
            text = self._text(generated.tokens)
            extra: dict[str, Any] = {
                "text": text,
                "stopped": generated.stopped,
                "new_tokens": len(generated.tokens),
                **prompt_identity(self.split.features[number]),
            }
            if sums:
                tokens = len(self.items[number].continuations[0])
                extra |= {"reference_nll": -sums[place], "reference_tokens": tokens}
            answers.append(Answer(prediction=text, scores=[], extra=extra))
        return answers

    def _sums(self, numbers: list[int]) -> list[float]:
        """Return log-likelihoods of the first references, in nats. Raises DivergedError for one that is not finite."""
        if self.scorer is None:
            return []
        sums = [answer.sums[0] for answer in self.scorer.run(numbers)]
        if not all(map(math.isfinite, sums)):
            raise DivergedError(
                f"{self.split.name}: the loss of a reference is not finite: weights are not finite, or fp16 overflows; "
                "use bf16 or float32"
            )
        return sums

    def check(self, model: Any, numbers: list[int]) -> Checked:
        """Write and score some answers again by the plain path, one by one, and compare."""
        fast = [self._text(generated.tokens) for generated in self.generator.run(numbers)]
        sums = self._sums(numbers)
        with self.autocast():
            alone = [generate_alone(model, self.prompts[number], **self.options).tokens for number in numbers]
            plain = [likelihood.plain(model, self.items[number]).sums[0] for number in numbers if self.items]
        changed = sum(text != self._text(tokens) for text, tokens in zip(fast, alone, strict=True))
        largest = max((abs(left - right) for left, right in zip(sums, plain, strict=True)), default=None)
        return Checked(examples=len(numbers), largest=largest, changed=changed)


def _has_references(split: Encoded) -> bool:
    return all(feature["continuation_ids"] for feature in split.features)


def _item(feature: dict[str, Any]) -> likelihood.Item:
    return likelihood.Item(context=tuple(feature["prompt_ids"]), continuations=(tuple(feature["continuation_ids"][0]),))


def _own_ends(model: Any, tokenizer: Any) -> set[int]:
    """Return the end tokens of the model's generation config that the tokenizer knows as special ones."""
    config = getattr(unwrapped(model), "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    known = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return known.intersection(ids if isinstance(ids, list) else [ids])
