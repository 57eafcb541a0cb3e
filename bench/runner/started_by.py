"""Finds the command that started a run, and the config files of its launcher, for the record."""

import contextlib
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import yaml
from accelerate.commands.config.config_args import default_config_file

from bench.utils import secret_formats
from bench.utils.files import ROOT, read_bytes

# Runs accelerate's launcher, with the same options.
OWN_LAUNCHER = Path("bench", "launch.py")
LAUNCHERS = ("accelerate", "accelerate-launch", "torchrun", "deepspeed")
# `python -m MODULE` -> the same command by its name.
MODULES = {
    "accelerate.commands.launch": ("accelerate", "launch"),
    "accelerate.commands.accelerate_cli": ("accelerate",),
    "torch.distributed.run": ("torchrun",),
}
CONFIG_OPTIONS = ("--config_file", "--config-file")


def command() -> list[str]:
    """Return the words of the launcher above this process, or of this process without one; secrets are removed.

    Files of the project are named from its top, so that a record can be given away and its command typed elsewhere.
    """
    own = [Path(sys.argv[0]).name, *sys.argv[1:]]
    with contextlib.suppress(psutil.Error):
        for parent in psutil.Process().parents():
            if words := launcher_words(parent.cmdline()):
                own = words
                break
    return [secret_formats.remove(word.replace(f"{ROOT}{os.sep}", "")) for word in own]


def launcher_words(words: Sequence[str]) -> list[str]:
    """Return a launcher's command without its interpreter and folder; empty for another program's."""
    start = next((place for place, word in enumerate(words[1:], start=1) if not word.startswith("-")), 1)
    for place in (0, start):  # `accelerate …`, `python -u …/accelerate …`, or `python -m MODULE …`
        if place < len(words):
            word = words[place]
            if found := MODULES.get(word) if words[place - 1] == "-m" else None:
                return [*found, *words[place + 1 :]]
            if Path(*Path(word).parts[-2:]) == OWN_LAUNCHER:
                return ["accelerate", "launch", *words[place + 1 :]]
            if Path(word).name in LAUNCHERS:
                return [Path(word).name, *words[place + 1 :]]
    return []


def config_files(words: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of accelerate's config file and of DeepSpeed's, as "<library>/<file name>".

    words: `command`. Without an option accelerate reads a default file in the user's cache, if there is one. A file
    that can't be read any more is left out.
    """
    found: dict[str, Path] = {}
    if words[:1] in (["accelerate"], ["accelerate-launch"]):
        found["accelerate"] = _named(words) or Path(default_config_file)
    deepspeed = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE") or _inside(found.get("accelerate"))
    if deepspeed and deepspeed != "none":
        found["deepspeed"] = Path(deepspeed)
    hashes = {}
    for library, path in found.items():
        with contextlib.suppress(OSError):
            hashes[f"{library}/{path.name}"] = hashlib.sha256(read_bytes(path)).hexdigest()
    return hashes


def _named(words: Sequence[str]) -> Path | None:
    for place, word in enumerate(words):
        option, _, value = word.partition("=")
        if option in CONFIG_OPTIONS:
            name = Path(value or "".join(words[place + 1 : place + 2]))
            return name if name.exists() else ROOT / name
        if word.endswith(".py"):  # what follows belongs to the script
            return None
    return None


def _inside(config: Path | None) -> str | None:
    """Return the DeepSpeed file that an accelerate config names."""
    if config is None:
        return None
    with contextlib.suppress(OSError, yaml.YAMLError, AttributeError):
        settings = yaml.safe_load(config.read_text(encoding="utf-8")).get("deepspeed_config") or {}
        return settings.get("deepspeed_config_file")
    return None
