"""`python -m bench <command>`; the commands are in `bench/cli`."""

import sys

from bench.utils import import_path

if __name__ == "__main__":
    import_path.leave_out_working_folder()  # before anything of a library is imported

from bench.cli.start import main

if __name__ == "__main__":
    sys.exit(main())
