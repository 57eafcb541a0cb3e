"""Adapters of the PEFT library: strict checking of a method's options, and wrapping a model."""

import copy
import re
import warnings
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from bench.config.fields import InvalidKey, Name, Strict
from bench.errors import SetupError
from bench.models import adapter_names, peft_options
from bench.utils.loading_errors import reason

# PEFT's words for an option that it does not follow.
_IGNORED = re.compile(r"ignored|were set but no|no modules were excluded|no tied modules|only supported for")


class AdapterOptions(Strict):
    """Options of any adapter of the PEFT library."""

    peft: Name = "LoraConfig"
    """Name of a PEFT configuration class. Example: IA3Config"""
    config: dict[str, Any] = Field(default_factory=dict)
    """Fields of that class, by PEFT's names.
    Example: {r: 16, lora_alpha: 32, target_modules: all-linear, use_dora: true}
    """
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that adapters are held and trained in; heads stay in float32. bfloat16 halves their weights, gradients and
    AdamW's state; it keeps 8 bits of a number, so that a change below a 256th of a weight is lost. Example: bfloat16
    """

    @model_validator(mode="after")
    def _known(self) -> "AdapterOptions":
        found = peft_options.problems(self.peft, self.config)
        if len(found) == 1:
            raise InvalidKey(found[0].key, found[0].sentence)
        if found:
            raise ValueError("; ".join(f"{problem.key}: {problem.sentence}" for problem in found))
        if self.dtype != "float32" and self.peft != "LoraConfig":
            raise InvalidKey("dtype", f"{self.dtype} is for LoraConfig; {self.peft} is trained in float32")
        return self


def wrap(model: Any, name: str, config: dict[str, Any], dtype: str = "float32") -> Any:
    """Return a PeftModel of a classifier or a language model. Raises SetupError with what PEFT says when it refuses.

    dtype: of the adapters, "float32" or "bfloat16".
    Task head modules, and modules that the checkpoint did not contain, are trained in full and saved with the adapter:
    PEFT by itself knows only heads called `classifier` or `score`, and would lose the others. A language model's
    output head is left as it is.
    """
    import peft

    from bench.models import adapter_readback  # it loads torch
    from bench.models.heads import head_names, is_generative, keep_in_float32, newly_initialized_modules, routers

    fresh = sorted({*head_names(model), *newly_initialized_modules(model)})
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    adapter_names.check_names(model, options, trained=fresh)
    asked = dict(options)
    fields = peft_options.fields_of(name)
    options["modules_to_save"] = sorted({*fresh, *(options.get("modules_to_save") or [])}) or None
    if "target_modules" in fields and name == "LoraConfig":
        options.setdefault("target_modules", "all-linear")
    spared = [*fresh, *routers(model)]
    if spared and "exclude_modules" in fields and options.get("target_modules") == "all-linear":
        # "all-linear" means the body's: a head is trained in full, not adapted.
        options.setdefault("exclude_modules", rf"(.*\.)?({'|'.join(map(re.escape, spared))})(\..*)?")
    kind = getattr(peft, name)
    if issubclass(kind, peft.PromptLearningConfig):
        _refuse_prompts(model, kind)
    for module in fresh:
        keep_in_float32(model.get_submodule(module))
    text_task = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    heads_of = {"ForQuestionAnswering": "QUESTION_ANS", "ForTokenClassification": "TOKEN_CLS"}
    head_task = next((task for name, task in heads_of.items() if name in type(model).__name__), "SEQ_CLS")
    options["task_type"] = text_task if is_generative(model) else head_task
    # PEFT extends lists that it is given.
    wrapped, given = _wrapped(model, kind, copy.deepcopy(options))
    _check_output_head(wrapped, name)
    if not wrapped.peft_config["default"].is_prompt_learning:
        adapter_readback.check_in_force(wrapped, {**asked, "modules_to_save": options["modules_to_save"]})
    _heed(given, name, asked)
    if dtype != "float32":
        _cast(wrapped, dtype)
    return wrapped


def _wrapped(model: Any, kind: Any, options: dict[str, Any]) -> tuple[Any, list[warnings.WarningMessage]]:
    """Return the model as PEFT wraps it, and its warnings. Raises SetupError with PEFT's words where it refuses."""
    import peft
    import torch

    try:
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            wrapped = peft.get_peft_model(model, kind(**options))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "memory" in str(error):
            raise
        text = reason(error)
        named = [key for key in peft_options.fields_of(kind.__name__) if _names(key, text)]
        place = "method.config" + "".join(f".{key}" for key in named[:1])
        raise SetupError(f"{place}: {kind.__name__} can't be applied to this model: {text}") from error
    return wrapped, given


def _heed(given: list[warnings.WarningMessage], name: str, options: dict[str, Any]) -> None:
    """Raise SetupError for a warning of PEFT that it does not do what is asked; pass on any other."""
    for warning in given:
        text = str(warning.message)
        # PEFT adds patterns for the experts of some models, and warns of them, which it then follows.
        patterns = [one for key, value in options.items() if key.endswith("_pattern") for one in value or ()]
        if "_pattern keys" in text and not any(repr(pattern) in text for pattern in patterns):
            continue
        if _IGNORED.search(text):
            raise SetupError(f"method.config: {name} would not do what is asked: {text}")
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _names(key: str, text: str) -> bool:
    """Return whether a message is on a field: it names it, with underscores or blanks."""
    return "_" in key and (key in text or key.replace("_", " ") in text)


def _cast(wrapped: Any, dtype: str) -> None:
    """Cast LoRA's own weights, DoRA's among them: what is trained in full stays as it is."""
    import torch

    for name, parameter in wrapped.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(getattr(torch, dtype))


def restore_type(wrapped: Any, folder: Path) -> None:
    """Cast adapters that were saved in bfloat16 back to it: PEFT loads all in float32, and would compute in that."""
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        types = {weights.get_slice(name).get_dtype() for name in weights.keys() if ".lora_" in name}  # noqa: SIM118
    if types == {"BF16"}:
        _cast(wrapped, "bfloat16")


def _refuse_prompts(model: Any, kind: Any) -> None:
    import peft

    from bench.models.heads import is_generative, reads_last_token

    name = kind.__name__
    if is_generative(model):
        # Answers are scored by the base model, with prompts shared between them; it would not see virtual tokens.
        raise SetupError(f"method.peft: {name} is not for objective: text; the scorers do not see its virtual tokens")
    if reads_last_token(model) and kind is not peft.PrefixTuningConfig:
        # With embeddings as its input, transformers' head reads the last position, which may be padding.
        raise SetupError(f"method.peft: {name} would make a decoder's head read padding; PrefixTuningConfig does not")
    if model.config.is_encoder_decoder:
        raise SetupError(f"method.peft: an encoder-decoder classifier can't take the virtual tokens of {name}")


def _check_output_head(wrapped: Any, name: str) -> None:
    """Raise SetupError for an adapted output head: TRL multiplies by its weight itself, and would never train it."""
    from bench.models.heads import output_head_names, unwrapped

    for head in output_head_names(wrapped):
        # Whatever PEFT wraps, in an adapter or to train it in full, gets layers of its own inside.
        if any(True for _ in unwrapped(wrapped).get_submodule(head).children()):
            raise SetupError(f"method.config: {name} must leave the output head {head!r} of a language model alone")


def prepare_quantized(model: Any) -> None:
    """Freeze a 4-bit body, put its normalisation layers and their inputs into float32, and keep it trainable.

    PEFT's `prepare_model_for_kbit_training` casts embeddings too, which costs 1.6 GB on a 256k vocabulary. And on a CPU
    with AVX512-BF16, bitsandbytes 0.50 packs the weights for good in the first evaluation; from then on no gradient
    passes through them, and nothing says so. A language model's output head keeps its type. Raises SetupError for a
    layer that the CPU would compute wrongly.
    """
    from bench.models import quantization  # it loads torch
    from bench.models.heads import fit_output_head, is_norm, keep_in_float32

    quantization.prepare_4bit_for_cpu(model, model.config.model_type)
    model.requires_grad_(False)
    for module in model.modules():
        if is_norm(module):
            keep_in_float32(module)
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    fit_output_head(model)
