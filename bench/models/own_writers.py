"""A language model of the text part of a wrapped checkpoint, where transformers has none by itself (Qwen3-VL, GLM-4V).

It is made of transformers' own parts: the text part's body, and the output head that the checkpoint's class for images
and text has. Other parts are never loaded, so that nothing trains them. Saved, it is the checkpoint's class again: the
trained text part, and all other weights as in the checkpoint.
"""

import ast
import inspect
import json
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_MAPPING,
)

from bench.errors import SetupError
from bench.models.library_internals import transformers_internals
from bench.utils import files

# The class that plain transformers loads a saved model with.
LOADER = "AutoModelForImageTextToText"
_EMBEDDING = ".embed_tokens.weight"
_WEIGHTS, _INDEX, _CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
# What a whole model reads images with, which a checkpoint's folder may have.
_PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")


class TextWriter:
    """Mixin for a family's base class: the text part's body, and an output head on it."""

    of_this_package = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        self.model = MODEL_MAPPING[type(config)](config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[attr-defined]

    def forward(
        self, input_ids: Any = None, *, labels: Any = None, logits_to_keep: Any = 0, **options: Any
    ) -> CausalLMOutputWithPast:
        """Return logits [batch, tokens, vocabulary], and the loss of labels, as transformers' language models do."""
        outputs = self.model(input_ids=input_ids, **options)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept, :])
        loss = None
        if labels is not None:
            size = self.config.vocab_size  # type: ignore[attr-defined]
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=size, **options)  # type: ignore[attr-defined]
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def is_made(model: Any) -> bool:
    """Return whether a model, not a wrapped one, is of a class that was made here."""
    return isinstance(model, TextWriter)


def register(config: Any, text: Any) -> str | None:
    """Give the text part of a wrapped checkpoint a language model; return why that can't be done, or None.

    config: the whole checkpoint's. text: its text part's. AutoModelForCausalLM knows the class from then on, in this
    process. A class of transformers comes first, also one that it lists under the whole checkpoint's type (Mllama).
    """
    kind, whole = type(text), type(config)
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    known = MODEL_FOR_CAUSAL_LM_MAPPING.get(whole, None)
    if known is not None and known.config_class is kind:
        transformers.AutoModelForCausalLM.register(kind, known, exist_ok=True)
        return None
    reason = _why_not(whole, kind)
    if reason is None:
        transformers.AutoModelForCausalLM.register(kind, _made(whole, kind), exist_ok=True)
    return reason


def place(whole: Any) -> str:
    """Return where a class for images and text holds its text part, as its tied weights tell; "" for not known."""
    tied = [name for name in transformers_internals.tied_weights(whole) if name.endswith(_EMBEDDING)]
    return tied[0].removesuffix(_EMBEDDING) if tied else ""


def how_to_load(model: Any) -> str | None:
    """Return a sentence on how a saved model of a class made here is loaded without us; None for any other model."""
    if not is_made(model):
        return None
    return (
        f"transformers has no class {type(model).__name__}; it is made of transformers' own parts. What is saved is "
        "the checkpoint's own class, with its other parts unchanged: plain transformers loads it with "
        f"{LOADER}.from_pretrained, and peft puts an adapter on that"
    )


def _why_not(whole: Any, kind: Any) -> str | None:
    """Return why the class for images and text of a config can't be taken apart, or None."""
    if kind not in MODEL_MAPPING:
        return "nor a class of its body"
    conditional = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[whole]
    if not place(conditional):
        return f"and {conditional.__name__} does not say where it holds the text part"
    if not _has_a_plain_head(conditional):
        return f"and {conditional.__name__} changes its logits behind the output head"
    return None


def _has_a_plain_head(conditional: Any) -> bool:
    """Return whether a class's logits are its output head's as they are, by the code of its forward."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(conditional.forward)))
    except (OSError, TypeError, SyntaxError):
        return False
    values = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "logits" for to in node.targets)
    ]
    return [ast.unparse(value) for value in values] == ["self.lm_head(hidden_states)"]


def _made(whole: Any, kind: Any) -> Any:
    body, conditional = MODEL_MAPPING[kind], MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[whole]
    family = next(item for item in body.__mro__ if item.__name__.endswith("PreTrainedModel"))
    fields = {
        "base_model_prefix": "model",
        "config_class": kind,
        "__module__": __name__,
        **transformers_internals.tied_to({"lm_head.weight": f"model{_EMBEDDING}"}),
        "whole_class": conditional,
    }
    return type(f"{body.__name__.removesuffix('Model')}ForCausalLM", (TextWriter, family, GenerationMixin), fields)


# ---------------------------------------------------------------- saved as the whole


def complete(model: Any, folder: Path, checkpoint: str, revision: str | None) -> None:
    """Make of a saved text part the whole model, in place, with all other weights of its checkpoint as they are there.

    model: of a class made here, which `save_pretrained` has written into the folder. checkpoint: Hub id or folder.
    Memory: one shard of weights at a time. Raises SetupError for a checkpoint that can't be read.
    """
    where = place(type(model).whole_class)
    names = {"model.": f"{where}.", "lm_head.": "lm_head."}
    try:
        others = _shards(checkpoint, revision)
        config = _object(_found(checkpoint, _CONFIG, revision))
    except (OSError, ValueError) as error:
        raise SetupError(
            f"the text part is saved inside of its whole checkpoint, and {checkpoint!r} can't be read: {error}"
        ) from error
    own = _shards(str(folder), None)
    parts: list[tuple[Path, list[str]]] = []
    for source in [*own, *others]:
        weights = dict(_renamed(source, names) if source in own else _of_other_parts(source, model))
        if weights:
            parts.append((folder / f"part-{len(parts) + 1:05}.safetensors", list(weights)))
            save_file(weights, parts[-1][0], metadata={"format": "pt"})
    for path in own:
        path.unlink()
    weight_map: dict[str, str] = {}
    for number, (path, held) in enumerate(parts, start=1):
        named = f"model-{number:05}-of-{len(parts):05}.safetensors"
        path.rename(folder / named)
        weight_map |= dict.fromkeys(held, named)
    files.write_text(folder / _INDEX, json.dumps({"metadata": {}, "weight_map": weight_map}, indent=2) + "\n")
    dtype = _object(folder / _CONFIG)["dtype"]
    files.write_text(folder / _CONFIG, json.dumps({**config, "dtype": dtype}, indent=2) + "\n")
    for name in _PROCESSORS:
        found = transformers_internals.found_in_checkpoint(checkpoint, name, revision)
        if found is not None:
            shutil.copyfile(found, folder / name)


def is_of_another_part(name: str, model: Any) -> bool:
    """Return whether a weight of a whole checkpoint is neither of the text part nor its output head.

    model: of a class made here. Its text part may lie where the class of today has it, or, in older checkpoints,
    directly in `model`.
    """
    inside = f"{place(type(model).whole_class)}."
    bare = re.sub(r"^(?:model\.)?(?:language_model|text_model)\.(?:model\.)?", "model.", name)
    parts = bare.removeprefix("model.").split(".")
    is_text = name.startswith(inside) or (bare.startswith("model.") and hasattr(model.model, parts[0]))
    return not is_text and "lm_head" not in name.split(".")


def _shards(checkpoint: str, revision: str | None) -> list[Path]:
    """Return the files with a checkpoint's weights. Raises OSError for none."""
    index = transformers_internals.found_in_checkpoint(checkpoint, _INDEX, revision)
    names = [_WEIGHTS] if index is None else sorted(set(_object(Path(index))["weight_map"].values()))
    return [_found(checkpoint, name, revision) for name in names]


def _found(checkpoint: str, name: str, revision: str | None) -> Path:
    """Return the path of a checkpoint's file. Raises OSError where it does not have it."""
    found = transformers_internals.found_in_checkpoint(checkpoint, name, revision)
    if found is None:
        raise FileNotFoundError(f"it has no {name}")
    return Path(found)


def _object(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files.read_text(path))
    return content


def _renamed(source: Path, names: dict[str, str]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in _tensors(source):
        old, new = next(pair for pair in names.items() if name.startswith(pair[0]))
        yield f"{new}{name.removeprefix(old)}", tensor


def _of_other_parts(source: Path, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    return _tensors(source, lambda name: is_of_another_part(name, model))


def _tensors(source: Path, wanted: Callable[[str], bool] = bool) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(source, "pt") as stored:
        for name in stored.keys():  # noqa: SIM118 (no mapping)
            if wanted(name):
                yield name, stored.get_tensor(name)
