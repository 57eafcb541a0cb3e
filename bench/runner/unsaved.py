"""Says at once that a checkpoint could not be written: while a run lives is the time to mend its disk."""

import contextlib
from pathlib import Path

from bench import console
from bench.records import store
from bench.records.record import Record, RunWarning

CODE = "checkpoint_not_written"


def report(record: Record, folder: Path, *, step: int, saved_step: int, reason: str) -> None:
    """Warn on the console and in the record, which is written if the disk allows it.

    One warning tells of the latest failure and of how many there were; each failure has a note of its own. saved_step:
    of the newest checkpoint, 0 for none.
    """
    failures = sum("the checkpoint of step" in note and "could not be written" in note for note in record.notes)
    from_step = f"step {saved_step}" if saved_step else "the beginning"
    before = f" ({failures} checkpoints so far)" if failures > 1 else ""
    sentence = (
        f"the checkpoint of step {step} could not be written: {reason}{before}; "
        f"stopped or killed, the run goes on from {from_step}"
    )
    record.warnings = [warning for warning in record.warnings if warning.code != CODE]
    record.warnings.append(RunWarning(code=CODE, sentence=sentence))
    console.complain(f"warning: {sentence}")
    if console.is_main_process():
        with contextlib.suppress(OSError):  # the same disk; its ballast is kept for the record of the end
            store.write(record, folder, last=False)
