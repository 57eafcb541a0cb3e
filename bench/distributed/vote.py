"""Non-blocking consensus on stop and save flags: an asynchronous all-reduce, read one step later."""

from typing import Any

import torch
from torch import distributed


class AsyncFlagVote:
    """After each step every process gives the same number of flags; one that is set anywhere is set for all.

    The flags are reduced by their own process group on the CPU while the next step runs, so that no device waits for
    them. A single process reads its own at once.
    """

    def __init__(self) -> None:
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        self._group: Any = distributed.new_group(backend="gloo") if several else None
        self._cast: tuple[Any, torch.Tensor] | None = None

    def vote(self, flags: list[bool], *, last: bool) -> list[bool]:
        """Return the flags that were set anywhere after the step before; after the last step, also those of now."""
        if self._group is None:
            return flags
        before = self._read()
        votes = torch.tensor(flags, dtype=torch.int32)
        work = distributed.all_reduce(votes, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._cast = work, votes
        now = self._read() if last else [False] * len(flags)
        before = before or [False] * len(flags)
        return [one or other for one, other in zip(before, now, strict=True)]

    def _read(self) -> list[bool]:
        if self._cast is None:
            return []
        work, votes = self._cast
        self._cast = None
        work.wait()
        return [bool(flag) for flag in votes.tolist()]

    def close(self) -> None:
        """Wait for flags that were not read, and leave the process group."""
        if self._group is not None:
            self._read()
            distributed.destroy_process_group(self._group)
            self._group = None
