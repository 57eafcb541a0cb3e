"""The rules of the architecture: imports between packages point downhill, functions are small, names are clear."""

import ast
import functools
import importlib.metadata
import itertools
import re
import statistics
import subprocess
import sys
from pathlib import Path

from tests.helpers.cases import together
from tests.helpers.launching import ROOT

PACKAGE = ROOT / "bench"
# Lowest first: a package imports only packages above it in this list. Drop-ins of one line do not import each other.
PACKAGES = [
    ["errors", "console"],
    ["utils"],
    ["records"],
    ["config"],
    ["data"],
    ["analysis"],
    ["reporting"],
    ["tracking"],
    ["models"],
    ["methods"],
    ["distributed"],
    ["evaluation"],
    ["tasks", "metrics"],
    ["exchange"],
    ["training"],
    ["memory"],
    ["runner"],
    ["shipping"],
    ["sweeps"],
    ["cloud"],
    ["cli"],
    ["run", "launch", "__main__", "lm_eval_model", "api"],
    [""],
]
LEVEL = {name: level for level, names in enumerate(PACKAGES) for name in names}
DROPINS = ("tasks", "methods", "metrics")
# These run where torch is not installed, or answer in half a second.
WITHOUT_TORCH = ("errors", "console", "utils", "config", "analysis", "reporting", "sweeps", "run", "__main__")
LONGEST_FUNCTION, LONGEST_MODULE, NINTH_DECILE = 60, 600, 40

MODULES = sorted(PACKAGE.rglob("*.py"))


def dotted(path):
    """bench/data/rows.py -> bench.data.rows; a package's own file -> the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {dotted(path): path for path in MODULES}


@functools.cache
def tree(name):
    """The syntax tree of a module; nothing changes it."""
    return ast.parse(NAMES[name].read_text(encoding="utf-8"))


def package_of(name):
    return name.split(".")[1] if "." in name else ""


def is_for_types_only(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(node):
    """All nodes below, without what stands under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if not is_for_types_only(child):
            yield child
            yield from statements(child)


def imports(name):
    """(module, imported name or None) of the package that a module imports, anywhere in it."""
    for node in statements(tree(name)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bench":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole, None) if whole in NAMES else (node.module, alias.name)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.startswith("bench."))


def test_the_walk_finds_the_package():
    assert len(MODULES) > 100
    assert {package_of(name) for name in NAMES} == set(LEVEL)


@together("name", NAMES)
def test_imports_between_packages_point_downhill(name):
    own = package_of(name)
    for other, _ in imports(name):
        if package_of(other) and package_of(other) != own:
            assert LEVEL[package_of(other)] < LEVEL[own], f"{name} imports {other}, whose package does not lie below"


def test_no_package_has_a_circle_of_imports():
    below = {name: {other for other, _ in imports(name) if package_of(other) == package_of(name)} for name in NAMES}
    done, open_ = set(), []

    def visit(name):
        assert name not in open_, f"a circle: {' -> '.join([*open_[open_.index(name) :], name])}"
        if name not in done:
            open_.append(name)
            for other in sorted(below[name]):
                visit(other)
            done.add(open_.pop())

    for name in NAMES:
        visit(name)


def test_dropins_do_not_import_one_another():
    for kind in DROPINS:
        names = [name for name in NAMES if package_of(name) == kind and name.count(".") == 2]
        assert len(names) > 1
        for name in names:
            same = {other for other, _ in imports(name) if package_of(other) == kind}
            assert same <= {f"bench.{kind}", f"bench.{kind}._base"}, name


def test_dropins_keep_their_contracts(tmp_path):
    """By mypy, of every task and method in their folders; a module that keeps none is found."""
    kinds = {"tasks": "Task", "methods": "Method"}
    names = {kind: [n.split(".")[2] for n in NAMES if package_of(n) == kind and n.count(".") == 2] for kind in kinds}
    lines = ["from bench import errors", "from bench.config.contracts import Method, Task"]
    lines += [f"from bench.{kind} import {name} as {kind}_{name}" for kind in kinds for name in names[kind]]
    for kind, contract in kinds.items():
        assert len(names[kind]) > 1
        members = ", ".join(f"{kind}_{name}" for name in names[kind] if not name.startswith("_"))
        lines.append(f"{kind}: list[{contract}] = [{members}]")
        lines.append(f"no_{contract.lower()}: {contract} = errors")
    program = tmp_path / "dropins.py"
    program.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    problems = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(problems) == len(kinds), done.stdout + done.stderr
    assert all("(expression has type Module, variable has type" in line for line in problems), problems


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


@together("name", NAMES)
def test_private_names_are_used_in_their_own_file_only(name):
    """Neither imported nor reached through an imported module of the package."""
    modules = {}
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bench":
            for alias in node.names:
                assert not is_private(alias.name) or alias.name == "_base", f"{name} imports {alias.name}"
                if f"{node.module}.{alias.name}" in NAMES:
                    modules[alias.asname or alias.name] = alias.name
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert not is_private(node.attr), f"{name} uses {node.value.id}.{node.attr}"


@together("path", MODULES)
def test_modules_say_what_they_are_for_and_are_one_concept(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_MODULE
    assert ast.get_docstring(ast.parse(text)), "a module's first line says what it is for"


def test_packages_list_their_files_and_import_nothing():
    for path in (path for path in MODULES if path.name == "__init__.py"):
        whole = tree(dotted(path))
        # What the package itself offers is loaded by its __getattr__, when it is first asked for.
        loaded = [part for part in whole.body if dotted(path) != "bench" or not isinstance(part, ast.FunctionDef)]
        nodes = [node for part in loaded for node in ast.walk(part)]
        assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes), path
        if package_of(dotted(path)) in (*DROPINS, "", "cli"):
            continue
        text = ast.get_docstring(whole)
        for file in path.parent.glob("*.py"):
            assert file.stem == "__init__" or re.search(rf"\b{file.stem}\b", text), f"{path} leaves out {file.stem}"


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
    assert len(NAMES["bench.training.engines.loop"].read_text(encoding="utf-8").splitlines()) <= 100


# ---------------------------------------------------------------- from the entry to the training step


def function_in(module, name):
    return next((n for n in tree(module).body if isinstance(n, ast.FunctionDef) and n.name == name), None)


def bindings(module, *nodes):
    """Local name -> (module, function or None) for what a module, or a function of it, imports from the package."""
    bound = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bench":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                bound[alias.asname or alias.name] = (whole, None) if whole in NAMES else (node.module, alias.name)
    return bound


def calls(module, name):
    """(module, function) of the package that a function calls."""
    function = function_in(module, name)
    known = bindings(module, *tree(module).body, *ast.walk(function))
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name):
            local = (module, node.func.id)
            target = known.get(node.func.id, local)
            if target[1] is not None and function_in(*target) is not None:
                yield target
        elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            target = known.get(node.func.value.id)
            if target is not None and target[1] is None and function_in(target[0], node.func.attr) is not None:
                yield target[0], node.func.attr


def test_four_calls_lead_from_the_entry_to_the_training_step():
    path = [
        ("bench.runner.lifecycle", "main"),
        ("bench.runner.lifecycle", "execute"),
        ("bench.runner.stages", "fit"),
        ("bench.training.fit", "fit"),
        ("bench.training.engines.loop", "run"),
    ]
    assert ("bench.runner.lifecycle", "main") in set(bindings("bench.run", *tree("bench.run").body).values())
    for caller, called in itertools.pairwise(path):
        assert called in set(calls(*caller)), f"{'.'.join(caller)} does not call {'.'.join(called)}"
    step = [node for node in ast.walk(function_in(*path[-1])) if isinstance(node, ast.Call)]
    names = {node.func.attr for node in step if isinstance(node.func, ast.Attribute)}
    assert {"backward", "clip_grad_norm_", "step", "zero_grad"} <= names


def test_no_context_is_untyped():
    """`Run = Any` and its kin hide from mypy what flows through a run."""
    for name in NAMES:
        for node in tree(name).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id == "Any":
                raise AssertionError(f"{name}: {ast.unparse(node)}")


# ---------------------------------------------------------------- names, imports, files


def test_no_module_hides_a_library():
    # `accelerate launch bench/run.py` puts bench/ first on the import path.
    requirements = importlib.metadata.requires("finetune-bench") or []
    libraries = {re.split(r"[^A-Za-z0-9_.-]", item)[0].lower().replace("-", "_") for item in requirements}
    libraries |= {"yaml", "sklearn", "rouge_score", "google"}
    own = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert libraries
    assert own & (set(sys.stdlib_module_names) - {"__main__"} | libraries) == set()


def test_packages_that_need_no_torch_load_none():
    """All of them, in a fresh interpreter in which importing torch, or what would pull it in, is an error."""
    heavy = ("torch", "transformers", "datasets", "evaluate", "accelerate", "peft", "matplotlib", "sklearn")
    names = [name for name in NAMES if package_of(name) in WITHOUT_TORCH]
    assert len(names) > 50
    code = f"import importlib, sys\nsys.modules.update(dict.fromkeys({heavy!r}))\nfor name in {names!r}:\n"
    code += " try: importlib.import_module(name)\n except ImportError as error: sys.exit(f'{name}: {error}')\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# The console escapes what would steer a terminal, and survives its loss: nothing writes past it.
PAST_THE_CONSOLE = re.compile(
    r"(?<![\w.])print\(|sys\.(?:__)?std(?:out|err)|\bConsole\(|traceback\.print_|console\.(?:out|err)\.print|os\.write\([12]\b"
)


@together("path", MODULES)
def test_nothing_is_printed_but_by_the_console(path):
    if path != PACKAGE / "console.py":
        shown = PAST_THE_CONSOLE.findall(path.read_text(encoding="utf-8"))
        assert shown == [], f"{path.name} prints by itself"


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
