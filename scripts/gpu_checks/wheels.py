"""Fetches what a plain CUDA image lacks, in parts small enough to be carried, and uses it there.

Which packages those are follows from setup.cfg: all that the harness needs, less what torch, transformers, accelerate
and peft bring with them. Versions are those of constraints.txt. bitsandbytes is cut to the libraries of one CUDA
version and the CPU; deepspeed is packed from its source, without compiling an operator.
"""

import base64
import configparser
import csv
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
# Of the image.
PYTHON = "3.12"
PRESENT = ("torch", "transformers", "accelerate", "peft")
CUDA = "130"
# For comparisons with other tools.
BESIDE = ("lm_eval",)
# For comparisons too, and not installed where wheels are fetched: on torch and Triton alone, which the image has.
NOT_HERE = ("liger-kernel==0.8.5",)
LIMIT_BYTES = 60 * 10**6
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64",
             "manylinux2014_x86_64", "manylinux_2_12_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64")  # fmt: skip


class WheelError(Exception):
    """A sentence on what can't be fetched or used."""


# ---------------------------------------------------------------- which


def wanted(requires: Callable[[str], Iterable[str] | None] = metadata.requires) -> list[str]:
    """Return names of the packages to fetch. requires: the requirements of an installed package."""
    there = {*PRESENT, *(one.name for name in PRESENT for one in _required(name, set(), requires))}
    named = [one.name for one in requirements()]
    return sorted(closure([*named, *map(_canonical, BESIDE)], there, requires))


def requirements() -> list["Requirement"]:
    """Return the requirements of setup.cfg, by canonical names."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return [_parsed(line) for line in config["options"]["install_requires"].splitlines() if line.strip()]


def closure(names: Iterable[str], there: set[str], requires: Callable[[str], Iterable[str] | None]) -> set[str]:
    """Return these packages with all that they require on the image's Python, without what is there.

    Of what is there only the extras that somebody asks for are followed.
    """
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    open_ = [(name, "") for name in names]
    while open_:
        name, extra = open_.pop()
        if (name, extra) in seen or (name in there and not extra):
            continue
        seen.add((name, extra))
        if name not in there:
            found.add(name)
        for one in _required(name, {extra}, requires):
            open_ += [(one.name, ""), *((one.name, wish) for wish in one.extras)]
    return found


def _required(name: str, extras: set[str], requires: Callable[[str], Iterable[str] | None]) -> list["Requirement"]:
    """Return what a package requires, with these extras alone, or without any."""
    try:
        lines = requires(name) or []
    except metadata.PackageNotFoundError:
        raise WheelError(f"{name} is not installed here; run this in the project's own environment") from None
    python = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
    found = [_parsed(line) for line in lines]
    return [
        one
        for one in found
        if one.marker is None or any(one.marker.evaluate({**python, "extra": extra}) for extra in extras or {""})
    ]


def _parsed(line: str) -> "Requirement":
    from packaging.requirements import Requirement

    found = Requirement(line)
    found.name = _canonical(found.name)
    return found


def _canonical(name: str) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)


def versions() -> dict[str, str]:
    """Return {name: version} of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {_canonical(name): version.strip() for name, version in pairs}


# ---------------------------------------------------------------- fetching


def fetch(folder: Path, run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run) -> None:
    """Fetch the wheels into FOLDER/part1, part2, ... Raises WheelError for one that can't be had, or is too large."""
    pins, names = versions(), wanted()
    unpinned = [name for name in names if name not in pins]
    if unpinned:
        raise WheelError(f"constraints.txt has no version of {', '.join(unpinned)}")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise WheelError(f"{folder} is not empty; name a folder for the wheels alone")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        together = Path(name)
        for pinned in [*(f"{package}=={pins[package]}" for package in names), *NOT_HERE]:
            wheel = _fetched(pinned, together, run)
            if pinned.startswith("bitsandbytes=="):
                cut(wheel, other_cuda)
            print(f"{wheel.name}  {wheel.stat().st_size / 10**6:.1f} MB", flush=True)
        for number, wheels in enumerate(parts(sorted(together.glob("*.whl"))), start=1):
            place = folder / f"part{number}"
            place.mkdir()
            for wheel in wheels:
                wheel.rename(place / wheel.name)
            size = sum(wheel.stat().st_size for wheel in place.iterdir())
            print(f"{place}: {len(wheels)} wheels, {size / 10**6:.1f} MB")


def _fetched(pinned: str, folder: Path, run: Callable[..., subprocess.CompletedProcess[str]]) -> Path:
    """Return the wheel of a package, fetched or, where there is only source, packed."""
    before = set(folder.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    download = [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", PYTHON]
    done = run(
        [*download, "--implementation", "cp", *platforms, "--dest", str(folder), pinned],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        # Of source: pure Python. DeepSpeed would else compile for the GPU of this machine, which has none.
        wheel = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), pinned]
        environment = {**os.environ, "DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu"}
        packed = run(wheel, capture_output=True, text=True, check=False, env=environment)
        if packed.returncode:
            raise WheelError(f"{pinned} can't be fetched: {_last_line(done.stderr)}; {_last_line(packed.stderr)}")
    (new,) = set(folder.glob("*.whl")) - before
    return new


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"


def other_cuda(path: str) -> bool:
    """Return whether a file of bitsandbytes is a library for another CUDA version, or another maker's device."""
    kept = (f"_cuda{CUDA}.", "_cpu.")
    return "/libbitsandbytes_" in path and not any(part in path for part in kept)


def cut(wheel: Path, left_out: Callable[[str], bool]) -> None:
    """Write a wheel again without some of its files; its list of files is kept true."""
    content = io.BytesIO()
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as new:
        record = next(name for name in old.namelist() if name.endswith(".dist-info/RECORD"))
        rows = []
        for name in old.namelist():
            if name == record or left_out(name):
                continue
            data = old.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append([name, f"sha256={digest}", str(len(data))])
            new.writestr(old.getinfo(name), data, zipfile.ZIP_DEFLATED)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*rows, [record, "", ""]])
        new.writestr(record, text.getvalue())
    wheel.write_bytes(content.getvalue())


def parts(wheels: Iterable[Path], limit: int = LIMIT_BYTES) -> list[list[Path]]:
    """Split wheels into as few parts of at most so many bytes as first fit by size finds. Raises WheelError."""
    found: list[tuple[int, list[Path]]] = []
    for wheel in sorted(wheels, key=lambda path: (-path.stat().st_size, path.name)):
        size = wheel.stat().st_size
        if size > limit:
            raise WheelError(f"{wheel.name} has {size / 10**6:.1f} MB, more than the {limit / 10**6:g} of a part")
        for place, (filled, kept) in enumerate(found):
            if filled + size <= limit:
                found[place] = filled + size, [*kept, wheel]
                break
        else:
            found.append((size, [wheel]))
    return [kept for _, kept in found]


# ---------------------------------------------------------------- use


def install(folders: Iterable[Path], site: Path) -> None:
    """Unpack the wheels of these folders, and of those in them, into `site`. Raises WheelError where there are none.

    What the image has already, in a version that setup.cfg takes, is left as it is.
    """
    for folder in folders:
        wheels = sorted(folder.rglob("*.whl"))
        if not wheels:
            raise WheelError(f"{folder} holds no wheels; `scripts/gpu_check --wheels DIR` fetches them")
        for wheel in wheels:
            if _is_there(wheel.name.split("-")[0]):
                continue
            try:
                with zipfile.ZipFile(wheel) as content:
                    content.extractall(site)
            except (OSError, zipfile.BadZipFile) as error:
                raise WheelError(f"{wheel} can't be unpacked: {error}") from None


def _is_there(name: str) -> bool:
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    bounds = {one.name: one.specifier for one in requirements()}
    return _canonical(name) not in bounds or bounds[_canonical(name)].contains(found.version, prereleases=True)


def use(site: Path) -> None:
    """Let this process and those that it starts find what was unpacked, ahead of the image's own packages."""
    if not site.is_dir():
        return
    place = str(site.resolve())
    sys.path.insert(1, place)
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = place + (os.pathsep + others if others else "")
