"""Types of recipes: frozen, strict, unknown keys refused. Also the source of the JSON Schema."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.config.cards import DatasetCard, ModelCard
from bench.config.data_part import DataPart
from bench.config.fields import CHAT_DATE, Date, Distinct, InvalidKey, Name, PositiveInt, Strict, Text
from bench.config.training import Checkpoints, Evaluation, Spans, Speed, Training


class Head(Strict):
    """The task head: the model's own, or an MLP of one hidden layer with GELU and dropout.

    norm: a layer norm on the hidden layer, before GELU.
    """

    kind: Literal["own", "mlp"] = "own"
    hidden: PositiveInt = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    norm: bool = False


class Prompting(Strict):
    """The prompt's format and the way to answer, for `objective: text`.

    format: the dataset card's prompt as plain text, or inside the tokenizer's chat template. answer: the most likely
    label; the text that the model generates (greedily, then parsed); or the label whose hypothesis an NLI model finds
    entailed.
    normalization: a label's log-likelihood over its number of tokens or characters. calibration: over the label's
    likelihood for texts without content. date: what a chat template that writes today's date is told, so that prompts
    of all days are the same. chat_template_kwargs: what else a chat template is told, as `enable_thinking: false`.
    fallback_label: of a generated answer that names no label, instead of counting it as none.
    untrained_head: `answer: entailment` of a model without a classifier, by a new head that the seed draws and nothing
    trains: what transformers' zero-shot pipeline does with such a model. Its score is one by chance.
    """

    format: Literal["plain", "chat"] = "plain"
    answer: Literal["label_likelihood", "generate", "entailment"] = "label_likelihood"
    normalization: Literal["none", "tokens", "characters"] = "none"
    calibration: Literal["none", "content_free"] = "none"
    max_new_tokens: PositiveInt = 16
    date: Date = CHAT_DATE
    chat_template_kwargs: dict[str, bool | int | float | str | None] = {}
    fallback_label: Text | None = None
    untrained_head: bool = False


class MethodChoice(BaseModel):
    """`name` of a method; every other key is one of that method's own options."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    name: Name


class Band(Strict):
    """The range of a published result, both ends included. source: the publication, and the place in it.

    measures: what the number is of, as "share of single labels that are right, validation".
    """

    low: float
    high: float
    source: Text
    measures: Text | None = None

    @model_validator(mode="after")
    def _in_order(self) -> "Band":
        if self.low > self.high:
            raise InvalidKey("low", f"{self.low} is more than `high`, {self.high}")
        return self


class AsPublished(Strict):
    """Where others ran these very settings; a study says so of its variant `as_published`.

    precision: the mixed precision that they trained with; null where that is not said. but_for: what is different here,
    as the other model and data of the small variant.
    """

    source: Text
    precision: Literal["float32", "fp16", "bf16"] | None = None
    but_for: tuple[Text, ...] = ()


class Recipe(Strict):
    """A resolved recipe: the two cards are in it whole.

    limit: at most so many rows of a split, drawn with the split's own seed in proportion to the labels, so that a
    file sorted by label is not cut to one of them, and that the draw depends on nothing else in the recipe.
    published: metric -> where others found it, for the scores after training on the first of `evaluation.splits`; of a
    value for each label, as `recall_per_label.positive`. published_before: for the scores before training.
    """

    dataset: DatasetCard
    model: ModelCard
    method: MethodChoice
    objective: Literal["head", "text"] = "head"
    head: Head = Head()
    prompting: Prompting = Prompting()
    max_length: PositiveInt = 256
    limit: dict[Name, PositiveInt] = {}
    data: DataPart = DataPart()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    speed: Speed = Speed()
    spans: Spans = Spans()
    checkpoints: Checkpoints = Checkpoints()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 13
    save: bool = True
    trackers: Annotated[tuple[Literal["wandb", "tensorboard", "mlflow", "trackio"], ...], Distinct] = ()
    published: dict[Name, Band] = {}
    published_before: dict[Name, Band] = {}
    as_published: AsPublished | None = None


class CardChoice(BaseModel):
    """`card` names a card; every other key replaces one of the card's, and is shown as an override in reports.

    Without `card` one is made from what `id` (a name on the Hub) or `path` is; other keys replace what was found out.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    card: Name | None = None
    id: Text | None = None
    path: Text | None = None


class RecipeFile(Recipe):
    """A recipe as a person writes it: the name of a card, a path or a Hub id, or a mapping with one of them.

    Only used for the JSON Schema, which says of which methods `model` is no key.
    """

    dataset: Text | CardChoice  # type: ignore[assignment]
    model: Text | CardChoice  # type: ignore[assignment]
