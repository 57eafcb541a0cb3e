"""The accelerate configs: each says for whom it is, accelerate understands it, and no recipe says the same."""

import re

import yaml
from accelerate.commands.config.config_args import load_config_from_file

from bench.config.recipe import Recipe
from tests.helpers.cases import together
from tests.helpers.launching import ROOT

CONFIGS = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
NEEDED = {
    "cpu", "gpu1", "ddp", "ddp_cpu2", "zero1", "zero2", "zero3", "zero3_offload_cpu", "zero3_offload_nvme", "fsdp2",
    "multi_node_zero2", "multi_node_zero3", "zero2_cpu2", "zero3_cpu2", "gpu1_fp16", "ddp_fp16",
    "zero2_fp16",
}  # fmt: skip
# What a recipe leaves to the accelerate config, and the other way round, by the names that both worlds use.
OF_RECIPES = {
    "gradient_accumulation_steps", "gradient_clipping", "train_batch_size", "train_micro_batch_size_per_gpu",
    "learning_rate", "optimizer", "scheduler", "seed", "max_steps", "fsdp_activation_checkpointing",
}  # fmt: skip


def keys(value):
    """All keys of a nested mapping."""
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(keys(item) for item in value.values()))


def fields(model):
    """All field names of nested settings."""
    found = set()
    for name, field in model.model_fields.items():
        found.add(name)
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if hasattr(kind, "model_fields"):
                found |= fields(kind)
    return found


def test_all_ways_to_spread_are_there():
    assert {path.stem for path in CONFIGS} >= NEEDED


@together("path", CONFIGS)
def test_a_config_says_what_it_is_for(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    assert lines[0].startswith("# For ")
    assert len(comment) > 40
    if not re.search(r"cpu2$|^gpu1$|^ddp|^multi", path.stem):
        assert re.search(r"Saves|faster", comment)
        assert re.search(r"[Cc]osts", comment)


@together("path", CONFIGS)
def test_accelerate_understands_it(path):
    config = load_config_from_file(str(path))  # refuses unknown keys
    on_cpu = path.stem == "cpu" or path.stem.endswith("_cpu2")
    expected = "no" if on_cpu else "fp16" if path.stem.endswith("_fp16") else "bf16"
    assert config.mixed_precision == expected
    assert config.num_processes >= 1


@together("path", [path for path in CONFIGS if path.stem.endswith("_fp16")])
def test_one_in_fp16_differs_from_its_bf16_one_in_that_alone(path):
    one, other = (
        yaml.safe_load(each.read_text(encoding="utf-8"))
        for each in (path, path.with_stem(path.stem.removesuffix("_fp16")))
    )
    assert one == {**other, "mixed_precision": "fp16"}


@together("path", CONFIGS)
def test_no_key_stands_in_both_worlds(path):
    used = keys(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert "num_processes" in used
    assert used & fields(Recipe) == set()
    assert used & OF_RECIPES == set()


def test_the_recipe_s_fields_are_found():
    assert {"global_batch", "per_device_batch", "learning_rate", "seed", "keep_memory"} <= fields(Recipe)
