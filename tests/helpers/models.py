"""Tiny random models of every shipped family and what surrounds them: shared by the tests of models and methods."""

from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from bench.config import contracts, registry
from bench.config.cards import ModelCard
from bench.config.recipe import Head
from bench.data import tokenizer as tokenizers
from bench.data.batching import collate, collate_answers
from bench.data.examples import Encoded
from bench.evaluation.metric_set import MetricSet
from bench.evaluation.reader import Scoring
from bench.models import build as models
from bench.models import heads
from bench.models.losses import answer_loss_sum
from tests.helpers.tiny_cards import (  # noqa: F401 (for the tests of models, which use both)
    CARDS,
    DECODERS,
    FAMILIES,
    KINDS,
    LABELS,
    TEXTS,
    WRITERS,
    card,
    narrow,
    tokenizer,
)

CPU = torch.device("cpu")
# Of PEFT's methods, options that fit the tiny model.
PEFT_SIZES = {
    "C3AConfig": {"block_size": 32},
    "FourierFTConfig": {"n_frequency": 50},
    "WaveFTConfig": {"n_frequency": 50},
    "VBLoRAConfig": {"vector_length": 32, "num_vectors": 16},
    "IA3Config": {"feedforward_modules": []},
    "LNTuningConfig": {"target_modules": ["LayerNorm"]},
    "ShiraConfig": {"r": 4},
}

logging.disable_progress_bar()
logging.set_verbosity_error()
# More threads than free cores make a tiny model a hundred times slower.
torch.set_num_threads(1)


def liven(model: Any) -> Any:
    """Larger random weights, in place: freshly initialised, a tiny model says nearly the same of every text."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0.0, 0.1, generator=generator)
    return model


def options(method: str, settings: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """(the method's module, its checked options)."""
    module = registry.load("methods", method)
    return module, module.Options.model_validate(settings or {})


def build(
    known: ModelCard,
    folder: Path,
    plan: Any = None,
    head: Head | None = None,
    weights: str | None = None,
    **changes: Any,
) -> Any:
    """A model of a card, seeded, without a method's changes unless `plan` says so."""
    torch.manual_seed(13)
    settings: dict[str, Any] = {
        "auto_class": "AutoModelForSequenceClassification",
        "head": head or Head(),
        "labels": LABELS,
        "multi_label": False,
        "tokenizer": changes.pop("tokenizer", None) or tokenizer(known),
        "weights": weights or known.weights,
        "base_folder": folder / "base",
        "device": CPU,
        **changes,
    }
    return models.build(known, plan or contracts.LoadPlan(), **settings)


def adapted(known: ModelCard, folder: Path, method: str, settings: dict[str, Any] | None = None, **changes: Any) -> Any:
    """The same with a method applied, as `stages.build_model` does it."""
    module, checked = options(method, settings)
    plan = module.load_plan(checked)
    model = build(known, folder, plan, weights=plan.weights or known.weights, **changes)
    return module.adapt(model, checked)


def text_build(known: ModelCard, folder: Path, plan: Any = None, weights: str | None = None, **changes: Any) -> Any:
    """The same as a language model."""
    kind = models.GENERATIVE_CLASSES.get(known.family, "AutoModelForCausalLM")
    changes = {"auto_class": kind, "labels": (), "head": None, **changes}
    return build(known, folder, plan, weights=weights, **changes)


def text_adapted(known: ModelCard, folder: Path, method: str, settings: dict[str, Any] | None = None) -> Any:
    """A language model with a method applied."""
    module, checked = options(method, settings)
    plan = module.load_plan(checked)
    return module.adapt(text_build(known, folder, plan, weights=plan.weights or known.weights), checked)


def lessons(known: ModelCard, texts: list[str] = TEXTS) -> list[dict[str, Any]]:
    """Texts with an answer to learn, of one to three tokens and the end."""
    tokens = tokenizer(known)
    rows = []
    for number, row in enumerate(tokenizers.encode(tokens, texts)):
        prompt = [token for token in row["input_ids"] if token != tokens.eos_token_id]
        answer = [*range(7 + number % 4, 8 + number % 4 + number % 3), tokens.eos_token_id]
        if known.family == "encoder_decoder":
            rows.append({"input_ids": prompt, "token_labels": answer, "labels": number % 3})
        else:
            marked = [-100] * len(prompt) + answer
            rows.append({"input_ids": prompt + answer, "token_labels": marked, "labels": number % 3})
    return rows


def text_batch(known: ModelCard, texts: list[str] = TEXTS) -> dict[str, torch.Tensor]:
    """`lessons` padded on the right, as the engines get them."""
    return collate_answers(lessons(known, texts), 0, 0 if known.family == "encoder_decoder" else None)


def features(tokens: Any, texts: list[str] = TEXTS) -> list[dict[str, Any]]:
    """Encoded texts with labels 0, 1, 2, 0 ..."""
    rows = tokenizers.encode(tokens, texts)
    return [{**row, "labels": number % len(LABELS)} for number, row in enumerate(rows)]


def batch(tokens: Any, texts: list[str] = TEXTS) -> dict[str, torch.Tensor]:
    """`features` padded on the right."""
    return collate(features(tokens, texts), tokens)


def logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """[batch, labels] or [batch, tokens, vocabulary], in evaluation mode and without gradients."""
    model.eval()
    with torch.no_grad():
        return model(**{name: value for name, value in inputs.items() if name != "labels"}).logits.float()


def backward(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """One forward and backward pass in training mode."""
    model.train()
    answer = model(**{name: value for name, value in inputs.items() if name != "labels"})
    if answer.logits.dim() == 3:
        answer_loss_sum(answer.logits, inputs["labels"], shifted="decoder_input_ids" not in inputs).backward()
    else:
        torch.nn.functional.cross_entropy(answer.logits.float(), inputs["labels"]).backward()


def without_gradient(model: Any) -> list[str]:
    """Names of trainable parameters whose gradient is missing or not finite, as the engines look for them."""
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.isfinite().all())
    ]


def trainable(model: Any) -> list[str]:
    """Names of trainable parameters."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def train_a_little(model: Any, inputs: dict[str, torch.Tensor], steps: int = 2) -> None:
    """Moves every trainable parameter, so that a saved model differs from a fresh one."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        backward(model, inputs)
        optimizer.step()
        optimizer.zero_grad()


def scoring(tokens: Any, *, multi_label: bool = False, batch_tokens: int | None = 64) -> Scoring:
    """What a run hands to the scorer."""
    return Scoring(
        tokenizer=tokens,
        metrics=MetricSet(("accuracy" if not multi_label else "jaccard",), multi_label=multi_label, num_labels=3),
        batch_tokens=batch_tokens,
        threshold=0.5,
        device=CPU,
        precision="no",
    )


def encoded(rows: list[dict[str, Any]], name: str = "test") -> Encoded:
    """A split whose ids are not in the order of their rows."""
    ids = tuple(f"{name}/{(7 * number + 3) % len(rows):03}" for number in range(len(rows)))
    return Encoded(name=name, ids=ids, features=rows, truncated=0)


def description(model: Any, known: ModelCard, method: str, plan: Any, text: bool) -> dict[str, Any]:
    """The description that `stages.save` writes beside a saved model."""
    return {
        "task": "text_classification",
        "objective": "text" if text else "head",
        "labels": list(LABELS),
        "multi_label": False,
        "threshold": 0.5,
        "max_length": 64,
        "method": method,
        "pooling": None,
        "head": {"kind": "own"},
        "quantization": plan.quantization,
        "unquantized": heads.unwrapped_head_names(model),
        "pad_token_id": 0,
        "model_card": known.model_dump(),
    }
