"""One recipe, one launch, one record: `accelerate launch bench/run.py RECIPE [--seed N] [--out DIR] [key=value ...]`.

`runner/lifecycle.py` knows the order of the stages: data, model, score before, fit, score after, save, record.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if sys.path and Path(sys.path[0] or ".").resolve() == ROOT / "bench":
    # Started as a script: its own folder would hide libraries, and another checkout might be found as `bench`.
    sys.path[0] = str(ROOT)

from bench.utils import import_path  # noqa: E402

if __name__ == "__main__":
    import_path.leave_out_working_folder()  # before anything of a library is imported

from bench import console  # noqa: E402
from bench.utils import secret_formats  # noqa: E402

if __name__ == "__main__":
    console.guard_streams(secret_formats.remove)  # before anything else may print
    console.quiet_imports()

from bench.distributed.watchdog import is_multi_process, leave_at_once  # noqa: E402
from bench.runner.lifecycle import leave, main  # noqa: E402

if __name__ == "__main__":
    code = main()
    if code == 0:
        leave()
    elif is_multi_process():
        leave_at_once(code)
    sys.exit(code)
