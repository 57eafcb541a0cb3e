"""Exact bytes of a recipe's weights, gradients and optimiser states, before anything is downloaded.

    model = outline(resolved)  # the adapted model of a run on torch's meta device: shapes and types, no numbers
    states(model, "adamw_torch_fused", "trainer").gradients  # bytes

The model is built by the same functions as in a run, from the architecture on its card, and quantised by bitsandbytes
itself, whose functions know the meta device; so nothing here repeats how a layer is made.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers.initialization import no_init_weights

from bench.config import registry
from bench.config.cards import ModelCard
from bench.config.contracts import LoadPlan
from bench.config.recipe import Recipe
from bench.config.resolve import Resolved
from bench.errors import BenchError, SetupError
from bench.evaluation import text_examples
from bench.memory import without_numbers
from bench.models import build, heads, own_heads
from bench.models.library_internals import bitsandbytes_internals, transformers_internals
from bench.utils.loading_errors import reason

META = torch.device("meta")
# bitsandbytes keeps the state of smaller tensors in 32 bits, and pages only larger ones (optim/optimizer.py).
LEAST_8BIT, LEAST_PAGED = 4096, 100_000
# Weights or optimiser values that share one constant.
BLOCK_8BIT = 256


@dataclass(frozen=True, kw_only=True)
class States:
    """Bytes that are held between steps. frozen, trained: weights (with buffers, and constants of 4-bit weights).

    optimizer: on the device. paged: of the optimiser's, in memory that moves to the host when the device is full.
    num_trainable: trainable parameters. largest: those of the largest trained tensor. update: what Adafactor makes of
    one tensor while it updates it. check: what the first step takes to see whether a gradient is finite.
    """

    frozen: int
    trained: int
    gradients: int
    optimizer: int
    paged: int
    num_trainable: int
    largest: int
    update: int
    check: int
    weights_by_type: dict[str, int]

    @property
    def weights(self) -> int:
        """Return the bytes of all weights, trained or not."""
        return self.frozen + self.trained


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """Token ids that a config asks of a tokenizer, from the architecture on the card; no tokenizer is loaded."""

    pad_token_id: int
    bos_token_id: int | None
    eos_token_id: int | None

    def __len__(self) -> int:
        return 0


def load_plan(resolved: Resolved, *, trained: bool = True) -> tuple[Any, LoadPlan]:
    """Return (the recipe's method, its load plan). trained: whether a method that trains nothing is refused.

    Raises SetupError for one that is.
    """
    name = resolved.recipe.method.name
    method = registry.load("methods", name)
    plan = method.load_plan(resolved.options)
    if trained and plan.trains != "gradient":
        raise SetupError(f"method {name!r} trains nothing by gradients; a plan is of a training's memory")
    return method, plan


def outline(resolved: Resolved, num_labels: int = 2, *, trained: bool = True) -> Any:
    """Build the recipe's model on the meta device, with its head, in 4 bits where asked, adapted by its method.

    num_labels: of a task whose card does not name them. trained: whether a method that trains nothing is refused.
    Raises SetupError for an architecture that is neither on the card nor in the local cache, and for what the method
    refuses, or computes from the weights themselves.
    """

    def _make() -> Any:
        return _unadapted(resolved, num_labels, trained)

    def _adapt(model: Any) -> Any:
        return _adapted(load_plan(resolved, trained=trained)[0], model, resolved)

    return adapted(_make, _adapt)


def adapted(make: Callable[[], Any], adapt: Callable[[Any], Any]) -> Any:
    """Return a model of the meta device as it is adapted, in training mode. Raises SetupError with what `adapt` says.

    make: returns the model. adapt: changes and returns it, or raises a SetupError.
    """
    try:
        # Numbers that are not there need not be drawn, which would take as long as all else.
        model = make()
        with META, no_init_weights():
            return adapt(model).train()
    except SetupError as error:
        if not without_numbers.is_meant(error):
            raise
    # Some methods compute while they are built, most of them with numbers of their own alone.
    model = make()
    with without_numbers.on_host(model):
        built = adapt(model)
    return without_numbers.to_meta(built).train()


def _unadapted(resolved: Resolved, num_labels: int, trained: bool) -> Any:
    recipe = resolved.recipe
    plan = load_plan(resolved, trained=trained)[1]
    task = registry.load("tasks", recipe.dataset.task)
    text = recipe.objective == "text"
    names = task.head_outputs(recipe.dataset.kept_labels or tuple(map(str, range(num_labels))))
    auto_class = text_examples.auto_class(recipe) if text else task.AUTO_CLASS
    model = base(recipe.model, plan, auto_class, () if text else names)
    if not text and recipe.head.kind == "mlp":
        with META:
            heads.attach_mlp(model, recipe.head.hidden, recipe.head.dropout, norm=recipe.head.norm)
    return model


def base(card: ModelCard, plan: LoadPlan, auto_class: str, labels: tuple[str, ...] = ()) -> Any:
    """Return a card's model on the meta device, in 4 bits where the plan asks for them, not adapted yet.

    auto_class: of transformers. labels: of a classifier. Raises SetupError for an architecture that is not known.
    """
    with META:
        model = _bare(card, plan, auto_class, labels)
    if plan.quantization is not None:
        with no_init_weights():
            model = _quantized(model, card, plan)
    return model


def _adapted(method: Any, model: Any, resolved: Resolved) -> Any:
    """Return the model as its method adapts it. Raises SetupError for what that raises: it may be anybody's code."""
    try:
        return method.adapt(model, resolved.options)
    except (BenchError, MemoryError):
        raise
    except Exception as error:
        name = resolved.recipe.method.name
        raise SetupError(f"method {name!r} can't adapt the model: {type(error).__name__}: {reason(error)}") from error


def _bare(card: ModelCard, plan: LoadPlan, auto_class: str, labels: tuple[str, ...]) -> Any:
    """Build the model as it is loaded. Flash attention may not be installed, and holds what torch's own does."""
    card = card.model_copy(update={"attention": "eager" if card.attention == "eager" else "sdpa"})
    config = _config(card, auto_class, labels)
    family = getattr(transformers, auto_class)
    own_heads.register(auto_class, config)
    model = build.from_config(family, config, card, plan)
    model.config.use_cache = False
    return model


def _config(card: ModelCard, auto_class: str, labels: tuple[str, ...]) -> Any:
    ids = {name: card.architecture.get(name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    tokens = _Tokens(
        pad_token_id=ids["pad_token_id"] or 0, bos_token_id=ids["bos_token_id"], eos_token_id=ids["eos_token_id"]
    )
    weights = "random" if "model_type" in card.architecture else "pretrained"
    try:
        return build.make_config(card, labels, False, tokens, weights, auto_class=auto_class)
    except SetupError as error:
        if weights == "random":
            raise
        problem = str(error).rstrip(".")
        raise SetupError(f"{problem}; to plan without it, write the model's `architecture` into its card") from error


def _quantized(model: Any, card: ModelCard, plan: LoadPlan) -> Any:
    """Replace linear layers by 4-bit ones, as transformers and bitsandbytes make them while loading."""
    from bitsandbytes import functional
    from bitsandbytes.nn import Linear4bit, Params4bit
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    settings: Any = transformers.BitsAndBytesConfig(**(plan.quantization or {}))
    # Some families name layers that are never quantised, and never held in float16, as T5 does.
    precise = transformers_internals.float32_layers(model)
    kept = [*heads.head_names(model), *heads.output_head_names(model), *precise]
    model = replace_with_bnb_linear(model, modules_to_not_convert=kept, quantization_config=settings)
    loaded_type = getattr(torch, card.dtype)
    # The library keeps the table of the first device that it is asked for, and copies it to others.
    functional.name2qmap.setdefault("dynamic", functional.create_dynamic_map())
    for module in model.modules():
        if isinstance(module, Linear4bit):
            shape = (module.out_features, module.in_features)
            weight: Any = Params4bit(
                torch.empty(shape, dtype=loaded_type, device=META),
                compress_statistics=settings.bnb_4bit_use_double_quant,
                quant_type=settings.bnb_4bit_quant_type,
                quant_storage=settings.bnb_4bit_quant_storage,
                module=module,
            )
            module.weight = bitsandbytes_internals.quantize_on_meta(weight)
            if module.bias is not None:
                module.bias.data = module.bias.data.to(loaded_type)
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in precise and loaded_type == torch.float16:
            module.float()
    # What PEFT asks to choose its own 4-bit layers.
    model.is_loaded_in_4bit = model.is_quantized = True
    return model


def states(model: nn.Module, optimizer: str, engine: str) -> States:
    """Return the bytes of a model, on whatever device, of its gradients, and of its optimiser's state after a step.

    optimizer, engine: as the recipe names them.
    """
    frozen = sum(_bytes(buffer) for buffer in model.buffers())
    trained: list[Any] = []
    by_type: dict[str, int] = {}
    for parameter in model.parameters():
        name, size = _type_of(parameter), sum(map(_bytes, held_by(parameter)))
        by_type[name] = by_type.get(name, 0) + size
        if parameter.requires_grad:
            trained.append(parameter)
        else:
            frozen += size
    # The Trainer, unlike the plain loop, keeps embeddings out of 8 bits.
    whole = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)} if engine == "trainer" else set()
    held = [optimizer_bytes(parameter, optimizer, id(parameter) in whole) for parameter in trained]
    total = sum(map(_bytes, trained))
    return States(
        frozen=frozen,
        trained=total,
        gradients=total,
        optimizer=sum(size for size, _ in held),
        paged=sum(size for _, size in held),
        num_trainable=sum(parameter.numel() for parameter in trained),
        largest=max((parameter.numel() for parameter in trained), default=0),
        update=max((_adafactor_update(parameter) for parameter in trained), default=0),
        # Its absolute values, and three results of a byte (`isfinite`); 28 MiB of 16 on a stub GPU.
        check=max((_bytes(parameter) + 3 * parameter.numel() for parameter in trained), default=0),
        weights_by_type=dict(sorted(by_type.items())),
    )


def held_by(parameter: Any) -> Iterator[torch.Tensor]:
    """Yield a parameter's tensors: itself and, in 4 bits, the constants of its blocks."""
    yield parameter
    state = getattr(parameter, "quant_state", None)
    while state is not None:
        yield from (item for item in (state.absmax, state.code, state.offset) if torch.is_tensor(item))
        state = state.state2


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _type_of(parameter: Any) -> str:
    state = getattr(parameter, "quant_state", None)
    return str(state.quant_type) if state is not None else str(parameter.dtype).removeprefix("torch.")


def optimizer_bytes(parameter: torch.Tensor, optimizer: str, never_8bit: bool = False) -> tuple[int, int]:
    """Return (bytes on the device, bytes in paged memory) of one tensor's state.

    AdamW: two moments in the tensor's type and, in torch's own, the number of steps. In 8 bits: a byte for each value
    and a float32 constant for 256 (Dettmers et al. 2022). Adafactor: a row and a column of the second moment (Shazeer
    and Stern 2018), and the tensor's own scale, which is a number of float32.
    """
    numbers, shape = parameter.numel(), parameter.shape
    if optimizer.startswith("adamw_torch"):
        return 2 * _bytes(parameter) + 4, 0
    if optimizer == "adafactor":
        factored = len(shape) >= 2
        second = numbers // shape[-1] + numbers // shape[-2] if factored else numbers
        return 4 * second + 4, 0
    if optimizer == "sgd":  # without momentum, as the Trainer sets it up
        return 0, 0
    in_8bit = "8bit" in optimizer and numbers >= LEAST_8BIT and not never_8bit
    moments = 2 * numbers * (1 if in_8bit else 4)
    constants = 2 * 4 * math.ceil(numbers / BLOCK_8BIT) if in_8bit else 0
    is_paged = optimizer.startswith("paged") and numbers >= LEAST_PAGED
    return (constants, moments) if is_paged else (constants + moments, 0)


def _adafactor_update(parameter: torch.Tensor) -> int:
    """Return the bytes of what Adafactor holds at once of one tensor, beside its gradient and state.

    The squared gradient, its factored estimate and the update, in float32; of a tensor in 16 bits, gradient and values
    in float32 too (transformers/optimization.py, `Adafactor.step`). 48 MiB of a float32 tensor of 16, and 80 MiB of as
    many numbers in bfloat16, on a stub GPU.
    """
    return 4 * parameter.numel() * (3 if parameter.dtype == torch.float32 else 5)


def step_bytes(held: States, recipe: Recipe) -> int:
    """Return the bytes that the optimiser's own step needs for a moment, when activations are gone.

    torch's AdamW, unless fused, takes the root of all second moments at once, and SGD all decayed gradients (16 MiB of
    16 on a stub GPU); Adafactor goes tensor by tensor; the others work in place.
    """
    name = recipe.training.optimizer
    if name == "adamw_torch" or (name == "sgd" and recipe.training.weight_decay):
        return held.gradients
    return held.update if name == "adafactor" else 0
