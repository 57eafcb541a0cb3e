"""Runs accelerate's launcher for `finetune-bench run`: it hands signals on and ends with the run's exit code.

    python -P bench/launch.py --config_file FILE [options of accelerate launch] bench/run.py RECIPE ...

`accelerate launch` ends with 1 whatever the run's code was, and leaves a run alone when it is itself told to stop.
Imports nothing of this package, which need not be on the import path here.
"""

import logging
import signal
import subprocess
import sys
from typing import Any

import psutil

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


def main() -> int:
    """Launch, wait for the end, and return the run's exit code: 128 plus its number for a signal, as shells count."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # Its advice on threads, which the record has: this machine's cores, shared among the processes.
    logging.getLogger("accelerate.commands.launch").setLevel(logging.ERROR)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _hand_on)
    try:
        launch_command(launch_command_parser().parse_args())
    except subprocess.CalledProcessError as error:
        return _as_shell(error.returncode)
    except ChildFailedError as error:
        # Rank zero's is that of the record. A process that another one's end has taken along has no code of its own.
        codes = [failure.exitcode for _, failure in sorted(error.failures.items())]
        return _as_shell(next((code for code in codes if code > 0), codes[0]))
    except SignalException as error:
        return 128 + error.sigval.value
    return 0


def _hand_on(number: int, _: Any) -> None:
    """Send a signal to the processes that this one has started; torch's launcher of several puts its own way here."""
    for child in psutil.Process().children():
        try:
            child.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _as_shell(code: int) -> int:
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
