"""The former place of `python -m bench.cli.lm_eval`, kept for one release."""

import sys

from bench.cli.lm_eval import main

if __name__ == "__main__":
    sys.exit(main())
