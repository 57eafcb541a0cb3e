"""The contracts of drop-ins: what the module of a task, of a method and of a metric must hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from bench.config.fields import Strict
from bench.records.record import RunWarning

if TYPE_CHECKING:  # the contracts name types of packages above; importing those would load torch
    import numpy as np
    import torch
    from accelerate import PartialState
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from bench.config.cards import Prompt
    from bench.config.extraction import Extract
    from bench.config.recipe import Recipe
    from bench.data.dataset import Corpus
    from bench.data.examples import Encoded
    from bench.data.prompts.encode import Wording
    from bench.evaluation.reader import Reader, Scoring

# Keyword arguments of `transformers.BitsAndBytesConfig`: NF4 with double quantisation (Dettmers et al. 2023).
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """Facts about a method that are needed before a model is loaded; plain data, no library's objects.

    weights: None leaves the choice to the recipe and the model card.
    quantization: keyword arguments of `transformers.BitsAndBytesConfig`, or None.
    frozen_body: the body gets no gradients and may be held in the card's 16-bit type.
    adapter: what is saved needs its base model beside it. adapter_dtype: in which its adapters are trained.
    shots: solved examples before each question; draw: "fixed" (the same for all) or "per_example".
    trains: "gradient" (a training loop), "features" (a classifier fitted on frozen features), "texts" (one fitted on
    the texts themselves, without a model), "nothing".
    """

    weights: str | None = None
    quantization: dict[str, Any] | None = None
    trains: str = "gradient"
    frozen_body: bool = False
    adapter: bool = False
    adapter_dtype: str = "float32"
    features: dict[str, Any] = field(default_factory=dict)
    shots: int = 0
    draw: str = "fixed"


class Method(Protocol):
    """A file of `bench/methods`: which weights are trained, and how the model is loaded for it.

    One whose recipes name no model says so by the literal `USES_MODEL = False`.
    """

    @property
    def OBJECTIVES(self) -> tuple[str, ...]:
        """Return which objectives it trains: "head", "text", or both."""

    @property
    def Options(self) -> type[Strict]:
        """Return the type of its settings under the recipe's `method`."""

    def load_plan(self, options: Any) -> LoadPlan:
        """Return what must be known before a model is loaded."""

    def adapt(self, model: nn.Module, options: Any) -> nn.Module:
        """Freeze and adapt a loaded model; return the one to train."""


@dataclass(frozen=True, kw_only=True)
class EncodedData:
    """A corpus as a task encodes it: splits to score, the split to train on, and what reads the model's answers.

    unit: what is cut where an example is too long, for the record. token_cache: whether a split's tokens were found in
    the cache, by its name; False where they are not kept. warnings: of what misleads a reader of the scores.
    """

    splits: dict[str, Encoded]
    train: Encoded | None
    reader: Callable[[nn.Module, Encoded, Scoring], Reader]
    notes: tuple[str, ...] = ()
    unit: str = "texts"
    token_cache: dict[str, bool] | bool = False
    warnings: tuple[RunWarning, ...] = ()


class Task(Protocol):
    """A file of `bench/tasks`: how examples become inputs of a task head or of a language model, and answers scores."""

    @property
    def OBJECTIVES(self) -> tuple[str, ...]:
        """Return which objectives it has: "head", "text", or both."""

    @property
    def READS(self) -> str:
        """Return what its metrics read: "labels", "answers" in words, "numbers", "tags" of words, or "choices".

        Choices are those of a row's own.
        """

    @property
    def METRICS(self) -> Mapping[str, tuple[str, ...]]:
        """Return its default metrics by "single_label" and, where it has several labels a text, "multi_label"."""

    @property
    def AUTO_CLASS(self) -> str:
        """Return the name of transformers' Auto class that builds its model with a task head."""

    def head_outputs(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Return what the outputs of the task head stand for, given the names of the labels."""

    def encode(
        self, corpus: Corpus, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, state: PartialState | None = None
    ) -> EncodedData:
        """Encode all splits for a task head. state: the processes of a run, whose tokens may be kept between runs."""

    def loss(self, outputs: Any, batch: dict[str, torch.Tensor], *, label_smoothing: float) -> torch.Tensor:
        """Return the loss of a task head, summed over the label items of a batch."""

    def wording(self, prompt: Prompt, labels: Sequence[str], multi_label: bool) -> Wording:
        """Return how a row, and its answer, are put into words for a language model."""

    def parse(self, text: str, words: Sequence[str], none: str, multi_label: bool) -> Any:
        """Read a written answer."""


@runtime_checkable
class Metric(Protocol):
    """A metric: values of a whole split, each with a signature. `bench/metrics/_base.py` has classes to derive from.

    reads: what it scores: "predictions" (label ids), "scores" (probabilities), "answers" (texts), "numbers", "tags",
    "choices" (for each of an example's choices the log-likelihood, and its characters, bytes and tokens), or
    "likelihoods" (of references: log-likelihood in nats, and tokens).
    configs: "default" (one label an example), "multilabel" (rows of 0 and 1), or both; of tags also names of schemes.
    higher_is_better: value name -> direction, of the single numbers that may be compared.
    counts: value names that are plain numbers and get no interval.
    unit_means: value names that are means over examples of numbers from 0 to 1.

    The registry reads the first three from the file without importing it: they are literals.
    """

    reads: ClassVar[str]
    configs: ClassVar[tuple[str, ...]]
    higher_is_better: ClassVar[dict[str, bool]]
    counts: ClassVar[tuple[str, ...]]
    unit_means: ClassVar[tuple[str, ...]]

    def signatures(self) -> dict[str, str]:
        """Return value name -> name and every setting that moves the number."""
        ...

    def compute_values(self, predictions: Any, references: Any, num_labels: int) -> dict[str, np.ndarray]:
        """Return the values of all examples. Its interval comes from recomputing it for every bootstrap draw."""
        ...


@runtime_checkable
class CheckedMetric(Metric, Protocol):
    """A metric that brings its inputs into the form that it reads, in which no prediction is missing."""

    def checked(self, predictions: Any, references: Any, num_labels: int) -> tuple[Any, Any]:
        """Return both in that form; what is filled in may depend on all of them."""
        ...


@runtime_checkable
class WeightedMetric(CheckedMetric, Protocol):
    """A metric of weighted examples, which each bootstrap draw ranks or bins anew."""

    def rows(self, predictions: Any, references: Any, num_labels: int) -> np.ndarray:
        """Return [examples, columns] of checked inputs: what is ranked or binned."""
        ...

    def weighted_values(self, rows: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return the values [draws, ...] by weights [draws, examples], those of `counts` left out."""
        ...

    def interval(self, name: str, rows: np.ndarray, drawn: np.ndarray) -> tuple[Any, Any, str]:
        """Return low and high end of a value's interval from its draws [draws, ...], and the name of its kind."""
        ...


@runtime_checkable
class ExplainingMetric(Metric, Protocol):
    """A metric that says why a value of it is not defined."""

    def why_undefined(self, references: np.ndarray, labels: Sequence[str]) -> str | None:
        """Return a sentence on the values that these references leave undefined; None where all are defined."""
        ...


@runtime_checkable
class ExtractingMetric(Metric, Protocol):
    """A metric of a part of each answer, which `evaluation.extract` of the recipe says how to find."""

    def use(self, extract: Extract) -> None:
        """Take what finds the part."""
        ...


@runtime_checkable
class AdditiveMetric(Metric, Protocol):
    """A metric whose values follow from sums over examples, so that bootstrap draws cost a matrix product."""

    def statistics(self, predictions: Any, references: Any, num_labels: int) -> Any:
        """Return [examples, columns]: what is added up; an array, or a scipy.sparse.csr_array."""
        ...

    def sums(self, predictions: Any, references: Any, num_labels: int) -> np.ndarray:
        """Return [columns], the statistics of all examples added up."""
        ...

    def values(self, sums: np.ndarray, num_labels: int) -> dict[str, np.ndarray]:
        """Return the values [...] from sums [..., columns] of the statistics."""
        ...

    def proportions(self, sums: np.ndarray, num_labels: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return (successes, trials) of values that are shares of independent trials: they get Wilson's interval."""
        ...

    def per_example(self, predictions: Any, references: Any, num_labels: int) -> dict[str, np.ndarray]:
        """Return [examples] of values that are means over examples, by which systems are compared in pairs."""
        ...

    def tuned_values(self, predictions: Any, references: Any, probabilities: np.ndarray) -> dict[str, float]:
        """Return values tuned over thresholds of a probability [examples], which are no function of sums."""
        ...
