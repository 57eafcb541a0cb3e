"""One check for a real GPU: are the fast paths right, do 7B models fit, how fast is it beside other tools?

    scripts/gpu_check [--budget S] [--case NAME ...] [--part PART ...] [--with DIR ...] [--list] [--small] [--again]
    scripts/gpu_check --wheels DIR   # beforehand, in the project's environment: what a plain CUDA image lacks

Offline, with random weights and made-up texts, on a plain CUDA image that has Python 3.12, torch, transformers,
accelerate and peft. Each case is a process of its own with a limit of time; its record is kept as soon as it is over
(reports/gpu_check/CASE.json), and reports/gpu.md is made of the records. The script may be stopped at any time: started
again it goes on with what is not over on this device and this commit. Within the budget (600 s) no case is begun for
which too little is left.

`--with DIR`: wheels as `--wheels` laid them, or one part of them, are unpacked into a folder of their own; parts may
come in several calls. `--small`: tiny models, on a CPU too: does it run. On a stub GPU every
record says so, and no numbers are compared: a case that comes to its end there has "ran".

The exit code is 0 where all cases that were chosen are over and none failed, 1 where one failed, 2 where nothing could
be run, 3 where the budget left some for the next time, 130 where the script was stopped.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # Python put this file's folder first; what is run is the package of this checkout.
    sys.path[0] = str(ROOT)

from scripts.gpu_checks import wheels  # noqa: E402
from scripts.gpu_checks.cases import PARTS, cases  # noqa: E402

RECORDS, SITE = Path("reports") / "gpu_check", Path("runs") / "gpu_check_site"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [case.name for case in cases()]
    parser.add_argument("--case", action="append", choices=known, metavar="NAME", help="only this one, or these")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part, or these")
    parser.add_argument("--budget", type=float, default=600.0, metavar="S", help="seconds in all (600)")
    parser.add_argument("--out", type=Path, help=f"where records go ({RECORDS}, or runs/gpu_check with --small)")
    parser.add_argument("--with", dest="parts", action="append", type=Path, default=[], metavar="DIR",
                        help="wheels that --wheels has laid there are used")  # fmt: skip
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="only fetch wheels into parts of at most 60 MB")
    parser.add_argument("--small", action="store_true", help="tiny models, on a CPU too: does it run")
    parser.add_argument("--again", action="store_true", help="also what is over already")
    parser.add_argument("--list", action="store_true", help="print the cases")
    parser.add_argument("--report", action="store_true", help="only make the report anew from the records")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run; return the exit code."""
    options = parser().parse_args(arguments)
    os.chdir(ROOT)
    chosen = [
        case
        for case in cases()
        if (not options.case or case.name in options.case) and (not options.part or case.part in options.part)
    ]
    if options.list:
        print("\n".join(f"{case.part:12} {case.name}  {case.expected_s:.0f} s" for case in chosen))
        return 0
    try:
        if options.wheels:
            wheels.fetch(options.wheels)
            return 0
        wheels.install(options.parts, SITE)
    except wheels.WheelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    wheels.use(SITE)
    out = options.out or (Path("runs") / "gpu_check" if options.small else RECORDS)
    return _run(chosen, out, options)


def _run(chosen: list[Any], out: Path, options: argparse.Namespace) -> int:
    # Only now: the packages that these import may be among the wheels.
    from bench import console
    from bench.utils import files
    from scripts.gpu_checks import report, running, stub

    page = Path("reports") / "gpu.md" if out == RECORDS else out.with_name(f"{out.name}.md")

    def write_report() -> None:
        page.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(page, report.render(out))

    if options.report:
        write_report()
        return 0
    try:
        where = running.describe()
    except RuntimeError as error:
        console.complain(f"error: {error}")
        return 2
    if where["device"] == "cpu" and not options.small:
        console.complain("error: no CUDA device is to be seen here; --small takes the same way on a CPU, in small")
        return 2
    if stub.STUB in where["device"]:
        console.say("stub GPU: nothing is computed or timed, and no numbers are compared")
    for case in chosen if options.again else []:
        (out / f"{case.name}.json").unlink(missing_ok=True)
    _stop_by_signals(running.Stopped)
    try:
        left = running.run_all(
            chosen, out, where, budget_s=options.budget, small=options.small, after_each=write_report
        )
    except (running.Stopped, KeyboardInterrupt):
        console.complain("stopped; started again it goes on")
        return 130
    write_report()
    console.say(f"report: {page}")
    if left:
        console.say(f"left for the next time, for the budget is used up: {', '.join(left)}")
        return 3
    statuses = [(running.read(out, case.name) or {}).get("status") for case in chosen]
    return int(any(status not in ("ok", running.RAN, "skipped") for status in statuses))


def _stop_by_signals(error: type[Exception]) -> None:
    def stop(*_: Any) -> None:
        raise error

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


if __name__ == "__main__":
    sys.exit(main())
