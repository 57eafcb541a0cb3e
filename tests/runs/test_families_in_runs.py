"""Whole runs of families of today: text parts of wrapped checkpoints, and heads that transformers has no class for."""

import pytest
import torch

from bench.evaluation import saved_model
from bench.models import own_heads
from bench.records import store
from bench.reporting.figures import run as figures
from bench.runner import lifecycle
from tests.helpers import families, tiny_cards

CARD = "id: {folder}\nfamily: decoder\nlicence: none\nmax_length: 128\n"
RECIPE = """
dataset: reviews
model: {name}
method: {method}
objective: {objective}
training: {{steps: 3, global_batch: 8, log_every: 1, learning_rate: 1e-3}}
limit: {{train: 24, test: 8}}
max_length: 128
"""
LORA = "{name: lora, config: {r: 4, target_modules: all-linear}}"
QLORA = "{name: qlora, compute_dtype: float32, config: {r: 4, target_modules: all-linear}}"
# Family -> method, objective, class.
RUNS = {
    "gemma3": (LORA, "text", "Gemma3ForCausalLM"),
    "gemma4": ("full", "head", "Gemma4ForSequenceClassification"),
    "llama4": (QLORA, "text", "Llama4ForCausalLM"),
    "qwen3_5": (LORA, "head", "Qwen3_5TextForSequenceClassification"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_wrapped_checkpoint_is_run_to_the_end(name, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "draw_all", lambda *_: {})  # half of the time of so short a run
    method, objective, kind = RUNS[name]
    checkpoint = families.write(name, tmp_path / "checkpoint", wide=method == QLORA)
    tiny_cards.trained_tokenizer("wordpiece", families.VOCABULARY, "decoder").save_pretrained(checkpoint)
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("BENCH_INCLUDE", "")  # put back afterwards: included folders stay for a whole process
    card = f"wrapped_{name}"
    (tmp_path / "models" / f"{card}.yaml").write_text(CARD.format(folder=checkpoint), encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(name=card, method=method, objective=objective), encoding="utf-8")
    out = tmp_path / "out"
    assert lifecycle.main([str(recipe), "--include", str(tmp_path), "--out", str(out)]) == 0
    record = store.read(out)
    assert record.model.class_ == kind
    assert record.memory_predicted["train"] is not None
    if name != "qwen3_5":  # it computes in chunks of 64 tokens, so that no polynomial has what texts cost
        assert record.throughput["train"]["model_flops_per_s"] > 0
    (note,) = [note for note in record.notes if "text part" in note]
    beginning = f"of the {name} checkpoint only the text part is used, as {kind}; its vision part is not loaded"
    assert note.startswith(beginning)
    # The saved model scored as the trained one, or the run would be invalid; it is the text part alone.
    assert {check.name for check in record.checks if check.ok} >= {"saved_model", "gradients", "changed"}
    model, tokenizer, _ = saved_model.load(out)
    assert not any("vision" in name for name, _ in model.named_parameters())
    with torch.no_grad():
        assert model(**tokenizer("Dirty.", return_tensors="pt")).logits.isfinite().all()
    assert own_heads.is_own(model) == (name == "gemma4")
