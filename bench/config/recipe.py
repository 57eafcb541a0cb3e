"""Types of recipes: frozen, strict, unknown keys refused. Also the source of the JSON Schema."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.config.cards import DatasetCard, ModelCard
from bench.config.data_part import DataPart
from bench.config.fields import CHAT_DATE, Date, Distinct, InvalidKey, Name, PositiveInt, Strict, Text
from bench.config.training import Checkpoints, Evaluation, Spans, Speed, Training


class Head(Strict):
    """The task head on the model's hidden states, for `objective: head`."""

    kind: Literal["own", "mlp"] = "own"
    """The model's own head, or an MLP of one hidden layer with GELU and dropout. Example: mlp"""
    hidden: PositiveInt = 128
    """Width of the MLP's hidden layer. Example: 256"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout of the MLP. Example: 0.2"""
    norm: bool = False
    """Puts a layer norm on the MLP's hidden layer, before GELU. Example: true"""


class Prompting(Strict):
    """The prompt's format and the way to answer, for `objective: text`."""

    format: Literal["plain", "chat"] = "plain"
    """The dataset card's prompt as plain text, or inside the tokenizer's chat template. Example: chat"""
    answer: Literal["label_likelihood", "generate", "entailment"] = "label_likelihood"
    """The most likely label; the text that the model generates (greedily, then parsed); or the label whose hypothesis
    an NLI model finds entailed. Example: generate
    """
    normalization: Literal["none", "tokens", "characters"] = "none"
    """A label's log-likelihood is taken as it is, or over its number of tokens or characters. Example: tokens"""
    calibration: Literal["none", "content_free"] = "none"
    """`content_free`: a label's likelihood is taken over its likelihood for texts without content (Zhao et al. 2021).
    Example: content_free
    """
    max_new_tokens: PositiveInt = 16
    """The most tokens that are generated for an answer. Example: 64"""
    date: Date = CHAT_DATE
    """The date that a chat template is told which writes today's, so that prompts are the same on all days.
    Example: 2026-01-31
    """
    chat_template_kwargs: dict[str, bool | int | float | str | None] = {}
    """Further arguments of the chat template. Example: {enable_thinking: false}"""
    fallback_label: Text | None = None
    """The label that a generated answer gets which names none; null counts it as no answer. The record says how many
    there are. Example: neutral
    """
    untrained_head: bool = False
    """With `answer: entailment`, a model without a classifier answers by a new head that the seed draws and nothing
    trains, as transformers' zero-shot pipeline does. Its score is one by chance. Example: true
    """


class MethodChoice(BaseModel):
    """`name` of a method; every other key is one of that method's own options."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    name: Name
    """Name of the method. Example: lora"""


class Band(Strict):
    """The range of a published result."""

    low: float
    """The lowest published value, included. Example: 0.907"""
    high: float
    """The highest published value, included. Example: 0.949"""
    source: Text
    """The publication, and the place in it. Example: 'Sanh et al. 2019, table 1'"""
    measures: Text | None = None
    """The thing that the number is of. Example: accuracy on GLUE's validation sentences"""

    @model_validator(mode="after")
    def _in_order(self) -> "Band":
        if self.low > self.high:
            raise InvalidKey("low", f"{self.low} is more than `high`, {self.high}")
        return self


class AsPublished(Strict):
    """Where others ran these very settings; a study says so of its variant `as_published`."""

    source: Text
    """Where the settings are published. Example: Sanh et al. 2019, section 4"""
    precision: Literal["float32", "fp16", "bf16"] | None = None
    """The mixed precision that they trained with; null where the source does not say. Example: fp16"""
    but_for: tuple[Text, ...] = ()
    """Differences from theirs, as the other model and data of the small variant. Example: [two epochs instead of three]
    """


class Recipe(Strict):
    """A resolved recipe: the two cards are in it whole."""

    dataset: DatasetCard
    """The data: name of a card, path, `owner/name` on the Hub, `lm_eval:NAME`, or a mapping that changes one of these.
    Example: sst2
    """
    model: ModelCard
    """The model: name of a card, path, `owner/name` on the Hub, or a mapping that changes one of these.
    Example: distilbert_base_uncased
    """
    method: MethodChoice
    """The method: its name, or a mapping of `name` and its options. Example: {name: lora, config: {r: 16}}"""
    objective: Literal["head", "text"] = "head"
    """`head`: a task head reads the hidden states. `text`: the model scores or writes the answer in words.
    Example: text
    """
    head: Head = Head()
    """The task head, for `objective: head`. Example: {kind: mlp, hidden: 256}"""
    prompting: Prompting = Prompting()
    """Prompts and answers of the model, for `objective: text`. Example: {answer: generate, max_new_tokens: 12}"""
    max_length: PositiveInt = 256
    """Tokens of an input at most; longer texts are cut, and the record counts them. Example: 128"""
    limit: dict[Name, PositiveInt] = {}
    """Split -> at most so many of its rows, drawn with the split's own seed in proportion to the labels, whatever else
    the recipe says. Example: {train: 4000, test: 500}
    """
    data: DataPart = DataPart()
    """The part of the training split that is learned from: so many labels, or all but one fold.
    Example: {train_examples: 100}
    """
    training: Training = Training()
    """Hyper-parameters of training. Example: {epochs: 3, learning_rate: 2e-5}"""
    evaluation: Evaluation = Evaluation()
    """The splits that are scored, the metrics, and when. Example: {splits: [test], metrics: [accuracy, f1]}"""
    speed: Speed = Speed()
    """Optimisations that change no loss and no score; each can be switched off to compare.
    Example: {padding_free: false}
    """
    spans: Spans = Spans()
    """Extraction of answers from passages, for question answering with `objective: head`. Example: {doc_stride: 128}"""
    checkpoints: Checkpoints = Checkpoints()
    """Saving of the state of training from time to time, so that a killed run resumes. Example: {every_minutes: 5}"""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 13
    """Seed of everything drawn in a run: new weights, order of examples, dropout, few-shot examples. The data's own
    splits have their own. Example: 14
    """
    save: bool = True
    """Saves the model or adapter below the run's folder. Example: false"""
    trackers: Annotated[tuple[Literal["wandb", "tensorboard", "mlflow", "trackio"], ...], Distinct] = ()
    """Experiment trackers to log to. Example: [wandb, tensorboard]"""
    published: dict[Name, Band] = {}
    """Metric -> where others found it, for the scores after training on the first of `evaluation.splits`.
    `recall_per_label.positive` is the value of one label.
    Example: {accuracy: {low: 0.907, high: 0.949, source: Sanh et al. 2019}}
    """
    published_before: dict[Name, Band] = {}
    """The same for the scores before training. Example: {accuracy: {low: 0.49, high: 0.51, source: chance}}"""
    as_published: AsPublished | None = None
    """Set by a study's variant `as_published`: whose settings these are.
    Example: {source: Sanh et al. 2019, precision: fp16}
    """


class CardChoice(BaseModel):
    """`card` names a card; every other key replaces one of the card's, and is shown as an override in reports.

    Without `card` one is made from what `id` (a name on the Hub) or `path` is; other keys replace what was found out.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    card: Name | None = None
    """Name of a card in `recipes/datasets` or `recipes/models`, or in a folder given by `--include`. Example: sst2"""
    id: Text | None = None
    """A name on the Hub. Example: fancyzhx/ag_news"""
    path: Text | None = None
    """A file or folder. Example: tickets.csv"""


class RecipeFile(Recipe):
    """A recipe as a person writes it: the name of a card, a path or a Hub id, or a mapping with one of them.

    Only used for the JSON Schema, which says of which methods `model` is no key.
    """

    dataset: Text | CardChoice  # type: ignore[assignment]
    model: Text | CardChoice  # type: ignore[assignment]
