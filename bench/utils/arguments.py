"""Types of command-line options that are paths: `~` is the home folder, and an empty word is no path."""

import argparse
from pathlib import Path


def path(text: str) -> Path:
    """Return an option's path, with `~` expanded: a shell leaves that alone in `--out=~/runs`. For argparse's `type`.

    Raises ArgumentTypeError for an empty word, which would mean the working folder, and for the home of nobody.
    """
    if not text:
        raise argparse.ArgumentTypeError("an empty path; for the working folder write .")
    try:
        return Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error
