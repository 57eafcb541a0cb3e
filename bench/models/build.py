"""Model card + load plan + head -> model: pretrained, with random weights, or quantised to 4 bits."""

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from bench.config import architecture, foreign_code
from bench.config.cards import ModelCard
from bench.config.contracts import LoadPlan
from bench.config.recipe import Head
from bench.errors import SetupError, nearest
from bench.models import (
    attention_bias,
    checkpoint_head,
    choice_head,
    heads,
    own_heads,
    own_writers,
    quantization,
    shards,
    text_part,
)
from bench.models.heads import MISSING, newly_initialized_modules
from bench.models.kernels import fused
from bench.models.library_internals import transformers_internals
from bench.models.location import locate
from bench.utils.loading_errors import damage_in, is_missing_folder, reason, shown

# Family of a language model -> its transformers class, for `objective: text`.
GENERATIVE_CLASSES = {"decoder": "AutoModelForCausalLM", "encoder_decoder": "AutoModelForSeq2SeqLM"}

# Classes of classifiers that take over the rows of a checkpoint's head for labels of the same names.
ADOPTING = ("AutoModelForSequenceClassification", "AutoModelForTokenClassification")


def build(
    card: ModelCard,
    plan: LoadPlan,
    *,
    auto_class: str,
    head: Head | None = None,
    labels: tuple[str, ...] = (),
    multi_label: bool = False,
    tokenizer: Any,
    weights: str,
    base_folder: Path | None = None,
    device: torch.device,
    keep_head: bool = False,
    untrained_head: bool = False,
    sharded: bool = False,
    copied: Sequence[str] = (),
) -> Any:
    """Build a classifier with its task head, or a language model, on `device`, in evaluation mode, nothing frozen yet.

    auto_class: "AutoModelForSequenceClassification", or one of WRITERS, which have no labels. weights: "pretrained" or
    "random". base_folder: where random 4-bit weights are kept, for an adapter's sake; None for nowhere. keep_head: the
    classifier as it is, with its own labels; untrained_head: with a new head. sharded: each process keeps its shard of
    the body's weights alone (`models.shards`), from when they are read or drawn. copied: the modules that stay whole.

    4-bit weights are quantised on the device, one by one as they are read from the checkpoint's shards, or block by
    block as they are drawn there: neither host nor device ever holds the model in 16 bits. Raises SetupError with what
    can't be had.
    """
    config = make_config(card, labels, multi_label, tokenizer, weights, auto_class=auto_class, keep_head=keep_head)
    family = getattr(transformers, auto_class)
    fused.install()
    own_heads.register(auto_class, config)
    quantized = _check_quantization(config, card, plan, weights)
    if weights == "random" and plan.quantization is not None:
        model = _random_quantized(family, config, card, plan, device)
        if base_folder is not None:
            if PartialState().is_main_process:
                model.save_pretrained(base_folder)
            PartialState().wait_for_everyone()
    elif weights == "random" and sharded:
        model = random_sharded(family, config, card, plan, device, copied)
    elif weights == "random":
        model = from_config(family, config, card, plan)
    else:
        with shards.loading(device, copied) if sharded else contextlib.nullcontext():
            model = _from_pretrained(family, str(locate(card)), config, card, plan, device)
        _check_heads(model, card, keep_head, untrained_head)
        if auto_class in ADOPTING and not keep_head and (head is None or head.kind == "own"):
            own = own_config(card)
            found = [*checkpoint_head.findings(model), *checkpoint_head.adopt_head(model, own, labels, multi_label)]
            setattr(model, checkpoint_head.FINDINGS, found)
    _note_own_class(model)
    if quantized:
        quantization.prepare_4bit_for_cpu(model, _name(card, config))
    if head is not None and head.kind == "mlp":
        heads.attach_mlp(model, head.hidden, head.dropout, norm=head.norm)
    if heads.is_generative(model):
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = False
    return (model if quantized else shards.moved(model, device)).eval()


def weights_bytes(
    card: ModelCard,
    plan: LoadPlan,
    *,
    auto_class: str,
    labels: tuple[str, ...],
    tokenizer: Any,
    weights: str,
) -> int:
    """Return the bytes of a model's whole weights in the type that `build` holds them in, of which none is read."""
    config = make_config(card, labels, False, tokenizer, weights, auto_class=auto_class)
    own_heads.register(auto_class, config)
    with torch.device("meta"):
        model = from_config(getattr(transformers, auto_class), config, card, plan)
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _note_own_class(model: Any) -> None:
    """Note on a model of a class that transformers does not have how its saved weights are loaded without us."""
    line, sentence = own_heads.how_to_load(model), own_writers.how_to_load(model)
    if line is not None:
        sentence = (
            f"transformers has no class {type(model).__name__}; it is made of transformers' own parts, and plain "
            f"transformers loads a saved one so: {line}"
        )
    if sentence is not None:
        found = [*checkpoint_head.findings(model), checkpoint_head.Finding(sentence=sentence)]
        setattr(model, checkpoint_head.FINDINGS, found)


def make_config(
    card: ModelCard,
    labels: tuple[str, ...],
    multi_label: bool,
    tokenizer: Any,
    weights: str,
    *,
    auto_class: str = "",
    keep_head: bool = False,
) -> Any:
    """Return the transformers config, with label names (unless a classifier's head is kept) and special tokens."""
    text = auto_class in GENERATIVE_CLASSES.values()
    task = {} if text or keep_head else task_settings(labels, multi_label, auto_class)
    place = locate(card)
    if weights == "random" and card.architecture:
        config = _config_from_architecture(card, task)
    else:
        config = _config_from_pretrained(str(place), card, task)
    config = text_part.of(config, auto_class)
    if not hasattr(config, "vocab_size"):
        raise SetupError(f"a model of type {config.model_type!r} is no {_kind(auto_class)}: it has no vocabulary")
    if text:
        _check_writer(config, card, auto_class)
    if keep_head:
        names = checkpoint_head.names_of(config.to_dict() if weights == "random" else own_config(card))
        if names is None:
            raise SetupError(f"the config of {_name(card, config)!r} contradicts itself: id2label and label2id differ")
        # A config may name its labels in one direction only.
        config.label2id = {name: number for number, name in enumerate(names)} or config.label2id
    config.pad_token_id = tokenizer.pad_token_id
    if weights == "random":
        for name in ("bos_token_id", "eos_token_id"):
            setattr(config, name, getattr(tokenizer, name))
        if config.is_encoder_decoder:
            config.decoder_start_token_id = tokenizer.pad_token_id
        if len(tokenizer) > config.vocab_size:
            raise SetupError(f"the tokenizer has {len(tokenizer)} tokens, the model's vocabulary {config.vocab_size}")
    if text and config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        raise SetupError(f"the config of {_name(card, config)!r} has no decoder_start_token_id to begin an answer with")
    return config


def _check_writer(config: Any, card: ModelCard, auto_class: str) -> None:
    """Raise SetupError for an encoder: as a language model its tokens would see those that they should predict."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    name = _name(card, config)
    both_ways = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_encoder_decoder
    if card.family == "encoder" or (both_ways and not getattr(config, "is_decoder", False)):
        raise SetupError(f"the model {name!r} is an encoder, which can't write text; use objective: head, or a decoder")
    if auto_class != GENERATIVE_CLASSES["encoder_decoder" if config.is_encoder_decoder else "decoder"]:
        kind = "an encoder-decoder" if config.is_encoder_decoder else "no encoder-decoder"
        raise SetupError(f"model.family is {card.family!r}, but the model {name!r} is {kind}")


def _check_quantization(config: Any, card: ModelCard, plan: LoadPlan, weights: str) -> bool:
    """Return whether the weights will be quantised. Raises SetupError for what a quantised checkpoint can't do."""
    if weights == "random":
        # Random weights in a checkpoint's architecture are plain ones.
        config.__dict__.pop("quantization_config", None)
    own = getattr(config, "quantization_config", None)
    if own is None:
        return plan.quantization is not None
    kind = own.get("quant_method", "quantised") if isinstance(own, dict) else "quantised"
    name = _name(card, config)
    if plan.quantization is not None:
        raise SetupError(
            f"the checkpoint of {name!r} is quantised already ({kind}): method: lora trains adapters on it as it is; "
            "for qlora, or to quantise it otherwise, name a checkpoint in 16 or 32 bits"
        )
    if plan.trains == "gradient" and not plan.adapter:
        raise SetupError(
            f"the checkpoint of {name!r} is quantised ({kind}), so its weights can't be trained: take method: lora, or "
            "qlora with a checkpoint in 16 or 32 bits"
        )
    return True


def _check_heads(model: Any, card: ModelCard, keep_head: bool, untrained_head: bool) -> None:
    """Raise SetupError unless a language model's head, or a classifier's that is kept, is the checkpoint's own.

    And where a classifier is asked for with a new head, unless the checkpoint has none.
    """
    of_classifier = heads.head_names(model) if keep_head else []
    needed = [*heads.output_head_names(model), *([] if untrained_head else of_classifier)]
    fresh = [key for key in getattr(model, MISSING) if key.startswith(tuple(f"{name}." for name in needed))]
    if fresh:
        what = "classifier" if keep_head else "language model"
        raise SetupError(f"the model {_name(card, model.config)!r} is no {what}: its checkpoint has no {fresh[0]}")
    for name in of_classifier if untrained_head else []:
        if not any(key.startswith(f"{name}.") for key in getattr(model, MISSING)):
            raise SetupError(
                f"prompting.untrained_head: the checkpoint of {_name(card, model.config)!r} has a head ({name}); "
                "remove the key, so that it answers"
            )


def _name(card: ModelCard, config: Any) -> str:
    return shown(card.id) if card.id else card.package or config.model_type


def task_settings(labels: Sequence[str], multi_label: bool, auto_class: str) -> dict[str, Any]:
    """Return a transformers config's fields of the task: label names, and whether several may be set at once.

    One output that is not one of several labels is a number, which transformers calls regression; but the score of a
    choice is compared with other choices' scores alone, and no loss of transformers' classifiers is for it.
    """
    kind: str | None = "regression" if len(labels) == 1 else "single_label_classification"
    if auto_class == choice_head.AUTO_CLASS:
        kind = None
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {name: index for index, name in enumerate(labels)},
        "problem_type": "multi_label_classification" if multi_label else kind,
    }


def _config_from_architecture(card: ModelCard, task: dict[str, Any]) -> Any:
    settings = {key: as_json(value) for key, value in card.architecture.items()}
    kind = settings.pop("model_type")
    try:
        default = transformers.AutoConfig.for_model(kind)
        known = {*default.to_dict(), *default.attribute_map, *(architecture.fields(kind) or ())}
        unknown = [key for key in settings if key not in known and not attention_bias.is_own_field(kind, key)]
        if unknown:
            near = nearest(unknown[0], [*default.to_dict(), *default.attribute_map])
            hint = f". Did you mean {near!r}?" if near else ""
            raise SetupError(f"model.architecture.{unknown[0]}: a {kind!r} config has no such field{hint}")
        return transformers.AutoConfig.for_model(kind, **settings, **task)
    except (ValueError, TypeError, StrictDataclassError) as error:
        # For an unknown model type, transformers names all that it knows: some hundreds.
        raise SetupError(f"model.architecture: {reason(error).split('. Should contain')[0]}") from error


def as_json(value: Any) -> Any:
    """Return a value of a card as JSON has it, whatever its depth: sequences are lists, as configs expect them."""
    if isinstance(value, Mapping):
        return {key: as_json(inner) for key, inner in value.items()}
    return [as_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def _config_from_pretrained(place: str, card: ModelCard, task: dict[str, Any]) -> Any:
    if is_missing_folder(place):
        raise SetupError(f"the model {shown(place)!r} can't be loaded: there is no such folder")
    try:
        return transformers.AutoConfig.from_pretrained(
            place, revision=card.revision, trust_remote_code=foreign_code.trusts(card), **task
        )
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise SetupError(f"the model {shown(place)!r} can't be loaded: {reason(error, place)}") from error


def own_config(card: ModelCard) -> dict[str, Any]:
    """Return a checkpoint's config.json as it is, without the defaults of its class."""
    settings: dict[str, Any] = transformers.PreTrainedConfig.get_config_dict(locate(card), revision=card.revision)[0]
    return settings


def is_quantized(card: ModelCard) -> bool:
    """Return whether a checkpoint says that its weights are quantised; False for one that can't be read."""
    try:
        return bool(own_config(card).get("quantization_config"))
    except (OSError, ValueError):
        return False


def _body_type(card: ModelCard, plan: LoadPlan) -> torch.dtype:
    return getattr(torch, card.dtype) if plan.frozen_body else torch.float32


def from_config(family: Any, config: Any, card: ModelCard, plan: LoadPlan) -> Any:
    """Build a model of random weights from its config; 4-bit ones where the plan asks for them."""
    try:
        model = family.from_config(config, attn_implementation=card.attention, dtype=_body_type(card, plan))
    except (ValueError, ImportError, LookupError, ArithmeticError, TypeError, AttributeError) as error:
        # What a model class makes of sizes and names that don't fit together is not always a ValueError.
        raise _not_suitable(family, config, card, error) from error
    except RuntimeError as error:
        if "negative dimension" not in str(error):  # memory may run out here
            raise
        raise _not_suitable(family, config, card, error) from error
    own_heads.name_body(model)
    attention_bias.apply(model)
    setattr(model, MISSING, [])
    return model


def _random_quantized(family: Any, config: Any, card: ModelCard, plan: LoadPlan, device: torch.device) -> Any:
    with torch.device("meta"):
        skeleton = from_config(family, config, card, plan)
    skipped = [*heads.head_names(skeleton), *heads.output_head_names(skeleton)]
    settings = transformers.BitsAndBytesConfig(**(plan.quantization or {}), llm_int8_skip_modules=skipped)
    return quantization.quantized(skeleton, settings, device)


def random_sharded(
    family: Any, config: Any, card: ModelCard, plan: LoadPlan, device: torch.device, copied: Sequence[str]
) -> Any:
    """Draw the same weights as `from_config`, block by block, of which each process keeps its shard."""

    def _draw(model: Any) -> None:
        quantization.Builder(model, torch.device("cpu"), model.dtype, drawn=partial(_keep, model)).fill()

    def _keep(model: Any, parameters: Iterable[nn.Parameter]) -> None:
        filled = {id(parameter) for parameter in parameters}
        for name, parameter in model.named_parameters():
            if id(parameter) in filled and not shards.stays_whole(model, name, copied):
                shards.hold_parameter(parameter, device)

    with transformers_internals.drawn_by(_draw):
        return from_config(family, config, card, plan)


def _from_pretrained(family: Any, place: str, config: Any, card: ModelCard, plan: LoadPlan, device: Any) -> Any:
    if plan.quantization is None:
        own = getattr(config, "quantization_config", None) is not None
        return loaded(family, place, config, card, plan, {"device_map": {"": device}} if own else {})
    skipped = _heads_of(family, config, card)
    while True:
        settings = transformers.BitsAndBytesConfig(**plan.quantization, llm_int8_skip_modules=skipped)
        extra = {"quantization_config": settings, "device_map": {"": device}}
        model = loaded(family, place, config, card, plan, extra)
        fresh = [name for name in newly_initialized_modules(model) if name not in skipped]
        if not fresh:
            return model
        # What the checkpoint does not contain, a pooler say, is trained in full, which no 4-bit weight can be.
        skipped = [*skipped, *fresh]
        del model


def loaded(family: Any, place: str, config: Any, card: ModelCard, plan: LoadPlan, extra: dict[str, Any]) -> Any:
    """Load a checkpoint by transformers. Raises SetupError where its files, or shapes but a head's, do not fit."""
    own = own_config(card)
    renamed = text_part.checkpoint_names(own, config, family.__name__)
    try:
        model, loading = family.from_pretrained(
            place,
            config=config,
            revision=card.revision,
            trust_remote_code=foreign_code.trusts(card),
            use_safetensors=True,
            attn_implementation=card.attention,
            dtype=_body_type(card, plan),
            output_loading_info=True,
            key_mapping=renamed or None,
            ignore_mismatched_sizes=True,
            **extra,
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise _not_suitable(family, config, card, error, damage=damage_in(place)) from error
    if renamed:
        transformers_internals.keep_names(model)
    own_heads.name_body(model)
    # A head for other labels than ours is replaced by a new one; any other misfit means a broken checkpoint.
    unfit = {key for key, *_ in loading["mismatched_keys"]}
    wrong = sorted(key for key in unfit if key.split(".")[0] not in heads.head_names(model))
    if wrong:
        raise SetupError(f"the model {shown(place)!r} can't be loaded: its weights {wrong[0]!r} have another shape")
    setattr(model, MISSING, sorted({*loading["missing_keys"], *unfit}))
    lost = [key for key in getattr(model, MISSING) if key.startswith(f"{model.base_model_prefix}.")]
    if lost and text_part.is_wrapped(own):
        raise SetupError(
            f"the text part of {shown(place)!r} can't be loaded by itself: the checkpoint has no {lost[0]} under a "
            "name that is known here"
        )
    setattr(model, checkpoint_head.FINDINGS, _unused(model, own, sorted(loading["unexpected_keys"])))
    setattr(model, text_part.PLACE, text_part.place(own, family.__name__))
    return model


def _unused(model: Any, own: dict[str, Any], keys: list[str]) -> list[checkpoint_head.Finding]:
    """Return what is to be said of a checkpoint's weights that its model has no place for. own: its config.json."""
    if not text_part.is_wrapped(own):
        return checkpoint_head.unused(keys)
    return [checkpoint_head.Finding(sentence=text_part.left_out(own, type(model).__name__, keys))]


def _heads_of(family: Any, config: Any, card: ModelCard) -> list[str]:
    try:
        with torch.device("meta"):
            model = family.from_config(config, attn_implementation=card.attention)
    except (ValueError, ImportError, RuntimeError) as error:  # nothing has a size here that memory could lack
        raise _not_suitable(family, config, card, error) from error
    return [*heads.head_names(model), *heads.output_head_names(model)]


def _not_suitable(family: Any, config: Any, card: ModelCard, error: Exception, *, damage: str = "") -> SetupError:
    text = reason(error, card.id)
    if "Unrecognized configuration class" in text:
        kind = _kind(family.__name__)
        return SetupError(f"a model of type {config.model_type!r} is no {kind} ({family.__name__} refuses it)")
    if any(
        sign in str(error) for sign in ("attention implementation", "FlashAttention", "Flash Attention", "flash_attn")
    ):
        text = text.split(" Please request")[0]
        return SetupError(f"model.attention is {card.attention!r}, which this model or machine can't use: {text}")
    if "safetensors" in text:
        text = f"{text.rstrip('.')} (only safetensors are read, never pickled weights such as pytorch_model.bin)"
    text = f"{damage}: {text}" if damage else text
    return SetupError(f"the model {_name(card, config)!r} can't be loaded: {text}")


def _kind(auto_class: str) -> str:
    """Return what a model of this class is called in a sentence."""
    if auto_class == "AutoModelForQuestionAnswering":
        return "model for answers that are spans"
    if auto_class == "AutoModelForTokenClassification":
        return "model with a head for each token"
    if auto_class == choice_head.AUTO_CLASS:
        return "model for multiple choice"
    return "language model" if auto_class in GENERATIVE_CLASSES.values() else "text classifier"


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return {"total", "trainable"}; a 4-bit parameter counts by its true shape, not by its packed bytes.

    Trainable are those with gradients, and a probe's linear layer, (features + 1) x labels, which is fitted without.
    """
    fitted = {id(parameter) for parameter in _fitted(model)}
    sizes = [(_size(item), item.requires_grad or id(item) in fitted) for item in _in_use(model)]
    return {"total": sum(size for size, _ in sizes), "trainable": sum(size for size, trains in sizes if trains)}


def _fitted(model: nn.Module) -> list[Any]:
    return [*model.linear.parameters()] if isinstance(model, heads.ProbeModel) else []


def num_trainable_names(model: nn.Module) -> int:
    """Return how many of the model's named parameters `count_parameters` calls trainable."""
    return sum(parameter.requires_grad for parameter in model.parameters()) + len(_fitted(model))


def dtypes(model: nn.Module) -> dict[str, int]:
    """Return the number of parameters by the type that they are stored in."""
    counts: Counter[str] = Counter()
    for parameter in _in_use(model):
        counts[_stored_type(parameter)] += _size(parameter)
    return dict(sorted(counts.items()))


def _in_use(model: nn.Module) -> list[Any]:
    # PEFT keeps the untrained original of a module that is trained in full; it does not run.
    return [parameter for name, parameter in model.named_parameters() if ".original_module." not in name]


def _size(parameter: Any) -> int:
    state = getattr(parameter, "quant_state", None)
    return math.prod(state.shape) if state is not None else parameter.numel()


def _stored_type(parameter: Any) -> str:
    state = getattr(parameter, "quant_state", None)
    return state.quant_type if state is not None else str(parameter.dtype).removeprefix("torch.")
