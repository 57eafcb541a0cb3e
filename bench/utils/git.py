"""Asks git about the checkout that the harness runs from."""

import subprocess

from bench.errors import SetupError
from bench.utils.files import ROOT


def git(*words: str, timeout_s: float | None = None) -> str:
    """Return what a git command prints. Raises SetupError with git's last line where it fails or does not end."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"git {' '.join(words[:2])}: {error}") from error
    if done.returncode != 0:
        raise SetupError(f"git {' '.join(words[:2])}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout
