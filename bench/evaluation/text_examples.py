"""A corpus as questions to a language model: encoded splits, examples to learn from, and how answers are read."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench.config.cards import Prompt
from bench.config.contracts import LoadPlan
from bench.config.recipe import Prompting, Recipe
from bench.data import dataset
from bench.data.examples import Encoded
from bench.data.prompts.encode import Asker
from bench.data.prompts.few_shot import Shots
from bench.data.prompts.template import Renderer, fill
from bench.data.rows import Split
from bench.errors import SetupError
from bench.evaluation.metric_set import Predictions
from bench.evaluation.reader import Reader, Scoring
from bench.evaluation.readers import entailment, generation, likelihood
from bench.models.build import GENERATIVE_CLASSES
from bench.records import record


@dataclass(frozen=True, kw_only=True)
class Questions:
    """All that a text objective needs. lessons: the training split to learn from, None when nothing is trained."""

    splits: dict[str, Encoded]
    lessons: Encoded | None
    reader: Callable[[Any, Encoded, Scoring], Reader]
    part: record.Prompts
    notes: list[str]


def auto_class(recipe: Recipe) -> str:
    """Return the transformers class of a model that answers in this recipe's way."""
    if recipe.prompting.answer == "entailment":
        return "AutoModelForSequenceClassification"
    return GENERATIVE_CLASSES[recipe.model.family]


def ask(recipe: Recipe, plan: LoadPlan, corpus: dataset.Corpus, task: Any, tokenizer: Any) -> Questions:
    """Encodes what is scored and what is learned. Raises SetupError for prompts that can't be made of these data."""
    if recipe.prompting.answer == "entailment":
        return _entailment(recipe, corpus, tokenizer)
    prompt = _prompt(recipe)
    trained = plan.trains == "gradient"
    renderer = Renderer(prompt, tokenizer, chat=recipe.prompting.format == "chat", trained=trained)
    asker = Asker(
        tokenizer=tokenizer,
        renderer=renderer,
        wording=task.wording(prompt, corpus.labels, recipe.dataset.multi_label),
        family=recipe.model.family,
        max_length=recipe.max_length,
        shots=_shots(recipe, plan, corpus),
        per_example=plan.draw == "per_example",
        room=recipe.prompting.max_new_tokens if recipe.prompting.answer == "generate" else None,
    )
    scored = [name for name in corpus.splits if name != "train" or name in recipe.evaluation.splits]
    golds = [row for name in scored for row in corpus.splits[name].rows if "answers" in row]
    if golds:
        _check_golds(recipe, golds, task, asker)
    elif recipe.prompting.answer == "generate":
        _check_readable(recipe, prompt, task, corpus.labels, asker)
    splits = {name: encode(asker, name, corpus.splits[name].rows, recipe.prompting, prompt) for name in scored}
    lessons = _lessons(asker, corpus.splits["train"]) if trained else None
    reader = reader_of(recipe.prompting, prompt, task, corpus.labels, recipe.dataset.multi_label, asker)
    part = _part(recipe, plan, asker, splits, corpus)
    return Questions(splits=splits, lessons=lessons, reader=reader, part=part, notes=asker.notes)


def _check_readable(recipe: Recipe, prompt: Prompt, task: Any, labels: Sequence[str], asker: Asker) -> None:
    """Raises SetupError for an answer that would not be read back, or not be written to its end."""
    several, words = recipe.dataset.multi_label, [prompt.answers.get(name, name) for name in labels]
    flags = [[int(place == other) for other in range(len(words))] for place in range(len(words))]
    asked: list[Any] = [*flags, [0] * len(words), [1] * len(words)] if several else list(range(len(words)))
    for label in asked:
        answer = asker.wording.answer({"label": label})
        if task.parse(answer, words, prompt.none, several) != label:
            raise SetupError(f"the answer {answer!r} would be read as another one; change prompt.answers")
    longest = max([*words, *([prompt.none] if several else [])], key=lambda word: asker.tokens_of_answer(word))
    needed, limit = asker.tokens_of_answer(longest), recipe.prompting.max_new_tokens
    if needed > limit:
        raise SetupError(f"prompting.max_new_tokens is {limit}, but the answer {longest!r} has {needed} tokens")


def _check_golds(recipe: Recipe, rows: Sequence[dict[str, Any]], task: Any, asker: Asker) -> None:
    """Raises SetupError for a gold answer that would be read as none; counts those too long to be written whole."""
    prompt = _prompt(recipe)
    for row in rows:
        lost = [answer for answer in row["answers"] if not task.parse(answer, (), prompt.none, False)]
        if lost:
            raise SetupError(
                f"the answer {lost[0]!r} of {row['id']!r} would be read as there being none; change prompt.none, "
                f"{prompt.none!r}"
            )
    shortest = [min(row["answers"], key=len) for row in rows if row["answers"]]
    limit = recipe.prompting.max_new_tokens
    long = sum(asker.tokens_of_answer(answer) > limit for answer in shortest)
    if long:
        asker.notes.append(
            f"{long} of {len(rows)} gold answers have more tokens than prompting.max_new_tokens, {limit}"
        )


def _prompt(recipe: Recipe) -> Prompt:
    assert recipe.dataset.prompt is not None, "the recipe's check asks for one"
    return recipe.dataset.prompt


def _shots(recipe: Recipe, plan: LoadPlan, corpus: dataset.Corpus) -> Shots | None:
    if not plan.shots:
        return None
    balanced = not recipe.dataset.multi_label and corpus.version != "1.1"  # where every question has an answer
    return Shots(corpus.splits["train"].rows, corpus.labels, plan.shots, recipe.seed, balanced=balanced)


def encode(asker: Asker, name: str, rows: Sequence[dict[str, Any]], prompting: Prompting, prompt: Prompt) -> Encoded:
    """Rows as questions, with those without content where answers are calibrated by them."""
    features, cut = asker.questions(rows)
    if prompting.calibration == "content_free":
        shared: list[dict[str, Any]] | None = None
        for feature, row in zip(features, rows, strict=True):
            if shared is None or asker.per_example:
                shared = asker.contentless(row, prompt.content_free)
            feature["contentless"] = shared
    ids, in_words = tuple(row["id"] for row in rows), any("answers" in row for row in rows)
    return Encoded(name=name, ids=ids, features=features, truncated=cut, in_words=in_words)


def _lessons(asker: Asker, split: Split) -> Encoded:
    features, cut = asker.lessons(split.rows)
    return Encoded(name=split.name, ids=tuple(row["id"] for row in split.rows), features=features, truncated=cut)


def reader_of(
    prompting: Prompting, prompt: Prompt, task: Any, labels: Sequence[str], multi_label: bool, asker: Asker
) -> Callable[[Any, Encoded, Scoring], Reader]:
    """What reads the answers of a model that writes or scores text."""
    words = tuple(prompt.answers.get(name, name) for name in labels)
    if prompting.answer == "label_likelihood":
        return partial(_likelihood_reader, prompting=prompting, words=words)
    parse = partial(task.parse, words=words, none=prompt.none, multi_label=multi_label)
    end = asker.end_ids[-1] if asker.renderer.chat else asker.tokenizer.eos_token_id
    return partial(_generation_reader, prompting=prompting, parse=parse, end=-1 if end is None else end)


def _likelihood_reader(model: Any, split: Encoded, scoring: Scoring, **options: Any) -> Reader:
    return likelihood.LikelihoodReader(model, split, scoring, **options)


def _generation_reader(model: Any, split: Encoded, scoring: Scoring, **options: Any) -> Reader:
    return generation.GenerationReader(model, split, scoring, **options)


def _entailment(recipe: Recipe, corpus: dataset.Corpus, tokenizer: Any) -> Questions:
    prompt = _prompt(recipe)
    if recipe.dataset.columns.text_pair is not None:
        raise SetupError("prompting.answer is entailment, which judges one text; this data set has pairs of texts")
    hypotheses = [fill(prompt.hypothesis, {"label": prompt.answers.get(name, name)}) for name in corpus.labels]
    if len(set(hypotheses)) < len(hypotheses):
        raise SetupError("two labels have the same hypothesis, so the model can't tell them apart; see prompt.answers")
    splits = {}
    for name in recipe.evaluation.splits:
        rows = corpus.splits[name].rows
        features, cut = entailment.encode_pairs(rows, hypotheses, tokenizer, recipe.max_length)
        splits[name] = Encoded(name=name, ids=tuple(row["id"] for row in rows), features=features, truncated=cut)
    first = corpus.splits[recipe.evaluation.splits[0]].rows[0]
    part = record.Prompts(
        format="plain",
        answer="entailment",
        signature="answer:entailment|hypothesis:per_label",
        template_hash=_digest(hypotheses),
        example=f"{first['text']}\n-> {hypotheses[0]}",
    )
    return Questions(splits=splits, lessons=None, reader=entailment.EntailmentReader, part=part, notes=[])


def _part(
    recipe: Recipe, plan: LoadPlan, asker: Asker, splits: Mapping[str, Encoded], corpus: dataset.Corpus
) -> record.Prompts:
    first = splits[recipe.evaluation.splits[0]]
    fixed = asker.shots.fixed() if asker.shots is not None and not asker.per_example else []
    return record.Prompts(
        format=recipe.prompting.format,
        answer=recipe.prompting.answer,
        signature=_signature(recipe, plan, asker),
        template_hash=asker.renderer.hash,
        shots=plan.shots,
        draw=plan.draw if plan.shots else None,
        shot_ids=[str(row["id"]) for row in fixed],
        example=asker.tokenizer.decode(first.features[0]["input_ids"]),
    )


def _signature(recipe: Recipe, plan: LoadPlan, asker: Asker) -> str:
    """Every setting of the way to answer that moves a number."""
    asked = recipe.prompting
    parts = [f"answer:{asked.answer}", f"format:{asked.format}"]
    if asked.answer == "label_likelihood":
        parts += [f"normalization:{asked.normalization}", f"calibration:{asked.calibration}"]
        parts.append(f"end:{'scored' if asker.ended else 'not_scored'}")
    else:
        free = not asker.wording.choices and not recipe.dataset.multi_label
        parse = "first_line" if free else "leading_or_only_mention"
        parts += [f"greedy,max_new_tokens:{asked.max_new_tokens}", f"parse:{parse}"]
    return "|".join([*parts, f"shots:{plan.shots}" + (f",{plan.draw}" if plan.shots else "")])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def manifest(predictions: Predictions) -> str | None:
    """SHA-256 over ids and hashes of the prompts that were really asked, sorted by id; None without prompts."""
    hashes = [extra.get("prompt_hash") for extra in predictions.extra]
    if not hashes or None in hashes:
        return None
    lines = "".join(f"{identity} {found}\n" for identity, found in zip(predictions.ids, hashes, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def summary(predictions: Predictions) -> dict[str, float | int | None]:
    """What can be counted about written answers; {} for answers that were not written."""
    written = [extra for extra in predictions.extra if "new_tokens" in extra]
    if not written:
        return {}
    if predictions.predictions.dtype == object:
        unread: Any = np.array([not extra["text"] for extra in written])
    else:
        unread = predictions.predictions < 0
    return {
        # Of answers in words, which are what they are: those without a word.
        "unparsable": int((unread if unread.ndim == 1 else unread.any(axis=1)).sum()),
        "stopped_share": sum(extra["stopped"] for extra in written) / len(written),
        "mean_new_tokens": sum(extra["new_tokens"] for extra in written) / len(written),
    }
