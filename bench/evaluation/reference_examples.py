"""Encodes a corpus of prompts and references: splits to score, training examples, and the reader of written texts."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench.config.cards import Prompt
from bench.config.contracts import LoadPlan
from bench.config.extraction import Extract
from bench.config.recipe import Prompting, Recipe
from bench.config.training import Training
from bench.data import dataset
from bench.data.examples import Encoded
from bench.data.prompts.conversation import ConversationEncoder
from bench.data.prompts.encode import PromptEncoder
from bench.data.prompts.few_shot import ShotSampler
from bench.data.prompts.template import Renderer
from bench.errors import DataError
from bench.evaluation.reader import Reader, Scoring
from bench.evaluation.readers.reference import ReferenceReader
from bench.evaluation.text_examples import TextExamples, prompts_of, signature_of

# The prompt of a card without one: the text itself, and the answer on the next line.
PLAIN = Prompt(template="{text}", joint="\n")
PLAIN_PAIR = Prompt(template="{text}\n\n{text_pair}", joint="\n")


def prompt_of(recipe: Recipe) -> Prompt:
    """Return the card's prompt; the text itself where it has none."""
    return recipe.dataset.prompt or (PLAIN if recipe.dataset.columns.text_pair is None else PLAIN_PAIR)


def encoder_of(
    tokenizer: Any,
    task: Any,
    prompt: Prompt,
    prompting: Prompting,
    *,
    family: str,
    max_length: int,
    trained: bool,
    shots: ShotSampler | None = None,
    per_example: bool = False,
    loss_on: str = Training().loss_on,
) -> ConversationEncoder:
    """Return what encodes rows. trained: an end token is learned, which the tokenizer must have."""
    renderer = Renderer(
        prompt,
        tokenizer,
        chat=prompting.format == "chat",
        trained=trained,
        date=prompting.date,
        chat_options=prompting.chat_template_kwargs,
    )
    encoder = PromptEncoder(
        tokenizer=tokenizer,
        renderer=renderer,
        wording=task.wording(prompt, (), False),
        family=family,
        max_length=max_length,
        shots=shots,
        per_example=per_example,
        max_new_tokens=prompting.max_new_tokens,
    )
    return ConversationEncoder(encoder, loss_on=loss_on, max_new_tokens=prompting.max_new_tokens)


def encode_corpus(recipe: Recipe, plan: LoadPlan, corpus: dataset.Corpus, task: Any, tokenizer: Any) -> TextExamples:
    """Encode the splits to score and to train on. Raises SetupError for prompts that can't be made of these data."""
    trained = plan.trains == "gradient"
    shots = None
    if plan.shots:
        shots = ShotSampler(corpus.splits["train"].rows, (), plan.shots, recipe.seed, balanced=False)
    encoder = encoder_of(
        tokenizer,
        task,
        prompt_of(recipe),
        recipe.prompting,
        family=recipe.model.family,
        max_length=recipe.max_length,
        trained=trained,
        shots=shots,
        per_example=plan.draw == "per_example",
        loss_on=recipe.training.loss_on,
    )
    scored = [name for name in corpus.splits if name != "train" or name in recipe.evaluation.splits]
    if recipe.evaluation.extract is not None:
        for name in scored:
            for note in notes_on_extraction(recipe.evaluation.extract, name, corpus.splits[name].rows):
                encoder.encoder.note(note)
    splits = {name: encode_split(encoder, name, corpus.splits[name].rows) for name in scored}
    train = _encode_train(encoder, corpus.splits["train"].rows) if trained else None
    return TextExamples(
        splits=splits,
        train=train,
        reader=reader_of(recipe.prompting, encoder),
        prompts=prompts_of(recipe, plan, encoder.encoder, splits, _signature(recipe, plan, encoder)),
        notes=encoder.encoder.notes,
        warnings=tuple(encoder.warnings),
    )


def notes_on_extraction(extract: Extract, name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a note on rows of a scored split in whose references `evaluation.extract` finds nothing.

    Raises DataError where that is so in all rows that have a reference.
    """
    asked = [row for row in rows if row["answers"]]
    without = [row for row in asked if all(extract.of(text) is None for text in row["answers"])]
    if not without:
        return []
    sentence = (
        f"evaluation.extract ({extract.name}) finds nothing in the references of {len(without)} of {len(rows)} rows of "
        f"{name!r}, such as {without[0]['id']!r}: {without[0]['answers'][0][-80:]!r}"
    )
    if len(without) == len(asked):
        raise DataError(sentence)
    return [f"{sentence}; each of them counts 0 in extracted_match, whatever is written"]


def encode_split(encoder: ConversationEncoder, name: str, rows: Sequence[dict[str, Any]]) -> Encoded:
    """Return rows as prompts with their references."""
    features, cut = encoder.encode_prompts(rows, name)
    ids = tuple(row["id"] for row in rows)
    return Encoded(name=name, ids=ids, features=features, truncated=cut, in_words=True)


def _encode_train(encoder: ConversationEncoder, rows: Sequence[dict[str, Any]]) -> Encoded:
    features, cut = encoder.encode_train_examples(rows)
    return Encoded(name="train", ids=tuple(row["id"] for row in rows), features=features, truncated=cut)


def reader_of(prompting: Prompting, encoder: ConversationEncoder) -> Callable[[Any, Encoded, Scoring], Reader]:
    """Return the constructor of the reader of written texts."""
    return partial(
        _reader,
        prompting=prompting,
        stop_ids=encoder.stop_ids,
        stop_text=encoder.stop_text,
        thinks=encoder.frame is not None,
    )


def _reader(model: Any, split: Encoded, scoring: Scoring, **options: Any) -> Reader:
    return ReferenceReader(model, split, scoring, **options)


def _signature(recipe: Recipe, plan: LoadPlan, encoder: ConversationEncoder) -> str:
    ends = "end_token" if encoder.stop_text is None else "end_token,separator"
    greedy = f"greedy,max_new_tokens:{recipe.prompting.max_new_tokens}"
    parts = [*(["thoughts:removed"] if encoder.frame is not None else []), greedy, f"stop:{ends}", "parse:whole_text"]
    return signature_of(recipe, plan, encoder.frame, parts)
