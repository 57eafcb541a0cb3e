"""Builds the model of a job on the meta device, by transformers, PEFT and bitsandbytes, or as litgpt has it."""

from typing import Any

import torch
import transformers
from torch import nn
from transformers.initialization import no_init_weights

from bench.config.cards import ModelCard
from bench.config.contracts import LoadPlan
from bench.errors import BenchError, SetupError, did_you_mean
from bench.memory import litgpt_model, state_sizes
from bench.memory.job import Job, architecture_of
from bench.models import build, input_limits
from bench.models.library_internals import bitsandbytes_internals
from bench.training.memory_saving import checkpoint_activations
from bench.utils.loading_errors import reason

# Methods of PEFT whose very sizes come of the model's weights.
_FROM_WEIGHTS = {"ADAMSS": "it makes clusters of their singular vectors"}


def build_model(job: Job) -> nn.Module:
    """Return the job's model in training mode. Raises SetupError with the reason why it can't be built."""
    architecture, place = architecture_of(job)
    card = ModelCard(
        id=place,
        family="decoder",
        weights="random" if architecture else "pretrained",
        architecture=architecture,
        dtype=job.dtype,
        attention="eager" if job.attention == "eager" else "sdpa",
    )
    try:
        model = _litgpt(job, card) if job.code == "litgpt" else _transformers(job, card)
    except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise SetupError(f"the job's model can't be built: {reason(error)}") from error
    positions = None if job.code == "litgpt" else input_limits.of_input(model).positions
    if positions is not None and max(job.lengths) > positions:
        raise SetupError(f"lengths: {max(job.lengths)} tokens, but the model has {positions} positions at most")
    return model


def _transformers(job: Job, card: ModelCard) -> nn.Module:
    quantization = None
    if job.quantization is not None:
        quantization = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": job.quantization == "nf4-dq",
            "bnb_4bit_compute_dtype": job.dtype,
        }
    plan = LoadPlan(frozen_body=True, quantization=quantization)

    def _make() -> Any:
        return state_sizes.base(card, plan, "AutoModelForCausalLM")

    model = _make().train() if job.adapter is None else state_sizes.adapted(_make, lambda made: _wrapped(made, job))
    if job.checkpointing:
        checkpoint_activations(model)
    return model


def _wrapped(model: Any, job: Job) -> Any:
    """Return a PeftModel. Raises SetupError for a method that PEFT does not know, or can't apply."""
    import peft

    assert isinstance(job.adapter, dict)
    options = dict(job.adapter)
    kind, known = options.pop("peft_type"), peft.PEFT_TYPE_TO_CONFIG_MAPPING
    if kind not in known:
        raise SetupError(
            f"adapter.peft_type: {kind!r} is not known to the installed PEFT {peft.__version__}."
            f"{did_you_mean(kind.upper(), [name.value for name in known])}"
        )
    if kind in _FROM_WEIGHTS:
        raise SetupError(
            f"adapter.peft_type: {kind} can't be planned without the model's weights: {_FROM_WEIGHTS[kind]}"
        )
    fields = known[kind].__dataclass_fields__
    # What PEFT writes of itself into an adapter_config.json; a prompt is drawn where no tokenizer is there to give one.
    written = ("auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode", "task_type")
    options = {name: value for name, value in options.items() if name not in written}
    for name in options:
        if name not in fields:
            raise SetupError(
                f"adapter.{name}: {known[kind].__name__} has no such field.{did_you_mean(name, list(fields))}"
            )
    for name in options.get("modules_to_save") or ():
        if not any(place == name or place.endswith(f".{name}") for place, _ in model.named_modules()):
            raise SetupError(f"adapter.modules_to_save: the model has no module {name!r}, and PEFT would say nothing")
    try:
        wrapped = peft.get_peft_model(
            model, known[kind](task_type="CAUSAL_LM", **options), autocast_adapter_dtype=job.adapter_dtype != job.dtype
        )
    except (BenchError, MemoryError):
        raise
    except Exception as error:
        raise SetupError(f"{known[kind].__name__} can't be applied to this model: {reason(error)}") from error
    if job.adapter_dtype not in (None, "float32", job.dtype):
        raise SetupError(f"adapter_dtype: PEFT holds adapters in float32, or in the model's type, {job.dtype}")
    if job.adapter_dtype == job.dtype:  # as PEFT casts them by itself, but on the meta device
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(getattr(torch, job.dtype))
    return wrapped


def _litgpt(job: Job, card: ModelCard) -> nn.Module:
    lora = None
    if job.lora is not None:
        lora = litgpt_model.Lora(rank=job.lora.r, dropout=job.lora.dropout, on=job.lora.on)
    tokens: Any = type(
        "NoTokens", (), {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "__len__": lambda _: 0}
    )
    config = build.make_config(card, (), False, tokens(), card.weights, auto_class="AutoModelForCausalLM")
    kind = getattr(torch, job.dtype)
    with state_sizes.META, no_init_weights():
        model = litgpt_model.GPT(litgpt_model.shape_of(config), lora).to(kind).train()
    model.checkpoints = job.checkpointing
    if job.quantization is not None:
        _in_4_bits(model, kind, doubly=job.quantization == "nf4-dq", old=job.old_bitsandbytes)
        if job.stable_embedding:
            model.replace_embedding()
    return model


def _in_4_bits(model: nn.Module, kind: torch.dtype, *, doubly: bool, old: bool) -> None:
    """Quantise all linear layers, the output head too, as Fabric's BitsandbytesPrecision does."""
    from bitsandbytes import functional
    from bitsandbytes.nn import Linear4bit, Params4bit

    functional.name2qmap.setdefault("dynamic", functional.create_dynamic_map())
    owners = [module for module in model.modules() if isinstance(getattr(module, "linear", None), nn.Linear)]
    for owner in owners:
        layer: Any = owner.linear
        options: Any = {"compress_statistics": doubly, "quant_type": "nf4"}
        with state_sizes.META:
            packed: Any = Linear4bit(
                layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=kind, **options
            )
        weight = Params4bit(torch.empty_like(layer.weight, dtype=kind), requires_grad=False, module=packed, **options)
        packed.weight = bitsandbytes_internals.quantize_on_meta(weight)
        if packed.bias is not None:
            packed.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
        owner.linear = packed
        owner.old_product = old


def versions() -> str:
    """Return the versions of the libraries that a job is built by."""
    import peft

    return (
        f"torch {torch.__version__.partition('+')[0]}, transformers {transformers.__version__}, peft {peft.__version__}"
    )
