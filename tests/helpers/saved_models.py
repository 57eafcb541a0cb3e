"""Trains tiny models a little, saves them as a run does, and loads them again."""

from bench.config.recipe import Head
from bench.models import heads, saving
from tests.helpers import models as tiny

METHODS = {
    "full": ("full", {}),
    "head": ("head", {}),
    "last_layers": ("last_layers", {}),
    "lora": ("lora", {}),
    "dora": ("lora", {"config": {"use_dora": True}}),
    "qlora": ("qlora", {"compute_dtype": "float32"}),
}
OWN, MLP = Head(), Head(kind="mlp", hidden=64, dropout=0.1)
TEXTS = [*tiny.TEXTS, "</s> 猫 <pad>"]


def describe(model, known, method, plan, head):
    """As `stages.save` does it."""
    return {
        "task": "text_classification",
        "labels": list(tiny.LABELS),
        "multi_label": False,
        "threshold": 0.5,
        "max_length": 64,
        "method": method,
        "pooling": plan.features.get("pooling"),
        "head": head.model_dump(),
        "quantization": plan.quantization,
        "unquantized": heads.unwrapped_head_names(model),
        "pad_token_id": 0,
        "model_card": known.model_dump(),
    }


def train_and_save(known, folder, method, head=OWN, settings=None):
    """Logits of the trained model after it was saved into a folder, and how it was loaded."""
    name, default = METHODS.get(method, (method, {}))
    module, options = tiny.options(name, settings or default)
    plan = module.load_plan(options)
    model = tiny.build(known, folder, plan, head=head, weights=plan.weights or known.weights)
    if plan.adapter and plan.quantization is None and known.weights == "random":
        model.save_pretrained(folder / "base")
    model = module.adapt(model, options)
    tokens = tiny.tokenizer(tiny.card(known.architecture["model_type"]))
    if name == "probe":
        model.linear.weight.normal_()
    else:
        tiny.train_a_little(model, tiny.batch(tokens))
    saving.save(model, tokens, folder, describe(model, known, name, plan, head))
    return tiny.logits(model, tiny.batch(tokens, TEXTS)), plan


def loaded_logits(folder):
    model, tokens, description = saving.load(folder)
    assert not model.training
    assert description["labels"] == list(tiny.LABELS)
    return tiny.logits(model, tiny.batch(tokens, TEXTS))
