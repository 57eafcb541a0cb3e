"""A model that another program than torch runs, as the readers of this harness call one."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

# Inputs by name, int64 [rows, tokens], padded on the right -> outputs by name, float32.
Run = Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]


class EngineModel(nn.Module):
    """Calls `run` for each batch. config: transformers' own of the model, of which readers ask."""

    def __init__(self, config: Any, run: Run) -> None:
        super().__init__()
        self.config, self._run = config, run
        # Readers ask where the model is and of which type its weights are.
        self.place = nn.Embedding(1, 1)

    @property
    def base_model(self) -> "EngineModel":
        """Return itself: nothing is inside of it that could be run without pads."""
        return self

    def get_input_embeddings(self) -> nn.Embedding:
        """Return a table on the CPU, in float32."""
        return self.place

    def forward(self, **inputs: Any) -> SimpleNamespace:
        """Return the outputs of a batch as attributes; switches such as `use_cache` are no inputs."""
        tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        return SimpleNamespace(**self._run(tensors))
