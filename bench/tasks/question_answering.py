"""Question answering: the answer to a question is a span of a passage, or, in SQuAD v2.0, there is none."""

from typing import Any

from bench import span_reading
from bench.settings import Recipe
from bench.spans import span_loss_sum

OBJECTIVES = ("head",)
METRICS = {"single_label": ("squad_v2",)}
AUTO_CLASS = "AutoModelForQuestionAnswering"
# What the head says of each token.
HEAD_OUTPUTS = ("start", "end")


def encode_splits(corpus: Any, tokenizer: Any, recipe: Recipe) -> span_reading.EncodedCorpus:
    """Windows of every split, to learn from and to score."""
    return span_reading.encode(corpus, tokenizer, recipe)


def loss_of(outputs: Any, batch: Any) -> Any:
    """Summed loss over label items, which are the two ends of each window's answer.

    outputs: start_logits and end_logits [windows, tokens]. batch: attention_mask [windows, tokens] and labels
    [windows, 2].
    """
    starts, ends = batch["labels"].unbind(-1)
    return 2 * span_loss_sum(outputs.start_logits, outputs.end_logits, starts, ends, batch["attention_mask"])
