"""Entry of `finetune-bench` and `python -m bench`: the console is guarded before anything may print."""

from bench import console
from bench.utils import secret_formats


def main() -> int:
    """Run the command of this process's command line; return the exit code."""
    console.guard_streams(secret_formats.remove)
    console.quiet_imports()
    from bench.cli import main as commands

    return commands.main()
