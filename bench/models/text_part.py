"""The text part of a checkpoint that wraps it together with vision or audio (Gemma 3 from 4B, Mistral 3, Qwen3.5 ...).

It is built by itself, as its own class, and only its weights are loaded: no adapter can land on another part, and
counted parameters, memory plans and FLOPs are the text part's. A whole model is saved as what it is, a language model
without other parts. An adapter is saved under the names that it has inside of the wrapped model, where plain
transformers and peft build that for the checkpoint.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from bench.errors import SetupError
from bench.models import own_heads, own_writers
from bench.utils import files

# Set on a model that is the text part of a wrapped checkpoint: where plain transformers has it.
PLACE = "bench_text_part_place"
# What the wrapped models call their text part, with the model that it is inside of.
_NAMES = r"(?:model\.)?(?:language_model|text_model)\.(?:model\.)?"
# Of an adapter's files.
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_SHOWN = 4


def is_wrapped(own: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint's config.json is of a model with a text part among others."""
    return isinstance(own.get("text_config"), Mapping) and bool(_others(own))


def of(config: Any, auto_class: str) -> Any:
    """Return the config of the text part that a wrapped decoder's config holds; any other config itself.

    The labels, the quantisation and the origin are the whole one's. Weights are tied where either of both says so:
    what a checkpoint brings twice, with different numbers, transformers leaves apart. Raises SetupError for a text part
    that is to write, and of which transformers has no language model.
    """
    text, auto_class = config.get_text_config(), own_heads.base_class(auto_class)
    if text is config or config.is_encoder_decoder or "text_config" not in config.sub_configs:
        return config
    writes = type(text) in MODEL_FOR_CAUSAL_LM_MAPPING
    if not writes and type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return config
    reason = None if writes or auto_class in own_heads.HEADS else own_writers.register(config, text)
    if reason is not None:
        raise SetupError(
            f"transformers has no language model for the text part ({text.model_type}) of a {config.model_type!r} "
            f"model by itself, {reason}; train it with a head (objective: head)"
        )
    for name in ("id2label", "label2id", "problem_type", "name_or_path"):
        setattr(text, name, getattr(config, name))
    text.tie_word_embeddings = any(getattr(item, "tie_word_embeddings", False) for item in (config, text))
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None:
        text.quantization_config = quantization
    return text


def checkpoint_names(own: Mapping[str, Any], config: Any, auto_class: str) -> dict[str, str]:
    """Return names in a checkpoint -> in the class that is built, as regular expressions; {} where they are the same.

    own: its config.json. config: of what is built.
    """
    if not is_wrapped(own):
        return own_heads.key_mapping(auto_class, config)
    body = own_heads.body_name(auto_class, config)
    return {rf"^{_NAMES}lm_head\.": "lm_head.", rf"^{_NAMES}(?!lm_head)": f"{body}."}


def left_out(own: Mapping[str, Any], class_name: str, unused: list[str]) -> str:
    """Return a sentence on what of a wrapped checkpoint is not loaded.

    own: its config.json. unused: names of its weights without a place, which transformers may leave unsaid.
    """
    others = _others(own)
    what = f"{' and '.join(others)} part{'s are' if len(others) > 1 else ' is'}"
    unused = [key for key in unused if "lm_head" not in key]  # which a task head replaces
    names = list(dict.fromkeys(re.sub(r"^model\.", "", key).split(".")[0] for key in unused))
    more = ", ..." if len(names) > _SHOWN else ""
    weights = f" ({len(unused)} weights: {', '.join(names[:_SHOWN])}{more})" if unused else ""
    kind = own.get("model_type", "wrapped")
    return f"of the {kind} checkpoint only the text part is used, as {class_name}; its {what} not loaded{weights}"


def place(own: Mapping[str, Any], auto_class: str) -> str:
    """Return where the text part is in the model that plain transformers builds for a checkpoint; "" for as here.

    own: its config.json. That model is the auto class's, or for writers that it does not know the one for images.
    """
    if not is_wrapped(own) or own.get("model_type") not in CONFIG_MAPPING:
        return ""
    kind, auto_class = CONFIG_MAPPING[own["model_type"]], own_heads.base_class(auto_class)
    known = own_heads.HEADS[auto_class][0] if auto_class in own_heads.HEADS else MODEL_FOR_CAUSAL_LM_MAPPING
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return ""
    conditional = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[kind]
    found = conditional if auto_class not in own_heads.HEADS else None
    if kind in known:
        found = known[kind]
    if found is None or found.config_class is not kind:
        return ""
    return own_writers.place(conditional)


def rename_adapter(folder: Path, where: str) -> None:
    """Give an adapter in a folder the names of the wrapped model, in place, and name each of its modules in full.

    A short name like `q_proj` would match modules of the vision part too. where: as `place` gives it.
    """
    with safe_open(folder / _WEIGHTS, "pt") as stored:
        weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
        metadata = stored.metadata()
    renamed = {re.sub(r"^(base_model\.model)\.model\.", rf"\1.{where}.", name): weights[name] for name in weights}
    save_file(renamed, folder / _WEIGHTS, metadata=metadata)
    config = json.loads(files.read_text(folder / _CONFIG))
    files.write_text(folder / _CONFIG, json.dumps(_moved(config, "model", where, list(renamed)), indent=2) + "\n")


def own_adapter_config(config: dict[str, Any], where: str) -> dict[str, Any]:
    """Return an adapter's config by the text part's own names, as `rename_adapter` found it."""
    return _moved(config, where, "model", None)


def adapter_key_mapping(where: str) -> dict[str, str]:
    """Return an adapter's names in the wrapped model -> in the text part by itself, as PEFT asks for them."""
    return {rf"^{re.escape(where)}\.": "model."}


def own_name(name: str, where: str) -> str:
    """Return the name of a saved adapter's weight in the text part by itself. where: "" for the same."""
    return re.sub(rf"^base_model\.model\.{re.escape(where)}\.", "base_model.model.model.", name) if where else name


def _moved(config: dict[str, Any], old: str, new: str, names: list[str] | None) -> dict[str, Any]:
    """Return an adapter's config with its paths in another place. names: of its weights, to name LoRA's modules."""
    moved = dict(config)
    modules = {_adapted(name) for name in names or ()} - {None}
    if modules:
        moved["target_modules"] = sorted(modules)
        moved |= dict.fromkeys({"exclude_modules", "layers_to_transform", "layers_pattern"} & moved.keys())
    elif isinstance(moved.get("target_modules"), list):
        moved["target_modules"] = [re.sub(rf"^{re.escape(old)}\.", f"{new}.", name) for name in moved["target_modules"]]
    for key in ("rank_pattern", "alpha_pattern"):
        if moved.get(key):
            moved[key] = {
                re.sub(rf"^(\^?){re.escape(old)}(\\?\.)", rf"\1{new}\2", name): value
                for name, value in moved[key].items()
            }
    return moved


def _adapted(name: str) -> str | None:
    """Return the module that a weight of LoRA belongs to; None for one of a module that is trained in full."""
    found = re.match(r"base_model\.model\.(.+)\.lora_\w+(?:\.weight)?$", name)
    return found[1] if found else None


def _others(own: Mapping[str, Any]) -> list[str]:
    """Return the parts of a wrapped checkpoint but its text: `vision`, `audio`, as its config names them."""
    ours = ("text_config", "quantization_config", "generation_config", "compression_config")
    named = (key for key, value in own.items() if key.endswith("_config") and isinstance(value, Mapping))
    return [key.removesuffix("_config") for key in named if key not in ours]
