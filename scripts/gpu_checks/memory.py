"""A recipe at true size, held to the memory of the GPU that it is made for: forecast, peak, speed.

    python -m scripts.gpu_checks.memory CASE [--small]

The run is the one of scripts/gpu_fit; its record is kept beside those of gpu_fit. The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench.errors import BenchError
from scripts import gpu_fit


def main(arguments: list[str] | None = None) -> int:
    """Run one case; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {case.name: case for case in gpu_fit.cases()}
    parser.add_argument("case", choices=known)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(arguments)
    case = known[options.case]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) if options.small else gpu_fit.REPORTS
        try:
            cap = None if options.small else gpu_fit.cap_for(case, _total())
            found = gpu_fit.run(case, out, cap=cap, mini=options.small)
            if not options.small:
                gpu_fit.write_table(out)
        except BenchError as error:
            print(json.dumps({"ok": False, "reason": str(error)}))
            return 1
    row = gpu_fit.cells(case.name, found)
    result = {"ok": found.status == "ok", "reason": found.reason, "columns": list(gpu_fit.COLUMNS), "rows": [row]}
    print(json.dumps({**result, "notes": list(found.notes)}))
    return 0 if found.status == "ok" else 1


def _total() -> int:
    import torch

    from bench.utils import cuda

    return cuda.free_and_total(torch.device("cuda"))[1]


if __name__ == "__main__":
    sys.exit(main())
