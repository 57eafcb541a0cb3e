"""Reader of running text: the loss of its tokens, window by window, by one forward pass each; nothing is generated."""

import bisect
import itertools
import math
import re
from functools import partial
from typing import Any

from bench.data.examples import Encoded
from bench.errors import DivergedError
from bench.evaluation import likelihood, self_check
from bench.evaluation.reader import Answer, Scoring
from bench.models.autocast import autocast


class PerplexityReader:
    """Scores the tokens of each window given those before it in the window; see `windows`."""

    def __init__(self, model: Any, split: Encoded, scoring: Scoring) -> None:
        self.split = split
        items = [
            likelihood.Item(context=tuple(each["prompt_ids"]), continuations=(tuple(each["continuation_ids"]),))
            for each in split.features
        ]
        self.scorer = likelihood.Scorer(
            model,
            items,
            pad_token_id=scoring.tokenizer.pad_token_id,
            budget=scoring.batch_tokens,
            autocast=partial(autocast, scoring.device, scoring.precision),
            agree=self_check.first_reason,
            checked=scoring.checked,
            shared=scoring.shared_prefix,
        )
        self.batches = self.scorer.batches

    @property
    def check_s(self) -> float:
        """Return the seconds that comparing the scorer with the plain path took."""
        return self.scorer.check_s

    @property
    def notes(self) -> list[str]:
        """Return the fallbacks of the scorer."""
        return [note.replace("label", "window") for note in self.scorer.notes]

    def read(self, numbers: list[int]) -> list[Answer]:
        """Score one batch. Raises DivergedError for a loss that is not finite."""
        answers = []
        for number, scored in zip(numbers, self.scorer.run(numbers), strict=True):
            if not math.isfinite(scored.sums[0]):
                raise DivergedError(
                    f"{self.split.name}: the loss of a text is not finite: weights are not finite, or fp16 overflows; "
                    "use bf16 or float32"
                )
            feature = self.split.features[number]
            extra = {"reference_nll": -scored.sums[0], "reference_tokens": len(feature["continuation_ids"])}
            extra |= {f"reference_{unit}": feature[unit] for unit in ("words", "bytes") if unit in feature}
            answers.append(Answer(prediction="", scores=[], extra=extra))
        return answers


def windows(name: str, text: str, tokenizer: Any, size: int, limit: int | None) -> Encoded:
    """Cut a text into windows of `size` tokens that do not overlap; return them encoded, at most `limit`.

    Each begins with the tokenizer's own first token (bos), or, where it has none, a window's first token is not scored.
    A last window of a single token that would not be scored is left out. Where the tokenizer says where its tokens
    stand, windows also have the words that begin in what is scored of them, and its bytes.
    """
    first = tokenizer.bos_token_id
    encoded = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=tokenizer.is_fast)
    tokens = encoded["input_ids"]
    # A token of a part of a character may end before it begins.
    ends = [0, *itertools.accumulate((end for _, end in encoded.get("offset_mapping", ())), max)]
    words = [match.start() for match in re.finditer(r"\S+", text)]
    own, features = size - (first is not None), []
    for start in range(0, len(tokens), own)[:limit]:
        part = tokens[start : start + own]
        context, scored = ([first], part) if first is not None else (part[:1], part[1:])
        if not scored:
            continue
        feature = {"input_ids": [*context, *scored], "prompt_ids": context, "continuation_ids": scored, "labels": []}
        if len(ends) > 1:
            begin, end = ends[start + (first is None)], ends[start + len(part)]
            feature["words"] = bisect.bisect_left(words, end) - bisect.bisect_left(words, begin)
            feature["bytes"] = len(text[begin:end].encode())
        features.append(feature)
    ids = tuple(f"{number:06}" for number in range(len(features)))
    return Encoded(name=name, ids=ids, features=features, truncated=0, in_words=True)
