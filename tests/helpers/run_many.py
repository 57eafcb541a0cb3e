"""Not a test: runs several command lines of bench/run.py in one launch. Argument: a JSON file.

Of a list of command lines, each is run after the other, in the processes of the launch. Of an object of them by name,
each is run in a process of its own: the one of the launch imports the libraries, which takes most of a tiny run's time,
and forks. What such a run prints, and its exit code, stand beside the file: NAME.out, NAME.err, NAME.code.

With `--undrawn` behind it, no figures are drawn: half of the time of a run of four steps.
"""

import importlib
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import console
from bench.reporting.figures import run
from bench.runner import lifecycle
from bench.utils.process import imports_without_collection

LIBRARIES = (
    "bench.runner.stages",
    "bench.runner.results",
    "bench.training.engines.trainer",
    "bench.training.engines.sft",
    "evaluate",
    "matplotlib.backends.backend_agg",
)


def one_by_one(jobs):
    """The worst of the exit codes."""
    import_libraries()
    codes = [lifecycle.main(arguments) for arguments in jobs]
    lifecycle.leave()
    return max(codes)


def each_apart(jobs, folder):
    """How each ended stands in its file."""
    import_libraries()
    for name, arguments in jobs.items():
        process = os.fork()
        if process == 0:
            sys.exit(in_child(arguments, folder / name))
        _, status = os.waitpid(process, 0)
        (folder / f"{name}.code").write_text(str(os.waitstatus_to_exitcode(status)))


def in_child(arguments, beside):
    for number, ending in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{beside}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    code = lifecycle.main(arguments)
    lifecycle.leave()
    return code


def import_libraries():
    """Those that a run imports; nothing is done with them. The collector does not look at their objects again."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    console.quiet_libraries()
    with imports_without_collection():
        for name in LIBRARIES:
            importlib.import_module(name)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    if "--undrawn" in sys.argv[2:]:
        run.draw_all = lambda *_: {}
    asked = json.loads(file.read_text(encoding="utf-8"))
    sys.exit(one_by_one(asked) if isinstance(asked, list) else each_apart(asked, file.parent))
