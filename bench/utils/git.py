"""Asks git about the checkout that the harness runs from."""

import subprocess

from bench.errors import SetupError
from bench.utils import shipped
from bench.utils.files import ROOT

# Folders of the checkout whose files decide what a run does, and the endings of such files.
CODE = ("bench", "recipes", "accelerate_configs")
CODE_ENDINGS = (".py", ".yaml", ".yml", ".json")


def git(*words: str, timeout_s: float | None = None) -> str:
    """Return what a git command prints. Raises SetupError with git's last line where it fails or does not end.

    An installed package may lie in somebody else's repository, whose commits say nothing of it: it has none.
    """
    if not shipped.is_checkout():
        raise SetupError(f"the harness is installed in {ROOT}, which is not a checkout of its repository")
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace", check=False,
            timeout=timeout_s,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"git {' '.join(words[:2])}: {error}") from error
    if done.returncode != 0:
        raise SetupError(f"git {' '.join(words[:2])}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


def untracked_code(timeout_s: float | None = None) -> list[str]:
    """Return drop-ins, cards, recipes and configs in the checkout that git does not track, ignored ones too, sorted.

    Raises SetupError as `git`.
    """
    names = git("ls-files", "--others", "-z", "--", *CODE, timeout_s=timeout_s).split("\0")
    return sorted(name for name in names if name.endswith(CODE_ENDINGS))
