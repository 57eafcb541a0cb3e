"""`python -m bench <command>`; the commands are in `bench/cli`."""

import sys

from bench.utils import import_path

if __name__ == "__main__":
    import_path.leave_out_working_folder()  # before anything of a library is imported

from bench import console
from bench.utils import secret_formats

if __name__ == "__main__":
    console.guard_streams(secret_formats.remove)  # before anything else may print
    console.quiet_imports()

from bench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
