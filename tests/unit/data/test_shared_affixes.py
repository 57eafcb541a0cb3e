"""Texts with common parts: the tokens of plain encoding, for real and trained tokenizers, from far fewer characters."""

import json
import random

import pytest

from bench.config.cards import TokenizerCard
from bench.data import tokenizer as tokenizers
from bench.data.prompts import shared_affixes
from tests.helpers.real_tokenizers import SHARED, real

ENDINGS = [" good", " bad", " goodness me", " ok\n\n"]
WORDS = [
    "the",
    "a",
    "film",
    "good",
    "bad",
    "not",
    "was",
    "never",
    "again",
    "Łódź",
    "12.50",
    "don't",
    "🙂",
    "<b>",
    "</s>",
    "[INST]",
    "tab\there",
    "",
    "two",
]


def texts_of(number, seed=0):
    chooser = random.Random(seed)
    return [" ".join(chooser.choices(WORDS, k=chooser.randint(1, 30))) for _ in range(number)]


def prompts_of(texts, shots=3, tail="\nSentiment:"):
    shown = "".join(f"Review: {text}\nSentiment: good\n\n" for text in texts[:shots])
    return [f"{shown}Review: {text}{tail}" for text in texts[shots:]]


def trained(kind):
    family = {"bpe": "decoder", "unigram": "encoder_decoder", "wordpiece": "encoder"}[kind]
    return tokenizers.train(TokenizerCard(train=kind, vocab_size=800), family, texts_of(200, seed=1))


def encoder(tokenizer, log=None, spans=True):
    def encode(texts):
        if log is not None:
            log.extend(texts)
        found = tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True, verbose=False
        )
        return list(zip(found["input_ids"], found["offset_mapping"] if spans else [None] * len(texts), strict=True))

    return encode


def assert_plain(tokenizer, texts, endings=ENDINGS):
    encode = encoder(tokenizer)
    found = shared_affixes.encode(encode, texts, endings)
    assert found.text_ids == [tokens for tokens, _ in encode(texts)]
    for place, ending in enumerate(endings):
        whole = [tokens for tokens, _ in encode([text + ending for text in texts])]
        assert [found.prompt_ids[n] + found.continuation_ids[n][place] for n in range(len(texts))] == whole
    for text_ids, prompt_ids, continuation_ids in zip(
        found.text_ids, found.prompt_ids, found.continuation_ids, strict=True
    ):
        assert text_ids[: len(prompt_ids)] == prompt_ids
        assert all(continuation_ids), "no ending may vanish"
    return found


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
@pytest.mark.parametrize("shots", [0, 3])
def test_trained_tokenizers(kind, shots):
    found = assert_plain(trained(kind), prompts_of(texts_of(40), shots))
    assert not found.is_fallback


@pytest.mark.parametrize("name", ["gpt2", "mistral-v1"])
@pytest.mark.parametrize("shots", [0, 3])
def test_real_tokenizers_on_made_up_texts(name, shots):
    found = assert_plain(real(name), prompts_of(texts_of(60), shots))
    assert not found.is_fallback


@pytest.mark.parametrize("name", ["gpt2", "mistral-v1"])
@pytest.mark.parametrize("path", ["sst2/train.jsonl", "imdb/train.jsonl", "polish_wccrs_hotels/train.jsonl"])
def test_real_tokenizers_on_real_texts(name, path):
    tokenizer = real(name)
    with (SHARED / "data" / path).open(encoding="utf-8") as lines:
        rows = [json.loads(next(lines)) for _ in range(60)]
    assert not assert_plain(tokenizer, prompts_of([row.get("text") or row["sentence"] for row in rows])).is_fallback


@pytest.mark.parametrize(
    "texts",
    [
        ["one"],
        ["one", "one"],
        ["a\nb", "a\nb"],
        ["same start\nLine: x", "same start\nLine: y"],
        ["x\nend", "y\nend"],
        ["\n\n\nA: \nB:", "\n\n\nA: text\nB:"],
        ["no line", "no line at all"],
        ["Q: \n\nA:", "Q: a\n\nA:", "Q: a\nA:\n\nA:"],
    ],
)
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_odd_texts(kind, texts):
    assert_plain(trained(kind), texts)


def test_common_parts_are_encoded_a_few_times_only():
    log = []
    texts = prompts_of(texts_of(2000), shots=20)
    shared = texts[0].split("Review:")[5]
    shared_affixes.encode(encoder(trained("bpe"), log), texts, ENDINGS)
    whole = sum(shared in text for text in log)
    assert whole < 250, "of 2,000 texts and 4 endings, only a sample is encoded whole"


def test_a_tokenizer_that_reaches_across_is_noticed():
    """One that joins a whole text into tokens of two characters: what stands before changes what follows."""

    def pairs(texts):
        found = []
        for text in texts:
            spans = [(start, min(start + 2, len(text))) for start in range(0, len(text), 2)]
            found.append(([hash(text[left:right]) % 10_000 for left, right in spans], spans))
        return found

    texts = prompts_of(texts_of(30))
    found = shared_affixes.encode(pairs, texts, [" good", " bad"])
    assert found.is_fallback
    assert found.text_ids == [tokens for tokens, _ in pairs(texts)]


def test_a_tokenizer_without_spans_is_encoded_plainly():
    tokenizer = trained("bpe")
    texts = prompts_of(texts_of(10))
    found = shared_affixes.encode(encoder(tokenizer, spans=False), texts, ENDINGS)
    assert found.is_fallback
    assert found.text_ids == shared_affixes.encode(encoder(tokenizer), texts, ENDINGS).text_ids
