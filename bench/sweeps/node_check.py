"""Compares the software of a node with that of a sweep, so that runs elsewhere compute the same; loads no torch.

problems(fingerprint(), theirs)    # in words; none where both are the same
"""

import functools
import hashlib
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata

import bench
from bench.utils.files import ROOT

# Libraries that move a result.
LIBRARIES = (
    "torch", "transformers", "tokenizers", "accelerate", "peft", "trl", "datasets", "deepspeed", "bitsandbytes",
    "evaluate", "numpy", "scikit-learn", "safetensors",
)  # fmt: skip
IMPORTED = ("torch", "transformers", "accelerate", "datasets")
MISSING = "missing"
IMPORT_S = 300


@functools.cache
def fingerprint() -> dict[str, str]:
    """Return the versions of Python, of the harness, of libraries, and a hash of the harness's code."""
    found = {"python": ".".join(platform.python_version_tuple()[:2]), "bench": bench.__version__, "code": _code()}
    for name in LIBRARIES:
        try:
            # A build for another device is the same version: 2.11.0+cpu, 2.11.0+cu128.
            found[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            found[name] = MISSING
    return found


def _code() -> str:
    digest = hashlib.sha256()
    for path in sorted((ROOT / "bench").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def problems(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """Return in words what a node has otherwise than the sweep; nothing where both are the same."""
    found = [
        f"{name} is {theirs.get(name, MISSING)} there and {version} here"
        for name, version in ours.items()
        if name != "code" and theirs.get(name, MISSING) != version
    ]
    if not found and theirs.get("code") != ours.get("code"):
        found.append(f"its code of finetune-bench {ours.get('bench')} differs from that here")
    return found


def why_not_importable() -> str | None:
    """Return why the large libraries can't be imported here, in their own words; None where they can. Takes seconds."""
    code = f"import {', '.join(IMPORTED)}"
    words = [sys.executable, "-P", "-c", code]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=IMPORT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"importing {', '.join(IMPORTED)} takes more than {IMPORT_S} s"
    lines = done.stderr.strip().splitlines()
    return None if done.returncode == 0 else (lines[-1] if lines else f"exit code {done.returncode}")


def gpu_bytes() -> int | None:
    """Return the memory of this node's smallest GPU; None without one, or where nvidia-smi does not tell."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    sizes = [int(size) for size in re.findall(r"^\s*(\d+)\s*$", done.stdout, re.MULTILINE)]
    return min(sizes) * 2**20 if sizes and done.returncode == 0 else None
