"""The settings of training, of evaluation, and of their fast paths."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from bench.config.extraction import Extract
from bench.config.fields import Distinct, InvalidKey, Name, PositiveInt, Share, Strict, Text


def _share_or_steps(value: float) -> float:
    """Refuse a number of warm-up steps that is not a whole one."""
    if value >= 1 and not value.is_integer():
        raise ValueError(f"expected a share of all steps below 1, or a whole number of steps, got {value:g}")
    return value


class EarlyStopping(Strict):
    """Early stopping by the metric that `training.best` names."""

    patience: PositiveInt = 3
    """Evaluations without an improvement after which training ends. Example: 2"""
    threshold: Annotated[float, Field(ge=0)] = 0.0
    """The smallest change that counts as an improvement. Example: 0.001"""


class Loss(Strict):
    """The loss of a task head over labels."""

    name: Literal["cross_entropy", "focal"] = "cross_entropy"
    """Cross-entropy, or focal loss (Lin et al. 2017), in which labels that are already likely count less.
    Example: focal
    """
    gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    """Of the focal loss, (1 - p)^gamma x cross-entropy with the probability p of the label; 0 is cross-entropy.
    Example: 1.0
    """

    @model_validator(mode="after")
    def _used(self) -> "Loss":
        if self.name != "focal" and self.gamma != type(self).model_fields["gamma"].default:
            raise InvalidKey("gamma", "only for `name: focal`")
        return self


class Training(Strict):
    """Hyper-parameters of training. Parallelism and precision are set by the accelerate config."""

    engine: Literal["trainer", "loop"] = "trainer"
    """Who runs the loop: transformers' Trainer (TRL's SFTTrainer for text), or the harness's own plain loop. Both give
    the same losses. Example: loop
    """
    global_batch: PositiveInt = 32
    """Examples of one optimiser step, over all processes. Example: 64"""
    per_device_batch: PositiveInt | Literal["auto"] | None = None
    """Examples of a micro-batch. null: a process's whole share of the global batch; `auto`: the largest part of it that
    is found to fit. The result is the same with any of them. Example: auto
    """
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training split; 3 where neither `epochs` nor `steps` is set. Example: 2"""
    steps: PositiveInt | None = None
    """Optimiser steps, instead of `epochs`. Example: 500"""
    min_steps: PositiveInt | None = None
    """With `epochs`, at least so many steps: a few examples would otherwise be over after a few of them. Example: 100
    """
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Training ends after so many minutes, whatever is left. Example: 30"""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """The peak learning rate. Example: 2e-5"""
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"] = "linear"
    """Course of the learning rate, by transformers' names. Example: cosine"""
    schedule_per: Literal["step", "epoch"] = "step"
    """Steps the schedule after each optimiser step, or after each epoch, over which the rate then stays. Example: epoch
    """
    warmup: Annotated[float, Field(ge=0), AfterValidator(_share_or_steps)] = 0.0
    """Warm-up: a share of all steps below 1, or a whole number of steps. Example: 0.1"""
    optimizer: Literal[
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_bnb_8bit",
        "paged_adamw_32bit",
        "paged_adamw_8bit",
        "adafactor",
        "sgd",
    ] = "adamw_torch_fused"
    """The optimiser, by transformers' names. Example: adamw_torch"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay; not of biases and norms. Example: 0.01"""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradient clipping: the most that the gradient's norm may be; 0 is off. Example: 0"""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target probability that is spread over all labels. Example: 0.1"""
    loss: Loss = Loss()
    """The loss of a task head over labels. Example: {name: focal, gamma: 2.0}"""
    class_weights: Literal["balanced"] | dict[Text, Annotated[float, Field(gt=0)]] | None = None
    """Weights of a task head's labels: `balanced`, by which all labels weigh the same in sum, or label -> weight, 1 for
    a label that is not named. The mean loss is over the sum of weights, as in torch's cross_entropy. For multi-label
    data they weigh the positive entries. Example: balanced
    """
    loss_on: Literal["answer", "assistant", "all"] = "answer"
    """With `objective: text`, the tokens in the loss: those of the answer, of all turns of the assistant (task
    generation), or all, the prompt's too. Example: all
    """
    group_by_length: bool = False
    """Puts texts of similar length into one global batch, as transformers' sampler of that name does. Example: true"""
    gradient_checkpointing: bool = False
    """Recomputes activations in the backward pass: less memory, more time. Example: true"""
    activation_offload: bool = False
    """With gradient checkpointing, keeps the saved activations in host memory until the backward pass. Example: true"""
    log_every: PositiveInt = 10
    """Steps between two lines of the training log. Example: 50"""
    evaluate_every: PositiveInt | Literal["epoch"] | None = None
    """Steps between two evaluations on the validation split, or `epoch`; null is never. Example: epoch"""
    best: Name | None = None
    """The metric on the validation split by which the best step is chosen, whose weights are then scored.
    Example: f1_macro
    """
    early_stopping: EarlyStopping | None = None
    """Ends training when `best` no longer improves. Example: {patience: 3}"""

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
    """When the state of training is saved, so that a killed run resumes from there. No result depends on it."""

    every_steps: PositiveInt | None = None
    """Steps between two checkpoints; null is never. Example: 200"""
    every_minutes: Annotated[float, Field(gt=0)] | None = 10.0
    """Minutes between two checkpoints; null is never. Example: 5"""
    keep: PositiveInt = 2
    """Number of the newest that are kept; an older one serves where the newest is damaged. Example: 3"""


class Also(Strict):
    """Other data than a run's own, of `evaluation.also`: a data set, or a running text whose perplexity is taken."""

    dataset: Text | None = None
    """A data set: name of a card, or what else `dataset` of a recipe may name. Example: sst2"""
    perplexity: Text | None = None
    """A text file, or a built-in data set, whose perplexity is taken. Example: text.txt"""
    limit: PositiveInt | None = None
    """At most so many examples, or windows of the text. Example: 200"""

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
    """The splits that are scored, the metrics, and when."""

    before: bool = True
    """Scores the splits before training too. Example: false"""
    splits: Annotated[tuple[Name, ...], Field(min_length=1), Distinct] = ("test",)
    """The splits to score. Example: [test, validation]"""
    validation: Name = "validation"
    """The split by which the best step, the end of training, or in a study the settings are chosen. Example: dev"""
    allow_selection_on_test: bool = False
    """Allows `validation` to be one of the scored splits, or to hold the same data; marked in every report.
    Example: true
    """
    batch_tokens: PositiveInt | None = None
    """Tokens of a scoring batch, padding included; null is a default for the device. No score depends on it.
    Example: 16384
    """
    sharded: Literal["auto", True, False] = "auto"
    """Scores a model that ZeRO-3 or FSDP2 shards as it is (true), or whole on each process (false); `auto`: whole where
    the forecast says that it fits. No score depends on it. A model of which nothing is trained, by zero_shot or
    few_shot, is handled alike. Example: true
    """
    threshold: Share = 0.5
    """The probability from which a multi-label model predicts a label. Example: 0.4"""
    temperature: Literal["fitted"] | None = None
    """`fitted`: a temperature is fitted on the validation split after training, and scores of probabilities are given
    with it too. Example: fitted
    """
    extract: Extract | None = None
    """The part of a written answer that is compared with the same part of its reference, by metric `extracted_match`.
    Example: {name: gsm8k_number}
    """
    metrics: Annotated[tuple[Text, ...], Distinct] = ()
    """Metrics instead of the dataset card's and the task's own; `evaluate:NAME` is one of the evaluate library.
    Example: [accuracy, f1]
    """
    backend: Literal["torch", "vllm"] = "torch"
    """The program that runs a model prompted without training: torch, or vLLM, in this process or behind `server`. A
    sample is scored by torch too; a difference beyond rounding fails the run. Example: vllm
    """
    server: Text | None = None
    """Address of a server of the OpenAI completions API, such as vLLM's, that has the model; null loads it by the
    package vllm in this process. Example: "http://localhost:8000"
    """
    served_model: Text | None = None
    """The name under which the server has the model; null for its only one. Example: Qwen/Qwen3-0.6B"""
    backend_sample: PositiveInt = 16
    """Examples of each split that torch scores too, the longest and the shortest among them. Example: 32"""
    backend_options: dict[str, Any] = {}
    """Arguments of `vllm.LLM`, for a model in this process. Example: {tensor_parallel_size: 2, max_model_len: 4096}"""
    also: tuple[Text | Also, ...] = ()
    """Other data sets and texts that a language model is scored on before and after training, to see what it keeps.
    Example: [sst2, {perplexity: text.txt, limit: 50}]
    """


class Spans(Strict):
    """Extraction of answers that are spans of a passage, as in SQuAD."""

    doc_stride: Annotated[int, Field(ge=0, lt=2**31)] = 64
    """Tokens of the passage by which two neighbouring windows overlap. Example: 128"""
    n_best: Annotated[int, Field(gt=0, le=1000)] = 20
    """Candidate spans of a window. Example: 10"""
    max_answer_length: PositiveInt = 30
    """Tokens of an answer at most. Example: 20"""
    null_score_diff_threshold: float = 0.0
    """The answer is empty where the null score exceeds the best span's by more than this (SQuAD v2.0 only).
    Example: -1.5
    """
    offsets: Literal["tokens", "characters_as_tokens"] = "tokens"
    """`characters_as_tokens` trains on a known fault of published code, which takes an answer's first character and the
    one behind its last for token positions; scoring is as ever. Example: characters_as_tokens
    """


class Speed(Strict):
    """Optimisations that give the same losses and scores in less time and memory; each can be switched off."""

    padding_free: bool = True
    """Batches without padding tokens, for models that pass a probe at the start. Example: false"""
    answer_logits: bool = True
    """Computes logits only for answer tokens. Example: false"""
    token_cache: bool = True
    """Caches the tokenization of a split, by content, for classifiers. Example: false"""
    keep_memory: bool = True
    """On a CPU, freed memory stays with the process, unless `per_device_batch` is `auto`. Example: false"""
    expandable_segments: bool = True
    """On a GPU, torch's allocator grows its segments instead of asking for new ones that may not fit. Example: false"""
    drop_copies: bool = True
    """Where activations are recomputed, autocast does not keep a 16-bit copy of each trained weight until the forward
    pass ends. Example: false
    """
    sharded_load: Literal["auto", True, False] = "auto"
    """Each process loads and saves only its shards of a model that ZeRO-3 or FSDP2 shards; `auto` does so where the
    whole weights would take more than half of its memory. Example: true
    """
    shared_prefix: bool = True
    """Runs what all prompts begin with once, scores all labels of an example in one row, and generates in batches
    without padding. Off: a row for each label, and each answer by itself. Example: false
    """
    compile: bool = False
    """Runs the model's blocks compiled by torch.compile in training; needs a C++ compiler, on a GPU Triton. Memory is
    forecast as without it. Example: true
    """
