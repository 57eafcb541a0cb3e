"""models/product_types.py: the type that matrix products run in, and the peak rate that follows."""

import pytest
import torch
from torch import nn

from bench.models import product_types
from tests.helpers import models as tiny

H200 = "NVIDIA H200"


def stack(*kinds):
    return nn.Sequential(*(nn.Linear(64, 64, bias=False).to(kind) for kind in kinds))


@pytest.mark.parametrize(
    ("kinds", "autocast", "expected", "peak"),
    [
        ([torch.float32], "no", {"fp32": 1.0}, 67e12),
        ([torch.float32], "bf16", {"bf16": 1.0}, 989e12),
        # A 16-bit body computes in 16 bits, whatever the launcher says.
        ([torch.bfloat16], "no", {"bf16": 1.0}, 989e12),
        ([torch.float16], "no", {"fp16": 1.0}, 989e12),
        ([torch.bfloat16], "fp16", {"fp16": 1.0}, 989e12),
        ([torch.bfloat16, torch.float32], "no", {"bf16": 0.5, "fp32": 0.5}, 2 / (1 / 989e12 + 1 / 67e12)),
        ([torch.float64], "no", {"float64": 1.0}, None),
    ],
)
def test_types_and_peaks(kinds, autocast, expected, peak):
    model = stack(*kinds)
    assert product_types.shares(model, autocast) == expected
    found = product_types.peak_flops(H200, model, autocast)
    assert found is None if peak is None else found == pytest.approx(peak)
    assert product_types.peak_flops("an unknown device", model, autocast) is None


def test_four_bits_compute_in_their_own_type(tmp_path):
    for chosen, name in (("bfloat16", "bf16"), ("float16", "fp16"), ("float32", "fp32")):
        model = tiny.text_adapted(tiny.card("llama"), tmp_path / chosen, "qlora", {"compute_dtype": chosen})
        shares = product_types.shares(model.base_model.model.model, "no")
        assert shares[name] > 0.5 if name == "fp32" else 0.5 < shares[name] < 1  # adapters are float32
        assert sum(shares.values()) == pytest.approx(1)


def test_tf32_where_torch_may(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert product_types.shares(stack(torch.float32), "no") == {"tf32": 1.0}
        assert product_types.peak_flops(H200, stack(torch.float32), "no") == pytest.approx(494e12)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def test_experts_are_weights_too():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Parameter(torch.zeros(4, 64, 64, dtype=torch.bfloat16))

    assert product_types.shares(nn.Sequential(Experts(), nn.Linear(64, 256)), "no") == {"bf16": 0.5, "fp32": 0.5}
