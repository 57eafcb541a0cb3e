"""Adapters of the PEFT library: LoRA, DoRA, rsLoRA, IA3 and any other, by PEFT's own names."""

from typing import Any

from pydantic import Field, model_validator

from bench.adapters import check_config, wrap
from bench.dropin import LoadPlan
from bench.settings import Name, Strict


class Options(Strict):
    """peft: name of a PEFT configuration class. config: its fields, e.g. r, lora_alpha, target_modules, use_dora."""

    peft: Name = "LoraConfig"
    config: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> "Options":
        check_config(self.peft, self.config)
        return self


def load_plan(options: Options) -> LoadPlan:
    """The body may be held in 16 bits: only adapters and head get gradients."""
    return LoadPlan(frozen_body=True, adapter=True)


def adapt(model: Any, options: Options) -> Any:
    """Wraps the model; head and newly initialised modules are trained and saved beside the adapter."""
    return wrap(model, options.peft, options.config)
