"""What drop-ins promise: the contracts of tasks, methods and metrics, and the load plan that a method returns."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

# Keyword arguments of `transformers.BitsAndBytesConfig`: NF4 with double quantisation (Dettmers et al. 2023).
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """What a method needs to know before a model is loaded; plain data, no library's objects.

    weights: None leaves the choice to the recipe and the model card.
    quantization: keyword arguments of `transformers.BitsAndBytesConfig`, or None.
    frozen_body: the body gets no gradients and may be held in the card's 16-bit type.
    adapter: what is saved needs its base model beside it. adapter_dtype: in which its adapters are trained.
    shots: solved examples before each question; draw: "fixed" (the same for all) or "per_example".
    trains: "gradient" (a training loop), "features" (a classifier fitted on frozen features), "nothing".
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


@runtime_checkable
class Metric(Protocol):
    """A metric: values of a whole split, each with a signature. `bench/metrics/_base.py` has classes to derive from.

    reads: what it scores: "predictions" (label ids), "scores" (probabilities) or "answers" (texts).
    configs: "default" (one label an example), "multilabel" (rows of 0 and 1), or both.
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

    def compute_values(self, predictions: Any, references: Any, num_labels: int) -> "dict[str, np.ndarray]":
        """Return the values of all examples. Its interval comes from recomputing it for every bootstrap draw."""
        ...


@runtime_checkable
class AdditiveMetric(Metric, Protocol):
    """A metric whose values follow from sums over examples, so that bootstrap draws cost a matrix product."""

    def statistics(self, predictions: Any, references: Any, num_labels: int) -> "np.ndarray":
        """Return [examples, columns]: what is added up."""
        ...

    def values(self, sums: "np.ndarray", num_labels: int) -> "dict[str, np.ndarray]":
        """Return the values [...] from sums [..., columns] of the statistics."""
        ...

    def proportions(self, sums: "np.ndarray", num_labels: int) -> "dict[str, tuple[np.ndarray, np.ndarray]]":
        """Return (successes, trials) of values that are shares of independent trials: they get Wilson's interval."""
        ...

    def per_example(self, predictions: Any, references: Any, num_labels: int) -> "dict[str, np.ndarray]":
        """Return [examples] of values that are means over examples, by which systems are compared in pairs."""
        ...

    def tuned_values(self, predictions: Any, references: Any, probabilities: "np.ndarray") -> dict[str, float]:
        """Return values tuned over thresholds of a probability [examples], which are no function of sums."""
        ...
