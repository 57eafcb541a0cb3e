"""Not a test: run_many.py, but rank 1 of a run into a folder called `oom` runs out of memory in its third forward of
scoring after training, and the one of a run into a folder called `killed` is killed there.
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.distributed import in_step
from bench.runner import lifecycle, results
from tests.helpers import run_many

# So long that a sign of life tells where the process is, also on a busy machine.
HEARTBEATS_S = 4
main, score, begin = lifecycle.main, results.score, in_step.InStep._begin
ends, forwards = [""], [0]


def started(arguments):
    ends[0] = Path(arguments[arguments.index("--out") + 1]).name
    return main(arguments)


def scored(run, stage):
    forwards[0] = 3 if stage == "after" and ends[0] in ("oom", "killed") and os.environ.get("RANK") == "1" else 0
    score(run, stage)


def begun(step, kind):
    forwards[0] -= 1
    if forwards[0] == 0:
        if ends[0] == "killed":
            time.sleep(HEARTBEATS_S)
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError("unable to allocate 7.00 GiB")
    begin(step, kind)


if __name__ == "__main__":
    lifecycle.main, results.score, in_step.InStep._begin = started, scored, begun
    run_many.run.draw_all = lambda *_: {}
    sys.exit(run_many.one_by_one(run_many.json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
