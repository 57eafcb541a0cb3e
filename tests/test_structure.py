"""The rules of the architecture: imports point downhill, modules and functions stay small, names hide no library."""

import ast
import importlib.metadata
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launching import ROOT

PACKAGE = ROOT / "bench"
# A module may import only from the lines above its own.
LAYERS = [
    ["errors", "ballot", "stats", "allocator", "console", "splicing", "attention_kernel", "continuations"],
    ["fieldtypes", "passages", "launcher", "stopping", "hardware"],
    ["paired", "seeds", "families", "tallies"],
    ["training_settings", "random_weights", "four_bits", "diet", "outline_modes"],
    [
        "strictyaml",
        "settings",
        "dropin",
        "record",
        "cleaning",
        "splits",
        "corpora",
        "markdown",
        "measure",
        "heads",
        "span_heads",
    ],
    ["squad", "checkpoints", "canvas", "folders", "scrub", "overrides"],
    ["sources"],
    ["data", "readings", "figures", "failures", "tokenizer", "flops", "meaning", "prompts", "shots", "collating"],
    ["recipe", "asking", "shared_attention", "token_cache", "windows", "spans", "peers", "shortage"],
    ["packed_attention"],
    [
        "schema",
        "study",
        "report",
        "tables",
        "comparability",
        "metricset",
        "model",
        "adapters",
        "likelihood",
        "generation",
        "unpad",
    ],
    ["score", "saved", "lm_eval_model", "sweep", "room"],
    ["sharding", "tuning", "gate"],
    ["jobs"],
    ["resuming"],
    ["unfinished"],
    ["fitting", "answers", "answer_logits", "span_reading"],
    ["questions"],
    ["tasks", "methods", "metrics", "engine_loop", "engine_trainer", "launch", "predict", "footprint"],
    ["engine_sft", "activations"],
    ["material", "precision"],
    ["train", "results"],
    ["plan"],
    ["plan_search", "tryout"],
    ["microbatch"],
    ["stages", "plan_report", "plan_quotes", "foretell"],
    ["run"],
    ["trial"],
    ["soundness"],
    ["contenders"],
    ["compare"],
    ["hub_cards"],
    ["hub"],
    ["compare_report", "standings", "costs", "disagreements", "study_figures", "html_page"],
    ["leaderboard"],
    ["gallery", "appendix"],
    ["overview"],
    ["gate_speed"],
    ["gate_runs"],
    ["run_commands"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# These run where torch is not installed, or answer in half a second.
WITHOUT_TORCH = [
    "recipe",
    "record",
    "report",
    "figures",
    "stats",
    "compare",
    "compare_report",
    "overview",
    "dropin",
    "corpora",
    "data",
    "schema",
    "study",
    "sweep",
    "jobs",
    "hub",
    "__main__",
    "run",
]
LONGEST_FUNCTION, LONGEST_MODULE, NINTH_DECILE = 60, 400, 40

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0] if len(parts) == 1 or parts[0] in ("tasks", "methods", "metrics") else ".".join(parts)


def imported(path):
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "bench":
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bench."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("bench."))
    return found - {"__version__"}


def test_the_walk_finds_the_package():
    assert len(MODULES) > 40
    assert {"run", "recipe", "methods", "metrics"} <= {name_of(path) for path in MODULES}


def test_every_module_has_a_layer():
    names = {name_of(path) for path in MODULES} - {"__init__"}
    assert names == set(LEVEL)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downhill(path):
    here = name_of(path)
    for other in imported(path):
        assert LEVEL[other] < LEVEL[here], f"{here} imports {other}, which does not lie below it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_short_and_say_what_they_are_for(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_MODULE
    assert ast.get_docstring(ast.parse(text)), "a module's first line says what it is for"


def functions():
    for path in [*MODULES, *sorted((ROOT / "scripts").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                yield path, node, node.end_lineno - node.lineno + 1


def test_functions_are_short():
    lengths = [(length, f"{path.name}:{node.name}") for path, node, length in functions()]
    assert max(lengths)[0] <= LONGEST_FUNCTION, max(lengths)
    assert statistics.quantiles([length for length, _ in lengths], n=10)[-1] < NINTH_DECILE


def test_public_functions_have_docstrings():
    bare = []
    for path, node, _ in functions():
        shown = not node.name.startswith("_") and not any("overload" in ast.dump(item) for item in node.decorator_list)
        if path.is_relative_to(PACKAGE) and shown and not ast.get_docstring(node):
            bare.append(f"{path.name}:{node.name}")
    overrides = {"get_batch_samples", "training_step", "forward", "update", "validate"}
    assert [name for name in bare if name.split(":")[1] not in overrides] == []


def test_the_plain_loop_is_short_enough_to_read_at_once():
    assert len((PACKAGE / "engine_loop.py").read_text(encoding="utf-8").splitlines()) <= 100


def test_two_calls_from_run_to_the_training_step():
    """run.execute -> stages.fit ... train.fit -> engine.run holds the step; a reader follows names that exist."""
    assert "stages.fit(" in (PACKAGE / "run.py").read_text(encoding="utf-8")
    assert "train.fit(" in (PACKAGE / "stages.py").read_text(encoding="utf-8")
    assert "accelerator.backward(" in (PACKAGE / "engine_loop.py").read_text(encoding="utf-8")


def test_no_module_hides_a_library():
    # `accelerate launch bench/run.py` puts bench/ first on the import path.
    requirements = importlib.metadata.requires("finetune-bench") or []
    libraries = {re.split(r"[^A-Za-z0-9_.-]", item)[0].lower().replace("-", "_") for item in requirements}
    libraries |= {"yaml", "sklearn", "rouge_score", "google"}
    own = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert libraries
    assert own & (set(sys.stdlib_module_names) - {"__main__"} | libraries) == set()


def test_dropins_do_not_import_one_another():
    for kind in ("tasks", "methods", "metrics"):
        files = [path for path in (PACKAGE / kind).glob("*.py") if path.stem != "__init__"]
        assert files
        for path in files:
            assert imported(path) & {"tasks", "methods", "metrics"} == set(), path


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_import_loads_no_torch(module):
    """In a fresh interpreter in which importing torch, or what would pull it in, is an error."""
    heavy = ("torch", "transformers", "datasets", "evaluate", "accelerate", "peft", "matplotlib", "sklearn")
    code = f"import sys\nsys.modules.update(dict.fromkeys({heavy!r}))\nimport bench.{module}\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()


UNSAFE = ("yaml.load(", "pickle.", "import pickle", "torch.load(", "eval(", "exec(", "shell=True", "os.system")


def test_nothing_unsafe_in_the_sources():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        for forbidden in UNSAFE:
            assert not re.search(rf"(?<![\w.]){re.escape(forbidden)}", text), f"{path.name} uses {forbidden}"


def test_no_big_or_foreign_files_are_tracked():
    assert TRACKED
    for name in TRACKED:
        path = ROOT / name
        assert not path.is_symlink(), name
        assert path.stat().st_size < 1_000_000, name


def test_shipped_scripts_can_be_run():
    import os

    for path in [ROOT / "scripts" / "quickstart", ROOT / "scripts" / "test", ROOT / ".ci" / "run"]:
        assert os.access(path, os.X_OK), path
        assert Path(path).read_text(encoding="utf-8").startswith("#!/usr/bin/env bash")
