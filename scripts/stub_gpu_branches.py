"""Executes the branches that are there for CUDA alone, on a stub of a GPU: a run for each, in small.

    STUB_GPU=DIR python scripts/stub_gpu_branches.py [--stub DIR] [--case NAME ...] [--group NAME ...] [--list]

DIR holds the command `run`, under which torch's own CUDA build finds a made-up GPU: kernels are launched into nothing,
torch's host code, its choice of kernels, its allocator and the libraries are real. So this shows that a branch runs to
its end, and nothing about results: what compares or judges numbers is called, and its answer is not heeded (NUMBERS,
NUMERIC_CHECKS). What the stub can't run is listed with the reason.

All runs are forks of one process that has imported the libraries. Results are kept after each
(reports/stub_gpu_branches.json), and the page beside them is made of these alone. The exit code is 1 where a run did
not end as expected.
"""

import argparse
import faulthandler
import functools
import importlib
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # Python put this file's folder first; what is run is the package of this checkout.
    sys.path[0] = str(ROOT)

from scripts.stub_gpu_cases import DEVICES, Case, cases  # noqa: E402

FILE = ROOT / "reports" / "stub_gpu_branches.json"
# A run in small takes seconds; one that hangs must not hold up the others.
LIMIT_S = 240
# Functions that compare or judge numbers: called, and taken as if all was well. (module, name, result).
NUMBERS: tuple[tuple[str, str, Any], ...] = (
    ("bench.models.kernels.patch", "probe", None),
    ("bench.training.self_check", "_difference", None),
    ("bench.training.log", "_is_undefined", False),
    ("bench.evaluation.likelihood", "_differs", None),
    ("bench.evaluation.head_forward", "HeadForward._differs", None),
)
# Modules that refuse what is not finite, and the library that they ask.
FINITE = (("bench.evaluation.scoring", "np"), ("bench.evaluation.readers.reference", "math"))
# Of a text with these words no number is the reason: it is kept.
REAL = re.compile(r"Error|can't be run|not known|supports only")
# Checks of a record that judge numbers; a run that fails no other one ran to its end.
NUMERIC_CHECKS = {"changed", "gradients", "saved_model", "fast_equals_plain"}
GIB = 2**30
OUTCOMES = ("ran", "refused", "failed", "skipped")
# Bytes of storage up to which the stub gives a tensor its right values.
SMALL = 2**14
LIBRARIES = (
    "bench.runner.stages", "bench.runner.results", "bench.runner.memory_prediction", "bench.training.engines.trainer",
    "bench.training.engines.sft", "evaluate",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Result:
    """outcome: "ran", "refused" as it was to be, "failed" or "skipped". reason: why not, or the run's own.

    fallbacks: its notes that a fast path was left because of an error. code: the commit that was run.
    """

    name: str
    group: str
    device: str
    precision: str
    outcome: str
    status: str | None = None
    reason: str | None = None
    fallbacks: tuple[str, ...] = ()
    code: str | None = None
    seconds: float = 0.0


# ---------------------------------------------------------------- one run, in a process of its own


def _run(case: Case, folder: Path) -> int:
    """Run a case in this process, which is given up for it; return the run's exit code."""
    os.environ["ACCELERATE_MIXED_PRECISION"] = case.precision
    if case.cap:
        os.environ["BENCH_MEMORY_CAP"] = case.cap
    import torch

    from bench.utils import cuda

    found, wanted = cuda.capability(torch.device("cuda")), DEVICES[case.device].capability
    if ".".join(map(str, found)) != wanted:
        raise RuntimeError(f"the stub GPU has compute capability {found}, and {wanted} was asked for")
    from bench.runner import lifecycle

    ignore_numbers()
    if case.hook:
        kind, _, phase = case.hook.partition(":")
        {"oom": _fill_in, "stop": _stop_in}[kind](phase)
    words = [str(ROOT / "recipes" / f"{case.recipe}.yaml"), *case.overrides, "--out", str(folder)]
    code = lifecycle.main([*words, *([] if case.after else ["--overwrite"])])
    lifecycle.leave()
    return code


def ignore_numbers() -> None:
    """Call what compares or judges numbers, and do not heed it, in this process from now on."""
    for module_name, name, fixed in NUMBERS:
        owner: Any = importlib.import_module(module_name)
        *classes, last = name.split(".")
        for part in classes:
            owner = getattr(owner, part)
        setattr(owner, last, _called(getattr(owner, last), fixed))
    import torch

    from bench.models.kernels import padding_probe

    judge = padding_probe._judge

    def judged(proof: Any, *runs: Any) -> None:
        judge(proof, *runs)
        proof.reason = None

    padding_probe._judge = judged
    # Gradients are zeros or whatever memory held; a scaler or a check of norms would stop at the latter.
    torch.isfinite = torch.Tensor.isfinite = _all_finite  # type: ignore[assignment, method-assign]
    for module_name, library in FINITE:
        module = importlib.import_module(module_name)
        setattr(module, library, _Finite(getattr(module, library)))
    # Each sorts, or counts a mask, in a kernel, and reads back how many there are.
    library = torch.library.Library("aten", "IMPL", "CUDA")
    library.impl("embedding_dense_backward", _zero_gradient)
    library.impl("index_put", lambda tensor, *_: tensor.clone())
    library.impl("index_put_", lambda tensor, *_: tensor)
    _KEPT.append(library)


# A registration of torch.library holds as long as its object.
_KEPT: list[Any] = []


def _all_finite(tensor: Any, *_: Any, **__: Any) -> Any:
    import torch

    # What a search left out is minus infinity, and must be found so; larger tensors than these have no values.
    if tensor.untyped_storage().nbytes() <= SMALL:
        return tensor != -math.inf
    return torch.ones(tensor.shape, dtype=torch.bool, device=tensor.device)


def _zero_gradient(gradient: Any, indices: Any, num_weights: int, *_: Any) -> Any:
    return gradient.new_zeros(num_weights, gradient.shape[-1])


class _Finite:
    """A library, to which all numbers are finite."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def isfinite(self, value: Any) -> Any:
        """Return True, or an array of it."""
        import numpy

        return True if self._library is math else numpy.ones(numpy.shape(value), dtype=bool)


def _called(own: Callable[..., Any], fixed: Any) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        found = own(*args, **options)
        return found if isinstance(found, str) and REAL.search(found) else fixed

    return call


def _fill_in(phase: str) -> None:
    """Ask for more memory than the device has when a phase begins: torch itself raises."""
    import torch

    from bench.records.clock import Clock

    own = Clock.phase

    @contextmanager
    def full(clock: Clock, name: str) -> Iterator[None]:
        with own(clock, name):
            if name == phase:
                torch.empty(200 * GIB, dtype=torch.uint8, device="cuda")
            yield

    Clock.phase = full  # type: ignore[method-assign, assignment]


def _stop_in(_: str) -> None:
    """Send SIGTERM to this process after its first step."""
    from bench import console

    own = console.Phase.advance

    def advance(phase: Any, *args: Any, **options: Any) -> None:
        own(phase, *args, **options)
        if phase.name == "train":
            os.kill(os.getpid(), signal.SIGTERM)

    console.Phase.advance = advance  # type: ignore[method-assign, assignment]


# ---------------------------------------------------------------- all runs, under the stub


def work(chosen: list[Case], file: Path) -> None:
    """Run the cases, each in a fork of this process; results go into `file` after each."""
    # A count of devices by NVML does not start CUDA, which a fork could not use then.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
                   "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}  # fmt: skip
    from bench import console
    from bench.reporting.figures import run as figures
    from bench.utils import process
    from bench.utils.process import imports_without_collection

    process.set_cuda_allocator(expandable_segments=True)
    console.quiet_libraries()
    with imports_without_collection(), _unasked_capability():
        for name in LIBRARIES:
            importlib.import_module(name)
    figures.draw_all = lambda *_: {}  # half of the time of a tiny run, and nothing of CUDA
    with tempfile.TemporaryDirectory() as name:
        for number, case in enumerate(chosen, start=1):
            found = _skipped(case) if case.skipped else _forked(case, chosen, Path(name))
            keep(found, file)
            shown = f" ({found.reason})" if found.reason and found.outcome != "ran" else ""
            print(f"{number}/{len(chosen)} {case.name}: {found.outcome}{shown}", flush=True)


@contextmanager
def _unasked_capability() -> Iterator[None]:
    """Answer for the device inside of the `with`: bitsandbytes asks at import, which would start CUDA."""
    import torch

    own, torch.cuda.get_device_capability = torch.cuda.get_device_capability, lambda *_: (8, 9)
    try:
        yield
    finally:
        torch.cuda.get_device_capability = own


def _skipped(case: Case) -> Result:
    return _result(case, "skipped", reason=case.skipped)


def _result(case: Case, outcome: str, **others: Any) -> Result:
    named = {"name": case.name, "group": case.group, "device": case.device, "precision": case.precision}
    return Result(**named, outcome=outcome, code=_commit(), **others)


@functools.cache
def _commit() -> str | None:
    """Return the checkout's commit, with a plus where files were changed since; None where there is none."""
    from bench.errors import SetupError
    from bench.utils import git

    try:
        changed = git.git("status", "--porcelain", "--untracked-files=no", "--", *git.CODE, "scripts").strip()
        return git.git("rev-parse", "--short=10", "HEAD").strip() + ("+" if changed else "")
    except SetupError:
        return None


def _forked(case: Case, chosen: list[Case], folder: Path) -> Result:
    # A run that goes on is in the folder of the one that was stopped.
    places = {one.name: place for place, one in enumerate(cases())}
    out = folder / str(places[case.after or case.name])
    log, started_s = folder / f"{places[case.name]}.log", time.monotonic()
    process = os.fork()
    if process == 0:
        _leave(case, out, log)
    status = _waited(process, started_s + LIMIT_S)
    seconds = round(time.monotonic() - started_s, 1)
    if status is None:
        return _result(case, "failed", reason=f"did not end within {LIMIT_S} s", seconds=seconds)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return _result(case, "failed", reason=_crash(code, log), seconds=seconds)
    return _judged(case, out, log, seconds)


def _leave(case: Case, out: Path, log: Path) -> None:
    """Run the case in this fork, and end it."""
    code = 1
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(stream, number)
        faulthandler.enable(all_threads=False)
        code = _run(case, out)
    except BaseException as error:
        os.write(2, f"\n{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def _waited(process: int, until_s: float) -> int | None:
    """Return how a fork ended; None, and end it, where it takes too long."""
    while time.monotonic() < until_s:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def _crash(code: int, log: Path) -> str:
    """Return a sentence on a process that a signal ended, with the lines where it was."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    where = [line.strip() for line in lines if line.strip().startswith("File ")][:3]
    name = signal.Signals(-code).name
    return f"ended by {name}" + (f" in {'; '.join(map(_short_place, where))}" if where else "")


def _short_place(line: str) -> str:
    found = re.search(r'File "(.*?)", line (\d+) in (\S+)', line)
    return f"{Path(found[1]).name}:{found[2]} {found[3]}" if found else line


def _judged(case: Case, out: Path, log: Path, seconds: float) -> Result:
    from bench.errors import BenchError
    from bench.records import store

    try:
        found = store.read(out)
    except BenchError:
        tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return _result(case, "failed", reason=f"left no record: {' '.join(tail)}", seconds=seconds)
    if case.refuses is not None:
        refused = found.status == "invalid" and case.refuses in (found.reason or "")
        outcome = "refused" if refused else "failed"
        return _result(case, outcome, status=found.status, reason=found.reason, seconds=seconds)
    wrong = [check.name for check in found.checks if not check.ok]
    numeric = found.status == "invalid" and bool(wrong) and set(wrong) <= NUMERIC_CHECKS
    # A run that fails by numbers alone went all the way.
    ran = found.status == case.expects or (case.expects == "ok" and numeric)
    if case.hook and case.hook.startswith("oom:") and found.failed_in not in (None, case.hook[4:]):
        ran = False
    if case.after and not found.resumed:
        ran = False
    fallbacks = tuple(note for note in found.notes if REAL.search(note))
    return _result(
        case, "ran" if ran else "failed", status=found.status, reason=found.reason, fallbacks=fallbacks, seconds=seconds
    )


# ---------------------------------------------------------------- results


def keep(found: Result, file: Path) -> None:
    """Put a result into the file, in place of an older one of that name."""
    rows = {
        row["name"]: row for row in (json.loads(file.read_text(encoding="utf-8"))["runs"] if file.is_file() else [])
    }
    rows[found.name] = asdict(found)
    order = {case.name: place for place, case in enumerate(cases())}
    kept = sorted((row for name, row in rows.items() if name in order), key=lambda row: order[row["name"]])
    file.parent.mkdir(parents=True, exist_ok=True)
    done = {row["name"] for row in kept}
    groups = {case.group: 0 for case in cases()}
    left = groups | Counter(case.group for case in cases() if case.name not in done)
    content = {"python": platform.python_version(), **versions(), "runs": kept, "left": left}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    part = file.with_suffix(".part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(file)
    file.with_suffix(".md").write_text(render(file), encoding="utf-8")


def versions() -> dict[str, str]:
    """Return those of the libraries that a branch depends on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes")}


def render(file: Path = FILE) -> str:
    """Return Markdown: what ran, what did not, and what the stub can't run. Of the file alone."""
    found = json.loads(file.read_text(encoding="utf-8"))
    runs = found["runs"]
    count = {outcome: sum(row["outcome"] == outcome for row in runs) for outcome in OUTCOMES}
    named = ", ".join(f"{name} {found[name]}" for name in found if name not in ("runs", "python", "left"))
    lines = [
        "# Branches for CUDA that were executed (stub GPU)",
        "",
        "Made by `scripts/stub_gpu_check branches`.",
        "",
        "Tiny runs on a stub GPU: torch's CUDA build over made-up devices, whose kernels compute nothing. A run that",
        "is counted as `ran` took its branch to the end, with the status that it was to have (`oom` and `interrupted`",
        "where that was provoked); nothing is said about results, which are not computed.",
        f"Python {found['python']}, {named}.",
        _commits(runs),
        "",
        f"{len(runs)} runs: {count['ran']} ran, {count['refused']} were refused as they must be, {count['failed']} "
        f"failed, {count['skipped']} can't be run on a stub; {sum(found['left'].values())} more were not tried yet.",
        "",
        "| what | ran | refused | failed | skipped | not tried |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for group, left in found["left"].items():
        ended = [row["outcome"] for row in runs if row["group"] == group]
        cells = [*(ended.count(outcome) for outcome in OUTCOMES), left]
        lines.append(f"| {group} | {' | '.join(map(str, cells))} |")
    lines += _listed("Failed", [row for row in runs if row["outcome"] == "failed"])
    lines += _listed("Refused, in a sentence", [row for row in runs if row["outcome"] == "refused"])
    lines += _listed("Not to be run on a stub", [row for row in runs if row["outcome"] == "skipped"])
    fell = [{**row, "reason": "; ".join(row["fallbacks"])} for row in runs if row["fallbacks"]]
    lines += _listed("Ran, with a fast path given up because of an error", fell)
    lines += [
        "",
        "## All runs",
        "",
        "| what | run | device | precision | ended as |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in runs:
        ended = row["status"] if row["outcome"] == "ran" and row["status"] != "invalid" else _ending(row)
        lines.append(f"| {row['group']} | {row['name']} | {row['device']} | {row['precision']} | {ended} |")
    return "\n".join(lines) + "\n"


def _commits(runs: list[dict[str, Any]]) -> str:
    """Return by which commits the runs were made: they are kept, and made again one by one."""
    count = Counter(row.get("code") or "an earlier one" for row in runs if row["outcome"] != "skipped")
    return f"Runs by commit: {', '.join(f'{name} {number}' for name, number in count.most_common())}."


def _ending(row: dict[str, Any]) -> str:
    return "to its end, numbers aside" if row["outcome"] == "ran" else row["outcome"]


def _listed(title: str, rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = ["", f"## {title}", "", "| run | device | precision | reason |", "| --- | --- | --- | --- |"]
    for row in rows:
        reason = (row["reason"] or "").replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {row['name']} | {row['device']} | {row['precision']} | {reason} |")
    return lines


# ---------------------------------------------------------------- command line


def chosen_cases(names: list[str] | None, groups: list[str] | None, failed: bool, file: Path) -> list[Case]:
    """Return the cases that are asked for, with those that they go on from."""
    known = cases()
    if failed:
        rows = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.is_file() else []
        well = {row["name"] for row in rows if row["outcome"] != "failed"}
        names = [case.name for case in known if case.name not in well]
    if not names and not groups and not failed:
        return known
    taken = {case.name for case in known if case.name in (names or []) or case.group in (groups or [])}
    taken |= {case.after for case in known if case.name in taken and case.after}
    return [case for case in known if case.name in taken]


def main(arguments: list[str] | None = None) -> int:
    """Run; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = cases()
    parser.add_argument("--stub", type=Path, metavar="DIR", help="folder of the stub GPU (default: variable STUB_GPU)")
    parser.add_argument("--case", action="append", metavar="NAME", help="only this one, or these")
    parser.add_argument("--group", action="append", metavar="NAME", help="only these")
    parser.add_argument("--failed", action="store_true", help="only those that have not run well yet")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--out", type=Path, default=FILE, help=f"where results are kept ({FILE.relative_to(ROOT)})")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in options.case or []:
        if name not in {case.name for case in known}:
            parser.error(f"there is no case {name!r}; --list prints them")
    for name in options.group or []:
        if name not in {case.group for case in known}:
            parser.error(f"there is no group {name!r}; there are: {', '.join(dict.fromkeys(c.group for c in known))}")
    chosen = chosen_cases(options.case, options.group, options.failed, options.out)
    if options.list:
        print("\n".join(f"{case.group}: {case.name}" for case in chosen))
        return 0
    if options.worker:
        work(chosen, options.out)
        return 0
    stub = options.stub or (Path(os.environ["STUB_GPU"]) if os.environ.get("STUB_GPU") else None)
    if stub is None or not (stub / "run").is_file():
        parser.error("name the folder of the stub GPU, which holds its command `run`: --stub DIR, or STUB_GPU=DIR")
    command = [str(stub.resolve() / "run"), sys.executable, str(Path(__file__)), "--out", str(options.out), "--worker"]
    # The stub reads what device it is when it is loaded: a process for each.
    for name in dict.fromkeys(case.device for case in chosen):
        device = DEVICES[name]
        # And torch's own kernels in Triton, which it does not emulate; the same operations then take cuBLAS.
        environment = {
            **os.environ, "TORCH_DISABLE_NATIVE_JIT": "1", "STUB_GPU_CC": device.capability,
            "STUB_GPU_GIB": str(device.gib), "STUB_GPU_NAME": device.name,
        }  # fmt: skip
        named = [word for case in chosen if case.device == name for word in ("--case", case.name)]
        code = subprocess.run([*command, *named], cwd=ROOT, env=environment, check=False).returncode
        if code:
            return code
    wanted = {case.name for case in chosen}
    rows = json.loads(options.out.read_text(encoding="utf-8"))["runs"]
    return int(any(row["outcome"] == "failed" for row in rows if row["name"] in wanted))


if __name__ == "__main__":
    sys.exit(main())
