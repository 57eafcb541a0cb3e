"""Keeps 8-bit optimisers of one process apart: bitsandbytes has one registry of overrides for all of them."""

import sys
from typing import Any

from torch import nn
from transformers import Trainer, TrainingArguments


def kind_and_options(arguments: TrainingArguments, model: nn.Module) -> tuple[Any, dict[str, Any]]:
    """Return the class of the optimiser that arguments name, and its options, as the Trainer has them."""
    forget_overrides()
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return kind, options


def forget_overrides() -> None:
    """Drop what bitsandbytes keeps of earlier models; call it before an optimiser is made.

    It registers settings, such as the Trainer's 32 bits for embeddings, by a parameter's id and its place in the
    groups, so that another model of the same process would train some parameters in other widths than asked for.
    """
    library = sys.modules.get("bitsandbytes")
    if library is not None:
        library.optim.GlobalOptimManager.get_instance().initialize()
