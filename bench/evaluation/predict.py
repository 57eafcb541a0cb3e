"""Predicts labels of new texts with a run's saved model: `python -m bench predict RUN_DIR --text "..."`."""

import math
from pathlib import Path
from typing import Any

import torch

from bench import console
from bench.config import registry
from bench.config.cards import GENERATION_TASK, LM_EVAL_TASK, Prompt
from bench.config.recipe import Prompting
from bench.config.training import Spans
from bench.data import tagging
from bench.data.batching import collate, grouped
from bench.data.prompts.encode import PromptEncoder
from bench.data.prompts.template import Renderer
from bench.data.rows import Split
from bench.data.sources import Rows
from bench.errors import BenchError, DataError
from bench.evaluation import new_rows, new_texts, predict_until, predict_written, saved_model, text_examples
from bench.evaluation.metric_set import MetricSet
from bench.evaluation.reader import Reader, Scoring
from bench.evaluation.readers import choice_head, choices, head, span, tags
from bench.evaluation.scoring import label_names
from bench.models import input_limits, tfidf
from bench.models.batch_budget import default_budget
from bench.records import failures
from bench.utils.loading_errors import reason


def predict(run_folder: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each row {"text", "label" (a list of labels where several are allowed), "scores", "cut"}.

    A row with a second text has that too ("text_pair"). scores: probability per label name. cut: the text was truncated
    to the model's max_length. Texts are cleaned for the model as those of its training were, and returned as they are
    given. A model that generates answers gives the generated text as "written" instead of scores; an answer that can't
    be parsed has label None.
    A model that writes texts takes conversations too (`messages`, up to the user's last turn).
    For a model that answers questions, `text_pair` is the question, which is returned as "text", and the label is its
    answer: words of the passage, "" for none. For a model of multiple choice, rows have `choices`, and the label is one
    of these. A model of numbers has a number as label and no scores. One that tags words gives "tokens", "tags" and
    "entities" ({"type", "text", "start", "end"}: words [start, end)) beside the label, which names the entities, and no
    scores.
    """
    console.quiet_libraries()
    description = saved_model.describe(saved_model.find(run_folder))
    given, rows = rows, new_rows.cleaned(rows, description.get("clean", ()))
    new_texts.check(rows, description)  # before seconds are spent on the model
    model, tokenizer, description = saved_model.load(run_folder)
    objective = description["objective"]
    if objective == "head":
        objective = registry.load_task(description["task"]).READS
    predict_rows = {
        "labels": _predict_with_head,
        "numbers": _predict_numbers,
        "tags": _predict_tags,
        "answers": _predict_spans,
        "choices": _predict_choices,
        "text": _predict_with_prompts,
    }[objective]
    if description["task"] == GENERATION_TASK:
        predict_rows = predict_written.predict
    if description["task"] == LM_EVAL_TASK:
        predict_rows = predict_until.predict
    if tokenizer is None:
        predict_rows = _predict_by_terms
    try:
        positions = input_limits.of_input(model).positions if tokenizer is not None else None
        if positions is not None:  # a recipe may allow more, as long as its own texts are shorter
            description = {**description, "max_length": min(description["max_length"], positions)}
        predictions = predict_rows(model, tokenizer, description, rows)
    except BenchError:
        raise
    except Exception as error:  # a tokenizer with more tokens than the model, labels of another head, ...
        if failures.is_out_of_memory(error):
            raise DataError("there is not enough memory to predict these texts; give fewer, or shorter ones") from error
        raise DataError(
            f"the model in {run_folder / 'model'} can't predict: {type(error).__name__}: {reason(error)[:300]}; its "
            f"files do not fit together: {saved_model.ADVICE}"
        ) from error
    for prediction in predictions:
        if any(not math.isfinite(score) for score in (prediction["scores"] or {}).values()):
            raise DataError(f"the model in {run_folder / 'model'} gives scores that are no numbers: damaged weights?")
    return new_rows.as_given(predictions, given, rows)


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


def _predict_choices(model: Any, tokenizer: Any, description: dict[str, Any], rows: Rows) -> Rows:
    """Return the right ones of each row's own choices, by a head."""
    named = [{**row, "id": f"text {number + 1}", "label": 0} for number, row in enumerate(rows)]
    split = choice_head.encode_split(Split(name="texts", rows=named), tokenizer, description["max_length"])
    reader = choice_head.ChoiceHeadReader(model, split, _scoring(tokenizer, description, num_labels=0))
    predictions: Rows = [{} for _ in rows]
    with torch.no_grad():
        for numbers in reader.batches:
            for number, answer in zip(numbers, reader.read(numbers), strict=True):
                own, feature = rows[number]["choices"], split.features[number]
                predictions[number] = {
                    "text": rows[number]["text"],
                    "label": own[answer.prediction],
                    "scores": dict(zip(own, answer.scores, strict=True)),
                    "cut": feature["cut"],
                }
    return predictions


def _scoring(tokenizer: Any, description: dict[str, Any], *, num_labels: int) -> Scoring:
    return Scoring(
        tokenizer=tokenizer,
        metrics=MetricSet((), multi_label=description["multi_label"], num_labels=num_labels),
        threshold=description["threshold"],
        device=torch.device("cpu"),
        precision="no",
    )


def _predict_numbers(model: Any, tokenizer: Any, description: dict[str, Any], rows: Rows) -> Rows:
    """Return the head's one output as label. Raises DataError for one that is not finite."""
    features, cut = head.encode_rows([{**row, "label": 0} for row in rows], tokenizer, description["max_length"])
    predictions: Rows = [{} for _ in rows]
    for numbers in grouped([len(feature["input_ids"]) for feature in features], default_budget(model)):
        batch = collate([features[number] for number in numbers], tokenizer)
        with torch.no_grad():
            logits = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
        for number, value in zip(numbers, logits[:, 0].double().tolist(), strict=True):
            if not math.isfinite(value):
                raise DataError("the model gives numbers that are not finite: damaged weights?")
            text = rows[number]["text"]
            predictions[number] = {"text": text, "label": value, "scores": None, "cut": number in cut}
    return predictions


def _predict_tags(model: Any, tokenizer: Any, description: dict[str, Any], rows: Rows) -> Rows:
    """Return words, their tags, and the entities that these mark."""
    named = []
    for number, row in enumerate(rows):
        words = row.get("tokens") or new_texts.words_of(row["text"])
        named.append({"id": f"text {number + 1}", "tokens": words, "text": " ".join(words)})
    split = tags.sentences(named, tokenizer, description["max_length"])
    scoring = _scoring(tokenizer, description, num_labels=len(description["labels"]))
    reader = tags.TagReader(model, split, scoring, tuple(description["labels"]))
    predictions: Rows = [{} for _ in rows]
    with torch.no_grad():
        for numbers in reader.batches:
            for number, answer in zip(numbers, reader.read(numbers), strict=True):
                if not math.isfinite(answer.scores[0]):
                    raise DataError("the model gives probabilities that are no numbers: damaged weights?")
                words, scheme = named[number]["tokens"], description.get("scheme")
                predictions[number] = {
                    "text": rows[number]["text"],
                    "label": tagging.shown(answer.prediction, words, scheme),
                    "scores": None,
                    "cut": False,
                    "tokens": words,
                    "tags": list(answer.prediction),
                    "entities": [
                        {
                            "type": entity.kind,
                            "text": " ".join(words[entity.start : entity.end]),
                            "start": entity.start,
                            "end": entity.end,
                        }
                        for entity in tagging.entities(answer.prediction, scheme)
                    ],
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


def _predict_by_terms(model: Any, tokenizer: Any, description: dict[str, Any], rows: Rows) -> Rows:
    """Classify whole texts by their TF-IDF features; there is no tokenizer."""
    labels = description["labels"]
    logits = model.logits([tfidf.joined(row) for row in rows])
    predicted, scores = head.predict(logits, description["multi_label"], description["threshold"])
    return [
        {
            "text": row["text"],
            "label": label_names(answer, labels),
            "scores": dict(zip(labels, row_scores, strict=True)),
            "cut": False,
        }
        for row, answer, row_scores in zip(rows, predicted.tolist(), scores.tolist(), strict=True)
    ]


def _predict_with_prompts(model: Any, tokenizer: Any, description: dict[str, Any], rows: Rows) -> Rows:
    """Prompt the model as it was trained and scored."""
    task, labels, several = (
        registry.load("tasks", description["task"]),
        description["labels"],
        description["multi_label"],
    )
    prompt = Prompt.model_validate(description["prompt"], strict=False)
    prompting = Prompting.model_validate(description["prompting"], strict=False)
    renderer = Renderer(
        prompt,
        tokenizer,
        chat=prompting.format == "chat",
        trained=True,
        date=prompting.date,
        chat_options=prompting.chat_template_kwargs,
    )
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
    has_choices = task.READS == "choices"
    scoring = _scoring(tokenizer, description, num_labels=0 if has_choices else len(labels))
    if has_choices:
        reader: Reader = choices.ChoiceReader(model, split, scoring, description["normalization"])
    else:
        make = text_examples.reader_of(prompting, prompt, task, labels, several, prompt_encoder)
        reader = make(model, split, scoring)
    predictions: Rows = [{} for _ in rows]
    for numbers in reader.batches:
        for number, answer in zip(numbers, reader.read(numbers), strict=True):
            written = answer.extra.get("text")
            names = rows[number]["choices"] if has_choices else labels
            predictions[number] = {
                "text": rows[number]["text_pair" if task.READS == "answers" else "text"],
                "label": label_names(answer.prediction, names),
                "scores": None if written is not None else dict(zip(names, answer.scores, strict=True)),
                "cut": split.features[number]["cut"],
                **({"written": written} if written is not None else {}),
            }
    return predictions
