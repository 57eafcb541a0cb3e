"""reporting/run_summary.py: the sentence on what was run, and the command that runs it again."""

import shlex
from pathlib import Path

import pytest

from bench.cli import main as cli
from bench.config import recipe_names, resolve
from bench.records.record import Launch
from bench.reporting import run_summary
from tests.helpers.launching import ROOT
from tests.helpers.pages import full

CONFIG = "/somewhere/accelerate_configs/ddp_cpu2.yaml"


def of(method, **changes):
    """The sentence on a run of this method."""
    record = full(prompts=None, **changes)
    record.recipe.resolved = {
        "method": method,
        "training": {"learning_rate": 2e-5, "schedule": "cosine", "warmup": 0.06, "optimizer": "adamw_torch_fused"},
    }
    return run_summary.sentence(record)


def test_the_sentence_holds_the_main_settings():
    record = full(prompts=None)
    config = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
    record.model.adapter = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0}  # in force
    record.recipe.resolved = {"method": {"name": "lora", "config": config}, "training": {"learning_rate": 1e-3}}
    assert run_summary.sentence(record) == (
        "LoRA fine-tuning (rank 16, alpha 32, dropout 0, on all-linear) of <code>org/minilm</code> (22 million "
        "parameters, 220,000 trainable) on <code>stanfordnlp/sst2</code> (1,000 training and 872 test examples): "
        "learning rate 0.001, 6.4 epochs (200 steps), step 150 kept as the best, batch size 32, float32."
    )


@pytest.mark.parametrize(
    ("method", "shown"),
    [
        ({"name": "full"}, "Full fine-tuning of"),
        ({"name": "lora", "config": {"r": 4, "use_dora": True}}, "DoRA fine-tuning (rank 4) of"),
        ({"name": "lora", "peft": "IA3Config", "config": {}}, "IA3 fine-tuning of"),
        ({"name": "qlora", "config": {"r": 4}}, "QLoRA fine-tuning (rank 4, base weights in 4 bits (NF4)) of"),
        ({"name": "last_layers", "blocks": 2}, "Fine-tuning of the last 2 transformer block(s) of"),
        ({"name": "few_shot", "shots": 3, "quantized": True}, "Prompting with 3 examples (few-shot) of"),
        ({"name": "mine"}, "The method mine of"),
        ({"name": "a|<b>"}, "The method a&#124;&lt;b&gt; of"),
        ({}, "The method lora of"),
        (None, "The method lora of"),
    ],
)
def test_methods_have_the_names_of_the_field(method, shown):
    assert of(method).startswith(shown.replace("The method lora of", "LoRA fine-tuning of"))


def test_what_was_not_trained_by_gradients_has_no_learning_rate():
    assert "learning rate 2e-05, cosine schedule with 6 % warm-up" in of({"name": "full"})
    assert "learning rate" not in of({"name": "zero_shot"}, training=None)
    record = full(training=None)
    assert run_summary.sentence(record).endswith(": answers by generate, float32.")
    imported = full(imported={"tool": "lm_eval", "file": "x.json"})
    assert run_summary.sentence(imported).startswith("Imported from lm_eval. LoRA fine-tuning of")
    bare = full(model=None, data=None, training=None, prompts=None, launch=None)
    assert run_summary.sentence(bare) == "LoRA fine-tuning."


def launched(*command, path="recipes/tiny/bert-full.yaml", overrides=(), **changes):
    """The command that repeats a run with this launcher's command."""
    record = full(**changes)
    record.recipe.path, record.recipe.overrides = path, list(overrides)
    record.launch.command = list(command)
    return run_summary.command(record)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ((), "python -m bench run tiny/bert-full --seed 13 --config cpu"),
        (("run.py", "x"), "python -m bench run tiny/bert-full --seed 13 --config cpu"),
        (
            ("accelerate", "launch", "--quiet", "--config_file", CONFIG, "/x/bench/run.py", "x", "--out", "runs/y"),
            "python -m bench run tiny/bert-full --seed 13 --config ddp_cpu2",
        ),
        (
            ("accelerate", "launch", "--config_file=my.yaml", "--num_processes", "4", "bench/run.py", "x"),
            "python -m bench run tiny/bert-full --seed 13 --config my.yaml --num-processes 4",
        ),
        (
            ("accelerate", "launch", "--mixed_precision", "bf16", "bench/run.py", "x", "--resume"),
            "accelerate launch --mixed_precision bf16 bench/run.py tiny/bert-full --seed 13",
        ),
        (
            ("torchrun", "--nproc-per-node=2", "bench/run.py", "x"),
            "torchrun --nproc-per-node=2 bench/run.py tiny/bert-full --seed 13",
        ),
        (
            ("run.py", "x", "--include", "my dir", "--include=other", "--trust-remote-code", "--overwrite"),
            "python -m bench run tiny/bert-full --seed 13 --include 'my dir' --include other --trust-remote-code "
            "--config cpu",
        ),
    ],
)
def test_the_command_repeats_what_the_launcher_was_told(command, shown):
    assert launched(*command) == shown


def test_recipes_are_named_where_they_are_found_from_anywhere():
    name = run_summary.recipe_name
    assert name(Path("recipes/tiny/bert-full.yaml")) == "tiny/bert-full"
    assert name(resolve.SHIPPED / "tiny" / "bert-full.yaml") == "tiny/bert-full"
    assert name(Path("/other/recipes/tiny/bert-full.yaml")) == "/other/recipes/tiny/bert-full.yaml"
    assert name(Path("recipes/studies/minilm/sst2-dora.yaml")) == "recipes/studies/minilm/sst2-dora.yaml"
    assert name(Path("my recipe.yaml")) == "my recipe.yaml"


def test_a_recipe_in_no_file_has_no_command():
    assert launched(path="inline/recipe") is None
    assert launched(imported={"tool": "lm_eval"}) is None
    several = Launch(
        world_size=4, num_machines=1, distributed_type="MULTI_GPU", mixed_precision="bf16", device="cuda",
        global_batch=32, per_device_batch=8, accumulation=1,
    )  # fmt: skip
    assert launched(launch=several) == "python -m bench run tiny/bert-full --seed 13"
    assert launched(launch=several.model_copy(update={"world_size": 1})).endswith(" --config gpu1")


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("tiny/bert-full", ("training.steps=2", "dataset.quote=false", "method={name: lora, config: {r: 2}}")),
        ("tiny/llama-zero_shot", ("limit={test: 5}", "prompting.answer=generate")),
    ],
)
def test_the_command_resolves_to_the_same_recipe(recipe, overrides, monkeypatch):
    monkeypatch.chdir(ROOT)
    resolved = resolve.load(Path(f"recipes/{recipe}.yaml"), overrides, 77)
    record = resolve.first_record(resolved)
    words = shlex.split(run_summary.command(record))
    assert words[:4] == ["python", "-m", "bench", "run"]
    options = cli.parser().parse_args(words[3:])
    again = resolve.load(recipe_names.find(options.recipe), tuple(options.overrides), options.seed)
    assert (again.hash, again.recipe) == (resolved.hash, resolved.recipe)
    assert record.recipe.resolved["dataset"]["quote"] is ("dataset.quote=false" not in overrides)
