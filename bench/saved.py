"""Saving a trained model so that plain transformers and peft load it, and loading it again for prediction."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bench import dropin, heads, record
from bench.errors import DataError
from bench.model import locate
from bench.settings import Head, ModelCard

DESCRIPTION = "bench.json"
PROBE = "probe.safetensors"


def save(model: Any, tokenizer: Any, folder: Path, description: dict[str, Any]) -> None:
    """Writes model or adapter, tokenizer and `bench.json` (labels, task, head ...) into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, heads.ProbeModel):
        model.base.save_pretrained(folder)
        weights = {name: tensor.detach().cpu() for name, tensor in model.linear.state_dict().items()}
        save_file(weights, folder / PROBE)
    else:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record.write_text(folder / DESCRIPTION, json.dumps(description, indent=1, ensure_ascii=False) + "\n")


def describe(folder: Path) -> dict[str, Any]:
    """What `save` wrote about the model. Raises DataError when the folder holds no saved model."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise DataError(f"{folder} holds no saved model; the recipe needs `save: true`")
    return json.loads(path.read_text(encoding="utf-8"))


def load(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """(model in evaluation mode, tokenizer, description) from what `save` wrote, on the CPU."""
    import transformers

    description = describe(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if description["pooling"] is not None:
        model = _load_probe(folder, description)
    elif (folder / "adapter_config.json").is_file():
        model = _load_adapter(folder, description)
    else:
        model = _load_whole(folder, description)
    return model.eval(), tokenizer, description


def _auto_class(description: dict[str, Any]) -> Any:
    import transformers

    return getattr(transformers, dropin.load("tasks", description["task"]).AUTO_CLASS)


def _load_probe(folder: Path, description: dict[str, Any]) -> Any:
    import transformers

    base = transformers.AutoModel.from_pretrained(folder, use_safetensors=True)
    model = heads.ProbeModel(base, description["pooling"], len(description["labels"]))
    model.linear.load_state_dict(load_file(folder / PROBE))
    return model


def _load_whole(folder: Path, description: dict[str, Any]) -> Any:
    attention = description["model_card"]["attention"]
    model = _auto_class(description).from_pretrained(folder, use_safetensors=True, attn_implementation=attention)
    head = Head.model_validate(description["head"])
    if head.kind == "mlp":
        heads.attach_mlp(model, head.hidden, head.dropout)
        weights: dict[str, torch.Tensor] = {}
        for path in sorted(folder.glob("model*.safetensors")):
            weights.update(load_file(path))
        name = heads.head_names(model)[-1]
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        getattr(model, name).load_state_dict(own)
    return model


def _load_adapter(folder: Path, description: dict[str, Any]) -> Any:
    import peft
    import transformers

    extra: dict[str, Any] = {}
    if description["quantization"] is not None:
        settings = {**description["quantization"], "llm_int8_skip_modules": description["unquantized"]}
        extra = {"quantization_config": transformers.BitsAndBytesConfig(**settings), "device_map": {"": "cpu"}}
    card = ModelCard.model_validate(description["model_card"], strict=False)
    base = str(folder / "base") if (folder / "base").is_dir() else str(locate(card))
    names = dict(enumerate(description["labels"]))
    model = _auto_class(description).from_pretrained(
        base,
        revision=card.revision,
        id2label=names,
        label2id={name: index for index, name in names.items()},
        pad_token_id=description["pad_token_id"],
        problem_type="multi_label_classification" if description["multi_label"] else "single_label_classification",
        use_safetensors=True,
        attn_implementation=card.attention,
        dtype=getattr(torch, card.dtype),
        **extra,
    )
    head = Head.model_validate(description["head"])
    if head.kind == "mlp":
        heads.attach_mlp(model, head.hidden, head.dropout)
    for name in heads.head_names(model):
        heads.keep_in_float32(getattr(model, name))
    return peft.PeftModel.from_pretrained(model, folder)
