"""The former place of `python -m bench lm-eval` and of `register`, kept for one release."""

import sys

from bench.cli.main import main
from bench.evaluation.lm_eval_model import register  # noqa: F401

if __name__ == "__main__":
    sys.exit(main(["lm-eval", *sys.argv[1:]]))
