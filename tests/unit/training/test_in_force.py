"""training/in_force.py: what is read back from live objects, and each thing that may not be as it was asked for."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import get_scheduler

from bench.config.training import Training
from bench.training import in_force
from bench.training.schedule import Budget
from bench.training.state import FitInputs

SETTINGS = {
    "steps": 10, "global_batch": 8, "per_device_batch": 4, "learning_rate": 0.01, "schedule": "cosine", "warmup": 2,
    "optimizer": "adamw_torch", "weight_decay": 0.1, "clip_norm": 0.5,
}  # fmt: skip


def given(model, **changes):
    settings = Training(**{**SETTINGS, **changes})
    scoring = SimpleNamespace(precision="no", device=torch.device("cpu"))
    known = dict.fromkeys(("task", "train", "folder", "clock", "display"))
    budget = Budget.plan(settings, 40, 1)
    return FitInputs(**known, model=model, scoring=scoring, settings=settings, budget=budget, seed=0)


def live(model, inputs, **changes):
    """The objects of an engine that does what it is asked to, but for the changes."""
    settings = inputs.settings
    decay = changes.pop("weight_decay", settings.weight_decay)
    rate = changes.pop("learning_rate", settings.learning_rate)
    trained = changes.pop("trained", list(model.parameters()))
    groups = [{"params": trained[:1], "weight_decay": decay}, {"params": trained[1:], "weight_decay": 0.0}]
    kind = changes.pop("kind", torch.optim.AdamW)
    optimizer = kind(groups, lr=rate)
    how = [changes.pop("schedule", settings.schedule), optimizer, changes.pop("warmup", 2), changes.pop("steps", 10)]
    accelerator = {"num_processes": 1, "native_amp": False, "mixed_precision": "no", **changes.pop("accelerator", {})}
    return in_force.Live(
        accelerator=SimpleNamespace(**accelerator),
        optimizer=SimpleNamespace(optimizer=optimizer),
        scheduler=SimpleNamespace(scheduler=get_scheduler(*how)),
        clip_norm=changes.pop("clip_norm", settings.clip_norm),
    )


def told(model, inputs, objects):
    wanted, found = in_force.asked(inputs), in_force.read(inputs, objects)
    assert set(wanted) <= set(found)
    return in_force.differences(wanted, found)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_with_warmup", "polynomial", "inverse_sqrt"])
def test_as_asked(schedule):
    model = nn.Linear(3, 2)
    inputs = given(model, schedule=schedule)
    assert told(model, inputs, live(model, inputs)) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"learning_rate": 0.02}, "learning_rate 0.02 is in force, where 0.01 was asked for"),
        ({"weight_decay": 0.2}, "weight_decay 0.2 is in force, where 0.1 was asked for"),
        ({"clip_norm": None}, "clip_norm 0.0 is in force, where 0.5 was asked for"),
        ({"clip_norm": 1.0}, "clip_norm 1.0 is in force"),
        ({"warmup": 0}, "rates "),
        ({"warmup": 1}, "rates "),
        ({"schedule": "linear"}, "rates "),
        ({"schedule": "constant"}, "rates "),
        ({"steps": 20}, "rates "),
        ({"kind": torch.optim.SGD}, "optimizer {'class': 'SGD', 'fused': False} is in force"),
        ({"accelerator": {"native_amp": True, "mixed_precision": "bf16"}}, "precision bf16 is in force, where no was"),
        ({"accelerator": {"num_processes": 2}}, "global_batch 16 is in force, where 8 was asked for"),
    ],
)
def test_each_thing_that_is_not_as_asked(changes, sentence):
    model = nn.Linear(3, 2)
    inputs = given(model)
    found = told(model, inputs, live(model, inputs, **changes))
    assert len(found) == 1 + ("learning_rate" in changes)  # with another rate, those of all steps are others
    assert found[0].startswith(sentence)


def test_a_launcher_whose_precision_nobody_enters():
    model = nn.Linear(3, 2)
    inputs = given(model)
    inputs.scoring.precision = "fp16"
    objects = live(model, inputs, accelerator={"native_amp": False, "mixed_precision": "fp16"})
    assert told(model, inputs, objects) == ["precision no is in force, where fp16 was asked for"]


def test_parameters_that_no_optimizer_has_and_frozen_ones_that_it_has():
    model = nn.Linear(3, 2)
    inputs = given(model)
    found = told(model, inputs, live(model, inputs, trained=[model.weight]))
    assert found == ["trained_parameters 6 is in force, where 8 was asked for"]
    model.bias.requires_grad_(False)
    inputs = given(model)
    assert told(model, inputs, live(model, inputs)) == ["trained_parameters 8 is in force, where 6 was asked for"]


def test_recomputation_and_decay_of_what_has_none():
    model = nn.Linear(3, 2)
    inputs = given(model, gradient_checkpointing=True)
    objects = live(model, inputs, weight_decay=0.0)
    assert told(model, inputs, objects) == ["gradient_checkpointing False is in force, where True was asked for"]
    model.gradient_checkpointing = True
    assert told(model, inputs, objects) == []


def test_under_fsdp_only_the_precision_is_hidden(monkeypatch):
    model = nn.Linear(3, 2)
    inputs = given(model)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    found = told(model, inputs, live(model, inputs, clip_norm=3.0, accelerator={"mixed_precision": "bf16"}))
    assert found == ["clip_norm 3.0 is in force, where 0.5 was asked for"]


def deepspeed(**changes):
    """An accelerator with an engine of DeepSpeed, as its own configuration has it."""
    told = {"gradient_clipping": 0.5, "bfloat16_enabled": False, "fp16_enabled": False, "torch_autocast_enabled": False}
    told |= changes
    engine = SimpleNamespace(**{name: lambda value=value: value for name, value in told.items()})
    return {"deepspeed_engine_wrapped": SimpleNamespace(engine=engine)}


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({}, []),
        ({"gradient_clipping": 1.0}, ["clip_norm 1.0 is in force, where 0.5 was asked for"]),
        ({"bfloat16_enabled": True}, ["precision bf16 is in force, where no was asked for"]),
        ({"fp16_enabled": True}, ["precision fp16 is in force, where no was asked for"]),
        (
            {"torch_autocast_enabled": True, "torch_autocast_dtype": torch.bfloat16},
            ["precision bf16 is in force, where no was asked for"],
        ),
    ],
)
def test_under_deepspeed_its_own_engine_is_asked(monkeypatch, changes, sentences):
    model = nn.Linear(3, 2)
    inputs = given(model)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    # What the Trainer would clip to does not count: DeepSpeed clips by itself.
    assert told(model, inputs, live(model, inputs, clip_norm=9.0, accelerator=deepspeed(**changes))) == sentences
    (wrong,) = told(model, inputs, live(model, inputs, learning_rate=0.02, accelerator=deepspeed()))[:1]
    assert wrong == "learning_rate 0.02 is in force, where 0.01 was asked for"


@pytest.mark.parametrize("mode", [True, False])
def test_an_optimizer_in_place_of_the_recipe_s_is_told(monkeypatch, mode):
    """As DeepSpeed's Adam for CPUs does, which is AdamW or Adam."""
    model = nn.Linear(3, 2)
    inputs = given(model)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    objects = live(model, inputs, accelerator=deepspeed())
    optimizer = objects.optimizer.optimizer
    optimizer.__class__ = type("DeepSpeedCPUAdam", (type(optimizer),), {"adam_w_mode": mode})
    found = told(model, inputs, objects)
    assert [text.partition(",")[0] for text in found] == ([] if mode else ["optimizer {'class': 'DeepSpeedCPUAdam'"])


def test_every_optimizer_of_the_schema_is_known():
    names = Training.model_fields["optimizer"].annotation.__args__
    assert set(names) == set(in_force.OPTIMIZERS)
