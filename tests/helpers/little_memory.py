"""Not a test: bench/run.py, but rank one may take no more memory than its libraries and 1.4 GiB."""

import os
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.runner import lifecycle

if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        from bench.runner import stages  # noqa: F401  the libraries first: they reserve more than they use

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        # Of it, data and the threads that join processes take half a GiB.
        resource.setrlimit(resource.RLIMIT_AS, (taken + 1434 * 2**20,) * 2)
    code = lifecycle.main()
    if code == 0:
        lifecycle.leave()
    lifecycle.leave_at_once(code)
