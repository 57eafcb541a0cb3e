"""Memory of a run that trains nothing (`zero_shot`, `few_shot`, `probe`): weights, and a batch that is scored.

The body is run forward on the meta device with a batch of full length, as a scorer runs it; what scorers keep beside it
are keys and values of a prefix or of texts that are being written, and logits where something is read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.config.resolve import Resolved
from bench.errors import BenchError, SetupError
from bench.evaluation import generation, likelihood
from bench.memory import activations, search, state_sizes
from bench.memory.activations import Batch
from bench.memory.planner import FRAGMENTED_SHARE, Lengths, Parallelism
from bench.memory.verdict import gib
from bench.models import batch_budget
from bench.models.heads import unwrapped
from bench.utils import hardware
from bench.utils.hardware import CONTEXT

FLOAT32 = 4
# Logits, and their log-probabilities beside them.
LOGITS_COPIES = 2
SMALLER, IN_4_BITS = "no other scores; slower", "weights in 4 bits: slightly other scores, and slower"


@dataclass(frozen=True, kw_only=True)
class InferencePlan:
    """Bytes by part on each GPU while it scores. tokens: of a batch, pads included."""

    resolved: Resolved
    model: Any
    lengths: Lengths
    precision: str
    usable: int | None
    capability: tuple[int, int] | None
    tokens: int
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Return the bytes on each GPU."""
        return sum(self.parts.values())

    def lines(self) -> list[str]:
        """Return the plan in lines for people, after the verdict."""
        method, lengths = self.resolved.recipe.method.name, self.lengths
        shown = [
            f"{self.resolved.path}: {method}, which trains nothing by gradients: each GPU holds the whole model, "
            f"and batches that are scored, {self.precision}",
            f"texts of up to {lengths.longest} tokens ({lengths.source}), in batches of {self.tokens} tokens",
        ]
        shown += [f"  {name:<20} {gib(size):>12}" for name, size in self.parts.items()]
        shown.append(f"  {'each GPU':<20} {gib(self.total):>12}  peak, while it scores")
        return shown

    def to_make_it_fit(self, available: int, again: Callable[[tuple[str, ...]], Resolved]) -> list[str]:
        """Return the cheapest change that makes it fit, or that there is none: smaller batches, then 4-bit weights."""
        for chosen, costs in (((), SMALLER), (("method.quantized=true",), IN_4_BITS)):
            try:
                resolved, more = search.load_repaired(chosen, again, self.precision, self.capability)
                found = plan(resolved, tokens=self.tokens, **self._asked)
            except BenchError:  # a method without that option
                continue
            fitting = found.with_fitting_batches(available)
            if fitting.total <= available:
                smaller = () if fitting.tokens == self.tokens else (f"evaluation.batch_tokens={fitting.tokens}",)
                what, also = " ".join((*chosen, *more, *smaller)), f"; {search.NO_UNITS}" if more else ""
                return [f"to make it fit at {self.lengths.longest} tokens: {what} ({costs}{also})"]
        return [f"no known change makes it fit at {self.lengths.longest} tokens; take a smaller model"]

    def with_fitting_batches(self, available: int) -> "InferencePlan":
        """Return the plan with batches halved until it fits, or until one holds but one text of full length."""
        found = self
        while found.total > available and found.tokens > self.lengths.longest:
            found = plan(self.resolved, tokens=max(found.tokens // 2, self.lengths.longest), **self._asked)
        return found

    @property
    def _asked(self) -> dict[str, Any]:
        return {
            "precision": self.precision, "lengths": self.lengths, "usable": self.usable, "capability": self.capability,
        }  # fmt: skip


def plan(
    resolved: Resolved,
    *,
    precision: str,
    lengths: Lengths,
    usable: int | None,
    parallelism: Parallelism | None = None,
    tokens: int | None = None,
    capability: tuple[int, int] | None = None,
) -> InferencePlan:
    """Return what scoring takes. usable: bytes of the GPU, which a batch's default size depends on; None: unknown.

    tokens: of a batch, in place of the recipe's. capability: of the GPU, where it is known. Raises SetupError for a
    model that can't be built or run so.
    """
    recipe = resolved.recipe
    if parallelism is not None and (parallelism.zero or parallelism.fsdp):
        name, kind, option = recipe.method.name, *(("FSDP2", "--fsdp") if parallelism.fsdp else ("ZeRO", "--zero"))
        raise SetupError(
            f"method {name!r} trains nothing by gradients, so that {kind} has nothing to shard; omit {option}"
        )
    model = state_sizes.outline(resolved, trained=False).eval()
    weights = state_sizes.states(model, "sgd", "loop").weights
    written = recipe.prompting.answer == "generate" and recipe.objective == "text"
    given = tokens or recipe.evaluation.batch_tokens
    default = generation.DEFAULT_BUDGET if written else batch_budget.budget_for(model, usable, weights)
    most = max(given or default, lengths.longest)
    together = most if not written else min(most, max(generation.PREFILL_TOKENS, lengths.longest))
    batch = Batch(rows=max(1, together // lengths.longest), length=lengths.longest, precision=precision)
    parts = {"weights": weights, "working memory": activations.forward_peak(model, batch)}
    parts["keys and values"] = _kept_tokens(resolved, lengths, most) * _bytes_per_token(model, precision)
    if recipe.objective == "text":
        vocabulary = getattr(unwrapped(model).config.get_text_config(), "vocab_size", 0)
        parts["logits"] = min(likelihood.LOGITS, most * vocabulary) * FLOAT32 * LOGITS_COPIES
    parts["fragmentation"] = round(FRAGMENTED_SHARE * (sum(parts.values()) - weights))
    # A run that trains nothing computes in one thread.
    parts["cuBLAS"] = hardware.cublas_workspace(capability)
    parts["CUDA"] = CONTEXT
    found = InferencePlan(
        resolved=resolved,
        model=model,
        lengths=lengths,
        precision=precision,
        usable=usable,
        capability=capability,
        tokens=most,
        parts={name: size for name, size in parts.items() if size},
    )
    # Scorers of texts halve a batch of the default size that does not fit, and go on.
    return found if given or usable is None or recipe.objective != "text" else found.with_fitting_batches(usable)


def _kept_tokens(resolved: Resolved, lengths: Lengths, most: int) -> int:
    """Return the tokens whose keys and values are kept: those of all texts being written, or of a shared prefix."""
    recipe = resolved.recipe
    if recipe.objective != "text" or recipe.prompting.answer == "entailment":
        return 0
    if recipe.prompting.answer == "generate":
        return max(most, lengths.longest + recipe.prompting.max_new_tokens)
    # The shots that all prompts begin with are nearly all of a prompt.
    return lengths.longest if recipe.method.name == "few_shot" else 0


def _bytes_per_token(model: Any, precision: str) -> int:
    """Return the bytes of one token's keys and values in all layers."""
    config = unwrapped(model).config.get_text_config()
    layers = config.num_hidden_layers
    queries = getattr(config, "num_attention_heads", 1)
    heads = getattr(config, "num_key_value_heads", None) or queries
    width = getattr(config, "head_dim", None) or config.hidden_size // max(1, queries)
    return int(2 * layers * heads * width) * (FLOAT32 if precision == "no" else 2)
