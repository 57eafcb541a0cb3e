"""Lets a saved model write texts for new prompts and conversations, as it was trained and scored."""

from collections.abc import Callable
from typing import Any

import torch

from bench.config import registry
from bench.config.cards import Prompt
from bench.config.recipe import Prompting
from bench.data.sources import Rows
from bench.evaluation import reference_examples
from bench.evaluation.metric_set import MetricSet
from bench.evaluation.reader import Reader, Scoring


def predict(model: Any, tokenizer: Any, description: dict[str, Any], rows: Rows) -> Rows:
    """Return for each row {"text", "label": the written text, "scores": None, "cut", "written", "stopped"}.

    stopped: the model ended its text, before max_new_tokens.
    """
    given = description["prompt"]
    plain = reference_examples.PLAIN_PAIR if description["pairs"] else reference_examples.PLAIN
    prompting = Prompting.model_validate(description["prompting"], strict=False)
    encoder = reference_examples.encoder_of(
        tokenizer,
        registry.load_task(description["task"]),
        plain if given is None else Prompt.model_validate(given, strict=False),
        prompting,
        family=description["model_card"]["family"],
        max_length=description["max_length"],
        trained=True,
    )
    named = [{**row, "id": f"text {number + 1}", "answers": []} for number, row in enumerate(rows)]
    split = reference_examples.encode_split(encoder, "texts", named)
    reader = reference_examples.reader_of(prompting, encoder)(model, split, scoring_of(tokenizer, description))
    return answers(reader, rows, lambda number: split.features[number]["cut"])


def scoring_of(tokenizer: Any, description: dict[str, Any]) -> Scoring:
    """Return the settings by which a saved model writes: no metric, on the CPU, in its own precision."""
    return Scoring(
        tokenizer=tokenizer,
        metrics=MetricSet((), multi_label=False, num_labels=0),
        threshold=description["threshold"],
        device=torch.device("cpu"),
        precision="no",
    )


def answers(reader: Reader, rows: Rows, is_cut: Callable[[int], bool]) -> Rows:
    """Return what a reader writes for each row, as `predict` has it. is_cut: of a row's number."""
    predictions: Rows = [{} for _ in rows]
    for numbers in reader.batches:
        for number, answer in zip(numbers, reader.read(numbers), strict=True):
            predictions[number] = {
                "text": rows[number]["text"],
                "label": answer.prediction,
                "scores": None,
                "cut": is_cut(number),
                "written": answer.extra["text"],
                "stopped": answer.extra["stopped"],
            }
    return predictions
