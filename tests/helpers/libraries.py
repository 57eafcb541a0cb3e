"""Libraries that a user need not install: `scripts/test` installs all of them, and there no test of one is skipped."""

import importlib
import importlib.util
import os

import pytest

# Set to "required" by scripts/test.
VARIABLE = "TEST_LIBRARIES"


def absent(module):
    """Return whether tests of a library are to be skipped: it is not installed, and need not be."""
    return os.environ.get(VARIABLE) != "required" and importlib.util.find_spec(module.partition(".")[0]) is None


def needed(module):
    """Return the imported module; skip the test where it is not installed, and fail it where it has to be."""
    if absent(module):
        pytest.skip(f"{module.partition('.')[0]} is not installed", allow_module_level=True)
    return importlib.import_module(module)
