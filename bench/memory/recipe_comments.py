"""The plan that stands in a recipe's head comment: written by `python -m bench plan --quote`, and read back.

    # Plan: 5.31 GiB on each GPU at 1 x 512 tokens in bf16: weights 3.85, ...

A quote is of full texts, as long as the recipe lets them be, on one GPU; it does not depend on what data are at hand.
It is the end of the head comment, and names the GPU that it is for in the command at its own end.
"""

import re
import textwrap
from pathlib import Path

from bench.config import resolve
from bench.errors import RecipeError, SetupError
from bench.memory import search
from bench.memory.planner import Job, Prediction, Spread
from bench.utils import files, hardware
from bench.utils.hardware import GIB

MARK = "# Plan: "
WIDTH = 120


def quote(path: Path, gpu: str) -> str:
    """The quote for a recipe on one GPU, as it stands in the comment. Raises BenchError for what can't be planned."""
    room = hardware.memory(gpu)
    job = Job.of(resolve.load(path), Spread())
    length = job.lengths.longest
    rows, _ = search.planned(job, length, room)
    found = job.predict(rows, length)
    if found.needed > room:
        raise SetupError(f"{path}: {found.needed / GIB:.2f} GiB are predicted, which does not fit {gpu}; see the plan")
    most = search.largest_batch(job, length, room)
    text = (
        f"{MARK.removeprefix('# ')}{_sizes(found)}. Fits {gpu}; largest micro-batch {_at_most(most)} x {length} "
        f"(python -m bench plan {shown(path)} --gpu {gpu})"
    )
    lines = textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False, break_long_words=False)
    return "".join(f"# {line}\n" for line in lines)


def _sizes(found: Prediction) -> str:
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in found.parts.items())
    return f"{found.total / GIB:.2f} GiB on each GPU at {found.rows} x {found.length} tokens in bf16: {parts}"


def _at_most(rows: int) -> str:
    return f"{rows} or more" if rows == search.MOST_ROWS else str(rows)


def shown(path: Path) -> str:
    """As it is typed in the repository; elsewhere the file's name."""
    whole = path.resolve()
    root = resolve.SHIPPED.parent
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else path.name


def quoted(path: Path) -> tuple[str, str] | None:
    """(the quote in a recipe, the GPU that it is for); None where there is none. Raises RecipeError for a torn one."""
    text = path.read_text(encoding="utf-8")
    found = _in_head(text)
    if not found:
        return None
    gpu = re.search(r"--gpu\s+(?:# )?(\S+)\)\n$", found)
    if gpu is None:
        raise RecipeError(f"{path}: the plan in the head comment does not end in its command; write it anew: --quote")
    return found, gpu[1]


def _in_head(text: str) -> str:
    head = re.match(r"(?:#.*\n)*", text)
    assert head is not None
    start = f"\n{head[0]}".find(f"\n{MARK}")
    return head[0][start:] if start >= 0 else ""


def write(path: Path, gpu: str) -> bool:
    """Puts the quote into a recipe's head comment, in place of an older one. Returns whether it changed.

    Raises BenchError for what can't be planned.
    """
    text, new = path.read_text(encoding="utf-8"), quote(path, gpu)
    if old := _in_head(text):
        changed = text.replace(old, new, 1)
    else:
        head = re.match(r"(?:#.*\n)*", text)
        changed = text[: head.end()] + new + text[head.end() :] if head else new + text
    if changed != text:
        files.write_text(path, changed)
    return changed != text


def find(folder: Path = resolve.SHIPPED) -> dict[Path, str]:
    """Recipes with a quote -> the GPU that it is for."""
    found = {path: quoted(path) for path in resolve.find_recipes(folder)}
    return {path: item[1] for path, item in found.items() if item is not None}


def refresh(path: Path | None, gpu: str | None) -> list[Path]:
    """Writes the quote into a recipe, or into all that are shipped and have one. Returns those that changed.

    Raises SetupError where it is not known which GPU a quote is to be for.
    """
    if path is None:
        return [path for path, size in find().items() if write(path, size)]
    resolve.load(path)  # a sentence for what can't be read
    old = quoted(path)
    size = gpu or (old[1] if old is not None else None)
    if size is None:
        raise SetupError(f"{path} quotes no plan yet; say for which GPU it is to be, as in --gpu 12GiB")
    return [path] if write(path, size) else []
