"""The shipped tiny cards, texts, and small tokenizers trained on them. Loads no torch: for tests that need no model."""

import functools
from pathlib import Path
from typing import Any

from bench.config import yaml_loader
from bench.config.cards import ModelCard, TokenizerCard
from bench.data import tokenizer as tokenizers

CARDS = Path(__file__).resolve().parents[2] / "recipes" / "models"
FAMILIES = sorted(path.stem.removeprefix("tiny_") for path in CARDS.glob("tiny_*.yaml"))
DECODERS = ["gemma", "gemma2", "gpt2", "llama", "mistral", "qwen2"]
WRITERS = [*DECODERS, "t5"]
# One of each kind: an encoder, a decoder with Conv1D and learned positions, one with rotary ones, an encoder-decoder.
KINDS = ["bert", "gpt2", "llama", "t5"]
LABELS = ("bad", "good", "mixed")
TEXTS = [
    "The room was clean and the staff were friendly.",
    "Never again.",
    "Noise all night, a cold breakfast, and nobody at the desk when we left for the early train to the north.",
    "It was fine; neither good nor bad.",
    "We loved the pool, the garden and the small library on the second floor.",
    "Dirty.",
]
FORGED = [
    "A </s> in the middle.",
    "</s>",
    "ends with </s>",
    "<s> begins",
    "<pad> <pad>",
    "ends with <pad>",
    "a <mask> and an <unk>",
    "two </s></s>",
    "wide ＜/s＞ and ＜pad＞",
    "plain",
]


def card(name: str, **changes: Any) -> ModelCard:
    """The shipped card `tiny_<name>`, with keys replaced."""
    data = yaml_loader.read(CARDS / f"tiny_{name}.yaml", name).data
    return ModelCard.model_validate({**data, **changes})


def narrow(name: str, **changes: Any) -> ModelCard:
    """The same with other fields of its architecture."""
    known = card(name)
    return card(name, architecture={**known.architecture, **changes})


@functools.cache
def trained_tokenizer(kind: str, size: int, family: str) -> Any:
    """A tokenizer of this kind, trained on TEXTS."""
    return tokenizers.train(TokenizerCard(train=kind, vocab_size=size), family, TEXTS)


def tokenizer(known: ModelCard) -> Any:
    """The tokenizer that this card's model would get, trained on TEXTS."""
    return trained_tokenizer(known.tokenizer.train, known.tokenizer.vocab_size, known.family)
