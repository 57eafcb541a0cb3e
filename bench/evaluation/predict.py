"""Predicts labels of new texts with a run's saved model: `python -m bench predict RUN_DIR --text "..."`."""

import json
from pathlib import Path
from typing import Any

import torch

from bench import console
from bench.config import registry
from bench.config.cards import Prompt
from bench.config.recipe import Prompting
from bench.config.training import Spans
from bench.data.batching import collate, grouped
from bench.data.prompts.encode import PromptEncoder
from bench.data.prompts.template import Renderer
from bench.data.sources import Rows
from bench.errors import DataError
from bench.evaluation import text_examples
from bench.evaluation.metric_set import MetricSet
from bench.evaluation.reader import Scoring
from bench.evaluation.readers import head, span
from bench.evaluation.scoring import label_names
from bench.models import saving
from bench.models.batch_budget import default_budget


def read_texts(path: Path) -> list[dict[str, Any]]:
    """Read one text per line, or JSON lines with `text` (and `text_pair`). Raises DataError with the line number."""
    try:
        # Not `splitlines`, which also cuts at characters inside of a text.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read as UTF-8 text: {error}") from error
    if path.suffix not in (".jsonl", ".json"):
        return [{"text": line, "text_pair": None} for line in lines if line.strip()]
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            row = {"text": row["text"], "text_pair": row.get("text_pair")}
            for text in (row["text"], row["text_pair"] or ""):
                text.encode("utf-8")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}:{number}: expected a JSON object with `text` (and `text_pair`), as text"
            ) from error
        rows.append(row)
    return rows


def predict(run_folder: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each row {"text", "label" (a list of labels where several are allowed), "scores", "cut"}.

    scores: probability per label name. cut: the text was truncated to the model's max_length. A model that generates
    answers gives the generated text as "written" instead of scores; an answer that can't be parsed has label None.
    For a model that answers questions, `text_pair` is the question, which is returned as "text", and the label is its
    answer: words of the passage, "" for none.
    """
    console.quiet_libraries()
    model, tokenizer, description = saving.load(run_folder / "model")
    empty = [number for number, row in enumerate(rows) if not row["text"].strip()]
    if not rows or empty:
        raise DataError("there are no texts to predict" if not rows else f"text {empty[0] + 1} is empty")
    objective = description.get("objective", "head")
    if registry.load("tasks", description["task"]).READS == "answers":
        _check_questions(rows)
        objective = "span" if objective == "head" else objective
    predict_rows = {"head": _predict_with_head, "span": _predict_spans, "text": _predict_with_prompts}[objective]
    return predict_rows(model, tokenizer, description, rows)


def _check_questions(rows: list[dict[str, Any]]) -> None:
    for number, row in enumerate(rows, start=1):
        if not (row["text_pair"] or "").strip():
            raise DataError(f"text {number} has no question: give JSON lines with `text` and, for it, `text_pair`")


def _predict_spans(model: Any, tokenizer: Any, description: dict[str, Any], rows: Rows) -> Rows:
    """Return answers as labels, "" for none, and questions as texts."""
    spans = Spans.model_validate(description["spans"], strict=False)
    named = [{**row, "id": f"text {number + 1}", "answers": []} for number, row in enumerate(rows)]
    split = span.questions("texts", named, tokenizer, description["max_length"], spans)
    scoring = Scoring(
        tokenizer=tokenizer,
        metrics=MetricSet((), multi_label=False, num_labels=2),
        threshold=description["threshold"],
        device=torch.device("cpu"),
        precision="no",
    )
    reader = span.reader_of(spans, description["version"])(model, split, scoring)
    predictions: Rows = [{} for _ in rows]
    with torch.no_grad():
        for numbers in reader.batches:
            for number, answer in zip(numbers, reader.read(numbers), strict=True):
                no_answer = answer.scores[0]
                scores = {"no_answer": no_answer, "answer": 1 - no_answer}
                predictions[number] = {
                    "text": rows[number]["text_pair"],
                    "label": answer.prediction,
                    "scores": scores,
                    "cut": False,
                }
    return predictions


def _predict_with_head(model: Any, tokenizer: Any, description: dict[str, Any], rows: Rows) -> Rows:
    labels, limit = description["labels"], description["max_length"]
    marked = [{**row, "label": 0} for row in rows]
    features, cut = head.encode_rows(marked, tokenizer, limit)
    predictions: Rows = [{} for _ in rows]
    for numbers in grouped([len(feature["input_ids"]) for feature in features], default_budget(model)):
        batch = collate([features[number] for number in numbers], tokenizer)
        with torch.no_grad():
            logits = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
        predicted, scores = head.predict(logits, description["multi_label"], description["threshold"])
        for number, answer, row_scores in zip(numbers, predicted.tolist(), scores.tolist(), strict=True):
            named = dict(zip(labels, row_scores, strict=True))
            answers = label_names(answer, labels)
            predictions[number] = {
                "text": rows[number]["text"],
                "label": answers,
                "scores": named,
                "cut": number in cut,
            }
    return predictions


def _predict_with_prompts(model: Any, tokenizer: Any, description: dict[str, Any], rows: Rows) -> Rows:
    """Prompt the model as it was trained and scored."""
    task, labels, several = (
        registry.load("tasks", description["task"]),
        description["labels"],
        description["multi_label"],
    )
    prompt = Prompt.model_validate(description["prompt"], strict=False)
    prompting = Prompting.model_validate(description["prompting"], strict=False)
    renderer = Renderer(prompt, tokenizer, chat=prompting.format == "chat", trained=True, date=prompting.date)
    if renderer.frame is not None and renderer.frame.writes_date and "date" not in description["prompting"]:
        console.complain(
            f"the chat template writes a date, and this model was saved without that of its prompts; {prompting.date} "
            "is used"
        )
    prompt_encoder = PromptEncoder(
        tokenizer=tokenizer,
        renderer=renderer,
        wording=task.wording(prompt, labels, several),
        family=description["model_card"]["family"],
        max_length=description["max_length"],
        max_new_tokens=prompting.max_new_tokens if prompting.answer == "generate" else None,
    )
    named = [{**row, "id": f"text {number + 1}", "label": 0} for number, row in enumerate(rows)]
    split = text_examples.encode_split(prompt_encoder, "texts", named, prompting, prompt)
    scoring = Scoring(
        tokenizer=tokenizer,
        metrics=MetricSet((), multi_label=several, num_labels=len(labels)),
        threshold=description["threshold"],
        device=torch.device("cpu"),
        precision="no",
    )
    reader = text_examples.reader_of(prompting, prompt, task, labels, several, prompt_encoder)(model, split, scoring)
    predictions: Rows = [{} for _ in rows]
    for numbers in reader.batches:
        for number, answer in zip(numbers, reader.read(numbers), strict=True):
            written = answer.extra.get("text")
            predictions[number] = {
                "text": rows[number]["text_pair" if task.READS == "answers" else "text"],
                "label": label_names(answer.prediction, labels),
                "scores": None if written is not None else dict(zip(labels, answer.scores, strict=True)),
                "cut": split.features[number]["cut"],
                **({"written": written} if written is not None else {}),
            }
    return predictions
