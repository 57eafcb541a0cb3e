"""Generation: the model writes a text for a prompt, or the next turn of a conversation, as its references have it."""

from collections.abc import Sequence
from typing import Any

import torch

from bench.config.cards import Prompt
from bench.config.contracts import EncodedData
from bench.data.prompts.encode import Wording

OBJECTIVES = ("text",)
READS = "answers"
METRICS = {"single_label": ("rouge", "bleu", "chrf", "exact_match")}
# What a recipe has where neither it nor the dataset card says otherwise.
DEFAULTS = {"objective": "text", "prompting": {"answer": "generate", "max_new_tokens": 128}}
AUTO_CLASS = "AutoModelForCausalLM"
_NO_HEAD = "task generation has no task head"


def encode(corpus: Any, tokenizer: Any, recipe: Any, state: Any = None) -> EncodedData:
    """Raise NotImplementedError: prompts and references are encoded by `bench/evaluation/reference_examples.py`."""
    raise NotImplementedError(_NO_HEAD)


def head_outputs(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return nothing: there is no task head."""
    return ()


def loss(outputs: Any, batch: dict[str, torch.Tensor], *, label_smoothing: float) -> torch.Tensor:
    """Raise NotImplementedError: the loss is that of a language model (`bench/training/loss.py`)."""
    raise NotImplementedError(_NO_HEAD)


def wording(prompt: Prompt, labels: Sequence[str], multi_label: bool) -> Wording:
    """Return how a row is put to a language model; the answer is its first reference."""

    def fields_of(row: Any) -> dict[str, str]:
        """Return the values of the template's fields."""
        return {"text": row["text"], "text_pair": row["text_pair"] or "", "labels": ""}

    return Wording(fields=fields_of, answer=lambda row: str(row["answers"][0]))


def parse(text: str, words: Sequence[str], none: str, multi_label: bool) -> str:
    """Return a written text as it is: all of it is the answer, also where it is empty."""
    return text
