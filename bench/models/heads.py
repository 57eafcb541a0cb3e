"""Heads: a classifier's task head, the MLP head, the probe's linear head, and the output head of a language model."""

from typing import Any

import torch
from torch import nn

from bench.models.library_internals import transformers_internals

# Set on a built model: names of parameters that its checkpoint did not contain.
MISSING = "bench_missing_keys"


def is_generative(model: Any) -> bool:
    """Return whether a model, wrapped or not, is a language model: it writes text, and has no task head."""
    return bool(getattr(unwrapped(model), "can_generate", bool)())


def head_names(model: Any) -> list[str]:
    """Return the children of a `...ForSequenceClassification` outside of its base model that hold parameters.

    None for a language model: its output head is part of what was pretrained, and often the embedding itself.
    """
    if is_generative(model):
        return []
    return [
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and any(True for _ in child.parameters())
    ]


def count_in_heads(model: Any) -> int:
    """Return the number of parameters of the task head; 0 for a language model."""
    return sum(parameter.numel() for name in head_names(model) for parameter in getattr(model, name).parameters())


def transformer_blocks(model: Any) -> list[nn.Module]:
    """Return the stack of blocks whose output the head reads; the decoder's for an encoder-decoder.

    Lists inside a list are parts of a block: T5's layers of a block, ALBERT's layers of a group, a mixture's experts.
    """
    outermost = _outermost_stacks(model)
    if not outermost:
        return []
    return list(outermost[-1] if model.config.is_encoder_decoder else max(outermost, key=_depth))


def layer_classes(model: Any) -> set[str]:
    """Return the classes of the layers that are sharded and gathered as one.

    Those that the model names, or, where it names none as Marian and Pegasus do, those of its stacks of blocks.
    """
    named = set(transformers_internals.unsplit_layers(model))
    return named or {type(block).__name__ for stack in _outermost_stacks(model) for block in stack}


def _outermost_stacks(model: Any) -> list[nn.ModuleList]:
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inner = {id(part) for stack in stacks for part in stack.modules() if part is not stack}
    return [stack for stack in stacks if id(stack) not in inner]


def _depth(stack: nn.ModuleList) -> int:
    return len(stack)


def output_head_names(model: Any) -> list[str]:
    """Return the layer of a language model that gives its logits over the vocabulary; [] for a classifier."""
    inner = unwrapped(model)
    layer = inner.get_output_embeddings() if is_generative(inner) else None
    return [name for name, module in inner.named_modules() if module is layer]


def routers(model: Any) -> list[str]:
    """Return routers of experts that are linear layers, and give more than their product, as Llama 4's do.

    No adapter can take the place of one.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [name for name, module in layers if type(module).__name__.endswith("Router")]


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is a LayerNorm, or an RMSNorm, which each model has as a class of its own."""
    return isinstance(module, nn.LayerNorm) or "norm" in type(module).__name__.lower()


def final_norms(model: Any) -> list[nn.Module]:
    """Return the norm between the last block and the output head; none where each block ends with one, as in BART."""
    blocks = {id(block) for block in transformer_blocks(model)}
    for parent in model.modules():
        stacks = [child for child in parent.children() if isinstance(child, nn.ModuleList)]
        if any(id(block) in blocks for stack in stacks for block in stack):
            # Norms of the embeddings stand beside the blocks too (BLOOM, BART), in an order that means nothing (OPT).
            return [child for name, child in parent.named_children() if is_norm(child) and "emb" not in name]
    return []


def reads_last_token(model: Any) -> bool:
    """Return whether tokens of the body see only earlier ones, so that the head must read the last one."""
    if model.config.is_encoder_decoder:
        return False
    # All decoders' heads are called `score`; not all of their attention layers are marked.
    return "score" in head_names(model) or any(getattr(module, "is_causal", False) for module in model.modules())


def looks_into_mask(model: Any) -> bool:
    """Return whether layers that carry a state ask whether a mask hides anything: the meta device has no answer."""
    kinds = getattr(unwrapped(model).config.get_text_config(), "layer_types", None) or ()
    return any(kind == "linear_attention" or not kind.endswith("attention") for kind in kinds)


class MlpHead(nn.Module):
    """Linear, layer norm if asked for, GELU, dropout, linear.

    features: [..., inputs], or [batch, tokens, inputs] of which the first token is read when `first_token` is set,
    as RoBERTa's own head does. The layers' names are no other head's: RoBERTa's and T5's own `dense` and `out_proj`
    must not take these weights for theirs.
    """

    def __init__(
        self, inputs: int, hidden: int, labels: int, dropout: float, first_token: bool, norm: bool = False
    ) -> None:
        super().__init__()
        self.mlp_in = nn.Linear(inputs, hidden)
        if norm:
            self.mlp_norm = nn.LayerNorm(hidden)
        self.norm = norm
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.mlp_out = nn.Linear(hidden, labels)
        self.first_token = first_token

    def forward(self, features: torch.Tensor, **_: Any) -> torch.Tensor:
        """Return logits [..., labels]."""
        if self.first_token and features.dim() == 3:
            features = features[:, 0]
        inner = self.mlp_in(features)
        if self.norm:
            inner = self.mlp_norm(inner)
        return self.mlp_out(self.dropout(self.activation(inner)))


def attach_mlp(model: Any, hidden: int, dropout: float, *, norm: bool = False) -> None:
    """Replace the model's last head module by an MlpHead of the same inputs and outputs, in place."""
    name = head_names(model)[-1]
    old = getattr(model, name)
    first_token = not isinstance(old, nn.Linear)
    inputs = model.config.hidden_size if first_token else old.in_features
    new = MlpHead(inputs, hidden, model.config.num_labels, dropout, first_token, norm)
    keep_in_float32(new)
    setattr(model, name, new.to(next(old.parameters()).device))


class ProbeModel(nn.Module):
    """A frozen base model and a linear layer on its features: the first token's, or the mean over real tokens.

    The linear layer is fitted outside (by scikit-learn) and written in; nothing here has gradients.
    """

    def __init__(self, base: Any, pooling: str, num_labels: int) -> None:
        super().__init__()
        self.base, self.pooling, self.config = base.requires_grad_(False), pooling, base.config
        self.linear = nn.Linear(base.config.hidden_size, num_labels).requires_grad_(False)

    def features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **extra: Any) -> torch.Tensor:
        """Return features [batch, hidden] of ids [batch, tokens], in float32."""
        encoder = self.base.get_encoder() if self.config.is_encoder_decoder else self.base
        hidden = encoder(input_ids=input_ids, attention_mask=attention_mask, **extra).last_hidden_state.float()
        if self.pooling == "first":
            return hidden[:, 0]
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **extra: Any) -> Any:
        """Return logits [batch, labels], in an object with `.logits` as transformers' models give."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        return SequenceClassifierOutput(logits=self.linear(self.features(input_ids, attention_mask, **extra)))


def keep_in_float32(module: nn.Module) -> None:
    """Put a head that is trained into float32 and cast its inputs, when the body is held in 16 bits."""
    module.float()
    module.register_forward_pre_hook(_to_float32)


def _to_float32(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(arg.float() if torch.is_tensor(arg) and arg.is_floating_point() else arg for arg in args)


def fit_output_head(model: Any) -> None:
    """Cast the inputs of a language model's output head to the head's own type, which nothing trains."""
    for name in output_head_names(model):
        unwrapped(model).get_submodule(name).register_forward_pre_hook(_to_weight_type)


def _to_weight_type(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(arg.to(module.weight.dtype) for arg in args)


def unwrapped(model: Any) -> Any:
    """Return the transformers model inside of a PEFT model or a probe; any other model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else getattr(model, "base", model)


def unwrapped_head_names(model: Any) -> list[str]:
    """Return what is not quantised: heads and newly initialised modules, also of a wrapped model; [] for a probe."""
    if isinstance(model, ProbeModel):
        return []
    inner = unwrapped(model)
    return [*head_names(inner), *output_head_names(inner), *newly_initialized_modules(inner)]


def newly_initialized_modules(model: Any) -> list[str]:
    """Return modules of the body with parameters that the checkpoint did not contain, e.g. a pooler."""
    parents = {key.rpartition(".")[0] for key in getattr(model, MISSING, [])}
    outside = head_names(model)
    return sorted(name for name in parents if name.split(".")[0] not in outside)


def freeze_body(model: Any) -> None:
    """Freeze all but the task head and newly initialised modules, in place; what is trained is held in float32."""
    model.requires_grad_(False)
    for name in [*head_names(model), *newly_initialized_modules(model)]:
        module = model.get_submodule(name)
        keep_in_float32(module)
        module.requires_grad_(True)
