"""How the C library's allocator treats freed memory: given back at once, or kept for the next step."""

import ctypes

# glibc's mallopt(3), <malloc.h>: from which size blocks are mapped on their own, and how much free memory the heap
# may end with before it is trimmed.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets this process keep what it frees; False where the C library is another one than glibc.

    By default each large tensor is mapped and unmapped anew, and every page of it is cleared by the kernel at first
    use: an eighth of a small model's training step on a CPU, and up to half of a tiny one's. What the process was seen
    to hold (resident memory) then never falls.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no such function; no way to look into the process
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_INT) and mallopt(M_TRIM_THRESHOLD, LARGEST_INT))
