"""The settings of training, of evaluation, and of their fast paths."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from bench.config.extraction import Extract
from bench.config.fields import Distinct, InvalidKey, Name, PositiveInt, Share, Strict, Text


def _share_or_steps(value: float) -> float:
    """Refuse a number of warm-up steps that is not a whole one."""
    if value >= 1 and not value.is_integer():
        raise ValueError(f"expected a share of all steps below 1, or a whole number of steps, got {value:g}")
    return value


class EarlyStopping(Strict):
    """Early stopping: after `patience` evaluations without an improvement of at least `threshold`."""

    patience: PositiveInt = 3
    threshold: Annotated[float, Field(ge=0)] = 0.0


class Loss(Strict):
    """The loss of a task head over labels: cross-entropy, or focal loss, which counts what is right already for less.

    gamma: of the focal loss, (1 - p)^gamma x cross-entropy with the probability p of the label; 0 is cross-entropy.
    """

    name: Literal["cross_entropy", "focal"] = "cross_entropy"
    gamma: Annotated[float, Field(ge=0, le=10)] = 2.0

    @model_validator(mode="after")
    def _used(self) -> "Loss":
        if self.name != "focal" and self.gamma != type(self).model_fields["gamma"].default:
            raise InvalidKey("gamma", "only for `name: focal`")
        return self


class Training(Strict):
    """Hyper-parameters of training. Parallelism and precision are the accelerate config's part.

    per_device_batch: examples of a micro-batch; null is a process's whole share of the global batch, "auto" the largest
    part of it that is found to fit. The global batch, and so the result, is the same with any of them.
    warmup: a share of all steps below 1, or a whole number of steps. epochs, steps: one of them; else 3 epochs.
    min_steps: with `epochs`, at least so many steps: a few examples would else be over after a few of them.
    schedule_per: the schedule is stepped after each step, or after each epoch, over which the rate then stays.
    activation_offload: gradient checkpointing keeps its activations in host memory until the backward pass.
    loss_on: of texts that are learned (`objective: text`), the tokens in the loss: those of the answer, of all turns of
    the assistant (task generation), or all, the prompt's too.
    class_weights: of a task head's labels: `balanced`, by which all labels weigh the same in sum, or label -> weight, 1
    for a label that is not named. The mean loss is over the sum of weights, as in torch's cross_entropy. Of several
    labels an example they are weights of the positive entries.
    group_by_length: texts of similar length share a global batch, as transformers' sampler of that name has it.
    """

    engine: Literal["trainer", "loop"] = "trainer"
    global_batch: PositiveInt = 32
    per_device_batch: PositiveInt | Literal["auto"] | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None
    steps: PositiveInt | None = None
    min_steps: PositiveInt | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"] = "linear"
    schedule_per: Literal["step", "epoch"] = "step"
    warmup: Annotated[float, Field(ge=0), AfterValidator(_share_or_steps)] = 0.0
    optimizer: Literal[
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_bnb_8bit",
        "paged_adamw_32bit",
        "paged_adamw_8bit",
        "adafactor",
        "sgd",
    ] = "adamw_torch_fused"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    loss: Loss = Loss()
    class_weights: Literal["balanced"] | dict[Text, Annotated[float, Field(gt=0)]] | None = None
    loss_on: Literal["answer", "assistant", "all"] = "answer"
    group_by_length: bool = False
    gradient_checkpointing: bool = False
    activation_offload: bool = False
    log_every: PositiveInt = 10
    evaluate_every: PositiveInt | Literal["epoch"] | None = None
    best: Name | None = None
    early_stopping: EarlyStopping | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Training":
        if self.epochs is not None and self.steps is not None:
            raise InvalidKey("steps", "set `epochs` or `steps`, not both")
        if self.min_steps is not None and self.steps is not None:
            raise InvalidKey("min_steps", "only with `epochs`: `steps` is a number of steps already")
        if self.early_stopping is not None and self.best is None:
            raise InvalidKey("early_stopping", "`early_stopping` needs `best`, the metric that it watches")
        if self.best is not None and self.evaluate_every is None:
            raise InvalidKey("best", "`best` needs `evaluate_every`, in steps or `epoch`")
        if self.steps is not None and self.warmup >= self.steps:
            raise InvalidKey(
                "warmup",
                f"{self.warmup:g} warm-up steps of {self.steps} in all: the full learning rate is never reached",
            )
        if self.schedule_per == "epoch" and self.warmup:
            raise InvalidKey("warmup", "not with `schedule_per: epoch`, whose rate only changes between epochs")
        if self.loss.name == "focal" and self.label_smoothing:
            raise InvalidKey("label_smoothing", "not with the focal loss, which is defined for one label that is right")
        if self.activation_offload and not self.gradient_checkpointing:
            raise InvalidKey(
                "activation_offload", "needs `gradient_checkpointing: true`, whose activations are offloaded"
            )
        return self


class Checkpoints(Strict):
    """Intervals at which the state of training is saved, so that a killed run resumes from there; null is never.

    keep: how many of the newest are kept; an older one serves where the newest is damaged. No result depends on these.
    """

    every_steps: PositiveInt | None = None
    every_minutes: Annotated[float, Field(gt=0)] | None = 10.0
    keep: PositiveInt = 2


class Also(Strict):
    """Other data than a run's own, of `evaluation.also`: a data set, or a running text whose perplexity is taken.

    dataset: the name of a card, or what else `dataset:` may name. perplexity: a text file, or a built-in data set.
    limit: at most so many examples, or windows of the text.
    """

    dataset: Text | None = None
    perplexity: Text | None = None
    limit: PositiveInt | None = None

    @model_validator(mode="after")
    def _one(self) -> "Also":
        if (self.dataset is None) == (self.perplexity is None):
            raise InvalidKey("dataset", "give either `dataset` or `perplexity`")
        return self

    @property
    def name(self) -> str:
        """Return what is scored, in one word."""
        return self.dataset or f"perplexity:{self.perplexity}"


class Evaluation(Strict):
    """The splits to score, and when. `threshold`: the probability from which a multi-label model predicts a label.

    batch_tokens: tokens of a batch, padding included; null is a default for the device. No score depends on it.
    validation: the split by which the best step, the end, or in a study the settings are chosen.
    extract: the part of a written answer that is compared with the same part of its reference, as `extracted_match`.
    sharded: whether a model that ZeRO-3 or FSDP2 shards is scored as it is, or whole on each process; auto scores it
    whole where the forecast says that it fits. No score depends on it. Under such a launcher so is a model of which
    nothing is trained, by zero_shot or few_shot.
    temperature: `fitted` after training on the validation split; scores of probabilities are then given with it too.
    also: other data sets and texts that a language model is scored on before and after training, to see what it keeps.
    allow_selection_on_test: whether it may be one of the scored splits, or hold the same data; marked in every report.
    """

    before: bool = True
    splits: Annotated[tuple[Name, ...], Field(min_length=1), Distinct] = ("test",)
    validation: Name = "validation"
    allow_selection_on_test: bool = False
    batch_tokens: PositiveInt | None = None
    sharded: Literal["auto", True, False] = "auto"
    threshold: Share = 0.5
    temperature: Literal["fitted"] | None = None
    extract: Extract | None = None
    metrics: Annotated[tuple[Text, ...], Distinct] = ()
    also: tuple[Text | Also, ...] = ()


class Spans(Strict):
    """Extraction of answers that are spans of a passage, as in SQuAD.

    doc_stride: tokens of the passage by which two neighbouring windows overlap. n_best: candidate spans of a window.
    max_answer_length: in tokens. null_score_diff_threshold: the answer is empty where the null score exceeds the best
    span's by more than this (SQuAD v2.0 only). offsets: "characters_as_tokens" trains on a known fault of published
    code, an answer's first character and the one behind its last taken for token positions; scoring is as ever.
    """

    doc_stride: Annotated[int, Field(ge=0, lt=2**31)] = 64
    n_best: Annotated[int, Field(gt=0, le=1000)] = 20
    max_answer_length: PositiveInt = 30
    null_score_diff_threshold: float = 0.0
    offsets: Literal["tokens", "characters_as_tokens"] = "tokens"


class Speed(Strict):
    """Optimisations that give the same losses and scores in less time and memory; each can be switched off to compare.

    padding_free: batches without padding tokens. answer_logits: logits only for answer tokens. token_cache: cached
    tokenization of a split, by content, for classifiers.
    keep_memory: on a CPU, freed memory stays with the process, unless per_device_batch is auto. expandable_segments: on
    a GPU, torch's allocator grows what it has instead of asking for pieces that then don't fit. drop_copies: where
    activations are recomputed, autocast keeps no 16-bit copy of each trained weight until the forward pass is over.
    sharded_load: whether each process loads and saves only its shards of a model that ZeRO-3 or FSDP2 shards; auto does
    so where the whole weights would take more than half of its memory.
    compile: the training step runs the model's blocks as torch.compile makes them; needs a C++ compiler, on a GPU
    Triton. Memory is forecast, and a batch size searched, as without it.
    shared_prefix: where a language model answers, what all prompts begin with is run once, and all labels of an example
    are scored in one row; answers are written in batches without padding tokens. Off, labels are scored in rows of
    their own, and each answer is written by itself.
    """

    padding_free: bool = True
    answer_logits: bool = True
    token_cache: bool = True
    keep_memory: bool = True
    expandable_segments: bool = True
    drop_copies: bool = True
    sharded_load: Literal["auto", True, False] = "auto"
    shared_prefix: bool = True
    compile: bool = False
