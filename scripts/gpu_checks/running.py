"""Runs cases, each in a process of its own, within a budget of seconds; each leaves a record as soon as it is over."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import console
from bench.errors import SetupError
from bench.utils import files, git
from scripts.gpu_checks.cases import Case
from scripts.gpu_checks.stub import STUB

ROOT = Path(__file__).resolve().parents[2]
# Status of a case that came to its end on a stub GPU, where no number of it was compared.
RAN = "ran"
# Statuses after which a case is over. "timeout" and "stopped" are tried again when the script is started again.
OVER = ("ok", RAN, "failed", "skipped")
OFFLINE = {
    "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}  # fmt: skip
# With --small a limit is for what hangs: it is also run on a CPU that is busy with other work.
SLOW = 10
# Lines of what a failed case printed that go into its record.
TAIL = 15


class Stopped(Exception):
    """A signal has ended the script; what was run until then is kept."""


def describe() -> dict[str, Any]:
    """Return the device, versions and commit that results depend on; asked in a process of its own."""
    code = (
        "import json, platform, torch, transformers, peft, accelerate\n"
        "on = torch.cuda.is_available()\n"
        "modules = (torch, transformers, peft, accelerate)\n"
        "print(json.dumps({'device': torch.cuda.get_device_name() if on else 'cpu',\n"
        "    'capability': '.'.join(map(str, torch.cuda.get_device_capability())) if on else None,\n"
        "    'memory_gib': round(torch.cuda.mem_get_info()[1] / 2**30, 2) if on else None,\n"
        "    'python': platform.python_version(), **{one.__name__: one.__version__ for one in modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"torch, transformers, peft and accelerate are needed: {done.stderr.strip()[-300:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "commit": _commit()}


def _commit() -> str | None:
    try:
        return git.git("rev-parse", "HEAD").strip()
    except SetupError:
        return None


def is_over(case: Case, out: Path, where: dict[str, Any], small: bool) -> bool:
    """Return whether a record in the folder holds for this case, on this device, with this code and these sizes."""
    found = read(out, case.name)
    same = found is not None and all(found.get(key) == where[key] for key in ("device", "commit"))
    return found is not None and same and found["status"] in OVER and found["small"] == small


def read(out: Path, name: str) -> dict[str, Any] | None:
    """Return a case's record; None where there is none, or it can't be read."""
    try:
        found: dict[str, Any] = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def write(out: Path, record: dict[str, Any]) -> None:
    """Put a record in place, whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    files.write_text(out / f"{record['name']}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def run_all(
    chosen: list[Case],
    out: Path,
    where: dict[str, Any],
    *,
    budget_s: float,
    small: bool,
    after_each: Callable[[], None],
) -> list[str]:
    """Run what is not over yet; return the names of cases that the budget left for the next time."""
    started_s, left = time.monotonic(), []
    for case in chosen:
        if is_over(case, out, where, small):
            continue
        remaining_s = budget_s - (time.monotonic() - started_s)
        if remaining_s < case.expected_s:
            left.append(case.name)
            continue
        record = {"name": case.name, "part": case.part, "small": small, **where}
        record["stub"] = STUB in where["device"]
        without = why_skipped(case, stub=record["stub"])
        try:
            limit_s = min(case.limit_s * (SLOW if small else 1), remaining_s)
            found = {"status": "skipped", "reason": without} if without else run(case, small, limit_s)
        except (Stopped, KeyboardInterrupt):
            write(out, record | {"status": "stopped", "reason": "stopped by a signal"})
            after_each()
            raise
        if record["stub"] and found["status"] == "ok":
            found = {**found, "status": RAN}
        write(out, record | found)
        after_each()
        reason = f": {found['reason']}" if found.get("reason") else ""
        console.say(f"{case.name}: {found['status']} in {found.get('seconds', 0):.0f} s{reason}")
    return left


def why_skipped(case: Case, *, stub: bool) -> str | None:
    """Return why a case can't be run here; None where it can."""
    missing = [name for name in case.needs if importlib.util.find_spec(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return f"a stub GPU can't: {case.not_on_stub}" if stub and case.not_on_stub else None


def command(case: Case, small: bool) -> list[str]:
    """Return the command line of a case."""
    words = [sys.executable, "-m", f"scripts.gpu_checks.{case.part}", *case.arguments]
    return [*words, *(["--small"] if small else [])]


def run(case: Case, small: bool, limit_s: float) -> dict[str, Any]:
    """Run a case; return its status, and what its last line of JSON says. Raises Stopped for a signal."""
    started_s = time.monotonic()
    child = subprocess.Popen(
        command(case, small),
        cwd=ROOT,
        env={**os.environ, **OFFLINE},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        text, _ = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        _end(child)
        return {"status": "timeout", "reason": f"did not end within {limit_s:.0f} s", "seconds": limit_s}
    except BaseException:
        _end(child)
        raise
    return {**judged(text, child.returncode), "seconds": round(time.monotonic() - started_s, 1)}


def _end(child: subprocess.Popen[str]) -> None:
    """End a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def judged(text: str, code: int) -> dict[str, Any]:
    """Return the status of a case that printed `text` and ended with `code`.

    The last line is JSON: {"ok": bool, "columns": [name], "rows": [[cell]], "notes": [sentence]}.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        found = json.loads(lines[-1])
        ok = bool(found["ok"])
    except (IndexError, ValueError, KeyError, TypeError):
        return {"status": "failed", "reason": f"exit code {code}, without a result", "tail": lines[-TAIL:]}
    reason = None if ok else found.get("reason") or "see its rows"
    return {"status": "ok" if ok and code == 0 else "failed", "reason": reason, "result": found}
