"""torch's caching allocator for CUDA, in numbers alone: what it reserves of the device for what is allocated.

    pool = CachingAllocator()
    block = pool.allocate(3 * 2**20)
    pool.free(block)
    pool.reserved  # 20 MiB: a segment stays until `empty_cache`

The rules are those of c10/cuda/CUDACachingAllocator.cpp with its default settings (no expandable segments, one stream):
sizes are rounded to 512 bytes; up to 1 MiB they come from segments of 2 MiB, below 10 MiB from segments of 20 MiB, and
larger ones get a segment of their own, rounded to 2 MiB; the smallest free block that is large enough is taken, and
split where more than 512 bytes (small) or 1 MiB (large) are left; neighbours that are free are joined.
"""

import math
from bisect import bisect_left, insort
from dataclasses import dataclass, field

MIB = 2**20
BLOCK = 512
# Largest size of the small pool, the size of its segments; segments of sizes below LARGE; rounding of those above.
SMALL, SMALL_SEGMENT, MIDDLE_SEGMENT, LARGE, ROUNDED = MIB, 2 * MIB, 20 * MIB, 10 * MIB, 2 * MIB


@dataclass(eq=False, kw_only=True)
class Block:
    """A stretch of a segment, in bytes. before, after: its neighbours in the segment. small: of the small pool."""

    address: int
    size: int
    small: bool
    is_free: bool = False
    before: "Block | None" = field(default=None, repr=False)
    after: "Block | None" = field(default=None, repr=False)


@dataclass(kw_only=True)
class CachingAllocator:
    """Bytes that are allocated and reserved, now and at most."""

    allocated: int = 0
    reserved: int = 0
    most_allocated: int = 0
    most_reserved: int = 0
    _next: int = 0
    # (size, address) of free blocks by pool, rising; the block of an address.
    _free: dict[bool, list[tuple[int, int]]] = field(default_factory=lambda: {True: [], False: []}, repr=False)
    _blocks: dict[int, Block] = field(default_factory=dict, repr=False)

    def allocate(self, size: int) -> Block:
        """Return a block for so many bytes."""
        size = max(BLOCK, math.ceil(size / BLOCK) * BLOCK)
        block = self._taken(size, small=size <= SMALL)
        left = block.size - size
        if left >= BLOCK if block.small else left > SMALL:
            rest = Block(address=block.address + size, size=left, small=block.small, before=block, after=block.after)
            if block.after is not None:
                block.after.before = rest
            block.after, block.size = rest, size
            self._blocks[rest.address] = rest
            self._put(rest)
        self.allocated += block.size
        self.most_allocated = max(self.most_allocated, self.allocated)
        return block

    def free(self, block: Block) -> None:
        """Give a block back; its segment stays reserved."""
        self.allocated -= block.size
        for neighbour in (block.before, block.after):
            if neighbour is not None and neighbour.is_free:
                self._remove(neighbour)
                first, second = (neighbour, block) if neighbour is block.before else (block, neighbour)
                first.size += second.size
                first.after = second.after
                if second.after is not None:
                    second.after.before = first
                del self._blocks[second.address]
                block = first
        self._put(block)

    def empty_cache(self) -> None:
        """Give back to the device what is a whole segment of free memory."""
        for block in [one for one in self._blocks.values() if one.is_free and one.before is one.after is None]:
            self._remove(block)
            del self._blocks[block.address]
            self.reserved -= block.size

    def _taken(self, size: int, *, small: bool) -> Block:
        """Return the smallest free block of a pool that is large enough, or a new segment."""
        free = self._free[small]
        place = bisect_left(free, (size, -1))
        if place < len(free):
            block = self._blocks[free[place][1]]
            self._remove(block)
            return block
        own = MIDDLE_SEGMENT if size < LARGE else math.ceil(size / ROUNDED) * ROUNDED
        whole = SMALL_SEGMENT if small else own
        block = Block(address=self._next, size=whole, small=small)
        self._next += whole
        self._blocks[block.address] = block
        self.reserved += whole
        self.most_reserved = max(self.most_reserved, self.reserved)
        return block

    def _put(self, block: Block) -> None:
        block.is_free = True
        insort(self._free[block.small], (block.size, block.address))

    def _remove(self, block: Block) -> None:
        block.is_free = False
        free = self._free[block.small]
        del free[bisect_left(free, (block.size, block.address))]
