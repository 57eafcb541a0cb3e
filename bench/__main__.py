"""`python -m bench <command>`; the commands are in `bench/cli`."""

import sys

from bench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
