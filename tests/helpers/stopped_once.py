"""Not a test: run_many.py, but a run into a folder called `stopped...` gets SIGTERM once, in its fifth step."""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.runner import lifecycle
from bench.training.state import Steps
from tests.helpers import run_many

STOPPED = 5
main, start = lifecycle.main, Steps.start
left = {}


def started(arguments):
    name = Path(arguments[arguments.index("--out") + 1]).name
    left["steps"] = STOPPED if name.startswith("stopped") and not Path(arguments[-1], "record.json").exists() else 0
    return main(arguments)


def begun(steps):
    left["steps"] -= 1
    if left["steps"] == 0 and os.environ.get("RANK", "0") == "0":
        os.kill(os.getpid(), signal.SIGTERM)
    start(steps)


if __name__ == "__main__":
    lifecycle.main, Steps.start = started, begun
    run_many.run.draw_all = lambda *_: {}
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.exit(run_many.one_by_one(jobs))
