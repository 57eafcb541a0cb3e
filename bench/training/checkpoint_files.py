"""Checkpoints as files: written whole or not at all, checked for damage, and only the newest kept. Loads no torch.

    partial = begin(folder, step)   # then files are written into it
    seal(partial)                   # sizes and checksums, to disk, then its final name
    checkpoint, damaged = newest(folder)

A checkpoint is a folder `step-00000012`. Its manifest is written last; a folder without one is not a checkpoint.
"""

import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench.errors import SetupError
from bench.utils.files import write_text

FOLDER, MANIFEST, STATE = "checkpoints", "manifest.json", "state.json"
# Trainable parameters and the optimiser's tensors, of an engine that has them whole.
TRAINED, OPTIMIZER = "trained.safetensors", "optimizer.safetensors"
# Trainable parameters at the best validation so far.
BEST = "best.safetensors"
FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")
_CHUNK_BYTES = 2**22


@dataclass(frozen=True)
class Checkpoint:
    """An undamaged checkpoint. hash, seed: of the recipe that it belongs to."""

    path: Path
    step: int
    hash: str
    seed: int

    def refuse_other(self, wanted_hash: str, wanted_seed: int, run_folder: Path) -> None:
        """Raise SetupError where it is another recipe's, or another seed's."""
        differing = []
        if self.hash != wanted_hash:
            differing.append(f"its recipe's hash is {self.hash[:8]}, this one's {wanted_hash[:8]}")
        if self.seed != wanted_seed:
            differing.append(f"its seed is {self.seed}, this one's {wanted_seed}")
        if differing:
            raise SetupError(
                f"{run_folder} holds an unfinished run that is not this one: {'; '.join(differing)}; "
                "give --overwrite to replace it, or another --out"
            )


def begin(folder: Path, step: int) -> Path:
    """Return an empty folder to write a checkpoint's files into; it does not count as one yet."""
    partial = partial_of(folder, step)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def partial_of(folder: Path, step: int) -> Path:
    """Return where a checkpoint is while it is written."""
    return folder / f".step-{step:08d}.partial"


def seal(partial: Path) -> Path:
    """Make a checkpoint of what was written: everything synced to disk, the manifest last, then the final name."""
    files = [path for path in sorted(partial.rglob("*")) if path.is_file()]
    listed = {str(path.relative_to(partial)): _to_disk(path) for path in files}
    write_text(partial / MANIFEST, json.dumps({"format": FORMAT, "files": listed}) + "\n")
    for path in [partial, *(path for path in partial.rglob("*") if path.is_dir())]:
        _sync_folder(path)
    final = partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))
    shutil.rmtree(final, ignore_errors=True)  # a damaged one, of before a resumption
    partial.rename(final)
    _sync_folder(final.parent)
    return final


def _to_disk(path: Path) -> list[int]:
    """Flush a file to disk; return its [size, CRC-32]."""
    with path.open("rb+") as stream:
        size_and_checksum = _checksum(stream)
        os.fsync(stream.fileno())
    return size_and_checksum


def _checksum(stream: IO[bytes]) -> list[int]:
    size = crc = 0
    while chunk := stream.read(_CHUNK_BYTES):
        size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def find_corruption(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None for an undamaged one."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return f"its format is {manifest['format']}, and this version reads {FORMAT}"
        if STATE not in manifest["files"]:
            return f"its manifest does not list {STATE}"
        for name, expected in manifest["files"].items():
            with (path / name).open("rb") as stream:
                if _checksum(stream) != expected:
                    return f"{name} is not as it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return f"can't be read: {error}"
    return None


def steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, damaged ones too, the newest first."""
    if not folder.is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted((int(match[1]) for match in matches if match), reverse=True)


def path_of(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step is."""
    return folder / f"step-{step:08d}"


def newest(folder: Path, below: float = float("inf")) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest undamaged checkpoint below a step, and sentences about the damaged ones that are newer."""
    damaged: list[str] = []
    for step in steps(folder):
        path = path_of(folder, step)
        if step >= below:
            continue
        wrong = find_corruption(path)
        if wrong is None:
            state = read_state(path)
            return Checkpoint(path, step, state["hash"], state["seed"]), damaged
        damaged.append(f"the checkpoint of step {step} is damaged and was not used: {wrong}")
    return None, damaged


def read_state(path: Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself and of the run."""
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    return state


def discard(folder: Path, newest_step: int, keep: int) -> None:
    """Keep only the `keep` newest checkpoints up to a step; later ones were damaged, partial ones never finished."""
    known = steps(folder)
    kept = [step for step in known if step <= newest_step][:keep]
    for step in set(known) - set(kept):
        shutil.rmtree(path_of(folder, step), ignore_errors=True)
    for path in folder.glob(".step-*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def keep_best(folder: Path, write: Callable[[Path], None]) -> None:
    """Replace the best weights, by a function that writes them into a file; whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{BEST}.partial"
    write(temporary)
    _to_disk(temporary)
    temporary.replace(folder / BEST)


def carry_best(source: Path, target: Path) -> None:
    """Copy the best weights of one folder into the other; where there are none, remove those of the other.

    They are the same file under two names, which takes no space; later best weights are another file.
    """
    (target / BEST).unlink(missing_ok=True)
    if (source / BEST).exists():
        try:
            (target / BEST).hardlink_to(source / BEST)
        except OSError:  # a file system without such links
            shutil.copyfile(source / BEST, target / BEST)


def forget_best(folder: Path) -> None:
    """Remove the best weights, and the folder if nothing else is in it."""
    (folder / BEST).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
