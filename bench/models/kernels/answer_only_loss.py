"""Logits only where there is a label: a language model gives the loss on its answers, not logits of every token.

    reason = attach(model)  # None: on; otherwise why the model must compute all of its logits
    loss = model(**padded_batch, num_answers=n).loss / items
    detach(model)  # the model as it was given

The model's own forward runs up to its output head, which is called, as a module, with the places only that predict a
label. Prompts have none, so that logits over a wide vocabulary cost a hundredth, and are never all held at once. What
wraps the model (adapters, DDP, DeepSpeed, autocast) is called as ever, and sees a forward that returns a loss.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import CausalLMOutput

from bench.data.batching import IGNORED
from bench.models.heads import unwrapped
from bench.models.kernels import patch
from bench.models.losses import summed_loss

# Attribute of a model that remembers its own forward.
STATE = "bench_answer_only_loss"
# Rows of logits at a time: 1 GiB in float32 for a vocabulary of 256k. Fewer would be no faster.
CHUNK_ROWS = 1024
# Fields of transformers' configs by which models multiply their logits (Cohere, Falcon-H1), or divide them (Granite).
FACTORS, DIVISORS = ("logit_scale", "lm_head_multiplier"), ("logits_scaling",)
# Logits beyond the cap are bent towards it, in Gemma 2 and its like.
SOFTCAP = "final_logit_softcapping"


def attach(model: Any, chunk_rows: int = CHUNK_ROWS) -> str | None:
    """Let a language model, wrapped or not, return the loss on its answers' tokens, where it is asked to.

    Returns None, or why not: a sentence's part that follows "the model". What it declares is asked first; then its own
    logits of a few tokens are compared with those made here.
    """
    inner = unwrapped(model)
    if patch.is_attached(inner, STATE):
        return None
    reason = _undeclared(inner) or _differs(inner)
    if reason is None:
        patch.attach(inner, STATE, forward_on_answers(inner, inner.forward, chunk_rows))
    return reason


def detach(model: Any) -> None:
    """Give the model its own forward again, without what was wrapped around it since."""
    patch.detach(unwrapped(model), STATE)


def _undeclared(inner: Any) -> str | None:
    config = inner.config.get_text_config()
    if inner.get_output_embeddings() is None:
        return "has no output head"
    if getattr(config, "router_aux_loss_coef", None):
        return "is a mixture of experts, whose balancing is a part of its loss"
    return None


def forward_on_answers(inner: Any, own: Callable[..., Any], chunk_rows: int) -> Callable[..., Any]:
    """Return the model's forward with one more argument: num_answers, how many labels [batch, tokens] count.

    With it the result is only `.loss`: the negative log-likelihood of these labels, summed, in float32. The number is
    asked for because finding it out would make the host wait for the device.
    """

    @functools.wraps(own)
    def forward(*args: Any, num_answers: int | None = None, **options: Any) -> Any:
        if num_answers is None:
            return own(*args, **options)
        labels = options.pop("labels")
        chosen, wanted = _chosen(inner, _head_input(inner, own, *args, **options), labels, num_answers)
        if num_answers <= chunk_rows:
            return CausalLMOutput(loss=_loss(inner, chosen, wanted))
        # The backward pass computes the logits of a chunk again, so that those of two chunks are never held together.
        losses = [
            checkpoint(_loss, inner, rows, answers, use_reentrant=False)
            for rows, answers in zip(chosen.split(chunk_rows), wanted.split(chunk_rows), strict=True)
        ]
        return CausalLMOutput(loss=torch.stack(losses).sum())

    return forward


def _head_input(inner: Any, own: Callable[..., Any], *args: Any, **options: Any) -> torch.Tensor:
    """Return the input of the model's output head, [batch, tokens, hidden]; the head itself gets no token."""
    given: list[torch.Tensor] = []

    def _take(module: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:
        given.append(values[0])
        return (values[0][:, :0],)

    hook = inner.get_output_embeddings().register_forward_pre_hook(_take)
    try:
        # A cache of keys and values is for writing; in training it would only fill memory.
        own(*args, **{"use_cache": False, **options})
    finally:
        hook.remove()
    (hidden,) = given
    return hidden


def _chosen(inner: Any, hidden: torch.Tensor, labels: torch.Tensor, num_answers: int) -> tuple[Any, Any]:
    """Return (hidden states that predict a label [num_answers, hidden], these labels [num_answers])."""
    if not inner.config.is_encoder_decoder:
        # A decoder's place predicts the next one's label; nothing follows the last.
        labels = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    flat = labels.flatten()
    places = torch.nonzero_static(flat != IGNORED, size=num_answers).squeeze(1)
    return hidden.flatten(0, 1).index_select(0, places), flat.index_select(0, places)


def _loss(inner: Any, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return summed_loss(_logits(inner, hidden), labels)


def _logits(inner: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Return logits [rows, vocabulary] of hidden states [rows, hidden], as the model's own forward makes them."""
    config = inner.config.get_text_config()
    logits = inner.get_output_embeddings()(hidden)
    for name in FACTORS:
        if getattr(config, name, None) is not None:
            logits = logits * getattr(config, name)
    for name in DIVISORS:
        if getattr(config, name, None) is not None:
            logits = logits / getattr(config, name)
    cap = getattr(config, SOFTCAP, None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _differs(inner: Any) -> str | None:
    """Return why logits of a few tokens, chosen as in training, are not the model's own, or None."""
    weight = inner.get_input_embeddings().weight
    ids = (torch.arange(16, device=weight.device).view(2, 8) * 5 + 3) % weight.shape[0]
    labels = torch.cat([torch.full_like(ids[:, :4], IGNORED), ids[:, 4:]], dim=1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if inner.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids

    def _plain() -> list[torch.Tensor]:
        logits = inner(**inputs, use_cache=False).logits
        hidden.append(_head_input(inner, inner.forward, **inputs))
        if hidden[0].shape[:2] != ids.shape:
            raise patch.UnsupportedError(f"gives its output head hidden states of another shape ({[*hidden[0].shape]})")
        return [_chosen(inner, logits, labels, 8)[0]]

    def _fast() -> list[torch.Tensor]:
        return [_logits(inner, _chosen(inner, hidden[0], labels, 8)[0])]

    hidden: list[torch.Tensor] = []
    difference = "changes its logits behind the output head in a way that is not known here"
    return patch.probe(inner, plain=_plain, fast=_fast, difference=difference, exact=1e-4, rounded=0.05)
