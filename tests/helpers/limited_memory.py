"""Not a test: bench/run.py, but from the building of its model on, there are only LIMIT_MIB more of addresses."""

import os
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.runner import lifecycle, stages

build_model = stages.build_model


def limited(*arguments):
    """The stage itself, under the limit; what libraries have reserved by now is left out of it."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + int(os.environ["LIMIT_MIB"]) * 2**20,) * 2)
    build_model(*arguments)


if __name__ == "__main__":
    stages.build_model = limited
    sys.exit(lifecycle.main())
