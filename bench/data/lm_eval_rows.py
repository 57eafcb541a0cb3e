"""Rows of a task of lm-evaluation-harness: the documents of its splits, with their choices and the right one."""

from collections.abc import Iterable, Mapping
from typing import Any

from bench.config.data_source import Source
from bench.data import card_from_lm_eval, lm_eval_tasks
from bench.errors import DataError

# The text of a row for a document without a text of its own: all of its prompt is few-shot examples, or nothing.
NO_TEXT = "(no text)"


def read(source: Source, wanted: Iterable[str]) -> tuple[dict[str, list[dict[str, Any]]], tuple[str, ...]]:
    """Return the rows of the wanted splits, {"id", "text", "choices", "label"}, and notes on the task.

    Of a generate_until task they are {"id", "text", "answers"}.

    Raises DataError for a document whose choices or right one can't be read, SetupError as `lm_eval_tasks` does.
    """
    file = lm_eval_tasks.of(source)
    task = lm_eval_tasks.build(file.path)
    rows = {
        name: [_row(task, doc, number, name) for number, doc in enumerate(lm_eval_tasks.documents(task, name))]
        for name in wanted
    }
    return rows, tuple(_notes(file.settings))


def _notes(settings: Mapping[str, Any]) -> Iterable[str]:
    others = card_from_lm_eval.left_out(dict(settings))
    if others:
        yield f"metrics of the lm_eval task that are not computed: {', '.join(others)}"
    if shots := settings.get("num_fewshot"):
        yield f"the lm_eval task is usually asked with {shots} shots; here the method says how many"


def _row(task: Any, doc: Any, number: int, split: str) -> dict[str, Any]:
    place = f"document {number} of the split {split!r} of the lm_eval task {task.config.task!r}"
    text = task.doc_to_text(doc)
    if task.OUTPUT_TYPE == "generate_until":
        golds = task.doc_to_target(doc)
        golds = [str(gold) for gold in (golds if isinstance(golds, list) else [golds])]
        return {"id": f"{number:06d}", "text": text if text.strip() else NO_TEXT, "answers": golds}
    choices, gold = task.doc_to_choice(doc), task.doc_to_target(doc)
    if lm_eval_tasks.asks_by_choice(task) and isinstance(text, int):
        if not isinstance(gold, str):
            raise DataError(f"{place} has a prompt for each choice, and behind them {gold!r:.60}, which is not a text")
        text, gold = gold, text  # the number of the right choice, and what follows all of them
    if not isinstance(text, str):
        raise DataError(
            f"{place} has a prompt for each choice (doc_to_text gives {text!r:.60}), which is not supported"
        )
    if not isinstance(choices, list):
        raise DataError(f"{place}: doc_to_choice must give a list of texts, got {choices!r:.60}")
    if isinstance(gold, list):
        raise DataError(f"{place} has several right choices, {gold!r:.60}; only tasks with one are supported")
    if isinstance(gold, str) and gold in choices:
        gold = choices.index(gold)
    elif isinstance(gold, bool):
        gold = int(gold)
    return {"id": f"{number:06d}", "text": text if text.strip() else NO_TEXT, "choices": choices, "label": gold}
