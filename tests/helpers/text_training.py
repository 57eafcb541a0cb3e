"""Not a test: trains tiny language models on answers by `train.fit`, here or, as a script, in one real launch.

Argument of the script: a JSON file with {"folder": [case, settings of the training]}; what `train` returns is written
into each folder.
"""

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from accelerate import PartialState
from safetensors.torch import save_file

from bench.config.recipe import Speed, Training
from bench.distributed import setup
from bench.records.clock import Clock
from bench.training import fit as training
from bench.training.log import TrainLog
from bench.training.schedule import Budget
from bench.training.selection import Selection
from bench.training.state import Fit
from tests.helpers import models as tiny

# Families as the harness ships them, and every method that trains a language model. Dropout is off in these.
NO_DROPOUT = {"gpt2": ["resid_pdrop", "embd_pdrop", "attn_pdrop"], "t5": ["dropout_rate"]}
METHODS = {
    "full": ("full", {}),
    "lora": ("lora", {"config": {"r": 4, "lora_alpha": 8}}),
    "qlora": ("qlora", {"compute_dtype": "float32", "config": {"r": 4}}),
    "last_layers": ("last_layers", {"blocks": 1}),
}
# Plain gradient steps: Adam makes a step of full size out of a gradient that is nothing but rounding.
STEPS = {
    "steps": 3, "global_batch": 8, "log_every": 1, "optimizer": "sgd", "learning_rate": 0.3, "weight_decay": 0.1
}  # fmt: skip
TEXTS = [*tiny.TEXTS, "Loud.", "A long way from the station, but the view over the harbour made up for it every day."]


def model_of(case: str, folder: Path, *, dropout: bool = False) -> tuple[Any, Any]:
    """(model card, adapted model) of a case like "gpt2-lora"."""
    family, method = case.split("-")
    off = {} if dropout else dict.fromkeys(NO_DROPOUT.get(family, []), 0.0)
    known = tiny.narrow(family, **off)
    name, settings = METHODS[method]
    return known, tiny.text_adapted(known, folder, name, settings)


def fit_of(
    model: Any,
    known: Any,
    folder: Path,
    *,
    lessons: Any = None,
    validate: Any = None,
    tokens: Any = None,
    **settings: Any,
) -> Fit:
    """What `stages.fit` would hand to the engines."""
    chosen = Training.model_validate({**STEPS, **settings})
    rows = lessons or tiny.lessons(known, TEXTS)
    state = PartialState()
    best = chosen.best is not None
    return Fit(
        model=model,
        train=tiny.encoded(rows, "train"),
        scoring=dataclasses.replace(tiny.scoring(tokens or tiny.tokenizer(known)), precision=setup.precision()),
        settings=chosen,
        budget=Budget.plan(chosen, len(rows), state.num_processes),
        seed=5,
        rank=state.process_index,
        folder=folder,
        clock=Clock(),
        log=TrainLog(None),
        progress=SimpleNamespace(tokens=0, advance=lambda **_: None),
        validate=validate,
        selection=Selection(chosen.best, higher_is_better=False) if best else None,
        objective="text",
    )


def train(fit: Fit) -> tuple[Any, dict[str, Any]]:
    """(trained model, {"losses", "norms"})."""
    model = training.fit(fit, SimpleNamespace(training=fit.settings, speed=Speed()), on_cpu=True)
    rows = [row for row in fit.log.rows if "loss" in row]
    return model, {"losses": [row["loss"] for row in rows], "norms": [row["grad_norm"] for row in rows]}


def run(case: str, folder: Path, *, dropout: bool = False, **settings: Any) -> dict[str, Any]:
    """{"losses", "norms", "weights"} of a case: all that was trained, by name."""
    known, model = model_of(case, folder, dropout=dropout)
    names = tiny.trainable(model)
    model, found = train(fit_of(model, known, folder, **settings))
    parameters = dict(model.named_parameters())
    assert sorted(names) == sorted(tiny.trainable(model))
    return {**found, "weights": {name: parameters[name].detach().clone() for name in names}}


if __name__ == "__main__":
    setup.start()
    for place, (case, settings) in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")).items():
        folder = Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        found = run(case, folder, **settings)
        if PartialState().is_main_process:
            save_file(found.pop("weights"), folder / "weights.safetensors")
            text = json.dumps({**found, "world_size": PartialState().num_processes})
            (folder / "found.json").write_text(text, encoding="utf-8")
        PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
