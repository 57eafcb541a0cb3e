"""The types of cards and recipes: frozen, strict, unknown keys refused. Also the source of the JSON Schema."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
PositiveInt = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """Base of every settings type. Booleans, numbers and text are never converted into one another."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


class Source(Strict):
    """Where rows come from. `folder` and `files` are for local files, `id` for the Hub and the built-in sets."""

    kind: Literal["hub", "jsonl", "csv", "tsv", "parquet", "saved", "builtin"]
    id: str | None = None
    config: str | None = None
    revision: str | None = None
    folder: str | None = None
    files: dict[str, str] = {}
    seed: int = 0
    sizes: dict[str, PositiveInt] = {}

    @model_validator(mode="after")
    def _complete(self) -> "Source":
        if self.kind in ("hub", "builtin") and self.id is None:
            raise ValueError(f"a source of kind {self.kind!r} needs `id`")
        if self.kind not in ("hub", "builtin") and self.folder is None:
            raise ValueError(f"a source of kind {self.kind!r} needs `folder`")
        if self.kind in ("jsonl", "csv", "tsv", "parquet") and not self.files:
            raise ValueError(f"a source of kind {self.kind!r} needs `files`, as `split: file name`")
        return self


class Columns(Strict):
    """Names of the source's columns. `label_flags: true` means one true/false column per label, named as the label."""

    id: str | None = None
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    label_flags: bool = False


class Divide(Strict):
    """Divides source splits into new ones, by share (0.7) or by count (300); `balanced` draws equally per label."""

    of: tuple[str, ...]
    into: dict[Name, Annotated[float, Field(gt=0)] | PositiveInt]
    stratified: bool = True
    balanced: bool = False
    seed: int = 0


class Filters(Strict):
    """Rows that are left out, each kind counted in the record."""

    min_words: PositiveInt | None = None
    max_words: PositiveInt | None = None
    labels: tuple[str, ...] | None = None
    drop_duplicates: bool = False
    drop_empty: bool = False


class DatasetCard(Strict):
    """What must not vary inside a comparison. `defaults` is the data set's usual budget, beneath the recipe's own."""

    task: Name
    source: Source
    licence: str
    homepage: str | None = None
    columns: Columns = Columns()
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    splits: dict[Name, str] = {}
    divide: tuple[Divide, ...] = ()
    filters: Filters = Filters()
    clean: tuple[str, ...] = ()
    leakage: Literal["error", "drop", "allow"] = "error"
    metrics: tuple[str, ...] = ()
    defaults: dict[str, Any] = {}

    @model_validator(mode="after")
    def _complete(self) -> "DatasetCard":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("`labels` names a label twice")
        if not self.splits and not self.divide:
            raise ValueError("needs `splits` (name: source split) or `divide`, or both")
        return self


class TokenizerCard(Strict):
    """`id` of a pretrained tokenizer, or `train`: one trained on the training split, for tests without a download."""

    id: str | None = None
    revision: str | None = None
    train: Literal["wordpiece", "bpe", "unigram"] | None = None
    vocab_size: PositiveInt = 1024


class ModelCard(Strict):
    """A model: where its weights are, and its architecture (a transformers config) for random weights.

    id: a Hub id or a local folder. package: an installed Python package that carries the model in `subfolder`.
    """

    id: str | None = None
    package: Name | None = None
    subfolder: str = ""
    revision: str | None = None
    family: Literal["encoder", "decoder", "encoder_decoder"]
    licence: str
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
            raise ValueError("pretrained weights need `id` or `package`")
        if self.weights == "random" and "model_type" not in self.architecture and self.id is None:
            raise ValueError("random weights need `architecture` with a `model_type`")
        return self


class Head(Strict):
    """The task head: the model's own, or an MLP of one hidden layer with GELU and dropout."""

    kind: Literal["own", "mlp"] = "own"
    hidden: PositiveInt = 128
    dropout: Share = 0.1


class EarlyStopping(Strict):
    """Stops after `patience` evaluations without an improvement of at least `threshold`."""

    patience: PositiveInt = 3
    threshold: Annotated[float, Field(ge=0)] = 0.0


class Training(Strict):
    """What is learned, not how it is spread over devices: that is the accelerate config's part."""

    engine: Literal["trainer", "loop"] = "trainer"
    global_batch: PositiveInt = 32
    per_device_batch: PositiveInt | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None
    steps: PositiveInt | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"] = "linear"
    warmup: Annotated[float, Field(ge=0)] = 0.0
    optimizer: Literal[
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_bnb_8bit",
        "paged_adamw_32bit",
        "paged_adamw_8bit",
        "adafactor",
        "sgd",
    ] = "adamw_torch"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gradient_checkpointing: bool = False
    log_every: PositiveInt = 10
    evaluate_every: PositiveInt | Literal["epoch"] | None = None
    best: Name | None = None
    early_stopping: EarlyStopping | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Training":
        if self.epochs is not None and self.steps is not None:
            raise ValueError("`epochs` and `steps` exclude one another")
        if self.early_stopping is not None and self.best is None:
            raise ValueError("`early_stopping` needs `best`, the metric that it watches")
        if self.best is not None and self.evaluate_every is None:
            raise ValueError("`best` needs `evaluate_every`, in steps or `epoch`")
        return self


class Evaluation(Strict):
    """Which splits are scored, and when. `threshold` is the probability from which a label of several is set."""

    before: bool = True
    splits: tuple[Name, ...] = ("test",)
    validation: Name = "validation"
    batch: PositiveInt = 32
    threshold: Share = 0.5
    metrics: tuple[str, ...] = ()


class MethodChoice(BaseModel):
    """`name` of a method; every other key is one of that method's own options."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    name: Name


class Recipe(Strict):
    """A resolved recipe: the two cards are in it whole."""

    dataset: DatasetCard
    model: ModelCard
    method: MethodChoice
    objective: Literal["head", "text"] = "head"
    head: Head = Head()
    max_length: PositiveInt = 256
    limit: dict[Name, PositiveInt] = {}
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 13
    save: bool = True
    trackers: tuple[Literal["wandb", "tensorboard", "mlflow", "trackio"], ...] = ()


class CardChoice(BaseModel):
    """`card` names a card; every other key replaces one of the card's, and is shown as an override in reports."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    card: Name


class RecipeFile(Recipe):
    """A recipe as a person writes it: cards by name, or by name with overrides. Only used for the JSON Schema."""

    dataset: Name | CardChoice  # type: ignore[assignment]
    model: Name | CardChoice  # type: ignore[assignment]
