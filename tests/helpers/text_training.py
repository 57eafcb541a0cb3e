"""Not a test: trains tiny language models on answers by `train.fit`, here or, as a script, in one real launch.

Argument of the script: a JSON file with {"folder": [case, settings of the training]}; what `train` returns is written
into each folder.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from accelerate import PartialState
from safetensors.torch import save_file

from bench.config import registry
from bench.config.training import Speed, Training
from bench.console import Phase
from bench.distributed import setup
from bench.records.clock import Clock
from bench.training import fit as training
from bench.training.schedule import Budget
from bench.training.selection import Selection
from bench.training.state import FitInputs, Observer, Progress
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


class Heard(Observer):
    """What training told: notes, and what is in force."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.settings: dict[str, Any] = {}

    def on_note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def on_setting(self, name: str, value: Any) -> None:
        self.settings[name] = value


def inputs_of(
    model: Any,
    known: Any,
    folder: Path,
    *,
    lessons: Any = None,
    validate: Any = None,
    tokens: Any = None,
    answer_logits: bool = True,
    checked: int = 8,
    **settings: Any,
) -> FitInputs:
    """What `stages.fit` would hand to the engines."""
    chosen = Training.model_validate({**STEPS, **settings})
    rows = lessons or tiny.lessons(known, TEXTS)
    if chosen.loss_on == "all":
        rows = [{**row, "token_labels": row["input_ids"]} for row in rows]
    state = PartialState()
    budget = Budget.plan(chosen, len(rows), state.num_processes)
    return FitInputs(
        model=model,
        task=registry.load_task("text_classification"),
        train=tiny.encoded(rows, "train"),
        scoring=dataclasses.replace(
            tiny.scoring(tokens or tiny.tokenizer(known)), precision=setup.precision(), checked=checked
        ),
        settings=chosen,
        budget=budget,
        seed=5,
        rank=state.process_index,
        folder=folder,
        clock=Clock(),
        display=Phase("train", total=budget.steps),
        validate=validate,
        objective="text",
        speed=Speed(answer_logits=answer_logits),
        observer=Heard(),
    )


def train(inputs: FitInputs, progress: Progress | None = None) -> tuple[Any, dict[str, Any]]:
    """(trained model, {"losses", "norms"})."""
    progress = progress or Progress()
    model = training.fit(inputs, progress).model
    rows = [row for row in progress.log.rows if "loss" in row]
    if not inputs.display.begun:  # what the console shows is counted on the host, what the log says on the device
        assert inputs.display.pace.tokens == rows[-1]["tokens"]
    return model, {"losses": [row["loss"] for row in rows], "norms": [row["grad_norm"] for row in rows]}


def watched_by(metric: str) -> Progress:
    """Progress that keeps the best weights by a metric of which less is better."""
    return Progress(selection=Selection(metric, higher_is_better=False))


def run(case: str, folder: Path, *, dropout: bool = False, **settings: Any) -> dict[str, Any]:
    """{"losses", "norms", "weights"} of a case: all that was trained, by name."""
    known, model = model_of(case, folder, dropout=dropout)
    names = tiny.trainable(model)
    model, found = train(inputs_of(model, known, folder, **settings))
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
