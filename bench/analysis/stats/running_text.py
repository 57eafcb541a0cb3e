"""Perplexity of running text, per token, per word, and in bits per byte.

Tokens are those of a model's own tokenizer, so that models with other ones can't be compared by them; words and bytes
are the text's own. Words are what stands between white space, bytes those of UTF-8.
"""

import math
from collections.abc import Callable

import numpy as np

from bench.analysis.stats.sums import mean

Value = Callable[[np.ndarray], np.ndarray]


def _perplexity(sums: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(mean(sums[..., 0], sums[..., 1])))


def _bits(sums: np.ndarray) -> np.ndarray:
    return np.asarray(mean(sums[..., 0], sums[..., 1]) / math.log(2))


# Value -> unit, and its formula over sums [..., 2] of the loss in nats and of the unit's number.
BY_UNIT: dict[str, tuple[str, Value]] = {
    "perplexity_per_token": ("tokens", _perplexity),
    "perplexity_per_word": ("words", _perplexity),
    "bits_per_byte": ("bytes", _bits),
}
RULES = {
    "perplexity_per_token": "exp|nats|mean:tokens_of_its_tokenizer|v1",
    "perplexity_per_word": "exp|nats|mean:words_between_white_space|v1",
    "bits_per_byte": "bits|mean:utf8_bytes|v1",
}
