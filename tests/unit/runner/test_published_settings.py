"""Notes in the record of a run with published settings."""

from types import SimpleNamespace

import pytest

from bench.config.recipe import AsPublished
from bench.runner import published_settings


def noted(mark, device):
    notes = []
    run = SimpleNamespace(
        resolved=SimpleNamespace(recipe=SimpleNamespace(as_published=mark)),
        record=SimpleNamespace(note=notes.append),
        state=SimpleNamespace(device=SimpleNamespace(type=device)),
    )
    published_settings.note(run)
    return notes


@pytest.mark.parametrize(
    ("mark", "mixed", "device", "expected"),
    [
        (None, "no", "cpu", []),
        ({}, "no", "cpu", ["settings as published: S"]),
        ({"precision": "float32"}, "no", "cpu", ["settings as published: S"]),
        (
            {"precision": "fp16", "but_for": ("model: a for b",)},
            "no",
            "cpu",
            ["settings as published: S; but for model: a for b; precision: float32 for fp16, on a CPU"],
        ),
        ({"precision": "fp16"}, "bf16", "cuda", ["settings as published: S; but for precision: bf16 for fp16"]),
        ({"precision": "fp16"}, "fp16", "cuda", ["settings as published: S"]),
    ],
)
def test_what_is_different_is_noted(monkeypatch, mark, mixed, device, expected):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", mixed)
    made = None if mark is None else AsPublished(source="S", **mark)
    assert noted(made, device) == expected
