"""Notes in the record of a run with published settings."""

from types import SimpleNamespace

import pytest

from bench.config.recipe import AsPublished
from bench.runner import published_settings


def noted(mark, device):
    notes, warned = [], []
    run = SimpleNamespace(
        resolved=SimpleNamespace(recipe=SimpleNamespace(as_published=mark)),
        record=SimpleNamespace(note=notes.append, warn=lambda code, sentence: warned.append((code, sentence))),
        state=SimpleNamespace(device=SimpleNamespace(type=device)),
    )
    published_settings.note(run)
    return notes, warned


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
    notes, warned = noted(made, device)
    assert notes == expected
    # Another precision is no reason not to compare; another model is.
    assert [code for code, _ in warned] == ["not_as_published"] * bool(mark and "but_for" in mark)
    assert all("model: a for b" in sentence for _, sentence in warned)
