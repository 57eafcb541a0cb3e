"""The former place of `python -m bench lm-eval` and of `register`, kept for one release."""

import sys

from bench.utils import import_path

if __name__ == "__main__":
    import_path.leave_out_working_folder()

from bench import console
from bench.cli.main import main
from bench.evaluation.lm_eval_model import register  # noqa: F401
from bench.utils import secret_formats

if __name__ == "__main__":
    console.guard_streams(secret_formats.remove)
    sys.exit(main(["lm-eval", *sys.argv[1:]]))
