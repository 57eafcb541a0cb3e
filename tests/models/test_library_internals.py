"""Uses of libraries beyond their public interfaces are listed, still there, and each in one place."""

import ast
import importlib
import importlib.metadata
import inspect
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench.models.library_internals import (
    deepspeed_internals,
    evaluate_internals,
    torch_internals,
    transformers_internals,
)
from tests.helpers.launching import ROOT
from tests.helpers.library_uses import USES

INTERNALS = ROOT / "bench" / "models" / "library_internals"
# Private modules and names of these libraries are what this is about.
LIBRARIES = {use.owner.partition(":")[0].partition(".")[0] for use in USES}
# `os._exit` is documented by Python.
DOCUMENTED = {"_exit"}
# Overridden methods, and attributes of a class of our own that derives from a library's.
BY_INHERITANCE = {use.name for use in USES if not use.where.startswith("bench/models/library_internals/")}


def owner_of(use):
    module, _, inner = use.owner.partition(":")
    owner = importlib.import_module(module)
    return getattr(owner, inner) if inner else owner


def is_there(use):
    if use.on_objects:
        return re.search(rf"\b{use.name}\b", inspect.getsource(owner_of(use))) is not None
    return hasattr(owner_of(use), use.name)


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.owner}-{use.name}")
def test_the_library_still_has_it(use):
    library = use.owner.partition(":")[0].partition(".")[0]
    version = importlib.metadata.version(library)
    assert is_there(use), (
        f"{library} {version} has no {use.owner} {use.name} any more; it is needed for {use.needed_for}: "
        f"find another way in {use.where}, or lower the upper bound of {library} in setup.cfg"
    )


def test_a_name_that_is_gone_is_missed():
    gone = [type(use)(**{**vars(use), "name": f"{use.name}_gone"}) for use in USES]
    assert not [use.name for use in gone if is_there(use)]


def test_every_library_with_such_a_use_has_an_upper_bound():
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    for library in LIBRARIES:
        bounds = re.findall(rf"^    {library}(.*)$", text, re.MULTILINE)
        assert bounds
        assert all(",<" in bound for bound in bounds), f"{library} has no upper bound in setup.cfg"


def test_every_use_is_where_the_list_says():
    for use in USES:
        place = ROOT / use.where
        files = [place] if place.is_file() else sorted(place.glob("*.py"))
        assert any(re.search(rf"\b{use.name}\b", path.read_text(encoding="utf-8")) for path in files), use


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


NAMES = {use.name for use in USES}


def private_uses(tree):
    """(line, name) of private names that a file neither defines nor finds in itself or its own base class."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            own.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own.add(node.target.id)
        elif isinstance(node, ast.Assign):
            own |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in LIBRARIES:
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from ((node.lineno, part) for part in parts if is_private(part))
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in {use.name for use in USES}
        ):
            yield node.lineno, node.value


def test_private_names_of_libraries_stand_in_their_module_only():
    files = [path for path in sorted((ROOT / "bench").rglob("*.py")) if path.parent != INTERNALS]
    assert len(files) > 100
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files
        for line, name in private_uses(ast.parse(path.read_text(encoding="utf-8")))
        if name not in DOCUMENTED | BY_INHERITANCE
    ]
    assert not wrong


def test_function_modes_are_in_force_in_the_backward_pass():
    seen = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    weight = nn.Parameter(torch.ones(3))
    loss = (weight * 2).sum()
    loss.register_hook(lambda gradient: torch.neg(gradient))
    with Mode():
        torch_internals.backward(loss)
    assert torch.neg in seen
    assert weight.grad.tolist() == [-2.0] * 3


@pytest.mark.parametrize("causal", [False, True])
def test_attention_on_a_cpu_gives_the_log_sum_exp(causal):
    query, key, value = torch.randn(3, 1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    out, lse = torch_internals.attention_on_cpu(query, key, value, bias=None, causal=causal, scale=0.5)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=0.5)
    scores = query @ key.transpose(-1, -2) * 0.5
    if causal:
        scores = scores.masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), -torch.inf)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(lse, scores.logsumexp(-1))


def test_deepspeed_forgets_what_it_kept_by_the_order_of_training():
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    owner = PartitionedParameterCoordinator
    kept = inspect.getclosurevars(owner._PartitionedParameterCoordinator__params_to_release).nonlocals["func"]
    coordinator = owner(1, 1, 1, None, {})
    coordinator.is_complete_trace = lambda: True
    coordinator.is_invalid_trace = lambda: True
    module = nn.Identity()
    module.ds_external_parameters = list
    kept(coordinator, module, 0)
    assert kept.cache_info().currsize == 1
    offload = SimpleNamespace(get_param_coordinator=lambda: coordinator)
    deepspeed_internals.forget_order(SimpleNamespace(optimizer=SimpleNamespace(parameter_offload=offload)))
    assert kept.cache_info().currsize == 0


def test_deepspeeds_config_is_set_aside_and_comes_back():
    from transformers.integrations import deepspeed

    class Config:
        def is_zero3(self):
            return True

    config = Config()
    deepspeed.set_hf_deepspeed_config(config)
    try:
        with transformers_internals.without_deepspeed():
            assert not deepspeed.is_deepspeed_zero3_enabled()
        assert deepspeed.is_deepspeed_zero3_enabled()
    finally:
        deepspeed.unset_hf_deepspeed_config()


def test_a_metrics_own_parameters_are_found():
    import datasets
    import evaluate

    class Own(evaluate.Metric):
        def _info(self):
            columns = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
            return evaluate.MetricInfo(description="", citation="", features=columns)

        def _compute(self, predictions, references, average="binary"):
            return {}

    parameters = evaluate_internals.parameters(Own())
    assert parameters["average"].default == "binary"
