"""Finds what comes with the package beside its code: `recipes/`, `accelerate_configs/`, `scripts/`.

In a checkout they lie at its top; `setup.py` puts a copy into the installed package, whose files nothing changes.
"""

from pathlib import Path

from bench.utils.files import ROOT

INSTALLED = Path(__file__).resolve().parents[1] / "_shipped"


def is_checkout() -> bool:
    """Return whether this package runs from a checkout of its repository, rather than from an installed copy."""
    return not INSTALLED.is_dir()


def folder(name: str) -> Path:
    """Return the folder of a name that comes with the package: the checkout's own, else the installed copy."""
    return (ROOT if is_checkout() else INSTALLED) / name
