"""Encodes a corpus for a language model: splits to score, training examples, and the reader of answers."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench.config.cards import NUMBERS_TASK, Prompt
from bench.config.contracts import LoadPlan
from bench.config.recipe import Prompting, Recipe
from bench.data import dataset
from bench.data.examples import Encoded, Feature, kind_of
from bench.data.prompts.chat_frame import ChatFrame
from bench.data.prompts.encode import PromptEncoder
from bench.data.prompts.few_shot import ShotSampler
from bench.data.prompts.template import Renderer, fill
from bench.data.rows import Split
from bench.errors import SetupError
from bench.evaluation.metric_set import Predictions
from bench.evaluation.reader import Reader, Scoring
from bench.evaluation.readers import choices, entailment, generation, likelihood
from bench.models.build import GENERATIVE_CLASSES
from bench.records import record


@dataclass(frozen=True, kw_only=True)
class TextExamples:
    """Everything that a text objective needs.

    train: the training split with its answers, None when nothing is trained. prompts: the record's part on them.
    warnings: of what misleads a reader of the scores.
    """

    splits: dict[str, Encoded]
    train: Encoded | None
    reader: Callable[[Any, Encoded, Scoring], Reader]
    prompts: record.Prompts
    notes: list[str]
    warnings: tuple[record.RunWarning, ...] = ()


def auto_class(recipe: Recipe) -> str:
    """Return the name of the transformers class of a model that answers in this recipe's way."""
    if recipe.prompting.answer == "entailment":
        return "AutoModelForSequenceClassification"
    return GENERATIVE_CLASSES[recipe.model.family]


def encode_corpus(recipe: Recipe, plan: LoadPlan, corpus: dataset.Corpus, task: Any, tokenizer: Any) -> TextExamples:
    """Encode the splits to score and to train on. Raises SetupError for prompts that can't be made of these data."""
    if recipe.prompting.answer == "entailment":
        return _entailment(recipe, corpus, tokenizer)
    prompt = _prompt(recipe)
    trained = plan.trains == "gradient"
    renderer = Renderer(
        prompt,
        tokenizer,
        chat=recipe.prompting.format == "chat",
        trained=trained,
        date=recipe.prompting.date,
        chat_options=recipe.prompting.chat_template_kwargs,
    )
    prompt_encoder = PromptEncoder(
        tokenizer=tokenizer,
        renderer=renderer,
        wording=task.wording(prompt, corpus.labels, recipe.dataset.multi_label),
        family=recipe.model.family,
        max_length=recipe.max_length,
        shots=_shots(recipe, plan, corpus),
        per_example=plan.draw == "per_example",
        max_new_tokens=recipe.prompting.max_new_tokens if recipe.prompting.answer == "generate" else None,
    )
    scored = [name for name in corpus.splits if name != "train" or name in recipe.evaluation.splits]
    golds = [row for name in scored for row in corpus.splits[name].rows if "answers" in row]
    if golds:
        _check_golds(recipe, golds, task, prompt_encoder)
    elif task.READS == "numbers":
        _check_numbers(recipe, corpus, task, prompt_encoder)
    elif recipe.prompting.answer == "generate":
        _check_readable(recipe, prompt, task, corpus.labels, prompt_encoder)
    splits = {
        name: encode_split(prompt_encoder, name, corpus.splits[name].rows, recipe.prompting, prompt) for name in scored
    }
    train = _encode_train(prompt_encoder, corpus.splits["train"]) if trained else None
    reader = reader_of(recipe.prompting, prompt, task, corpus.labels, recipe.dataset.multi_label, prompt_encoder)
    if prompt_encoder.wording.choices_of is not None:
        reader = partial(_choice_reader, normalization=recipe.dataset.normalization)
        prompt_encoder.notes += choices.notes(splits.values())
    prompts = prompts_of(recipe, plan, prompt_encoder, splits, _signature(recipe, plan, prompt_encoder))
    return TextExamples(splits=splits, train=train, reader=reader, prompts=prompts, notes=prompt_encoder.notes)


def _check_readable(
    recipe: Recipe, prompt: Prompt, task: Any, labels: Sequence[str], prompt_encoder: PromptEncoder
) -> None:
    """Raise SetupError for an answer that would not be parsed back, or has more tokens than may be written."""
    several, words = recipe.dataset.multi_label, [prompt.answers.get(name, name) for name in labels]
    flags = [[int(place == other) for other in range(len(words))] for place in range(len(words))]
    cases: list[Any] = [*flags, [0] * len(words), [1] * len(words)] if several else list(range(len(words)))
    for label in cases:
        answer = prompt_encoder.wording.answer({"label": label})
        if task.parse(answer, words, prompt.none, several) != label:
            raise SetupError(f"the answer {answer!r} would be parsed as another one; change prompt.answers")
    longest = max(
        [*words, *([prompt.none] if several else [])], key=lambda word: prompt_encoder.num_answer_tokens(word)
    )
    needed, limit = prompt_encoder.num_answer_tokens(longest), recipe.prompting.max_new_tokens
    if needed > limit:
        raise SetupError(f"prompting.max_new_tokens is {limit}, but the answer {longest!r} has {needed} tokens")


def _check_golds(recipe: Recipe, rows: Sequence[dict[str, Any]], task: Any, prompt_encoder: PromptEncoder) -> None:
    """Raise SetupError for a gold answer that would be parsed as none; note how many are too long to be written."""
    prompt = _prompt(recipe)
    for row in rows:
        lost = [answer for answer in row["answers"] if not task.parse(answer, (), prompt.none, False)]
        if lost:
            raise SetupError(
                f"the answer {lost[0]!r} of {row['id']!r} would be parsed as no answer; change prompt.none, now "
                f"{prompt.none!r}"
            )
    shortest = [min(row["answers"], key=len) for row in rows if row["answers"]]
    limit = recipe.prompting.max_new_tokens
    long = sum(prompt_encoder.num_answer_tokens(answer) > limit for answer in shortest)
    if long:
        prompt_encoder.notes.append(
            f"{long} of {len(rows)} gold answers have more tokens than prompting.max_new_tokens, {limit}"
        )


def _check_numbers(recipe: Recipe, corpus: dataset.Corpus, task: Any, prompt_encoder: PromptEncoder) -> None:
    """Raise SetupError for a number with more tokens than may be written; note how many are rounded to be learned."""
    decimals, limit = _prompt(recipe).decimals, recipe.prompting.max_new_tokens
    for name, split in corpus.splits.items():
        written = {row["label"]: prompt_encoder.wording.answer(row) for row in split.rows}
        longest = max(set(written.values()), key=prompt_encoder.num_answer_tokens)
        needed = prompt_encoder.num_answer_tokens(longest)
        if needed > limit:
            raise SetupError(f"prompting.max_new_tokens is {limit}, but the answer {longest!r} has {needed} tokens")
        rounded = sum(task.parse(written[row["label"]], (), "", False) != row["label"] for row in split.rows)
        if rounded and name == "train":
            prompt_encoder.notes.append(
                f"train: {rounded} of {len(split.rows)} numbers are rounded to {decimals} "
                f"decimal{'s' * (decimals != 1)} (prompt.decimals) to be written; the numbers themselves are scored"
            )


def _prompt(recipe: Recipe) -> Prompt:
    assert recipe.dataset.prompt is not None, "the recipe's check asks for one"
    return recipe.dataset.prompt


def _shots(recipe: Recipe, plan: LoadPlan, corpus: dataset.Corpus) -> ShotSampler | None:
    if not plan.shots:
        return None
    # Not where every question has an answer, nor without labels, nor by where the right choice stands.
    balanced = not recipe.dataset.multi_label and corpus.version != "1.1" and bool(corpus.labels)
    balanced = balanced and recipe.dataset.columns.choices is None
    return ShotSampler(corpus.splits["train"].rows, corpus.labels, plan.shots, recipe.seed, balanced=balanced)


def encode_split(
    prompt_encoder: PromptEncoder, name: str, rows: Sequence[dict[str, Any]], prompting: Prompting, prompt: Prompt
) -> Encoded:
    """Return rows as prompts, each with its content-free prompts ("content_free") where these calibrate answers."""
    features, cut = prompt_encoder.encode_prompts(rows)
    if prompting.calibration == "content_free":
        shared: list[Feature] | None = None
        for feature, row in zip(features, rows, strict=True):
            if shared is None or prompt_encoder.per_example:
                shared = prompt_encoder.encode_content_free(row, prompt.content_free)
            feature["content_free"] = shared
    ids, in_words = tuple(row["id"] for row in rows), any("answers" in row for row in rows)
    return Encoded(name=name, ids=ids, features=features, truncated=cut, in_words=in_words)


def _encode_train(prompt_encoder: PromptEncoder, split: Split) -> Encoded:
    features, cut = prompt_encoder.encode_train_examples(split.rows)
    return Encoded(name=split.name, ids=tuple(row["id"] for row in split.rows), features=features, truncated=cut)


def reader_of(
    prompting: Prompting,
    prompt: Prompt,
    task: Any,
    labels: Sequence[str],
    multi_label: bool,
    prompt_encoder: PromptEncoder,
) -> Callable[[Any, Encoded, Scoring], Reader]:
    """Return the constructor of the reader of a model that writes or scores text."""
    words = tuple(prompt.answers.get(name, name) for name in labels)
    if prompting.answer == "label_likelihood":
        return partial(_likelihood_reader, prompting=prompting, words=words)
    parse = partial(task.parse, words=words, none=prompt.none, multi_label=multi_label)
    end = prompt_encoder.end_ids[-1] if prompt_encoder.renderer.chat else prompt_encoder.tokenizer.eos_token_id
    return partial(_generation_reader, prompting=prompting, parse=parse, end=-1 if end is None else end)


def _likelihood_reader(model: Any, split: Encoded, scoring: Scoring, **options: Any) -> Reader:
    return likelihood.LikelihoodReader(model, split, scoring, **options)


def _choice_reader(model: Any, split: Encoded, scoring: Scoring, **options: Any) -> Reader:
    return choices.ChoiceReader(model, split, scoring, **options)


def _generation_reader(model: Any, split: Encoded, scoring: Scoring, **options: Any) -> Reader:
    return generation.GenerationReader(model, split, scoring, **options)


def _entailment(recipe: Recipe, corpus: dataset.Corpus, tokenizer: Any) -> TextExamples:
    prompt = _prompt(recipe)
    if recipe.dataset.columns.text_pair is not None:
        raise SetupError("prompting.answer is entailment, which needs single texts; this data set has pairs of texts")
    hypotheses = [fill(prompt.hypothesis, {"label": prompt.answers.get(name, name)}) for name in corpus.labels]
    if len(set(hypotheses)) < len(hypotheses):
        raise SetupError("two labels have the same hypothesis, so the model can't distinguish them; see prompt.answers")
    splits = {}
    for name in recipe.evaluation.splits:
        rows = corpus.splits[name].rows
        features, cut = entailment.encode_pairs(rows, hypotheses, tokenizer, recipe.max_length)
        splits[name] = Encoded(name=name, ids=tuple(row["id"] for row in rows), features=features, truncated=cut)
    first = corpus.splits[recipe.evaluation.splits[0]].rows[0]
    prompts = record.Prompts(
        format="plain",
        answer="entailment",
        signature="answer:entailment|hypothesis:per_label",
        template_hash=_digest(hypotheses),
        example=f"{first['text']}\n-> {hypotheses[0]}",
    )
    return TextExamples(splits=splits, train=None, reader=entailment.EntailmentReader, prompts=prompts, notes=[])


def prompts_of(
    recipe: Recipe, plan: LoadPlan, prompt_encoder: PromptEncoder, splits: Mapping[str, Encoded], signature: str
) -> record.Prompts:
    """Return what the record says of prompts. signature: every setting of prompting that moves a score."""
    first = splits[recipe.evaluation.splits[0]]
    fixed = prompt_encoder.shots.fixed() if prompt_encoder.shots is not None and not prompt_encoder.per_example else []
    frame = prompt_encoder.renderer.frame
    return record.Prompts(
        format=recipe.prompting.format,
        answer=recipe.prompting.answer,
        signature=signature,
        template_hash=prompt_encoder.renderer.hash,
        frame_hash=None if frame is None else frame.hash,
        date=recipe.prompting.date if frame is not None and frame.writes_date else None,
        shots=plan.shots,
        draw=plan.draw if plan.shots else None,
        shot_ids=[str(row["id"]) for row in fixed],
        example=prompt_encoder.tokenizer.decode(first.features[0]["input_ids"]),
    )


def signature_of(recipe: Recipe, plan: LoadPlan, frame: ChatFrame | None, parts: Sequence[str]) -> str:
    """Return every setting of prompting that moves a score. parts: those of the way to answer."""
    prompting = recipe.prompting
    asked = [f"answer:{prompting.answer}", f"format:{prompting.format}"]
    if frame is not None:
        asked += [f"frame:{frame.hash}", *([f"date:{prompting.date}"] if frame.writes_date else [])]
        asked += [f"told:{json.dumps(frame.options, sort_keys=True)}"] if frame.options else []
    return "|".join([*asked, *parts, f"shots:{plan.shots}" + (f",{plan.draw}" if plan.shots else "")])


def _signature(recipe: Recipe, plan: LoadPlan, prompt_encoder: PromptEncoder) -> str:
    prompting = recipe.prompting
    if prompting.answer == "label_likelihood":
        texts = _prompt(recipe).content_free if prompting.calibration == "content_free" else ()
        calibration = f"{prompting.calibration}{f',{_digest(list(texts))}' if texts else ''}"
        own = prompt_encoder.wording.choices_of is not None
        normalization = recipe.dataset.normalization if own else prompting.normalization
        end = "scored" if prompt_encoder.scores_end else "not_scored"
        parts = [f"normalization:{normalization}", f"calibration:{calibration}", f"end:{end}"]
    else:
        free = not prompt_encoder.wording.choices and not recipe.dataset.multi_label
        parse = "first_line" if free else "leading_or_only_mention"
        parse = "first_number" if recipe.dataset.task == NUMBERS_TASK else parse
        parts = [f"greedy,max_new_tokens:{prompting.max_new_tokens}", f"parse:{parse}"]
    return signature_of(recipe, plan, prompt_encoder.renderer.frame, parts)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def manifest(predictions: Predictions) -> str | None:
    """Return the SHA-256 of the ids and the hashes of the prompts that were scored, in order; None without prompts."""
    return _manifest(predictions.ids, [extra.get("prompt_hash") for extra in predictions.extra])


def shot_manifest(predictions: Predictions) -> str | None:
    """Return the SHA-256 of the ids and of each example's own shots, in order; None where all have the same."""
    shots = [extra.get("shot_ids") for extra in predictions.extra]
    return _manifest(predictions.ids, [None if ids is None else json.dumps(ids) for ids in shots])


def _manifest(ids: Sequence[str], values: Sequence[str | None]) -> str | None:
    if not values or None in values:
        return None
    lines = "".join(f"{identity} {value}\n" for identity, value in zip(ids, values, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def summary(predictions: Predictions) -> dict[str, float | int | None]:
    """Return counts and means of written answers; {} for answers that were not written."""
    written = [extra for extra in predictions.extra if "new_tokens" in extra]
    if not written:
        return {}
    if predictions.predictions.dtype == object:
        unparsed: Any = np.array([not extra["text"] for extra in written])
    elif kind_of(predictions.predictions) == "numbers":
        unparsed = np.isnan(predictions.predictions)
    else:
        unparsed = predictions.predictions < 0
    return {
        # An answer in words is always parsed, so the empty ones are counted.
        "unparsable": int((unparsed if unparsed.ndim == 1 else unparsed.any(axis=1)).sum()),
        "stopped_share": sum(extra["stopped"] for extra in written) / len(written),
        "mean_new_tokens": sum(extra["new_tokens"] for extra in written) / len(written),
        # Of a text, unlike of a label, that is an answer without its end.
        **({"hit_limit": sum(not extra["stopped"] for extra in written)} if "reference_nll" in written[0] else {}),
    }
