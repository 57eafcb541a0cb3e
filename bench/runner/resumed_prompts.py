"""Refuses to go on with a training whose prompts would be framed in another way than they were so far."""

from typing import TYPE_CHECKING

from bench.errors import SetupError
from bench.records.record import Prompts

if TYPE_CHECKING:
    from bench.runner.context import RunContext


def refuse_other(run: "RunContext") -> None:
    """Raise SetupError where a training would be gone on with other prompts than it began with.

    Every process must call it, after the data were encoded.
    """
    from accelerate.utils import broadcast_object_list

    previous, new = run.previous, run.record.prompts
    old = previous.record.prompts if previous.record is not None else None
    differ = previous.checkpoint is not None and old is not None and new is not None and _differ(old, new)
    if broadcast_object_list([differ])[0]:
        raise SetupError(
            f"{run.folder}: the interrupted run's prompts were framed in another way (the chat template or its special "
            "tokens have changed since); give --overwrite to start again, or restore the tokenizer"
        )


def _differ(old: Prompts, new: Prompts) -> bool:
    # Older records have no hash of the frame.
    return old.frame_hash is not None and (old.template_hash, old.frame_hash) != (new.template_hash, new.frame_hash)
