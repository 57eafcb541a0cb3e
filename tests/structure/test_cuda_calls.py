"""Devices are given to `torch.cuda` in one module only, which knows their index."""

import ast

from tests.helpers.launching import ROOT

OWNER = ROOT / "bench" / "utils" / "cuda.py"
# Takes no device.
EXEMPT = {"Event"}


def calls_with_arguments(path):
    """Return `torch.cuda` functions of a file that are called with an argument, and their lines."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not (node.args or node.keywords):
            continue
        *owner, function = ast.unparse(node.func).split(".")
        if owner[:2] == ["torch", "cuda"] and function not in EXEMPT:
            found.append(f"{path.relative_to(ROOT)}:{node.lineno} {function}")
    return found


def test_no_other_module_gives_a_device_to_torch_cuda():
    paths = [path for folder in ("bench", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert OWNER in paths
    assert calls_with_arguments(OWNER), "the walk finds nothing where there are calls"
    assert [call for path in paths if path != OWNER for call in calls_with_arguments(path)] == []


def test_nothing_else_of_torch_cuda_is_imported_by_name():
    """`from torch.cuda import ...` would go past the rule above."""
    for folder in ("bench", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            modules = [node.module for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                       if isinstance(node, ast.ImportFrom)]  # fmt: skip
            assert "torch.cuda" not in modules, path
