"""Types of dataset and model cards: frozen, strict, unknown keys refused. Also the source of the JSON Schema."""

import csv
import re
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bench.config.fields import Distinct, Inside, InvalidKey, Name, PositiveInt, Strict, Text
from bench.config.training import Evaluation, Training
from bench.errors import did_you_mean

PLACEHOLDERS = ("{text}", "{text_pair}", "{labels}")
# A column in a template of `source.compose`.
COMPOSED = re.compile(r"\{([^{}]+)\}")
FILE_KINDS = ("jsonl", "json", "csv", "tsv", "parquet", "squad", "conll")
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


class Source(Strict):
    """Where rows come from. `folder` and `files` are for local files, `id` for the Hub and the built-in sets.

    files: source split -> file, pattern (`train-*.parquet`) or list of these. A relative folder is one of the project:
    what the folder `datasets` of the card lies in. `json`: a list of objects, or one below `data`. CSV follows RFC
    4180; TSV has no quoting, as in GLUE's files, unless `quoting: true`. `squad`: the official JSON of SQuAD v1.1 or
    v2.0, a question a row. `conll`: a word and its tag on each line, a blank line after each sentence. `seed` and
    `sizes` are the built-in sets' own. `lm_eval`: `id` is a task of lm-evaluation-harness; of one that is not its own,
    `folder` and `files: {task: NAME}` say where its YAML file is, and `trust_remote_code` lets this file name Python
    functions. delimiter, encoding: of CSV and TSV, where it is not a comma or a tab, or not UTF-8: as in Excel's files,
    `delimiter: ";"` and `encoding: cp1252`. compose: new columns of text, each a template of other columns, as `whole:
    "{title}: {content}"`.
    """

    kind: Literal["hub", "jsonl", "json", "csv", "tsv", "parquet", "squad", "conll", "saved", "builtin", "lm_eval"]
    id: Text | None = None
    config: str | None = None
    revision: str | None = None
    folder: Text | None = None
    files: dict[Name, Inside | Annotated[tuple[Inside, ...], Field(min_length=1), Distinct]] = {}
    quoting: bool | None = None
    delimiter: str | None = None
    encoding: Text | None = None
    compose: dict[Name, Text] = {}
    seed: int = 0
    sizes: dict[str, PositiveInt] = {}
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _complete(self) -> "Source":
        remote, local = self.kind in ("hub", "builtin", "lm_eval"), self.kind in FILE_KINDS
        if remote and self.id is None:
            raise InvalidKey("kind", f"a source of kind {self.kind!r} needs `id`")
        if not remote and self.folder is None:
            raise InvalidKey("kind", f"a source of kind {self.kind!r} needs `folder`")
        if local and not self.files:
            raise InvalidKey("kind", f"a source of kind {self.kind!r} needs `files`, as `split: file name`")
        # A key that would have no effect is refused, so that nobody relies on it.
        own_file = self.kind == "lm_eval"
        foreign = {"id": not remote, "config": self.kind != "hub", "trust_remote_code": not own_file}
        foreign |= {"folder": remote and not own_file, "files": not local and not own_file}
        foreign |= {"seed": self.kind != "builtin", "sizes": self.kind != "builtin", "quoting": self.kind != "tsv"}
        foreign |= dict.fromkeys(("delimiter", "encoding"), self.kind not in ("csv", "tsv"))
        for key, wrong in foreign.items():
            if wrong and (getattr(self, key) or (key == "quoting" and self.quoting is not None)):
                raise InvalidKey(key, f"a source of kind {self.kind!r} has no `{key}`")
        return self

    @model_validator(mode="after")
    def _readable(self) -> "Source":
        if self.delimiter is not None:
            try:
                csv.reader([], delimiter=self.delimiter)
            except (TypeError, ValueError) as error:
                given = f"{self.delimiter!r} is not a delimiter"
                raise InvalidKey("delimiter", f'{given}; write one character, as ";", "|" or "\\t"') from error
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except LookupError as error:
                given = f"there is no text encoding {self.encoding!r}"
                raise InvalidKey("encoding", f"{given}; write one of Python's, as cp1252, latin-1 or utf-16") from error
        for name, template in self.compose.items():
            if not COMPOSED.search(template):
                raise InvalidKey(f"compose.{name}", 'names no column; write a template, as "{title}: {content}"')
        return self

    @property
    def is_quoted(self) -> bool:
        """Return whether cells of a CSV or TSV file may be in quotes, and then hold separators and line breaks."""
        return self.kind == "csv" or self.quoting is True


class Columns(Strict):
    """Names of the source's columns. `label_flags: true` means one true/false column per label, named as the label.

    text_pair: a second text of each row, judged together with the first, as a hypothesis with its premise: heads read
    both in one input, with the separators of their tokenizer, and prompts hold {text_pair}.
    label: one label per row, or with `multi_label: true` a list of them: names or ids, or, where the card lists the
    labels, as many flags. answers: gold answers with their offsets in `text`, for question answering; `text_pair` is
    then the question. group: what a row belongs to, as a passage to its article; rows of one group should not be on
    both sides. For regression `label` is a number. tokens, tags: for token classification, lists of words and of a tag
    for each word. choices: a column of lists, or of {text, label} as ARC has them, or several columns. label_as: how
    `label` names the right one of them, where the data leave that open. reference: a text that is to be written, or a
    list of them, for generation. input: what is appended to `text` there, after an empty line, as Alpaca's. messages:
    conversations, whose last turn is the reference. system: the system prompt of each conversation, where it is not
    its first turn.
    """

    id: Text | None = None
    text: Text = "text"
    text_pair: Text | None = None
    label: Text = "label"
    label_flags: bool = False
    answers: Text | None = None
    tokens: Text = "tokens"
    tags: Text = "tags"
    group: Text | None = None
    choices: Text | Annotated[tuple[Text, ...], Field(min_length=2), Distinct] | None = None
    label_as: Literal["from_0", "from_1", "letter", "text"] | None = None
    reference: Text | None = None
    input: Text | None = None
    messages: Text | None = None
    system: Text | None = None

    @model_validator(mode="after")
    def _differ(self) -> "Columns":
        known: dict[str, str] = {}
        for key in ("text", "text_pair", "label", "input", "reference"):
            name = getattr(self, key)
            if key in self.model_fields_set and name is not None and known.setdefault(name, key) != key:
                raise InvalidKey(key, f"{name!r} is `columns.{known[name]}` too; name two columns")
        return self


class OtherSource(Strict):
    """Another source of the same data set, for splits that the first one lacks. rename: its column -> the card's.

    Its splits are called `<its name>/<split>`, as in `splits: {test: gsm8k/test}`.
    """

    source: Source
    rename: dict[Text, Text] = {}

    @model_validator(mode="after")
    def _known_place(self) -> "OtherSource":
        if self.source.kind not in ("hub", "builtin"):
            raise InvalidKey("source.kind", "another source is on the Hub or built in; files go into `source.files`")
        return self


class Divide(Strict):
    """New splits out of source splits, by share (0.7) or by count (300); `balanced` draws equally per label.

    by_group: rows of one group (`columns.group`) stay together, so that sizes and shares are only approximate.
    """

    of: Annotated[tuple[Text, ...], Field(min_length=1), Distinct]
    into: Annotated[dict[Name, Annotated[float, Field(gt=0)] | PositiveInt], Field(min_length=1)]
    stratified: bool = True
    balanced: bool = False
    by_group: bool = False
    seed: int = 0

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
    """Rules by which rows are dropped; the record counts the rows that each one drops.

    labels: rows without any of these are dropped, and the others have no labels but these.
    drop_misaligned: rows of the training split (of no other) with an answer that does not stand where its offset says.
    drop_equal_choices: rows whose right choice is there twice.
    """

    min_words: PositiveInt | None = None
    max_words: PositiveInt | None = None
    labels: Annotated[tuple[Text, ...], Field(min_length=1), Distinct] | None = None
    drop_duplicates: bool = False
    drop_empty: bool = False
    drop_misaligned: bool = False
    drop_equal_choices: bool = False

    @model_validator(mode="after")
    def _possible(self) -> "Filters":
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise InvalidKey("min_words", f"{self.min_words} is more than `max_words`, {self.max_words}")
        return self


class Prompt(Strict):
    """The prompt of an example. `template` holds {text} once, and may hold {text_pair} and {labels} (all answers).

    instruction: stands once, before everything else; may hold {labels}. joint: between question and answer, separator:
    after each shot; both only without a chat template. answers: label -> the words for it; else the label's own name.
    none: the answer for no label at all, where several are allowed. hypothesis: the sentence with {label} that an
    entailment model judges. content_free: texts without content, for calibration (Zhao et al. 2021). decimals: of the
    numbers that a language model learns to write, for regression.
    """

    template: Text
    instruction: str = ""
    joint: str = " "
    separator: Text = "\n\n"
    answers: dict[str, Text] = {}
    none: Text = "none"
    hypothesis: Text = "This example is {label}."
    content_free: Annotated[tuple[Text, ...], Field(min_length=1), Distinct] = ("N/A", "[MASK]", "...")
    decimals: Annotated[int, Field(ge=0, le=6)] = 2

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
    """A data set: what must not vary inside a comparison. `defaults`: its usual budget, which recipes override.

    scheme: of tags of words; entities are then those that it allows, by seqeval's strict mode. Without it they are read
    as in the CoNLL evaluation, seqeval's default mode.
    normalization: of multiple choice, what the log-likelihood of a choice is taken over before the likeliest one is
    predicted; lm-evaluation-harness calls the accuracies of the first three acc, acc_norm and acc_bytes.
    clean_if_installed: clean-up steps after those of `clean`; one that needs what is not installed is skipped, with a
    warning in the record.
    quote: whether texts of the data may be shown on pages; false for data that may not be published.
    """

    task: Name
    source: Source
    licence: Text | None = None
    homepage: str | None = None
    quote: bool = True
    columns: Columns = Columns()
    labels: Annotated[tuple[Text, ...], Distinct] = ()
    multi_label: bool = False
    scheme: Literal["IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU"] | None = None
    normalization: Literal["none", "characters", "bytes", "tokens"] = "none"
    other_sources: dict[Name, OtherSource] = {}
    splits: dict[Name, Text] = {}
    divide: tuple[Divide, ...] = ()
    filters: Filters = Filters()
    clean: tuple[str, ...] = ()
    clean_if_installed: tuple[str, ...] = ()
    leakage: Literal["error", "drop", "allow"] = "error"
    metrics: Annotated[tuple[Text, ...], Distinct] = ()
    prompt: Prompt | None = None
    defaults: dict[str, Any] = {}

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
    """`id` of a pretrained tokenizer, or `train`: one trained on the training split, for tests without a download.

    chat_template: Jinja, in place of the tokenizer's own; for a base model that has none.
    """

    id: Text | None = None
    revision: str | None = None
    train: Literal["wordpiece", "bpe", "unigram"] | None = None
    vocab_size: PositiveInt = 1024
    chat_template: Text | None = None


class ModelCard(Strict):
    """A model: where its weights are, and its architecture (a transformers config) for random weights.

    id: a Hub id or a local folder. package: an installed Python package that carries the model in `subfolder`.
    """

    id: Text | None = None
    package: Name | None = None
    subfolder: Inside = ""
    revision: str | None = None
    family: Literal["encoder", "decoder", "encoder_decoder"]
    licence: Text | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    architecture: dict[str, Any] = {}
    tokenizer: TokenizerCard = TokenizerCard()
    max_length: PositiveInt | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"] = "sdpa"
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _complete(self) -> "ModelCard":
        if self.weights == "pretrained" and self.id is None and self.package is None:
            raise InvalidKey("weights", "pretrained weights need `id` or `package`")
        if self.weights == "random" and "model_type" not in self.architecture and self.id is None:
            raise InvalidKey("weights", "random weights need `architecture` with a `model_type`")
        return self


class AnswerBudget(Strict):
    """The part of a recipe's `prompting` that a dataset card may set: how long answers may be."""

    max_new_tokens: PositiveInt


class Presets(Strict):
    """Keys that a dataset card's `defaults` may hold: its usual budget, not the method or the model."""

    prompting: AnswerBudget | None = None
    training: Training | None = None
    evaluation: Evaluation | None = None
    max_length: PositiveInt | None = None


# The place of a model in the recipe of a method that uses none: its name, and what stands for its card.
NO_MODEL = "none"
NO_MODEL_CARD: dict[str, Any] = {"id": NO_MODEL, "family": "encoder", "weights": "random"}
