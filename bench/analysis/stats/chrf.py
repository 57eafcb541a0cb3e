"""Corpus chrF and chrF++ from sums over examples, as sacrebleu computes them: n-grams of characters, and of words.

Source: Popović 2015, chrF: character n-gram F-score for automatic MT evaluation, W15-3049; Popović 2017, chrF++: words
helping character n-grams, W17-4770; effective order and beta 2 as in sacrebleu 2.
"""

import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

# Value name -> highest order of word n-grams, beside characters' n-grams of 1 to 6.
WORD_ORDERS = {"chrf": 0, "chrf_plus_plus": 2}
CHARACTER_ORDER, BETA = 6, 2
_PUNCTUATION = frozenset(string.punctuation)


def columns(name: str) -> int:
    """Return how many sums a value needs: for each order those of the answer, of the reference, and of both."""
    return 3 * (CHARACTER_ORDER + WORD_ORDERS[name])


def counts(name: str, answer: str | None, golds: Sequence[str]) -> list[int]:
    """Return n-grams of the answer, of a reference, and of both, for each order; of several references the best one's.

    A missing answer counts as an empty one.
    """
    written = _ngrams(answer or "", WORD_ORDERS[name])
    rows = [_matches(written, _ngrams(gold, WORD_ORDERS[name])) for gold in golds]
    scores = [float(value(np.array(row))) for row in rows]
    return rows[int(np.argmax(scores))]


def value(sums: np.ndarray) -> np.ndarray:
    """Return the score [...], 0 to 100, from sums [..., columns] of `counts`; 0 where no order has n-grams of both."""
    given, gold, both = (sums[..., start::3] for start in range(3))
    defined = (given > 0) & (gold > 0)
    precision = np.divide(both, given, out=np.zeros(both.shape), where=defined).sum(-1)
    recall = np.divide(both, gold, out=np.zeros(both.shape), where=defined).sum(-1)
    orders = np.maximum(defined.sum(-1), 1)
    precision, recall = precision / orders, recall / orders
    weighed = BETA**2 * precision + recall
    product = (1 + BETA**2) * precision * recall
    scores: np.ndarray = 100 * np.divide(product, weighed, out=np.zeros(product.shape), where=weighed > 0)
    return scores


def _ngrams(text: str, word_order: int) -> list[Counter[str]]:
    joined, words = "".join(text.split()), _words(text) if word_order else []
    found = [Counter(joined[start : start + n] for start in range(len(joined) - n + 1)) for n in range(1, 7)]
    return found + [
        Counter(" ".join(words[start : start + n]) for start in range(len(words) - n + 1))
        for n in range(1, word_order + 1)
    ]


def _words(text: str) -> list[str]:
    """Split at spaces, and one punctuation mark off the end of a word, else off its beginning, as chrF++.py does."""
    words: list[str] = []
    for word in text.split():
        if len(word) > 1 and word[-1] in _PUNCTUATION:
            words += [word[:-1], word[-1]]
        elif len(word) > 1 and word[0] in _PUNCTUATION:
            words += [word[0], word[1:]]
        else:
            words.append(word)
    return words


def _matches(written: list[Counter[str]], gold: list[Counter[str]]) -> list[int]:
    row: list[int] = []
    for mine, theirs in zip(written, gold, strict=True):
        # An order that the reference does not have counts for nothing.
        row += [mine.total() if theirs else 0, theirs.total(), (mine & theirs).total()]
    return row
