"""Checkpoints as files: written whole or not at all, checked for damage, and only the newest kept. Loads no torch.

    partial = begin(folder, step)   # then files are written into it
    seal(partial)                   # sizes, hashes and signature, to disk, then its final name
    checkpoint, damaged = newest(folder)

A checkpoint is a folder `step-00000012`. Its manifest is written last; a folder without one is not a checkpoint. The
manifest lists every file and is signed with this person's key, since DeepSpeed reads its files by unpickling, which
runs whatever code is in them.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench.errors import SetupError
from bench.utils import files, signing

FOLDER, MANIFEST, STATE = "checkpoints", "manifest.json", "state.json"
# Trainable parameters and the optimiser's tensors, of an engine that has them whole.
TRAINED, OPTIMIZER = "trained.safetensors", "optimizer.safetensors"
# Of a state: whether each process has written its part as safetensors, which are read as data.
PARTS = "parts"
# Trainable parameters at the best validation so far.
BEST = "best.safetensors"
# 2: SHA-256 in place of CRC-32, and a signature.
FORMAT = 2
# What is read of a manifest and of a state, which holds the log's rows.
LIMIT_BYTES = 2**30
_PURPOSE = "checkpoint"
# Whatever the engines write into a checkpoint, by name.
FILE_NAMES = (
    r"(state|manifest|trainer_state)\.json|(trained|optimizer|best)\.safetensors|latest|zero_to_\w+\.py"
    r"|shards-\d+-of-\d+\.safetensors|global_step\d+/[^/]+\.pt|(pytorch_model_fsdp|optimizer)_\d+/(\.metadata|[^/]+\.distcp)"
)
_NAME = re.compile(r"step-(\d{8,})")
_CHUNK_BYTES = 2**22


@dataclass(frozen=True)
class Checkpoint:
    """An undamaged checkpoint. hash, seed: of the recipe that it belongs to. signed: with this person's key.

    sharded: it is read by unpickling.
    """

    path: Path
    step: int
    hash: str
    seed: int
    signed: bool = True
    sharded: bool = False

    def refuse_unsigned(self) -> None:
        """Raise SetupError for shards without this person's signature."""
        if self.sharded and not self.signed:
            raise SetupError(unsigned(self.path))

    def refuse_other(self, wanted_hash: str, wanted_seed: int, run_folder: Path) -> None:
        """Raise SetupError where it is another recipe's, or another seed's."""
        differing = differences(self.hash, self.seed, wanted_hash, wanted_seed)
        if differing:
            raise SetupError(
                f"{run_folder} holds an unfinished run that is not this one: {'; '.join(differing)}; "
                "give --overwrite to replace it, or another --out"
            )


def differences(found_hash: str | None, found_seed: int | None, wanted_hash: str, wanted_seed: int) -> list[str]:
    """Return in words in which of recipe and seed an unfinished run differs from the one that is asked for."""
    differing = []
    if found_hash != wanted_hash:
        differing.append(f"its recipe's hash is {(found_hash or 'unknown')[:8]}, this one's {wanted_hash[:8]}")
    if found_seed != wanted_seed:
        differing.append(f"its seed is {found_seed}, this one's {wanted_seed}")
    return differing


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
    """Make a checkpoint of what was written: everything synced to disk, the manifest last, then the final name.

    Without a usable key, the manifest has no signature.
    """
    written = [path for path in sorted(partial.rglob("*")) if path.is_file()]
    listed = {str(path.relative_to(partial)): _to_disk(path) for path in written}
    try:
        signature = signing.sign(_PURPOSE, _signed_content(listed))
    except SetupError:
        signature = None
    manifest = {"format": FORMAT, "files": listed, "signature": signature}
    files.write_text(partial / MANIFEST, json.dumps(manifest) + "\n")
    for path in [partial, *(path for path in partial.rglob("*") if path.is_dir())]:
        _sync_folder(path)
    final = partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))
    _remove(final)  # a damaged one, of before a resumption
    if final.exists():  # somebody's own files are in it
        final.rename(final.with_name(f"{final.name}.left-{secrets.token_hex(4)}"))
    partial.rename(final)
    _sync_folder(final.parent)
    return final


def _signed_content(listed: dict[str, Any]) -> bytes:
    return json.dumps({"format": FORMAT, "files": listed}, sort_keys=True).encode()


def _to_disk(path: Path) -> list[int | str]:
    """Flush a file to disk; return its [size, SHA-256]. A library may have made it for its owner alone."""
    files.use_umask(path)
    with path.open("rb+") as stream:
        size_and_hash = _size_and_hash(stream)
        os.fsync(stream.fileno())
    return size_and_hash


def _size_and_hash(stream: IO[bytes]) -> list[int | str]:
    size, digest = 0, hashlib.sha256()
    while chunk := stream.read(_CHUNK_BYTES):
        size += len(chunk)
        digest.update(chunk)
    return [size, digest.hexdigest()]


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def find_corruption(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None for an undamaged one. It consists of the files of its manifest,
    all of them regular: a library that reads a folder would read what somebody has put beside them, too."""
    try:
        manifest = _manifest(path)
        if manifest["format"] != FORMAT:
            return f"its format is {manifest['format']}, and this version reads {FORMAT}"
        if STATE not in manifest["files"]:
            return f"its manifest does not list {STATE}"
        present = {str(one.relative_to(path)) for one in path.rglob("*") if one.is_symlink() or not one.is_dir()}
        if path.is_symlink() or (added := sorted(present - {*manifest["files"], MANIFEST})):
            return "it is a link" if path.is_symlink() else f"{added[0]} is not in its manifest"
        for name, expected in manifest["files"].items():
            if name not in present:
                return f"{Path(name).name} is missing"
            with files.open_regular(path / name, follow=False) as stream:
                if _size_and_hash(stream) != expected:
                    return f"{name} is not as it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        return f"can't be read: {error}"
    return None


def _manifest(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(files.read_text(path / MANIFEST, LIMIT_BYTES))
    return manifest


def unsigned(path: Path) -> str:
    """Return the sentence about shards that are not signed. Raises SetupError where there can be no key."""
    return (
        f"{path} is not signed with your key ({signing.key_path()}), and its shards are read by unpickling, which "
        "runs whatever code is in them; give --overwrite to start anew, or bring the key that it was signed with"
    )


def manifest_hash(path: Path) -> str | None:
    """Return the SHA-256 of a checkpoint's manifest; None where there is none to read."""
    try:
        return hashlib.sha256(files.read_text(path / MANIFEST, LIMIT_BYTES).encode()).hexdigest()
    except (OSError, ValueError):
        return None


def is_signed(path: Path) -> bool:
    """Return whether a checkpoint's manifest was signed with this person's key. Its files are to be checked before."""
    try:
        manifest = _manifest(path)
        return signing.is_signed(_PURPOSE, _signed_content(manifest["files"]), manifest.get("signature"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return False


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
            if _identifies(state, step):
                sharded = state.get("spread", "whole") != "whole" and state.get(PARTS) is not True
                return Checkpoint(path, step, state["hash"], state["seed"], is_signed(path), sharded), damaged
            wrong = f"its {STATE} is not one of step {step}"
        damaged.append(f"the checkpoint of step {step} is damaged and was not used: {wrong}")
    return None, damaged


def read_state(path: Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself and of the run."""
    state: dict[str, Any] = json.loads(files.read_text(path / STATE, LIMIT_BYTES))
    return state


def _identifies(state: object, step: int) -> bool:
    if not isinstance(state, dict):
        return False
    kinds = isinstance(state.get("hash"), str) and type(state.get("seed")) is int
    return kinds and state.get("step") == step


def other_formats(folder: Path) -> list[str]:
    """Return a sentence for each checkpoint that another version wrote: it is whole, and would be lost."""
    found = []
    for step in steps(folder):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            known = _manifest(path_of(folder, step))["format"]
            if type(known) is int and known != FORMAT:
                found.append(f"the checkpoint of step {step} is of format {known}, and this version reads {FORMAT}")
    return found


def discard(folder: Path, newest_step: int, keep: int) -> None:
    """Keep only the `keep` newest checkpoints up to a step; later ones were damaged, partial ones never finished."""
    known = steps(folder)
    kept = [step for step in known if step <= newest_step][:keep]
    for step in set(known) - set(kept):
        _remove(path_of(folder, step))
    for path in folder.glob(".step-*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
    """Remove a checkpoint; what its manifest does not list, and no engine writes, is not a checkpoint's, and stays."""
    listed: set[str] = set()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        listed = set(_manifest(path)["files"])
    with contextlib.suppress(OSError):
        for one in sorted(path.rglob("*"), reverse=True):  # what is in a folder before the folder
            name = str(one.relative_to(path))
            if one.is_dir() and not one.is_symlink():
                with contextlib.suppress(OSError):
                    one.rmdir()
            elif name in listed or re.fullmatch(FILE_NAMES, name):
                one.unlink()
        path.rmdir()


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
