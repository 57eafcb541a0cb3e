"""Keep the working folder off Python's import path: a stranger's folder may hold a file named like a library.

Imports nothing that is not loaded already, since it would be looked for in that folder.
"""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def leave_out_working_folder() -> None:
    """Remove the working folder from the import path, where `python -m` puts it; but for the project's own folder."""
    try:
        working = os.path.realpath(os.getcwd())
    except OSError:  # removed meanwhile
        return
    if working != ROOT:
        sys.path[:] = [place for place in sys.path if os.path.realpath(place) != working]
